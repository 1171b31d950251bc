//! Profiles on the operator's desk: signed, and checked one by one, together, and against an image.
//! Schema and rules are those of the machine itself (crate `ingot-profile`).

pub mod check;
pub mod encrypt;
pub mod facts;
mod fit;
pub mod sign;
#[cfg(test)]
mod tests;
pub mod together;

pub use check::{Checked, Encrypted, Signature, check};
pub use facts::ImageFacts;
