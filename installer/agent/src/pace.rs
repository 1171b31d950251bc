//! How long a change waits for others, so that many become one.
//!
//! One alone waits 50 ms. In a burst each reload waits longer than the one before (250 ms more for each of the last
//! minute, at most 10 s): every reload leaves a former HAProxy with the connections it has, and there is room for 50.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

/// Changes come in groups: this long after the last one.
const QUIET: Duration = Duration::from_millis(50);
/// But not longer than this after the first.
const LONGEST: Duration = Duration::from_millis(200);
const STEP: Duration = Duration::from_millis(250);
const MOST: Duration = Duration::from_secs(10);
const WINDOW: Duration = Duration::from_secs(60);

/// See the module.
#[derive(Debug, Default)]
pub struct Pace {
    reloads: VecDeque<Instant>,
    first: Option<Instant>,
    last: Option<Instant>,
}

impl Pace {
    /// Something changed.
    pub fn changed(&mut self, now: Instant) {
        self.first.get_or_insert(now);
        self.last = Some(now);
    }

    /// When it is time to act; `None`: nothing changed.
    pub fn due(&self) -> Option<Instant> {
        let (first, last) = (self.first?, self.last?);
        let calm = (last + QUIET).min(first + LONGEST);
        let recent = self.reloads.iter().filter(|at| **at + WINDOW > last).count();
        let gap = STEP.saturating_mul(u32::try_from(recent).unwrap_or(u32::MAX)).min(MOST);
        Some(self.reloads.back().map_or(calm, |reload| calm.max(*reload + gap)))
    }

    /// It is acted on.
    pub fn taken(&mut self) {
        (self.first, self.last) = (None, None);
    }

    /// HAProxy was reloaded.
    pub fn reloaded(&mut self, now: Instant) {
        while self.reloads.front().is_some_and(|at| *at + WINDOW <= now) {
            self.reloads.pop_front();
        }
        self.reloads.push_back(now);
    }
}
