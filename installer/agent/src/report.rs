//! What the agent does, for people and for `ingot-installer status`: the journal, and one small file.

use std::collections::BTreeSet;

use serde::Serialize;

use crate::ask::{Key, Note};
use crate::programs::replace;
use crate::trouble::Trouble;

/// Where it is.
pub const REPORT: &str = "/run/ingot/agent.json";

/// Notes that fit on a screen.
const MOST: usize = 20;

/// The file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    schema: u32,
    /// `waiting` until the API has told all Services and Nodes once (`standing` where former rules serve), then `serving`.
    pub state: &'static str,
    /// Whether this machine has the virtual address, and so gives addresses away.
    pub holder: bool,
    /// Services with rules.
    pub services: usize,
    /// Nodes behind them.
    pub nodes: usize,
    /// Addresses taken.
    pub addresses: usize,
    /// Reloads of HAProxy since the agent began.
    pub reloads: u64,
    /// What is not well.
    pub troubles: Vec<Trouble>,
    /// Services that do not have what they ask for; the first of them.
    pub notes: Vec<String>,
}

impl Report {
    /// Nothing is known yet.
    pub fn new() -> Self {
        Self { schema: 1, state: "waiting", ..Self::default() }
    }

    /// The notes, as lines.
    pub fn note(&mut self, notes: &[(Key, Note)]) {
        self.notes = notes.iter().take(MOST).map(|(key, note)| format!("{key}: {}: {}", note.reason, note.message)).collect();
    }
}

/// Tells what is new, and only that.
#[derive(Debug, Default)]
pub struct Teller {
    told: Option<Report>,
    troubles: BTreeSet<(&'static str, String)>,
}

impl Teller {
    /// Writes the file and what is new to the journal.
    pub fn tell(&mut self, report: &Report) {
        if self.told.as_ref() == Some(report) {
            return;
        }
        let now: BTreeSet<_> = report.troubles.iter().map(|trouble| (trouble.code, trouble.message.clone())).collect();
        for (code, message) in now.difference(&self.troubles) {
            say(Level::Warning, &format!("{code}: {message}"));
        }
        if now.is_empty() && !self.troubles.is_empty() {
            say(Level::Notice, "all is well again");
        }
        let written = serde_json::to_string(report).map_err(|e| e.to_string());
        if let Err(error) = written.and_then(|text| replace(REPORT, &format!("{text}\n")).map_err(|e| e.message)) {
            say(Level::Warning, &error);
        }
        self.troubles = now;
        self.told = Some(report.clone());
    }
}

/// How much a line matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// Somebody should look.
    Warning,
    /// Worth knowing.
    Notice,
}

/// A line for the journal.
#[allow(clippy::print_stderr, reason = "the one place that speaks")]
pub fn say(level: Level, text: &str) {
    eprintln!("<{}>{text}", if level == Level::Warning { 4 } else { 5 });
}
