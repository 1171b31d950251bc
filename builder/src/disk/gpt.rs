//! The partition table (UEFI 2.10 section 5.3, types of UAPI.2), written by the `gpt` crate into
//! memory: only the two ends of the disk hold tables.

use std::collections::BTreeMap;
use std::io::{self, Read, Seek, SeekFrom, Write};

use gpt::disk::LogicalBlockSize;
use gpt::partition_types::{OperatingSystem, Type};
use uuid::{Uuid, uuid};

use crate::blob::Blob;
use crate::error::{Error, Kind, Result};

/// Bytes of a logical block on the disks we make.
pub const SECTOR: u64 = 512;
/// Protective MBR, header, 128 entries of 128 bytes.
const HEAD_BYTES: usize = 34 * SECTOR as usize;
/// Entries and header at the end.
const TAIL_BYTES: usize = 33 * SECTOR as usize;
/// Room of a label: UTF-16 units.
const LABEL_UNITS: usize = 36;
/// UAPI.2: the partition is read-only.
const READ_ONLY: u64 = 1 << 60;

/// What a partition is for: the types of UAPI.2 that we write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PartitionType {
    /// EFI system partition.
    Esp,
    /// Root file system, x86-64.
    Root,
    /// dm-verity data of the root, x86-64.
    RootVerity,
}

impl PartitionType {
    /// All of them.
    pub const ALL: [PartitionType; 3] = [PartitionType::Esp, PartitionType::Root, PartitionType::RootVerity];

    /// The type GUID of UAPI.2.
    pub fn guid(self) -> Uuid {
        match self {
            PartitionType::Esp => uuid!("c12a7328-f81f-11d2-ba4b-00a0c93ec93b"),
            PartitionType::Root => uuid!("4f68bce3-e8cd-4db1-96e7-fbcaf984b709"),
            PartitionType::RootVerity => uuid!("2c7357ed-ebd2-46d9-aec1-23d437ec2bf5"),
        }
    }

    /// Attribute bits. No-auto (63) stays clear: it would hide the root from `systemd-dissect`
    /// and the gpt generator, which are to find it.
    pub fn attributes(self) -> u64 {
        match self {
            PartitionType::Esp => 0,
            PartitionType::Root | PartitionType::RootVerity => READ_ONLY,
        }
    }
}

/// One partition.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Partition {
    /// Its number, from 1 on.
    pub number: u32,
    /// Its label.
    pub label: String,
    /// What it is for.
    pub kind: PartitionType,
    /// Its own UUID.
    #[serde(serialize_with = "as_text")]
    pub uuid: Uuid,
    /// First byte on the disk.
    pub start: u64,
    /// Reserved bytes.
    pub size: u64,
    /// Bytes its content spans, from the start.
    pub used: u64,
}

fn as_text<S: serde::Serializer>(uuid: &Uuid, serializer: S) -> std::result::Result<S::Ok, S::Error> {
    serializer.collect_str(uuid)
}

impl Partition {
    /// Refuses a label that the table cannot hold.
    ///
    /// # Errors
    /// When it has more than 36 UTF-16 units or a zero unit.
    pub fn check_label(&self) -> Result<()> {
        let units = self.label.encode_utf16().count();
        if units <= LABEL_UNITS && !self.label.contains('\0') {
            return Ok(());
        }
        let why = format!("the partition label `{}` has {units} UTF-16 units, a GPT holds {LABEL_UNITS}", self.label);
        Err(Error::new(Kind::Document, why).hint("shorten the name or the version of the image: the label is made of both"))
    }
}

/// The two ends of a disk.
#[derive(Debug, Clone)]
pub struct Tables {
    /// Protective MBR, header and entries, from byte 0 on.
    pub primary: Blob,
    /// Entries and backup header.
    pub backup: Blob,
    /// Where the backup begins, in bytes.
    pub backup_offset: u64,
}

/// Makes both tables for a disk of `size` bytes.
///
/// # Errors
/// When a label is too long or the crate refuses; overlap is a defect of the caller and refused too.
pub fn tables(size: u64, guid: Uuid, partitions: &[Partition]) -> Result<Tables> {
    let mut end = HEAD_BYTES as u64;
    let last = size.checked_sub(TAIL_BYTES as u64).ok_or_else(|| refused(&"the disk is too small for a table"))?;
    let mut entries = BTreeMap::new();
    for partition in partitions {
        partition.check_label()?;
        let after = partition.start.checked_add(partition.size).filter(|after| *after <= last && partition.size >= SECTOR);
        let (true, Some(after)) = (partition.start >= end, after) else {
            return Err(refused(&format!("partition {} overlaps its neighbour or the end of the disk", partition.number)));
        };
        end = after;
        entries.insert(partition.number, entry(partition, after));
    }
    let write = |ends: Ends| -> std::result::Result<Ends, gpt::GptError> {
        let config = gpt::GptConfig::new().writable(true).logical_block_size(LogicalBlockSize::Lb512);
        let mut table = config.create_from_device(ends, Some(guid))?;
        table.update_partitions(entries)?;
        table.write()
    };
    let mut ends = write(Ends::new(size)).map_err(|e| refused(&e))?;
    let sectors = u32::try_from(size / SECTOR - 1).unwrap_or(u32::MAX);
    gpt::mbr::ProtectiveMBR::with_lb_size(sectors).overwrite_lba0(&mut ends).map_err(|e| refused(&e))?;
    Ok(Tables { primary: Blob::memory(ends.head), backup: Blob::memory(ends.tail), backup_offset: last })
}

fn entry(partition: &Partition, after: u64) -> gpt::partition::Partition {
    gpt::partition::Partition {
        part_type_guid: Type { guid: partition.kind.guid(), os: OperatingSystem::None },
        part_guid: partition.uuid,
        first_lba: partition.start / SECTOR,
        last_lba: after / SECTOR - 1,
        flags: partition.kind.attributes(),
        name: partition.label.clone(),
    }
}

fn refused(why: &dyn std::fmt::Display) -> Error {
    Error::new(Kind::Failed, format!("writing the partition table: {why}"))
}

/// A device of which only both ends exist.
#[derive(Debug)]
struct Ends {
    head: Vec<u8>,
    tail: Vec<u8>,
    size: u64,
    position: u64,
}

impl Ends {
    fn new(size: u64) -> Self {
        Self { head: vec![0; HEAD_BYTES], tail: vec![0; TAIL_BYTES], size, position: 0 }
    }

    /// The bytes from the position on, as far as they exist and `wanted` reaches.
    fn window(&mut self, wanted: usize) -> io::Result<&mut [u8]> {
        let tail_start = self.size - self.tail.len() as u64;
        let (part, start) = if self.position < self.head.len() as u64 {
            (&mut self.head, self.position)
        } else if self.position >= tail_start {
            (&mut self.tail, self.position - tail_start)
        } else {
            return Err(io::Error::other(format!("byte {} is in neither end of the disk", self.position)));
        };
        let start = usize::try_from(start).unwrap_or(usize::MAX).min(part.len());
        let amount = wanted.min(part.len() - start);
        self.position += amount as u64;
        Ok(&mut part[start..start + amount])
    }
}

impl Read for Ends {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let window = self.window(buffer.len())?;
        buffer[..window.len()].copy_from_slice(window);
        Ok(window.len())
    }
}

impl Write for Ends {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let window = self.window(bytes.len())?;
        window.copy_from_slice(&bytes[..window.len()]);
        Ok(window.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Seek for Ends {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let target = match to {
            SeekFrom::Start(offset) => Some(offset),
            SeekFrom::End(offset) => self.size.checked_add_signed(offset),
            SeekFrom::Current(offset) => self.position.checked_add_signed(offset),
        };
        self.position = target.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.position)
    }
}
