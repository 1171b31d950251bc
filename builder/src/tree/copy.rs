//! A folder copied as it is: owners, modes, attributes, times and hard links; and the digest of all that.

use std::collections::HashMap;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;

use rustix::fs::{self, AtFlags, FileType, Gid, Mode, OFlags, Stat, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;

use crate::error::{Error, Kind, Result};
use crate::tree::ContentId;
use crate::tree::staging::{Staging, attributes, names, split};

/// Digests all that is in `from`, and copies it into the empty folder `to` where there is one.
///
/// # Errors
/// When something cannot be read or made, or is neither folder, file, link nor FIFO.
pub fn copy(from: &Staging, to: Option<&Staging>) -> Result<ContentId> {
    let mut walk = Walk { from, to, digest: blake3::Hasher::new(), links: HashMap::new(), buffer: Vec::new() };
    let open = |staging: &Staging| {
        staging.open_at(b"", OFlags::RDONLY | OFlags::DIRECTORY).map_err(|e| staging.failed("opening", b"", e))
    };
    let (source, target) = (open(from)?, to.map(open).transpose()?);
    walk.folder(&source, target.as_ref(), &[])?;
    Ok(ContentId(*walk.digest.finalize().as_bytes()))
}

struct Walk<'a> {
    from: &'a Staging,
    to: Option<&'a Staging>,
    digest: blake3::Hasher,
    /// Files with several names: inode and the first of them.
    links: HashMap<u64, Vec<u8>>,
    buffer: Vec<u8>,
}

impl Walk<'_> {
    fn add(&mut self, bytes: &[u8]) {
        self.digest.update(&(bytes.len() as u64).to_le_bytes()).update(bytes);
    }

    fn failed(&self, doing: &str, path: &[u8], error: Errno) -> Error {
        self.from.failed(doing, path, error)
    }

    fn folder(&mut self, source: &OwnedFd, target: Option<&OwnedFd>, path: &[u8]) -> Result<()> {
        let stat = fs::fstat(source).map_err(|e| self.failed("looking at", path, e))?;
        for name in names(source).map_err(|e| self.failed("listing", path, e))? {
            let below = if path.is_empty() { name.clone() } else { [path, b"/", &name].concat() };
            self.entry((source, target), &below, &name)?;
        }
        self.add(path);
        self.metadata(source, target, path, &stat)
    }

    fn entry(&mut self, (source, target): (&OwnedFd, Option<&OwnedFd>), path: &[u8], name: &[u8]) -> Result<()> {
        let stat = fs::statat(source, name, AtFlags::SYMLINK_NOFOLLOW).map_err(|e| self.failed("looking at", path, e))?;
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let open =
            |walk: &Self, flags| fs::openat(source, name, flags, Mode::empty()).map_err(|e| walk.failed("opening", path, e));
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => {
                let inner = open(self, flags | OFlags::DIRECTORY)?;
                let made = target.map(|target| {
                    fs::mkdirat(target, name, Mode::from_raw_mode(0o700))?;
                    fs::openat(target, name, flags | OFlags::DIRECTORY, Mode::empty())
                });
                let made = made.transpose().map_err(|e| self.failed("copying", path, e))?;
                self.folder(&inner, made.as_ref(), path)
            }
            FileType::RegularFile => {
                if stat.st_nlink > 1 && self.link(target, path, name, &stat)? {
                    return Ok(());
                }
                let file = File::from(open(self, flags)?);
                self.file(file, target, path, &stat)
            }
            FileType::Symlink => {
                let link = fs::readlinkat(source, name, Vec::new()).map_err(|e| self.failed("reading", path, e))?;
                let make = |target: &OwnedFd| fs::symlinkat(&*link, target, name);
                self.node(target, (path, name), &stat, link.as_bytes(), make)
            }
            FileType::Fifo => {
                let make =
                    |target: &OwnedFd| fs::mknodat(target, name, FileType::Fifo, Mode::from_raw_mode(stat.st_mode & 0o7777), 0);
                self.node(target, (path, name), &stat, b"", make)
            }
            _ => {
                let shown = self.from.shown(path);
                Err(Error::new(Kind::Failed, format!("{} is no folder, file, link or FIFO", shown.display())))
            }
        }
    }

    /// Makes a further name of a file that has one already; `false` where this is the first.
    fn link(&mut self, target: Option<&OwnedFd>, path: &[u8], name: &[u8], stat: &Stat) -> Result<bool> {
        let Some(first) = self.links.get(&stat.st_ino).cloned() else {
            self.links.insert(stat.st_ino, path.to_vec());
            return Ok(false);
        };
        if let (Some(to), Some(target)) = (self.to, target) {
            let (parent, last) = split(&first);
            let folder = to.open_at(parent, OFlags::PATH | OFlags::DIRECTORY);
            let linked = folder.and_then(|folder| fs::linkat(&folder, last, target, name, AtFlags::empty()));
            linked.map_err(|e| self.failed("linking", path, e))?;
        }
        self.add(path);
        self.add(&first);
        Ok(true)
    }

    fn file(&mut self, mut file: File, target: Option<&OwnedFd>, path: &[u8], stat: &Stat) -> Result<()> {
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer.clear();
        file.read_to_end(&mut buffer).map_err(|e| Error::io("reading", &self.from.shown(path), &e))?;
        self.add(path);
        self.add(&buffer);
        let made = target.map(|target| {
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let made = fs::openat(target, split(path).1, flags, Mode::from_raw_mode(0o600)).map(File::from)?;
            (&made).write_all(&buffer)?;
            Ok::<_, std::io::Error>(OwnedFd::from(made))
        });
        self.buffer = buffer;
        let made = made.transpose().map_err(|e| Error::io("copying", &self.from.shown(path), &e))?;
        self.metadata(&OwnedFd::from(file), made.as_ref(), path, stat)
    }

    /// A link or a FIFO.
    fn node(
        &mut self,
        target: Option<&OwnedFd>,
        (path, name): (&[u8], &[u8]),
        stat: &Stat,
        content: &[u8],
        make: impl Fn(&OwnedFd) -> Result<(), Errno>,
    ) -> Result<()> {
        self.add(path);
        self.add(content);
        self.add(numbers(stat).as_bytes());
        let Some(target) = target else { return Ok(()) };
        let (uid, gid) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
        make(target)
            .and_then(|()| fs::chownat(target, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW))
            .and_then(|()| fs::utimensat(target, name, &times(stat), AtFlags::SYMLINK_NOFOLLOW))
            .map_err(|e| self.failed("copying", path, e))
    }

    fn metadata(&mut self, source: &OwnedFd, target: Option<&OwnedFd>, path: &[u8], stat: &Stat) -> Result<()> {
        self.add(numbers(stat).as_bytes());
        let xattrs = attributes(source).map_err(|e| self.failed("reading the attributes of", path, e))?;
        for (key, value) in &xattrs {
            self.add(key);
            self.add(value);
        }
        let Some(target) = target else { return Ok(()) };
        let owner = (Some(Uid::from_raw(stat.st_uid)), Some(Gid::from_raw(stat.st_gid)));
        let set = || {
            fs::fchown(target, owner.0, owner.1)?;
            fs::fchmod(target, Mode::from_raw_mode(stat.st_mode & 0o7777))?;
            for (key, value) in &xattrs {
                fs::fsetxattr(target, key.as_slice(), value, XattrFlags::empty())?;
            }
            fs::futimens(target, &times(stat))
        };
        set().map_err(|e| self.failed("copying", path, e))
    }
}

/// Type, mode, owner and time as one text.
fn numbers(stat: &Stat) -> String {
    format!("{} {} {} {} {}", stat.st_mode, stat.st_uid, stat.st_gid, stat.st_mtime, stat.st_mtime_nsec)
}

fn times(stat: &Stat) -> Timestamps {
    let time = Timespec { tv_sec: stat.st_mtime, tv_nsec: stat.st_mtime_nsec.cast_signed() };
    Timestamps { last_access: time, last_modification: time }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    use super::*;

    #[test]
    fn a_copy_is_the_same_and_its_digest_tells() {
        let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (from, to) = (Staging::open(one.path()).unwrap(), Staging::open(two.path()).unwrap());
        from.write(b"usr/bin/x", b"program", 0o4755).unwrap();
        std::fs::hard_link(one.path().join("usr/bin/x"), one.path().join("usr/bin/y")).unwrap();
        symlink("x", one.path().join("usr/bin/z")).unwrap();
        fs::mknodat(fs::CWD, one.path().join("fifo"), FileType::Fifo, Mode::from_raw_mode(0o640), 0).unwrap();
        std::fs::set_permissions(one.path().join("usr"), std::fs::Permissions::from_mode(0o1751)).unwrap();
        let digest = copy(&from, Some(&to)).unwrap();
        assert_eq!(copy(&from, None).unwrap(), digest);
        assert_eq!(copy(&to, None).unwrap(), digest);
        let stat = |path: &str| std::fs::symlink_metadata(two.path().join(path)).unwrap();
        assert_eq!((stat("usr").mode() & 0o7777, stat("usr/bin/x").mode() & 0o7777), (0o1751, 0o4755));
        assert_eq!((stat("usr/bin/x").ino(), stat("usr/bin/x").nlink()), (stat("usr/bin/y").ino(), 2));
        std::fs::write(two.path().join("usr/bin/x"), b"another").unwrap();
        assert_ne!(copy(&to, None).unwrap(), digest);
    }
}
