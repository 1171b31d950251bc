//! A FAT32 file system written once (Microsoft FAT specification 1.03). All files are known
//! beforehand, so every one lies in one piece, folders first; what is empty costs nothing.
//!
//! `fatfs` 0.3.6 writes long-name entries before `.` and `..` and a wrong parent cluster, which
//! `fsck.fat` reports as damage: it serves as the reader in the tests only.

use std::collections::{BTreeMap, BTreeSet};

use super::EspFile;
use super::short_name::{self, ENTRY, ShortName};
use crate::blob::{Blob, Extents};
use crate::epoch::Epoch;
use crate::error::{Error, Kind, Result};

const SECTOR: u64 = 512;
/// Below this number of clusters a file system is FAT16 (section 3.5); the specification advises a margin.
const FEWEST_CLUSTERS: u64 = 65525 + 16;
/// From here on cluster numbers are reserved.
const MOST_CLUSTERS: u64 = 0x0fff_fff4;
/// Largest cluster we choose: what UEFI firmware and Windows both like.
const LARGEST_CLUSTER: u64 = 4096;
const END_OF_CHAIN: u32 = 0x0fff_ffff;
const MEDIA: u8 = 0xf8;
const ROOT_CLUSTER: u32 = 2;
/// Sectors of boot sector, FSInfo and their copies, at the least.
const RESERVED: u64 = 32;
const FAT_COPIES: u64 = 2;

const ATTRIBUTE_VOLUME: u8 = 0x08;
const ATTRIBUTE_FOLDER: u8 = 0x10;
const ATTRIBUTE_ARCHIVE: u8 = 0x20;

/// What the file system as a whole is.
#[derive(Debug, Clone)]
pub struct Volume {
    /// Size in bytes, whole sectors.
    pub size: u64,
    /// Serial number, shown as `xxxx-xxxx`.
    pub serial: u32,
    /// Volume label, padded with spaces.
    pub label: [u8; 11],
    /// Time of every entry.
    pub epoch: Epoch,
}

/// Where the parts of the file system lie.
#[derive(Debug, Clone, Copy)]
struct Geometry {
    sectors: u32,
    cluster: u64,
    clusters: u64,
    reserved: u64,
    fat_sectors: u64,
}

impl Geometry {
    /// The largest cluster that still gives a FAT32.
    fn of(size: u64) -> Result<Self> {
        let sectors = u32::try_from(size / SECTOR)
            .map_err(|_| Error::new(Kind::Document, format!("a FAT32 of {size} bytes is too big: at most 2 TiB")))?;
        let mut cluster = LARGEST_CLUSTER;
        while cluster >= SECTOR {
            let geometry = Self::with_cluster(sectors, cluster);
            if geometry.clusters >= FEWEST_CLUSTERS && geometry.clusters < MOST_CLUSTERS {
                return Ok(geometry);
            }
            cluster /= 2;
        }
        Err(Error::new(Kind::Document, format!("a FAT32 of {size} bytes has too few clusters: it needs 34 MiB or more"))
            .hint("raise `disk.esp`; 256 MiB hold several UKIs"))
    }

    fn with_cluster(sectors: u32, cluster: u64) -> Self {
        let per_cluster = cluster / SECTOR;
        // Entries for every cluster that could be there, were the tables not.
        let entries = u64::from(sectors) / per_cluster + 2;
        let fat_sectors = (entries * 4).div_ceil(SECTOR);
        let tables = FAT_COPIES * fat_sectors;
        // The data begin on a 4 KiB boundary: no page of the disk holds two things.
        let reserved = (RESERVED + tables).next_multiple_of(4096 / SECTOR) - tables;
        let clusters = u64::from(sectors).saturating_sub(reserved + tables) / per_cluster;
        Self { sectors, cluster, clusters, reserved, fat_sectors }
    }

    /// Byte offset of a cluster.
    fn offset(&self, cluster: u32) -> u64 {
        (self.reserved + FAT_COPIES * self.fat_sectors) * SECTOR + (u64::from(cluster) - 2) * self.cluster
    }
}

#[derive(Debug)]
enum Node {
    Folder(BTreeMap<String, Node>),
    File(Blob),
}

/// Builds the file system.
///
/// # Errors
/// When the files do not fit (by how much), a path cannot be written, or two paths differ in case only.
pub fn build(volume: &Volume, files: &[EspFile]) -> Result<Extents> {
    let geometry = Geometry::of(volume.size)?;
    let root = tree(files)?;
    let mut writer = Writer { geometry, time: Stamp::of(volume.epoch), next: ROOT_CLUSTER, chains: Vec::new(), data: Vec::new() };
    let first = writer.take(writer.folder_bytes(&root, true)?)?;
    let label = entry(&volume.label, ATTRIBUTE_VOLUME, writer.time, (0, 0));
    writer.folder(&root, first, None, &[label])?;
    Ok(writer.finish(volume))
}

/// The files as folders; in byte order, so that the order of `files` does not matter.
fn tree(files: &[EspFile]) -> Result<BTreeMap<String, Node>> {
    let mut root = BTreeMap::new();
    for file in files {
        let clash = || Error::new(Kind::Document, format!("the path `{}` meets another file of the same name", file.path));
        let mut folder = &mut root;
        let (parents, name) = file.path.rsplit_once('/').unwrap_or(("", &file.path));
        for part in parents.split('/').filter(|_| !parents.is_empty()) {
            short_name::check(part, &file.path)?;
            folder = match folder.entry(part.to_owned()).or_insert_with(|| Node::Folder(BTreeMap::new())) {
                Node::Folder(inner) => inner,
                Node::File(_) => return Err(clash()),
            };
        }
        short_name::check(name, &file.path)?;
        if folder.insert(name.to_owned(), Node::File(file.content.clone())).is_some() {
            return Err(clash());
        }
    }
    Ok(root)
}

/// A run of clusters.
#[derive(Debug, Clone, Copy)]
struct Run {
    first: u32,
    count: u32,
}

struct Writer {
    geometry: Geometry,
    time: Stamp,
    next: u32,
    chains: Vec<Run>,
    /// By rising offset: runs are taken in the order in which they are pushed.
    data: Vec<(u32, Blob)>,
}

impl Writer {
    /// Takes clusters for `bytes`.
    fn take(&mut self, bytes: u64) -> Result<Run> {
        let wanted = bytes.div_ceil(self.geometry.cluster);
        let free = self.geometry.clusters + 2 - u64::from(self.next);
        let count = u32::try_from(wanted).ok().filter(|_| wanted <= free).ok_or_else(|| {
            let missing = (wanted - free.min(wanted)) * self.geometry.cluster;
            Error::new(Kind::Failed, format!("the files need {missing} bytes more than the EFI system partition has"))
                .hint("raise `disk.esp`, or make kernel and initrd smaller")
        })?;
        let run = Run { first: self.next, count };
        self.next += count;
        self.chains.push(run);
        Ok(run)
    }

    /// Bytes of a folder's entries.
    fn folder_bytes(&self, names: &BTreeMap<String, Node>, is_root: bool) -> Result<u64> {
        // A root has its label, every other folder `.` and `..`.
        let fixed = if is_root { 1 } else { 2 };
        let entries: usize = aliases(names)?.iter().map(|alias| 1 + alias.long.len()).sum();
        Ok(((entries + fixed) * ENTRY) as u64)
    }

    /// Writes a folder into `run` and all below it. `fixed` are the entries that stand first.
    fn folder(&mut self, names: &BTreeMap<String, Node>, run: Run, parent: Option<u32>, fixed: &[[u8; ENTRY]]) -> Result<()> {
        let place = self.data.len();
        self.data.push((run.first, Blob::memory([])));
        let mut bytes = fixed.concat();
        // Folders take their clusters before files do, so that all of them lie together.
        let mut runs = BTreeMap::new();
        for (name, node) in names {
            if let Node::Folder(inner) = node {
                runs.insert(name, self.take(self.folder_bytes(inner, false)?)?);
            }
        }
        for (name, node) in names {
            if let (Node::Folder(inner), Some(own)) = (node, runs.get(name)) {
                // The root is cluster 0 where `..` speaks of it (section 6.5).
                let above = if parent.is_none() { 0 } else { run.first };
                let dot = entry(b".          ", ATTRIBUTE_FOLDER, self.time, (own.first, 0));
                let dots = entry(b"..         ", ATTRIBUTE_FOLDER, self.time, (above, 0));
                self.folder(inner, *own, Some(run.first), &[dot, dots])?;
            }
        }
        for (alias, (name, node)) in aliases(names)?.into_iter().zip(names) {
            bytes.extend(alias.long.concat());
            bytes.extend(match node {
                Node::Folder(_) => {
                    entry(&alias.short, ATTRIBUTE_FOLDER, self.time, (runs.get(name).map_or(0, |run| run.first), 0))
                }
                Node::File(content) => self.file(name, &alias.short, content)?,
            });
        }
        if let Some(slot) = self.data.get_mut(place) {
            slot.1 = Blob::memory(bytes);
        }
        Ok(())
    }

    /// Places a file and gives its entry.
    fn file(&mut self, name: &str, short: &ShortName, content: &Blob) -> Result<[u8; ENTRY]> {
        let size = u32::try_from(content.len()).map_err(|_| {
            Error::new(Kind::Failed, format!("`{name}` has {} bytes, a file on FAT32 at most 4 GiB - 1", content.len()))
        })?;
        // An empty file has no cluster (section 6.7).
        let run = if size == 0 { Run { first: 0, count: 0 } } else { self.take(content.len())? };
        self.data.push((run.first, content.clone()));
        Ok(entry(short, ATTRIBUTE_ARCHIVE, self.time, (run.first, size)))
    }

    fn finish(mut self, volume: &Volume) -> Extents {
        let mut extents = Extents::new(volume.size);
        let boot = boot_sector(volume, &self.geometry);
        let used = u64::from(self.next) - 2;
        let info = info_sector(self.geometry.clusters - used, self.next);
        let start: Vec<u8> = [boot, info].concat();
        extents.push(0, Blob::memory(start.clone()));
        extents.push(6 * SECTOR, Blob::memory(start));
        let fat = Blob::memory(self.table());
        for copy in 0..FAT_COPIES {
            extents.push((self.geometry.reserved + copy * self.geometry.fat_sectors) * SECTOR, fat.clone());
        }
        self.data.retain(|(_, blob)| !blob.is_empty());
        self.data.sort_by_key(|(cluster, _)| *cluster);
        for (cluster, blob) in self.data {
            extents.push(self.geometry.offset(cluster), blob);
        }
        extents
    }

    /// The used part of the allocation table.
    fn table(&self) -> Vec<u8> {
        let mut entries = vec![0x0fff_ff00 | u32::from(MEDIA), END_OF_CHAIN];
        for run in &self.chains {
            entries.extend((run.first + 1..).take(run.count.saturating_sub(1) as usize));
            if run.count > 0 {
                entries.push(END_OF_CHAIN);
            }
        }
        entries.iter().flat_map(|entry| entry.to_le_bytes()).collect()
    }
}

/// Short and long form of one name.
struct Alias {
    short: ShortName,
    long: Vec<[u8; ENTRY]>,
}

/// The names of one folder as they will stand in it.
fn aliases(names: &BTreeMap<String, Node>) -> Result<Vec<Alias>> {
    let mut taken = BTreeSet::new();
    let mut folded = BTreeSet::new();
    let alias = |name: &String| {
        if !folded.insert(name.to_lowercase()) {
            let why = format!("the name `{name}` stands twice in one folder: FAT does not tell upper from lower case");
            return Err(Error::new(Kind::Document, why));
        }
        let (short, exact) = short_name::choose(name, &taken)?;
        taken.insert(short);
        Ok(Alias { short, long: if exact { Vec::new() } else { short_name::long_entries(name, &short) } })
    };
    names.keys().map(alias).collect()
}

/// A short entry; `place` is first cluster and size.
fn entry(name: &ShortName, attributes: u8, time: Stamp, place: (u32, u32)) -> [u8; ENTRY] {
    let (cluster, size) = place;
    let mut entry = [0u8; ENTRY];
    entry[..11].copy_from_slice(name);
    entry[11] = attributes;
    entry[13] = time.hundredths;
    entry[14..16].copy_from_slice(&time.time.to_le_bytes());
    entry[16..18].copy_from_slice(&time.date.to_le_bytes());
    entry[18..20].copy_from_slice(&time.date.to_le_bytes());
    entry[20..22].copy_from_slice(&((cluster >> 16) as u16).to_le_bytes());
    entry[22..24].copy_from_slice(&time.time.to_le_bytes());
    entry[24..26].copy_from_slice(&time.date.to_le_bytes());
    entry[26..28].copy_from_slice(&(cluster as u16).to_le_bytes());
    entry[28..].copy_from_slice(&size.to_le_bytes());
    entry
}

/// A moment as FAT keeps it: two-second steps, in UTC.
#[derive(Debug, Clone, Copy)]
struct Stamp {
    date: u16,
    time: u16,
    hundredths: u8,
}

impl Stamp {
    /// The epoch; times outside 1980 to 2107 become the nearest the format can tell.
    fn of(epoch: Epoch) -> Self {
        let seconds = i64::try_from(epoch.0).unwrap_or(i64::MAX).clamp(315_532_800, 4_354_819_199);
        let civil = jiff::Timestamp::from_second(seconds).unwrap_or_default().to_zoned(jiff::tz::TimeZone::UTC).datetime();
        let number = |value: i8| u16::try_from(value).unwrap_or(0);
        let year = u16::try_from(civil.year() - 1980).unwrap_or(0);
        let second = number(civil.second());
        Self {
            date: (year << 9) | (number(civil.month()) << 5) | number(civil.day()),
            time: (number(civil.hour()) << 11) | (number(civil.minute()) << 5) | (second / 2),
            hundredths: if second % 2 == 1 { 100 } else { 0 },
        }
    }
}

/// Sector 0 (section 3.1 to 3.3).
fn boot_sector(volume: &Volume, geometry: &Geometry) -> [u8; SECTOR as usize] {
    let mut sector = [0u8; SECTOR as usize];
    let mut put = |offset: usize, bytes: &[u8]| sector[offset..offset + bytes.len()].copy_from_slice(bytes);
    put(0, &[0xeb, 0x58, 0x90]);
    put(3, b"INGOT   ");
    put(11, &(SECTOR as u16).to_le_bytes());
    put(13, &[(geometry.cluster / SECTOR) as u8]);
    put(14, &(geometry.reserved as u16).to_le_bytes());
    put(16, &[FAT_COPIES as u8]);
    put(21, &[MEDIA]);
    // Sectors per track and heads: of no use to anyone today, but zero is frowned upon.
    put(24, &63u16.to_le_bytes());
    put(26, &255u16.to_le_bytes());
    put(28, &(super::ALIGNMENT as u32 / SECTOR as u32).to_le_bytes());
    put(32, &geometry.sectors.to_le_bytes());
    put(36, &(geometry.fat_sectors as u32).to_le_bytes());
    put(44, &ROOT_CLUSTER.to_le_bytes());
    put(48, &1u16.to_le_bytes());
    put(50, &6u16.to_le_bytes());
    put(64, &[0x80, 0, 0x29]);
    put(67, &volume.serial.to_le_bytes());
    put(71, &volume.label);
    put(82, b"FAT32   ");
    // Started as a program, it halts.
    put(90, &[0xf4, 0xeb, 0xfd]);
    put(510, &[0x55, 0xaa]);
    sector
}

/// FSInfo (section 5).
fn info_sector(free: u64, next: u32) -> [u8; SECTOR as usize] {
    let mut sector = [0u8; SECTOR as usize];
    let mut put = |offset: usize, bytes: &[u8]| sector[offset..offset + bytes.len()].copy_from_slice(bytes);
    put(0, b"RRaA");
    put(484, b"rrAa");
    put(488, &(free as u32).to_le_bytes());
    put(492, &next.to_le_bytes());
    put(510, &[0x55, 0xaa]);
    sector
}
