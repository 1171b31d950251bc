//! The load balancer (DESIGN.md 6): HAProxy shares connections, keepalived moves the virtual addresses.
//!
//! Pure renderers: the same profile gives the same text. Every text that goes into a configuration is
//! checked here again, whoever made it, so that none can carry syntax of its own.

pub mod haproxy;
pub mod keepalived;
#[cfg(test)]
mod tests;

use std::fmt;

use profile::rule::Rule;

use crate::failure::Result;
use crate::plan::Input;
use crate::steps::Step;

/// The steps of a load balancer.
///
/// # Errors
/// Profile and machine do not fit.
pub fn steps(_input: Input<'_>) -> Result<Vec<Step>> {
    Ok(Vec::new())
}

/// Why no configuration is rendered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// Which object, what was found and what was expected.
    pub told: String,
    /// What to do next.
    pub hint: &'static str,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; {}", self.told, self.hint)
    }
}

impl std::error::Error for Refusal {}

/// The text itself, if it holds to the rule; `object` names where it stands.
fn checked<'a>(rule: &Rule, object: &str, text: &'a str) -> Result<&'a str, Refusal> {
    if rule.holds(text) {
        Ok(text)
    } else {
        Err(Refusal { told: format!("{object}: {}", rule.told(text)), hint: "correct it in the profile" })
    }
}
