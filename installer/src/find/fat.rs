//! FAT12, FAT16 and FAT32 ("FAT32 File System Specification", Microsoft, 1.03), for reading.
//!
//! Own code rather than `fatfs`: that one trusts the numbers on the disk (a chain that names cluster
//! 1 makes it subtract below zero), writes when it lets go of a disk, and asks for both at once.

use super::volume::{Entry, FOLDER_LIMIT, Volume, bytes, bytes_if_there, field, le16, le32};
use super::{Device, volume};

const SECTOR: usize = 512;
const RECORD: usize = 32;
/// Clusters are numbered from here on.
const FIRST: u32 = 2;
const ATTRIBUTE_VOLUME: u8 = 0x08;
const ATTRIBUTE_FOLDER: u8 = 0x10;
/// Read-only, hidden, system and volume at once: a part of a long name.
const ATTRIBUTE_LONG: u8 = 0x0f;
const DELETED: u8 = 0xe5;
/// UTF-16 units in one part of a long name, and parts at most.
const LONG_PART: usize = 13;
const LONG_PARTS: u8 = 20;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Width {
    Twelve,
    Sixteen,
    ThirtyTwo,
}

/// Where everything is, in bytes.
#[derive(Debug, Clone)]
pub(super) struct Layout {
    width: Width,
    table: u64,
    table_length: u64,
    /// The root folder of FAT12 and FAT16.
    root: u64,
    root_length: usize,
    /// First cluster of the root folder of FAT32.
    root_cluster: u32,
    data: u64,
    cluster: usize,
    clusters: u32,
    label: String,
}

/// A FAT file system.
pub(super) struct Fat {
    device: Box<dyn Device>,
    layout: Layout,
}

/// Section 3.1: the parameters in the boot sector, and what follows from them. `None` where it is
/// no boot sector of FAT.
fn layout(sector: &[u8]) -> Option<Layout> {
    let byte = |at: usize| sector.get(at).copied();
    let bytes_per_sector = u64::from(le16(sector, 11)?);
    let per_cluster = byte(13)?;
    let (reserved, tables) = (u64::from(le16(sector, 14)?), u64::from(byte(16)?));
    let plausible = field(sector, 510)? == [0x55, 0xaa]
        && matches!(byte(0)?, 0xeb | 0xe9)
        && matches!(bytes_per_sector, 512 | 1024 | 2048 | 4096)
        && per_cluster.is_power_of_two()
        && reserved > 0
        && (1..=2).contains(&tables);
    if !plausible {
        return None;
    }
    let either = |small: u16, large: u32| if small == 0 { u64::from(large) } else { u64::from(small) };
    let root_length = u64::from(le16(sector, 17)?).checked_mul(RECORD as u64)?;
    let sectors = either(le16(sector, 19)?, le32(sector, 32)?);
    let wide = le16(sector, 22)? == 0;
    let table_sectors = either(le16(sector, 22)?, le32(sector, 36)?);
    let root_start = reserved.checked_add(tables.checked_mul(table_sectors)?)?;
    let data_start = root_start.checked_add(root_length.div_ceil(bytes_per_sector))?;
    let clusters = sectors.checked_sub(data_start)?.checked_div(u64::from(per_cluster))?;
    let clusters = u32::try_from(clusters).ok().filter(|clusters| (1..0x0fff_fff5).contains(clusters))?;
    let width = match (wide, clusters) {
        (true, _) => Width::ThirtyTwo,
        (false, ..4085) => Width::Twelve,
        (false, _) => Width::Sixteen,
    };
    Some(Layout {
        width,
        table: reserved.checked_mul(bytes_per_sector)?,
        table_length: table_sectors.checked_mul(bytes_per_sector)?,
        root: root_start.checked_mul(bytes_per_sector)?,
        root_length: usize::try_from(root_length).ok()?,
        root_cluster: if wide { le32(sector, 44)? } else { 0 },
        data: data_start.checked_mul(bytes_per_sector)?,
        cluster: usize::try_from(bytes_per_sector.checked_mul(u64::from(per_cluster))?).ok()?,
        clusters,
        label: padded(&field::<11>(sector, if wide { 71 } else { 43 })?),
    })
}

/// A text filled up with blanks. Letters beyond ASCII depend on a code page nobody names.
fn padded(text: &[u8]) -> String {
    text.iter().map(|byte| if byte.is_ascii() { char::from(*byte) } else { '\u{fffd}' }).collect::<String>().trim_end().to_owned()
}

impl Fat {
    /// Whether there is one, and how it lies. A label in the root folder counts more than the boot sector's.
    pub(super) fn probe(device: &mut dyn Device) -> Result<Option<Layout>, String> {
        let sector = bytes_if_there(device, 0, SECTOR)?;
        Ok(sector.and_then(|sector| layout(&sector)))
    }

    pub(super) fn new(device: Box<dyn Device>, layout: Layout) -> Self {
        let mut fat = Self { device, layout };
        let root = fat.root();
        // A broken root folder shows when it is looked into.
        let records = fat.records(&root).unwrap_or_default();
        let label = records.chunks_exact(RECORD).take_while(|record| record.first() != Some(&0)).find(|record| {
            let attributes = record.get(11).copied().unwrap_or_default();
            record.first() != Some(&DELETED)
                && attributes & ATTRIBUTE_VOLUME != 0
                && attributes & ATTRIBUTE_LONG != ATTRIBUTE_LONG
        });
        if let Some(label) = label.and_then(|record| field::<11>(record, 0)) {
            fat.layout.label = padded(&label);
        }
        fat
    }

    /// The cluster behind `cluster` in its chain; `None` at the end.
    fn next(&mut self, cluster: u32) -> Result<Option<u32>, String> {
        let wide = u64::from(cluster);
        let (at, length) = match self.layout.width {
            Width::Twelve => (wide.saturating_add(wide / 2), 2),
            Width::Sixteen => (wide.saturating_mul(2), 2),
            Width::ThirtyTwo => (wide.saturating_mul(4), 4),
        };
        if at.saturating_add(length as u64) > self.layout.table_length {
            return Err(format!("expected cluster {cluster} in the allocation table, found the table's end"));
        }
        let entry = bytes(&mut *self.device, self.layout.table.saturating_add(at), length);
        let entry = entry.map_err(|e| format!("reading the allocation table: {e}"))?;
        let value = le32(&entry, 0).or_else(|| le16(&entry, 0).map(u32::from)).unwrap_or_default();
        let (value, last) = match self.layout.width {
            Width::Twelve if cluster.is_multiple_of(2) => (value & 0xfff, 0xff8),
            Width::Twelve => (value >> 4, 0xff8),
            Width::Sixteen => (value, 0xfff8),
            Width::ThirtyTwo => (value & 0x0fff_ffff, 0x0fff_fff8),
        };
        Ok((value < last).then_some(value))
    }

    /// The first `length` bytes of a chain, or all where it ends before. `length` is bounded, so a
    /// chain that runs in a circle ends too.
    fn chain(&mut self, start: u32, length: usize) -> Result<Vec<u8>, String> {
        let mut found = Vec::new();
        let mut at = Some(start);
        while let Some(cluster) = at.filter(|_| found.len() < length) {
            let number = cluster.checked_sub(FIRST).filter(|number| *number < self.layout.clusters).ok_or_else(|| {
                format!("expected a cluster from {FIRST} to {}, found {cluster}", self.layout.clusters.saturating_add(1))
            })?;
            let offset = u64::from(number).saturating_mul(self.layout.cluster as u64).saturating_add(self.layout.data);
            let wanted = length.saturating_sub(found.len()).min(self.layout.cluster);
            let part = bytes(&mut *self.device, offset, wanted).map_err(|e| format!("reading cluster {cluster}: {e}"))?;
            found.extend_from_slice(&part);
            at = self.next(cluster)?;
        }
        Ok(found)
    }

    /// The records of a folder.
    fn records(&mut self, folder: &Entry) -> Result<Vec<u8>, String> {
        if folder.start == 0 && self.layout.width != Width::ThirtyTwo {
            let root = bytes(&mut *self.device, self.layout.root, self.layout.root_length);
            return root.map_err(|e| format!("reading the root folder: {e}"));
        }
        let start = if folder.start == 0 { self.layout.root_cluster } else { folder.start };
        self.chain(start, FOLDER_LIMIT)
    }
}

impl Volume for Fat {
    fn label(&self) -> &str {
        &self.layout.label
    }

    fn root(&self) -> Entry {
        Entry { name: String::new(), folder: true, start: 0, size: 0 }
    }

    fn entries(&mut self, folder: &Entry) -> Result<Vec<Entry>, String> {
        let records = self.records(folder).map_err(|e| format!("broken: {e}"))?;
        let mut long = LongName::default();
        let mut entries = Vec::new();
        for record in records.chunks_exact(RECORD).take_while(|record| record.first() != Some(&0)) {
            let attributes = record.get(11).copied().unwrap_or_default();
            if record.first() == Some(&DELETED) {
                long = LongName::default();
            } else if attributes & ATTRIBUTE_LONG == ATTRIBUTE_LONG {
                long.add(record);
            } else if attributes & ATTRIBUTE_VOLUME != 0 {
                long = LongName::default();
            } else {
                entries.extend(described(record, std::mem::take(&mut long), self.layout.width));
            }
        }
        Ok(entries)
    }

    fn content(&mut self, file: &Entry, limit: usize) -> Result<Vec<u8>, String> {
        let size = usize::try_from(file.size).unwrap_or(usize::MAX).min(limit);
        let found = if size == 0 { Vec::new() } else { self.chain(file.start, size)? };
        if found.len() < size {
            Err(format!("expected {size} bytes, found {} before the chain's end", found.len()))
        } else {
            Ok(found)
        }
    }
}

/// Section 6: one record, with the long name that stood before it.
fn described(record: &[u8], long: LongName, width: Width) -> Option<Entry> {
    let short = field::<11>(record, 0)?;
    let high = if width == Width::ThirtyTwo { le16(record, 20)? } else { 0 };
    Some(Entry {
        name: long.finish(&short).unwrap_or_else(|| short_name(&short)),
        folder: record.get(11)? & ATTRIBUTE_FOLDER != 0,
        start: u32::from(high) << 16 | u32::from(le16(record, 26)?),
        size: le32(record, 28)?,
    })
}

fn short_name(short: &[u8; 11]) -> String {
    let (base, extension) = short.split_at(8);
    match (padded(base), padded(extension)) {
        (base, extension) if extension.is_empty() => base,
        (base, extension) => format!("{base}.{extension}"),
    }
}

/// Section 7: a long name stands before its record in parts, the last part first.
#[derive(Default)]
struct LongName {
    /// Parts still to come; the sum that ties them to the short name.
    left: u8,
    sum: u8,
    /// UTF-16, last part first.
    parts: Vec<[u16; LONG_PART]>,
}

impl LongName {
    fn add(&mut self, record: &[u8]) {
        let (order, sum) = (record.first().copied().unwrap_or_default(), record.get(13).copied().unwrap_or_default());
        let number = order & 0x3f;
        let fits = if order & 0x40 != 0 {
            *self = Self { left: number, sum, parts: Vec::new() };
            (1..=LONG_PARTS).contains(&number)
        } else {
            number > 0 && number == self.left && sum == self.sum
        };
        if !fits {
            *self = Self::default();
            return;
        }
        self.left = number.saturating_sub(1);
        let places = (1..11).step_by(2).chain((14..26).step_by(2)).chain([28, 30]);
        let mut part = [0; LONG_PART];
        for (unit, at) in part.iter_mut().zip(places) {
            *unit = volume::le16(record, at).unwrap_or_default();
        }
        self.parts.push(part);
    }

    /// The name, if all parts were there and belong to this short name.
    fn finish(self, short: &[u8; 11]) -> Option<String> {
        let sum = short.iter().fold(0u8, |sum, byte| sum.rotate_right(1).wrapping_add(*byte));
        if self.parts.is_empty() || self.left != 0 || self.sum != sum {
            return None;
        }
        let units: Vec<u16> = self.parts.into_iter().rev().flatten().take_while(|unit| *unit != 0).collect();
        Some(String::from_utf16_lossy(&units))
    }
}
