//! Packages that several images of one command hold are decompressed once: their files part, as the plain tar it is, lies
//! in a folder of the cache until the command ends. Nothing in an image depends on it.

use std::fs::File;
use std::io::{BufReader, Read, Write};
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::files;
use crate::tree::ContentId;
use crate::tree::cache::Work;

/// Read buffer, in bytes.
const BUFFER: usize = 256 << 10;

/// What was decompressed in this command.
#[derive(Debug)]
pub struct Kept(Work);

impl Kept {
    /// An empty one in the cache folder.
    ///
    /// # Errors
    /// When the folder cannot be made.
    pub fn begin(cache: &Path) -> Result<Self> {
        Work::begin(cache).map(Self)
    }

    fn path(&self, package: &Path) -> PathBuf {
        let name = blake3::Hash::from(ContentId::of(package.as_os_str().as_encoded_bytes()).0);
        self.0.folder.join(name.to_hex().as_str())
    }

    /// The files part of the package at this path; `None` where it was not kept.
    ///
    /// # Errors
    /// When the file is there and cannot be opened.
    pub fn read(&self, package: &Path) -> Result<Option<Box<dyn Read>>> {
        let path = self.path(package);
        match File::open(&path) {
            Ok(file) => Ok(Some(Box::new(BufReader::with_capacity(BUFFER, file)))),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(Error::io("opening", &path, &e)),
        }
    }

    /// Begins to keep what is read through [`Keeping::through`].
    ///
    /// # Errors
    /// When the file cannot be made.
    pub fn keep(&self, package: &Path) -> Result<Keeping> {
        let done = self.path(package);
        let part = done.with_extension("part");
        let file = files::create(&part)?;
        Ok(Keeping { file, part, done })
    }
}

/// Removes all of it; what cannot be removed, the next build clears away.
impl Drop for Kept {
    fn drop(&mut self) {
        for path in [&self.0.folder, &self.0.lock_path] {
            if let Err(error) = files::remove(path) {
                tracing::warn!("{error}");
            }
        }
    }
}

/// A files part that is being kept.
#[derive(Debug)]
pub struct Keeping {
    file: File,
    part: PathBuf,
    done: PathBuf,
}

impl Keeping {
    /// The same bytes as `inner`, kept on their way.
    ///
    /// # Errors
    /// When the system has no room for one more open file.
    pub fn through<'a>(&self, inner: Box<dyn Read + 'a>) -> Result<Box<dyn Read + 'a>> {
        let file = self.file.try_clone().map_err(|e| Error::io("opening", &self.part, &e))?;
        Ok(Box::new(Tee { inner, file }))
    }

    /// All was read: from now on it is there.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn finish(self) -> Result<()> {
        files::rename(&self.part, &self.done)
    }
}

struct Tee<'a> {
    inner: Box<dyn Read + 'a>,
    file: File,
}

impl Read for Tee<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let amount = self.inner.read(buffer)?;
        self.file.write_all(buffer.get(..amount).unwrap_or_default())?;
        Ok(amount)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_read_once_is_there_until_the_end() {
        let cache = tempfile::tempdir().unwrap();
        let kept = Kept::begin(cache.path()).unwrap();
        let package = Path::new("/store/a.deb");
        assert!(kept.read(package).unwrap().is_none());
        let whole = |mut reader: Box<dyn Read + '_>| {
            let mut bytes = Vec::new();
            reader.read_to_end(&mut bytes).unwrap();
            bytes
        };
        let keeping = kept.keep(package).unwrap();
        assert_eq!(whole(keeping.through(Box::new(&b"a tar"[..])).unwrap()), b"a tar");
        assert!(kept.read(package).unwrap().is_none(), "nobody said that this was all");
        keeping.finish().unwrap();
        assert_eq!(whole(kept.read(package).unwrap().unwrap()), b"a tar");
        assert!(kept.read(Path::new("/store/b.deb")).unwrap().is_none());
        drop(kept);
        assert_eq!(std::fs::read_dir(cache.path().join("work")).unwrap().count(), 0);
    }
}
