//! Stage 4: from packages to a [`Tree`]: unpacked, configured, normalised, composed.
//!
//! [`cache::base`] makes or finds the base tree of a lock, in this order: [`layers`], each of which goes through
//! [`unpack`] (over [`deb`] and [`archive`], into a [`staging`] folder), [`database`] and [`configure`] (whose inside
//! is [`sandbox`]); then [`normalise`] (with [`accounts`]), [`index`], [`stored`]. [`mod@compose`] then
//! makes a definition's tree out of it in memory. [`namespace`] comes before all of this, once.

pub mod accounts;
pub mod archive;
pub mod cache;
pub mod compose;
pub mod configure;
mod copy;
pub mod database;
pub mod deb;
pub mod glob;
pub mod index;
pub mod kept;
pub mod kmod_index;
pub mod layers;
mod modules;
pub mod namespace;
pub mod normalise;
pub mod sandbox;
pub mod staging;
pub mod stored;
mod units;
pub mod unpack;
mod var;

pub use cache::{BaseInput, BaseTree, base};
pub use compose::{Composed, compose};

use std::collections::BTreeMap;

/// A file tree as it shall be sealed: metadata here, bytes behind [`ContentId`]s.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tree {
    /// By path without leading `/`, in byte order; the root folder is the empty path.
    pub entries: BTreeMap<Vec<u8>, Entry>,
}

/// Links in a row that are followed before it counts as a circle (as in Linux).
const LINKS_IN_A_ROW: u32 = 40;

impl Tree {
    /// The entry at `path`, links followed inside the tree, and where it really is. A leading `/` says nothing.
    pub fn resolve(&self, path: &[u8]) -> Option<(Vec<u8>, &Entry)> {
        let real = self.real_path(path, true)?;
        let entry = self.entries.get(&real)?;
        Some((real, entry))
    }

    /// `path` with all links on the way to it replaced, and the last part too where `last` says so.
    /// What is not there is taken as it is written. `None` where links go round in a circle.
    pub fn real_path(&self, path: &[u8], last: bool) -> Option<Vec<u8>> {
        let parts = |path: &[u8]| path.split(|b| *b == b'/').rev().map(<[u8]>::to_vec).collect::<Vec<_>>();
        let mut todo = parts(path);
        let mut done: Vec<u8> = Vec::new();
        let mut followed = 0;
        while let Some(part) = todo.pop() {
            match part.as_slice() {
                b"" | b"." => continue,
                b".." => {
                    done.truncate(staging::split(&done).0.len());
                    continue;
                }
                _ => {}
            }
            let here = if done.is_empty() { part } else { [&done, b"/".as_slice(), &part].concat() };
            match self.entries.get(&here).map(|entry| &entry.node) {
                Some(Node::Link(target)) if last || todo.iter().any(|p| !p.is_empty()) => {
                    followed += 1;
                    if followed > LINKS_IN_A_ROW {
                        return None;
                    }
                    if target.first() == Some(&b'/') {
                        done.clear();
                    }
                    todo.extend(parts(target));
                }
                _ => done = here,
            }
        }
        Some(done)
    }

    /// Makes hard-link groups as they follow from the entries that are left: numbered by their
    /// first names, and none of a single name.
    pub fn settle_links(&mut self) {
        let mut names: BTreeMap<u64, u64> = BTreeMap::new();
        for entry in self.entries.values() {
            if let Node::File { link: Some(group), .. } = entry.node {
                *names.entry(group).or_default() += 1;
            }
        }
        let mut numbers: BTreeMap<u64, u64> = BTreeMap::new();
        for entry in self.entries.values_mut() {
            if let Node::File { link, .. } = &mut entry.node {
                let next = numbers.len() as u64;
                *link = link.filter(|g| names.get(g).is_some_and(|n| *n > 1)).map(|g| *numbers.entry(g).or_insert(next));
            }
        }
    }
}

/// One name in the tree.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Entry {
    /// Permission bits with setuid, setgid and sticky: `0o7777` at most.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Modification time in seconds since 1970, at most the epoch.
    pub mtime: i64,
    /// Extended attributes by full name: `security.capability`, `system.posix_acl_access`, `user.x`.
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    /// What it is.
    pub node: Node,
}

/// What an entry is.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Node {
    /// A folder.
    Folder,
    /// A regular file.
    File {
        /// Size in bytes.
        size: u64,
        /// Its bytes.
        content: ContentId,
        /// Entries with the same number are hard links of one inode.
        link: Option<u64>,
    },
    /// A symbolic link.
    Link(Vec<u8>),
    /// A character device with major and minor number.
    Character(u32, u32),
    /// A block device with major and minor number.
    Block(u32, u32),
    /// A FIFO.
    Fifo,
}

/// BLAKE3 of a file's bytes: the key of every content cache.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
pub struct ContentId(pub [u8; 32]);

impl ContentId {
    /// The id of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        Self(*blake3::hash(bytes).as_bytes())
    }
}

impl std::fmt::Display for ContentId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl std::fmt::Debug for ContentId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{self}")
    }
}

/// Gives the bytes behind a [`ContentId`].
pub trait Contents: Sync {
    /// All bytes of the file. They were checked against the id.
    ///
    /// # Errors
    /// When they are gone, or are no longer what the id says.
    fn read(&self, id: &ContentId) -> crate::error::Result<std::sync::Arc<[u8]>>;
}

/// Takes the bytes of files while the tree is still being made, so that compression can run beside it.
pub trait ContentSink: Sync {
    /// `bytes` will probably be in the sealed root. It may do nothing; it must not block for long.
    fn offer(&self, id: ContentId, bytes: &std::sync::Arc<[u8]>);
}
