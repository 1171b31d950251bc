//! `ingot lock`

use serde::Serialize;

use crate::cli::arguments::LockArguments;
use crate::cli::output;
use crate::cli::reporter::Reporter;
use crate::cli::settings::Settings;
use crate::definition;
use crate::error::Result;
use crate::fetch::{Source, Store};
use crate::files;
use crate::lock::Change;
use crate::lock::settle::{self, Policy};
use crate::progress::Progress;

/// What `--json` prints.
#[derive(Serialize)]
struct Report<'a> {
    lock: &'a std::path::Path,
    packages: usize,
    written: bool,
    changes: &'a [Change],
}

pub(super) fn run(settings: &Settings, typed: &LockArguments, reporter: &Reporter) -> Result<()> {
    let at = definition::find(&typed.definition)?;
    let definition = definition::load(&at)?;
    let network = settings.network(&typed.network)?;
    let store = Store::open(&settings.cache.join("store"))?;
    let source = Source { repositories: &definition.repositories, store: &store, network: &network, progress: reporter };
    let policy = if typed.update { Policy::Update } else { Policy::WhereNeeded };
    let settled = settle::settle((&definition, &at), policy, (&source, settings.environment.now), reporter)?;
    let text = settled.lock.to_text();
    let differs = settled.renewed && files::read_if_there(&settled.path)?.as_deref() != Some(text.as_bytes());
    let written = differs && !typed.dry_run;
    if written {
        files::write_atomic(&settled.path, text.as_bytes())?;
    }
    for change in &settled.changes {
        reporter.note(&change.to_string());
    }
    let packages = settled.lock.packages.len();
    let verdict = match (differs, written) {
        (false, _) => "is up to date",
        (true, true) => "written",
        (true, false) => "would change",
    };
    reporter.note(&format!("{}: {packages} packages, {} changes, {verdict}", settled.path.display(), settled.changes.len()));
    if settings.json {
        output::json(&Report { lock: &settled.path, packages, written, changes: &settled.changes })?;
    }
    Ok(())
}
