//! Builds signed, immutable VM images for Kubernetes appliances from Debian packages.
//!
//! One straight path, whose order only [`pipeline`] knows:
//!
//! | stage | module | in -> out |
//! |---|---|---|
//! | definition | [`definition`] | TOML -> `Definition` |
//! | lock | [`lock`] | definition + indexes -> `Lock` |
//! | fetch | [`fetch`] | lock + store -> packages |
//! | tree | [`tree`] | packages -> `Tree` |
//! | sbom | [`sbom`] | lock + tree -> SPDX |
//! | seal | [`seal`] | tree + epoch -> erofs + dm-verity |
//! | boot | [`boot`] | tree + root hash -> initrd, UKI, loader |
//! | disk | [`disk`] | sealed root + boot -> disk |
//! | export | [`export`] | disk -> raw, qcow2, VHDX |
//! | publish | [`publish`] | images -> release folder |
//!
//! Beside the path: [`keys`] (what signs), [`blob`] (bytes as references), [`files`] (the file
//! system), [`run`] (the one door for processes), [`progress`], [`error`], [`epoch`].

pub mod blob;
pub mod boot;
pub mod definition;
pub mod disk;
pub mod epoch;
pub mod error;
pub mod export;
pub mod fetch;
pub mod files;
pub mod keys;
pub mod lock;
pub mod progress;
pub mod publish;
pub mod run;
pub mod sbom;
pub mod seal;
pub mod tree;
