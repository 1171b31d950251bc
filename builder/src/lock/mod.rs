//! Stage 2: from a definition and the repositories' indexes to a [`Lock`]: which packages, exactly.
//!
//! [`indexes`] gets and verifies (`obtain`, over `openpgp` and `release`), [`resolve`] chooses
//! (`archive` knows which versions may be taken, `solve` asks the SAT solver, `explain` puts its
//! refusal into words), `containers` is what a lock says of container images ([`crate::containers`] chooses them),
//! `file` is the text of the lock and `changes` what differs between two.

mod archive;
mod changes;
mod containers;
mod explain;
mod file;
mod index;
mod obtain;
mod openpgp;
mod pins;
mod relation;
mod release;
pub mod settle;
mod solve;
mod version;
#[cfg(test)]
mod worlds;

use trust::Sha256Digest;

use crate::epoch::Epoch;

pub use changes::{Change, changes};
pub use containers::{Choose, Containers, LockedImage, LockedKubernetes};
pub use obtain::{Download, Index, Indexes, indexes};
pub use openpgp::{Keyring, Signed};
pub use release::Release;
pub use solve::resolve;
pub use version::{compare as compare_versions, is_valid as is_version};
/// Everything a build takes from outside, with digests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lock {
    /// [`crate::definition::Definition::resolution`] of the definition it was made from.
    pub resolution: Sha256Digest,
    /// Debian architecture.
    pub architecture: String,
    /// The newest `Date` of the releases used: the default epoch of a build.
    pub epoch: Epoch,
    /// The releases used, sorted by repository and suite.
    pub releases: Vec<LockedRelease>,
    /// The packages, sorted by name.
    pub packages: Vec<LockedPackage>,
    /// The container images that the image brings along.
    pub containers: Containers,
}

/// A release file that was verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LockedRelease {
    /// [`crate::definition::Repository::name`].
    pub repository: String,
    /// Suite.
    pub suite: String,
    /// `Date` of the release.
    pub date: Epoch,
    /// Digest of the InRelease file.
    pub sha256: Sha256Digest,
    /// Fingerprint of the key whose signature was accepted.
    pub signed_by: String,
}

/// A package that was chosen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LockedPackage {
    /// Binary package name.
    pub name: String,
    /// Version as dpkg writes it.
    pub version: String,
    /// `amd64` or `all`.
    pub architecture: String,
    /// [`crate::definition::Repository::name`].
    pub repository: String,
    /// Suite.
    pub suite: String,
    /// Path below the repository's URL.
    pub path: String,
    /// Size of the .deb in bytes.
    pub size: u64,
    /// Digest of the .deb.
    pub sha256: Sha256Digest,
    /// Why it is here: `wanted`, `essential`, or the name of the package that first asked for it.
    pub because: String,
}
