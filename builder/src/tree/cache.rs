//! The configured base tree, kept by the digest of everything that decides it.
//!
//! `CACHE/base/KEY/{root/,index}` is complete or not there. It is made in `CACHE/work/N/`, whose
//! `N.lock` is held as long as its maker lives: what nobody holds is the rest of a killed build
//! and is cleared away by the next one. What a tree is made of, layer by layer, [`super::layers`] knows.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{FlockOperation, OFlags, flock};
use rustix::io::Errno;

use crate::epoch::Epoch;
use crate::error::{Context, Error, Kind, Result};
use crate::files;
use crate::interrupt::Temporary;
use crate::lock::Lock;
use crate::progress::{Progress, Unit};
use crate::tree::configure::without_hwdb;
use crate::tree::glob::Filter;
use crate::tree::index::{Rules, index};
use crate::tree::kept::Kept;
use crate::tree::layers::Layers;
use crate::tree::normalise::normalise;
use crate::tree::staging::Staging;
use crate::tree::unpack::may_skip;
use crate::tree::{ContentId, ContentSink, Contents, Node, Tree, stored};

/// Part of every key: to be raised whenever the same input shall give another tree.
const RECIPE: &[u8] = b"ingot base tree 2";
/// Most builds that work in one cache at a time.
const SLOTS: u32 = 256;

/// Everything that decides a base tree, and where it is kept.
#[derive(Debug, Clone, Copy)]
pub struct BaseInput<'a> {
    /// The packages.
    pub lock: &'a Lock,
    /// Their files, verified, in the lock's order.
    pub debs: &'a [PathBuf],
    /// Names of the packages that each document of the definition installs, the base first.
    pub levels: &'a [Vec<String>],
    /// Pinned numbers of system users: [`crate::definition::Definition::ids`].
    pub ids: &'a [(String, u32)],
    /// [`crate::definition::Definition::exclude`].
    pub exclude: &'a [String],
    /// [`crate::definition::Definition::keep`].
    pub keep: &'a [String],
    /// The latest time in the tree.
    pub epoch: Epoch,
    /// The cache folder.
    pub cache: &'a Path,
    /// What other images of this command have decompressed, where there are others.
    pub kept: Option<&'a Kept>,
}

/// A base tree on disk.
#[derive(Debug)]
pub struct BaseTree {
    /// What is in it.
    pub tree: Tree,
    /// The folder that holds its files.
    pub root: PathBuf,
    staging: Staging,
    paths: BTreeMap<ContentId, Vec<u8>>,
}

/// The base tree for `input`: from the cache, or unpacked and configured now. Only what was made
/// now is offered to `sink`. To be called inside [`crate::tree::namespace::enter`].
///
/// # Errors
/// When a package is broken, a script fails, or the disk refuses.
pub fn base(input: &BaseInput<'_>, sink: &dyn ContentSink, progress: &dyn Progress) -> Result<BaseTree> {
    if input.debs.len() != input.lock.packages.len() {
        let (found, expected) = (input.debs.len(), input.lock.packages.len());
        return Err(Error::new(Kind::Failed, format!("got {found} package files, expected {expected} as in the lock")));
    }
    reap(input.cache)?;
    let all = (0..input.debs.len()).collect();
    let entry = input.cache.join("base").join(key(input, &[all], Some(input.epoch)));
    if let Some(base) = BaseTree::load(&entry)? {
        return Ok(base);
    }
    if entry.exists() {
        progress.note(&format!("the base tree {} in the cache is damaged: making it again", entry.display()));
        discard(&entry)?;
    }
    make(input, &entry, sink, progress)?;
    BaseTree::load(&entry)?.ok_or_else(|| {
        Error::new(Kind::Failed, format!("reading {} back: its index is not what was just written", entry.display()))
            .hint("check the disk")
    })
}

/// Digest of all that decides the tree; that of a layer has no epoch, and some of the packages.
pub(super) fn key(input: &BaseInput<'_>, layers: &[Vec<usize>], epoch: Option<Epoch>) -> String {
    let mut hasher = blake3::Hasher::new();
    let mut add = |bytes: &[u8]| {
        hasher.update(&(bytes.len() as u64).to_le_bytes());
        hasher.update(bytes);
    };
    add(RECIPE);
    add(input.lock.architecture.as_bytes());
    for layer in layers {
        add(b"layer");
        for package in layer.iter().filter_map(|at| input.lock.packages.get(*at)) {
            add(package.name.as_bytes());
            add(package.sha256.as_bytes());
        }
    }
    if let Some(epoch) = epoch {
        add(&epoch.0.to_le_bytes());
        for (name, id) in input.ids {
            add(name.as_bytes());
            add(&id.to_le_bytes());
        }
        for level in input.levels {
            add(b"level");
            level.iter().for_each(|name| add(name.as_bytes()));
        }
    }
    // Other patterns only leave out at composition, from the same base.
    for (tag, patterns) in [("exclude", input.exclude), ("keep", input.keep)] {
        add(tag.as_bytes());
        patterns.iter().filter(|p| may_skip(p)).for_each(|p| add(p.as_bytes()));
    }
    add(&[u8::from(without_hwdb(&Filter::new(input.exclude, input.keep)))]);
    hasher.finalize().to_hex().to_string()
}

fn make(input: &BaseInput<'_>, entry: &Path, sink: &dyn ContentSink, progress: &dyn Progress) -> Result<()> {
    let work = Work::begin(input.cache)?;
    let result = fill(input, &work.folder, sink, progress);
    if result.is_ok() {
        let parent = entry.parent().unwrap_or(input.cache);
        files::make_folder(parent)?;
        for leftover in ["plan.json", "configure.log"] {
            files::remove(&work.folder.join(leftover))?;
        }
        // Another build may have been faster: then its tree is the same.
        if let Err(error) = files::rename(&work.folder, entry)
            && BaseTree::load(entry)?.is_none()
        {
            return Err(error);
        }
    }
    work.end()?;
    result
}

fn fill(input: &BaseInput<'_>, work: &Path, sink: &dyn ContentSink, progress: &dyn Progress) -> Result<()> {
    let filter = Filter::new(input.exclude, input.keep);
    let mtimes = Layers { input, filter: &filter, sink, progress }.make(work)?;
    let staging = Staging::open(&work.join("root"))?;
    let _task = progress.begin("taking stock", 0, Unit::Items);
    let numbers = normalise(&staging, input.ids, input.epoch).context("normalising the tree")?;
    let rules = Rules { mtimes: &mtimes, epoch: input.epoch, numbers: &numbers };
    let tree = index(&staging, &rules).context("taking stock of the tree")?;
    files::write_atomic(&work.join("index"), &stored::write(&tree))
}

impl BaseTree {
    /// The tree kept at `entry`; `None` where there is none or its index is damaged.
    fn load(entry: &Path) -> Result<Option<Self>> {
        let root = entry.join("root");
        let Some(tree) = files::read_if_there(&entry.join("index"))?.and_then(|file| stored::read(&file)) else {
            return Ok(None);
        };
        if !root.is_dir() {
            return Ok(None);
        }
        let mut paths = BTreeMap::new();
        for (path, entry) in &tree.entries {
            if let Node::File { content, .. } = &entry.node {
                paths.entry(*content).or_insert_with(|| path.clone());
            }
        }
        Ok(Some(Self { tree, staging: Staging::open(&root)?, root, paths }))
    }

    /// Drops the tree from the cache, so that the next build makes it again: for when
    /// [`Contents::read`] finds that a file has changed.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn forget(self) -> Result<()> {
        self.root.parent().map_or(Ok(()), discard)
    }
}

impl Contents for BaseTree {
    fn read(&self, id: &ContentId) -> Result<Arc<[u8]>> {
        let path = self.paths.get(id).ok_or_else(|| Error::new(Kind::Failed, format!("no file of the base tree is {id:?}")))?;
        let damaged = |what: &str| {
            Error::new(Kind::Failed, format!("{} {what} since the base tree was made", self.staging.shown(path).display()))
                .hint("the cache was changed from outside; it is made again by the next build")
        };
        let file = match self.staging.open_at(path, OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK) {
            Ok(fd) => File::from(fd),
            Err(Errno::NOENT | Errno::LOOP) => return Err(damaged("is gone")),
            Err(e) => return Err(self.staging.failed("opening", path, e)),
        };
        let mut bytes = Vec::new();
        (&file).read_to_end(&mut bytes).map_err(|e| Error::io("reading", &self.staging.shown(path), &e))?;
        if ContentId::of(&bytes) == *id { Ok(bytes.into()) } else { Err(damaged("was changed")) }
    }
}

/// Removes an entry so that it is never half there: its index goes first.
fn discard(entry: &Path) -> Result<()> {
    files::remove(&entry.join("index"))?;
    files::remove(entry)
}

/// A folder to work in, held by a lock.
#[derive(Debug)]
pub(super) struct Work {
    pub(super) folder: PathBuf,
    pub(super) lock_path: PathBuf,
    lock: File,
    _temporary: Temporary,
}

impl Work {
    pub(super) fn begin(cache: &Path) -> Result<Self> {
        let parent = cache.join("work");
        files::make_folder(&parent)?;
        for slot in 0..SLOTS {
            let lock_path = parent.join(format!("{slot}.lock"));
            let lock = files::create(&lock_path)?;
            if !hold(&lock, &lock_path)? {
                continue;
            }
            let folder = parent.join(slot.to_string());
            files::remove(&folder)?;
            files::make_folder(&folder)?;
            let temporary = Temporary::new(&folder);
            return Ok(Self { folder, lock_path, lock, _temporary: temporary });
        }
        Err(Error::new(Kind::Failed, format!("{SLOTS} builds are at work in {} already", parent.display())))
    }

    pub(super) fn end(self) -> Result<()> {
        files::remove(&self.folder)?;
        files::remove(&self.lock_path)?;
        drop(self.lock);
        Ok(())
    }
}

/// Whether the lock is ours now, and still the one of that name.
fn hold(lock: &File, path: &Path) -> Result<bool> {
    match flock(lock.as_fd(), FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(Errno::WOULDBLOCK) => return Ok(false),
        Err(e) => return Err(Error::io("locking", path, &e.into())),
    }
    let ours = lock.metadata().map_err(|e| Error::io("looking at", path, &e))?;
    Ok(std::fs::metadata(path).is_ok_and(|named| named.ino() == ours.ino() && named.dev() == ours.dev()))
}

/// Clears away what killed builds left.
fn reap(cache: &Path) -> Result<()> {
    let parent = cache.join("work");
    for slot in 0..SLOTS {
        let lock_path = parent.join(format!("{slot}.lock"));
        let Ok(lock) = File::open(&lock_path) else { continue };
        if hold(&lock, &lock_path)? {
            files::remove(&parent.join(slot.to_string()))?;
            files::remove(&lock_path)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leftovers_of_the_dead_are_cleared_and_the_living_left_alone() {
        let cache = tempfile::tempdir().unwrap();
        let living = Work::begin(cache.path()).unwrap();
        let dead = Work::begin(cache.path()).unwrap();
        assert_ne!(living.folder, dead.folder);
        std::fs::write(dead.folder.join("half"), "x").unwrap();
        let left = dead.folder.clone();
        drop(dead);
        reap(cache.path()).unwrap();
        assert!(living.folder.exists() && !left.exists());
        living.end().unwrap();
        assert_eq!(std::fs::read_dir(cache.path().join("work")).unwrap().count(), 0);
    }

    #[test]
    fn only_what_decides_the_tree_is_in_the_key() {
        let lock = Lock {
            resolution: trust::Sha256Digest([0; 32]),
            architecture: "amd64".to_owned(),
            epoch: Epoch(1),
            releases: Vec::new(),
            packages: Vec::new(),
            containers: crate::lock::Containers::default(),
        };
        let with = |exclude: &[&str], ids: &[(&str, u32)], epoch| {
            let exclude: Vec<String> = exclude.iter().map(|e| (*e).to_owned()).collect();
            let ids: Vec<_> = ids.iter().map(|(n, i)| ((*n).to_owned(), *i)).collect();
            let input = BaseInput {
                lock: &lock,
                debs: &[],
                levels: &[],
                ids: &ids,
                exclude: &exclude,
                keep: &[],
                epoch,
                cache: Path::new("/x"),
                kept: None,
            };
            key(&input, &[], Some(epoch))
        };
        let plain = with(&[], &[], Epoch(1));
        assert_eq!(plain, with(&["boot/**", "etc/x"], &[], Epoch(1)));
        for other in [
            with(&["usr/share/doc"], &[], Epoch(1)),
            with(&["**/doc"], &[], Epoch(1)),
            with(&["usr/lib/udev/hwdb.bin"], &[], Epoch(1)),
            with(&[], &[("a", 1)], Epoch(1)),
            with(&[], &[], Epoch(2)),
        ] {
            assert_ne!(plain, other);
        }
    }
}
