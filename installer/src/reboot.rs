//! That the machine should be started again when it suits: the files that kured and others of its kind look for. The
//! installer never does it by itself.

use crate::failure::{Failure, Result};
use crate::machine::{Attributes, Machine, read_text, replace};

/// It is there: the machine wants to be started again (`/var/run` is `/run`).
pub const SENTINEL: &str = "/run/reboot-required";
/// Why, a line each.
pub const REASONS: &str = "/run/reboot-required.pkgs";

/// Asks for a restart. Both files are in memory: the restart takes them away.
///
/// # Errors
/// They cannot be written.
pub fn ask(machine: &dyn Machine, why: &str) -> Result<()> {
    let mut reasons = read_text(machine, REASONS)?.unwrap_or_default();
    if !reasons.lines().any(|line| line == why) {
        reasons += &format!("{why}\n");
        replace(machine, REASONS, reasons.as_bytes(), Attributes::root(0o644))?;
    }
    if machine.attributes(SENTINEL).map_err(|e| Failure::io("reading", SENTINEL, &e))?.is_none() {
        replace(machine, SENTINEL, b"*** System restart required ***\n", Attributes::root(0o644))?;
    }
    Ok(())
}
