//! `ingot clean`

use crate::cli::arguments::Clean;
use crate::cli::reporter::Reporter;
use crate::cli::settings::Settings;
use crate::error::Result;
use crate::files;
use crate::progress::Progress;

/// Folders of the cache that builds make again by themselves.
const CACHES: [&str; 5] = ["base", "layers", "clusters", "built", "work"];

pub(super) fn run(settings: &Settings, typed: &Clean, reporter: &Reporter) -> Result<()> {
    for name in CACHES.iter().chain(typed.store.then_some(&"store")) {
        files::remove(&settings.cache.join(name))?;
    }
    reporter.note(&format!(
        "{} holds no caches now{}",
        settings.cache.display(),
        if typed.store { ", and no packages" } else { "" }
    ));
    Ok(())
}
