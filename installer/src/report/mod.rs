//! What people and programs are told while it happens: the console, `/run/ingot/status.json`, the service
//! manager, the journal. Telling never stops the work: where one of them does not listen, the others do.

pub mod codes;
mod journald;

use std::cell::RefCell;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::failure::Failure;
use crate::machine::{Attributes, Machine, replace};

/// Where the state of the installer is told to programs.
pub const STATUS: &str = "/run/ingot/status.json";

/// How far it is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// At work.
    #[default]
    Running,
    /// The machine is what its profile says.
    Ready,
    /// It ended with a code.
    Failed,
}

/// What became of a step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepStatus {
    /// Its name.
    pub name: String,
    /// `unchanged`, `applied` or `failed`.
    pub result: String,
}

/// A code with what was seen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Told {
    /// `INGOT-Nnnnn`.
    pub code: String,
    /// What was found and expected.
    pub message: String,
    /// What to do next.
    pub action: String,
}

impl Told {
    fn of(failure: &Failure) -> Self {
        let code = failure.code();
        Self { code: code.number.to_owned(), message: failure.to_string(), action: code.action.to_owned() }
    }
}

/// The content of [`STATUS`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Always 1.
    pub schema: u32,
    /// How far it is.
    pub state: State,
    /// The stage of the sequence.
    pub stage: String,
    /// The step it is at, or what it waits for.
    pub doing: Option<String>,
    /// Where the profile came from.
    pub source: Option<String>,
    /// SHA-256 of the profile.
    pub profile: Option<String>,
    /// Why it failed.
    pub failure: Option<Told>,
    /// What it went on in spite of.
    pub warnings: Vec<Told>,
    /// The steps so far.
    pub steps: Vec<StepStatus>,
    /// Seconds since 1970, by a clock that may be wrong.
    pub updated: u64,
}

/// Tells what happens.
pub struct Report<'m> {
    machine: &'m dyn Machine,
    status: RefCell<Status>,
}

impl std::fmt::Debug for Report<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.status.borrow().fmt(f)
    }
}

impl<'m> Report<'m> {
    /// Nothing is told yet.
    pub fn new(machine: &'m dyn Machine) -> Self {
        Self { machine, status: RefCell::new(Status { schema: 1, ..Status::default() }) }
    }

    /// The status as it is now.
    pub fn status(&self) -> Status {
        self.status.borrow().clone()
    }

    /// A stage of the sequence begins.
    pub fn stage(&self, name: &str) {
        self.change(|status| {
            status.stage = name.to_owned();
            status.doing = None;
        });
    }

    /// A source was asked, and this came of it.
    pub fn tried(&self, source: &str, reason: &str) {
        self.say(&format!("profile: {source}: {reason}"));
    }

    /// This profile is used.
    pub fn chosen(&self, source: &str, digest: &str) {
        self.say(&format!("profile: taken from {source}, sha256 {digest}"));
        self.change(|status| {
            status.source = Some(source.to_owned());
            status.profile = Some(digest.to_owned());
        });
    }

    /// A step is carried out, because of this.
    pub fn applying(&self, step: &str, why: &str) {
        self.say(&format!("{step}: {why}"));
        self.change(|status| status.doing = Some(step.to_owned()));
    }

    /// A step is over.
    pub fn done(&self, step: &str, result: &str) {
        self.change_quietly(|status| status.steps.push(StepStatus { name: step.to_owned(), result: result.to_owned() }));
    }

    /// It waits for this, at most so long.
    pub fn waiting(&self, step: &str, what: &str, most: Duration) {
        let text = format!("{step}: waiting for {what}, at most {} s", most.as_secs());
        self.say(&text);
        // The service manager must not lose patience before us.
        let micros = most.saturating_add(Duration::from_secs(30)).as_micros();
        self.machine.notify(&format!("EXTEND_TIMEOUT_USEC={micros}"));
        self.change(|status| status.doing = Some(text));
    }

    /// Something is wrong, and it goes on.
    pub fn warn(&self, failure: &Failure) {
        self.say(&format!("warning {}: {failure}", failure.code().number));
        self.machine.log(&journald::entry(journald::WARNING, &failure.to_string(), Some(failure.code()), None));
        self.change(|status| status.warnings.push(Told::of(failure)));
    }

    /// What must stand before others may start is done: units that wait for the installer go on.
    pub fn rendered(&self) {
        self.machine.notify("READY=1");
    }

    /// The machine is what its profile says.
    pub fn ready(&self) {
        self.say("ready");
        self.change(|status| {
            status.state = State::Ready;
            status.doing = None;
        });
    }

    /// It ends with this.
    pub fn failed(&self, failure: &Failure) {
        let code = failure.code();
        self.machine.say(&format!("ingot: {}: {}", code.number, code.title));
        self.machine.say(&format!("ingot:   seen: {failure}"));
        self.machine.say(&format!("ingot:   next: {}", code.action));
        self.machine.log(&journald::entry(journald::ERROR, &failure.to_string(), Some(code), None));
        self.change(|status| {
            status.state = State::Failed;
            status.failure = Some(Told::of(failure));
        });
    }

    fn say(&self, text: &str) {
        self.machine.say(&format!("ingot: {text}"));
        let step = self.status.borrow().stage.clone();
        self.machine.log(&journald::entry(journald::INFO, text, None, Some(&step)));
    }

    fn change(&self, change: impl FnOnce(&mut Status)) {
        self.change_quietly(change);
        let status = self.status.borrow();
        let line = match (&status.failure, &status.doing) {
            (Some(failure), _) => format!("{} {}", failure.code, failure.message),
            (None, Some(doing)) => doing.clone(),
            (None, None) if status.state == State::Ready => "ready".to_owned(),
            (None, None) => status.stage.clone(),
        };
        self.machine.notify(&format!("STATUS={}", line.replace('\n', " / ")));
        drop(status);
        self.publish();
    }

    fn change_quietly(&self, change: impl FnOnce(&mut Status)) {
        let mut status = self.status.borrow_mut();
        change(&mut status);
        status.updated = self.machine.now();
    }

    fn publish(&self) {
        let Ok(mut text) = serde_json::to_vec_pretty(&*self.status.borrow()) else { return };
        text.push(b'\n');
        // A status that cannot be written must not stop the machine: console and journal have it too.
        let _ = self.machine.make_folder("/run/ingot", Attributes::root(0o755));
        let _ = replace(self.machine, STATUS, &text, Attributes::root(0o644));
    }
}
