//! Beside the packages: the container images that an image brings along, so that a node joins without a registry.
//!
//! | file | what it does |
//! |---|---|
//! | `reference.rs` | names of container images |
//! | `document.rs` | indexes and manifests |
//! | `kubeadm.rs` | which images belong to a Kubernetes |
//! | [`choice`] | for the lock: which images, by digest |
//! | [`archive`] | for the tree: the images as one file, and what is said of them |
//!
//! [`crate::fetch::registry`] gets them.

pub mod archive;
pub mod choice;
pub mod document;
mod kubeadm;
mod reference;

pub use archive::{files, listed, size};
pub use choice::Upstream;
pub use reference::{Reference, Version, is_registry};
