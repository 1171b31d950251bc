//! What the builder and the machine must agree on to trust a byte: digests, public keys,
//! signature verification and the schema of the manifest. No I/O, no clock, no signing.
//!
//! | module | what it holds |
//! |---|---|
//! | [`digest`] | SHA-256 values and the streaming hasher |

pub mod digest;

pub use digest::{Sha256, Sha256Digest};
