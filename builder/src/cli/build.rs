//! `ingot build`

use std::path::PathBuf;
use std::time::Instant;

use crate::budgets::size;
use crate::cli::arguments::Build;
use crate::cli::output;
use crate::cli::reporter::Reporter;
use crate::cli::settings::Settings;
use crate::definition;
use crate::epoch::Epoch;
use crate::error::{Error, Kind, Result};
use crate::export::Format;
use crate::lock::settle::Policy;
use crate::pipeline::{self, Outcome, Request};
use crate::progress::Progress;

pub(super) fn run(settings: &Settings, typed: &Build, reporter: &Reporter) -> Result<()> {
    let started = Instant::now();
    let definition = definition::find(&typed.definition)?;
    let network = settings.network(&typed.network)?;
    let keys = settings.keys(typed.keys.as_ref(), typed.agent, reporter)?;
    let formats = formats(&typed.formats)?;
    let programs = typed.programs.clone().map_or_else(beside_this_program, Ok)?;
    let request = Request {
        definition: &definition,
        lock: if typed.locked { Policy::Locked } else { Policy::WhereNeeded },
        network: &network,
        cache: &settings.cache,
        keys: &keys,
        output: typed.output.as_deref(),
        epoch: typed.epoch.map(Epoch).or(settings.environment.epoch),
        formats: &formats,
        programs: &programs,
        force: typed.force,
        now: settings.environment.now,
    };
    let outcome = pipeline::build(&request, reporter)?;
    reporter.note(&summary(&outcome, started.elapsed().as_secs_f64()));
    if settings.json { output::json(&outcome) } else { Ok(()) }
}

fn summary(outcome: &Outcome, seconds: f64) -> String {
    let folder = outcome.output.display();
    if !outcome.built {
        return format!("{}: nothing changed, {folder} is up to date ({seconds:.2} s)", outcome.name);
    }
    let of = |name: &str| outcome.sizes.get(name).map_or_else(String::new, |bytes| size(*bytes));
    format!("{}: built {folder} in {seconds:.1} s (image {}, root {}, UKI {})", outcome.name, of("image"), of("root"), of("uki"))
}

fn formats(names: &[String]) -> Result<Vec<Format>> {
    let mut formats = Vec::new();
    for name in names {
        let format = Format::ALL.into_iter().find(|format| format.extension() == name.as_str()).ok_or_else(|| {
            Error::new(Kind::Usage, format!("`{name}` is no disk format")).hint("there are raw, qcow2 and vhdx")
        })?;
        if !formats.contains(&format) {
            formats.push(format);
        }
    }
    formats.sort();
    Ok(formats)
}

fn beside_this_program() -> Result<PathBuf> {
    std::env::current_exe()
        .map(|program| program.with_file_name(""))
        .map_err(|e| Error::new(Kind::Failed, format!("finding this program's own place: {e}")))
}
