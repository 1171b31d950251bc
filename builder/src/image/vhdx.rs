//! Reads VHDX (MS-VHDX): fixed and dynamic, without parent, with an empty log.

use std::fmt::Write as _;
use std::io;

use uuid::{Uuid, uuid};

use super::{broken, guid_at, le32, le64, within};
use crate::blob::Blob;
use crate::error::{Error, Kind, Result};

const KIB64: u64 = 1 << 16;
const MIB: u64 = 1 << 20;
const BAT_REGION: Uuid = uuid!("2dc27766-f623-4200-9d64-115e9bfd4a08");
const METADATA_REGION: Uuid = uuid!("8b7ca206-4790-4b9a-b8fe-575f050f886e");
const FILE_PARAMETERS: Uuid = uuid!("caa16737-fa36-4d43-b3b6-33f0aa44e76b");
const VIRTUAL_DISK_SIZE: Uuid = uuid!("2fa54224-cd1b-4876-b211-5dbed83bf4b8");
const LOGICAL_SECTOR: Uuid = uuid!("8141bf1d-a96f-4709-ba47-f233a8faab5f");
/// Section 2.6.1: no table has more.
const MOST_ITEMS: u32 = 2047;

/// An open image.
#[derive(Debug)]
pub(super) struct Vhdx {
    file: Blob,
    header: Header,
    bat: Region,
    size: u64,
    block: u64,
    sector: u64,
}

#[derive(Debug, Clone, Copy)]
struct Header {
    sequence: u64,
    file_write: Uuid,
    data_write: Uuid,
    log: Uuid,
}

#[derive(Debug, Clone, Copy)]
struct Region {
    offset: u64,
    length: u64,
}

impl Vhdx {
    /// Checks headers, region table and metadata.
    pub(super) fn open(file: Blob) -> Result<Self> {
        let header = [KIB64, 2 * KIB64].iter().filter_map(|offset| header(&file, *offset)).max_by_key(|header| header.sequence);
        let header = header.ok_or_else(|| broken("the VHDX headers", &"neither has a right checksum"))?;
        if header.log != Uuid::nil() {
            return Err(Error::new(Kind::Failed, "the VHDX has a log that was never replayed: its last user did not close it")
                .hint("attach and detach it once on Hyper-V, or run: qemu-img check -r all IMAGE"));
        }
        let table = [3 * KIB64, 4 * KIB64].iter().find_map(|offset| checked(&file, *offset, KIB64, b"regi"));
        let table = table.ok_or_else(|| broken("the VHDX region tables", &"neither has a right checksum"))?;
        let bat = region(&table, BAT_REGION)?;
        let metadata = Metadata::read(&file, region(&table, METADATA_REGION)?)?;
        let vhdx = Self { file, header, bat, size: metadata.size, block: metadata.block, sector: metadata.sector };
        let needed = vhdx.slot(vhdx.size.div_ceil(vhdx.block).saturating_sub(1)).saturating_mul(8).saturating_add(8);
        if needed > vhdx.bat.length {
            return Err(broken("the VHDX block table", &format!("{} bytes, expected {needed} or more", vhdx.bat.length)));
        }
        Ok(vhdx)
    }

    pub(super) fn size(&self) -> u64 {
        self.size
    }

    /// Bytes of a block.
    pub(super) fn block(&self) -> u64 {
        self.block
    }

    /// Section 2.5: behind each chunk of payload entries stands one for a bitmap.
    fn slot(&self, block: u64) -> u64 {
        let chunk = ((1 << 23) * self.sector / self.block).max(1);
        block + block / chunk
    }

    fn entry(&self, block: u64) -> io::Result<u64> {
        let mut bytes = [0; 8];
        self.file.read_exact_at(&mut bytes, self.bat.offset.saturating_add(self.slot(block).saturating_mul(8)))?;
        Ok(u64::from_le_bytes(bytes))
    }

    /// Reads within one block.
    pub(super) fn read_piece(&self, buffer: &mut [u8], position: u64) -> io::Result<()> {
        within(self.size, buffer, position)?;
        let entry = self.entry(position / self.block)?;
        match entry & 7 {
            // Not present, undefined, zero, unmapped.
            0..=3 => buffer.fill(0),
            6 => self.file.read_exact_at(buffer, (entry & !(MIB - 1)).saturating_add(position % self.block))?,
            state => return Err(io::Error::new(io::ErrorKind::InvalidData, format!("a VHDX block in state {state}"))),
        }
        Ok(())
    }

    /// Header, metadata and the use of blocks.
    pub(super) fn dump(&self) -> Result<String> {
        let (mut present, mut blocks) = (0u64, 0u64);
        for block in 0..self.size.div_ceil(self.block) {
            let entry = self.entry(block).map_err(|e| broken("the VHDX block table", &e))?;
            present += u64::from(entry & 7 == 6);
            blocks += 1;
        }
        let mut text = String::new();
        let _ = writeln!(text, "VHDX header        sequence {}", self.header.sequence);
        let _ = writeln!(text, "file write GUID    {}", self.header.file_write);
        let _ = writeln!(text, "data write GUID    {}", self.header.data_write);
        let _ = writeln!(text, "disk size          {}", self.size);
        let _ = writeln!(text, "block size         {}", self.block);
        let _ = writeln!(text, "logical sector     {}", self.sector);
        let _ = writeln!(text, "block table        {} bytes at {}", self.bat.length, self.bat.offset);
        let _ = writeln!(text, "blocks             {present} present of {blocks}");
        Ok(text)
    }
}

/// A header whose checksum and version are right.
fn header(file: &Blob, offset: u64) -> Option<Header> {
    let bytes = checked(file, offset, 4096, b"head")?;
    let version = le32(&bytes, 64) >> 16;
    (version == 1).then(|| Header {
        sequence: le64(&bytes, 8),
        file_write: guid_at(&bytes, 16),
        data_write: guid_at(&bytes, 32),
        log: guid_at(&bytes, 48),
    })
}

/// A structure with signature and right CRC-32C.
fn checked(file: &Blob, offset: u64, length: u64, signature: &[u8; 4]) -> Option<Vec<u8>> {
    let mut bytes = file.slice(offset, length).to_vec().ok().filter(|bytes| bytes.len() as u64 == length)?;
    let stored = le32(&bytes, 4);
    bytes.get_mut(4..8)?.fill(0);
    (bytes.starts_with(signature) && crc32c::crc32c(&bytes) == stored).then_some(bytes)
}

fn region(table: &[u8], wanted: Uuid) -> Result<Region> {
    let count = le32(table, 8).min(MOST_ITEMS);
    let found = (0..count as usize).map(|n| 16 + 32 * n).find(|at| guid_at(table, *at) == wanted);
    let at = found.ok_or_else(|| broken("the VHDX region table", &format!("no region {wanted}")))?;
    Ok(Region { offset: le64(table, at + 16), length: u64::from(le32(table, at + 24)) })
}

struct Metadata {
    size: u64,
    block: u64,
    sector: u64,
}

impl Metadata {
    fn read(file: &Blob, region: Region) -> Result<Self> {
        let failed = |why: &dyn std::fmt::Display| broken("the VHDX metadata", why);
        let table = file.slice(region.offset, KIB64).to_vec().map_err(|e| failed(&e))?;
        if !table.starts_with(b"metadata") {
            return Err(failed(&"no table where the region begins"));
        }
        let count = (le32(&table, 8) >> 16).min(MOST_ITEMS) as usize;
        let item = |wanted: Uuid| {
            let at = (0..count).map(|n| 32 + 32 * n).find(|at| guid_at(&table, *at) == wanted);
            let at = at.ok_or_else(|| failed(&format!("no item {wanted}")))?;
            let offset = region.offset.saturating_add(u64::from(le32(&table, at + 16)));
            let mut value = [0; 8];
            let length = (le32(&table, at + 20) as usize).min(8);
            file.read_exact_at(&mut value[..length], offset).map_err(|e| failed(&e))?;
            Ok::<_, Error>(value)
        };
        let parameters = item(FILE_PARAMETERS)?;
        let (block, flags) = (u64::from(le32(&parameters, 0)), le32(&parameters, 4));
        let size = le64(&item(VIRTUAL_DISK_SIZE)?, 0);
        let sector = u64::from(le32(&item(LOGICAL_SECTOR)?, 0));
        if flags & 2 != 0 {
            return Err(Error::new(Kind::Failed, "the VHDX is a difference to a parent disk, expected a disk of its own"));
        }
        if !block.is_power_of_two() || !(MIB..=256 * MIB).contains(&block) {
            return Err(failed(&format!("blocks of {block} bytes, expected a power of two from 1 to 256 MiB")));
        }
        if sector != 512 && sector != 4096 {
            return Err(failed(&format!("sectors of {sector} bytes, expected 512 or 4096")));
        }
        if size == 0 || size > 64 << 40 {
            return Err(failed(&format!("a disk of {size} bytes, expected at most 64 TiB")));
        }
        Ok(Self { size, block, sector })
    }
}
