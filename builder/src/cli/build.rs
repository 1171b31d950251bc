//! `ingot build`

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::thread;
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
use crate::pipeline::{self, Begun, Outcome, Request, Shared};
use crate::progress::Progress;

/// Images that are sealed and written at a time, beside the tree of the next: each holds its tables in memory.
const BESIDE: usize = 2;

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
    let shared = Shared::new(definitions.len(), &settings.cache)?;
    let of_several = |definition: &Path| {
        let name = definition.file_stem().filter(|_| definitions.len() > 1);
        typed.output.as_ref().map(|folder| name.map_or_else(|| folder.clone(), |name| folder.join(name)))
    };
    let outputs: Vec<_> = definitions.iter().map(|definition| of_several(definition)).collect();
    let requests: Vec<_> = definitions
        .iter()
        .zip(&outputs)
        .map(|(definition, output)| Request {
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
            shared: &shared,
            now: settings.environment.now,
        })
        .collect();
    let outcomes = build_all(&requests, reporter)?;
    match (settings.json, outcomes.as_slice()) {
        (false, _) => Ok(()),
        (true, [outcome]) => output::json(outcome),
        (true, all) => output::json(&all),
    }
}

/// Builds one image behind the other: while some are sealed and written, the tree of the next is made.
fn build_all(requests: &[Request<'_>], reporter: &Reporter) -> Result<Vec<Outcome>> {
    let told = |request: &Request<'_>, started: Instant, outcome: Result<Outcome>| {
        let outcome = outcome.map_err(|error| match requests.len() {
            1 => error,
            _ => error.context(format!("building {}", request.definition.display())),
        })?;
        reporter.note(&summary(&outcome, started.elapsed().as_secs_f64()));
        Ok(outcome)
    };
    let ended = |_| Error::new(Kind::Failed, "building an image ended in a defect of ingot");
    thread::scope(|scope| {
        let mut outcomes = Vec::new();
        let mut running: VecDeque<thread::ScopedJoinHandle<'_, Result<Outcome>>> = VecDeque::new();
        let mut failed = Ok(());
        for request in requests {
            let started = Instant::now();
            let told = move |outcome| told(request, started, outcome);
            match pipeline::begin(request, reporter) {
                Ok(Begun::UpToDate(outcome)) => running.push_back(scope.spawn(move || told(Ok(outcome)))),
                Ok(Begun::Tree(tree)) => {
                    running.push_back(scope.spawn(move || told(pipeline::finish(request, *tree, reporter))));
                }
                Err(error) => {
                    failed = told(Err(error)).map(drop);
                    break;
                }
            }
            while running.len() > BESIDE || running.front().is_some_and(thread::ScopedJoinHandle::is_finished) {
                if let Some(first) = running.pop_front() {
                    outcomes.push(first.join().map_err(ended)??);
                }
            }
        }
        for rest in running {
            outcomes.push(rest.join().map_err(ended)??);
        }
        failed.map(|()| outcomes)
    })
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
