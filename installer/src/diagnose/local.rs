//! The machine itself: profile, installer, units, state partition, reports.

use std::time::Duration;

use super::{Finding, Level, Subject};
use crate::machine::Command;
use crate::report::{State, codes};

/// The machine takes a profile.
pub(super) fn profile(subject: &Subject) -> Vec<Finding> {
    let test = "profile";
    match (&subject.refused, &subject.profile) {
        (None, Some(profile)) => {
            vec![Finding::ok(test, format!("{} is a {}, serial {}", profile.node.name, profile.node.role.name(), profile.serial))]
        }
        (Some(failure), Some(profile)) => {
            let finding = Finding::of(test, failure);
            let seen = format!("{}; tested with the kept one of {}", finding.seen, profile.node.name);
            vec![Finding { seen, ..finding }]
        }
        (Some(failure), None) => vec![Finding::of(test, failure)],
        (None, None) => vec![Finding::fail(test, &codes::NO_PROFILE, "no profile is kept")],
    }
}

/// How far the installer is, and what it went on in spite of.
pub(super) fn installer(subject: &Subject) -> Vec<Finding> {
    let test = "installer";
    let Some(status) = &subject.status else {
        return vec![Finding::warn(test, &codes::NOT_READY, "it has not begun in this boot")];
    };
    let told = |level: Level, code: &str, message: &str| {
        let known = codes::by_number(code);
        Finding {
            test,
            level,
            code: known.map(|code| code.number),
            seen: message.to_owned(),
            action: known.map(|code| code.action),
        }
    };
    let mut findings = match (&status.failure, status.state) {
        (Some(failure), _) => vec![told(Level::Fail, &failure.code, &failure.message)],
        (None, State::Ready) => vec![Finding::ok(test, format!("ready, {} steps", status.steps.len()))],
        (None, _) => {
            let at = status.doing.as_deref().unwrap_or(&status.stage);
            vec![Finding::warn(test, &codes::NOT_READY, format!("it is at: {at}"))]
        }
    };
    findings.extend(status.warnings.iter().map(|warning| told(Level::Warn, &warning.code, &warning.message)));
    findings
}

/// No unit has failed.
pub(super) fn units(subject: &Subject) -> Vec<Finding> {
    let test = "units";
    let command = Command::new("/usr/bin/systemctl", &["list-units", "--state=failed", "--plain", "--no-legend", "--no-pager"]);
    match subject.net.run(&command.within(Duration::from_secs(5))) {
        Ok(output) if output.ok() => {
            let failed: Vec<&str> = output.out.lines().filter_map(|line| line.split_whitespace().next()).collect();
            if failed.is_empty() {
                return vec![Finding::ok(test, "none has failed")];
            }
            vec![Finding::fail(test, &codes::UNITS_FAILED, failed.join(", "))]
        }
        Ok(output) => vec![Finding::skip(test, format!("the service manager does not answer: {}", output.tail.trim()))],
        Err(error) => vec![Finding::skip(test, format!("the service manager cannot be asked: {error}"))],
    }
}

/// Free room below which the state partition is nearly full, in bytes.
const LEAST: u64 = 256 << 20;

/// The state partition is there, can be written, and has room.
pub(super) fn disk(subject: &Subject) -> Vec<Finding> {
    let test = "disk";
    let Some(options) = &subject.state_mount else {
        return vec![Finding::fail(test, &codes::NO_STATE, "nothing is mounted at /state")];
    };
    if options.split(',').any(|option| option == "ro") {
        return vec![Finding::fail(test, &codes::READ_ONLY, "/state is mounted read-only")];
    }
    let Some(space) = subject.space else { return vec![Finding::skip(test, "the room in /state is not known")] };
    let mib = |bytes: u64| bytes >> 20;
    let seen = format!("{} of {} MiB are free in /state", mib(space.free), mib(space.total));
    if space.free == 0 {
        return vec![Finding::fail(test, &codes::DISK_FULL, seen)];
    }
    if space.free < LEAST || space.free < space.total / 10 {
        return vec![Finding::warn(test, &codes::DISK_LOW, seen)];
    }
    vec![Finding::ok(test, seen)]
}

/// Events were delivered.
pub(super) fn report(subject: &Subject) -> Vec<Finding> {
    let test = "report";
    let url = subject.profile.as_ref().and_then(|profile| profile.report.url.as_ref());
    match (url, subject.undelivered) {
        (None, _) => vec![Finding::skip(test, "the profile has no `[report] url`")],
        (Some(_), 0) => vec![Finding::ok(test, "no event waits to be delivered")],
        (Some(url), count) => {
            vec![Finding::warn(test, &codes::NOT_REPORTED, format!("{count} events wait to be delivered to {url}"))]
        }
    }
}
