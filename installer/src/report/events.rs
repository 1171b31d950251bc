//! Events, posted as JSON to `[report] url`. A thread of its own sends them, so that nothing waits for a server; those
//! from before the network are sent when it is there, those nobody took are kept for the next run.
//!
//! One POST holds all that wait: `{"schema":1,"machine":{...},"events":[...]}`. A server that has taken them answers 2xx.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::machine::net::{Ask, Net};
use crate::machine::{Attributes, Machine, read_text, replace};

/// Where events are that nobody took.
pub const KEPT: &str = "/run/ingot/events.json";

/// More are not kept: the oldest go first.
const MOST: usize = 64;

/// One POST.
const WITHIN: Duration = Duration::from_secs(3);

/// After one that failed.
const PAUSE: Duration = Duration::from_secs(5);

/// What happened.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Seconds since 1970 by a clock that may be wrong.
    pub time: u64,
    /// Milliseconds since the machine started.
    pub up_millis: u64,
    /// `stage`, `step`, `waiting`, `warning`, `failed` or `ready`.
    pub event: String,
    /// Stage of the sequence.
    pub stage: String,
    /// The step it is at.
    pub step: Option<String>,
    /// Its number, from 1, where it is known how many there are.
    pub number: Option<usize>,
    /// How many there are.
    pub of: Option<usize>,
    /// For people.
    pub message: String,
    /// `INGOT-Nnnnn`.
    pub code: Option<String>,
    /// What to do next.
    pub action: Option<String>,
}

/// Who sends.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Sender {
    /// Name in the profile.
    pub name: String,
    /// UUID the firmware gives.
    pub uuid: Option<String>,
    /// `IMAGE_ID`.
    pub image: Option<String>,
    /// `IMAGE_VERSION`.
    pub version: Option<String>,
}

/// Events that nobody took so far.
pub fn kept(machine: &dyn Machine) -> Vec<Event> {
    let text = read_text(machine, KEPT).ok().flatten();
    let mut events: Vec<Event> = text.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default();
    events.drain(..events.len().saturating_sub(MOST));
    events
}

#[derive(Default)]
struct Queue {
    events: VecDeque<Event>,
    stop: bool,
    ended: bool,
}

#[derive(Default)]
struct Shared {
    queue: Mutex<Queue>,
    changed: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What waits to be sent.
#[derive(Default)]
pub(super) struct Outbox {
    shared: Arc<Shared>,
    sending: bool,
}

impl Outbox {
    /// Takes one more.
    pub(super) fn push(&self, event: Event) {
        let mut queue = self.shared.lock();
        while queue.events.len() >= MOST {
            queue.events.pop_front();
        }
        queue.events.push_back(event);
        self.shared.changed.notify_all();
    }

    /// Whether they are sent already.
    pub(super) fn sends(&self) -> bool {
        self.sending
    }

    /// From now on they are sent: `ask` says to whom.
    pub(super) fn send(&mut self, net: Arc<dyn Net>, ask: Ask, sender: Sender) {
        if self.sending {
            return;
        }
        let shared = self.shared.clone();
        let thread = std::thread::Builder::new().name("report".to_owned());
        // Without a thread they stay where they are, and are kept.
        self.sending = thread.spawn(move || deliver(&shared, &*net, &ask, &sender)).is_ok();
    }

    /// Puts those of an earlier run in front.
    pub(super) fn earlier(&self, machine: &dyn Machine) {
        let mut queue = self.shared.lock();
        for event in kept(machine).into_iter().rev() {
            if queue.events.len() < MOST {
                queue.events.push_front(event);
            }
        }
    }

    /// Gives it at most so long to send what waits, and keeps the rest. Returns how many were not taken.
    pub(super) fn finish(&self, machine: &dyn Machine, within: Duration) -> usize {
        let mut queue = self.shared.lock();
        queue.stop = true;
        self.shared.changed.notify_all();
        if self.sending {
            let waited = self.shared.changed.wait_timeout_while(queue, within, |queue| !queue.ended);
            queue = waited.map_or_else(|poisoned| poisoned.into_inner().0, |(queue, _)| queue);
        }
        let rest: Vec<&Event> = queue.events.iter().collect();
        if !self.sending || rest.is_empty() {
            // Nobody asked for them, or all were taken.
            let _ = machine.remove(KEPT);
            return 0;
        }
        let text = serde_json::to_vec(&rest).unwrap_or_default();
        // What cannot be kept is lost, and the status has it all the same.
        let _ = replace(machine, KEPT, &text, Attributes::root(0o600));
        rest.len()
    }
}

fn deliver(shared: &Shared, net: &dyn Net, ask: &Ask, sender: &Sender) {
    let mut queue = shared.lock();
    loop {
        let waited = shared.changed.wait_while(queue, |queue| queue.events.is_empty() && !queue.stop);
        queue = waited.unwrap_or_else(PoisonError::into_inner);
        let last = queue.stop;
        if !queue.events.is_empty() {
            let events: Vec<Event> = queue.events.iter().cloned().collect();
            drop(queue);
            let taken = post(net, ask, sender, &events);
            queue = shared.lock();
            if taken {
                // New ones may have pushed old ones out meanwhile.
                queue.events.retain(|event| !events.contains(event));
            } else if !last {
                let waited = shared.changed.wait_timeout_while(queue, PAUSE, |queue| !queue.stop);
                queue = waited.map_or_else(|poisoned| poisoned.into_inner().0, |(queue, _)| queue);
            }
        }
        if last {
            queue.ended = true;
            shared.changed.notify_all();
            return;
        }
    }
}

fn post(net: &dyn Net, ask: &Ask, sender: &Sender, events: &[Event]) -> bool {
    let Ok(body) = serde_json::to_vec(&serde_json::json!({ "schema": 1, "machine": sender, "events": events })) else {
        return false;
    };
    // The clock may have been set since we began.
    let at = events.last().map_or(ask.at, |event| event.time.max(ask.at));
    let ask = Ask { post: Some(body), within: WITHIN, limit: 1 << 10, at, ..ask.clone() };
    net.ask(&ask).is_ok_and(|reply| (200..300).contains(&reply.status))
}
