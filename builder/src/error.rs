//! One error for the whole builder: what kind (which decides the exit code), what happened,
//! and what to do next.

use std::fmt;
use std::io;
use std::path::Path;

/// Which kind of failure; DESIGN.md section 5 gives the exit codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Something failed: exit code 1.
    Failed,
    /// The command line is wrong: exit code 2.
    Usage,
    /// A document (definition, lock, manifest) is wrong: exit code 3.
    Document,
    /// A signature, digest or key does not hold: exit code 4.
    Untrusted,
    /// A tool, a permission or the network is missing: exit code 5.
    Missing,
}

impl Kind {
    /// The exit code of the process.
    pub fn exit_code(self) -> u8 {
        match self {
            Kind::Failed => 1,
            Kind::Usage => 2,
            Kind::Document => 3,
            Kind::Untrusted => 4,
            Kind::Missing => 5,
        }
    }
}

/// A failure, told outermost first: `building the image: reading /x: permission denied`.
pub struct Error {
    kind: Kind,
    message: String,
    details: Option<String>,
    contexts: Vec<String>,
    hints: Vec<String>,
}

/// The result of anything in the builder that can fail.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// A failure of this kind. `message` says object, found and expected; no trailing full stop.
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), details: None, contexts: Vec::new(), hints: Vec::new() }
    }

    /// An I/O failure with what was being done: `reading`, and the path.
    pub fn io(doing: &str, path: &Path, error: &io::Error) -> Self {
        let kind = if error.kind() == io::ErrorKind::PermissionDenied { Kind::Missing } else { Kind::Failed };
        let failure = Self::new(kind, format!("{doing} {}: {error}", path.display()));
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                failure.hint("make room on that file system, or choose another folder; nothing half-written was kept")
            }
            _ => failure,
        }
    }

    /// Adds the next action for the person who reads this.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hints.push(hint.into());
        self
    }

    /// Puts a gerund phrase in front: what was being done when this happened.
    #[must_use]
    pub fn context(mut self, doing: impl Into<String>) -> Self {
        self.contexts.push(doing.into());
        self
    }

    /// Adds a longer text that stands below the message, on lines of its own: rendered faults of a document.
    #[must_use]
    pub fn details(mut self, details: impl Into<String>) -> Self {
        self.details = Some(details.into());
        self
    }

    /// Which kind of failure this is.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The next actions, in the order they were given.
    pub fn hints(&self) -> &[String] {
        &self.hints
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.contexts.iter().rev().try_for_each(|context| write!(f, "{context}: "))?;
        f.write_str(&self.message)?;
        self.details.iter().try_for_each(|details| write!(f, "\n{details}"))
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {self}", self.kind)?;
        self.hints.iter().try_for_each(|hint| write!(f, "\nhint: {hint}"))
    }
}

impl std::error::Error for Error {}

/// Puts what was being done in front of the error of a result.
pub trait Context<T> {
    /// `doing` is a gerund phrase: "reading the package index".
    ///
    /// # Errors
    /// The same error, with the phrase in front.
    fn context(self, doing: impl Into<String>) -> Result<T>;
}

impl<T> Context<T> for Result<T> {
    fn context(self, doing: impl Into<String>) -> Result<T> {
        self.map_err(|error| error.context(doing))
    }
}
