//! All packages into one folder, on all cores, with the same result whatever the timing.
//!
//! Owners, modes and times are the packages' own. Folders get theirs at the end, from the first
//! package that has them (`base-files` before all others, then the lock's order). Two packages
//! with one file are resolved by `Replaces`, as dpkg does, after everything else is there.

use std::collections::{BTreeMap, BTreeSet, HashMap, hash_map};
use std::io::Read;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use md5::Digest;
use rustix::fs::{self, AtFlags, FileType, Gid, Mode, OFlags, Timespec, Timestamps, Uid};

use crate::error::{Context, Error, Kind, Result};
use crate::progress::Task;
use crate::tree::archive::{Archive, Member, What};
use crate::tree::deb::{Control, ControlFile, Deb, FilesPart};
use crate::tree::glob::Filter;
use crate::tree::kept::{Keeping, Kept};
use crate::tree::staging::{Staging, split};
use crate::tree::{ContentId, ContentSink};

/// Root folders that Debian merges into `usr/` (since bookworm on every system).
const MERGED: [&[u8]; 4] = [b"bin", b"lib", b"lib64", b"sbin"];

/// Folders whose content no maintainer script needs: what is excluded there is not even written.
const SKIPPABLE: [&[u8]; 6] =
    [b"usr/share/doc/", b"usr/share/info/", b"usr/share/lintian/", b"usr/share/locale/", b"usr/share/man/", b"usr/share/bug/"];

/// In the place of a time: something has changed since the package gave one.
pub const TOUCHED: i64 = i64::MIN;

/// In the place of a digest in `status`, for a conffile with that flag.
const GIVEN_UP: &str = "newconffile remove-on-upgrade";

/// Everything unpacking needs to know.
pub struct Job<'a> {
    /// Where to.
    pub staging: &'a Staging,
    /// The package files, in the lock's order.
    pub debs: &'a [PathBuf],
    /// What the sealed root will not hold.
    pub filter: &'a Filter,
    /// Who may compress files while others are still unpacked.
    pub sink: &'a dyn ContentSink,
    /// Told the compressed bytes done.
    pub task: &'a dyn Task,
    /// What other images of this command have decompressed.
    pub kept: Option<&'a Kept>,
    /// Times of what lies there already, where these packages go over a configured tree.
    pub over: Option<&'a BTreeMap<Vec<u8>, i64>>,
}

impl std::fmt::Debug for Job<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Job").field("staging", &self.staging).field("debs", &self.debs.len()).finish_non_exhaustive()
    }
}

/// What was unpacked.
#[derive(Debug)]
pub struct Unpacked {
    /// The packages, in the lock's order.
    pub packages: Vec<Package>,
    /// Modification times the packages gave, by path: whatever has another one later was touched since.
    pub mtimes: BTreeMap<Vec<u8>, i64>,
}

/// One unpacked package.
#[derive(Debug)]
pub struct Package {
    /// Its control part.
    pub control: Control,
    /// Its paths as it wrote them, for `info/*.list`.
    pub list: Vec<Vec<u8>>,
    /// Digests (MD5, hexadecimal) of its conffiles, by path without leading `/`.
    pub conffiles: BTreeMap<Vec<u8>, String>,
}

/// Whose metadata a folder gets: the smallest. `base-files` knows best how the main folders shall be.
type Rank = (bool, usize);

/// A folder's metadata, and whose.
struct Folder {
    rank: Rank,
    member: Member,
}

/// A file that another package has already put there.
struct Contested {
    path: Vec<u8>,
    package: usize,
    member: Member,
    bytes: Arc<[u8]>,
}

/// What the threads share.
#[derive(Default)]
struct Shared {
    owners: Mutex<HashMap<Vec<u8>, usize>>,
    folders: Mutex<BTreeMap<Vec<u8>, Folder>>,
    mtimes: Mutex<BTreeMap<Vec<u8>, i64>>,
    contested: Mutex<Vec<Contested>>,
    /// A path that the tree below has already.
    clash: AtomicBool,
}

/// Whether `path` is left out already at unpacking. Only this part of a filter changes a base tree.
pub fn skips(filter: &Filter, path: &[u8]) -> bool {
    SKIPPABLE.iter().any(|folder| path.starts_with(folder)) && filter.excludes(path)
}

/// Whether a pattern of a definition can have a say in [`skips`].
pub fn may_skip(pattern: &str) -> bool {
    let literal = pattern.trim_start_matches('/').split(['*', '?', '[']).next().unwrap_or_default().as_bytes();
    SKIPPABLE.iter().any(|folder| {
        let shared = literal.len().min(folder.len());
        literal[..shared] == folder[..shared]
    })
}

/// Unpacks all packages; `None` where they bring what the tree below has already, which only dpkg could sort out.
///
/// # Errors
/// When a package is broken or hostile, two packages have one file and neither replaces the
/// other, or the disk refuses. The message names the package.
pub fn unpack(job: &Job<'_>) -> Result<Option<Unpacked>> {
    let shared = Shared::default();
    if job.over.is_none() {
        lay_ground(job.staging)?;
    }
    let mut order = Vec::with_capacity(job.debs.len());
    for (index, path) in job.debs.iter().enumerate() {
        let deb = Deb::open(path)?;
        order.push((std::cmp::Reverse(deb.weight()), index, deb));
    }
    order.sort_by_key(|(weight, index, _)| (*weight, *index));
    let next = AtomicUsize::new(0);
    let done = Mutex::new(BTreeMap::new());
    let work = || {
        while let Some((weight, index, deb)) = order.get(next.fetch_add(1, Ordering::Relaxed)) {
            let result = Extraction { job, shared: &shared, package: *index, rank: (true, *index), sums: None, last: None }
                .run(deb)
                .context(format!("unpacking {}", job.debs[*index].display()));
            if result.is_err() {
                next.store(order.len(), Ordering::Relaxed);
            }
            locked(&done).insert(*index, result);
            job.task.advance(weight.0);
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..threads() {
            scope.spawn(work);
        }
    });
    if shared.clash.load(Ordering::Relaxed) {
        return Ok(None);
    }
    // In the lock's order, whoever was done first.
    let mut packages = done.into_inner().unwrap_or_else(PoisonError::into_inner).into_values().collect::<Result<Vec<_>>>()?;
    settle(job, &shared, &mut packages)?;
    finish_folders(job, &shared, &packages)?;
    Ok(Some(Unpacked { packages, mtimes: shared.mtimes.into_inner().unwrap_or_else(PoisonError::into_inner) }))
}

/// How many threads work beside each other. It never shows in the result.
pub fn threads() -> usize {
    std::thread::available_parallelism().map_or(2, usize::from).clamp(1, 16)
}

fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The merged root folders, and those at which links of packages may point before `base-files` is there.
fn lay_ground(staging: &Staging) -> Result<()> {
    let root = staging.open_at(b"", OFlags::RDONLY | OFlags::DIRECTORY).map_err(|e| staging.failed("opening", b"", e))?;
    fs::fchmod(&root, Mode::from_raw_mode(0o755)).map_err(|e| staging.failed("setting the mode of", b"", e))?;
    for name in MERGED {
        let below = [b"usr/", name].concat();
        staging.folder(&below)?;
        fs::symlinkat(below.as_slice(), &root, name).map_err(|e| staging.failed("linking", name, e))?;
    }
    for name in [b"run".as_slice(), b"run/lock", b"etc", b"var"] {
        staging.folder(name)?;
    }
    Ok(())
}

/// Where a path of a package really goes; `None` for the merged root folders themselves.
fn merged(path: &[u8]) -> Option<Vec<u8>> {
    let (first, rest) = path.iter().position(|b| *b == b'/').map_or((path, None), |at| (&path[..at], Some(&path[at..])));
    match (MERGED.contains(&first), rest) {
        (true, None) => None,
        (true, Some(_)) => Some([b"usr/", path].concat()),
        (false, _) => Some(path.to_vec()),
    }
}

/// One package on its way into the folder.
struct Extraction<'a> {
    job: &'a Job<'a>,
    shared: &'a Shared,
    package: usize,
    rank: Rank,
    /// Digests of files, where the package brings none.
    sums: Option<Vec<u8>>,
    /// The folder written to last, since most files share it with the one before.
    last: Option<(Vec<u8>, OwnedFd)>,
}

impl Extraction<'_> {
    fn run(&mut self, deb: &Deb) -> Result<Package> {
        let control = deb.control()?;
        self.rank.0 = control.name() != "base-files";
        self.sums = (!control.files.contains_key("md5sums")).then(Vec::new);
        let mut package = Package { list: Vec::new(), conffiles: conffiles(&control), control };
        let (mut data, keeping) = self.data(deb)?;
        while let Some(member) = data.next()? {
            package.list.push(member.path.clone());
            let Some(path) = merged(&member.path) else { continue };
            self.member(&path, member, &mut data, &mut package.conffiles)?;
        }
        keeping.map_or(Ok(()), Keeping::finish)?;
        if let Some(sums) = self.sums.take() {
            // As dpkg does it for a package that brings no digests of its own.
            let file = ControlFile { bytes: sums.into(), mode: 0o644 };
            package.control.files.insert("md5sums".to_owned(), file);
        }
        // dpkg does not list conffiles that the package does not bring.
        package.conffiles.retain(|_, digest| !digest.is_empty());
        Ok(package)
    }

    /// The files part: as another image of this command has left it, or decompressed now.
    fn data<'a>(&self, deb: &'a Deb) -> Result<(FilesPart<'a>, Option<Keeping>)> {
        let Some(kept) = self.job.kept else { return Ok((deb.data()?, None)) };
        let package = &self.job.debs[self.package];
        if let Some(plain) = kept.read(package)? {
            return Ok((Deb::plain(plain), None));
        }
        let keeping = kept.keep(package)?;
        let data = deb.data_through(|packed| keeping.through(packed))?;
        Ok((data, Some(keeping)))
    }

    fn member<R: Read>(
        &mut self,
        path: &[u8],
        member: Member,
        data: &mut Archive<R>,
        conffiles: &mut BTreeMap<Vec<u8>, String>,
    ) -> Result<()> {
        let skipped = skips(self.job.filter, path);
        if member.what == What::Folder {
            // Kept even where skipped: something below may be kept.
            self.remember_folder(path, member);
            return if skipped || path.is_empty() { Ok(()) } else { self.parent(path).map(|_| ()) };
        }
        if skipped {
            return Ok(());
        }
        let bytes: Arc<[u8]> = if let What::File(_) = member.what { data.content()? } else { Arc::from([]) };
        if let Some(digest) = conffiles.get_mut(&member.path) {
            *digest = md5(&bytes);
        } else if let (Some(sums), What::File(_)) = (&mut self.sums, &member.what) {
            sums.extend_from_slice(format!("{}  ", md5(&bytes)).as_bytes());
            sums.extend_from_slice(&member.path);
            sums.push(b'\n');
        }
        if self.claim(path) {
            self.parent(split(path).0)?;
            let Some((_, folder)) = &self.last else { return Ok(()) };
            if self.job.over.is_some() && fs::statat(folder, split(path).1, AtFlags::SYMLINK_NOFOLLOW).is_ok() {
                self.shared.clash.store(true, Ordering::Relaxed);
                let shown = String::from_utf8_lossy(path);
                return Err(Error::new(Kind::Failed, format!("/{shown} is there already")));
            }
            put(self.job.staging, folder, path, &member, &bytes)?;
            let offered = matches!(member.what, What::File(size) if size > 0) && !self.job.filter.excludes(path);
            if offered {
                self.job.sink.offer(ContentId::of(&bytes), &bytes);
            }
            locked(&self.shared.mtimes).insert(path.to_vec(), member.mtime);
        } else {
            locked(&self.shared.contested).push(Contested { path: path.to_vec(), package: self.package, member, bytes });
        }
        Ok(())
    }

    /// Whether the path was free and now belongs to this package.
    fn claim(&self, path: &[u8]) -> bool {
        match locked(&self.shared.owners).entry(path.to_vec()) {
            hash_map::Entry::Vacant(free) => {
                free.insert(self.package);
                true
            }
            hash_map::Entry::Occupied(_) => false,
        }
    }

    /// Opens the folder into `last`.
    fn parent(&mut self, path: &[u8]) -> Result<()> {
        if self.last.as_ref().is_none_or(|(known, _)| known != path) {
            self.last = Some((path.to_vec(), self.job.staging.folder(path)?));
        }
        Ok(())
    }

    fn remember_folder(&self, path: &[u8], member: Member) {
        let mut folders = locked(&self.shared.folders);
        if folders.get(path).is_none_or(|known| self.rank < known.rank) {
            folders.insert(path.to_vec(), Folder { rank: self.rank, member });
        }
    }
}

/// Conffiles without leading `/`, with room for their digests (deb-conffiles(5)).
fn conffiles(control: &Control) -> BTreeMap<Vec<u8>, String> {
    let text = control.files.get("conffiles").map_or(Default::default(), |file| String::from_utf8_lossy(&file.bytes));
    let entry = |line: &str| match line.trim().split_once(" /") {
        // A file that the package has given up: dpkg notes it without a digest.
        Some(("remove-on-upgrade", path)) => Some((path.as_bytes().to_vec(), GIVEN_UP.to_owned())),
        _ => Some((line.trim().strip_prefix('/')?.as_bytes().to_vec(), String::new())),
    };
    text.lines().filter_map(entry).collect()
}

/// Writes one member that is no folder.
fn put(staging: &Staging, folder: &OwnedFd, path: &[u8], member: &Member, bytes: &[u8]) -> Result<()> {
    let name = split(path).1;
    let failed = |doing: &str, e| staging.failed(doing, path, e);
    let owner = (Some(Uid::from_raw(member.uid)), Some(Gid::from_raw(member.gid)));
    let owned_by_root = member.uid == 0 && member.gid == 0;
    match &member.what {
        What::File(_) => {
            let file = staging.write_new(folder, path, bytes)?;
            if !owned_by_root {
                fs::fchown(&file, owner.0, owner.1).map_err(|e| failed("giving away", e))?;
            }
            fs::fchmod(&file, Mode::from_raw_mode(member.mode)).map_err(|e| failed("setting the mode of", e))?;
            for (key, value) in &member.xattrs {
                fs::fsetxattr(&file, key.as_slice(), value, fs::XattrFlags::empty())
                    .map_err(|e| failed("setting an attribute of", e))?;
            }
            fs::futimens(&file, &times(member.mtime)).map_err(|e| failed("setting the time of", e))
        }
        What::HardLink(target) => {
            let target = merged(target).unwrap_or_default();
            let (parent, target_name) = split(&target);
            let beside = staging.folder(parent)?;
            fs::linkat(&beside, target_name, folder, name, AtFlags::empty()).map_err(|e| {
                failed("linking", e).hint(format!("its first name is `{}`: an excluded one?", String::from_utf8_lossy(&target)))
            })
        }
        other => {
            match other {
                What::Link(target) => fs::symlinkat(target.as_slice(), folder, name),
                _ => fs::mknodat(folder, name, FileType::Fifo, Mode::from_raw_mode(member.mode), 0),
            }
            .map_err(|e| failed("making", e))?;
            if !owned_by_root {
                fs::chownat(folder, name, owner.0, owner.1, AtFlags::SYMLINK_NOFOLLOW).map_err(|e| failed("giving away", e))?;
            }
            fs::utimensat(folder, name, &times(member.mtime), AtFlags::SYMLINK_NOFOLLOW)
                .map_err(|e| failed("setting the time of", e))
        }
    }
}

fn md5(bytes: &[u8]) -> String {
    md5::Md5::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn times(mtime: i64) -> Timestamps {
    let time = Timespec { tv_sec: mtime, tv_nsec: 0 };
    Timestamps { last_access: time, last_modification: time }
}

/// Decides on files that several packages have: the one that replaces the others wins.
fn settle(job: &Job<'_>, shared: &Shared, packages: &mut [Package]) -> Result<()> {
    let mut contested: BTreeMap<Vec<u8>, Vec<Contested>> = BTreeMap::new();
    for one in locked(&shared.contested).drain(..) {
        contested.entry(one.path.clone()).or_default().push(one);
    }
    for (path, others) in contested {
        let first = locked(&shared.owners).get(&path).copied().unwrap_or_default();
        let all: BTreeSet<usize> = others.iter().map(|c| c.package).chain([first]).collect();
        let winner = all.iter().copied().try_fold(None, |best, next| match best {
            None => Ok(Some(next)),
            Some(best) => prevailing(packages, best, next, &path).map(Some),
        })?;
        for loser in all.iter().filter(|p| Some(**p) != winner) {
            if let Some(package) = packages.get_mut(*loser) {
                package.list.retain(|listed| merged(listed).as_deref() != Some(path.as_slice()));
                package.conffiles.retain(|conffile, _| merged(conffile).as_deref() != Some(path.as_slice()));
            }
        }
        if let Some(Contested { member, bytes, .. }) = others.into_iter().rfind(|c| Some(c.package) == winner) {
            job.staging.remove(&path)?;
            put(job.staging, &job.staging.folder(split(&path).0)?, &path, &member, &bytes)?;
            locked(&shared.mtimes).insert(path, member.mtime);
        }
    }
    Ok(())
}

/// Which of two packages keeps a path.
fn prevailing(packages: &[Package], a: usize, b: usize, path: &[u8]) -> Result<usize> {
    let (Some(first), Some(second)) = (packages.get(a), packages.get(b)) else { return Ok(a.min(b)) };
    let replaces = |x: &Package, y: &Package| {
        let names = x.control.relations("replaces");
        names.contains(&y.control.name()) || y.control.relations("provides").iter().any(|p| names.contains(p))
    };
    match (replaces(first, second), replaces(second, first)) {
        _ if a == b => Ok(a),
        (true, false) => Ok(a),
        (_, true) => Ok(b),
        (false, false) => Err(Error::new(
            Kind::Failed,
            format!(
                "the packages `{}` and `{}` both bring /{}, and neither replaces the other",
                first.control.name(),
                second.control.name(),
                String::from_utf8_lossy(path)
            ),
        )
        .hint("leave one of them out of `packages.install`, or put it into `packages.without`")),
    }
}

/// Gives folders their owners, modes and times, the deepest first.
fn finish_folders(job: &Job<'_>, shared: &Shared, packages: &[Package]) -> Result<()> {
    let staging = job.staging;
    let folders = std::mem::take(&mut *locked(&shared.folders));
    let owners = locked(&shared.owners);
    let mut mtimes = locked(&shared.mtimes);
    for (path, Folder { rank, member }) in folders.iter().rev() {
        if let Some(package) = owners.get(path).and_then(|p| packages.get(*p)) {
            let other = packages.get(rank.1).map_or("", |p| p.control.name());
            let (path, name) = (String::from_utf8_lossy(path), package.control.name());
            return Err(Error::new(Kind::Failed, format!("/{path} is a folder in the package `{other}` and none in `{name}`")));
        }
        let folder = match staging.open_at(path, OFlags::RDONLY | OFlags::DIRECTORY) {
            Ok(folder) => folder,
            Err(rustix::io::Errno::NOENT) => continue,
            Err(e) => return Err(staging.failed("opening", path, e)),
        };
        let failed = |e| staging.failed("setting the owner, mode and time of", path, e);
        if let Some(mtime) = job.over.and_then(|over| over.get(path)) {
            // It is as the tree below made it; that something came into it shall not show.
            if *mtime != TOUCHED {
                fs::futimens(&folder, &times(*mtime)).map_err(failed)?;
            }
            continue;
        }
        fs::fchown(&folder, Some(Uid::from_raw(member.uid)), Some(Gid::from_raw(member.gid))).map_err(failed)?;
        fs::fchmod(&folder, Mode::from_raw_mode(member.mode)).map_err(failed)?;
        fs::futimens(&folder, &times(member.mtime)).map_err(failed)?;
        mtimes.insert(path.clone(), member.mtime);
    }
    Ok(())
}
