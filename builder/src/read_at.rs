//! Where a reader gets its bytes.

use std::io;

use crate::blob::{Blob, Extents};

/// Bytes that can be read at any place.
pub trait ReadAt: Sync {
    /// How many there are.
    fn size(&self) -> u64;

    /// Fills `buffer` from `position` on.
    ///
    /// # Errors
    /// `UnexpectedEof` beyond the end; the source's own errors.
    fn read_exact_at(&self, buffer: &mut [u8], position: u64) -> io::Result<()>;
}

impl ReadAt for Extents {
    fn size(&self) -> u64 {
        Extents::size(self)
    }

    fn read_exact_at(&self, buffer: &mut [u8], position: u64) -> io::Result<()> {
        Extents::read_exact_at(self, buffer, position)
    }
}

impl ReadAt for Blob {
    fn size(&self) -> u64 {
        self.len()
    }

    fn read_exact_at(&self, buffer: &mut [u8], position: u64) -> io::Result<()> {
        Blob::read_exact_at(self, buffer, position)
    }
}

impl ReadAt for Vec<u8> {
    fn size(&self) -> u64 {
        self.len() as u64
    }

    fn read_exact_at(&self, buffer: &mut [u8], position: u64) -> io::Result<()> {
        let start = usize::try_from(position).map_err(|_| io::ErrorKind::UnexpectedEof)?;
        let end = start.checked_add(buffer.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        buffer.copy_from_slice(self.get(start..end).ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }
}
