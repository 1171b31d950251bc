//! File operations whose errors name the path, and writes that are whole or absent.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use crate::error::{Error, Result};

/// Opens for reading.
///
/// # Errors
/// The path and the system's reason; likewise for all functions here.
pub fn open(path: &Path) -> Result<File> {
    File::open(path).map_err(|e| Error::io("opening", path, &e))
}

/// Creates or truncates for writing.
///
/// # Errors
/// See [`open`].
pub fn create(path: &Path) -> Result<File> {
    File::create(path).map_err(|e| Error::io("creating", path, &e))
}

/// Reads the whole file.
///
/// # Errors
/// See [`open`].
pub fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).map_err(|e| Error::io("reading", path, &e))
}

/// Reads the whole file; `None` where there is none.
///
/// # Errors
/// See [`open`].
pub fn read_if_there(path: &Path) -> Result<Option<Vec<u8>>> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(Error::io("reading", path, &e)),
    }
}

/// Reads the whole file as UTF-8.
///
/// # Errors
/// See [`open`].
pub fn read_text(path: &Path) -> Result<String> {
    fs::read_to_string(path).map_err(|e| Error::io("reading", path, &e))
}

/// Makes the folder and its parents.
///
/// # Errors
/// See [`open`].
pub fn make_folder(path: &Path) -> Result<()> {
    fs::create_dir_all(path).map_err(|e| Error::io("making the folder", path, &e))
}

/// Writes a file that is whole or not there: temporary name, fsync, rename, fsync of the folder.
///
/// # Errors
/// See [`open`]; the temporary file is gone then.
pub fn write_atomic(path: &Path, bytes: &[u8]) -> Result<()> {
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let write = || -> io::Result<()> {
        let mut file = tempfile::Builder::new().prefix(".ingot-").tempfile_in(folder)?;
        file.write_all(bytes)?;
        file.as_file().sync_all()?;
        file.persist(path).map_err(|e| e.error)?;
        File::open(folder)?.sync_all()
    };
    write().map_err(|e| Error::io("writing", path, &e))
}

/// Renames; both names must be on one file system.
///
/// # Errors
/// See [`open`].
pub fn rename(from: &Path, to: &Path) -> Result<()> {
    fs::rename(from, to).map_err(|e| Error::io("renaming to", to, &e))
}

/// Removes a file or a folder with all below it; not being there is fine.
/// Never call it on a folder that may hold a mount.
///
/// # Errors
/// See [`open`].
pub fn remove(path: &Path) -> Result<()> {
    let removed = match fs::symlink_metadata(path) {
        Ok(found) if found.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(e) => Err(e),
    };
    match removed {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(Error::io("removing", path, &e)),
        _ => Ok(()),
    }
}
