//! The profile that made this node, as the node noted it: no older one may follow.

use std::io;

use serde::{Deserialize, Serialize};
use trust::Sha256Digest;

use super::{Accepted, Claims, Refusal, shown};
use crate::find::Reader;

/// The note. Written with the kept copy of the profile, after the profile was applied.
pub const FORMER: &str = "/state/ingot/accepted.json";
const LIMIT: usize = 4096;

/// What is remembered of a profile.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Former {
    /// Its [`Claims::serial`].
    pub serial: u64,
    /// Its [`Claims::issued`].
    pub issued: Option<u64>,
    /// Digest of its bytes.
    pub sha256: Sha256Digest,
}

impl Former {
    /// What to remember of a profile.
    pub fn of(profile: &Accepted<'_>, claims: &Claims) -> Self {
        Self { serial: claims.serial, issued: claims.issued, sha256: profile.digest() }
    }

    /// Reads the note; `None` on a machine that was not made yet.
    ///
    /// # Errors
    /// [`Refusal::State`]: a note that cannot be read could hide a newer profile.
    pub fn read(reader: &dyn Reader) -> Result<Option<Self>, Refusal> {
        note(reader, FORMER)
    }

    /// The text of the note.
    pub fn render(&self) -> String {
        rendered(self)
    }

    fn described(&self) -> String {
        let issued = self.issued.map(|at| format!(", issued {}", shown(at))).unwrap_or_default();
        format!("serial {}{issued}", self.serial)
    }
}

/// Whether the profile may follow the former: the same bytes always; else by its serial, and between
/// equal serials by the time of issue where both tell it. An older one must say that it is meant,
/// under its own signature.
///
/// # Errors
/// [`Refusal::Older`], [`Refusal::UnsignedRollback`].
pub fn in_order(profile: &Accepted<'_>, claims: &Claims, former: Option<&Former>) -> Result<(), Refusal> {
    let Some(former) = former else { return Ok(()) };
    let found = Former::of(profile, claims);
    let earlier = found.issued.zip(former.issued).is_some_and(|(found, former)| found < former);
    let older = found.serial < former.serial || (found.serial == former.serial && earlier);
    if found.sha256 == former.sha256 || !older {
        return Ok(());
    }
    match (claims.allow_rollback, profile.signer()) {
        (true, Some(_)) => Ok(()),
        (true, None) => Err(Refusal::UnsignedRollback(found.described())),
        (false, _) => Err(Refusal::Older { former: former.described(), found: found.described() }),
    }
}

/// A note of the node about itself.
pub(super) fn note<T: for<'de> Deserialize<'de>>(reader: &dyn Reader, path: &str) -> Result<Option<T>, Refusal> {
    let refuse = |problem: String| Refusal::State { path: path.to_owned(), problem };
    match reader.read(path, LIMIT) {
        Ok(bytes) => {
            serde_json::from_slice(&bytes).map(Some).map_err(|e| refuse(format!("expected its note, found other text: {e}")))
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(refuse(e.to_string())),
    }
}

pub(super) fn rendered<T: Serialize>(note: &T) -> String {
    // Numbers, texts and digests: nothing JSON could not say.
    serde_json::to_string(note).map(|text| text + "\n").unwrap_or_default()
}
