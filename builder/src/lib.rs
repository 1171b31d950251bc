//! Builds signed, immutable VM images for Kubernetes appliances from Debian packages.
//!
//! One straight path, whose order only [`pipeline`] knows:
//!
//! | stage | module | in -> out |
//! |---|---|---|
//! | definition | [`definition`] | TOML -> `Definition` |
//! | lock | [`lock`] | definition + indexes -> `Lock` |
//! | fetch | [`fetch`] | lock + store -> packages, container images |
//! | tree | [`tree`] | packages -> `Tree` |
//! | sbom | [`sbom`] | lock + tree -> SPDX |
//! | seal | [`seal`] | tree + epoch -> erofs + dm-verity |
//! | boot | [`boot`] | tree + root hash -> initrd, UKI, loader |
//! | disk | [`disk`] | sealed root + boot -> disk |
//! | export | [`export`] | disk -> raw, qcow2, VHDX |
//! | publish | [`publish`] | images -> release folder |
//!
//! Beside the path: [`image`] (reading images made by anybody), [`inspect`], [`diff`] and [`verify`]
//! (telling people about them), [`machine`] (a virtual machine to try an image in), [`keys`] (what
//! signs), [`profile`] (profiles signed and checked), [`furnish`] (what the builder puts into every image),
//! [`containers`]
//! (the container images in it), [`programs`] (those of ours in it), [`record`] (what a release says of
//! itself), [`freshness`] (knowing that nothing changed), [`budgets`], [`cli`], [`environment`],
//! [`interrupt`], [`blob`] (bytes as references), [`read_at`] (bytes at any place), [`files`] (the file system), [`run`] (the one door
//! for processes), [`progress`], [`error`], [`epoch`].
//!
//! On disk: `images/NAME.lock` is [`lock`]'s; `CACHE/store/` [`fetch`]'s; `CACHE/base/`, `CACHE/layers/` and
//! `CACHE/work/` [`tree`]'s; `CACHE/clusters/` [`seal`]'s; `CACHE/built/` [`freshness`]'s; the keys
//! folder [`keys`]'s; the release folder [`publish`]'s.

pub mod blob;
pub mod boot;
pub mod budgets;
pub mod cli;
pub mod containers;
pub mod definition;
pub mod diff;
pub mod disk;
pub mod environment;
pub mod epoch;
pub mod error;
pub mod export;
pub mod fetch;
pub mod files;
pub mod freshness;
pub mod furnish;
pub mod image;
pub mod inspect;
pub mod interrupt;
pub mod keys;
pub mod lock;
pub mod machine;
pub mod pipeline;
pub mod profile;
pub mod programs;
pub mod progress;
pub mod publish;
pub mod read_at;
pub mod record;
pub mod run;
pub mod sbom;
pub mod seal;
pub mod tree;
pub mod verify;
