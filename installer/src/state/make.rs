//! Making and growing the state partition: systemd-repart(8), on the disk of the root only.

use std::time::Duration;

use profile::machine::{Encryption, FileSystem, State};

use super::disk::{self, Disk, Partition};
use crate::failure::{Failure, Result};
use crate::machine::{Attributes, Command, Machine, replace, run};
use crate::report::codes;
use crate::steps::World;

const DEFINITION: &str = "/run/repart.d/50-state.conf";
/// Making a large file system on a slow disk.
const MAKING: Duration = Duration::from_secs(900);
/// How long the kernel may take to show a new partition.
const SHOWING: Duration = Duration::from_secs(30);
/// Room behind the last partition that is worth growing into, in sectors of 512 bytes: 64 MiB.
const WORTH: u64 = 64 << 11;

/// The repart.d(5) text of the state partition.
pub(super) fn definition(state: &State) -> String {
    let format = match state.file_system {
        FileSystem::Ext4 => "ext4",
        FileSystem::Xfs => "xfs",
    };
    let encryption = if state.encryption == Encryption::Tpm2 { "Encrypt=tpm2\n" } else { "" };
    format!(
        "# Made by ingot-installer.\n[Partition]\nType=linux-generic\nLabel=state\nFormat={format}\nSizeMinBytes={}\n\
         {encryption}FactoryReset=yes\n",
        state.least
    )
}

/// Makes slot B and the state partition.
pub(super) fn make(world: World<'_>, disk: &Disk, state: &State) -> Result<Partition> {
    let machine = world.machine;
    if state.encryption == Encryption::Tpm2 && !tpm(machine)? {
        return Err(Failure::new(&codes::NO_TPM, "expected /sys/class/tpm/tpm0, found no TPM 2.0"));
    }
    world.report.applying("state", &format!("making the state partition on {}", disk.device));
    machine.make_folder("/run/repart.d", Attributes::root(0o755)).map_err(|e| Failure::io("making", "/run/repart.d", &e))?;
    replace(machine, DEFINITION, definition(state).as_bytes(), Attributes::root(0o644))?;
    repart(machine, disk, state)?;
    let end = machine.uptime().saturating_add(SHOWING);
    loop {
        if let Some(partition) = disk::find(machine)?.state {
            return Ok(partition);
        }
        if machine.uptime() >= end {
            return Err(Failure::new(
                &codes::STEP_FAILED,
                format!("systemd-repart ended, but {} has no partition `state`", disk.device),
            ));
        }
        machine.sleep(Duration::from_millis(100));
    }
}

fn tpm(machine: &dyn Machine) -> Result<bool> {
    let found = machine.attributes("/sys/class/tpm/tpm0").map_err(|e| Failure::io("reading", "/sys/class/tpm", &e))?;
    Ok(found.is_some())
}

fn repart(machine: &dyn Machine, disk: &Disk, state: &State) -> Result<()> {
    let pcrs: Vec<String> = state.pcrs.iter().map(ToString::to_string).collect();
    let pcrs = format!("--tpm2-pcrs={}", pcrs.join("+"));
    let mut arguments = vec!["--dry-run=no", "--no-pager"];
    if state.encryption == Encryption::Tpm2 {
        arguments.extend(["--tpm2-device=auto", &pcrs]);
    }
    arguments.push(&disk.device);
    run(machine, &Command::new("/usr/bin/systemd-repart", &arguments).within(MAKING)).map(drop).map_err(|failure| {
        // systemd-repart has one exit code for everything; these are its words for a small disk.
        let text = failure.to_string();
        if text.contains("Can't fit requested partitions") || text.contains("disk too small") {
            let bytes = disk.sectors.saturating_mul(512);
            return Failure::new(&codes::DISK_SMALL, format!("{} has {bytes} bytes: {text}", disk.device));
        }
        failure
    })
}

/// Lets the last partition grow into room behind it; whether it did.
pub(super) fn grow(world: World<'_>, disk: &Disk) -> Result<bool> {
    if disk.end == 0 || disk.sectors.saturating_sub(disk.end) < WORTH {
        return Ok(false);
    }
    world.report.applying("state", &format!("{} has room behind its last partition", disk.device));
    match run(
        world.machine,
        &Command::new("/usr/bin/systemd-repart", &["--dry-run=no", "--no-pager", &disk.device]).within(MAKING),
    ) {
        Ok(_) => Ok(true),
        // The machine has all it had before.
        Err(failure) => {
            world.report.warn(&failure.context("growing the state partition"));
            Ok(false)
        }
    }
}
