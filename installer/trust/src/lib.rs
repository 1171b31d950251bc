//! What the builder and the machine must agree on to trust a byte: digests, public keys,
//! signature verification and the schema of the manifest. No I/O, no clock, no signing.
//!
//! | module | what it holds |
//! |---|---|
//! | [`digest`] | SHA-256 values and the streaming hasher |
//! | [`signers`] | who may sign what, and until when: `allowed_signers`, revoked keys |
//! | [`signature`] | the one verification: SSHSIG over exact bytes gives [`Verified`] |
//! | [`manifest`] | the schema of a release's `manifest.json` |
//! | [`kubernetes`] | what an image says of its Kubernetes and of the container images it brings |

pub mod digest;
pub mod kubernetes;
pub mod manifest;
pub mod signature;
pub mod signers;

pub use digest::{Sha256, Sha256Digest};
pub use manifest::Manifest;
pub use signature::{Namespace, Policy, Signer, Untrusted, Verified, verify};
pub use signers::{AllowedSigners, RevokedKeys};
