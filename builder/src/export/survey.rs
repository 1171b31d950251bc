//! One look through the disk: which pages are zero, and which clusters compress.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use flate2::{Compress, Compression, FlushCompress, Status};

use crate::blob::{Blob, Extents};
use crate::error::{Error, Kind, Result};
use crate::progress::Task;

/// What counts as a hole: whole zero pages. Blocks of every usual file system.
pub(super) const PAGE: usize = 4096;
/// What is compressed as one: a qcow2 cluster.
pub(super) const CLUSTER: usize = 1 << 16;
/// What a thread takes at a time.
const CHUNK: usize = 1 << 20;
/// A cluster is kept compressed only when it becomes an eighth smaller: reading it costs the guest.
const LARGEST_PACKED: usize = CLUSTER - CLUSTER / 8;
/// QEMU inflates with a window of 4 KiB.
const WINDOW_BITS: u8 = 12;
const LEVEL: u32 = 4;
const ZEROS: [u8; PAGE] = [0; PAGE];

/// What the disk holds.
#[derive(Debug)]
pub(super) struct Survey {
    /// The disk without its zero pages.
    pub(super) content: Extents,
    /// Deflated clusters by cluster number.
    pub(super) packed: BTreeMap<u64, Blob>,
}

/// What was found in one chunk.
#[derive(Debug, Default)]
struct Found {
    /// Bit n: page n is not zero.
    pages: [u64; CHUNK / PAGE / 64],
    packed: Vec<(u64, Blob)>,
}

impl Survey {
    /// Looks through `disk`; compresses into unnamed files in `spool` where one is given.
    ///
    /// # Errors
    /// When the disk cannot be read or the spool not written.
    pub(super) fn of(disk: &Extents, spool: Option<&Path>, task: &dyn Task) -> Result<Self> {
        let chunks = touched(disk);
        let next = AtomicUsize::new(0);
        let workers = thread::available_parallelism().map_or(1, usize::from).min(8);
        let work = || -> Result<Vec<(u64, Found)>> {
            let mut worker = Worker::new(disk, spool)?;
            let mut done = Vec::new();
            while let Some(chunk) = chunks.get(next.fetch_add(1, Ordering::Relaxed)) {
                done.push((*chunk, worker.look(*chunk).map_err(|e| failed(&e))?));
                task.advance(CHUNK as u64);
            }
            Ok(done)
        };
        let parts: Vec<_> = thread::scope(|scope| {
            let running: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
            running.into_iter().map(|thread| thread.join().map_err(|_| super::stopped())?).collect::<Result<_>>()
        })?;
        // By number: which thread saw a chunk leaves no trace.
        let found: BTreeMap<u64, Found> = parts.into_iter().flatten().collect();
        let content = without_zeros(disk, &found);
        let packed = found.into_values().flat_map(|found| found.packed).collect();
        Ok(Self { content, packed })
    }

    /// Numbers of the pieces of `length` bytes (whole pages) that hold anything, rising.
    pub(super) fn touched(&self, length: u64) -> Vec<u64> {
        pieces(&self.content, length)
    }
}

/// Numbers of the chunks that a blob touches, rising.
fn touched(disk: &Extents) -> Vec<u64> {
    pieces(disk, CHUNK as u64)
}

fn pieces(range: &Extents, length: u64) -> Vec<u64> {
    let mut numbers: Vec<u64> =
        range.parts().iter().flat_map(|(start, blob)| start / length..(start + blob.len()).div_ceil(length)).collect();
    numbers.dedup();
    numbers
}

/// The disk cut down to the pages that are not zero.
fn without_zeros(disk: &Extents, found: &BTreeMap<u64, Found>) -> Extents {
    let mut content = Extents::new(disk.size());
    let mut run: Option<(u64, u64)> = None;
    let mut keep = |start: u64, end: u64| content.push_all(start, &disk.slice(start, end - start));
    for (chunk, found) in found {
        for page in 0..(CHUNK / PAGE) {
            let bits = found.pages.get(page / 64).copied().unwrap_or(0);
            if bits >> (page % 64) & 1 == 0 {
                continue;
            }
            let start = chunk * CHUNK as u64 + (page * PAGE) as u64;
            run = match run {
                Some((from, to)) if to == start => Some((from, start + PAGE as u64)),
                last => {
                    last.into_iter().for_each(|(from, to)| keep(from, to));
                    Some((start, start + PAGE as u64))
                }
            };
        }
    }
    run.into_iter().for_each(|(from, to)| keep(from, to.min(disk.size())));
    content
}

struct Worker<'a> {
    disk: &'a Extents,
    buffer: Vec<u8>,
    packer: Option<Packer>,
}

impl<'a> Worker<'a> {
    fn new(disk: &'a Extents, spool: Option<&Path>) -> Result<Self> {
        let packer = spool.map(Packer::new).transpose()?;
        Ok(Self { disk, buffer: vec![0; CHUNK], packer })
    }

    fn look(&mut self, chunk: u64) -> io::Result<Found> {
        let start = chunk * CHUNK as u64;
        let length = (self.disk.size() - start).min(CHUNK as u64) as usize;
        // Beyond the end of the disk stand zeros, so that the last cluster is a whole one.
        self.buffer[length..].fill(0);
        self.disk.read_exact_at(&mut self.buffer[..length], start)?;
        let mut found = Found::default();
        for (page, bytes) in self.buffer.chunks_exact(PAGE).enumerate() {
            if bytes != ZEROS {
                found.pages[page / 64] |= 1 << (page % 64);
            }
        }
        let Some(packer) = &mut self.packer else { return Ok(found) };
        let per_cluster = CLUSTER / PAGE;
        for (index, bytes) in self.buffer.chunks_exact(CLUSTER).enumerate() {
            let first = index * per_cluster;
            let any = (first..first + per_cluster).any(|page| found.pages[page / 64] >> (page % 64) & 1 == 1);
            if any && let Some(blob) = packer.pack(bytes)? {
                found.packed.push((start / CLUSTER as u64 + index as u64, blob));
            }
        }
        Ok(found)
    }
}

/// Deflates clusters into a file of its own that nobody sees.
struct Packer {
    file: Arc<File>,
    length: u64,
    deflate: Compress,
    output: Vec<u8>,
}

impl Packer {
    fn new(folder: &Path) -> Result<Self> {
        let file = tempfile::tempfile_in(folder).map_err(|e| Error::io("making a temporary file in", folder, &e))?;
        let deflate = Compress::new_with_window_bits(Compression::new(LEVEL), false, WINDOW_BITS);
        Ok(Self { file: Arc::new(file), length: 0, deflate, output: Vec::with_capacity(LARGEST_PACKED) })
    }

    /// The deflated cluster, where that pays.
    fn pack(&mut self, cluster: &[u8]) -> io::Result<Option<Blob>> {
        if is_dense(cluster) {
            return Ok(None);
        }
        self.deflate.reset();
        self.output.clear();
        let status = self.deflate.compress_vec(cluster, &mut self.output, FlushCompress::Finish).map_err(io::Error::other)?;
        if status != Status::StreamEnd {
            return Ok(None);
        }
        self.file.write_all_at(&self.output, self.length)?;
        let blob = Blob::file(self.file.clone(), self.length, self.output.len() as u64);
        self.length += self.output.len() as u64;
        Ok(Some(blob))
    }
}

/// Whether the bytes look compressed already: 256 of every 4096 bytes are counted, hardly any are zero (they pad the
/// blocks of a compressed file system), and all other values occur about equally often. In whole numbers, so that every
/// machine decides alike.
fn is_dense(cluster: &[u8]) -> bool {
    let mut counts = [0u64; 256];
    for page in cluster.chunks_exact(PAGE) {
        for byte in &page[..256] {
            counts[usize::from(*byte)] += 1;
        }
    }
    let zeros = std::mem::take(&mut counts[0]);
    let samples: u64 = counts.iter().sum();
    // Even counts give samples + samples^2 / 255; an eighth of text gives a fifth more.
    let spread: u64 = counts.iter().map(|count| count * count).sum();
    zeros * 7 < samples && spread * 100 < (samples + samples * samples / 255) * 120
}

fn failed(error: &io::Error) -> Error {
    Error::new(Kind::Failed, format!("reading the disk: {error}"))
}
