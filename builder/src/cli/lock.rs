//! `ingot lock`

use serde::Serialize;

use crate::cli::arguments::LockArguments;
use crate::cli::output;
use crate::cli::reporter::Reporter;
use crate::cli::settings::Settings;
use crate::containers::Upstream;
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
    container_images: usize,
    written: bool,
    changes: &'a [Change],
}

pub(super) fn run(settings: &Settings, typed: &LockArguments, reporter: &Reporter) -> Result<()> {
    let at = definition::find(&typed.definition)?;
    let overrides = settings.overrides(&typed.overrides)?;
    let definition = definition::load_with(&at, &overrides)?;
    overrides.check(std::slice::from_ref(&definition))?;
    let network = settings.network(&typed.network)?;
    let store = Store::open(&settings.cache.join("store"))?;
    let source = Source { repositories: &definition.repositories, store: &store, network: &network, progress: reporter };
    let upstream = Upstream { download: &source, network: &network, store: &store, cache: &settings.cache };
    let policy = if typed.update { Policy::Update } else { Policy::WhereNeeded };
    let settled = settle::settle((&definition, &at), policy, (&source, &upstream, settings.environment.now), reporter)?;
    let text = settled.lock.to_text();
    let differs = settled.renewed && files::read_if_there(&settled.path)?.as_deref() != Some(text.as_bytes());
    let written = differs && !typed.dry_run;
    if written {
        files::write_atomic(&settled.path, text.as_bytes())?;
    }
    for change in &settled.changes {
        reporter.note(&change.to_string());
    }
    let (packages, images) = (settled.lock.packages.len(), settled.lock.containers.images.len());
    let with = if images == 0 { String::new() } else { format!(" and {images} container images") };
    let verdict = match (differs, written) {
        (false, _) => "is up to date",
        (true, true) => "written",
        (true, false) => "would change",
    };
    reporter.note(&format!(
        "{}: {packages} packages{with}, {} changes, {verdict}",
        settled.path.display(),
        settled.changes.len()
    ));
    if settings.json {
        output::json(&Report { lock: &settled.path, packages, container_images: images, written, changes: &settled.changes })?;
    }
    Ok(())
}
