//! Stage 4: from packages to a [`Tree`]: unpacked, configured, normalised.

use std::collections::BTreeMap;
use std::path::PathBuf;

/// A file tree as it shall be sealed: metadata here, bytes behind [`ContentId`]s.
#[derive(Debug, Clone, Default)]
pub struct Tree {
    /// By path without leading `/`, in byte order; the root folder is the empty path.
    pub entries: BTreeMap<Vec<u8>, Entry>,
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

impl std::fmt::Debug for ContentId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
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

/// Where a configured base lies on disk.
#[derive(Debug, Clone)]
pub struct Base {
    /// The folder that holds the tree.
    pub root: PathBuf,
}
