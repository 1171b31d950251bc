//! What an image of ours holds behind its partition table: boot files, sealed root, package list.

use crate::disk::PartitionType;
use crate::error::{Context, Error, Kind, Result};
use crate::image::{Image, ReadAt, Window, fat, gpt};
use crate::seal::verity;

/// The largest boot file that is read, in bytes.
pub const LARGEST_BOOT_FILE: u64 = 256 << 20;
/// Boot programs that are read at most; ours have three.
const MOST_BOOT_FILES: usize = 16;
/// Where UKIs are (UAPI.1, type 2 entries).
const UKIS: &str = "efi/linux/";

/// An image with its partition table.
#[derive(Debug)]
pub struct Appliance<'a> {
    image: &'a Image,
    /// The partition table.
    pub table: gpt::Table,
}

/// A program that the firmware can start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BootFile {
    /// Path in the EFI system partition, without leading `/`.
    pub path: String,
    /// The whole file.
    pub bytes: Vec<u8>,
}

impl BootFile {
    /// Whether it lies where the loader looks for UKIs.
    pub fn is_uki(&self) -> bool {
        self.path.to_ascii_lowercase().starts_with(UKIS)
    }
}

impl<'a> Appliance<'a> {
    /// Reads the partition table.
    ///
    /// # Errors
    /// When there is none.
    pub fn open(image: &'a Image) -> Result<Self> {
        Ok(Self { image, table: gpt::read(image)? })
    }

    /// The first partition of this kind.
    ///
    /// # Errors
    /// When there is none.
    pub fn partition(&self, kind: PartitionType) -> Result<Window<'a>> {
        let entry = self.table.find(kind.guid()).ok_or_else(|| {
            Error::new(Kind::Failed, format!("the image has no partition of type {} ({kind:?})", kind.guid()))
                .hint("this looks like no image of ingot's")
        })?;
        Window::new(self.image, entry.start, entry.size)
    }

    /// The data that the verity tree is about, and the tree, whose superblock says how long the data are.
    ///
    /// # Errors
    /// When one is not there or tells of more than its partition has.
    pub fn sealed(&self) -> Result<(Window<'a>, Window<'a>)> {
        let area = self.partition(PartitionType::RootVerity)?;
        let size = verity::data_size(&area)?;
        let entry = self.table.find(PartitionType::Root.guid());
        let (start, room) = entry.map_or((0, 0), |entry| (entry.start, entry.size));
        if size > room {
            return Err(Error::new(
                Kind::Failed,
                format!("the verity tree is about {size} bytes, the root partition has {room}"),
            ));
        }
        Ok((Window::new(self.image, start, size)?, area))
    }

    /// All programs (`.efi`) of the EFI system partition, by path.
    ///
    /// # Errors
    /// When the file system is broken, or holds more than any image of ours.
    pub fn boot_files(&self) -> Result<Vec<BootFile>> {
        let window = self.partition(PartitionType::Esp)?;
        let fat = fat::Fat::open(&window).context("looking into the EFI system partition")?;
        let mut files = fat.files().context("looking into the EFI system partition")?;
        files.retain(|file| file.path.to_ascii_lowercase().ends_with(".efi"));
        if files.len() > MOST_BOOT_FILES {
            let why = format!("the EFI system partition has {} programs, expected {MOST_BOOT_FILES} at most", files.len());
            return Err(Error::new(Kind::Failed, why));
        }
        let read = |file: fat::File| Ok(BootFile { bytes: fat.read(&file, LARGEST_BOOT_FILE)?, path: file.path });
        files.into_iter().map(read).collect()
    }

    /// Bytes of the disk.
    pub fn size(&self) -> u64 {
        self.image.size()
    }
}
