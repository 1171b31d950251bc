//! Dynamic VHDX (MS-VHDX): identifier, two headers, two region tables, an empty log, metadata, the
//! block allocation table, then the blocks that hold anything. Little-endian; CRC-32C.
//!
//! Every GUID follows from the identity of the disk, so that equal disks give equal files.

use uuid::{Uuid, uuid};

use super::survey::Survey;
use crate::blob::{Blob, Extents};
use crate::disk::derive;
use crate::error::{Error, Kind, Result};

/// Bytes of a block: Microsoft's advice for Linux guests, whose file systems scatter small writes.
pub(super) const BLOCK: u64 = MIB;

const MIB: u64 = 1 << 20;
const KIB64: u64 = 1 << 16;
/// Section 2.2: file type identifier, headers, region tables.
const HEADER_AT: [u64; 2] = [KIB64, 2 * KIB64];
const REGIONS_AT: [u64; 2] = [3 * KIB64, 4 * KIB64];
const HEADER_BYTES: usize = 4096;
const LOG_AT: u64 = MIB;
const LOG_BYTES: u32 = MIB as u32;
const METADATA_AT: u64 = 2 * MIB;
const METADATA_BYTES: u32 = MIB as u32;
const BAT_AT: u64 = 3 * MIB;
/// Metadata items stand behind the table (section 2.6.1.2).
const ITEMS_AT: u32 = KIB64 as u32;

const BAT_REGION: Uuid = uuid!("2dc27766-f623-4200-9d64-115e9bfd4a08");
const METADATA_REGION: Uuid = uuid!("8b7ca206-4790-4b9a-b8fe-575f050f886e");
const FILE_PARAMETERS: Uuid = uuid!("caa16737-fa36-4d43-b3b6-33f0aa44e76b");
const VIRTUAL_DISK_SIZE: Uuid = uuid!("2fa54224-cd1b-4876-b211-5dbed83bf4b8");
const VIRTUAL_DISK_ID: Uuid = uuid!("beca12ab-b2e6-4523-93ef-c309e000c746");
const LOGICAL_SECTOR: Uuid = uuid!("8141bf1d-a96f-4709-ba47-f233a8faab5f");
const PHYSICAL_SECTOR: Uuid = uuid!("cda348c7-445d-4471-9cc9-e9885251c556");

/// Section 2.6.1.2: the item must be understood.
const REQUIRED: u32 = 4;
/// The item is about the virtual disk, not about the file.
const OF_DISK: u32 = 2;
/// Section 2.5.1.1: the block is in the file.
const FULLY_PRESENT: u64 = 6;
const SECTOR: u64 = 512;
/// What the guest is told the medium works in.
const PHYSICAL_BYTES: u32 = 4096;
const LARGEST_DISK: u64 = 64 << 40;

/// The bytes of the file.
///
/// # Errors
/// When the disk is not in whole sectors or bigger than 64 TiB, or `block` is not a power of two
/// from 1 to 256 MiB.
pub(super) fn lay_out(survey: &Survey, identity: &[u8; 32], block: u64) -> Result<Extents> {
    let size = survey.content.size();
    if size == 0 || !size.is_multiple_of(SECTOR) || size > LARGEST_DISK {
        return Err(Error::new(
            Kind::Failed,
            format!("a disk of {size} bytes: expected whole sectors of 512 bytes, at most 64 TiB"),
        ));
    }
    if !block.is_power_of_two() || !(MIB..=256 * MIB).contains(&block) {
        return Err(Error::new(Kind::Usage, format!("a VHDX block of {block} bytes: expected a power of two from 1 to 256 MiB")));
    }
    let map = BlockMap::of(size, block);
    let mut entries = vec![0u8; usize::try_from(map.bytes).map_err(|_| Error::new(Kind::Failed, "the block map is too big"))?];
    let touched = survey.touched(block);
    let data = BAT_AT + map.region_bytes;
    for (number, at) in touched.iter().zip((data..).step_by(block as usize)) {
        let slot = (map.slot(*number) * 8) as usize;
        if let Some(entry) = entries.get_mut(slot..slot + 8) {
            // Bits 20 and up hold the offset in MiB: the offset itself, as it is whole MiB.
            entry.copy_from_slice(&(at | FULLY_PRESENT).to_le_bytes());
        }
    }
    let mut file = Extents::new(0);
    push_front(&mut file, identity, &map);
    metadata(size, block, identity).into_iter().for_each(|(offset, bytes)| file.push(METADATA_AT + offset, Blob::memory(bytes)));
    file.push(BAT_AT, Blob::memory(entries));
    file.grow(data);
    for (number, at) in touched.iter().zip((data..).step_by(block as usize)) {
        for (start, blob) in survey.content.slice(number * block, block).parts() {
            file.push(at + start, blob.clone());
        }
        file.grow(at + block);
    }
    Ok(file)
}

/// Section 2.5: payload entries, with one sector bitmap entry behind every full chunk of them, used
/// or not.
struct BlockMap {
    chunk: u64,
    bytes: u64,
    region_bytes: u64,
}

impl BlockMap {
    fn of(size: u64, block: u64) -> Self {
        let chunk = (1 << 23) * SECTOR / block;
        let blocks = size.div_ceil(block);
        let bytes = (blocks + (blocks - 1) / chunk) * 8;
        Self { chunk, bytes, region_bytes: bytes.next_multiple_of(MIB) }
    }

    /// Entry number of a payload block.
    fn slot(&self, block: u64) -> u64 {
        block + block / self.chunk
    }
}

/// Identifier, headers and region tables.
fn push_front(file: &mut Extents, identity: &[u8; 32], map: &BlockMap) {
    let creator = concat!("ingot ", env!("CARGO_PKG_VERSION"));
    let mut identifier = b"vhdxfile".to_vec();
    identifier.extend(creator.encode_utf16().flat_map(u16::to_le_bytes));
    file.push(0, Blob::memory(identifier));
    for (number, offset) in HEADER_AT.into_iter().enumerate() {
        file.push(offset, Blob::memory(header(number as u64 + 1, identity)));
    }
    let regions = regions(map);
    REGIONS_AT.into_iter().for_each(|offset| file.push(offset, Blob::memory(regions.clone())));
}

/// Section 2.2.2; the header with the higher sequence number counts.
fn header(sequence: u64, identity: &[u8; 32]) -> Vec<u8> {
    let mut bytes = b"head\0\0\0\0".to_vec();
    bytes.extend(sequence.to_le_bytes());
    bytes.extend(derive(identity, "vhdx file write").to_bytes_le());
    bytes.extend(derive(identity, "vhdx data write").to_bytes_le());
    // No log GUID: the log is empty. Log version 0, format version 1.
    bytes.extend([0; 16]);
    bytes.extend(0u16.to_le_bytes());
    bytes.extend(1u16.to_le_bytes());
    bytes.extend(LOG_BYTES.to_le_bytes());
    bytes.extend(LOG_AT.to_le_bytes());
    bytes.resize(HEADER_BYTES, 0);
    checked(bytes)
}

/// Section 2.2.3: where the two regions are.
fn regions(map: &BlockMap) -> Vec<u8> {
    let mut bytes = b"regi\0\0\0\0".to_vec();
    bytes.extend(2u32.to_le_bytes());
    bytes.extend([0; 4]);
    let table = [(BAT_REGION, BAT_AT, map.region_bytes as u32), (METADATA_REGION, METADATA_AT, METADATA_BYTES)];
    for (guid, offset, length) in table {
        bytes.extend(guid.to_bytes_le());
        bytes.extend(offset.to_le_bytes());
        bytes.extend(length.to_le_bytes());
        bytes.extend(1u32.to_le_bytes());
    }
    bytes.resize(KIB64 as usize, 0);
    checked(bytes)
}

/// Section 2.6: the table, and the items behind it, each with its offset in the region.
fn metadata(size: u64, block: u64, identity: &[u8; 32]) -> [(u64, Vec<u8>); 2] {
    let mut parameters = (block as u32).to_le_bytes().to_vec();
    // Neither fixed nor with a parent.
    parameters.extend([0; 4]);
    let items = [
        (FILE_PARAMETERS, REQUIRED, parameters),
        (VIRTUAL_DISK_SIZE, REQUIRED | OF_DISK, size.to_le_bytes().to_vec()),
        (VIRTUAL_DISK_ID, REQUIRED | OF_DISK, derive(identity, "vhdx virtual disk").to_bytes_le().to_vec()),
        (LOGICAL_SECTOR, REQUIRED | OF_DISK, (SECTOR as u32).to_le_bytes().to_vec()),
        (PHYSICAL_SECTOR, REQUIRED | OF_DISK, PHYSICAL_BYTES.to_le_bytes().to_vec()),
    ];
    let mut table = b"metadata\0\0".to_vec();
    table.extend((items.len() as u16).to_le_bytes());
    table.extend([0; 20]);
    let mut values: Vec<u8> = Vec::new();
    for (guid, flags, value) in &items {
        table.extend(guid.to_bytes_le());
        table.extend((ITEMS_AT + values.len() as u32).to_le_bytes());
        table.extend((value.len() as u32).to_le_bytes());
        table.extend(flags.to_le_bytes());
        table.extend([0; 4]);
        values.extend(value);
    }
    [(0, table), (u64::from(ITEMS_AT), values)]
}

/// Puts the CRC-32C into bytes 4 to 7, which are zero while it is computed.
fn checked(mut bytes: Vec<u8>) -> Vec<u8> {
    let checksum = crc32c::crc32c(&bytes).to_le_bytes();
    bytes[4..8].copy_from_slice(&checksum);
    bytes
}
