//! Reads qcow2 versions 2 and 3 (QEMU, docs/interop/qcow2): no backing file, no encryption, deflate.

use std::fmt::Write as _;
use std::io;

use flate2::{Decompress, FlushDecompress};

use super::{broken, within};
use crate::blob::Blob;
use crate::error::{Error, Kind, Result};

const OFFSET_MASK: u64 = 0x00ff_ffff_ffff_fe00;
const COMPRESSED: u64 = 1 << 62;
/// Second-level entry bit 0 (version 3): reads as zeros.
const ZERO: u64 = 1;
const WINDOW_BITS: u8 = 12;
/// Incompatible features we can live with: 0, left open by a crash (only counts may be wrong).
const DIRTY: u64 = 1;

/// QEMU opens none with a larger first-level table: 32 MiB.
const MOST_FIRST_LEVEL: u64 = 32 << 17;

/// An open image.
#[derive(Debug)]
pub(super) struct Qcow2 {
    file: Blob,
    version: u32,
    cluster_bits: u32,
    size: u64,
    first_level: u64,
    first_level_entries: u64,
}

impl Qcow2 {
    /// Checks the header.
    pub(super) fn open(file: Blob) -> Result<Self> {
        let mut header = [0; 104];
        let known = (file.len().min(104)) as usize;
        file.read_exact_at(&mut header[..known], 0).map_err(|e| broken("the qcow2 header", &e))?;
        if known < 72 {
            return Err(broken("the qcow2 header", &format!("the file has {known} bytes, expected 72 or more")));
        }
        let version = be32(&header, 4);
        let cluster_bits = be32(&header, 20);
        let features = if version >= 3 { be64(&header, 72) } else { 0 };
        let unsupported = match () {
            () if version != 2 && version != 3 => Some(format!("version {version}, expected 2 or 3")),
            () if be64(&header, 8) != 0 => Some("it has a backing file".to_owned()),
            () if be32(&header, 32) != 0 => Some("it is encrypted".to_owned()),
            () if features & !DIRTY != 0 => {
                Some(format!("incompatible features {features:#x} (zstd, external data, extended tables)"))
            }
            () => None,
        };
        if let Some(why) = unsupported {
            let error = Error::new(Kind::Failed, format!("this qcow2 cannot be read: {why}"));
            return Err(error.hint("convert it: qemu-img convert -O raw IMAGE image.raw"));
        }
        if !(9..=21).contains(&cluster_bits) {
            return Err(broken("the qcow2 header", &format!("clusters of 2^{cluster_bits} bytes, expected 2^9 to 2^21")));
        }
        let size = be64(&header, 24);
        let first_level_entries = u64::from(be32(&header, 36));
        let covered = u128::from(first_level_entries) << (2 * cluster_bits - 3);
        if first_level_entries > MOST_FIRST_LEVEL || u128::from(size) > covered || size > i64::MAX as u64 {
            return Err(broken("the qcow2 header", &format!("a disk of {size} bytes, but its table covers {covered}")));
        }
        Ok(Self { file, version, cluster_bits, size, first_level: be64(&header, 40), first_level_entries })
    }

    pub(super) fn size(&self) -> u64 {
        self.size
    }

    /// Bytes of a cluster.
    pub(super) fn cluster(&self) -> u64 {
        1 << self.cluster_bits
    }

    /// Reads within one cluster.
    pub(super) fn read_piece(&self, buffer: &mut [u8], position: u64) -> io::Result<()> {
        within(self.size, buffer, position)?;
        let entry = self.entry(position >> self.cluster_bits)?;
        let inside = position % self.cluster();
        if entry & COMPRESSED != 0 {
            let cluster = self.inflate(entry)?;
            let start = usize::try_from(inside).map_err(io::Error::other)?;
            let piece = cluster.get(start..).and_then(|rest| rest.get(..buffer.len()));
            buffer.copy_from_slice(piece.ok_or_else(|| damaged("a deflated cluster is too short"))?);
            return Ok(());
        }
        let offset = entry & OFFSET_MASK;
        if offset == 0 || (entry & ZERO != 0 && self.version >= 3) {
            buffer.fill(0);
            return Ok(());
        }
        self.file.read_exact_at(buffer, offset.saturating_add(inside))
    }

    /// The second-level entry of a cluster; 0 where its table is not there.
    fn entry(&self, cluster: u64) -> io::Result<u64> {
        let per_table = self.cluster() / 8;
        let index = cluster / per_table;
        if index >= self.first_level_entries {
            return Err(damaged("a cluster beyond the first-level table"));
        }
        let table = self.number(self.first_level, index)? & OFFSET_MASK;
        if table == 0 { Ok(0) } else { self.number(table, cluster % per_table) }
    }

    fn number(&self, table: u64, index: u64) -> io::Result<u64> {
        let mut bytes = [0; 8];
        let at = table.checked_add(index * 8).ok_or_else(|| damaged("a table beyond the file"))?;
        self.file.read_exact_at(&mut bytes, at)?;
        Ok(u64::from_be_bytes(bytes))
    }

    fn inflate(&self, entry: u64) -> io::Result<Vec<u8>> {
        let shift = 62 - (self.cluster_bits - 8);
        let offset = entry & ((1 << shift) - 1);
        let sectors = (entry & (COMPRESSED - 1)) >> shift;
        // Up to the end of the last sector; the file may end within it.
        let length = ((sectors + 1) * 512 - offset % 512).min(self.file.len().saturating_sub(offset));
        let packed = self.file.slice(offset, length).to_vec()?;
        let size = usize::try_from(self.cluster()).map_err(io::Error::other)?;
        let mut cluster = Vec::with_capacity(size);
        let mut inflate = Decompress::new_with_window_bits(false, WINDOW_BITS);
        inflate.decompress_vec(&packed, &mut cluster, FlushDecompress::Finish).map_err(io::Error::other)?;
        if cluster.len() != size {
            return Err(damaged(&format!("a deflated cluster has {} bytes, expected {size}", cluster.len())));
        }
        Ok(cluster)
    }

    /// Header and the use of clusters.
    pub(super) fn dump(&self) -> Result<String> {
        let (mut plain, mut deflated, mut zero) = (0u64, 0u64, 0u64);
        let per_table = self.cluster() / 8;
        for index in 0..self.size.div_ceil(self.cluster() * per_table) {
            let table = self.number(self.first_level, index).map_err(|e| broken("the first-level table", &e))? & OFFSET_MASK;
            for slot in 0..if table == 0 { 0 } else { per_table } {
                match self.number(table, slot).map_err(|e| broken("a second-level table", &e))? {
                    0 => zero += 1,
                    entry if entry & COMPRESSED != 0 => deflated += 1,
                    _ => plain += 1,
                }
            }
        }
        let mut text = String::new();
        let _ = writeln!(text, "qcow2 version      {}", self.version);
        let _ = writeln!(text, "disk size          {}", self.size);
        let _ = writeln!(text, "cluster size       {}", self.cluster());
        let _ = writeln!(text, "first-level table  {} entries at {}", self.first_level_entries, self.first_level);
        let _ = writeln!(text, "clusters           {plain} plain, {deflated} deflated, {zero} empty in present tables");
        Ok(text)
    }
}

fn damaged(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("the qcow2 is damaged: {why}"))
}

fn be32(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..).and_then(<[u8]>::first_chunk).map_or(0, |b| u32::from_be_bytes(*b))
}

fn be64(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..).and_then(<[u8]>::first_chunk).map_or(0, |b| u64::from_be_bytes(*b))
}
