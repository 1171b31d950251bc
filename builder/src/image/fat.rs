//! Reads the files of a FAT32 (Microsoft FAT specification 1.03). `fatfs` follows cluster chains
//! without end, so an unknown EFI system partition is read here.

use std::collections::BTreeSet;
use std::io;

use super::{ReadAt, broken, le32};
use crate::error::{Error, Kind, Result};

const ENTRY: usize = 32;
const ATTRIBUTE_LONG: u8 = 0x0f;
const ATTRIBUTE_VOLUME: u8 = 0x08;
const ATTRIBUTE_FOLDER: u8 = 0x10;
const DELETED: u8 = 0xe5;
const FIRST_RESERVED: u32 = 0x0fff_fff0;
/// Limits on what is read: folders in all, and bytes of one folder (2 MiB by the specification).
const MOST_FOLDERS: usize = 4096;
const MOST_FILES: usize = 1 << 16;
const LARGEST_FOLDER: u64 = 2 << 20;

/// A file in the file system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct File {
    /// Path without leading `/`, long names.
    pub path: String,
    /// Bytes.
    pub size: u32,
    first: u32,
}

/// An open file system.
pub struct Fat<'a> {
    source: &'a dyn ReadAt,
    cluster: u64,
    clusters: u32,
    table: u64,
    data: u64,
    root: u32,
}

impl std::fmt::Debug for Fat<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "FAT32 with {} clusters of {} bytes", self.clusters, self.cluster)
    }
}

impl<'a> Fat<'a> {
    /// Checks the boot sector.
    ///
    /// # Errors
    /// When it is no FAT32.
    pub fn open(source: &'a dyn ReadAt) -> Result<Self> {
        let refused = |why: &dyn std::fmt::Display| broken("reading the FAT file system", why);
        let mut boot = [0; 512];
        source.read_exact_at(&mut boot, 0).map_err(|e| refused(&e))?;
        let half = |at: usize| u64::from(le32(&boot, at) & 0xffff);
        let (sector, per_cluster) = (half(11), u64::from(boot[13]));
        let sizes_hold = matches!(sector, 512 | 1024 | 2048 | 4096) && per_cluster.is_power_of_two();
        if !sizes_hold || !boot.ends_with(&[0x55, 0xaa]) || half(22) != 0 || half(17) != 0 {
            return Err(refused(&"the boot sector is not one of FAT32"));
        }
        let fat_sectors = u64::from(le32(&boot, 36));
        let table = half(14) * sector;
        let data = table + u64::from(boot[16]) * fat_sectors * sector;
        let cluster = sector * per_cluster;
        let whole = (u64::from(le32(&boot, 32)) * sector).min(source.size());
        let clusters = (whole.saturating_sub(data) / cluster).min(u64::from(FIRST_RESERVED) - 2).min(fat_sectors * sector / 4);
        let clusters = u32::try_from(clusters).map_err(|e| refused(&e))?;
        Ok(Self { source, cluster, clusters, table, data, root: le32(&boot, 44) })
    }

    /// All files, by path.
    ///
    /// # Errors
    /// When a chain runs in a circle or out of the file system, or there is more than anybody stores there.
    pub fn files(&self) -> Result<Vec<File>> {
        let mut files = Vec::new();
        let mut seen = BTreeSet::new();
        let mut folders = vec![(String::new(), self.root)];
        while let Some((prefix, first)) = folders.pop() {
            if !seen.insert(first) || seen.len() > MOST_FOLDERS {
                return Err(broken(
                    "reading the FAT file system",
                    &format!("the folder `{prefix}` contains itself, or there are too many"),
                ));
            }
            let bytes = self.chain(first, LARGEST_FOLDER).map_err(|e| broken(&format!("reading the folder `/{prefix}`"), &e))?;
            if files.len() > MOST_FILES {
                return Err(broken("reading the FAT file system", &format!("it has more than {MOST_FILES} files")));
            }
            let mut long = LongName::default();
            for entry in bytes.chunks_exact(ENTRY).take_while(|entry| entry[0] != 0) {
                let attributes = entry[11];
                if entry[0] == DELETED || entry[0] == b'.' {
                    long = LongName::default();
                } else if attributes & ATTRIBUTE_LONG == ATTRIBUTE_LONG {
                    long.add(entry);
                } else if attributes & ATTRIBUTE_VOLUME == 0 {
                    let path = format!("{prefix}{}", long.take(entry));
                    let first = (le32(entry, 20) & 0xffff) << 16 | le32(entry, 26) & 0xffff;
                    match attributes & ATTRIBUTE_FOLDER {
                        0 => files.push(File { path, size: le32(entry, 28), first }),
                        _ => folders.push((path + "/", first)),
                    }
                }
            }
        }
        files.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(files)
    }

    /// The bytes of a file.
    ///
    /// # Errors
    /// When it is larger than `limit` bytes, or its chain is broken.
    pub fn read(&self, file: &File, limit: u64) -> Result<Vec<u8>> {
        if u64::from(file.size) > limit {
            let why = format!("`{}` has {} bytes, expected at most {limit}", file.path, file.size);
            return Err(Error::new(Kind::Failed, why));
        }
        let failed = |e: &dyn std::fmt::Display| broken(&format!("reading `{}`", file.path), e);
        let mut bytes =
            if file.size == 0 { Vec::new() } else { self.chain(file.first, u64::from(file.size)).map_err(|e| failed(&e))? };
        if bytes.len() < file.size as usize {
            return Err(failed(&"its chain of clusters is too short"));
        }
        bytes.truncate(file.size as usize);
        Ok(bytes)
    }

    /// The clusters of a chain until `limit` bytes are there.
    fn chain(&self, first: u32, limit: u64) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        let mut cluster = first;
        // `limit` also ends a circle.
        while cluster < FIRST_RESERVED && (bytes.len() as u64) < limit {
            let index = cluster.checked_sub(2).filter(|index| *index < self.clusters);
            let index = index.ok_or_else(|| io::Error::other(format!("cluster {cluster} of {}", self.clusters)))?;
            let start = bytes.len();
            bytes.resize(start + self.cluster as usize, 0);
            self.source.read_exact_at(&mut bytes[start..], self.data + u64::from(index) * self.cluster)?;
            let mut next = [0; 4];
            self.source.read_exact_at(&mut next, self.table + u64::from(cluster) * 4)?;
            cluster = u32::from_le_bytes(next) & 0x0fff_ffff;
        }
        Ok(bytes)
    }
}

/// Collects the entries of a long name, which come last part first.
#[derive(Default)]
struct LongName {
    units: Vec<u16>,
    checksum: u8,
}

impl LongName {
    fn add(&mut self, entry: &[u8]) {
        if entry[0] & 0x40 != 0 {
            self.units.clear();
        }
        self.checksum = entry[13];
        let places = (1..11).step_by(2).chain((14..26).step_by(2)).chain((28..32).step_by(2));
        let part = places.map(|at| (le32(&[entry[at], entry[at + 1], 0, 0], 0)) as u16);
        self.units = part.chain(self.units.drain(..)).take(20 * 13).collect();
    }

    /// The long name where it belongs to this short entry, else the short one.
    fn take(&mut self, entry: &[u8]) -> String {
        let name = std::mem::take(self);
        let checksum = entry[..11].iter().fold(0u8, |sum, byte| sum.rotate_right(1).wrapping_add(*byte));
        if !name.units.is_empty() && name.checksum == checksum {
            let units: Vec<u16> = name.units.into_iter().take_while(|unit| *unit != 0).collect();
            return String::from_utf16_lossy(&units);
        }
        let (stem, extension) = entry[..11].split_at(8);
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim_end().to_owned();
        match (text(stem), text(extension)) {
            (stem, extension) if extension.is_empty() => stem,
            (stem, extension) => format!("{stem}.{extension}"),
        }
    }
}
