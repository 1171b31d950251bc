//! `ingot-installer diagnose`: what keeps this machine from being what its profile says.
//!
//! | file | what it does |
//! |---|---|
//! | `subject.rs` | what is read of the machine before anything is asked |
//! | `network.rs` | gateway, DNS, clock, MTU |
//! | `cluster.rs` | virtual address, endpoint, TLS, CA, token, ports, peers |
//! | `join.rs` | why a machine cannot join, for the steps as well |
//! | `judge.rs`, `cluster_info.rs`, `dns.rs`, `ports.rs` | certificates, cluster-info, one question by DNS, who listens |
//! | `registry.rs` | each registry and mirror |
//! | `local.rs` | state partition, installer, units, reports |
//! | `bundle.rs` | the support bundle |
//!
//! Nothing is changed and nothing secret is sent, but the registries' own logins to registries that proved who they are.

mod bundle;
mod cluster;
mod cluster_info;
mod dns;
mod join;
mod judge;
mod local;
mod network;
mod ports;
mod registry;
mod subject;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::sync::mpsc;
use std::time::Duration;

use serde::Serialize;

pub use bundle::write as write_bundle;
pub use cluster_info::{ClusterInfo, Vouch};
pub use join::{Joinable, Target, Trouble, find, join_trouble};
pub use judge::{Fault, date, judge, pins};
pub use subject::Subject;
pub(crate) use subject::via;

use crate::failure::Failure;
use crate::machine::Machine;
use crate::report::codes::{self, Code};

/// How a test ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Level {
    /// It is as it should be.
    Ok,
    /// There is nothing to test, or nobody who could tell.
    Skip,
    /// The machine works, but this should be looked at.
    Warn,
    /// This keeps the machine from its work.
    Fail,
}

/// What a test found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The test.
    pub test: &'static str,
    /// How it ended.
    pub level: Level,
    /// Its code, where it is not well.
    pub code: Option<&'static str>,
    /// What was seen.
    pub seen: String,
    /// What a person does next.
    pub action: Option<&'static str>,
}

impl Finding {
    fn ok(test: &'static str, seen: impl Into<String>) -> Self {
        Self { test, level: Level::Ok, code: None, seen: seen.into(), action: None }
    }

    fn skip(test: &'static str, seen: impl Into<String>) -> Self {
        Self { level: Level::Skip, ..Self::ok(test, seen) }
    }

    fn warn(test: &'static str, code: &'static Code, seen: impl Into<String>) -> Self {
        Self { test, level: Level::Warn, code: Some(code.number), seen: seen.into(), action: Some(code.action) }
    }

    fn fail(test: &'static str, code: &'static Code, seen: impl Into<String>) -> Self {
        Self { level: Level::Fail, ..Self::warn(test, code, seen) }
    }

    fn of(test: &'static str, failure: &Failure) -> Self {
        Self::fail(test, failure.code(), failure.to_string())
    }
}

/// A test: what it looks at is all in the subject, so that all run at once.
type Test = fn(&Subject) -> Vec<Finding>;

/// The tests, in the order in which they are told.
const TESTS: [(&str, Test); 15] = [
    ("profile", local::profile),
    ("installer", local::installer),
    ("units", local::units),
    ("disk", local::disk),
    ("report", local::report),
    ("gateway", network::gateway),
    ("dns", network::dns),
    ("clock", network::clock),
    ("mtu", network::mtu),
    ("address", cluster::address),
    ("api", cluster::api),
    ("ports", cluster::ports),
    ("peers", cluster::peers),
    ("vrrp", cluster::vrrp),
    ("registry", registry::registry),
];

/// No test may take longer; those that do are told as such.
const WITHIN: Duration = Duration::from_secs(30);

/// Carries out all tests, at the same time.
pub fn diagnose(machine: &dyn Machine) -> (Arc<Subject>, Vec<Finding>) {
    let subject = Arc::new(Subject::of(machine));
    let findings = run(&subject, WITHIN);
    (subject, findings)
}

fn run(subject: &Arc<Subject>, within: Duration) -> Vec<Finding> {
    let (sender, receiver) = mpsc::channel();
    for (number, (_, test)) in TESTS.iter().enumerate() {
        let (sender, subject) = (sender.clone(), subject.clone());
        std::thread::spawn(move || {
            // Nobody listens any more after the deadline.
            let _ = sender.send((number, test(&subject)));
        });
    }
    drop(sender);
    let mut results: Vec<Option<Vec<Finding>>> = vec![None; TESTS.len()];
    let end = std::time::Instant::now() + within;
    while let Ok((number, findings)) = receiver.recv_timeout(end.saturating_duration_since(std::time::Instant::now())) {
        if let Some(result) = results.get_mut(number) {
            *result = Some(findings);
        }
    }
    let late = |test| vec![Finding::warn(test, &codes::NO_RESULT, format!("no result within {} s", within.as_secs()))];
    let named = results.into_iter().zip(TESTS).flat_map(|(result, (test, _))| result.unwrap_or_else(|| late(test)));
    // Findings repeat what servers and programs say: nobody knows what that is.
    named.map(|finding| Finding { seen: subject.blot.text(&finding.seen), ..finding }).collect()
}

/// Whether something keeps the machine from its work.
pub fn failed(findings: &[Finding]) -> bool {
    findings.iter().any(|finding| finding.level == Level::Fail)
}

/// The findings for people.
pub fn words(findings: &[Finding]) -> String {
    let mut text = String::new();
    for finding in findings {
        let level = match finding.level {
            Level::Ok => "ok  ",
            Level::Skip => "-   ",
            Level::Warn => "warn",
            Level::Fail => "FAIL",
        };
        let code = finding.code.map(|code| format!("{code}: ")).unwrap_or_default();
        text += &format!("{level} {:<9} {code}{}\n", finding.test, finding.seen);
        if let Some(action) = finding.action {
            text += &format!("               next: {action}\n");
        }
    }
    let count = |level: Level| findings.iter().filter(|finding| finding.level == level).count();
    text + &format!("{} failed, {} to look at, {} well\n", count(Level::Fail), count(Level::Warn), count(Level::Ok))
}

/// The findings as JSON, with a line end.
pub fn json(findings: &[Finding]) -> String {
    format!("{}\n", serde_json::json!({ "schema": 1, "failed": failed(findings), "findings": findings }))
}
