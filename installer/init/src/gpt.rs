//! Reading a GUID partition table (UEFI specification 2.10, section 5.3): bounded, checksums
//! verified, the backup header where the primary one does not hold. The kernel's own partition
//! events carry no partition UUID in 6.12, so this program looks for itself.

use std::fmt;
use std::io;

/// Bytes that can be read at any place: a disk, or a test's memory.
pub trait ReadAt {
    /// Fills `buffer` from byte `offset` on.
    ///
    /// # Errors
    /// `UnexpectedEof` beyond the end, or the device's error.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()>;
}

impl ReadAt for std::fs::File {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        std::os::unix::fs::FileExt::read_exact_at(self, buffer, offset)
    }
}

/// A GUID as text order has it: big-endian bytes (RFC 9562).
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Guid(pub [u8; 16]);

impl Guid {
    /// From the mixed-endian form on disk: the first three fields are little-endian.
    pub fn from_disk(bytes: [u8; 16]) -> Self {
        let [a, b, c, d, e, f, g, h, rest @ ..] = bytes;
        let [i, j, k, l, m, n, o, p] = rest;
        Self([d, c, b, a, f, e, h, g, i, j, k, l, m, n, o, p])
    }
}

impl fmt::Display for Guid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, byte) in self.0.iter().enumerate() {
            let dash = if matches!(index, 4 | 6 | 8 | 10) { "-" } else { "" };
            write!(f, "{dash}{byte:02x}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Guid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// One used entry of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Partition {
    /// Place in the table, from 1: the kernel's partition number.
    pub number: u32,
    /// Its own GUID (PARTUUID).
    pub unique: Guid,
    /// First byte on the disk.
    pub start: u64,
    /// Length in bytes.
    pub length: u64,
}

/// The partitions of one disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    /// Used entries in the order of the table.
    pub partitions: Vec<Partition>,
    /// Whether the primary header was broken and the backup was taken: then the kernel has made no partitions.
    pub from_backup: bool,
}

/// Why a disk has no table that can be used.
#[derive(Debug)]
pub enum Unusable {
    /// Neither place begins with the signature: another kind of disk.
    NoTable,
    /// There is a table, and this is wrong with it.
    Broken(String),
    /// Reading failed.
    Io(io::Error),
}

impl fmt::Display for Unusable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Unusable::NoTable => f.write_str("no partition table"),
            Unusable::Broken(what) => write!(f, "broken partition table ({what})"),
            Unusable::Io(error) => write!(f, "unreadable ({error})"),
        }
    }
}

/// Section 5.3.2, table 5-5: offsets in the header, in bytes.
mod header {
    pub const SIGNATURE: &[u8] = b"EFI PART";
    pub const SIZE: usize = 12;
    pub const CHECKSUM: usize = 16;
    pub const OWN_LBA: usize = 24;
    pub const ENTRIES_LBA: usize = 72;
    pub const ENTRY_COUNT: usize = 80;
    pub const ENTRY_SIZE: usize = 84;
    pub const ENTRIES_CHECKSUM: usize = 88;
    /// Smallest size of a header.
    pub const LENGTH: usize = 92;
}

/// Section 5.3.3, table 5-6: offsets in an entry, in bytes.
mod entry {
    pub const UNIQUE: usize = 16;
    pub const FIRST_LBA: usize = 32;
    pub const LAST_LBA: usize = 40;
    /// Smallest size of an entry.
    pub const LENGTH: usize = 128;
}

/// Most bytes of entries this reader takes; the usual table has 16 KiB.
const MOST_ENTRIES: u64 = 1 << 20;

impl Table {
    /// Reads the table of a disk of `size` bytes with `sector`-byte logical sectors (512 to 4096).
    ///
    /// # Errors
    /// See [`Unusable`]; where both headers are broken, the primary's fault is told.
    pub fn read(disk: &impl ReadAt, sector: u32, size: u64) -> Result<Self, Unusable> {
        if !(512..=4096).contains(&sector) || !sector.is_power_of_two() {
            return Err(Unusable::Broken(format!("logical sectors of {sector} bytes, expected 512 to 4096")));
        }
        let shape = Shape { sector: u64::from(sector), sectors: size / u64::from(sector) };
        if shape.sectors < 3 {
            return Err(Unusable::NoTable);
        }
        let primary = match read_at_lba(disk, shape, 1) {
            Ok(partitions) => return Ok(Self { partitions, from_backup: false }),
            Err(fault) => fault,
        };
        match (read_at_lba(disk, shape, shape.sectors - 1), primary) {
            (Ok(partitions), _) => Ok(Self { partitions, from_backup: true }),
            (Err(backup @ Unusable::Broken(_)), Unusable::NoTable) => Err(backup),
            (Err(_), primary) => Err(primary),
        }
    }
}

#[derive(Clone, Copy)]
struct Shape {
    sector: u64,
    sectors: u64,
}

fn read_at_lba(disk: &impl ReadAt, shape: Shape, lba: u64) -> Result<Vec<Partition>, Unusable> {
    let broken = |what: String| Unusable::Broken(format!("header in sector {lba}: {what}"));
    let at = |lba: u64| lba.checked_mul(shape.sector);
    let mut sector = vec![0; usize::try_from(shape.sector).unwrap_or(4096)];
    disk.read_at(&mut sector, at(lba).ok_or(Unusable::NoTable)?).map_err(Unusable::Io)?;
    if !sector.starts_with(header::SIGNATURE) {
        return Err(Unusable::NoTable);
    }
    let length = u32_at(&sector, header::SIZE) as usize;
    let mut bytes = sector
        .get(..length)
        .filter(|bytes| bytes.len() >= header::LENGTH)
        .ok_or_else(|| broken(format!("says it has {length} bytes")))?
        .to_vec();
    let checksum = u32_at(&bytes, header::CHECKSUM);
    bytes.get_mut(header::CHECKSUM..header::CHECKSUM + 4).into_iter().for_each(|field| field.fill(0));
    if crc32(&bytes) != checksum {
        return Err(broken("its checksum does not hold".to_owned()));
    }
    if u64_at(&bytes, header::OWN_LBA) != lba {
        return Err(broken(format!("says it is in sector {}", u64_at(&bytes, header::OWN_LBA))));
    }
    let size = u32_at(&bytes, header::ENTRY_SIZE) as usize;
    let count = u32_at(&bytes, header::ENTRY_COUNT);
    let all = u64::from(count) * size as u64;
    if size < entry::LENGTH || !size.is_power_of_two() || all > MOST_ENTRIES {
        return Err(broken(format!("{count} entries of {size} bytes")));
    }
    let mut entries = vec![0; usize::try_from(all).unwrap_or(0)];
    let start = at(u64_at(&bytes, header::ENTRIES_LBA)).ok_or_else(|| broken("its entries lie beyond any disk".to_owned()))?;
    disk.read_at(&mut entries, start).map_err(Unusable::Io)?;
    if crc32(&entries) != u32_at(&bytes, header::ENTRIES_CHECKSUM) {
        return Err(broken("the checksum of its entries does not hold".to_owned()));
    }
    let used = entries.chunks_exact(size).zip(1..).filter(|(entry, _)| entry.iter().take(16).any(|byte| *byte != 0));
    used.map(|(bytes, number)| {
        partition(bytes, number, shape).ok_or_else(|| broken(format!("partition {number} is not on the disk")))
    })
    .collect()
}

/// One entry; `None` where its range is not on the disk.
fn partition(bytes: &[u8], number: u32, shape: Shape) -> Option<Partition> {
    let (first, last) = (u64_at(bytes, entry::FIRST_LBA), u64_at(bytes, entry::LAST_LBA));
    let sectors = last.checked_sub(first)?.checked_add(1)?;
    (last < shape.sectors).then_some(())?;
    let unique = Guid::from_disk(array_at(bytes, entry::UNIQUE));
    Some(Partition { number, unique, start: first.checked_mul(shape.sector)?, length: sectors.checked_mul(shape.sector)? })
}

/// `N` bytes from `offset` on; zeros where there are none, which no caller asks for.
pub fn array_at<const N: usize>(bytes: &[u8], offset: usize) -> [u8; N] {
    let part = offset.checked_add(N).and_then(|end| bytes.get(offset..end));
    part.and_then(|part| part.try_into().ok()).unwrap_or([0; N])
}

/// A little-endian number.
pub fn u32_at(bytes: &[u8], offset: usize) -> u32 {
    u32::from_le_bytes(array_at(bytes, offset))
}

/// A little-endian number.
pub fn u64_at(bytes: &[u8], offset: usize) -> u64 {
    u64::from_le_bytes(array_at(bytes, offset))
}

/// CRC-32 as the specification's EFI_BOOT_SERVICES.CalculateCrc32 has it (reflected 0x04c11db7).
fn crc32(bytes: &[u8]) -> u32 {
    let step = |crc: u32, _| if crc & 1 == 1 { crc >> 1 ^ 0xedb8_8320 } else { crc >> 1 };
    !bytes.iter().fold(u32::MAX, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), step))
}

#[cfg(test)]
#[path = "gpt_tests.rs"]
mod tests;
