//! The documents as they are written (`schema = 1`): TOML with strict keys. Every key may be left
//! out but `schema`; what is required is required after `extends`.

use std::collections::BTreeMap;

use profile::document::Located;
use profile::size::Size;
use serde::Deserialize;

use super::Role;

/// The schema this program reads.
pub(super) const SCHEMA: u32 = 1;

/// A text with its place.
pub(super) type Text = Located<String>;

/// A list of texts.
pub(super) type Texts = Vec<Text>;

/// One document.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Written {
    /// Always 1.
    pub schema: Located<u32>,
    /// The document this one is put over; relative to the folder of this one.
    pub extends: Option<Text>,
    /// Name of the image.
    pub name: Option<Text>,
    /// Version of the image (UAPI.10).
    pub version: Option<Text>,
    /// What it is, in a sentence.
    pub description: Option<Text>,
    /// What a machine of this image is for.
    pub role: Option<Located<Role>>,
    /// Debian architecture; `amd64` where it is not said.
    pub architecture: Option<Text>,
    /// Where packages come from. One of the same name replaces the base's.
    #[serde(default)]
    pub repository: Vec<Repository>,
    /// What is installed.
    #[serde(default)]
    pub packages: Packages,
    /// Which version source wins; appended to the base's.
    #[serde(default)]
    pub pin: Vec<Pin>,
    /// Fixed numbers of system users and groups: uid = gid, 1 to 999.
    #[serde(default)]
    pub ids: BTreeMap<Text, Located<u32>>,
    /// Files, links and folders. One of the same path replaces the base's.
    #[serde(default)]
    pub file: Vec<File>,
    /// What is left out of the sealed root.
    #[serde(default)]
    pub tree: Tree,
    /// Further users. One of the same name replaces the base's.
    #[serde(default)]
    pub user: Vec<User>,
    /// Which units start.
    #[serde(default)]
    pub units: Units,
    /// Which Kubernetes.
    pub kubernetes: Option<Kubernetes>,
    /// Further container images that the image brings along. One of the same reference is there once.
    #[serde(default)]
    pub container_image: Vec<ContainerImage>,
    /// Kernel and initrd.
    #[serde(default)]
    pub kernel: Kernel,
    /// Sizes of the partitions.
    #[serde(default)]
    pub disk: Disk,
    /// Limits that fail the build.
    #[serde(default)]
    pub budgets: Budgets,
}

/// `[[repository]]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Repository {
    /// Name for pins, mirrors and the lock.
    pub name: Text,
    /// Base URL: `https://deb.debian.org/debian`.
    pub url: Text,
    /// Suites; one ending in `/` is a flat repository.
    pub suites: Texts,
    /// Components; none for flat repositories.
    #[serde(default)]
    pub components: Texts,
    /// Files with OpenPGP certificates, relative to this document.
    pub keys: Texts,
    /// Fingerprints to which the key files are narrowed; all keys where it is empty.
    #[serde(default)]
    pub fingerprints: Texts,
    /// apt priority, 500 where it is not said.
    pub priority: Option<Located<i32>>,
}

/// `[packages]`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Packages {
    /// Debian relations: `haproxy (>= 3.0)`, `a | b`.
    #[serde(default)]
    pub install: Texts,
    /// Packages that must not enter.
    #[serde(default)]
    pub without: Texts,
    /// Entries of the base's `install` and `without` that are taken back: relation or package name.
    #[serde(default)]
    pub remove: Texts,
}

/// `[[pin]]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Pin {
    /// Package name, or `*`.
    pub package: Text,
    /// Version pattern: `3.0.*`.
    pub version: Option<Text>,
    /// Repository or suite.
    pub release: Option<Text>,
    /// apt priority.
    pub priority: Located<i32>,
}

/// `[[file]]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct File {
    /// Absolute path in the image.
    pub path: Text,
    /// The text of the file.
    pub content: Option<Text>,
    /// A file whose bytes it has, relative to this document.
    pub source: Option<Text>,
    /// Target of a symbolic link.
    pub link: Option<Text>,
    /// `true`: a folder.
    pub folder: Option<Located<bool>>,
    /// Permission bits as octal digits: `"0644"` (default for files), `"0755"` (folders).
    pub mode: Option<Located<Mode>>,
    /// Name or number; `root` where it is not said.
    pub owner: Option<Text>,
    /// Name or number; `root` where it is not said.
    pub group: Option<Text>,
}

/// Permission bits as they are written. A number is refused: 644 and 0o644 are too easily confused.
#[derive(Debug, Clone)]
pub(super) struct Mode(pub String);

impl<'de> Deserialize<'de> for Mode {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ModeVisitor)
    }
}

struct ModeVisitor;

impl serde::de::Visitor<'_> for ModeVisitor {
    type Value = Mode;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("octal digits in quotes, such as \"0644\"")
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Mode, E> {
        Ok(Mode(text.to_owned()))
    }

    /// A hole that an earlier fault left (see `profile::document`).
    fn visit_unit<E: serde::de::Error>(self) -> Result<Mode, E> {
        Ok(Mode("0644".to_owned()))
    }
}

/// `[tree]`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Tree {
    /// Glob patterns without leading `/`.
    #[serde(default)]
    pub exclude: Texts,
    /// Exceptions to `exclude`.
    #[serde(default)]
    pub keep: Texts,
}

/// `[[user]]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct User {
    /// Login name.
    pub name: Text,
    /// uid, and gid of the own group: 1 to 60000.
    pub uid: Located<u32>,
    /// Further groups.
    #[serde(default)]
    pub groups: Texts,
    /// Home folder, `/home/NAME` where it is not said.
    pub home: Option<Text>,
    /// Login shell, `/usr/sbin/nologin` where it is not said.
    pub shell: Option<Text>,
}

/// `[units]`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Units {
    /// Units that are enabled. Takes back a mask of the base.
    #[serde(default)]
    pub enable: Texts,
    /// Units that are masked. Takes back an enabling by the base.
    #[serde(default)]
    pub mask: Texts,
    /// What `default.target` is; `multi-user.target` where it is not said.
    pub default_target: Option<Text>,
}

/// `[kubernetes]`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Kubernetes {
    /// `1.34` takes the newest patch release there is, `1.34.2` that one.
    pub version: Option<Text>,
    /// Channel of the public repository; `stable` where it is not said.
    pub channel: Option<Text>,
    /// Files with the OpenPGP certificates of the public repository, relative to this document.
    #[serde(default)]
    pub keys: Texts,
    /// Which of kubeadm's container images the image brings along: `pause`, `kube-proxy`.
    #[serde(default)]
    pub images: Texts,
    /// Registry and path of these images; what kubeadm says where it is not said.
    pub image_repository: Option<Text>,
}

/// `[[container_image]]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ContainerImage {
    /// Full reference: `quay.io/cilium/cilium:v1.18.2`.
    pub reference: Text,
}

/// `[kernel]`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Kernel {
    /// Words of the command line.
    #[serde(default)]
    pub command_line: Texts,
    /// Modules of the initrd.
    #[serde(default)]
    pub initrd_modules: Texts,
    /// Modules kept in the root; all where it is empty.
    #[serde(default)]
    pub keep_modules: Texts,
}

/// `[disk]`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Disk {
    /// EFI system partition, `256 MiB` where it is not said.
    pub esp: Option<Located<Size>>,
    /// Room for a root, `1 GiB` where it is not said.
    pub slot: Option<Located<Size>>,
    /// Room for its verity tree, `16 MiB` where it is not said.
    pub verity: Option<Located<Size>>,
}

/// `[budgets]`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Budgets {
    /// Allocated bytes of the raw image.
    pub image: Option<Located<Size>>,
    /// The UKI.
    pub uki: Option<Located<Size>>,
    /// The sealed root.
    pub root: Option<Located<Size>>,
    /// The container images that the image brings along.
    pub container_images: Option<Located<Size>>,
    /// What must stay free in the slot.
    pub slot_reserve: Option<Located<Size>>,
}
