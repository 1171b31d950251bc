//! From a folder on disk to a [`Tree`]: metadata by one walk, contents hashed on all cores.
//!
//! Nothing is followed and no mount is entered. A modification time is the package's own where
//! nothing touched the entry since it was unpacked, and the epoch otherwise: the clock of the
//! machine does not show.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use rustix::fs::{self, AtFlags, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use crate::epoch::Epoch;
use crate::error::{Error, Kind, Result};
use crate::tree::accounts::Renumbering;
use crate::tree::staging::{Staging, attributes, names};
use crate::tree::unpack::threads;
use crate::tree::{ContentId, Entry, Node, Tree};

/// `security.capability`: revision 3 has a root id behind what revision 2 has (linux/capability.h).
const CAPABILITY_REVISION_2: u32 = 0x0200_0000;
const CAPABILITY_REVISION_3: u32 = 0x0300_0000;
const CAPABILITY_2_LENGTH: usize = 20;

/// What decides the metadata of entries.
#[derive(Debug)]
pub struct Rules<'a> {
    /// Times the packages gave.
    pub mtimes: &'a BTreeMap<Vec<u8>, i64>,
    /// The time of everything else, and the latest of all.
    pub epoch: Epoch,
    /// Numbers of users and groups.
    pub numbers: &'a Renumbering,
}

/// A walk under way.
struct Walk<'a> {
    staging: &'a Staging,
    rules: &'a Rules<'a>,
    device: u64,
    tree: Tree,
    /// Regular files, with what hard links are found by.
    files: Vec<(Vec<u8>, u64, bool)>,
}

/// Bytes and attributes of a file.
type Found = (u64, ContentId, BTreeMap<Vec<u8>, Vec<u8>>);

/// Takes stock of a folder.
///
/// # Errors
/// When something cannot be read, is a socket, or lies on another file system.
pub fn index(staging: &Staging, rules: &Rules<'_>) -> Result<Tree> {
    let root = staging.open_at(b"", OFlags::RDONLY | OFlags::DIRECTORY).map_err(|e| staging.failed("opening", b"", e))?;
    let stat = fs::fstat(&root).map_err(|e| staging.failed("looking at", b"", e))?;
    let mut walk = Walk { staging, rules, device: stat.st_dev, tree: Tree::default(), files: Vec::new() };
    walk.folder(root, &[], &stat)?;
    let Walk { mut tree, files, .. } = walk;
    let found = contents(staging, rules, &files)?;
    let mut groups: BTreeMap<u64, u64> = BTreeMap::new();
    // Sorted by path, so that groups are numbered by their first names.
    let mut order: Vec<usize> = (0..files.len()).collect();
    order.sort_by(|a, b| files[*a].0.cmp(&files[*b].0));
    for at in order {
        let ((path, inode, linked), (size, content, xattrs)) = (&files[at], &found[at]);
        let next = groups.len() as u64;
        let link = linked.then(|| *groups.entry(*inode).or_insert(next));
        if let Some(entry) = tree.entries.get_mut(path) {
            entry.node = Node::File { size: *size, content: *content, link };
            entry.xattrs.clone_from(xattrs);
        }
    }
    tree.settle_links();
    Ok(tree)
}

impl Walk<'_> {
    fn folder(&mut self, folder: OwnedFd, path: &[u8], stat: &Stat) -> Result<()> {
        let failed = |doing: &str, path: &[u8], e| self.staging.failed(doing, path, e);
        let mut entry = self.entry(path, stat, Node::Folder);
        entry.xattrs = xattrs(&folder, self.rules.numbers).map_err(|e| failed("reading the attributes of", path, e))?;
        self.tree.entries.insert(path.to_vec(), entry);
        for name in names(&folder).map_err(|e| failed("listing", path, e))? {
            let below = if path.is_empty() { name.clone() } else { [path, b"/", &name].concat() };
            let failed = |doing: &str, e| self.staging.failed(doing, &below, e);
            let stat = fs::statat(&folder, name.as_slice(), AtFlags::SYMLINK_NOFOLLOW).map_err(|e| failed("looking at", e))?;
            if stat.st_dev != self.device {
                let shown = String::from_utf8_lossy(&below);
                return Err(Error::new(Kind::Failed, format!("/{shown} of the tree is a mount, expected none to be left")));
            }
            let device = || (fs::major(stat.st_rdev), fs::minor(stat.st_rdev));
            let node = match FileType::from_raw_mode(stat.st_mode) {
                FileType::Directory => {
                    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                    let inner = fs::openat(&folder, name.as_slice(), flags, Mode::empty()).map_err(|e| failed("opening", e))?;
                    self.folder(inner, &below, &stat)?;
                    continue;
                }
                FileType::RegularFile => {
                    self.files.push((below.clone(), stat.st_ino, stat.st_nlink > 1));
                    Node::File { size: 0, content: ContentId([0; 32]), link: None }
                }
                FileType::Symlink => {
                    let target =
                        fs::readlinkat(&folder, name.as_slice(), Vec::new()).map_err(|e| failed("reading the link", e))?;
                    Node::Link(target.into_bytes())
                }
                FileType::CharacterDevice => Node::Character(device().0, device().1),
                FileType::BlockDevice => Node::Block(device().0, device().1),
                FileType::Fifo => Node::Fifo,
                _ => {
                    let shown = String::from_utf8_lossy(&below);
                    return Err(Error::new(Kind::Failed, format!("/{shown} of the tree is a socket or of unknown kind")));
                }
            };
            let entry = self.entry(&below, &stat, node);
            self.tree.entries.insert(below, entry);
        }
        Ok(())
    }

    fn entry(&self, path: &[u8], stat: &Stat, node: Node) -> Entry {
        let epoch = i64::try_from(self.rules.epoch.0).unwrap_or(i64::MAX);
        let untouched = self.rules.mtimes.get(path) == Some(&stat.st_mtime) && stat.st_mtime_nsec == 0;
        Entry {
            mode: stat.st_mode & 0o7777,
            uid: self.rules.numbers.uid(stat.st_uid),
            gid: self.rules.numbers.gid(stat.st_gid),
            mtime: if untouched { stat.st_mtime.min(epoch) } else { epoch },
            xattrs: BTreeMap::new(),
            node,
        }
    }
}

/// Reads all files, in their order.
fn contents(staging: &Staging, rules: &Rules<'_>, files: &[(Vec<u8>, u64, bool)]) -> Result<Vec<Found>> {
    let next = AtomicUsize::new(0);
    let done: Mutex<Vec<(usize, Result<Found>)>> = Mutex::new(Vec::with_capacity(files.len()));
    // A handful of files at a time keeps the threads off each other's lock.
    let work = || {
        let mut buffer = Vec::new();
        loop {
            let start = next.fetch_add(64, Ordering::Relaxed);
            let Some(share) = files.get(start..files.len().min(start.saturating_add(64))).filter(|s| !s.is_empty()) else {
                break;
            };
            let results: Vec<_> = share
                .iter()
                .enumerate()
                .map(|(at, (path, ..))| (start + at, read(staging, rules.numbers, path, &mut buffer)))
                .collect();
            done.lock().unwrap_or_else(PoisonError::into_inner).extend(results);
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..threads() {
            scope.spawn(work);
        }
    });
    let mut done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
    done.sort_unstable_by_key(|(at, _)| *at);
    done.into_iter().map(|(_, found)| found).collect()
}

fn read(staging: &Staging, numbers: &Renumbering, path: &[u8], buffer: &mut Vec<u8>) -> Result<Found> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let file = File::from(staging.open_at(path, flags).map_err(|e| staging.failed("opening", path, e))?);
    buffer.clear();
    (&file).read_to_end(buffer).map_err(|e| Error::io("reading", &staging.shown(path), &e))?;
    let xattrs = xattrs(&file, numbers).map_err(|e| staging.failed("reading the attributes of", path, e))?;
    Ok((buffer.len() as u64, ContentId::of(buffer), xattrs))
}

/// As the image holds them.
fn xattrs(file: impl AsFd, numbers: &Renumbering) -> Result<BTreeMap<Vec<u8>, Vec<u8>>, Errno> {
    let settled = |(name, value): (Vec<u8>, Vec<u8>)| {
        let acl = name.starts_with(b"system.posix_acl_");
        let value = if acl { numbers.acl(&value) } else { capability(&name, value) };
        (name, value)
    };
    Ok(attributes(file)?.into_iter().map(settled).collect())
}

/// A capability set in another user namespace names that namespace's root, which an image has no use for.
fn capability(name: &[u8], mut value: Vec<u8>) -> Vec<u8> {
    if name == b"security.capability"
        && let Some(magic) = value.first_chunk::<4>().map(|m| u32::from_le_bytes(*m))
        && magic & 0xff00_0000 == CAPABILITY_REVISION_3
        && value.len() > CAPABILITY_2_LENGTH
    {
        value.truncate(CAPABILITY_2_LENGTH);
        let magic = CAPABILITY_REVISION_2 | (magic & 0x00ff_ffff);
        value[..4].copy_from_slice(&magic.to_le_bytes());
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, symlink};

    #[test]
    fn a_folder_becomes_a_tree() {
        let root = tempfile::tempdir().unwrap();
        let staging = Staging::open(root.path()).unwrap();
        std::fs::set_permissions(root.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        staging.write(b"z", b"same", 0o640).unwrap();
        staging.write(b"b/file", b"other", 0o4755).unwrap();
        std::fs::hard_link(root.path().join("z"), root.path().join("a")).unwrap();
        std::fs::hard_link(root.path().join("b/file"), root.path().join("b/second")).unwrap();
        symlink("../x", root.path().join("b/link")).unwrap();
        let time = fs::Timespec { tv_sec: 500, tv_nsec: 0 };
        let file = staging.open_at(b"b/file", OFlags::RDONLY).unwrap();
        fs::futimens(&file, &fs::Timestamps { last_access: time, last_modification: time }).unwrap();
        let mtimes = [(b"b/file".to_vec(), 500), (b"z".to_vec(), 400)].into();
        let numbers = Renumbering::default();
        let tree = index(&staging, &Rules { mtimes: &mtimes, epoch: Epoch(1000), numbers: &numbers }).unwrap();
        let paths: Vec<_> = tree.entries.keys().map(|p| String::from_utf8_lossy(p).into_owned()).collect();
        assert_eq!(paths, ["", "a", "b", "b/file", "b/link", "b/second", "z"]);
        let link = |path: &str| match &tree.entries[path.as_bytes()].node {
            Node::File { link, .. } => *link,
            other => panic!("{path} is {other:?}"),
        };
        assert_eq!((link("a"), link("z"), link("b/file"), link("b/second")), (Some(0), Some(0), Some(1), Some(1)));
        assert_eq!(tree.entries[b"b/file".as_slice()].mtime, 500, "untouched since the package");
        assert_eq!(tree.entries[b"z".as_slice()].mtime, 1000, "touched");
        assert_eq!(tree.entries[b"b/file".as_slice()].mode, 0o4755);
        assert_eq!(tree.entries[b"b/link".as_slice()].node, Node::Link(b"../x".to_vec()));
    }

    #[test]
    fn capabilities_lose_their_namespace() {
        let v3 = [1, 0, 0, 3, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 0xa0, 0x86, 1, 0].to_vec();
        let v2 = [1, 0, 0, 2, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16].to_vec();
        assert_eq!(capability(b"security.capability", v3.clone()), v2);
        assert_eq!(capability(b"security.capability", v2.clone()), v2);
        assert_eq!(capability(b"user.x", v3.clone()), v3);
        assert_eq!(capability(b"security.capability", vec![3]), [3]);
    }
}
