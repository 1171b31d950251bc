//! Whether a profile is believed. In this order, each question with one function:
//!
//! 1. [`Trust::accept`]: is it signed, over exactly these bytes, by somebody the image allows?
//! 2. [`in_time`]: is it valid now?
//! 3. [`in_order`]: is it no older than the profile that made this node?
//! 4. [`identity::check`]: is this machine the one that was made, and no copy of it?
//!
//! **Time.** A machine at first boot may not know the time yet. The image does not come from the
//! future, so a clock that shows less than the image's own time (that of its files) is not set, and
//! counts as the image's time. With such a clock "not valid yet" cannot be said of a profile and is
//! not; "no longer valid" can: the true time is later still.

use std::io;

use trust::signature::Untrusted;
use trust::{AllowedSigners, Namespace, Policy, RevokedKeys, Sha256Digest, Signer, Verified};

use crate::find::{Candidate, Reader};

pub mod former;
pub mod identity;
#[cfg(test)]
mod tests;

pub use former::{Former, in_order};

/// Who may sign: part of the sealed image. Its date is the image's time.
pub const ALLOWED_SIGNERS: &str = "/usr/share/ingot/trust/allowed_signers";
/// Keys that may no longer; may be missing.
pub const REVOKED_KEYS: &str = "/usr/share/ingot/trust/revoked_keys";
/// Its presence says that this image takes unsigned profiles. Made at the build only.
pub const UNSIGNED_ALLOWED: &str = "/usr/share/ingot/trust/unsigned-profiles-allowed";

/// What a profile says about itself that decides whether it is taken.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Claims {
    /// Counts the profiles of a machine up.
    pub serial: u64,
    /// When it was made: seconds since 1970, as all times here.
    pub issued: Option<u64>,
    /// Valid from this second on.
    pub not_before: Option<u64>,
    /// Valid up to this second.
    pub not_after: Option<u64>,
    /// It may follow a newer one.
    pub allow_rollback: bool,
}

/// Why a profile is not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The image's own list of keys cannot be used.
    #[error("reading {path} of the image: {problem}")]
    Image {
        /// Which file.
        path: String,
        /// Found and expected.
        problem: String,
    },
    /// It is not signed, and the image wants that.
    #[error("the profile of {0}: expected a signature beside it, found none; this image takes signed profiles only")]
    Unsigned(String),
    /// Its signature does not hold.
    #[error("the profile of {from}: {reason}")]
    Untrusted {
        /// Where the profile was.
        from: String,
        /// What does not hold.
        reason: Untrusted,
        /// Whether the clock is not set.
        unset: bool,
    },
    /// It is not valid yet.
    #[error("the profile is valid from {from} on, and it is {now}")]
    TooEarly {
        /// Its first second.
        from: String,
        /// The time.
        now: String,
    },
    /// It is no longer valid.
    #[error("the profile was valid up to {until}, and it is {now} at least")]
    TooLate {
        /// Its last second.
        until: String,
        /// The time.
        now: String,
    },
    /// A newer one made this node.
    #[error("expected a profile no older than the one that made this node ({former}), found {found}")]
    Older {
        /// Serial and time of issue of the former.
        former: String,
        /// The same of this one.
        found: String,
    },
    /// It wants to follow a newer one, but nobody signed that.
    #[error("the profile says `allow_rollback`, which counts in signed profiles only: {0}")]
    UnsignedRollback(String),
    /// What the node noted about itself cannot be read.
    #[error("reading {path} of the state partition: {problem}")]
    State {
        /// Which file.
        path: String,
        /// Found and expected.
        problem: String,
    },
    /// This is not the machine that was made.
    #[error("this machine is a copy, or was moved or put back in time: {what} was {before}, and is {now}")]
    OtherMachine {
        /// What identifies it.
        what: &'static str,
        /// As noted when it was made.
        before: String,
        /// As it is.
        now: String,
    },
}

impl Refusal {
    /// The next action.
    pub fn hint(&self) -> &'static str {
        match self {
            Refusal::Image { .. } => "the image is damaged or was built without keys: build it again",
            Refusal::Unsigned(_) => {
                "sign it: ssh-keygen -Y sign -n ingot-profile -f KEY profile.toml, and put profile.toml.sig beside it"
            }
            Refusal::Untrusted { unset: true, reason: Untrusted::NotNow { .. }, .. } => {
                "the clock of this machine is not set: set it in the hypervisor, then start the machine again"
            }
            Refusal::Untrusted { .. } => "sign exactly these bytes again, for `ingot-profile`, with a key the image allows",
            Refusal::TooEarly { .. } | Refusal::TooLate { .. } => {
                "check the machine's clock, else sign a profile that is valid now"
            }
            Refusal::Older { .. } => "raise `serial`, or, where going back is meant, say so in the profile and sign it",
            Refusal::UnsignedRollback(_) => "sign the profile",
            Refusal::State { .. } => "start with an empty state partition (factory reset), or restore it whole",
            Refusal::OtherMachine { .. } => {
                "do not copy a machine that was made: start a new one from the image. If the original is gone for good, reset this one's state partition (factory reset) and take its old node out of the cluster"
            }
        }
    }

    /// The exit code of DESIGN.md, section 5: 4 for what is not trusted.
    pub fn exit_code(&self) -> u8 {
        match self {
            Refusal::State { .. } => 1,
            _ => 4,
        }
    }
}

/// What the clock says and when the image was made: seconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Time {
    clock: u64,
    image: u64,
}

impl Time {
    /// The time of `clock` on an image of that time.
    pub fn new(clock: u64, image: u64) -> Self {
        Self { clock, image }
    }

    /// The time on this machine.
    ///
    /// # Errors
    /// Where the image's time cannot be had.
    pub fn of(reader: &dyn Reader) -> Result<Self, Refusal> {
        let image = reader.modified(ALLOWED_SIGNERS).map_err(|e| image_error(ALLOWED_SIGNERS, e))?;
        Ok(Self::new(reader.clock(), image))
    }

    /// Whether the clock is not set: it shows a time before the image was made.
    pub fn is_unset(self) -> bool {
        self.clock < self.image
    }

    /// When the image was made.
    pub fn image(self) -> u64 {
        self.image
    }

    /// The time to compare with: it is now, or, with a clock that is not set, before now.
    pub fn not_before(self) -> u64 {
        self.clock.max(self.image)
    }
}

/// What the image says about who may make this machine what.
#[derive(Debug, Clone)]
pub struct Trust {
    signers: AllowedSigners,
    revoked: RevokedKeys,
    unsigned_allowed: bool,
}

/// A profile that may be read: signed by somebody who may, or of an image that takes others too.
/// Only [`Trust::accept`] makes one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Accepted<'a>(Standing<'a>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Standing<'a> {
    Signed(Verified<&'a [u8]>),
    Unsigned(&'a [u8]),
}

impl Accepted<'_> {
    /// Its exact bytes.
    pub fn bytes(&self) -> &[u8] {
        match &self.0 {
            Standing::Signed(verified) => verified.get(),
            Standing::Unsigned(bytes) => bytes,
        }
    }

    /// Who signed it.
    pub fn signer(&self) -> Option<&Signer> {
        match &self.0 {
            Standing::Signed(verified) => Some(verified.signer()),
            Standing::Unsigned(_) => None,
        }
    }

    /// Digest of its bytes.
    pub fn digest(&self) -> Sha256Digest {
        Sha256Digest::of(self.bytes())
    }
}

fn image_error(path: &str, problem: impl ToString) -> Refusal {
    Refusal::Image { path: path.to_owned(), problem: problem.to_string() }
}

impl Trust {
    /// Reads the image's lists. Whatever cannot be read ends it: nothing is trusted by mistake.
    ///
    /// # Errors
    /// [`Refusal::Image`].
    pub fn read(reader: &dyn Reader) -> Result<Self, Refusal> {
        let signers = text(reader, ALLOWED_SIGNERS)?.ok_or_else(|| image_error(ALLOWED_SIGNERS, "not there"))?;
        let revoked = text(reader, REVOKED_KEYS)?.unwrap_or_default();
        Ok(Self {
            signers: AllowedSigners::parse(&signers).map_err(|e| image_error(ALLOWED_SIGNERS, e))?,
            revoked: RevokedKeys::parse(&revoked).map_err(|e| image_error(REVOKED_KEYS, e))?,
            unsigned_allowed: text(reader, UNSIGNED_ALLOWED)?.is_some(),
        })
    }

    /// Whether the image takes unsigned profiles.
    pub fn takes_unsigned(&self) -> bool {
        self.unsigned_allowed
    }

    /// The one verification of a profile. A signature that does not hold is never taken for none.
    ///
    /// # Errors
    /// [`Refusal::Unsigned`], [`Refusal::Untrusted`].
    pub fn accept<'a>(&self, candidate: &'a Candidate, time: Time) -> Result<Accepted<'a>, Refusal> {
        let Some(signature) = &candidate.signature else {
            return match self.unsigned_allowed {
                true => Ok(Accepted(Standing::Unsigned(&candidate.profile))),
                false => Err(Refusal::Unsigned(candidate.source.clone())),
            };
        };
        let policy =
            Policy { signers: &self.signers, revoked: &self.revoked, namespace: Namespace::Profile, at: time.not_before() };
        trust::verify(&candidate.profile, signature, &policy)
            .map(|verified| Accepted(Standing::Signed(verified)))
            .map_err(|reason| Refusal::Untrusted { from: candidate.source.clone(), reason, unset: time.is_unset() })
    }
}

fn text(reader: &dyn Reader, path: &str) -> Result<Option<String>, Refusal> {
    match reader.read(path, trust::signers::LIMIT) {
        Ok(bytes) => String::from_utf8(bytes).map(Some).map_err(|e| image_error(path, e)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(image_error(path, e)),
    }
}

/// Whether the profile is valid at this time. What could not be judged comes out as a text.
///
/// # Errors
/// [`Refusal::TooEarly`], [`Refusal::TooLate`].
pub fn in_time(claims: &Claims, time: Time) -> Result<Option<String>, Refusal> {
    let now = time.not_before();
    if let Some(until) = claims.not_after.filter(|until| now > *until) {
        return Err(Refusal::TooLate { until: shown(until), now: shown(now) });
    }
    let early = claims.not_before.filter(|from| now < *from);
    match early {
        Some(from) if !time.is_unset() => Err(Refusal::TooEarly { from: shown(from), now: shown(now) }),
        _ if time.is_unset() => Ok(Some(format!(
            "the clock shows {}, before the image was made ({}): it is not set, and the image's time is taken",
            shown(time.clock),
            shown(time.image)
        ))),
        _ => Ok(None),
    }
}

/// A time as people read it.
fn shown(seconds: u64) -> String {
    let known = i64::try_from(seconds).ok().and_then(|seconds| jiff::Timestamp::from_second(seconds).ok());
    known.map_or_else(|| format!("@{seconds}"), |time| time.to_string())
}
