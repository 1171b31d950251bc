//! `ingot diff`

use crate::cli::arguments::Diff;
use crate::cli::boot::image_of;
use crate::cli::output;
use crate::cli::settings::Settings;
use crate::diff::{compare, render, snapshot, to_json};
use crate::error::{Context, Result};

pub(super) fn run(settings: &Settings, typed: &Diff) -> Result<()> {
    let take = |path: &std::path::PathBuf| snapshot::take(&image_of(path)?).context(format!("looking into {}", path.display()));
    let difference = compare(&take(&typed.old)?, &take(&typed.new)?);
    match settings.json {
        true => output::text(&(to_json(&difference)? + "\n")),
        false => output::text(&render(&difference, output::style())),
    }
}
