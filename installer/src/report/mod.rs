//! What people and programs are told while it happens: the console, `/run/ingot/status.json`, the service
//! manager, the journal. Telling never stops the work: where one of them does not listen, the others do.

pub mod codes;
pub mod events;
pub mod host;
mod journald;
mod targets;
#[cfg(test)]
mod tests;

use std::cell::RefCell;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use codes::Code;
use events::{Event, Outbox};

use crate::failure::Failure;
use crate::machine::{Attributes, Machine, replace};

pub use targets::Targets;

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
    fn of(failure: &Failure, message: &str) -> Self {
        let code = failure.code();
        Self { code: code.number.to_owned(), message: message.to_owned(), action: code.action.to_owned() }
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
    /// How many steps there are; 0 before it is known.
    #[serde(default)]
    pub planned: usize,
    /// The steps so far.
    pub steps: Vec<StepStatus>,
    /// Seconds since 1970, by a clock that may be wrong.
    pub updated: u64,
}

/// How often one who waits is told that it goes on.
const AGAIN: Duration = Duration::from_secs(15);

/// How long the end of a run may wait for the server of events.
const LAST: Duration = Duration::from_secs(5);

/// What it waits for, since when, and when that was last told.
#[derive(Debug, Clone)]
struct Wait {
    what: String,
    end: Duration,
    told: Duration,
}

/// Tells what happens.
pub struct Report<'m> {
    machine: &'m dyn Machine,
    status: RefCell<Status>,
    step: RefCell<Option<String>>,
    wait: RefCell<Option<Wait>>,
    targets: RefCell<Targets>,
    outbox: RefCell<Outbox>,
    /// What the host was told last.
    told_host: RefCell<Option<Vec<(String, String)>>>,
    hyper_v: bool,
    path: &'static str,
}

impl std::fmt::Debug for Report<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.status.borrow().fmt(f)
    }
}

impl<'m> Report<'m> {
    /// Nothing is told yet.
    pub fn new(machine: &'m dyn Machine) -> Self {
        Self {
            machine,
            status: RefCell::new(Status { schema: 1, ..Status::default() }),
            step: RefCell::default(),
            wait: RefCell::default(),
            targets: RefCell::default(),
            outbox: RefCell::default(),
            told_host: RefCell::default(),
            hyper_v: host::there(machine),
            path: STATUS,
        }
    }

    /// Tells its state in another file, and not to the host: for what is no run of the whole.
    pub fn at(machine: &'m dyn Machine, path: &'static str) -> Self {
        Self { hyper_v: false, path, ..Self::new(machine) }
    }

    /// The status as it is now.
    pub fn status(&self) -> Status {
        self.status.borrow().clone()
    }

    /// From now on it is told to those whom the profile names, and without the profile's secrets.
    pub fn tell(&self, targets: Targets) {
        self.machine.consoles(targets.screens, targets.serial);
        if self.hyper_v && !targets.hyper_v {
            host::tell(self.machine, &[]);
        }
        if let Some(ask) = &targets.post {
            let mut outbox = self.outbox.borrow_mut();
            if !outbox.sends() {
                outbox.earlier(self.machine);
            }
            outbox.send(self.machine.net(), ask.clone(), targets.sender.clone());
        }
        self.targets.replace(targets);
    }

    /// So many steps there are.
    pub fn planned(&self, steps: usize) {
        self.change_quietly(|status| status.planned = steps);
    }

    /// Gives the server of events a last chance, of 5 s at most. What it did not take is kept for the next run.
    pub fn finish(&self) {
        let left = self.outbox.borrow().finish(self.machine, LAST);
        if left > 0 {
            self.say(&format!("warning {}: {left} events were not taken, and are kept", codes::NOT_REPORTED.number));
        }
    }

    /// A stage of the sequence begins.
    pub fn stage(&self, name: &str) {
        self.step.replace(None);
        self.change(|status| {
            status.stage = name.to_owned();
            status.doing = None;
        });
        self.event("stage", name, None);
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
        self.step.replace(Some(step.to_owned()));
        let (number, of) = self.number();
        let at = of.map(|of| format!("[{}/{of}] ", number.unwrap_or_default())).unwrap_or_default();
        self.say(&format!("{at}{step}: {why}"));
        self.change(|status| status.doing = Some(step.to_owned()));
        self.event("step", why, None);
    }

    /// A step is over.
    pub fn done(&self, step: &str, result: &str) {
        self.change_quietly(|status| status.steps.push(StepStatus { name: step.to_owned(), result: result.to_owned() }));
        self.wait.replace(None);
    }

    /// It waits for this, at most so long. To be called again in every turn of the wait: it says so every 15 s only.
    pub fn waiting(&self, step: &str, what: &str, most: Duration) {
        let now = self.machine.uptime();
        let known = self.wait.borrow().clone().filter(|wait| wait.what == what);
        let text = match known {
            Some(wait) if now.saturating_sub(wait.told) < AGAIN => return,
            Some(wait) => {
                self.wait.replace(Some(Wait { told: now, ..wait.clone() }));
                format!("{step}: still waiting for {what}, {} s left", wait.end.saturating_sub(now).as_secs())
            }
            None => {
                self.wait.replace(Some(Wait { what: what.to_owned(), end: now.saturating_add(most), told: now }));
                // The service manager must not lose patience before us.
                let micros = most.saturating_add(Duration::from_secs(30)).as_micros();
                self.machine.notify(&format!("EXTEND_TIMEOUT_USEC={micros}"));
                format!("{step}: waiting for {what}, at most {} s", most.as_secs())
            }
        };
        self.say(&text);
        let shown = self.hide(&text);
        self.change(|status| status.doing = Some(shown));
        self.event("waiting", &text, None);
    }

    /// Something is wrong, and it goes on.
    pub fn warn(&self, failure: &Failure) {
        let message = self.hide(&failure.to_string());
        self.machine.say(&format!("ingot: warning {}: {message}", failure.code().number));
        self.log(journald::WARNING, &message, Some(failure.code()));
        self.change(|status| status.warnings.push(Told::of(failure, &message)));
        self.event("warning", &message, Some(failure.code()));
    }

    /// What must stand before others may start is done: units that wait for the installer go on.
    pub fn rendered(&self) {
        self.machine.notify("READY=1");
    }

    /// The machine is what its profile says.
    pub fn ready(&self) {
        self.step.replace(None);
        self.say("ready");
        self.change(|status| {
            status.state = State::Ready;
            status.doing = None;
        });
        self.event("ready", "the machine is what its profile says", None);
    }

    /// It has ended well, which is nothing to speak of.
    pub fn over(&self) {
        self.change_quietly(|status| {
            status.state = State::Ready;
            status.doing = None;
        });
        self.publish();
    }

    /// It ends with this.
    pub fn failed(&self, failure: &Failure) {
        let code = failure.code();
        let message = self.hide(&failure.to_string());
        self.machine.say(&format!("ingot: {}: {}", code.number, code.title));
        self.machine.say(&format!("ingot:   seen: {message}"));
        self.machine.say(&format!("ingot:   next: {}", code.action));
        self.log(journald::ERROR, &message, Some(code));
        self.change(|status| {
            status.state = State::Failed;
            status.failure = Some(Told::of(failure, &message));
        });
        self.event("failed", &message, Some(code));
    }

    fn hide(&self, text: &str) -> String {
        self.targets.borrow().blot.text(text)
    }

    fn say(&self, text: &str) {
        let text = self.hide(text);
        self.machine.say(&format!("ingot: {text}"));
        self.log(journald::INFO, &text, None);
    }

    fn log(&self, priority: u8, text: &str, code: Option<&Code>) {
        let stage = self.status.borrow().stage.clone();
        self.machine.log(&journald::entry(priority, text, code, (&stage, self.step.borrow().as_deref())));
    }

    /// The number of the step it is at, and how many there are.
    fn number(&self) -> (Option<usize>, Option<usize>) {
        let status = self.status.borrow();
        let at = (status.steps.len() + 1).min(status.planned);
        if status.planned == 0 { (None, None) } else { (Some(at), Some(status.planned)) }
    }

    fn event(&self, event: &str, message: &str, code: Option<&Code>) {
        let (number, of) = self.number();
        self.outbox.borrow().push(Event {
            time: self.machine.now(),
            up_millis: u64::try_from(self.machine.uptime().as_millis()).unwrap_or(u64::MAX),
            event: event.to_owned(),
            stage: self.status.borrow().stage.clone(),
            step: self.step.borrow().clone(),
            number,
            of,
            message: self.hide(message),
            code: code.map(|code| code.number.to_owned()),
            action: code.map(|code| code.action.to_owned()),
        });
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
        if self.hyper_v && self.targets.borrow().hyper_v {
            let pairs = host::pairs(&self.status.borrow());
            if self.told_host.borrow().as_ref() != Some(&pairs) {
                host::tell(self.machine, &pairs);
                self.told_host.replace(Some(pairs));
            }
        }
        let Ok(mut text) = serde_json::to_vec_pretty(&*self.status.borrow()) else { return };
        text.push(b'\n');
        // A status that cannot be written must not stop the machine: console and journal have it too.
        let _ = self.machine.make_folder("/run/ingot", Attributes::root(0o755));
        let _ = replace(self.machine, self.path, &text, Attributes::root(0o644));
    }
}
