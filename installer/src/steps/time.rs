//! Clocks: which servers are asked, and a wait for a right clock that always ends.

use std::time::Duration;

use super::files::{Files, Wanted};
use super::{How, UnitAction, Verdict, Work, World};
use crate::failure::{Failure, Result};
use crate::machine::{Attributes, Machine, replace};
use crate::report::codes;

/// timesyncd makes it when the clock is right.
const SYNCHRONISED: &str = "/run/systemd/timesync/synchronized";

/// That we waited in this boot, in vain.
const WAITED: &str = "/run/ingot/clock-waited";

/// Settings of timesyncd.
pub fn servers(servers: &[String]) -> Files {
    let folder = "/etc/systemd/timesyncd.conf.d";
    let text = format!("# Made by ingot-installer.\n[Time]\nNTP={}\nFallbackNTP=\n", servers.join(" "));
    let files = if servers.is_empty() { vec![] } else { vec![Wanted::public(format!("{folder}/50-ingot.conf"), text)] };
    Files::of(files).sweep(folder, "50-ingot").tell(UnitAction::new(How::Restart, "systemd-timesyncd.service"))
}

/// A right clock, or a warning.
#[derive(Debug)]
pub struct Clock {
    /// Seconds to wait.
    pub wait_secs: u32,
}

fn there(machine: &dyn Machine, path: &str) -> Result<bool> {
    Ok(machine.attributes(path).map_err(|e| Failure::io("reading", path, &e))?.is_some())
}

impl Work for Clock {
    fn lines(&self) -> Vec<String> {
        vec![format!("waits at most {} s for a synchronised clock, then goes on", self.wait_secs)]
    }

    fn input(&self) -> Vec<u8> {
        self.wait_secs.to_le_bytes().into()
    }

    fn check(&self, machine: &dyn Machine) -> Result<Verdict> {
        if self.wait_secs == 0 || !machine.live() || there(machine, SYNCHRONISED)? || there(machine, WAITED)? {
            return Ok(Verdict::Holds);
        }
        Ok(Verdict::Differs("the clock is not synchronised yet".to_owned()))
    }

    fn apply(&self, world: World<'_>) -> Result<()> {
        let most = Duration::from_secs(self.wait_secs.into());
        let end = world.machine.uptime().saturating_add(most);
        while world.machine.uptime() < end {
            if there(world.machine, SYNCHRONISED)? {
                return Ok(());
            }
            world.report.waiting("clock", "a time server", most);
            world.machine.sleep(Duration::from_millis(250));
        }
        let message = format!("no time server answered within {} s; the clock says {}", self.wait_secs, world.machine.now());
        world.report.warn(&Failure::new(&codes::CLOCK_NOT_SET, message));
        replace(world.machine, WAITED, b"", Attributes::root(0o644))
    }
}
