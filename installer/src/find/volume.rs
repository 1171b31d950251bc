//! A file system on a disk that anybody may have attached: read only, each read bounded, every number
//! checked before it is used. A thing that is not there is `None`; a text says what is broken.

use std::io::{self, SeekFrom};

use super::{Device, fat::Fat, iso::Iso};

/// Longest folder that is read, in bytes: as long as FAT lets one be.
pub(super) const FOLDER_LIMIT: usize = 2 << 20;

/// A name in a folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    pub name: String,
    pub folder: bool,
    /// First cluster or block.
    pub start: u32,
    /// Bytes; what FAT says of folders means nothing.
    pub size: u32,
}

/// What both kinds of file system can do.
pub(super) trait Volume {
    /// Without blanks at its end.
    fn label(&self) -> &str;

    /// The topmost folder.
    fn root(&self) -> Entry;

    /// What is in a folder.
    fn entries(&mut self, folder: &Entry) -> Result<Vec<Entry>, String>;

    /// The bytes of a file, which are no more than `limit`.
    fn content(&mut self, file: &Entry, limit: usize) -> Result<Vec<u8>, String>;
}

/// What a device holds, if it is a file system that is read here.
pub(super) fn probe(mut device: Box<dyn Device>) -> Result<Option<Box<dyn Volume>>, String> {
    // First: a hybrid ISO has a boot sector too.
    if let Some(layout) = Iso::probe(&mut *device)? {
        return Ok(Some(Box::new(Iso::new(device, layout)?)));
    }
    Ok(Fat::probe(&mut *device)?.map(|layout| Box::new(Fat::new(device, layout)) as Box<dyn Volume>))
}

/// The entry at `path`, whose parts are separated by `/`; letter case does not matter.
pub(super) fn entry(volume: &mut dyn Volume, path: &str) -> Result<Option<Entry>, String> {
    let mut at = volume.root();
    for part in path.split('/') {
        if !at.folder {
            return Ok(None);
        }
        let mut named = volume.entries(&at)?.into_iter().filter(|entry| entry.name.eq_ignore_ascii_case(part));
        let Some(next) = named.next() else { return Ok(None) };
        if named.next().is_some() {
            return Err(format!("broken: expected one `{}`, found several", part.escape_debug()));
        }
        at = next;
    }
    Ok(Some(at))
}

/// The file at `path`.
pub(super) fn file(volume: &mut dyn Volume, path: &str, limit: usize) -> Result<Option<Vec<u8>>, String> {
    let Some(entry) = entry(volume, path)? else { return Ok(None) };
    if entry.folder {
        return Err(format!("broken: expected a file `{path}`, found a folder"));
    }
    let size = usize::try_from(entry.size).unwrap_or(usize::MAX);
    if size > limit {
        return Err(format!("broken: expected {limit} bytes at most in `{path}`, found {size}"));
    }
    volume.content(&entry, limit).map(Some).map_err(|e| format!("broken: `{path}`: {e}"))
}

/// `length` bytes at byte `offset`. The callers bound `length`.
pub(super) fn bytes(device: &mut dyn Device, offset: u64, length: usize) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; length];
    device.seek(SeekFrom::Start(offset))?;
    device.read_exact(&mut bytes)?;
    Ok(bytes)
}

/// The same, where a device too short for it just does not hold what is looked for.
pub(super) fn bytes_if_there(device: &mut dyn Device, offset: u64, length: usize) -> Result<Option<Vec<u8>>, String> {
    match bytes(device, offset, length) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
        Err(e) => Err(format!("reading {length} bytes at {offset}: {e}")),
    }
}

/// `N` bytes at `at` of a structure.
pub(super) fn field<const N: usize>(structure: &[u8], at: usize) -> Option<[u8; N]> {
    structure.get(at..)?.first_chunk().copied()
}

/// A little-endian 16-bit number.
pub(super) fn le16(structure: &[u8], at: usize) -> Option<u16> {
    field(structure, at).map(u16::from_le_bytes)
}

/// A little-endian 32-bit number.
pub(super) fn le32(structure: &[u8], at: usize) -> Option<u32> {
    field(structure, at).map(u32::from_le_bytes)
}
