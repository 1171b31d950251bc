//! Stage 1: from TOML text to a [`Definition`] in which everything is checked.
//!
//! | file | what it does |
//! |---|---|
//! | `load.rs` | finds documents, reads them and what they name: the only place that touches the disk |
//! | `schema.rs` | the documents as they are written |
//! | `merge.rs` | `extends`: one document over another |
//! | `validate.rs`, `validate/` | from written to validated, all faults at once |
//! | `rules.rs` | what names, paths and patterns look like |
//! | `relation.rs` | Debian package relations |
//! | `overrides.rs` | what the command line puts in the place of a definition's words |
//! | `digest.rs` | the two digests of a definition |

mod digest;
#[cfg(test)]
mod hostile;
mod load;
mod merge;
mod overrides;
mod relation;
mod rules;
mod schema;
#[cfg(test)]
mod tests;
mod validate;

use std::path::PathBuf;

use trust::Sha256Digest;

use crate::blob::Blob;

pub use load::{Folder, IMAGES, find, find_in, load, load_with, parse};
pub use overrides::Overrides;

/// What an image shall be, validated. Only this stage makes one.
#[derive(Debug, Clone)]
pub struct Definition {
    /// Name of the image: `load-balancer`. `[a-z0-9-]+`; becomes `IMAGE_ID` and the names of the release files.
    pub name: String,
    /// Version of the image (UAPI.10), becomes `IMAGE_VERSION`; no underscore.
    pub version: String,
    /// What it is, in a sentence, for people.
    pub description: Option<String>,
    /// What a machine of this image is for.
    pub role: Role,
    /// Debian architecture: `amd64`.
    pub architecture: String,
    /// Where packages come from, in the order written.
    pub repositories: Vec<Repository>,
    /// Package relations to install, in Debian syntax (`haproxy (>= 3.0)`, `a | b`), each with the place it was written at.
    pub install: Vec<Wanted>,
    /// Packages that must not enter, whoever recommends or depends on them.
    pub without: Vec<String>,
    /// Priorities for single packages, as apt's pins: (package name or `*`, repository or suite, priority).
    pub pins: Vec<Pin>,
    /// System users and groups whose numbers are fixed: name to uid = gid.
    pub ids: Vec<(String, u32)>,
    /// Which Kubernetes, for the roles that have one.
    pub kubernetes: Option<Kubernetes>,
    /// Full references of further container images that the image brings along, sorted.
    pub containers: Vec<String>,
    /// Files, links and folders put over the packages' own.
    pub files: Vec<FileEntry>,
    /// Paths left out of the sealed root: glob patterns without leading `/`, `**` crosses folders.
    pub exclude: Vec<String>,
    /// Exceptions to `exclude`, same form.
    pub keep: Vec<String>,
    /// Further users made in the image (no passwords, ever).
    pub users: Vec<User>,
    /// systemd units.
    pub units: Units,
    /// Kernel and initrd.
    pub kernel: Kernel,
    /// Sizes.
    pub disk: DiskShape,
    /// Limits that fail the build.
    pub budgets: Budgets,
    /// Every file read (documents, keys, contents), for messages and for knowing when nothing changed.
    pub sources: Vec<PathBuf>,
    /// Digest of what decides the choice of packages: repositories, keys, packages, pins. A lock with another one is stale.
    pub resolution: Sha256Digest,
    /// Digest of the whole validated definition with the content of all its files.
    pub digest: Sha256Digest,
}

/// The roles of DESIGN.md section 6.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// HAProxy and keepalived.
    LoadBalancer,
    /// kubeadm, kubelet and the static pods.
    ControlPlane,
    /// kubelet and containerd.
    LinuxWorker,
}

impl Role {
    /// The role as definitions and manifests write it: `load-balancer`.
    pub fn as_str(self) -> &'static str {
        match self {
            Role::LoadBalancer => "load-balancer",
            Role::ControlPlane => "control-plane",
            Role::LinuxWorker => "linux-worker",
        }
    }
}

/// A signed Debian repository.
#[derive(Debug, Clone)]
pub struct Repository {
    /// Name by which pins, mirrors and the lock speak of it: `debian`.
    pub name: String,
    /// Base URL (public), without trailing slash; `dists/` and `pool/` lie below.
    pub url: String,
    /// Suites: `trixie`, `trixie-updates`; one ending in `/` is a flat repository.
    pub suites: Vec<String>,
    /// Components: `main`.
    pub components: Vec<String>,
    /// OpenPGP certificates (armored or binary) that may sign it: file name as written, and content.
    pub keys: Vec<(PathBuf, Vec<u8>)>,
    /// Fingerprints (hex) to which the key files are narrowed; empty takes all keys of the files.
    pub fingerprints: Vec<String>,
    /// apt priority, 500 by default.
    pub priority: i32,
}

/// One relation of `packages.install`.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// Debian relation: `haproxy (>= 3.0)`.
    pub relation: String,
    /// Where it stands: `images/load-balancer.toml:12:5`.
    pub origin: String,
}

/// A pin: which version source wins for a package.
#[derive(Debug, Clone)]
pub struct Pin {
    /// Package name, or `*`.
    pub package: String,
    /// A version pattern (`3.0.*`), where the pin is about versions.
    pub version: Option<String>,
    /// Suite or repository name, where the pin is about the source.
    pub release: Option<String>,
    /// apt priority: below 0 never, 100 not by itself, 500 normal, above 1000 even a downgrade.
    pub priority: i32,
    /// Where it stands.
    pub origin: String,
}

/// Which Kubernetes.
#[derive(Debug, Clone)]
pub struct Kubernetes {
    /// `1.34` (the newest patch release the repository has) or `1.34.2`.
    pub version: String,
    /// Names of those of kubeadm's container images that the image brings along, sorted: `kube-proxy`, `pause`.
    pub images: Vec<String>,
    /// Registry and path of kubeadm's images, where they are not its own choice.
    pub image_repository: Option<String>,
    /// Where the version stands.
    pub origin: String,
}

/// Something put over the packages' files.
#[derive(Debug, Clone)]
pub struct FileEntry {
    /// Absolute path in the image, without `..`.
    pub path: String,
    /// What is put there.
    pub content: FileContent,
    /// Permission bits; 0644 for files, 0755 for folders.
    pub mode: u32,
    /// Owner and group, numeric or names of the image's passwd and group.
    pub owner: String,
    /// Group.
    pub group: String,
}

/// See [`FileEntry`].
#[derive(Debug, Clone)]
pub enum FileContent {
    /// A file with these bytes.
    Bytes(Vec<u8>),
    /// A large file: the bytes of these, one after the other. No document writes it, the builder does.
    Joined(Vec<Blob>),
    /// A symbolic link to this target.
    Link(String),
    /// A folder.
    Folder,
}

/// A user made in the image.
#[derive(Debug, Clone)]
pub struct User {
    /// Login name.
    pub name: String,
    /// Numeric uid, also the gid of the user's own group.
    pub uid: u32,
    /// Further groups.
    pub groups: Vec<String>,
    /// Home folder.
    pub home: String,
    /// Login shell.
    pub shell: String,
}

/// Which units start.
#[derive(Debug, Clone, Default)]
pub struct Units {
    /// Enabled by links, as `systemctl enable` makes them.
    pub enable: Vec<String>,
    /// Masked.
    pub mask: Vec<String>,
    /// `default.target` points here.
    pub default_target: String,
}

/// Kernel and initrd.
#[derive(Debug, Clone, Default)]
pub struct Kernel {
    /// Words of the kernel command line; the builder adds the root hash.
    pub command_line: Vec<String>,
    /// Modules of the initrd by name; their dependencies follow by themselves.
    pub initrd_modules: Vec<String>,
    /// Modules kept in the root: names or glob patterns of paths below `kernel/`; empty keeps all.
    pub keep_modules: Vec<String>,
}

/// Sizes of the disk, in bytes.
#[derive(Debug, Clone)]
pub struct DiskShape {
    /// EFI system partition.
    pub esp: u64,
    /// Room each slot reserves for a root, now and in later versions (the empty slot B is made at first boot).
    pub slot: u64,
    /// Room each slot reserves for a verity tree.
    pub verity: u64,
}

/// Limits in bytes; a build that breaks one fails and says by how much.
#[derive(Debug, Clone, Default)]
pub struct Budgets {
    /// Allocated bytes of the raw image.
    pub image: Option<u64>,
    /// The UKI.
    pub uki: Option<u64>,
    /// The sealed root.
    pub root: Option<u64>,
    /// The container images that the image brings along.
    pub container_images: Option<u64>,
    /// What must stay free in the slot.
    pub slot_reserve: Option<u64>,
}
