//! Rules for texts: what a name, a path or an address looks like, and how a person is told.

use crate::document::{Told, quoted};

/// A rule for a text.
#[derive(Debug, Clone, Copy)]
pub struct Rule {
    /// What the text is: `package name`.
    pub what: &'static str,
    /// What it must look like, in words.
    pub expected: &'static str,
    /// Whether a text holds to it.
    pub holds: fn(&str) -> bool,
}

impl Rule {
    /// Whether the text holds to the rule.
    pub fn holds(&self, text: &str) -> bool {
        (self.holds)(text)
    }

    /// Why this text does not.
    pub fn told(&self, text: &str) -> String {
        format!("{} is no {}: expected {}", quoted(text), self.what, self.expected)
    }

    /// The same for a document that may be sealed.
    pub(crate) fn refused(&self, text: &str) -> Told {
        Told::with_value(self.told(text), format!("this is no {}: expected {}", self.what, self.expected))
    }
}

/// Only these characters, at least one, at most `most` bytes.
pub fn only(text: &str, most: usize, allowed: fn(char) -> bool) -> bool {
    !text.is_empty() && text.len() <= most && text.chars().all(allowed)
}

/// Whether the first character is one of these.
pub fn starts(text: &str, first: fn(char) -> bool) -> bool {
    text.chars().next().is_some_and(first)
}

/// A lower-case ASCII letter or a digit.
pub fn lower(c: char) -> bool {
    c.is_ascii_lowercase() || c.is_ascii_digit()
}

/// An ASCII letter or a digit.
pub fn alnum(c: char) -> bool {
    c.is_ascii_alphanumeric()
}

/// A path without its first `/`: no empty parts, no `.` or `..`, no control characters.
pub fn plain_parts(text: &str) -> bool {
    text.len() < 4096
        && !text.chars().any(char::is_control)
        && text.split('/').all(|part| !part.is_empty() && part != "." && part != ".." && part.len() <= 255)
}
