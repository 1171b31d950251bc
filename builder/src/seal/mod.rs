//! Stage 6: the tree as erofs with dm-verity.
//!
//! | module | what it does |
//! |---|---|
//! | [`layout`] | structures and constants of erofs |
//! | `inodes` | tree -> inodes |
//! | `contents`, [`compress`] | bytes -> clusters, through the cache |
//! | [`clusters`], `pack` | the cache: compressed ahead, kept on disk |
//! | `xattrs`, `index` | encodings |
//! | `place`, `write` | two passes: where, then what |
//! | [`read`], `extents`, `entries`, [`dump`] | an independent reader and a text form |
//! | [`verity`] | the hash tree |
//!
//! The bytes of the image are a function of tree and [`SealInput`] alone. Files: those of
//! [`clusters::ClusterCache`].

pub mod clusters;
pub mod compress;
mod contents;
pub mod dump;
mod entries;
mod extents;
mod index;
mod inodes;
pub mod layout;
mod pack;
mod place;
pub mod read;
#[cfg(test)]
mod tests;
pub mod verity;
mod write;
mod xattrs;

use std::collections::BTreeSet;

use trust::Sha256Digest;

pub use clusters::ClusterCache;

use crate::blob::{Blob, Extents};
use crate::epoch::Epoch;
use crate::error::{Context, Error, Kind, Result};
use crate::progress::{Progress, Unit};
use crate::tree::{ContentId, Contents, Node, Tree};

/// What beside the tree decides the bytes.
#[derive(Debug, Clone)]
pub struct SealInput {
    /// No modification time is later.
    pub epoch: Epoch,
    /// Volume label, at most 15 bytes.
    pub volume: String,
}

/// The sealed root.
#[derive(Debug, Clone)]
pub struct Sealed {
    /// The erofs image.
    pub root: Extents,
    /// Superblock and hash tree of dm-verity.
    pub verity: Blob,
    /// The top of the hash tree.
    pub root_hash: Sha256Digest,
    /// Salt of the hash tree.
    pub salt: [u8; 32],
    /// Blocks of 4096 bytes in the image.
    pub data_blocks: u64,
    /// UUID of the volume, derived from its content.
    pub uuid: [u8; 16],
    /// What was done.
    pub statistics: Statistics,
}

/// Figures for reports; none of them is in the image.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct Statistics {
    /// Inodes.
    pub inodes: u64,
    /// Bytes of all regular files, each inode counted once.
    pub file_bytes: u64,
    /// The same, equal contents counted once.
    pub unique_bytes: u64,
    /// Bytes of small files and tails before they were compressed together.
    pub packed_bytes: u64,
    /// Bytes of inodes, attributes and folders.
    pub metadata_bytes: u64,
    /// Bytes of the image.
    pub image_bytes: u64,
    /// Contents and groups that the cache did not have.
    pub compressed: u64,
}

/// Seals `tree`, whose bytes come from `contents`, through the cache `clusters`.
///
/// # Errors
/// Names the path that the format cannot hold, or the content that is gone or not what the tree
/// says; the cache's folder when it cannot be written.
pub fn seal(
    tree: &Tree,
    contents: &dyn Contents,
    input: &SealInput,
    clusters: &ClusterCache,
    progress: &dyn Progress,
) -> Result<Sealed> {
    let volume = volume(&input.volume)?;
    let latest = i64::try_from(input.epoch.0).unwrap_or(i64::MAX);
    let inodes = inodes::list(tree)?;
    let (wanted, mut statistics) = wanted(&inodes);
    let workers = std::thread::available_parallelism().map_or(1, usize::from);
    let task = progress.begin("sealing", statistics.unique_bytes, Unit::Bytes);
    let source = contents::Source { contents, cache: clusters, workers, task: &*task };
    let stored = contents::store(&wanted, &source).context("sealing the root")?;
    let xattrs = xattrs::encode(&inodes)?;
    let plan = place::place(&inodes, &xattrs, &stored, latest)?;
    let parts = write::Parts { inodes: &inodes, xattrs: &xattrs, stored: &stored, plan: &plan, volume, latest };
    let written = write::write(&parts)?;

    let area = verity::build(&written.leaves, &verity::SALT, [0; 16])?;
    let uuid = verity_uuid(&area.root_hash);
    let area = area.with_uuid(uuid);
    // What was compressed is in the image already: a cache that cannot be kept costs the next build time.
    if let Err(error) = clusters.commit() {
        progress.note(&format!("the cluster cache was not kept: {error}"));
    }
    statistics.packed_bytes = stored.packed_size;
    statistics.metadata_bytes = written.metadata;
    statistics.image_bytes = written.root.size();
    statistics.compressed = stored.compressed;
    Ok(Sealed {
        root: written.root,
        verity: Blob::memory(area.bytes),
        root_hash: area.root_hash,
        salt: verity::SALT,
        data_blocks: written.leaves.len() as u64,
        uuid: written.uuid,
        statistics,
    })
}

fn volume(name: &str) -> Result<[u8; 16]> {
    let mut volume = [0; 16];
    match volume.get_mut(..name.len()) {
        Some(place) if name.len() < 16 && !name.contains('\0') => {
            place.copy_from_slice(name.as_bytes());
            Ok(volume)
        }
        _ => Err(Error::new(Kind::Document, format!("the volume label `{name}` has {} bytes, at most 15 fit", name.len()))),
    }
}

fn verity_uuid(root_hash: &Sha256Digest) -> [u8; 16] {
    let derived = blake3::derive_key("ingot dm-verity uuid 1", root_hash.as_bytes());
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&derived[..16]);
    uuid::Builder::from_custom_bytes(bytes).into_uuid().into_bytes()
}

/// The contents in the order of their first use, each once.
fn wanted(inodes: &[inodes::Inode<'_>]) -> (Vec<(ContentId, u64)>, Statistics) {
    let mut seen = BTreeSet::new();
    let mut wanted = Vec::new();
    let mut statistics = Statistics { inodes: inodes.len() as u64, ..Statistics::default() };
    for inode in inodes {
        if let Node::File { size, content, .. } = inode.entry.node {
            statistics.file_bytes = statistics.file_bytes.saturating_add(size);
            if size > 0 && seen.insert((content, size)) {
                statistics.unique_bytes = statistics.unique_bytes.saturating_add(size);
                wanted.push((content, size));
            }
        }
    }
    (wanted, statistics)
}
