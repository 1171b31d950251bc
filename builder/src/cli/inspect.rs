//! `ingot inspect`

use crate::cli::arguments::Inspect;
use crate::cli::boot::image_of;
use crate::cli::output;
use crate::cli::settings::Settings;
use crate::error::Result;
use crate::inspect::{opened, packages, render, to_json};

pub(super) fn run(settings: &Settings, typed: &Inspect) -> Result<()> {
    let report = opened::open(&image_of(&typed.image)?)?;
    if settings.json {
        return output::text(&(to_json(&report)? + "\n"));
    }
    let style = output::style();
    output::text(&render(&report, style))?;
    if typed.packages { output::text(&packages(&report, style)) } else { Ok(()) }
}
