//! Where a profile comes from: every source is read, every outcome named.
//!
//! | order | source | file |
//! |---|---|---|
//! | 1 | systemd credential `ingot.profile`; SMBIOS type 11 and fw_cfg themselves, as images import no credentials | `credential.rs`, `smbios.rs` |
//! | 2 | disk labelled `INGOT`: `<name or UUID of the machine>.toml` or `profile.toml` | `disk.rs`, `fat.rs`, `iso.rs` |
//! | 3 | disk labelled `cidata` (NoCloud): `user-data` | `disk.rs` |
//! | 4 | Hyper-V key-value pairs, pools 0 and 3 | `kvp.rs` |
//! | 5 | EFI system partition: `/loader/credentials/ingot.profile.cred`, `/ingot/profile.toml` | `disk.rs` |
//! | 6 | `ingot.profile=https://...` of the signed command line | `https.rs` |
//! | 7 | the copy on the state partition: the profile that made this node | here |
//!
//! Sources 1 to 5 are all read; those that hold a profile must hold the same bytes. The network is
//! asked only where none of them has one, and not before it is there: a machine without copy waits for the
//! server, one with a copy takes that at once and asks the server when its network is up ([`ask`]). The copy
//! is what the machine falls back to: a profile from elsewhere replaces it, and whether it may is for
//! [`crate::verify`] to say.

use std::fmt::Write as _;
use std::io::{self, Read, Seek};

use trust::Sha256Digest;

mod credential;
mod disk;
mod fat;
#[cfg(test)]
pub(crate) mod fixture;
pub mod https;
mod iso;
mod kvp;
mod smbios;
#[cfg(test)]
mod tests;
mod volume;
#[cfg(test)]
mod volume_tests;

pub(crate) use credential::named;
pub(crate) use disk::product_uuid;
pub(crate) use kvp::identifier as hyperv_identifier;
#[cfg(test)]
pub(crate) fn read_pool(bytes: &[u8]) -> Result<std::collections::BTreeMap<String, Vec<u8>>, String> {
    kvp::parse(bytes)
}

/// Longest profile that is read, in bytes.
pub const PROFILE_LIMIT: usize = 1 << 20;
/// The copy of the profile that made this node; its signature has `.sig` behind the name.
pub const KEPT: &str = "/state/ingot/profile.toml";

/// A block device.
pub trait Device: Read + Seek {}
impl<T: Read + Seek> Device for T {}

/// What looking for a profile needs of the machine. Paths are absolute.
pub trait Reader {
    /// The bytes of a file.
    ///
    /// # Errors
    /// Those of reading; [`io::ErrorKind::FileTooLarge`] where there are more than `limit`.
    fn read(&self, path: &str, limit: usize) -> io::Result<Vec<u8>>;

    /// The names in a folder.
    ///
    /// # Errors
    /// Those of reading.
    fn list(&self, folder: &str) -> io::Result<Vec<String>>;

    /// When a file was last changed: seconds since 1970.
    ///
    /// # Errors
    /// Those of asking.
    fn modified(&self, path: &str) -> io::Result<u64>;

    /// Opens a block device for reading.
    ///
    /// # Errors
    /// Those of opening.
    fn open(&self, device: &str) -> io::Result<Box<dyn Device>>;

    /// The folder systemd names in `$CREDENTIALS_DIRECTORY`.
    fn credentials(&self) -> Option<String>;

    /// What the clock says, right or wrong: seconds since 1970.
    fn clock(&self) -> u64;

    /// Asks a server; [`https::get`] is the way to do it.
    ///
    /// # Errors
    /// Why there is no answer.
    fn get(&self, request: &https::Request) -> Result<https::Answer, https::Trouble>;
}

/// A profile as it was found: nothing about it is checked yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// Where it was, for people.
    pub source: String,
    /// Its exact bytes.
    pub profile: Vec<u8>,
    /// Text of the SSH signature beside it.
    pub signature: Option<String>,
}

/// What looking brought.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Found {
    /// Profiles, in the order of their sources; without [`Found::kept`].
    pub candidates: Vec<Candidate>,
    /// The copy of the profile that made this node.
    pub kept: Option<Candidate>,
    /// Every source that was looked at, and what came of it.
    pub tried: Vec<(String, String)>,
    /// A server did not answer, or was not asked yet: a later try may bring more.
    pub unreachable: bool,
}

/// Why there is no one profile.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Undecided {
    /// Two sources hold different profiles.
    #[error(
        "expected one profile, found two that differ: {first} (SHA-256 {first_digest}) and {second} (SHA-256 {second_digest})"
    )]
    Disagree {
        /// The source that comes first in order.
        first: String,
        /// Digest of its profile.
        first_digest: Sha256Digest,
        /// The source that differs.
        second: String,
        /// Digest of its profile.
        second_digest: Sha256Digest,
    },
    /// No source holds one.
    #[error("expected a profile, found none:{tried}")]
    Nothing {
        /// Every outcome, a line each.
        tried: String,
        /// Whether a later try may bring one.
        later: bool,
    },
}

impl Undecided {
    /// The exit code of DESIGN.md, section 5: documents that contradict each other, a later try, or
    /// nothing to work with.
    pub fn exit_code(&self) -> u8 {
        match self {
            Undecided::Disagree { .. } => 3,
            Undecided::Nothing { later: true, .. } => 75,
            Undecided::Nothing { later: false, .. } => 5,
        }
    }

    /// The next action.
    pub fn hint(&self) -> String {
        match self {
            Undecided::Disagree { first, second, .. } => format!("remove the profile from one of them: {first}, {second}"),
            Undecided::Nothing { later: true, .. } => "the server of the profile did not answer: it is asked again later".to_owned(),
            Undecided::Nothing { later: false, .. } => {
                "attach a disk (FAT or ISO 9660) labelled INGOT with profile.toml and profile.toml.sig, then start the machine again"
                    .to_owned()
            }
        }
    }
}

impl Found {
    /// The one profile: what all sources agree on, else the kept copy.
    ///
    /// # Errors
    /// [`Undecided`].
    pub fn choose(self) -> Result<Candidate, Undecided> {
        let Some(first) = self.candidates.first() else {
            let mut tried = String::new();
            for (source, outcome) in &self.tried {
                let _ = write!(tried, "\n  {source}: {outcome}");
            }
            return self.kept.ok_or(Undecided::Nothing { tried, later: self.unreachable });
        };
        if let Some(other) = self.candidates.iter().find(|other| other.profile != first.profile) {
            return Err(Undecided::Disagree {
                first: first.source.clone(),
                first_digest: Sha256Digest::of(&first.profile),
                second: other.source.clone(),
                second_digest: Sha256Digest::of(&other.profile),
            });
        }
        // The same bytes: the first that brings a signature speaks for all.
        let signed = self.candidates.iter().find(|candidate| candidate.signature.is_some());
        Ok(signed.unwrap_or(first).clone())
    }

    /// Takes what a source held, or the reason why it does not count.
    fn take(&mut self, source: String, held: Held) {
        match candidate(&source, held) {
            Ok(candidate) => {
                self.tried.push((source, described(&candidate)));
                self.candidates.push(candidate);
            }
            Err(reason) => self.tried.push((source, reason)),
        }
    }

    fn skip(&mut self, source: impl Into<String>, reason: impl Into<String>) {
        self.tried.push((source.into(), reason.into()));
    }
}

/// The bytes of a profile and of its signature, as a source holds them.
#[derive(Debug)]
struct Held {
    profile: Vec<u8>,
    signature: Option<Vec<u8>>,
}

fn described(candidate: &Candidate) -> String {
    let signed = if candidate.signature.is_some() { "with a signature" } else { "without a signature" };
    format!("a profile of {} bytes, {signed}", candidate.profile.len())
}

/// What can be said of any profile before it is read.
fn candidate(source: &str, held: Held) -> Result<Candidate, String> {
    let Held { profile, signature } = held;
    if profile.iter().all(u8::is_ascii_whitespace) {
        return Err(format!("empty: {} bytes of nothing but blanks", profile.len()));
    }
    if profile.len() > PROFILE_LIMIT {
        return Err(format!("broken: expected {PROFILE_LIMIT} bytes at most, found {}", profile.len()));
    }
    let signature = match signature {
        None => None,
        Some(bytes) if bytes.len() > trust::signature::LIMIT => {
            let limit = trust::signature::LIMIT;
            return Err(format!("broken: expected a signature of {limit} bytes at most, found {}", bytes.len()));
        }
        Some(bytes) => Some(String::from_utf8(bytes).map_err(|e| format!("broken: its signature is not text: {e}"))?),
    };
    Ok(Candidate { source: source.to_owned(), profile, signature })
}

/// Looks at every source.
pub fn find(reader: &dyn Reader) -> Found {
    let mut found = local(reader);
    https::look(reader, &mut found);
    look_kept(reader, &mut found);
    found
}

/// Looks at every source but the server, which is only named: the network is not there yet.
pub fn find_early(reader: &dyn Reader) -> Found {
    let mut found = local(reader);
    https::name(reader, &mut found);
    look_kept(reader, &mut found);
    found
}

/// Asks the server that the command line names, and nobody else.
pub fn ask(reader: &dyn Reader) -> Found {
    let mut found = Found::default();
    https::look(reader, &mut found);
    found
}

fn local(reader: &dyn Reader) -> Found {
    let mut found = Found::default();
    credential::look(reader, &mut found);
    let mut volumes = disk::volumes(reader, &mut found);
    let names = disk::names(reader);
    disk::look_labelled(&mut volumes, &names, &mut found);
    disk::look_nocloud(&mut volumes, &mut found);
    kvp::look(reader, &mut found);
    disk::look_system_partition(&mut volumes, &mut found);
    found
}

/// The profile in a file somebody names, with its signature at `path.sig`: nothing else is looked at.
pub fn file(reader: &dyn Reader, path: &str) -> Found {
    let mut found = Found::default();
    match beside(reader, path) {
        Ok(Some(held)) => found.take(path.to_owned(), held),
        Ok(None) => found.skip(path, "not there"),
        Err(reason) => found.skip(path, reason),
    }
    found
}

fn look_kept(reader: &dyn Reader, found: &mut Found) {
    const SOURCE: &str = "state partition";
    let kept = match beside(reader, KEPT) {
        Ok(Some(held)) => candidate(SOURCE, held),
        Ok(None) => Err("no copy: this machine was not made yet".to_owned()),
        Err(reason) => Err(reason),
    };
    match kept {
        Ok(candidate) => {
            found.skip(SOURCE, described(&candidate));
            found.kept = Some(candidate);
        }
        Err(reason) => found.skip(SOURCE, reason),
    }
}

/// A file and its signature beside it.
fn beside(reader: &dyn Reader, path: &str) -> Result<Option<Held>, String> {
    let Some(profile) = optional(reader, path, PROFILE_LIMIT)? else { return Ok(None) };
    Ok(Some(Held { profile, signature: optional(reader, &format!("{path}.sig"), trust::signature::LIMIT)? }))
}

/// A file that may be missing.
fn optional(reader: &dyn Reader, path: &str, limit: usize) -> Result<Option<Vec<u8>>, String> {
    match reader.read(path, limit) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(e) if absent(&e) => Ok(None),
        Err(e) if e.kind() == io::ErrorKind::FileTooLarge => {
            Err(format!("broken: expected {limit} bytes at most in {path}, found more"))
        }
        Err(e) => Err(format!("broken: reading {path}: {e}")),
    }
}

fn absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}
