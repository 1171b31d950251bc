//! The bytes of all files: large ones by themselves, small ones and tails in groups that share a
//! cluster of the packed inode. What the cache holds is not compressed again.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use super::clusters::ClusterCache;
use super::compress::{CLUSTER, Compressor, SMALL};
use super::layout::BLOCK;
use super::pack::{Key, Record};
use crate::error::{Error, Kind, Result};
use crate::progress::Task;
use crate::tree::{ContentId, Contents};

/// From this size on, a group may end, where the content's id says so: a new file then changes its
/// own group and no other.
const GROUP_MIN: usize = CLUSTER / 2;

/// The last bytes of a content, or all of a small one.
#[derive(Debug, Clone, Copy)]
pub(super) struct Piece {
    id: ContentId,
    size: u64,
    length: usize,
}

/// Pieces that are compressed together.
#[derive(Debug)]
pub(super) struct Group {
    pieces: Vec<Piece>,
    /// Logical bytes, a multiple of the block.
    length: usize,
    pub record: Record,
}

/// Where the bytes of all contents are.
#[derive(Debug)]
pub(super) struct Stored {
    /// By content, for those larger than [`SMALL`].
    pub large: BTreeMap<ContentId, Record>,
    pub groups: Vec<Group>,
    /// Offset in the packed inode of each small content and each tail.
    pub packed: BTreeMap<ContentId, u64>,
    /// Logical size of the packed inode.
    pub packed_size: u64,
    /// Contents and groups that had to be compressed now.
    pub compressed: u64,
}

/// What [`store`] works with.
pub(super) struct Source<'a> {
    pub contents: &'a dyn Contents,
    pub cache: &'a ClusterCache,
    pub workers: usize,
    pub task: &'a dyn Task,
}

/// Stores all contents, given with their sizes in the order of their first use.
///
/// # Errors
/// When a content is gone or has another size than the tree says; when compressing or the cache fails.
pub(super) fn store(wanted: &[(ContentId, u64)], source: &Source<'_>) -> Result<Stored> {
    let compressed = AtomicU64::new(0);
    let large: Vec<(ContentId, u64)> = wanted.iter().filter(|(_, size)| *size > SMALL as u64).copied().collect();
    // Missing ones first and the largest of them before all: nobody waits for a large one at the end.
    let mut order: Vec<usize> =
        (0..large.len()).filter(|at| large.get(*at).is_some_and(|(id, _)| !source.cache.will_have(&id.0))).collect();
    order.sort_by_key(|at| std::cmp::Reverse(large.get(*at).map(|(_, size)| *size)));
    let missing = order.into_iter().filter_map(|at| large.get(at).copied()).collect::<Vec<_>>();
    let make = |compressor: &mut Compressor, (id, size): (ContentId, u64)| {
        let bytes = source.contents.read(&id)?;
        let bytes = checked(&bytes, id, size)?;
        compressed.fetch_add(1, Ordering::Relaxed);
        source.task.advance(size);
        source.cache.store(id.0, compressor.store(bytes)?, bytes)
    };
    let mut records: BTreeMap<ContentId, Record> =
        parallel(&missing, source.workers, |worker, item| make(&mut worker.compressor, *item).map(|record| (item.0, record)))?
            .into_iter()
            .collect();
    source.cache.settle();
    let present: Vec<(ContentId, u64)> = large.iter().filter(|(id, _)| !records.contains_key(id)).copied().collect();
    records.extend(parallel(&present, source.workers, |worker, &(id, size)| {
        match source.cache.find(&id.0, &mut worker.buffer).filter(|record| record.shape.size == size) {
            Some(record) => {
                source.task.advance(size);
                Ok((id, record))
            }
            None => Ok((id, make(&mut worker.compressor, (id, size))?)),
        }
    })?);

    let groups = parallel(&group(&pieces(wanted, &records)), source.workers, |worker, pieces| {
        let length = pieces.iter().map(|piece| piece.length).sum::<usize>().next_multiple_of(BLOCK);
        let key = group_key(pieces);
        let record = match source.cache.find(&key, &mut worker.buffer) {
            Some(record) if record.shape.size == length as u64 => record,
            _ => {
                compressed.fetch_add(1, Ordering::Relaxed);
                let bytes = assemble(pieces, &records, source, length)?;
                source.cache.store(key, worker.compressor.store_group(&bytes)?, &[])?
            }
        };
        source.task.advance(pieces.iter().filter(|piece| piece.size <= SMALL as u64).map(|piece| piece.size).sum());
        Ok(Group { pieces: pieces.clone(), length, record })
    })?;
    Ok(index(records, groups, compressed.into_inner()))
}

fn index(large: BTreeMap<ContentId, Record>, groups: Vec<Group>, compressed: u64) -> Stored {
    let mut packed = BTreeMap::new();
    let mut packed_size = 0;
    for group in &groups {
        let mut offset = packed_size;
        for piece in &group.pieces {
            packed.insert(piece.id, offset);
            offset += piece.length as u64;
        }
        packed_size += group.length as u64;
    }
    Stored { large, groups, packed, packed_size, compressed }
}

fn pieces(wanted: &[(ContentId, u64)], large: &BTreeMap<ContentId, Record>) -> Vec<Piece> {
    wanted
        .iter()
        .filter_map(|&(id, size)| {
            let length = match large.get(&id) {
                Some(record) if record.shape.is_flat() => 0,
                Some(record) => record.shape.tail,
                None => usize::try_from(size).ok()?,
            };
            (length > 0).then_some(Piece { id, size, length })
        })
        .collect()
}

fn group(pieces: &[Piece]) -> Vec<Vec<Piece>> {
    let mut groups: Vec<Vec<Piece>> = Vec::new();
    let mut length = CLUSTER;
    for piece in pieces {
        let last_ends =
            groups.last().and_then(|group| group.last()).is_some_and(|last| last.id.0.first().is_some_and(|byte| byte % 8 == 0));
        if length + piece.length > CLUSTER || (length >= GROUP_MIN && last_ends) {
            groups.push(Vec::new());
            length = 0;
        }
        length += piece.length;
        if let Some(group) = groups.last_mut() {
            group.push(*piece);
        }
    }
    groups
}

/// The ids say what the bytes are: no byte need be read to find a group in the cache.
fn group_key(pieces: &[Piece]) -> Key {
    let mut hasher = blake3::Hasher::new_derive_key("ingot seal group 1");
    for piece in pieces {
        hasher.update(&piece.id.0).update(&(piece.length as u64).to_le_bytes()).update(&piece.size.to_le_bytes());
    }
    *hasher.finalize().as_bytes()
}

fn assemble(pieces: &[Piece], large: &BTreeMap<ContentId, Record>, source: &Source<'_>, length: usize) -> Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(length);
    for piece in pieces {
        if let Some(tail) = large.get(&piece.id).and_then(Record::tail) {
            bytes.extend_from_slice(&tail);
            continue;
        }
        let content = source.contents.read(&piece.id)?;
        let content = checked(&content, piece.id, piece.size)?;
        bytes.extend_from_slice(content.get(content.len().saturating_sub(piece.length)..).unwrap_or_default());
    }
    bytes.resize(length, 0);
    Ok(bytes)
}

fn checked(bytes: &[u8], id: ContentId, size: u64) -> Result<&[u8]> {
    if bytes.len() as u64 == size {
        return Ok(bytes);
    }
    Err(Error::new(Kind::Failed, format!("sealing content {id:?}: it has {} bytes, the tree says {size}", bytes.len())))
}

/// What one thread keeps from item to item.
struct Worker {
    compressor: Compressor,
    buffer: Vec<u8>,
}

/// Does `work` for each item on several threads; the results come in the order of the items.
fn parallel<T: Sync, R: Send>(items: &[T], workers: usize, work: impl Fn(&mut Worker, &T) -> Result<R> + Sync) -> Result<Vec<R>> {
    let next = AtomicUsize::new(0);
    let results = Mutex::new(Vec::with_capacity(items.len()));
    let run = || -> Result<()> {
        let mut worker = Worker { compressor: Compressor::new()?, buffer: Vec::new() };
        loop {
            let at = next.fetch_add(1, Ordering::Relaxed);
            let Some(item) = items.get(at) else { return Ok(()) };
            match work(&mut worker, item) {
                Ok(result) => results.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push((at, result)),
                Err(error) => {
                    // The others stop after their current item.
                    next.store(items.len(), Ordering::Relaxed);
                    return Err(error);
                }
            }
        }
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (1..workers.min(items.len())).map(|_| scope.spawn(run)).collect();
        let own = if items.is_empty() { Ok(()) } else { run() };
        let panicked = || Err(Error::new(Kind::Failed, "a compressing thread panicked"));
        threads.into_iter().map(|thread| thread.join().unwrap_or_else(|_| panicked())).fold(own, Result::and)
    })?;
    let mut results = results.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    results.sort_by_key(|(at, _)| *at);
    Ok(results.into_iter().map(|(_, result)| result).collect())
}
