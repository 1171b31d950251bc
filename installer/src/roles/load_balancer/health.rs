//! `ingot-installer check-haproxy`: what keepalived runs every second to learn whether this machine may have the addresses.
//!
//! It asks one thing: does HAProxy answer on its runtime socket, and is it not about to stop? Whether API servers are up
//! does not count. It could not: when all of them are down (a cluster that starts, or one that is broken) each balancer
//! would find its check failed, all would give the addresses up, and nobody would have them when the first server
//! is back. So whoever has them keeps them; and a balancer that cannot reach servers that the other one does is told by
//! its own log and statistics, not by VRRP, which does not know the other's view.

use std::time::Duration;

use super::haproxy::SOCKET;
use crate::failure::{Failure, Result};
use crate::machine::Machine;
use crate::report::codes;

/// Less than keepalived waits for it (`timeout 1`).
const WITHIN: Duration = Duration::from_millis(800);

/// Holds while HAProxy answers.
///
/// # Errors
/// [`codes::HAPROXY_SILENT`].
pub fn check(machine: &dyn Machine) -> Result<()> {
    let silent = |what: String| Failure::new(&codes::HAPROXY_SILENT, format!("{SOCKET}: {what}"));
    let answer = machine.ask(SOCKET, "show info\n", WITHIN).map_err(|error| silent(error.to_string()))?;
    judge(&answer).map_err(silent)
}

/// The answer to `show info`: `Name: value` lines.
fn judge(answer: &str) -> Result<(), String> {
    let value = |name: &str| answer.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim);
    match (value("Name"), value("Stopping")) {
        (Some("HAProxy"), Some("0") | None) => Ok(()),
        (Some("HAProxy"), Some(_)) => Err("HAProxy is about to stop".to_owned()),
        _ => {
            let found: String = answer.chars().take(60).flat_map(char::escape_debug).collect();
            Err(format!("expected HAProxy's answer to `show info`, found `{found}`"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::judge;

    #[test]
    fn answers() {
        assert_eq!(judge("Name: HAProxy\nVersion: 3.0.11\nStopping: 0\n"), Ok(()));
        for wrong in ["", "Name: HAProxy\nStopping: 1\n", "Name: other\n", "Permission denied\n"] {
            assert!(judge(wrong).is_err(), "{wrong}");
        }
    }
}
