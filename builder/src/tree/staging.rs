//! The folder in which a tree is put together. Every path is resolved inside it, as after a
//! chroot: no link that a package brings leads out.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{self, AtFlags, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use crate::error::{Error, Result};
use crate::files;

/// Largest list of attribute names and largest value, in bytes (XATTR_LIST_MAX of Linux).
const XATTR_LIMIT: usize = 65_536;
/// Mode of folders made on the way; their own metadata is set later.
const FOLDER_MODE: u32 = 0o755;

/// A root folder, held open.
#[derive(Debug)]
pub struct Staging {
    root: OwnedFd,
    path: PathBuf,
}

impl Staging {
    /// Opens the folder at `path`, making it where it is not there.
    ///
    /// # Errors
    /// The path and the system's reason, as everywhere here.
    pub fn open(path: &Path) -> Result<Self> {
        files::make_folder(path)?;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = fs::open(path, flags, Mode::empty()).map_err(|e| Error::io("opening", path, &e.into()))?;
        Ok(Self { root, path: path.to_owned() })
    }

    /// Where it is on the machine.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A path inside as it is on the machine, for messages only.
    pub fn shown(&self, path: &[u8]) -> PathBuf {
        self.path.join(OsStr::from_bytes(path))
    }

    /// An error about a path inside.
    pub fn failed(&self, doing: &str, path: &[u8], error: Errno) -> Error {
        Error::io(doing, &self.shown(path), &error.into())
    }

    /// Opens a path inside; links in the middle are followed within the root, `flags` decide on the last.
    ///
    /// # Errors
    /// The bare number, since not being there is often no error.
    pub fn open_at(&self, path: &[u8], flags: OFlags) -> Result<OwnedFd, Errno> {
        let path: &[u8] = if path.is_empty() { b"." } else { path };
        // A rename beside us makes the kernel ask for another try.
        for _ in 0..64 {
            match fs::openat2(&self.root, path, flags | OFlags::CLOEXEC, Mode::empty(), ResolveFlags::IN_ROOT) {
                Err(Errno::AGAIN) => {}
                other => return other,
            }
        }
        Err(Errno::AGAIN)
    }

    /// The folder at `path`, made with its parents where it is not there.
    ///
    /// # Errors
    /// Also when a part of the path is there and is no folder.
    pub fn folder(&self, path: &[u8]) -> Result<OwnedFd> {
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        let missing = match self.open_at(path, flags) {
            Ok(folder) => return Ok(folder),
            Err(Errno::NOENT) => path,
            Err(e) => return Err(self.failed("opening the folder", path, e)),
        };
        let (parent, name) = split(missing);
        let parent = self.folder(parent)?;
        match fs::mkdirat(&parent, name, Mode::from_raw_mode(FOLDER_MODE)) {
            // The caller's umask must not show.
            Ok(()) => fs::chmodat(&parent, name, Mode::from_raw_mode(FOLDER_MODE), AtFlags::empty()),
            Err(Errno::EXIST) => Ok(()),
            Err(e) => Err(e),
        }
        .map_err(|e| self.failed("making the folder", path, e))?;
        self.open_at(path, flags).map_err(|e| self.failed("opening the folder", path, e))
    }

    /// Reads a file; `None` where there is none.
    ///
    /// # Errors
    /// See [`Staging::open`].
    pub fn read(&self, path: &[u8]) -> Result<Option<Vec<u8>>> {
        let file = match self.open_at(path, OFlags::RDONLY | OFlags::NONBLOCK) {
            Ok(fd) => File::from(fd),
            Err(Errno::NOENT | Errno::NOTDIR) => return Ok(None),
            Err(e) => return Err(self.failed("reading", path, e)),
        };
        let mut bytes = Vec::new();
        (&file).read_to_end(&mut bytes).map_err(|e| Error::io("reading", &self.shown(path), &e))?;
        Ok(Some(bytes))
    }

    /// Makes a new file in the place of whatever is there (no folder), owned by root.
    ///
    /// # Errors
    /// See [`Staging::open`].
    pub fn write(&self, path: &[u8], bytes: &[u8], mode: u32) -> Result<File> {
        let (parent, name) = split(path);
        let folder = self.folder(parent)?;
        match fs::unlinkat(&folder, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(e) => return Err(self.failed("replacing", path, e)),
        }
        self.write_new(&folder, path, bytes).and_then(|file| {
            fs::fchmod(&file, Mode::from_raw_mode(mode)).map_err(|e| self.failed("setting the mode of", path, e))?;
            Ok(file)
        })
    }

    /// Makes the file `path` in the opened folder it belongs to; it must not be there.
    ///
    /// # Errors
    /// See [`Staging::open`].
    pub fn write_new(&self, folder: &OwnedFd, path: &[u8], bytes: &[u8]) -> Result<File> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file =
            fs::openat(folder, split(path).1, flags, Mode::from_raw_mode(0o600)).map_err(|e| self.failed("creating", path, e))?;
        let mut file = File::from(file);
        file.write_all(bytes).map_err(|e| Error::io("writing", &self.shown(path), &e))?;
        Ok(file)
    }

    /// Puts other bytes into a file that is there, keeping owner and mode.
    ///
    /// # Errors
    /// See [`Staging::open`]; also when the path is a link.
    pub fn rewrite(&self, path: &[u8], bytes: &[u8]) -> Result<()> {
        let flags = OFlags::WRONLY | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let file = self.open_at(path, flags).map_err(|e| self.failed("rewriting", path, e))?;
        File::from(file).write_all(bytes).map_err(|e| Error::io("rewriting", &self.shown(path), &e))
    }

    /// Names in a folder, sorted; none where it is not there or is no folder.
    ///
    /// # Errors
    /// See [`Staging::open`].
    pub fn names(&self, path: &[u8]) -> Result<Vec<Vec<u8>>> {
        match self.open_at(path, OFlags::RDONLY | OFlags::DIRECTORY) {
            Ok(folder) => names(&folder).map_err(|e| self.failed("listing", path, e)),
            Err(Errno::NOENT | Errno::NOTDIR) => Ok(Vec::new()),
            Err(e) => Err(self.failed("listing", path, e)),
        }
    }

    /// Removes a file, a link, or a folder with all below it; not being there is fine.
    ///
    /// # Errors
    /// See [`Staging::open`].
    pub fn remove(&self, path: &[u8]) -> Result<()> {
        let (parent, name) = split(path);
        let folder = match self.open_at(parent, OFlags::PATH | OFlags::DIRECTORY) {
            Ok(folder) => folder,
            Err(Errno::NOENT | Errno::NOTDIR) => return Ok(()),
            Err(e) => return Err(self.failed("removing", path, e)),
        };
        remove_in(&folder, name).map_err(|e| self.failed("removing", path, e))
    }
}

/// Parent and last part of a path.
pub fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|b| *b == b'/') {
        Some(at) => (&path[..at], &path[at + 1..]),
        None => (b"", path),
    }
}

/// Names in an opened folder, sorted, without `.` and `..`.
///
/// # Errors
/// The system's.
pub fn names(folder: impl AsFd) -> Result<Vec<Vec<u8>>, Errno> {
    let mut names = Vec::new();
    for entry in fs::Dir::read_from(folder)? {
        let name = entry?.file_name().to_bytes().to_vec();
        if name != b"." && name != b".." {
            names.push(name);
        }
    }
    names.sort_unstable();
    Ok(names)
}

/// Extended attributes that belong into an image: capabilities, access lists, and the user's.
///
/// # Errors
/// The system's.
pub fn attributes(file: impl AsFd) -> Result<BTreeMap<Vec<u8>, Vec<u8>>, Errno> {
    let mut small = [0_u8; 1024];
    let all = match fs::flistxattr(&file, &mut small) {
        Ok(length) => small[..length].to_vec(),
        Err(Errno::NOTSUP) => Vec::new(),
        Err(Errno::RANGE) => {
            let mut long = vec![0; XATTR_LIMIT];
            let length = fs::flistxattr(&file, &mut long[..])?;
            long.truncate(length);
            long
        }
        Err(e) => return Err(e),
    };
    let mut out = BTreeMap::new();
    for name in all.split(|b| *b == 0).filter(|name| !name.is_empty()) {
        if name.starts_with(b"system.posix_acl_") || name == b"security.capability" || name.starts_with(b"user.") {
            let mut value = vec![0; XATTR_LIMIT];
            let length = fs::fgetxattr(&file, name, &mut value[..])?;
            value.truncate(length);
            out.insert(name.to_vec(), value);
        }
    }
    Ok(out)
}

fn remove_in(folder: &OwnedFd, name: &[u8]) -> Result<(), Errno> {
    match fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW) {
        Err(Errno::NOENT) => return Ok(()),
        Err(e) => return Err(e),
        Ok(stat) if FileType::from_raw_mode(stat.st_mode) != FileType::Directory => {
            return fs::unlinkat(folder, name, AtFlags::empty());
        }
        Ok(_) => {}
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let inner = fs::openat(folder, name, flags, Mode::empty())?;
    for below in names(&inner)? {
        remove_in(&inner, &below)?;
    }
    fs::unlinkat(folder, name, AtFlags::REMOVEDIR)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_do_not_lead_out() {
        let outside = tempfile::tempdir().unwrap();
        let inside = outside.path().join("root");
        let staging = Staging::open(&inside).unwrap();
        std::os::unix::fs::symlink(outside.path(), inside.join("escape")).unwrap();
        std::os::unix::fs::symlink("../../../..", inside.join("up")).unwrap();
        std::os::unix::fs::symlink("/real", inside.join("absolute")).unwrap();
        staging.folder(b"real").unwrap();
        // Absolute and climbing links stay within the root.
        staging.write(b"absolute/file", b"1", 0o640).unwrap();
        staging.write(b"up/second", b"2", 0o600).unwrap();
        assert_eq!(staging.read(b"real/file").unwrap().as_deref(), Some(b"1".as_slice()));
        assert_eq!(staging.read(b"second").unwrap().as_deref(), Some(b"2".as_slice()));
        assert!(staging.write(b"escape/x/file", b"3", 0o600).is_err(), "the target does not exist inside");
        assert_eq!(names(fs::open(outside.path(), OFlags::RDONLY, Mode::empty()).unwrap()).unwrap(), [b"root"]);
        staging.remove(b"up").unwrap();
        staging.remove(b"real").unwrap();
        staging.remove(b"not/there").unwrap();
        assert_eq!(staging.names(b"").unwrap(), [b"absolute".to_vec(), b"escape".to_vec(), b"second".to_vec()]);
        assert!(staging.rewrite(b"absolute", b"").is_err());
    }
}
