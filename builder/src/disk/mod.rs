//! Stage 8: from the sealed root and the boot files to one disk: EFI system partition, root A,
//! verity A. Slot B and `state` are made at first boot in the free space behind (DESIGN.md section 4).

pub mod fat;
pub mod gpt;
mod short_name;

use trust::{Sha256, Sha256Digest};
use uuid::Uuid;

use crate::blob::{Blob, Extents};
use crate::definition::DiskShape;
use crate::epoch::Epoch;
use crate::error::{Context, Error, Kind, Result};
pub use gpt::{Partition, PartitionType};

/// Partitions begin and the disk ends on this boundary, in bytes. Azure and Hyper-V want whole MiB.
pub const ALIGNMENT: u64 = 1 << 20;

/// A file of the EFI system partition.
#[derive(Debug, Clone)]
pub struct EspFile {
    /// Path without leading `/`: `EFI/Linux/load-balancer_1.efi`.
    pub path: String,
    /// Its bytes.
    pub content: Blob,
}

/// What goes on the disk.
#[derive(Debug, Clone)]
pub struct DiskInput<'a> {
    /// Name of the image, first part of the labels of its slot.
    pub name: &'a str,
    /// Version of the image (UAPI.10), last part of the labels.
    pub version: &'a str,
    /// The sealed root.
    pub root: &'a Extents,
    /// Its dm-verity superblock and tree.
    pub verity: &'a Extents,
    /// The root hash of that tree: every identifier on the disk follows from it.
    pub root_hash: Sha256Digest,
    /// Files of the EFI system partition, [`boot_files`] makes the usual ones.
    pub files: &'a [EspFile],
    /// Sizes of the partitions.
    pub shape: &'a DiskShape,
    /// Empty bytes behind the last partition, for what first boot makes. Costs nothing in sparse formats.
    pub room: u64,
    /// The time of every file in the EFI system partition.
    pub epoch: Epoch,
}

/// A finished disk.
#[derive(Debug, Clone)]
pub struct Disk {
    /// Its bytes.
    pub extents: Extents,
    /// Its partitions in order.
    pub partitions: Vec<Partition>,
    /// The disk GUID of the partition table.
    pub guid: Uuid,
}

/// The files of an EFI system partition: the boot loader at its own and at the removable path, the
/// UKI as a type 2 entry (UAPI.1), and the loader's configuration.
pub fn boot_files(name: &str, version: &str, boot_loader: &Blob, uki: &Blob, loader_conf: &str) -> Vec<EspFile> {
    let file = |path: &str, content: Blob| EspFile { path: path.to_owned(), content };
    vec![
        file("EFI/BOOT/BOOTX64.EFI", boot_loader.clone()),
        file(&format!("EFI/Linux/{name}_{version}.efi"), uki.clone()),
        file("EFI/systemd/systemd-bootx64.efi", boot_loader.clone()),
        file("loader/entries.srel", Blob::memory(*b"type1\n")),
        file("loader/loader.conf", Blob::memory(loader_conf.as_bytes())),
    ]
}

/// Lays everything out: partition table at both ends, file system of the EFI system partition,
/// root and verity at the start of their reserves.
///
/// # Errors
/// When something does not fit into what the definition reserves for it, a label is longer than
/// 36 UTF-16 units, or a path cannot be written to FAT.
pub fn lay_out(input: &DiskInput<'_>) -> Result<Disk> {
    let shape = input.shape;
    must_fit("the sealed root", input.root.size(), "disk.slot", shape.slot)?;
    must_fit("the verity tree", input.verity.size(), "disk.verity", shape.verity)?;
    let hash = input.root_hash.as_bytes();
    let serial = derive(hash, "esp serial").as_fields().0;
    let volume = fat::Volume { size: aligned(shape.esp)?, serial, label: *b"ESP        ", epoch: input.epoch };
    let esp = fat::build(&volume, input.files).context("building the EFI system partition")?;
    let (data_uuid, verity_uuid) = hash.split_at(16);
    let label = format!("{}_{}", input.name, input.version);
    let mut next = ALIGNMENT;
    let mut place = |number: u32, label: &str, kind: gpt::PartitionType, uuid: Uuid, size: u64, content: &Extents| {
        let start = next;
        let size = aligned(size)?;
        next = start.checked_add(size).ok_or_else(|| too_big(size))?;
        let partition = Partition { number, label: label.to_owned(), kind, uuid, start, size, used: content.size() };
        partition.check_label()?;
        Ok::<_, Error>((partition, content.clone()))
    };
    // The root comes last and has just its own size: the file to ship stays small, and first boot
    // grows its partition to the slot (systemd-repart), as nothing stands behind it.
    let placed = [
        place(1, "esp", gpt::PartitionType::Esp, derive(hash, "esp partition"), shape.esp, &esp)?,
        place(
            2,
            &format!("{label}_verity"),
            gpt::PartitionType::RootVerity,
            bytes_uuid(verity_uuid),
            shape.verity,
            input.verity,
        )?,
        place(3, &label, gpt::PartitionType::Root, bytes_uuid(data_uuid), input.root.size(), input.root)?,
    ];
    // One more MiB holds the backup table.
    let size = next.checked_add(input.room).and_then(|s| s.checked_add(ALIGNMENT)).ok_or_else(|| too_big(input.room))?;
    assemble(aligned(size)?, derive(hash, "disk"), &placed)
}

/// Puts the tables and the partitions' contents together.
fn assemble(size: u64, guid: Uuid, placed: &[(Partition, Extents)]) -> Result<Disk> {
    let partitions: Vec<Partition> = placed.iter().map(|(partition, _)| partition.clone()).collect();
    let tables = gpt::tables(size, guid, &partitions)?;
    let mut extents = Extents::new(size);
    extents.push(0, tables.primary);
    for (partition, content) in placed {
        extents.push_all(partition.start, content);
    }
    extents.push(tables.backup_offset, tables.backup);
    Ok(Disk { extents, partitions, guid })
}

/// An identifier that follows from the root hash: the start of SHA-256 over purpose and hash,
/// stamped as a version 8 UUID (RFC 9562 section 5.8).
pub(crate) fn derive(seed: &[u8; 32], purpose: &str) -> Uuid {
    let mut hash = Sha256::new();
    hash.update(b"ingot ");
    hash.update(purpose.as_bytes());
    hash.update(&[0]);
    hash.update(seed);
    let digest = hash.finish();
    let (head, _) = digest.as_bytes().split_at(16);
    uuid::Builder::from_slice(head).map(|builder| builder.with_version(uuid::Version::Custom).into_uuid()).unwrap_or_default()
}

/// Sixteen bytes as they stand, so that their text is the hexadecimal text of the root hash (UAPI.2).
fn bytes_uuid(bytes: &[u8]) -> Uuid {
    Uuid::from_slice(bytes).unwrap_or_default()
}

fn must_fit(what: &str, size: u64, key: &str, reserve: u64) -> Result<()> {
    if size <= reserve {
        return Ok(());
    }
    Err(Error::new(Kind::Failed, format!("{what} has {size} bytes, but `{key}` reserves {reserve}"))
        .hint(format!("raise `{key}` by at least {} bytes, or make the image smaller", size - reserve)))
}

/// `size` rounded up to [`ALIGNMENT`].
fn aligned(size: u64) -> Result<u64> {
    size.checked_next_multiple_of(ALIGNMENT).ok_or_else(|| too_big(size))
}

fn too_big(size: u64) -> Error {
    Error::new(Kind::Document, format!("a size of {size} bytes on the disk leaves the range of 64 bits"))
}

#[cfg(test)]
mod tests;
