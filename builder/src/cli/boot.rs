//! `ingot boot`

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::cli::arguments::Boot as Typed;
use crate::cli::reporter::Reporter;
use crate::cli::settings::Settings;
use crate::error::{Error, Kind, Result};
use crate::interrupt;
use crate::machine::{Boot, EnrolledKeys, Reboot, SecureBoot, Serial};
use crate::progress::Progress;

pub(super) fn run(settings: &Settings, typed: &Typed, reporter: &Reporter) -> Result<()> {
    let image = image_of(&typed.image)?;
    let boot = Boot {
        keep: typed.keep.clone(),
        disk_size: Some(u64::from(typed.disk_size) << 30),
        secure_boot: secure_boot(settings, typed, &image, reporter)?,
        profile: typed.profile.clone(),
        ways: typed.via.clone(),
        further: typed.drive.clone(),
        forwards: typed.forward.iter().map(|text| text.parse()).collect::<Result<_>>()?,
        memory_mib: typed.memory,
        cpus: typed.cpus.into(),
        tpm: typed.tpm,
        clock: typed.clock,
        serial: typed.serial.clone().map_or(Serial::Terminal, Serial::Log),
        reboot: if typed.timeout.is_some() { Reboot::End } else { Reboot::Again },
        ..Boot::new(&image)
    };
    if typed.serial.is_none() {
        reporter.note(&format!("starting {}: Ctrl-C ends the machine", image.display()));
    }
    let running = boot.start()?;
    let ended = match typed.timeout {
        None => running.wait()?,
        Some(seconds) => running.wait_at_most(Duration::from_secs(seconds))?,
    };
    tracing::info!("the machine ended: {ended:?}");
    if ended == crate::machine::Ended::Interrupted {
        interrupt::exit();
    }
    Ok(())
}

/// The image itself, or the raw (else qcow2, VHDX) image of a release folder.
pub(super) fn image_of(path: &Path) -> Result<PathBuf> {
    if !path.is_dir() {
        return Ok(path.to_owned());
    }
    let listed = std::fs::read_dir(path).map_err(|e| Error::io("reading", path, &e))?;
    let names: Vec<PathBuf> = listed.filter_map(|entry| entry.ok().map(|entry| entry.path())).collect();
    ["raw", "qcow2", "vhdx"]
        .iter()
        .find_map(|ending| names.iter().find(|name| name.extension().is_some_and(|e| e == *ending)).cloned())
        .ok_or_else(|| {
            Error::new(Kind::Usage, format!("there is no image in {}", path.display()))
                .hint("`ingot build` makes releases with images")
        })
}

/// The keys beside the image, else those that builds are signed with.
fn secure_boot(settings: &Settings, typed: &Typed, image: &Path, reporter: &Reporter) -> Result<SecureBoot> {
    let beside = image.parent().is_some_and(|folder| folder.join("secure-boot").is_dir());
    Ok(match (typed.insecure, &typed.keys, beside) {
        (true, _, _) => SecureBoot::Off,
        (false, None, true) => SecureBoot::Beside,
        (false, keys, _) => SecureBoot::Own(EnrolledKeys::of(&settings.keys(keys.as_ref(), false, reporter)?.secure_boot)?),
    })
}
