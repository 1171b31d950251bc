//! `ingot-installer upkeep`: what a machine needs again and again after it was made. A timer runs it every few minutes.
//!
//! It carries out the steps that [`roles::upkeep`] names, by the profile the machine has. What does not succeed is pending:
//! told in [`STATUS`] (and by `ingot-installer status`), and tried again at the next turn. The machine stays ready.

use crate::facts::facts;
use crate::failure::{Failure, Result};
use crate::machine::{Machine, read_text};
use crate::report::{self, Report, State, Status, Targets, codes};
use crate::roles;
use crate::secrets::secrets;
use crate::sequence::{self, Source};
use crate::steps::files::{Files, Wanted};
use crate::steps::{How, Step, UnitAction, Verdict, World};

/// Where it is told how that went.
pub const STATUS: &str = "/run/ingot/upkeep.json";

const FOLDER: &str = "/etc/systemd/system";
const SERVICE: &str = "ingot-upkeep.service";
const TIMER: &str = "ingot-upkeep.timer";

/// The step `upkeep`: its units. It is the last of a run, so that the first turn finds everything made.
pub fn units() -> Files {
    let service = "# Made by ingot-installer.\n[Unit]\nDescription=Upkeep of this node\nAfter=network.target ingot-installer.service\n\n\
        [Service]\nType=oneshot\nExecStart=/usr/bin/ingot-installer upkeep\nTimeoutStartSec=30min\nUMask=0077\n\
        CapabilityBoundingSet=CAP_CHOWN CAP_DAC_OVERRIDE CAP_FOWNER CAP_NET_RAW\nNoNewPrivileges=yes\nProtectHome=yes\n\
        ProtectHostname=yes\nProtectKernelModules=yes\nProtectClock=yes\nPrivateTmp=yes\nLockPersonality=yes\n\
        MemoryDenyWriteExecute=yes\nRestrictNamespaces=yes\nRestrictRealtime=yes\n\
        RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK\nSystemCallArchitectures=native\n";
    let timer = "# Made by ingot-installer.\n[Unit]\nDescription=Upkeep of this node, again and again\n\n\
        [Timer]\nOnActiveSec=5s\nOnUnitInactiveSec=5min\nRandomizedDelaySec=15s\nAccuracySec=5s\n";
    let file = |name: &str, text: &str| Wanted::public(format!("{FOLDER}/{name}"), text);
    Files::of(vec![file(SERVICE, service), file(TIMER, timer)])
        .tell(UnitAction::new(How::ReadUnits, ""))
        .tell(UnitAction::new(How::Restart, TIMER))
        .tell(UnitAction::new(How::Start, TIMER))
}

/// One turn.
///
/// # Errors
/// The machine or its profile cannot be read; it was told already.
pub fn upkeep(machine: &dyn Machine) -> Result<()> {
    let report = Report::at(machine, STATUS);
    let world = World { machine, report: &report };
    if status(machine, report::STATUS)?.is_some_and(|status| status.state == State::Running) {
        // The run does the same, and this comes again.
        return Ok(());
    }
    let result = turn(world);
    match &result {
        Ok(()) => report.over(),
        Err(failure) => report.failed(failure),
    }
    result
}

fn turn(world: World<'_>) -> Result<()> {
    let World { machine, report } = world;
    let current = sequence::accepted(machine, &Source::Any)?;
    let facts = facts(machine)?;
    let targets = Targets::of(machine, &current.profile, &facts, &current.inline);
    report.tell(Targets { post: None, ..targets });
    let secrets = secrets(machine, &current.profile)?;
    for step in roles::upkeep(&current.profile, &facts, &secrets)? {
        match carry_out(&step, world) {
            Ok(result) => report.done(step.name, result),
            Err(failure) => {
                report.done(step.name, "failed");
                report.warn(&failure.context(step.name));
            }
        }
    }
    Ok(())
}

fn carry_out(step: &Step, world: World<'_>) -> Result<&'static str> {
    let work = step.task.work();
    let Verdict::Differs(why) = work.check(world.machine)? else { return Ok("unchanged") };
    world.report.applying(step.name, &why);
    work.apply(world)?;
    match work.check(world.machine)? {
        Verdict::Holds => Ok("applied"),
        Verdict::Differs(why) => Err(Failure::new(&codes::STEP_FAILED, format!("it was carried out, but {why}"))),
    }
}

/// A status that was told; `None` before it was.
///
/// # Errors
/// The file cannot be read.
pub fn status(machine: &dyn Machine, path: &str) -> Result<Option<Status>> {
    let Some(text) = read_text(machine, path)? else { return Ok(None) };
    serde_json::from_str(&text).map(Some).map_err(|e| Failure::new(&codes::INPUT_OUTPUT, format!("{path}: {e}")))
}
