//! What went wrong, in the words a person at the console needs: what was done, what was expected,
//! what was found, what to do next.

use std::fmt;

/// A step that could not be done. The machine does not start then.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// Gerund phrase: "finding the root partition".
    pub doing: String,
    /// What should have been there.
    pub expected: String,
    /// What was there.
    pub found: String,
    /// The next action of the person who reads this.
    pub next: String,
}

impl Failure {
    /// A failure while `doing`, with what was `found`; say the rest with the other functions.
    pub fn new(doing: impl Into<String>, found: impl Into<String>) -> Self {
        Self { doing: doing.into(), expected: String::new(), found: found.into(), next: String::new() }
    }

    /// What should have been there.
    #[must_use]
    pub fn expected(mut self, expected: impl Into<String>) -> Self {
        self.expected = expected.into();
        self
    }

    /// The next action.
    #[must_use]
    pub fn next(mut self, next: impl Into<String>) -> Self {
        self.next = next.into();
        self
    }
}

impl fmt::Display for Failure {
    /// One line for each part that is there.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FAILED: {}", self.doing)?;
        for (label, text) in [("expected", &self.expected), ("found", &self.found), ("next", &self.next)] {
            if !text.is_empty() {
                write!(f, "\n  {label}: {text}")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_says_its_parts_line_by_line() {
        let failure = Failure::new("reading x", "nothing").expected("a thing").next("look");
        assert_eq!(failure.to_string(), "FAILED: reading x\n  expected: a thing\n  found: nothing\n  next: look");
        assert_eq!(Failure::new("x", "y").to_string(), "FAILED: x\n  found: y");
    }
}
