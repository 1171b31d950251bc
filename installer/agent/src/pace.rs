//! How long a change waits for others, so that many become one.
//!
//! One alone waits 50 ms. After five reloads in a minute each waits longer than the one before (250 ms more for each, at
//! most 10 s): every reload leaves a former HAProxy with the connections it has, and there is room for 50.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

/// Changes come in groups: this long after the last one.
const QUIET: Duration = Duration::from_millis(50);
/// But not longer than this after the first.
const LONGEST: Duration = Duration::from_millis(200);
/// Reloads in a minute before the wait grows.
const FREE: usize = 5;
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
        let many = u32::try_from(recent.saturating_sub(FREE)).unwrap_or(u32::MAX);
        let gap = STEP.saturating_mul(many).min(MOST);
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Changes every 20 ms for a minute, as when somebody makes three thousand Services one by one.
    #[test]
    fn a_long_burst_ends_in_few_reloads_and_one_change_does_not_wait() {
        let start = Instant::now();
        let (mut pace, mut reloads, mut waited) = (Pace::default(), 0, Duration::ZERO);
        let mut since = start;
        for step in 0..3000 {
            let now = start + Duration::from_millis(20 * step);
            if pace.due().is_none() {
                since = now;
            }
            pace.changed(now);
            if pace.due().is_some_and(|due| due <= now) {
                pace.taken();
                pace.reloaded(now);
                reloads += 1;
                waited = waited.max(now - since);
            }
        }
        assert!((10..30).contains(&reloads), "{reloads}");
        assert!(waited < Duration::from_secs(10), "{waited:?}");
        pace.taken();
        let later = start + Duration::from_secs(200);
        pace.changed(later);
        assert_eq!(pace.due(), Some(later + QUIET));
    }
}
