//! A qcow2 overlay: an empty disk that shows another image where nothing was written to it. Layout: QEMU's
//! `docs/interop/qcow2.txt`, version 3.

use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::error::{Error, Kind, Result};
use crate::files;

/// `QFI\xfb`.
const MAGIC: &[u8; 4] = b"QFI\xfb";
/// Clusters of 64 KiB.
const CLUSTER_BITS: u32 = 16;
const CLUSTER: u64 = 1 << CLUSTER_BITS;
/// Version 3 header without the compression type.
const HEADER: u32 = 104;
/// Header extension that names the backing file's format.
const BACKING_FORMAT: u32 = 0xe279_2aca;
/// Longest backing file name.
const MAX_NAME: usize = 1023;
/// What one second-level table covers; its entries are 8 bytes.
const L2_COVERS: u64 = CLUSTER / 8 * CLUSTER;
/// What a first-level table of one cluster covers: 4 TiB.
const MAX_SIZE: u64 = CLUSTER / 8 * L2_COVERS;
/// Header, reference counts' table and block, first-level table: one cluster each.
const CLUSTERS: u64 = 4;
/// Sectors, in which disks are counted.
const SECTOR: u64 = 512;

/// The formats of disk images that QEMU boots.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// The bytes of the disk.
    Raw,
    /// QEMU's own.
    Qcow2,
    /// Hyper-V's second.
    Vhdx,
    /// Hyper-V's first, dynamic; a fixed one is shown as raw with a footer.
    Vhd,
    /// VMware's.
    Vmdk,
}

impl Format {
    /// QEMU's name for it.
    pub fn name(self) -> &'static str {
        match self {
            Format::Raw => "raw",
            Format::Qcow2 => "qcow2",
            Format::Vhdx => "vhdx",
            Format::Vhd => "vpc",
            Format::Vmdk => "vmdk",
        }
    }

    /// What `file` begins with tells; without a known beginning it is raw.
    ///
    /// # Errors
    /// The file's own.
    pub fn of(path: &Path) -> Result<Self> {
        let file = files::open(path)?;
        let mut start = [0; 8];
        let length = read_some(&file, &mut start, 0).map_err(|e| Error::io("reading", path, &e))?;
        let mut end = [0; 8];
        let size = file.metadata().map_err(|e| Error::io("reading", path, &e))?.len();
        if size >= SECTOR {
            read_some(&file, &mut end, size - SECTOR).map_err(|e| Error::io("reading", path, &e))?;
        }
        Ok(match start.get(..length).unwrap_or_default() {
            b"vhdxfile" => Format::Vhdx,
            b"conectix" => Format::Vhd,
            known if known.starts_with(MAGIC) => Format::Qcow2,
            known if known.starts_with(b"KDMV") => Format::Vmdk,
            _ if &end == b"conectix" => Format::Vhd,
            _ => Format::Raw,
        })
    }
}

fn read_some(file: &File, buffer: &mut [u8], at: u64) -> std::io::Result<usize> {
    let mut done = 0;
    while let Some(rest) = buffer.get_mut(done..).filter(|rest| !rest.is_empty()) {
        match file.read_at(rest, at + done as u64)? {
            0 => break,
            amount => done += amount,
        }
    }
    Ok(done)
}

/// The size in bytes of the disk that a raw or qcow2 image holds; `None` for formats that this does not read.
///
/// # Errors
/// [`Kind::Document`] for a qcow2 file cut off in its header.
pub fn disk_size(path: &Path, format: Format) -> Result<Option<u64>> {
    let file = files::open(path)?;
    match format {
        Format::Raw => {
            let length = file.metadata().map_err(|e| Error::io("reading", path, &e))?.len();
            Ok(Some(length.next_multiple_of(SECTOR)))
        }
        Format::Qcow2 => {
            let mut size = [0; 8];
            file.read_exact_at(&mut size, 24).map_err(|_| {
                Error::new(Kind::Document, format!("the qcow2 image {} is cut off in its header", path.display()))
            })?;
            Ok(Some(u64::from_be_bytes(size)))
        }
        Format::Vhdx | Format::Vhd | Format::Vmdk => Ok(None),
    }
}

/// The bytes of an overlay over `backing` (an absolute path), with a disk of `size` bytes.
///
/// # Errors
/// [`Kind::Usage`] for a size that is no multiple of 512 or beyond 4 TiB, and for a path beyond 1023 bytes.
pub fn overlay(backing: &Path, format: Format, size: u64) -> Result<Vec<u8>> {
    let name = backing.as_os_str().as_bytes();
    if size == 0 || !size.is_multiple_of(SECTOR) || size > MAX_SIZE {
        return Err(Error::new(Kind::Usage, format!("a disk of {size} bytes cannot be made: a multiple of 512 up to 4 TiB can")));
    }
    if name.len() > MAX_NAME || !backing.is_absolute() {
        return Err(Error::new(
            Kind::Usage,
            format!("{} cannot stand behind an overlay: its path is not absolute or too long", backing.display()),
        ));
    }
    let format = format.name().as_bytes();
    let extension = 8 + format.len().next_multiple_of(8);
    let name_at = HEADER as usize + extension + 8;
    let first_level = size.div_ceil(L2_COVERS) as u32;

    let mut image = Vec::with_capacity((CLUSTERS * CLUSTER) as usize);
    image.extend(MAGIC);
    image.extend(3_u32.to_be_bytes());
    image.extend((name_at as u64).to_be_bytes());
    image.extend((name.len() as u32).to_be_bytes());
    image.extend(CLUSTER_BITS.to_be_bytes());
    image.extend(size.to_be_bytes());
    image.extend([0; 4]); // no encryption
    image.extend(first_level.to_be_bytes());
    image.extend((3 * CLUSTER).to_be_bytes()); // first-level table
    image.extend(CLUSTER.to_be_bytes()); // reference counts' table
    image.extend(1_u32.to_be_bytes()); // its clusters
    image.extend([0; 12 + 24]); // no snapshots, no features
    image.extend(4_u32.to_be_bytes()); // reference counts of 1 << 4 bits
    image.extend(HEADER.to_be_bytes());
    image.extend(BACKING_FORMAT.to_be_bytes());
    image.extend((format.len() as u32).to_be_bytes());
    image.extend_from_slice(format);
    image.resize(HEADER as usize + extension, 0);
    image.extend([0; 8]); // end of extensions
    image.extend_from_slice(name);
    image.resize(CLUSTER as usize, 0);
    image.extend((2 * CLUSTER).to_be_bytes()); // the one block of reference counts
    image.resize((2 * CLUSTER) as usize, 0);
    for _ in 0..CLUSTERS {
        image.extend(1_u16.to_be_bytes());
    }
    image.resize((CLUSTERS * CLUSTER) as usize, 0);
    Ok(image)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::boot::oracle::Trixie;

    #[test]
    fn qemu_img_takes_the_overlay() {
        let trixie = Trixie::new();
        let base: Vec<u8> = (0..3_u32 << 20).map(|i| (i >> 9) as u8).collect();
        trixie.put("base.raw", &base);
        let backing = trixie.inside("base.raw");
        for size in [3 << 20, 5 << 30, MAX_SIZE] {
            let path = trixie.put("over.qcow2", &overlay(Path::new(&backing), Format::Raw, size).unwrap());
            trixie.run(&["qemu-img", "check", &path]).unwrap();
            let info: serde_json::Value =
                serde_json::from_str(&trixie.run(&["qemu-img", "info", "--output=json", &path]).unwrap()).unwrap();
            assert_eq!(info["virtual-size"], size);
            assert_eq!(info["backing-filename-format"], "raw");
            assert_eq!(info["full-backing-filename"], backing.as_str());
            assert_eq!(disk_size(&trixie.outside("over.qcow2"), Format::Qcow2).unwrap(), Some(size));
        }
        let path = trixie.put("over.qcow2", &overlay(Path::new(&backing), Format::Raw, 3 << 20).unwrap());
        trixie.run(&["qemu-img", "compare", &path, &backing]).unwrap();
    }

    #[test]
    fn wrong_overlays_are_refused() {
        for (path, size) in
            [("/a", 0), ("/a", 511), ("/a", MAX_SIZE + 512), ("a", 512), (&*format!("/{}", "a".repeat(1023)), 512)]
        {
            assert_eq!(overlay(Path::new(path), Format::Raw, size).unwrap_err().kind(), Kind::Usage, "{path} {size}");
        }
    }

    #[test]
    fn formats_are_known_by_their_bytes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("disk");
        let fixed = [vec![0; 1024], b"conectix".to_vec(), vec![0; 504]].concat();
        for (bytes, expected) in [
            (&b"QFI\xfb\0\0\0\x03"[..], Format::Qcow2),
            (b"vhdxfile....", Format::Vhdx),
            (b"conectix....", Format::Vhd),
            (&fixed, Format::Vhd),
            (b"KDMV", Format::Vmdk),
            (b"", Format::Raw),
            (b"QFI", Format::Raw),
        ] {
            std::fs::write(&path, bytes).unwrap();
            assert_eq!(Format::of(&path).unwrap(), expected, "{bytes:?}");
        }
        assert_eq!(disk_size(&path, Format::Raw).unwrap(), Some(512));
        assert!(disk_size(&path, Format::Qcow2).unwrap_err().to_string().contains("cut off"));
    }
}
