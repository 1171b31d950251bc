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
use crate::tree::kept::Kept;

pub(super) fn run(settings: &Settings, typed: &Build, reporter: &Reporter) -> Result<()> {
    let definitions = typed.definitions.iter().map(|name| definition::find(name)).collect::<Result<Vec<_>>>()?;
    let network = settings.network(&typed.network)?;
    let overrides = settings.overrides(&typed.overrides)?;
    // All before the first is built: a fault in the last one must not come after an hour.
    let loaded = definitions.iter().map(|at| definition::load_with(at, &overrides)).collect::<Result<Vec<_>>>()?;
    overrides.check(&loaded)?;
    let keys = settings.keys(typed.keys.as_ref(), typed.agent, reporter)?;
    let formats = formats(&typed.formats)?;
    let programs = typed.programs.clone().map_or_else(beside_this_program, Ok)?;
    let kept = (definitions.len() > 1).then(|| Kept::begin(&settings.cache)).transpose()?;
    let mut outcomes = Vec::new();
    for definition in &definitions {
        let started = Instant::now();
        let output = match (&typed.output, definition.file_stem()) {
            (Some(folder), Some(name)) if definitions.len() > 1 => Some(folder.join(name)),
            (output, _) => output.clone(),
        };
        let request = Request {
            definition,
            overrides: &overrides,
            lock: if typed.locked { Policy::Locked } else { Policy::WhereNeeded },
            network: &network,
            cache: &settings.cache,
            keys: &keys,
            output: output.as_deref(),
            epoch: typed.epoch.map(Epoch).or(settings.environment.epoch),
            formats: &formats,
            programs: &programs,
            force: typed.force,
            kept: kept.as_ref(),
            now: settings.environment.now,
        };
        let outcome = pipeline::build(&request, reporter).map_err(|error| match definitions.len() {
            1 => error,
            _ => error.context(format!("building {}", definition.display())),
        })?;
        reporter.note(&summary(&outcome, started.elapsed().as_secs_f64()));
        outcomes.push(outcome);
    }
    match (settings.json, outcomes.as_slice()) {
        (false, _) => Ok(()),
        (true, [outcome]) => output::json(outcome),
        (true, all) => output::json(&all),
    }
}

fn summary(outcome: &Outcome, seconds: f64) -> String {
    let folder = outcome.output.display();
    if !outcome.built {
        return format!("{}: nothing changed, {folder} is up to date ({seconds:.2} s)", outcome.name);
    }
    let of = |name: &str| outcome.sizes.get(name).map_or_else(String::new, |bytes| size(*bytes));
    let containers = match outcome.sizes.contains_key("container_images") {
        true => format!(", of it container images {}", of("container_images")),
        false => String::new(),
    };
    let (image, root, uki) = (of("image"), of("root"), of("uki"));
    format!("{}: built {folder} in {seconds:.1} s (image {image}, root {root}{containers}, UKI {uki})", outcome.name)
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
