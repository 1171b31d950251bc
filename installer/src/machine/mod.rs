//! The only door to the world: files below a root, processes, clocks, the service manager.
//!
//! Paths are absolute as the machine sees them; links are followed below the root only.

mod console;
pub mod net;
#[cfg(test)]
pub mod played;
mod process;
pub mod reader;
mod real;
#[cfg(test)]
pub mod scripted;
mod sockets;

use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use profile::secret::Secret;

use crate::find::https;

pub use real::{Ownership, Real};

/// Who owns a file and what they may do with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attributes {
    /// Permission bits, at most `0o7777`.
    pub mode: u32,
    /// Number of the owner.
    pub uid: u32,
    /// Number of the group.
    pub gid: u32,
}

impl Attributes {
    /// Root's, with these permission bits.
    pub fn root(mode: u32) -> Self {
        Self { mode, uid: 0, gid: 0 }
    }
}

/// A program to run: absolute, with a cleared environment.
#[derive(Debug, Clone)]
pub struct Command {
    /// Absolute path.
    pub program: String,
    /// Arguments; never a secret, as everybody can read them.
    pub arguments: Vec<String>,
    /// What it reads; nothing by default. The place for secrets.
    pub input: Option<Secret>,
    /// It is killed after this time.
    pub deadline: Duration,
}

impl Command {
    /// A program with arguments, 30 s and nothing to read.
    pub fn new(program: &str, arguments: &[&str]) -> Self {
        let arguments = arguments.iter().map(|argument| (*argument).to_owned()).collect();
        Self { program: program.to_owned(), arguments, input: None, deadline: Duration::from_secs(30) }
    }

    /// Another deadline.
    #[must_use]
    pub fn within(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }
}

impl std::fmt::Display for Command {
    /// As a shell would take it.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.program)?;
        for argument in &self.arguments {
            let plain = !argument.is_empty() && argument.bytes().all(|c| c.is_ascii_alphanumeric() || b"-_./:=,@%+".contains(&c));
            if plain { write!(f, " {argument}")? } else { write!(f, " '{}'", argument.replace('\'', r"'\''"))? }
        }
        Ok(())
    }
}

/// How a program ended.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Output {
    /// Exit code; `None` when it was killed, by its deadline or another signal.
    pub code: Option<i32>,
    /// The first 256 KiB it wrote to standard output.
    pub out: String,
    /// The last 4 KiB it wrote to standard error.
    pub tail: String,
}

impl Output {
    /// Whether it ended well.
    pub fn ok(&self) -> bool {
        self.code == Some(0)
    }
}

/// What is listened for on an interface.
#[derive(Debug, Clone, Copy)]
pub struct Overheard<'a> {
    /// Name of the interface.
    pub interface: &'a str,
    /// Number of the protocol over IP.
    pub protocol: u8,
    /// The multicast group that is joined meanwhile; its family is the one listened to.
    pub group: IpAddr,
    /// For how long.
    pub time: Duration,
}

/// What arrived.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Datagram {
    /// Who sent it.
    pub source: IpAddr,
    /// What follows the IP header.
    pub bytes: Vec<u8>,
}

/// Room of a file system, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Space {
    /// All of it.
    pub total: u64,
    /// What everybody may still take.
    pub free: u64,
}

/// The world as the installer sees it. Every effect goes through here, so a folder and a script can stand for a machine.
pub trait Machine {
    /// Whether this is the running machine: only then are programs run and units told.
    fn live(&self) -> bool;

    /// Whether owners of files are set and asked for.
    fn ownership(&self) -> Ownership;

    /// The bytes of a file, at most 64 MiB; `None` where there is none.
    fn read(&self, path: &str) -> io::Result<Option<Vec<u8>>>;

    /// When a file was last changed: seconds since 1970.
    fn modified(&self, path: &str) -> io::Result<u64>;

    /// Opens a block device for reading.
    fn open(&self, device: &str) -> io::Result<std::fs::File>;

    /// The folder systemd names in `$CREDENTIALS_DIRECTORY`.
    fn credentials(&self) -> Option<String>;

    /// Who owns the file or folder (a link is followed); `None` where there is none.
    fn attributes(&self, path: &str) -> io::Result<Option<Attributes>>;

    /// Where a link leads, as written; `None` where there is none.
    fn link(&self, path: &str) -> io::Result<Option<String>>;

    /// The names in a folder, sorted; none where there is no folder.
    fn list(&self, folder: &str) -> io::Result<Vec<String>>;

    /// Makes a folder and those above it (root's, 0755), and gives it these attributes.
    fn make_folder(&self, path: &str, attributes: Attributes) -> io::Result<()>;

    /// Makes or empties a file, writes it and waits until it is on the disk.
    fn write(&self, path: &str, bytes: &[u8], attributes: Attributes) -> io::Result<()>;

    /// Writes to a file of the kernel, in one go (`/proc/sys`).
    fn write_kernel(&self, path: &str, bytes: &[u8]) -> io::Result<()>;

    /// Adds to a file of root (0600) and waits until it is on the disk.
    fn append(&self, path: &str, bytes: &[u8]) -> io::Result<()>;

    /// Gives a file another name in the same file system.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Removes a file or link; nothing where there is none.
    fn remove(&self, path: &str) -> io::Result<()>;

    /// Waits until the names of a folder are on the disk.
    fn sync_folder(&self, path: &str) -> io::Result<()>;

    /// Runs a program to its end.
    fn run(&self, command: &Command) -> io::Result<Output>;

    /// Listens to the network; nothing is sent.
    fn overhear(&self, what: &Overheard<'_>) -> io::Result<Vec<Datagram>>;

    /// Asks a service on a local socket and reads its answer to the end.
    fn ask(&self, socket: &str, question: &str, within: Duration) -> io::Result<String>;

    /// Asks a server for a file, once: [`https::get`] with its bounds.
    ///
    /// # Errors
    /// Why there is no answer; a folder that stands for a machine asks nobody.
    fn fetch(&self, request: &https::Request) -> Result<https::Answer, https::Trouble>;

    /// Seconds since 1970 by a clock that may be wrong.
    fn now(&self) -> u64;

    /// Time since some moment of this boot; never runs back.
    fn uptime(&self) -> Duration;

    /// Does nothing for this long.
    fn sleep(&self, time: Duration);

    /// A line for the person at the screen.
    fn say(&self, line: &str);

    /// Whether lines go to screens and over serial lines; to both until this is called.
    fn consoles(&self, screens: bool, serial: bool);

    /// Changes a file (root's, 0644, at most `most` bytes) in place, under an fcntl lock, as its other users do. What
    /// does not differ is not written.
    ///
    /// # Errors
    /// [`io::ErrorKind::WouldBlock`] where another holds the lock for a second.
    fn rewrite(&self, path: &str, most: usize, change: &mut dyn FnMut(&[u8]) -> Vec<u8>) -> io::Result<()>;

    /// The room of the file system a path is in.
    fn space(&self, path: &str) -> io::Result<Space>;

    /// The network.
    fn net(&self) -> Arc<dyn net::Net>;

    /// Tells the service manager (sd_notify(3)).
    fn notify(&self, state: &str);

    /// An entry for the journal: native protocol, already encoded.
    fn log(&self, entry: &[u8]);
}

/// What the kernel and programs write, as text; `None` where there is no such file. Rubbish bytes are replaced.
///
/// # Errors
/// What the machine says about the file.
pub fn read_text(machine: &dyn Machine, path: &str) -> crate::Result<Option<String>> {
    let bytes = machine.read(path).map_err(|e| crate::Failure::io("reading", path, &e))?;
    Ok(bytes.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()))
}

/// The folder a path is in.
pub fn parent(path: &str) -> &str {
    path.rsplit_once('/').map_or("/", |(folder, _)| if folder.is_empty() { "/" } else { folder })
}

/// Writes a file so that after a crash it is either the former or the new one: temporary, fsync, rename, fsync of the folder.
///
/// # Errors
/// Any step of it; the former file is then untouched.
pub fn replace(machine: &dyn Machine, path: &str, bytes: &[u8], attributes: Attributes) -> crate::Result<()> {
    let temporary = format!("{path}.ingot-new");
    let written = machine
        .write(&temporary, bytes, attributes)
        .and_then(|()| machine.rename(&temporary, path))
        .and_then(|()| machine.sync_folder(parent(path)));
    written.map_err(|error| {
        // What is left over is no harm, but takes room; the first error is the one to tell.
        let _ = machine.remove(&temporary);
        crate::Failure::io("writing", path, &error)
    })
}

/// Runs a program that must end well.
///
/// # Errors
/// [`crate::report::codes::PROGRAM_MISSING`], [`crate::report::codes::PROGRAM_FAILED`] with its last words.
pub fn run(machine: &dyn Machine, command: &Command) -> crate::Result<Output> {
    use crate::report::codes;
    let output = machine.run(command).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => {
            crate::Failure::new(&codes::PROGRAM_MISSING, format!("{} is not in the image", command.program))
        }
        _ => crate::Failure::io("running", &command.program, &error),
    })?;
    if output.ok() {
        return Ok(output);
    }
    let end = output
        .code
        .map_or_else(|| format!("was killed (it had {} s)", command.deadline.as_secs()), |code| format!("ended with {code}"));
    let tail = if output.tail.trim().is_empty() { output.out.trim() } else { output.tail.trim() };
    let last: Vec<&str> = tail.lines().rev().take(5).collect();
    let words: Vec<&str> = last.into_iter().rev().collect();
    Err(crate::Failure::new(&codes::PROGRAM_FAILED, format!("`{command}` {end}: {}", words.join(" / "))))
}

/// Waits until udev has done what it has to do with the devices the kernel has told it of, 30 s at most.
///
/// # Errors
/// It cannot be asked.
pub fn devices_settled(machine: &dyn Machine) -> crate::Result<()> {
    let settle = Command::new("/usr/bin/udevadm", &["settle", "--timeout=30"]).within(Duration::from_secs(40));
    machine.run(&settle).map(drop).map_err(|e| crate::Failure::io("running", &settle.program, &e))
}
