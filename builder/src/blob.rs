//! Big bytes as references: a range of a file, a shared buffer, or zeros; and a disk as extents over them.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

/// Bytes that stay where they are until somebody reads them.
#[derive(Debug, Clone)]
pub struct Blob {
    source: Source,
    length: u64,
}

#[derive(Clone)]
enum Source {
    Memory { bytes: Arc<[u8]>, offset: usize },
    File { file: Arc<File>, offset: u64 },
}

impl std::fmt::Debug for Source {
    /// Never the bytes: they may be the whole image.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Source::Memory { offset, .. } => write!(f, "memory at {offset}"),
            Source::File { file, offset } => write!(f, "{file:?} at {offset}"),
        }
    }
}

impl Blob {
    /// Bytes in memory, shared and not copied.
    pub fn memory(bytes: impl Into<Arc<[u8]>>) -> Self {
        let bytes = bytes.into();
        Self { length: bytes.len() as u64, source: Source::Memory { bytes, offset: 0 } }
    }

    /// `length` bytes of `file` from `offset` on. The file must not change while the blob lives.
    pub fn file(file: Arc<File>, offset: u64, length: u64) -> Self {
        Self { source: Source::File { file, offset }, length }
    }

    /// Length in bytes.
    pub fn len(&self) -> u64 {
        self.length
    }

    /// Whether there are no bytes.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// The bytes, where they are in memory already.
    pub fn as_memory(&self) -> Option<&[u8]> {
        match &self.source {
            Source::Memory { bytes, offset } => bytes.get(*offset..)?.get(..usize::try_from(self.length).ok()?),
            Source::File { .. } => None,
        }
    }

    /// A part of this blob; cut to what is there.
    #[must_use]
    pub fn slice(&self, start: u64, length: u64) -> Self {
        let start = start.min(self.length);
        let length = length.min(self.length - start);
        let source = match &self.source {
            Source::Memory { bytes, offset } => Source::Memory { bytes: bytes.clone(), offset: offset + start as usize },
            Source::File { file, offset } => Source::File { file: file.clone(), offset: offset + start },
        };
        Self { source, length }
    }

    /// Fills `buffer` from `position` on.
    ///
    /// # Errors
    /// `UnexpectedEof` where the blob ends before the buffer does; the file's own errors.
    pub fn read_exact_at(&self, buffer: &mut [u8], position: u64) -> io::Result<()> {
        if position.checked_add(buffer.len() as u64).is_none_or(|end| end > self.length) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        match &self.source {
            Source::Memory { bytes, offset } => {
                let start = offset + position as usize;
                buffer.copy_from_slice(&bytes[start..start + buffer.len()]);
                Ok(())
            }
            Source::File { file, offset } => file.read_exact_at(buffer, offset + position),
        }
    }

    /// All bytes. For small blobs only.
    ///
    /// # Errors
    /// As [`Blob::read_exact_at`].
    pub fn to_vec(&self) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; usize::try_from(self.length).map_err(|_| io::ErrorKind::OutOfMemory)?];
        self.read_exact_at(&mut bytes, 0)?;
        Ok(bytes)
    }

    /// A reader from the start.
    pub fn reader(&self) -> BlobReader<'_> {
        BlobReader { blob: self, position: 0 }
    }
}

/// Reads a blob from start to end.
#[derive(Debug)]
pub struct BlobReader<'a> {
    blob: &'a Blob,
    position: u64,
}

impl Read for BlobReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let amount = (self.blob.length - self.position).min(buffer.len() as u64) as usize;
        self.blob.read_exact_at(&mut buffer[..amount], self.position)?;
        self.position += amount as u64;
        Ok(amount)
    }
}

/// A byte range made of blobs at rising offsets; what no blob covers is zeros and costs nothing.
#[derive(Debug, Clone, Default)]
pub struct Extents {
    size: u64,
    parts: Vec<(u64, Blob)>,
}

impl Extents {
    /// `size` zero bytes.
    pub fn new(size: u64) -> Self {
        Self { size, parts: Vec::new() }
    }

    /// Total size in bytes, zeros included.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Makes the range longer (never shorter).
    pub fn grow(&mut self, size: u64) {
        self.size = self.size.max(size);
    }

    /// Puts `blob` at `offset`, growing the range where needed. Parts must come in rising order
    /// and must not overlap: that is a defect of the caller and is refused in debug builds.
    pub fn push(&mut self, offset: u64, blob: Blob) {
        if blob.is_empty() {
            return;
        }
        debug_assert!(self.parts.last().is_none_or(|(start, last)| start + last.len() <= offset));
        self.grow(offset + blob.len());
        self.parts.push((offset, blob));
    }

    /// Puts a whole other range at `offset`.
    pub fn push_all(&mut self, offset: u64, other: &Extents) {
        for (start, blob) in &other.parts {
            self.push(offset + start, blob.clone());
        }
        self.grow(offset + other.size);
    }

    /// A part of this range as a range of its own; cut to what is there.
    #[must_use]
    pub fn slice(&self, start: u64, length: u64) -> Self {
        let start = start.min(self.size);
        let end = start.saturating_add(length).min(self.size);
        let mut slice = Self::new(end - start);
        let first = self.parts.partition_point(|(offset, blob)| offset + blob.len() <= start);
        for (offset, blob) in self.parts[first..].iter().take_while(|(offset, _)| *offset < end) {
            let from = start.max(*offset);
            slice.push(from - start, blob.slice(from - offset, end - from));
        }
        slice
    }

    /// The parts, by rising offset.
    pub fn parts(&self) -> &[(u64, Blob)] {
        &self.parts
    }

    /// Bytes that blobs cover.
    pub fn allocated(&self) -> u64 {
        self.parts.iter().map(|(_, blob)| blob.len()).sum()
    }

    /// Fills `buffer` from `position` on, zeros where no blob is.
    ///
    /// # Errors
    /// `UnexpectedEof` beyond the size; a blob's own errors.
    pub fn read_exact_at(&self, buffer: &mut [u8], position: u64) -> io::Result<()> {
        let end =
            position.checked_add(buffer.len() as u64).filter(|end| *end <= self.size).ok_or(io::ErrorKind::UnexpectedEof)?;
        buffer.fill(0);
        let first = self.parts.partition_point(|(start, blob)| start + blob.len() <= position);
        for (start, blob) in self.parts[first..].iter().take_while(|(start, _)| *start < end) {
            let from = position.max(*start);
            let to = end.min(start + blob.len());
            blob.read_exact_at(&mut buffer[(from - position) as usize..(to - position) as usize], from - start)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extents_read_blobs_and_the_zeros_between() {
        let mut extents = Extents::new(10);
        extents.push(2, Blob::memory(*b"abc"));
        extents.push(7, Blob::memory(*b"xyz!").slice(1, 2));
        let mut buffer = [9; 8];
        extents.read_exact_at(&mut buffer, 1).unwrap();
        assert_eq!(&buffer, b"\0abc\0\0yz");
        assert!(extents.read_exact_at(&mut buffer, 3).is_err());
        assert_eq!(extents.allocated(), 5);

        let slice = extents.slice(3, 5);
        let mut buffer = [9; 5];
        slice.read_exact_at(&mut buffer, 0).unwrap();
        assert_eq!((&buffer, slice.size(), slice.allocated()), (b"bc\0\0y", 5, 3));
        assert_eq!(extents.slice(20, 5).size(), 0);
    }
}
