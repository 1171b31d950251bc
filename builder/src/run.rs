//! The one door for processes: absolute program, empty environment, no standard input, and an
//! error that shows the command and the end of what it said.

use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};

use crate::error::{Error, Kind, Result};

/// How much of a failed program's error output goes into the message.
const TAIL_BYTES: usize = 2048;

/// A program to be run, shown as a shell would take it.
#[derive(Debug, Clone)]
pub struct Program {
    path: PathBuf,
    arguments: Vec<OsString>,
    environment: Vec<(OsString, OsString)>,
}

impl Program {
    /// The program `name`, found in the usual system folders (never through the caller's PATH).
    ///
    /// # Errors
    /// [`Kind::Missing`] with `hint` (how to get it) where there is none.
    pub fn find(name: &str, hint: &str) -> Result<Self> {
        ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"]
            .iter()
            .map(|folder| Path::new(folder).join(name))
            .find(|path| path.is_file())
            .map(|path| Self { path, arguments: Vec::new(), environment: Vec::new() })
            .ok_or_else(|| Error::new(Kind::Missing, format!("the program `{name}` is not on this machine")).hint(hint))
    }

    /// The program at this absolute path, there or not: for what is not part of the machine's system.
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), arguments: Vec::new(), environment: Vec::new() }
    }

    /// Where the program is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Adds one argument.
    #[must_use]
    pub fn arg(mut self, argument: impl Into<OsString>) -> Self {
        self.arguments.push(argument.into());
        self
    }

    /// Adds a variable to the otherwise empty environment.
    #[must_use]
    pub fn env(mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.environment.push((name.into(), value.into()));
        self
    }

    /// The standard library's form, environment cleared and standard input empty.
    #[allow(clippy::disallowed_methods, reason = "this is the one door")]
    pub fn command(&self) -> Command {
        let mut command = Command::new(&self.path);
        command.args(&self.arguments).env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").env("LC_ALL", "C.UTF-8");
        command.envs(self.environment.iter().map(|(name, value)| (name, value))).stdin(Stdio::null());
        command
    }

    /// Runs it to its end and gives its standard output.
    ///
    /// # Errors
    /// When it cannot start or does not succeed, with the end of its error output.
    pub fn output(&self) -> Result<Vec<u8>> {
        let output = self.command().output().map_err(|e| Error::new(Kind::Missing, format!("starting `{self}`: {e}")))?;
        if output.status.success() {
            return Ok(output.stdout);
        }
        let said = String::from_utf8_lossy(&output.stderr[output.stderr.len().saturating_sub(TAIL_BYTES)..]).trim().to_owned();
        Err(Error::new(
            Kind::Failed,
            format!("`{self}` {}{}{said}", ending(output.status), if said.is_empty() { "" } else { ": " }),
        ))
    }
}

/// How a process ended, in words.
pub fn ending(status: ExitStatus) -> String {
    use std::os::unix::process::ExitStatusExt;
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("ended with code {code}"),
        (None, Some(signal)) => format!("was ended by signal {signal}"),
        (None, None) => "ended".to_owned(),
    }
}

impl fmt::Display for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.path.display())?;
        for argument in &self.arguments {
            let text = argument.to_string_lossy();
            if !text.is_empty() && text.chars().all(|c| c.is_alphanumeric() || "-_./=:,@+%".contains(c)) {
                write!(f, " {text}")?;
            } else {
                write!(f, " '{}'", text.replace('\'', "'\\''"))?;
            }
        }
        Ok(())
    }
}
