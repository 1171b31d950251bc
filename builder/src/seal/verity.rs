//! dm-verity, format 1 with SHA-256 and 4096-byte blocks (cryptsetup's wiki "DMVerity", kernel
//! `Documentation/admin-guide/device-mapper/verity.rst`): superblock, then the hash tree, top level first.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use trust::{Sha256, Sha256Digest};
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::layout::BLOCK;
use super::read::ReadAt;
use crate::error::{Error, Kind, Result};

/// The hash of one block.
pub type BlockHash = [u8; 32];

/// The salt of every image: fixed, so that a block's hash is known as soon as the block is.
/// A salt only keeps apart images whose attacker prepared collisions beforehand; SHA-256 has none.
pub const SALT: [u8; 32] = *b"ingot dm-verity v1 block salt\0\0\0";

/// Hashes in a block.
const FAN_OUT: usize = BLOCK / 32;
/// Blocks that one thread reads at a time.
const BATCH: usize = 256;

/// The superblock of the hash area, 512 bytes; zeros follow up to the end of its block.
#[derive(Debug, Clone, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct SuperBlock {
    /// `verity\0\0`.
    pub signature: [u8; 8],
    /// 1.
    pub version: U32,
    /// 1: the salt comes first.
    pub hash_type: U32,
    /// UUID of the hash area.
    pub uuid: [u8; 16],
    /// `sha256`.
    pub algorithm: [u8; 32],
    /// 4096.
    pub data_block_size: U32,
    /// 4096.
    pub hash_block_size: U32,
    /// Blocks of data.
    pub data_blocks: U64,
    /// Bytes of the salt.
    pub salt_size: U16,
    /// Zeros.
    pub padding: [u8; 6],
    /// The salt, then zeros.
    pub salt: [u8; 256],
    /// Zeros.
    pub padding2: [u8; 168],
}

const SIGNATURE: [u8; 8] = *b"verity\0\0";

/// The hash area of some data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HashArea {
    /// Superblock and tree.
    pub bytes: Vec<u8>,
    /// The top of the tree: it stands for all of the data.
    pub root_hash: Sha256Digest,
}

impl HashArea {
    /// The same tree under another UUID: it is no part of what is hashed.
    #[must_use]
    pub fn with_uuid(mut self, uuid: [u8; 16]) -> Self {
        if let Some(place) = self.bytes.get_mut(16..32) {
            place.copy_from_slice(&uuid);
        }
        self
    }
}

/// Builds the hash area from the hashes of all data blocks, which must have been made with `salt`.
///
/// # Errors
/// When there are no blocks, or the salt is longer than 256 bytes.
pub fn build(leaves: &[BlockHash], salt: &[u8], uuid: [u8; 16]) -> Result<HashArea> {
    let mut super_block = SuperBlock {
        signature: SIGNATURE,
        version: U32::new(1),
        hash_type: U32::new(1),
        uuid,
        algorithm: [0; 32],
        data_block_size: U32::new(BLOCK as u32),
        hash_block_size: U32::new(BLOCK as u32),
        data_blocks: U64::new(leaves.len() as u64),
        salt_size: U16::new(u16::try_from(salt.len()).unwrap_or(u16::MAX)),
        padding: [0; 6],
        salt: [0; 256],
        padding2: [0; 168],
    };
    super_block.algorithm[..6].copy_from_slice(b"sha256");
    let place = super_block.salt.get_mut(..salt.len()).ok_or_else(|| {
        Error::new(Kind::Failed, format!("building the dm-verity tree: the salt has {} bytes, at most 256 fit", salt.len()))
    })?;
    place.copy_from_slice(salt);

    let mut levels: Vec<Vec<u8>> = Vec::new();
    let mut hashes = leaves.to_vec();
    while hashes.len() > 1 {
        let mut level = hashes.as_flattened().to_vec();
        level.resize(level.len().next_multiple_of(BLOCK), 0);
        hashes = level.chunks(BLOCK).map(|block| salted(salt, block)).collect();
        levels.push(level);
    }
    let root = hashes.first().ok_or_else(|| Error::new(Kind::Failed, "building the dm-verity tree: there are no data blocks"))?;

    let mut bytes = super_block.as_bytes().to_vec();
    bytes.resize(BLOCK, 0);
    levels.iter().rev().for_each(|level| bytes.extend_from_slice(level));
    Ok(HashArea { bytes, root_hash: Sha256Digest(*root) })
}

/// Bytes that [`build`] makes for this many data blocks.
pub fn area_size(data_blocks: u64) -> u64 {
    let (mut blocks, mut hashes) = (1, data_blocks);
    while hashes > 1 {
        hashes = hashes.div_ceil(FAN_OUT as u64);
        blocks += hashes;
    }
    blocks * BLOCK as u64
}

/// The hash of every block of `data`, by `workers` threads.
///
/// # Errors
/// When the size is not a multiple of 4096 bytes, or reading fails.
pub fn leaves(data: &dyn ReadAt, salt: &[u8], workers: usize) -> Result<Vec<BlockHash>> {
    let refuse = |what: String| Error::new(Kind::Failed, format!("hashing blocks for dm-verity: {what}"));
    let blocks = usize::try_from(data.size() / BLOCK as u64).map_err(|e| refuse(e.to_string()))?;
    if !data.size().is_multiple_of(BLOCK as u64) {
        return Err(refuse(format!("{} bytes are no multiple of {BLOCK}", data.size())));
    }
    let mut hashes = vec![[0; 32]; blocks];
    let batches: Vec<Mutex<&mut [BlockHash]>> = hashes.chunks_mut(BATCH).map(Mutex::new).collect();
    let next = AtomicUsize::new(0);
    let work = || -> Result<()> {
        let mut buffer = vec![0; BATCH * BLOCK];
        loop {
            let at = next.fetch_add(1, Ordering::Relaxed);
            let Some(batch) = batches.get(at) else { return Ok(()) };
            let Ok(mut batch) = batch.lock() else { return Ok(()) };
            let bytes = &mut buffer[..batch.len() * BLOCK];
            data.read_exact_at(bytes, (at * BATCH * BLOCK) as u64).map_err(|e| refuse(e.to_string()))?;
            for (hash, block) in batch.iter_mut().zip(bytes.chunks(BLOCK)) {
                *hash = salted(salt, block);
            }
        }
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (1..workers.max(1)).map(|_| scope.spawn(work)).collect();
        let own = work();
        threads.into_iter().map(|thread| thread.join().unwrap_or(Ok(()))).fold(own, Result::and)
    })?;
    drop(batches);
    Ok(hashes)
}

/// Bytes of data that a hash area says it is about: a claim, until [`check`] has looked.
///
/// # Errors
/// When there is no superblock, or it tells of other blocks than 4096 bytes.
pub fn data_size(area: &dyn ReadAt) -> Result<u64> {
    let refuse = |what: String| Error::new(Kind::Failed, format!("reading the dm-verity superblock: {what}"));
    let mut head = vec![0; size_of::<SuperBlock>()];
    area.read_exact_at(&mut head, 0).map_err(|e| refuse(e.to_string()))?;
    let found = SuperBlock::read_from_bytes(&head).map_err(|e| refuse(e.to_string()))?;
    if found.signature != SIGNATURE || found.data_block_size.get() as usize != BLOCK {
        return Err(refuse(format!("expected its signature and blocks of {BLOCK} bytes, found others")));
    }
    let size = found.data_blocks.get().checked_mul(BLOCK as u64);
    size.ok_or_else(|| refuse(format!("{} blocks are more than any disk has", found.data_blocks)))
}

/// Checks `data` against its hash area and the root hash: every byte of both.
///
/// # Errors
/// [`Kind::Untrusted`] names the first block that does not hold.
pub fn check(data: &dyn ReadAt, area: &dyn ReadAt, root_hash: &Sha256Digest, workers: usize) -> Result<()> {
    let refuse = |what: String| Error::new(Kind::Untrusted, format!("checking dm-verity: {what}"));
    let mut head = vec![0; size_of::<SuperBlock>()];
    area.read_exact_at(&mut head, 0).map_err(|e| refuse(format!("reading the superblock: {e}")))?;
    let found = SuperBlock::read_from_bytes(&head).map_err(|e| refuse(e.to_string()))?;
    if found.signature != SIGNATURE {
        return Err(refuse("the hash area has no verity superblock".into()));
    }
    let salt = found
        .salt
        .get(..usize::from(found.salt_size.get()))
        .ok_or_else(|| refuse(format!("the superblock tells of {} bytes of salt, at most 256 fit", found.salt_size.get())))?;
    let leaves = leaves(data, salt, workers)?;
    let wanted = build(&leaves, salt, found.uuid)?;
    if area.size() < wanted.bytes.len() as u64 {
        return Err(refuse(format!("the hash area has {} bytes, expected {}", area.size(), wanted.bytes.len())));
    }
    let mut bytes = vec![0; wanted.bytes.len()];
    area.read_exact_at(&mut bytes, 0).map_err(|e| refuse(format!("reading the hash tree: {e}")))?;
    let leaf_level = if leaves.len() > 1 { leaves.len().next_multiple_of(FAN_OUT) * 32 } else { 0 };
    let (found_top, found_leaves) = bytes.split_at(bytes.len() - leaf_level);
    let (wanted_top, wanted_leaves) = wanted.bytes.split_at(bytes.len() - leaf_level);
    if let Some(at) = found_leaves.chunks(32).zip(wanted_leaves.chunks(32)).position(|(found, wanted)| found != wanted) {
        return Err(refuse(format!("data block {at} does not have the hash that the tree says")));
    }
    if let Some(at) = found_top.iter().zip(wanted_top).position(|(found, wanted)| found != wanted) {
        return Err(refuse(format!("byte {at} of the hash area is not what the data say")));
    }
    if wanted.root_hash != *root_hash {
        return Err(refuse(format!("the root hash is {}, expected {root_hash}", wanted.root_hash)));
    }
    Ok(())
}

fn salted(salt: &[u8], block: &[u8]) -> BlockHash {
    let mut hasher = Sha256::new();
    hasher.update(salt);
    hasher.update(block);
    hasher.finish().0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::Program;

    fn data(blocks: usize) -> Vec<u8> {
        super::super::compress::tests::noise(blocks as u64, blocks * BLOCK)
    }

    #[test]
    fn is_byte_equal_to_veritysetup() {
        let hint = "apt install cryptsetup-bin (ci/setup does it)";
        let folder = tempfile::tempdir().unwrap();
        let (image, area) = (folder.path().join("data"), folder.path().join("area"));
        let uuid = uuid::Uuid::from_u128(0x1234_5678_9abc_4def_8123_4567_89ab_cdef);
        let salts: [&[u8]; 2] = [&SALT, &[1, 2, 3]];
        for blocks in [1, 2, 127, 128, 129, 300, 128 * 128 + 1] {
            let bytes = data(blocks);
            std::fs::write(&image, &bytes).unwrap();
            // The largest takes its time: once is enough.
            for salt in salts.into_iter().take(if blocks > 1000 { 1 } else { 2 }) {
                let text: String = salt.iter().map(|byte| format!("{byte:02x}")).collect();
                // An old area would be kept where it is longer.
                let _ = std::fs::remove_file(&area);
                let common = Program::find("veritysetup", hint).unwrap();
                common
                    .clone()
                    .arg("format")
                    .arg(&image)
                    .arg(&area)
                    .arg(format!("--salt={text}"))
                    .arg(format!("--uuid={uuid}"))
                    .output()
                    .unwrap();
                let own = build(&leaves(&bytes, salt, 2).unwrap(), salt, *uuid.as_bytes()).unwrap();
                assert!(std::fs::read(&area).unwrap() == own.bytes, "{blocks} blocks differ from veritysetup");
                assert_eq!(own.bytes.len() as u64, area_size(blocks as u64));
                std::fs::write(&area, &own.bytes).unwrap();
                common.arg("verify").arg(&image).arg(&area).arg(own.root_hash.to_string()).output().unwrap();
                check(&bytes, &own.bytes, &own.root_hash, 2).unwrap();
            }
        }
    }

    #[test]
    fn a_flipped_bit_anywhere_is_found() {
        let bytes = data(300);
        let area = build(&leaves(&bytes, &SALT, 1).unwrap(), &SALT, [7; 16]).unwrap();
        for at in [0, 4095, 4096, 299 * BLOCK + 5] {
            let mut wrong = bytes.clone();
            wrong[at] ^= 1;
            let error = check(&wrong, &area.bytes, &area.root_hash, 2).unwrap_err();
            assert!(error.to_string().contains(&format!("data block {} ", at / BLOCK)), "{error}");
        }
        for at in [0, 88, 100, BLOCK, BLOCK + 40, 2 * BLOCK, 4 * BLOCK + 10] {
            let mut wrong = area.bytes.clone();
            wrong[at] ^= 1;
            check(&bytes, &wrong, &area.root_hash, 1).unwrap_err();
        }
        check(&bytes, &area.bytes, &Sha256Digest([0; 32]), 1).unwrap_err();
        check(&bytes, &area.bytes[..BLOCK].to_vec(), &area.root_hash, 1).unwrap_err();
        build(&[], &SALT, [0; 16]).unwrap_err();
    }
}
