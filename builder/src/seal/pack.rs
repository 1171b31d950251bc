//! A pack file of the cluster cache: blocks of many contents, then an index, then a footer.
//! It gets its name when it is whole; only whole ones are read.
//!
//! ```text
//! blocks (4096-byte aligned) | tails | index | footer: magic 8, format 32, index offset 8, length 8, BLAKE3 32
//! ```

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::compress::{CLUSTER, Cluster, LEVEL, SMALL, Shape};
use super::layout::BLOCK;
use super::verity::SALT;
use crate::blob::Blob;
use crate::error::{Error, Result};

const MAGIC: [u8; 8] = *b"ingotcl1";
const FOOTER: u64 = 88;
/// An index beyond this is no index of ours.
const MAX_INDEX: u64 = 256 << 20;

/// The key of a record: BLAKE3 of the content, or of the list of contents of a group.
pub(super) type Key = [u8; 32];

/// Everything the bytes of a record depend on beside the content.
pub(super) fn format() -> [u8; 32] {
    let mut hasher = blake3::Hasher::new_derive_key("ingot seal clusters 1");
    for number in [LEVEL as u64, CLUSTER as u64, SMALL as u64, u64::from(zstd::zstd_safe::version_number())] {
        hasher.update(&number.to_le_bytes());
    }
    hasher.update(&SALT);
    *hasher.finalize().as_bytes()
}

/// One content in a pack.
#[derive(Debug, Clone)]
pub(super) struct Record {
    pub shape: Arc<Shape>,
    file: Arc<File>,
    offset: u64,
    tail_offset: u64,
    blocks_digest: [u8; 32],
    tail_digest: [u8; 32],
}

impl Record {
    /// The blocks, not checked.
    pub fn blocks(&self) -> Blob {
        Blob::file(self.file.clone(), self.offset, (self.shape.hashes.len() * BLOCK) as u64)
    }

    /// Whether the blocks are what was written.
    pub fn is_whole(&self, buffer: &mut Vec<u8>) -> bool {
        let mut hasher = blake3::Hasher::new();
        let length = self.shape.hashes.len() * BLOCK;
        buffer.resize(length.min(1 << 20), 0);
        let mut done = 0;
        while done < length {
            let part = buffer.len().min(length - done);
            let Some(part) = buffer.get_mut(..part) else { return false };
            if self.file.read_exact_at(part, self.offset + done as u64).is_err() {
                return false;
            }
            hasher.update(part);
            done += part.len();
        }
        // The tail of a flat file goes into the image with its blocks; others are looked at when they are packed.
        *hasher.finalize().as_bytes() == self.blocks_digest && (!self.shape.is_flat() || self.tail().is_some())
    }

    /// The tail, where it is what was written.
    pub fn tail(&self) -> Option<Vec<u8>> {
        let mut bytes = vec![0; self.shape.tail];
        self.file.read_exact_at(&mut bytes, self.tail_offset).ok()?;
        (*blake3::hash(&bytes).as_bytes() == self.tail_digest).then_some(bytes)
    }
}

/// A pack that is being written.
#[derive(Debug)]
pub(super) struct Writer {
    temporary: tempfile::NamedTempFile,
    file: Arc<File>,
    length: u64,
    records: Vec<(Key, Record)>,
}

impl Writer {
    /// A new pack in `folder`, locked as long as it is being written.
    pub fn create(folder: &Path) -> Result<Self> {
        let fail = |e: io::Error| Error::io("creating a pack of the cluster cache in", folder, &e);
        let temporary = tempfile::Builder::new().prefix(".writing-").suffix(".part").tempfile_in(folder).map_err(fail)?;
        let file = Arc::new(temporary.as_file().try_clone().map_err(fail)?);
        rustix::fs::flock(&*file, rustix::fs::FlockOperation::LockExclusive).map_err(|e| fail(e.into()))?;
        Ok(Self { temporary, file, length: 0, records: Vec::new() })
    }

    /// Appends one content.
    pub fn append(&mut self, key: Key, shape: Shape, blocks: &[u8], tail: &[u8]) -> Result<Record> {
        let offset = self.length;
        let tail_offset = offset + blocks.len() as u64;
        let write = || {
            self.file.write_all_at(blocks, offset)?;
            self.file.write_all_at(tail, tail_offset)
        };
        write().map_err(|e| {
            Error::io("writing to the cluster cache", self.temporary.path(), &e)
                .hint("free room there, or point the cache at another disk")
        })?;
        let record = Record {
            shape: Arc::new(shape),
            file: self.file.clone(),
            offset,
            tail_offset,
            blocks_digest: *blake3::hash(blocks).as_bytes(),
            tail_digest: *blake3::hash(tail).as_bytes(),
        };
        self.length = (tail_offset + tail.len() as u64).next_multiple_of(BLOCK as u64);
        self.records.push((key, record.clone()));
        Ok(record)
    }

    /// Writes index and footer and gives the pack its name.
    pub fn finish(mut self, folder: &Path) -> io::Result<PathBuf> {
        self.records.sort_by_key(|(key, _)| *key);
        let mut index = Vec::new();
        for (key, record) in &self.records {
            encode(key, record, &mut index);
        }
        let digest = blake3::hash(&index);
        let mut footer = MAGIC.to_vec();
        footer.extend_from_slice(&format());
        footer.extend_from_slice(&self.length.to_le_bytes());
        footer.extend_from_slice(&(index.len() as u64).to_le_bytes());
        footer.extend_from_slice(digest.as_bytes());
        self.file.write_all_at(&index, self.length)?;
        self.file.write_all_at(&footer, self.length + index.len() as u64)?;
        let name = format!("{}{}.pack", prefix(), digest.to_hex().get(..24).unwrap_or_default());
        let path = folder.join(name);
        self.temporary.persist(&path).map_err(|e| e.error)?;
        Ok(path)
    }
}

/// How the names of packs of this format begin.
pub(super) fn prefix() -> String {
    let format = format();
    format!("{:02x}{:02x}{:02x}{:02x}-", format[0], format[1], format[2], format[3])
}

/// Reads the index of a pack; `None` where it is not a whole pack of this format.
pub(super) fn open(path: &Path) -> io::Result<Option<Vec<(Key, Record)>>> {
    let file = Arc::new(File::open(path)?);
    let size = file.metadata()?.len();
    let mut footer = [0; FOOTER as usize];
    let Some(footer_at) = size.checked_sub(FOOTER) else { return Ok(None) };
    file.read_exact_at(&mut footer, footer_at)?;
    let mut rest = Cursor(&footer);
    let (Some(magic), Some(found), Some(offset), Some(length), Some(digest)) =
        (rest.take::<8>(), rest.take::<32>(), rest.number(), rest.number(), rest.take::<32>())
    else {
        return Ok(None);
    };
    if magic != MAGIC || found != format() || length > MAX_INDEX || offset.checked_add(length) != Some(footer_at) {
        return Ok(None);
    }
    let mut index = vec![0; length as usize];
    file.read_exact_at(&mut index, offset)?;
    if *blake3::hash(&index).as_bytes() != digest {
        return Ok(None);
    }
    let mut cursor = Cursor(&index);
    let mut records = Vec::new();
    while !cursor.0.is_empty() {
        match decode(&mut cursor, &file, offset) {
            Some(record) => records.push(record),
            None => return Ok(None),
        }
    }
    Ok(Some(records))
}

fn encode(key: &Key, record: &Record, index: &mut Vec<u8>) {
    let shape = &record.shape;
    index.extend_from_slice(key);
    let counts = [shape.clusters.len() as u64, shape.hashes.len() as u64, shape.tail as u64];
    for number in [record.offset, record.tail_offset, shape.size].into_iter().chain(counts) {
        index.extend_from_slice(&number.to_le_bytes());
    }
    index.extend_from_slice(&record.blocks_digest);
    index.extend_from_slice(&record.tail_digest);
    for cluster in &shape.clusters {
        index.extend_from_slice(&[cluster.length as u8, cluster.blocks as u8, u8::from(cluster.plain)]);
    }
    index.extend_from_slice(shape.hashes.as_flattened());
}

fn decode(cursor: &mut Cursor<'_>, file: &Arc<File>, end: u64) -> Option<(Key, Record)> {
    let key = cursor.take()?;
    let (offset, tail_offset, size) = (cursor.number()?, cursor.number()?, cursor.number()?);
    let (clusters, blocks, tail) = (cursor.number()?, cursor.number()?, cursor.number()?);
    let (blocks_digest, tail_digest) = (cursor.take()?, cursor.take()?);
    let within = |start: u64, length: u64| start.checked_add(length).is_some_and(|stop| stop <= end);
    // The digest of the index holds, so this guards against our own mistakes only.
    if !within(offset, blocks.checked_mul(BLOCK as u64)?) || !within(tail_offset, tail) || clusters > end {
        return None;
    }
    let clusters = (0..clusters)
        .map(|_| {
            cursor.take().map(|[length, blocks, plain]: [u8; 3]| Cluster {
                length: length.into(),
                blocks: blocks.into(),
                plain: plain != 0,
            })
        })
        .collect::<Option<Vec<_>>>()?;
    let hashes = (0..blocks).map(|_| cursor.take()).collect::<Option<Vec<_>>>()?;
    let shape = Arc::new(Shape { size, clusters, tail: usize::try_from(tail).ok()?, hashes });
    Some((key, Record { shape, file: file.clone(), offset, tail_offset, blocks_digest, tail_digest }))
}

/// Takes bytes from the front.
struct Cursor<'a>(&'a [u8]);

impl Cursor<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (first, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*first)
    }

    fn number(&mut self) -> Option<u64> {
        self.take().map(u64::from_le_bytes)
    }
}
