//! What went wrong: a stable code, what was seen, and (from the code) the next action.

use std::fmt;
use std::io;

use crate::report::codes::{self, Code};

/// A failure with its code; told outermost first.
pub struct Failure {
    code: &'static Code,
    message: String,
    contexts: Vec<String>,
}

/// The result of anything in the installer that can fail.
pub type Result<T, E = Failure> = std::result::Result<T, E>;

impl Failure {
    /// `message` says what was found and what was expected, without a full stop at its end and without secrets.
    pub fn new(code: &'static Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), contexts: Vec::new() }
    }

    /// An input/output failure: `doing` is a gerund ("reading"). Full and read-only disks have codes of their own.
    pub fn io(doing: &str, path: &str, error: &io::Error) -> Self {
        let code = match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => &codes::DISK_FULL,
            io::ErrorKind::ReadOnlyFilesystem => &codes::READ_ONLY,
            _ => &codes::INPUT_OUTPUT,
        };
        Self::new(code, format!("{doing} {path}: {error}"))
    }

    /// Puts in front what was being done.
    #[must_use]
    pub fn context(mut self, doing: impl Into<String>) -> Self {
        self.contexts.push(doing.into());
        self
    }

    /// Its code.
    pub fn code(&self) -> &'static Code {
        self.code
    }

    /// Whether the disk is full or read-only: a machine can still be rendered then, but not remembered.
    pub fn is_storage(&self) -> bool {
        [codes::DISK_FULL.number, codes::READ_ONLY.number].contains(&self.code.number)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.contexts.iter().rev().try_for_each(|context| write!(f, "{context}: "))?;
        f.write_str(&self.message)
    }
}

impl fmt::Debug for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {self}", self.code.number)
    }
}

impl std::error::Error for Failure {}
