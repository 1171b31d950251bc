//! The store: files by their SHA-256 under `sha256/ab/<hex>`, checked when they enter and when they
//! are used. Several builds may share it: files appear by rename, and a partial download is locked
//! by whoever continues it.
//!
//! | path | what |
//! |---|---|
//! | `sha256/ab/<hex>` | a whole file with that digest |
//! | `partial/<hex>.part` | the beginning of one, to be continued |
//! | `index/<hex>` | small files remembered by the digest of their URL, for `--offline`; not trusted |

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use trust::{Sha256, Sha256Digest};

use crate::error::{Error, Kind, Result};
use crate::files;

/// Bytes read at once when a file is checked.
const CHUNK: usize = 256 * 1024;

/// A content-addressed folder.
#[derive(Debug, Clone)]
pub struct Store {
    folder: PathBuf,
}

/// What the store has for a digest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entry {
    /// Nothing.
    Absent,
    /// The file, whose size and digest were checked just now.
    Sound(PathBuf),
    /// A file that is not what its name says, and what was found.
    Damaged(String),
}

impl Store {
    /// Opens the store in `folder`, making it where it is not there.
    ///
    /// # Errors
    /// When the folder cannot be made.
    pub fn open(folder: &Path) -> Result<Self> {
        for part in ["sha256", "partial", "index"] {
            files::make_folder(&folder.join(part))?;
        }
        Ok(Self { folder: folder.to_owned() })
    }

    /// Where the file with this digest is, or would be.
    pub fn path(&self, sha256: &Sha256Digest) -> PathBuf {
        let name = sha256.to_string();
        self.folder.join("sha256").join(name.get(..2).unwrap_or_default()).join(&name)
    }

    /// Looks for a file of `size` bytes and reads all of it to check the digest.
    ///
    /// # Errors
    /// Failures of reading; a damaged entry is no error but an answer.
    pub fn check(&self, size: u64, sha256: &Sha256Digest) -> Result<Entry> {
        let path = self.path(sha256);
        let mut file = match File::open(&path) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Entry::Absent),
            Err(e) => return Err(Error::io("opening", &path, &e)),
        };
        let found = file.metadata().map_err(|e| Error::io("reading", &path, &e))?;
        if !found.is_file() || found.len() != size {
            return Ok(Entry::Damaged(format!("{} bytes where {size} are expected", found.len())));
        }
        let mut hasher = Sha256::new();
        let read = copy(&mut file, &mut hasher).map_err(|e| Error::io("reading", &path, &e))?;
        let digest = hasher.finish();
        Ok(match digest == *sha256 && read == size {
            true => Entry::Sound(path),
            false => Entry::Damaged(format!("content with digest {digest}")),
        })
    }

    /// All bytes of a small file, checked; `None` where it is absent or damaged.
    ///
    /// # Errors
    /// Failures of reading.
    pub fn read(&self, size: u64, sha256: &Sha256Digest) -> Result<Option<Vec<u8>>> {
        let bytes = files::read_if_there(&self.path(sha256))?;
        Ok(bytes.filter(|bytes| bytes.len() as u64 == size && Sha256Digest::of(bytes) == *sha256))
    }

    /// Puts a file in: exactly `size` bytes with digest `sha256`, or nothing at all.
    ///
    /// # Errors
    /// [`Kind::Untrusted`] when the bytes are others; failures of reading and writing.
    pub fn insert(&self, source: &mut dyn Read, size: u64, sha256: &Sha256Digest) -> Result<PathBuf> {
        let mut part = self.partial(size, sha256)?;
        part.restart()?;
        let mut buffer = vec![0; CHUNK];
        let put = loop {
            match source.read(&mut buffer) {
                Ok(0) => break part.finish(),
                Ok(amount) => {
                    if let Err(error) = part.push(buffer.get(..amount).unwrap_or_default()) {
                        break Err(error);
                    }
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => break Err(Error::new(Kind::Failed, format!("reading what shall enter the store as {sha256}: {e}"))),
            }
        };
        put.inspect_err(|_| part.discard())
    }

    /// Opens (and locks) the partial file of a digest. Another build that is at work on the same
    /// file is waited for; what it has done since is then found.
    ///
    /// # Errors
    /// Failures of reading and writing.
    pub fn partial(&self, size: u64, sha256: &Sha256Digest) -> Result<Partial> {
        let path = self.folder.join("partial").join(format!("{sha256}.part"));
        loop {
            let file = File::options().read(true).write(true).create(true).truncate(false).open(&path);
            let file = file.map_err(|e| Error::io("opening", &path, &e))?;
            file.lock().map_err(|e| Error::io("locking", &path, &e))?;
            // Whoever held the lock may have renamed the file away: then the lock is on another file now.
            if same_file(&file, &path)? {
                let target = self.path(sha256);
                let mut partial =
                    Partial { file, path, target, size, sha256: *sha256, length: 0, resumed: false, hasher: Sha256::new() };
                partial.take_stock()?;
                return Ok(partial);
            }
        }
    }

    /// Where the small file behind `url` is remembered.
    pub(super) fn remembered(&self, url: &str) -> PathBuf {
        self.folder.join("index").join(Sha256Digest::of(url.as_bytes()).to_string())
    }
}

/// The locked beginning of a file.
#[derive(Debug)]
pub struct Partial {
    file: File,
    path: PathBuf,
    target: PathBuf,
    size: u64,
    sha256: Sha256Digest,
    length: u64,
    resumed: bool,
    hasher: Sha256,
}

impl Partial {
    /// Bytes there are.
    pub fn len(&self) -> u64 {
        self.length
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Whether all bytes are there (they may still be wrong).
    pub fn is_complete(&self) -> bool {
        self.length == self.size
    }

    /// Whether some of the bytes come from an earlier attempt.
    pub fn is_resumed(&self) -> bool {
        self.resumed
    }

    /// Hashes what an earlier attempt left.
    fn take_stock(&mut self) -> Result<()> {
        let there = self.file.metadata().map_err(|e| Error::io("reading", &self.path, &e))?.len();
        if there > self.size {
            return self.restart();
        }
        self.length = copy(&mut self.file, &mut self.hasher).map_err(|e| Error::io("reading", &self.path, &e))?;
        self.resumed = self.length > 0;
        Ok(())
    }

    /// Begins again from nothing.
    ///
    /// # Errors
    /// Failures of writing.
    pub fn restart(&mut self) -> Result<()> {
        let cut = self.file.set_len(0).and_then(|()| io::Seek::rewind(&mut self.file));
        cut.map_err(|e| Error::io("emptying", &self.path, &e))?;
        (self.length, self.resumed, self.hasher) = (0, false, Sha256::new());
        Ok(())
    }

    /// Takes the next bytes.
    ///
    /// # Errors
    /// [`Kind::Untrusted`] when they are more than the size; failures of writing.
    pub fn push(&mut self, bytes: &[u8]) -> Result<()> {
        let longer = self.length.checked_add(bytes.len() as u64).filter(|length| *length <= self.size);
        let Some(length) = longer else {
            return Err(Error::new(Kind::Untrusted, format!("more than the expected {} bytes came", self.size)));
        };
        self.file.write_all(bytes).map_err(|e| Error::io("writing", &self.path, &e))?;
        self.hasher.update(bytes);
        self.length = length;
        Ok(())
    }

    /// Checks the digest and gives the file its place.
    ///
    /// # Errors
    /// [`Kind::Untrusted`] with what was found when the bytes are not the expected ones.
    pub fn finish(&mut self) -> Result<PathBuf> {
        let found = self.hasher.clone().finish();
        if !self.is_complete() || found != self.sha256 {
            return Err(Error::new(
                Kind::Untrusted,
                format!("expected {} bytes with sha256 {}, found {} with {found}", self.size, self.sha256, self.length),
            ));
        }
        if let Some(folder) = self.target.parent() {
            files::make_folder(folder)?;
        }
        files::rename(&self.path, &self.target)?;
        Ok(self.target.clone())
    }

    /// Forgets the bytes: best effort, as the next attempt checks them anyway.
    pub fn discard(&mut self) {
        if let Err(error) = files::remove(&self.path) {
            tracing::warn!("{error}");
        }
    }
}

/// Whether `path` still names the open `file`.
fn same_file(file: &File, path: &Path) -> Result<bool> {
    let open = file.metadata().map_err(|e| Error::io("reading", path, &e))?;
    match fs::metadata(path) {
        Ok(named) => Ok((named.dev(), named.ino()) == (open.dev(), open.ino())),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(e) => Err(Error::io("reading", path, &e)),
    }
}

fn copy(from: &mut File, to: &mut Sha256) -> io::Result<u64> {
    let mut buffer = vec![0; CHUNK];
    let mut total = 0;
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return Ok(total),
            Ok(amount) => {
                to.update(buffer.get(..amount).unwrap_or_default());
                total += amount as u64;
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &[u8] = b"hello, store";

    fn store() -> (tempfile::TempDir, Store) {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        (folder, store)
    }

    #[test]
    fn what_enters_is_checked_and_what_is_damaged_is_noticed() {
        let (_folder, store) = store();
        let digest = Sha256Digest::of(TEXT);
        let size = TEXT.len() as u64;
        assert_eq!(store.check(size, &digest).unwrap(), Entry::Absent);
        for (bytes, length) in [(&b"hello, stork"[..], size), (&TEXT[1..], size), (TEXT, size - 1), (TEXT, size + 1)] {
            let error = store.insert(&mut { bytes }, length, &digest).unwrap_err();
            assert_eq!(error.kind(), Kind::Untrusted);
            assert_eq!(store.check(size, &digest).unwrap(), Entry::Absent);
        }
        let path = store.insert(&mut { TEXT }, size, &digest).unwrap();
        assert_eq!(store.check(size, &digest).unwrap(), Entry::Sound(path.clone()));
        assert_eq!(store.read(size, &digest).unwrap().as_deref(), Some(TEXT));
        for wrong in [&b"hello, stor!"[..], b"short", b""] {
            fs::write(&path, wrong).unwrap();
            assert!(matches!(store.check(size, &digest).unwrap(), Entry::Damaged(_)));
            assert_eq!(store.read(size, &digest).unwrap(), None);
        }
        store.insert(&mut { TEXT }, size, &digest).unwrap();
        assert!(matches!(store.check(size, &digest).unwrap(), Entry::Sound(_)));
        assert_eq!(fs::read_dir(store.folder.join("partial")).unwrap().count(), 0);
    }

    #[test]
    fn many_at_once_put_in_the_same_file() {
        let (_folder, store) = store();
        let bytes: Vec<u8> = (0..300_000u32).map(|n| (n % 251) as u8).collect();
        let digest = Sha256Digest::of(&bytes);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| store.insert(&mut bytes.as_slice(), bytes.len() as u64, &digest).unwrap());
            }
        });
        assert!(matches!(store.check(bytes.len() as u64, &digest).unwrap(), Entry::Sound(_)));
    }
}
