//! Carrying steps out: check, apply, check. It can be killed anywhere and run again.
//!
//! Units that must be told are noted in `/run/ingot/pending` before the first file changes, and told at the end of the
//! phase: a run that was cut off between the two is made good by the next, and nothing is told twice.

use std::collections::BTreeSet;

use crate::failure::{Failure, Result};
use crate::journal::{Event, Journal};
use crate::machine::{Attributes, Command, Machine, read_text, replace, run};
use crate::report::codes;
use crate::steps::{How, Phase, Step, Task, UnitAction, Verdict, World};

const PENDING: &str = "/run/ingot/pending";

/// Carries out the steps of a phase.
///
/// # Errors
/// The first step that fails; those before it hold. Steps that only keep something do not stop the rest when the
/// state partition is full or read-only: they end as warnings.
pub fn apply(steps: &[Step], phase: Phase, journal: &mut Journal, world: World<'_>) -> Result<()> {
    let mut failed = None;
    for step in steps.iter().filter(|step| step.phase == phase) {
        match one(step, journal, world) {
            Ok(result) => world.report.done(step.name, result),
            Err(failure) => {
                world.report.done(step.name, "failed");
                let failure = failure.context(step.name);
                let keeps = step.task.work().keeps_only() || step.name == "keep-profile";
                if failure.is_storage() && keeps {
                    world.report.warn(&failure);
                    continue;
                }
                failed = Some(failure);
                break;
            }
        }
    }
    // What did change is told even when a later step failed.
    let told = settle(world.machine);
    failed.map_or(told, Err)
}

fn one(step: &Step, journal: &mut Journal, world: World<'_>) -> Result<&'static str> {
    let work = step.task.work();
    let digest = step.digest();
    let last = journal.last(step.name).map(|entry| (entry.event, entry.digest));
    let irreversible = matches!(step.task, Task::Irreversible(_));
    if irreversible && last.is_some_and(|(_, other)| other != digest) {
        let message = "it was begun on this machine with another input, and cannot be undone";
        return Err(Failure::new(&codes::ALREADY_DONE, message));
    }
    let Verdict::Differs(why) = work.check(world.machine)? else {
        if irreversible || last != Some((Event::Done, digest)) {
            note(journal, world, Event::Done, step, irreversible && last != Some((Event::Done, digest)))?;
        }
        return Ok("unchanged");
    };
    world.report.applying(step.name, &why);
    if irreversible || last.is_none_or(|(_, other)| other != digest) {
        note(journal, world, Event::Begin, step, irreversible)?;
    }
    expect(world.machine, work.units())?;
    work.apply(world)?;
    if let Verdict::Differs(why) = work.check(world.machine)? {
        if world.machine.live() {
            return Err(Failure::new(&codes::STEP_FAILED, format!("it was carried out, but {why}")));
        }
        return Ok("left for the running machine");
    }
    note(journal, world, Event::Done, step, irreversible)?;
    Ok("applied")
}

/// Remembers. What can be done again does not need the memory: a full or read-only disk is a warning then.
fn note(journal: &mut Journal, world: World<'_>, event: Event, step: &Step, must: bool) -> Result<()> {
    if journal.last(step.name).is_some_and(|entry| entry.event == event && entry.digest == step.digest()) {
        return Ok(());
    }
    match journal.add(world.machine, event, step.name, step.digest()) {
        Err(failure) if failure.is_storage() && !must => {
            let first = !world.report.status().warnings.iter().any(|told| told.code == failure.code().number);
            if first {
                world.report.warn(&failure);
            }
            Ok(())
        }
        result => result,
    }
}

fn pending(machine: &dyn Machine) -> Result<BTreeSet<UnitAction>> {
    let text = read_text(machine, PENDING)?.unwrap_or_default();
    let action = |line: &str| {
        let (how, unit) = line.split_once(' ')?;
        let how =
            [How::ReadUnits, How::Reload, How::Restart, How::Start, How::Stop].into_iter().find(|known| word(*known) == how)?;
        Some(UnitAction::new(how, unit))
    };
    Ok(text.lines().filter_map(action).collect())
}

fn word(how: How) -> &'static str {
    match how {
        How::ReadUnits => "daemon-reload",
        How::Reload => "try-reload-or-restart",
        How::Restart => "try-restart",
        How::Start => "start",
        How::Stop => "stop",
    }
}

/// Notes that these units are to be told at the end of the phase. For steps that learn only on the way whether they change
/// anything: they call it before the first change.
///
/// # Errors
/// The note cannot be written.
pub(crate) fn expect(machine: &dyn Machine, units: Vec<UnitAction>) -> Result<()> {
    if units.is_empty() || !machine.live() {
        return Ok(());
    }
    let mut all = pending(machine)?;
    let before = all.len();
    all.extend(units);
    if all.len() == before {
        return Ok(());
    }
    let text: String = all.iter().map(|action| format!("{} {}\n", word(action.how), action.unit)).collect();
    machine.make_folder("/run/ingot", Attributes::root(0o755)).map_err(|e| Failure::io("making", "/run/ingot", &e))?;
    replace(machine, PENDING, text.as_bytes(), Attributes::root(0o600))
}

/// Tells the units. Those that do not run yet read their files when they start.
fn settle(machine: &dyn Machine) -> Result<()> {
    let pending = pending(machine)?;
    if pending.is_empty() {
        return Ok(());
    }
    for how in [How::ReadUnits, How::Reload, How::Restart, How::Start, How::Stop] {
        let mut units = Vec::new();
        for action in pending.iter().filter(|action| action.how == how) {
            if !matches!(how, How::Reload | How::Restart) || may_run(machine, &action.unit)? {
                units.push(action.unit.as_str());
            }
        }
        if units.is_empty() {
            continue;
        }
        let mut arguments = vec![word(how)];
        // A unit may be ordered after this very service: waiting for its job would never end.
        arguments.extend((how != How::ReadUnits).then_some("--no-block"));
        arguments.extend(units.into_iter().filter(|unit| !unit.is_empty()));
        run(machine, &Command::new("/usr/bin/systemctl", &arguments))?;
    }
    machine.remove(PENDING).map_err(|e| Failure::io("removing", PENDING, &e))
}

/// Whether a service may have processes: the service manager makes its control group before the first of them
/// (systemd.exec(5)), so one that has none yet reads its files when it starts. Without the tree of groups, it may.
fn may_run(machine: &dyn Machine, unit: &str) -> Result<bool> {
    const SLICE: &str = "/sys/fs/cgroup/system.slice";
    let there = |path: &str| machine.attributes(path).map_err(|e| Failure::io("reading", path, &e)).map(|found| found.is_some());
    Ok(!unit.ends_with(".service") || !there(SLICE)? || there(&format!("{SLICE}/{unit}"))?)
}
