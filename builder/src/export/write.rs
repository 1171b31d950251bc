//! Writing one sparse file and hashing it on the way.

use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use trust::{Sha256, Sha256Digest};

use crate::blob::Extents;
use crate::error::{Error, Result};
use crate::files;
use crate::progress::Task;

const BUFFER: usize = 1 << 20;
/// Short enough to stay in the nearest cache while it is hashed again and again.
static ZEROS: [u8; 1 << 14] = [0; 1 << 14];

/// Writes `content`; what no blob covers stays a hole.
///
/// # Errors
/// When a blob cannot be read or the file not written.
pub(super) fn write(path: &Path, content: &Extents, task: &dyn Task) -> Result<Sha256Digest> {
    let file = files::create(path)?;
    let failed = |e: &io::Error| Error::io("writing", path, e);
    file.set_len(content.size()).map_err(|e| failed(&e))?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; BUFFER];
    let mut position = 0;
    for (start, end) in runs(content) {
        hash_zeros(&mut hash, start - position);
        position = start;
        while position < end {
            // Chunks end on multiples of the buffer: whole pages of the page cache.
            let stop = end.min((position / BUFFER as u64 + 1) * BUFFER as u64);
            let chunk = &mut buffer[..(stop - position) as usize];
            content.read_exact_at(chunk, position).map_err(|e| failed(&e))?;
            hash.update(chunk);
            file.write_all_at(chunk, position).map_err(|e| failed(&e))?;
            task.advance(chunk.len() as u64);
            position = stop;
        }
    }
    hash_zeros(&mut hash, content.size() - position);
    Ok(hash.finish())
}

/// Stretches without a hole: neighbouring blobs become one.
fn runs(content: &Extents) -> Vec<(u64, u64)> {
    let mut runs: Vec<(u64, u64)> = Vec::new();
    for (start, blob) in content.parts() {
        match runs.last_mut() {
            Some((_, end)) if end == start => *end += blob.len(),
            _ => runs.push((*start, start + blob.len())),
        }
    }
    runs
}

fn hash_zeros(hash: &mut Sha256, mut amount: u64) {
    while amount > 0 {
        let part = amount.min(ZEROS.len() as u64);
        hash.update(&ZEROS[..part as usize]);
        amount -= part;
    }
}
