//! Reading images made by anybody: raw, qcow2 or VHDX as one range of bytes ([`Image`]), its
//! partition table ([`gpt`]), the files of its EFI system partition ([`fat`]),
//! and what our images hold ([`appliance`], [`installed`]).
//!
//! Everything here is read from files nobody vouches for: every number is checked before use, and
//! no table is held in memory.

pub mod appliance;
pub mod fat;
pub mod gpt;
pub mod installed;
mod qcow2;
mod vhdx;

use std::io;
use std::path::Path;
use std::sync::Arc;

use crate::blob::Blob;
use crate::error::{Context, Error, Kind, Result};
use crate::export::Format;
use crate::files;
pub use crate::read_at::ReadAt;

/// An open image file.
#[derive(Debug)]
pub struct Image {
    kind: Layout,
}

#[derive(Debug)]
enum Layout {
    Raw(Blob),
    Qcow2(qcow2::Qcow2),
    Vhdx(vhdx::Vhdx),
}

impl Image {
    /// Opens a file; its first bytes tell the format.
    ///
    /// # Errors
    /// When it cannot be read, or its tables contradict themselves.
    pub fn open(path: &Path) -> Result<Self> {
        let file = files::open(path)?;
        let length = file.metadata().map_err(|e| Error::io("reading", path, &e))?.len();
        Self::of(Blob::file(Arc::new(file), 0, length)).context(format!("reading the image {}", path.display()))
    }

    /// The same from bytes that are at hand already.
    ///
    /// # Errors
    /// When the tables contradict themselves.
    pub fn of(file: Blob) -> Result<Self> {
        let mut magic = [0; 8];
        let known = (magic.len() as u64).min(file.len()) as usize;
        file.read_exact_at(&mut magic[..known], 0).map_err(|e| broken("the first bytes", &e))?;
        let kind = match &magic {
            [b'Q', b'F', b'I', 0xfb, ..] => Layout::Qcow2(qcow2::Qcow2::open(file)?),
            b"vhdxfile" => Layout::Vhdx(vhdx::Vhdx::open(file)?),
            _ => Layout::Raw(file),
        };
        Ok(Self { kind })
    }

    /// Its format. What is not known counts as raw.
    pub fn format(&self) -> Format {
        match self.kind {
            Layout::Raw(_) => Format::Raw,
            Layout::Qcow2(_) => Format::Qcow2,
            Layout::Vhdx(_) => Format::Vhdx,
        }
    }

    /// The tables of the format for people: one fact a line, nothing for raw.
    ///
    /// # Errors
    /// When a table cannot be read.
    pub fn dump(&self) -> Result<String> {
        match &self.kind {
            Layout::Raw(_) => Ok(String::new()),
            Layout::Qcow2(image) => image.dump(),
            Layout::Vhdx(image) => image.dump(),
        }
    }
}

impl ReadAt for Image {
    fn size(&self) -> u64 {
        match &self.kind {
            Layout::Raw(image) => image.len(),
            Layout::Qcow2(image) => image.size(),
            Layout::Vhdx(image) => image.size(),
        }
    }

    fn read_exact_at(&self, buffer: &mut [u8], position: u64) -> io::Result<()> {
        match &self.kind {
            Layout::Raw(image) => image.read_exact_at(buffer, position),
            Layout::Qcow2(image) => in_pieces(self.size(), image.cluster(), buffer, position, |b, p| image.read_piece(b, p)),
            Layout::Vhdx(image) => in_pieces(self.size(), image.block(), buffer, position, |b, p| image.read_piece(b, p)),
        }
    }
}

/// A part of a source: one partition.
pub struct Window<'a> {
    source: &'a dyn ReadAt,
    start: u64,
    size: u64,
}

impl<'a> Window<'a> {
    /// `size` bytes from `start` on.
    ///
    /// # Errors
    /// When the source ends before.
    pub fn new(source: &'a dyn ReadAt, start: u64, size: u64) -> Result<Self> {
        match start.checked_add(size) {
            Some(end) if end <= source.size() => Ok(Self { source, start, size }),
            _ => Err(Error::new(
                Kind::Failed,
                format!("{size} bytes at {start} leave the image, which has {} bytes", source.size()),
            )),
        }
    }
}

impl std::fmt::Debug for Window<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} bytes at {}", self.size, self.start)
    }
}

impl ReadAt for Window<'_> {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_exact_at(&self, buffer: &mut [u8], position: u64) -> io::Result<()> {
        within(self.size, buffer, position)?;
        self.source.read_exact_at(buffer, self.start + position)
    }
}

/// Refuses a read beyond the end.
fn within(size: u64, buffer: &[u8], position: u64) -> io::Result<()> {
    match position.checked_add(buffer.len() as u64) {
        Some(end) if end <= size => Ok(()),
        _ => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

/// Reads piece by piece, so that none crosses a boundary of `unit` bytes (never 0).
fn in_pieces(
    size: u64,
    unit: u64,
    mut buffer: &mut [u8],
    mut position: u64,
    read: impl Fn(&mut [u8], u64) -> io::Result<()>,
) -> io::Result<()> {
    within(size, buffer, position)?;
    while !buffer.is_empty() {
        let length = (unit - position % unit).min(buffer.len() as u64) as usize;
        let (piece, rest) = buffer.split_at_mut(length);
        read(piece, position)?;
        position += length as u64;
        buffer = rest;
    }
    Ok(())
}

/// A table that cannot be what it claims.
fn broken(what: &str, why: &dyn std::fmt::Display) -> Error {
    Error::new(Kind::Failed, format!("{what}: {why}")).hint("the file is damaged or not what its first bytes say: get it again")
}

/// Little-endian numbers in a table; zero where the table is too short, which no caller lets happen.
fn le32(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..).and_then(<[u8]>::first_chunk).map_or(0, |b| u32::from_le_bytes(*b))
}

fn le64(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..).and_then(<[u8]>::first_chunk).map_or(0, |b| u64::from_le_bytes(*b))
}

fn guid_at(bytes: &[u8], at: usize) -> uuid::Uuid {
    bytes.get(at..).and_then(<[u8]>::first_chunk).map_or(uuid::Uuid::nil(), |b| uuid::Uuid::from_bytes_le(*b))
}

#[cfg(test)]
mod tests;
