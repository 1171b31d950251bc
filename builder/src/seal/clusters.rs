//! Compressed clusters by content: made while the tree is still growing, kept for the next build.
//!
//! Files: `FORMAT-DIGEST.pack` (see the module `pack`) and `.writing-*.part` (locked by its writer; one
//! whose writer is gone is removed). Any of them may be deleted at any time: no output changes.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use super::compress::{Compressor, SMALL, Shape};
use super::pack::{self, Key, Record, Writer};
use crate::error::{Error, Result};
use crate::files;
use crate::tree::{ContentId, ContentSink};

/// Offers that wait hold at most this many bytes; what comes then is dropped and read again later.
const MAX_WAITING: usize = 48 << 20;
/// All packs together; the least recently used go first.
const MAX_TOTAL: u64 = 4 << 30;
/// With more packs than this, the small ones are made one.
const MAX_PACKS: usize = 8;
/// What a small pack is, in bytes.
const SMALL_PACK: u64 = 16 << 20;

/// The cache. Threads compress what is offered until it is dropped.
#[derive(Debug)]
pub struct ClusterCache {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    folder: PathBuf,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// More than one where packs of two builds hold the same content, or one is damaged.
    records: BTreeMap<Key, Vec<Record>>,
    waiting: VecDeque<(Key, Arc<[u8]>)>,
    waiting_bytes: usize,
    /// Waiting or being compressed.
    pending: BTreeSet<Key>,
    writer: Option<Writer>,
    used: BTreeSet<PathBuf>,
    closing: bool,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // A thread that panicked left no half-changed state: each change is one statement.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn store(&self, key: Key, (shape, blocks): (Shape, Vec<u8>), bytes: &[u8]) -> Result<Record> {
        let tail = bytes.get(bytes.len().saturating_sub(shape.tail)..).unwrap_or_default();
        let mut state = self.lock();
        let mut writer = match state.writer.take() {
            Some(writer) => writer,
            None => Writer::create(&self.folder)?,
        };
        let record = writer.append(key, shape, &blocks, tail);
        state.writer = Some(writer);
        let record = record?;
        state.records.entry(key).or_default().insert(0, record.clone());
        Ok(record)
    }

    /// One worker: takes offers until the cache is closed. What fails is left to `seal`, which
    /// meets the same failure with somebody to tell.
    fn work(&self) {
        let mut compressor = None;
        let mut state = self.lock();
        loop {
            if state.closing {
                return;
            }
            let Some((key, bytes)) = state.waiting.pop_front() else {
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            state.waiting_bytes = state.waiting_bytes.saturating_sub(bytes.len());
            drop(state);
            if compressor.is_none() {
                compressor = Compressor::new().ok();
            }
            if let Some(compressor) = &mut compressor {
                let stored = compressor.store(&bytes).and_then(|stored| self.store(key, stored, &bytes));
                if let Err(error) = stored {
                    tracing::warn!("compressing ahead: {error}");
                }
            }
            drop(bytes);
            state = self.lock();
            state.pending.remove(&key);
            self.changed.notify_all();
        }
    }
}

impl ClusterCache {
    /// Opens the cache in `folder`, which is made where there is none, with `workers` threads
    /// (0: nothing is compressed ahead).
    ///
    /// # Errors
    /// When the folder cannot be made or read. Damaged packs are no error: they are removed.
    pub fn open(folder: &Path, workers: usize) -> Result<Self> {
        files::make_folder(folder)?;
        let mut state = State::default();
        for path in listing(folder)? {
            let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            if name.ends_with(".part") {
                remove_abandoned(&path)?;
            } else if name.ends_with(".pack") && name.starts_with(&pack::prefix()) {
                // Another build may remove a pack between the listing and this.
                match pack::open(&path) {
                    Ok(Some(records)) => {
                        for (key, record) in records {
                            state.records.entry(key).or_default().push(record);
                        }
                        state.used.insert(path);
                    }
                    Ok(None) => files::remove(&path)?,
                    Err(error) => tracing::warn!("reading {}: {error}", path.display()),
                }
            }
        }
        let shared = Arc::new(Shared { folder: folder.to_owned(), state: Mutex::new(state), changed: Condvar::new() });
        let threads = (0..workers)
            .map(|_| {
                let shared = shared.clone();
                std::thread::Builder::new().name("clusters".into()).spawn(move || shared.work())
            })
            .collect::<Result<_, _>>()
            .map_err(|e| Error::io("starting threads for the cluster cache in", folder, &e))?;
        Ok(Self { shared, threads })
    }

    /// Waits until everything offered so far is compressed.
    pub fn settle(&self) {
        let mut state = self.shared.lock();
        while !state.pending.is_empty() && !self.threads.is_empty() {
            state = self.shared.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Whether there is, or will be after [`ClusterCache::settle`], a record of this key.
    pub(super) fn will_have(&self, key: &Key) -> bool {
        let state = self.shared.lock();
        state.pending.contains(key) || state.records.contains_key(key)
    }

    /// The record of this key whose bytes were read and hold; damaged ones are forgotten.
    pub(super) fn find(&self, key: &Key, buffer: &mut Vec<u8>) -> Option<Record> {
        let candidates = self.shared.lock().records.get(key)?.clone();
        let found = candidates.into_iter().find(|record| {
            let whole = record.is_whole(buffer);
            if !whole {
                tracing::warn!("a record of the cluster cache in {} is damaged: making it again", self.shared.folder.display());
            }
            whole
        });
        if found.is_none() {
            self.shared.lock().records.remove(key);
        }
        found
    }

    /// Puts what was made of `bytes` under `key`.
    pub(super) fn store(&self, key: Key, stored: (Shape, Vec<u8>), bytes: &[u8]) -> Result<Record> {
        self.shared.store(key, stored, bytes)
    }

    /// Keeps what was made since the last time for the next build, and bounds the cache.
    ///
    /// # Errors
    /// When writing or removing fails. The image is not concerned.
    pub fn commit(&self) -> Result<()> {
        let folder = &self.shared.folder;
        let (writer, used) = {
            let mut state = self.shared.lock();
            (state.writer.take(), state.used.clone())
        };
        if let Some(writer) = writer {
            writer.finish(folder).map_err(|e| Error::io("keeping a pack of the cluster cache in", folder, &e))?;
        }
        used.iter().for_each(|path| touch(path));
        self.merge_small()?;
        bound(folder)
    }

    /// Makes one pack of the small ones when there are many.
    fn merge_small(&self) -> Result<()> {
        let folder = &self.shared.folder;
        let packs: Vec<PathBuf> = listing(folder)?
            .into_iter()
            .filter(|path| has_prefix(path) && path.extension().is_some_and(|e| e == "pack"))
            .collect();
        if packs.len() <= MAX_PACKS {
            return Ok(());
        }
        let small: Vec<PathBuf> =
            packs.into_iter().filter(|path| path.metadata().is_ok_and(|found| found.len() < SMALL_PACK)).collect();
        if small.len() < 2 {
            return Ok(());
        }
        let mut writer = Writer::create(folder)?;
        let (mut done, mut buffer) = (BTreeSet::new(), Vec::new());
        for path in &small {
            // One that another build has just removed holds nothing that is needed.
            let Ok(Some(records)) = pack::open(path) else { continue };
            for (key, record) in records {
                if !done.contains(&key) && record.is_whole(&mut buffer) {
                    let (Ok(blocks), Some(tail)) = (record.blocks().to_vec(), record.tail()) else { continue };
                    writer.append(key, Shape::clone(&record.shape), &blocks, &tail)?;
                    done.insert(key);
                }
            }
        }
        let merged = writer.finish(folder).map_err(|e| Error::io("merging packs of the cluster cache in", folder, &e))?;
        small.iter().filter(|path| **path != merged).try_for_each(|path| files::remove(path))
    }
}

impl ContentSink for ClusterCache {
    fn offer(&self, id: ContentId, bytes: &Arc<[u8]>) {
        if bytes.len() <= SMALL || self.threads.is_empty() {
            return;
        }
        let mut state = self.shared.lock();
        let room = state.waiting_bytes.checked_add(bytes.len()).is_some_and(|total| total <= MAX_WAITING);
        // A file larger than the whole queue is taken when nothing else waits.
        if !(room || state.waiting.is_empty()) || state.records.contains_key(&id.0) || !state.pending.insert(id.0) {
            return;
        }
        state.waiting_bytes += bytes.len();
        state.waiting.push_back((id.0, bytes.clone()));
        // All wait on the same condition, `settle` too: one call could wake the wrong one.
        self.shared.changed.notify_all();
    }
}

impl Drop for ClusterCache {
    fn drop(&mut self) {
        self.shared.lock().closing = true;
        self.shared.changed.notify_all();
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::warn!("a thread of the cluster cache panicked");
            }
        }
    }
}

fn has_prefix(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(&pack::prefix()))
}

/// The names in the folder, sorted.
fn listing(folder: &Path) -> Result<Vec<PathBuf>> {
    let fail = |e| Error::io("listing the cluster cache", folder, &e);
    let mut paths = std::fs::read_dir(folder)
        .map_err(fail)?
        .map(|entry| entry.map(|e| e.path()))
        .collect::<Result<Vec<_>, _>>()
        .map_err(fail)?;
    paths.sort();
    Ok(paths)
}

/// Removes a pack that was never finished, unless its writer still lives.
fn remove_abandoned(path: &Path) -> Result<()> {
    let Ok(file) = std::fs::File::open(path) else { return Ok(()) };
    match rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => files::remove(path),
        Err(_) => Ok(()),
    }
}

/// Marks a pack as used now. Only the order of eviction depends on it.
fn touch(path: &Path) {
    let now = rustix::fs::Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_NOW };
    let times = rustix::fs::Timestamps { last_access: now, last_modification: now };
    // The pack may be gone: another build has merged it.
    if let Err(error) = rustix::fs::utimensat(rustix::fs::CWD, path, &times, rustix::fs::AtFlags::empty()) {
        tracing::debug!("touching {}: {error}", path.display());
    }
}

/// Removes the least recently used packs, of all formats, until the rest is small enough.
fn bound(folder: &Path) -> Result<()> {
    let mut packs = Vec::new();
    for path in listing(folder)?.into_iter().filter(|path| path.extension().is_some_and(|e| e == "pack")) {
        if let Ok(found) = path.metadata() {
            packs.push((found.modified().ok(), found.len(), path));
        }
    }
    packs.sort();
    let mut total: u64 = packs.iter().map(|(_, size, _)| size).sum();
    for (_, size, path) in packs {
        if total <= MAX_TOTAL {
            break;
        }
        files::remove(&path)?;
        total = total.saturating_sub(size);
    }
    Ok(())
}
