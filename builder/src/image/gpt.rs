//! Reads a GUID partition table (UEFI 2.10 section 5.3) and says what is wrong with it. The `gpt`
//! crate asserts on odd headers and trusts their counts, so hostile disks are read here.

use uuid::Uuid;

use super::{ReadAt, broken, guid_at, le32, le64};
use crate::error::Result;

/// More entries than this nobody makes.
const MOST_ENTRIES: u32 = 1024;
const SECTORS: [u64; 2] = [512, 4096];

/// A partition as the table has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Number, from 1 on.
    pub number: u32,
    /// Type GUID.
    pub kind: Uuid,
    /// The partition's own UUID.
    pub uuid: Uuid,
    /// First byte.
    pub start: u64,
    /// Length in bytes.
    pub size: u64,
    /// Attribute bits.
    pub attributes: u64,
    /// Label; what is no UTF-16 shows as U+FFFD.
    pub label: String,
}

/// A whole table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    /// GUID of the disk.
    pub guid: Uuid,
    /// Bytes of a logical block.
    pub sector: u64,
    /// Used entries, by number.
    pub entries: Vec<Entry>,
    /// What is wrong though the table can be used: a missing or different backup, overlaps.
    pub faults: Vec<String>,
}

/// Reads the table; the backup at the end of the disk takes the place of a broken primary one.
///
/// # Errors
/// When neither can be used.
pub fn read(disk: &dyn ReadAt) -> Result<Table> {
    let mut whys = Vec::new();
    for sector in SECTORS {
        let last = (disk.size() / sector).saturating_sub(1);
        match (half(disk, sector, 1), half(disk, sector, last)) {
            (Ok(mut primary), backup) => {
                match backup {
                    Err(why) => primary.faults.push(format!("the backup table: {why}")),
                    Ok(backup) if (&backup.entries, backup.guid) != (&primary.entries, primary.guid) => {
                        primary.faults.push("the backup table is not the same as the primary one".to_owned());
                    }
                    Ok(_) => {}
                }
                return Ok(primary);
            }
            (Err(why), Ok(mut backup)) => {
                backup.faults.push(format!("the primary table: {why}"));
                return Ok(backup);
            }
            (Err(why), Err(_)) => whys.push(why),
        }
    }
    Err(broken("reading the partition table", &whys.first().map_or("", String::as_str)))
}

/// One of the two copies.
fn half(disk: &dyn ReadAt, sector: u64, lba: u64) -> std::result::Result<Table, String> {
    let mut header = vec![0; sector as usize];
    disk.read_exact_at(&mut header, lba * sector).map_err(|e| format!("block {lba}: {e}"))?;
    let header_bytes = le32(&header, 12) as usize;
    if !header.starts_with(b"EFI PART") || !(92..=header.len()).contains(&header_bytes) {
        return Err(format!("no header in block {lba}"));
    }
    let mut zeroed = header.get(..header_bytes).unwrap_or_default().to_vec();
    zeroed.iter_mut().skip(16).take(4).for_each(|byte| *byte = 0);
    if crc32(&zeroed) != le32(&header, 16) {
        return Err("the header's checksum is wrong".to_owned());
    }
    if le64(&header, 24) != lba {
        return Err(format!("the header says it is in block {}, found in {lba}", le64(&header, 24)));
    }
    let (count, entry_bytes) = (le32(&header, 80), le32(&header, 84));
    if count > MOST_ENTRIES || !(128..=4096).contains(&entry_bytes) {
        return Err(format!("{count} entries of {entry_bytes} bytes"));
    }
    let mut entries = vec![0; count as usize * entry_bytes as usize];
    let at = le64(&header, 72).checked_mul(sector).ok_or("the entries are beyond every disk")?;
    disk.read_exact_at(&mut entries, at).map_err(|e| format!("the entries: {e}"))?;
    if crc32(&entries) != le32(&header, 88) {
        return Err("the checksum of the entries is wrong".to_owned());
    }
    let mut table = Table { guid: guid_at(&header, 56), sector, entries: Vec::new(), faults: Vec::new() };
    for (number, bytes) in (1..).zip(entries.chunks_exact(entry_bytes as usize)) {
        if guid_at(bytes, 0) != Uuid::nil() {
            table.add(number, bytes, disk.size());
        }
    }
    Ok(table)
}

impl Table {
    fn add(&mut self, number: u32, bytes: &[u8], disk: u64) {
        let (first, last) = (le64(bytes, 32), le64(bytes, 40));
        let start = first.checked_mul(self.sector);
        let end = last.checked_add(1).and_then(|after| after.checked_mul(self.sector));
        let (Some(start), Some(end)) = (start, end.filter(|end| *end <= disk && last >= first)) else {
            self.faults.push(format!("partition {number} from block {first} to {last} is not on the disk"));
            return;
        };
        if let Some(other) = self.entries.iter().find(|other| start < other.start + other.size && other.start < end) {
            self.faults.push(format!("partition {number} overlaps partition {}", other.number));
        }
        let units = bytes.get(56..128).unwrap_or_default().chunks_exact(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]]));
        let label: Vec<u16> = units.take_while(|unit| *unit != 0).collect();
        self.entries.push(Entry {
            number,
            kind: guid_at(bytes, 0),
            uuid: guid_at(bytes, 16),
            start,
            size: end - start,
            attributes: le64(bytes, 48),
            label: String::from_utf16_lossy(&label),
        });
    }

    /// The first partition of a type.
    pub fn find(&self, kind: Uuid) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.kind == kind)
    }
}

/// CRC-32 of IEEE 802.3, as flate2's gzip uses it.
fn crc32(bytes: &[u8]) -> u32 {
    let mut crc = flate2::Crc::new();
    crc.update(bytes);
    crc.sum()
}
