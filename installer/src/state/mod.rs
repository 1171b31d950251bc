//! The state partition: what outlives a boot. Found or made, unlocked, checked and mounted at `/state` before
//! anything else of userspace starts (`ingot-installer state`, started by `ingot-state.service`).
//!
//! | the disk has | what happens |
//! |---|---|
//! | a state partition | it is unlocked where it is LUKS2, checked, mounted, grown into room behind it |
//! | none, and a source holds a profile this machine takes | systemd-repart makes it (and slot B) as `[disks.state]` says |
//! | none, and there is no such profile (yet) | `/state` is memory: the machine starts, tells why, and waits. When a profile is taken later (from a server, a medium that is put in), the step `state` makes the partition and the machine starts again |
//! | one that cannot be opened (TPM, damage) | `/state` is memory, and `run` ends with the reason: nothing of the partition is changed |
//!
//! Files: `/run/repart.d/50-state.conf` (what is to be made), [`VOLATILE`] (why `/state` is memory).

mod disk;
mod make;
mod step;

use profile::machine::State;
use serde::{Deserialize, Serialize};

use crate::failure::{Failure, Result};
use crate::machine::{Attributes, Command, Machine, read_text, replace, run};
use crate::report::codes;
use crate::steps::World;

pub use step::Partition;

/// Where it is mounted.
pub const MOUNT: &str = "/state";

/// Why `/state` is memory only.
pub const VOLATILE: &str = "/run/ingot/volatile.json";

/// The content of [`VOLATILE`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Volatile {
    code: String,
    message: String,
}

/// Mounts the state partition; makes it first where `profile` gives one. A failure makes `/state` memory, so that the
/// machine can start and tell it.
///
/// # Errors
/// Not even memory could be mounted.
pub fn open_or_make(world: World<'_>, profile: impl FnOnce() -> Result<State>) -> Result<()> {
    if mounted(world.machine)? {
        return Ok(());
    }
    world.report.stage("state");
    let opened = disk::find(world.machine).and_then(|disk| match &disk.state {
        Some(partition) => {
            let grown = make::grow(world, &disk)?;
            open(world, &disk, partition, How { grown, fresh: false })
        }
        None => {
            let state = profile()?;
            let partition = make::make(world, &disk, &state)?;
            open(world, &disk, &partition, How { grown: false, fresh: true })
        }
    });
    match opened {
        Ok(()) => Ok(()),
        Err(failure) => memory(world, &failure),
    }
}

/// Whether `/state` is a mount already: in a container the host gives it.
fn mounted(machine: &dyn Machine) -> Result<bool> {
    let table = read_text(machine, "/proc/self/mountinfo")?.unwrap_or_default();
    Ok(table.lines().any(|line| line.split(' ').nth(4) == Some(MOUNT)))
}

/// What was done to the partition just now.
#[derive(Debug, Clone, Copy)]
struct How {
    /// It has grown, and the file system follows.
    grown: bool,
    /// It was made: nothing in it can be damaged.
    fresh: bool,
}

/// Unlocks, checks and mounts it.
fn open(world: World<'_>, disk: &disk::Disk, partition: &disk::Partition, how: How) -> Result<()> {
    let machine = world.machine;
    let device = disk::unlock(world, &partition.device)?;
    let system = disk::file_system(machine, &device)?;
    let read_only = disk::read_only(machine, disk, partition)?;
    if system == "ext4" && !read_only && !how.fresh {
        disk::check(world, &device)?;
    }
    let options = if read_only { "ro,noatime,nosuid,nodev" } else { "noatime,nosuid,nodev" };
    run(machine, &Command::new("/usr/bin/mount", &["-t", system, "-o", options, &device, MOUNT]))
        .map_err(|failure| Failure::new(&codes::STATE_DAMAGED, failure.to_string()))?;
    if read_only {
        return Ok(());
    }
    if how.grown || disk::smaller(machine, &device)? {
        run(machine, &Command::new("/usr/lib/systemd/systemd-growfs", &[MOUNT]))?;
    }
    folders(machine)
}

/// What others expect in it.
fn folders(machine: &dyn Machine) -> Result<()> {
    for (path, mode) in [("/state/var", 0o755), ("/state/ssh", 0o755), ("/state/ingot", 0o700)] {
        let reading = |e| Failure::io("reading", path, &e);
        if machine.attributes(path).map_err(reading)?.is_none() {
            machine.make_folder(path, Attributes::root(mode)).map_err(|e| Failure::io("making", path, &e))?;
        }
    }
    Ok(())
}

/// `/state` in memory, and why.
fn memory(world: World<'_>, failure: &Failure) -> Result<()> {
    let machine = world.machine;
    world.report.warn(failure);
    let note = Volatile { code: failure.code().number.to_owned(), message: failure.to_string() };
    let text = serde_json::to_vec(&note).map_err(|e| Failure::new(&codes::INPUT_OUTPUT, format!("writing {VOLATILE}: {e}")))?;
    machine.make_folder("/run/ingot", Attributes::root(0o755)).map_err(|e| Failure::io("making", "/run/ingot", &e))?;
    replace(machine, VOLATILE, &text, Attributes::root(0o600))?;
    let options = "mode=0755,size=25%,nosuid,nodev";
    run(machine, &Command::new("/usr/bin/mount", &["-t", "tmpfs", "-o", options, "state", MOUNT]))?;
    folders(machine)
}

/// The failure for which `/state` is memory; `None` where it is a disk.
fn volatile(machine: &dyn Machine) -> Result<Option<Failure>> {
    let Some(text) = read_text(machine, VOLATILE)? else { return Ok(None) };
    let note: Volatile =
        serde_json::from_str(&text).map_err(|e| Failure::new(&codes::INPUT_OUTPUT, format!("reading {VOLATILE}: {e}")))?;
    Ok(Some(Failure::new(codes::by_number(&note.code).unwrap_or(&codes::NO_PROFILE), note.message)))
}
