//! The tree of a lock in layers: what each document of a definition's `extends` chain brings, over what those below it
//! bring. A configured layer is kept for every image that has the same packages in it: `CACHE/layers/KEY/{root/,layer}`.
//!
//! Which packages are in a layer, and so every byte of it, follows from lock and definition alone: whether it was made
//! for this image or for another does not show. So a command that makes a single image makes its layers in one place,
//! one over the other, and keeps none.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;

use crate::epoch::Epoch;
use crate::error::{Context, Error, Kind, Result};
use crate::files;
use crate::progress::{Progress, Unit};
use crate::tree::cache::{BaseInput, Work, key};
use crate::tree::configure::{Order, configure};
use crate::tree::copy::copy;
use crate::tree::deb::{Control, Deb};
use crate::tree::glob::Filter;
use crate::tree::staging::Staging;
use crate::tree::unpack::{Job, Package, TOUCHED, Unpacked, unpack};
use crate::tree::{ContentSink, database};

/// Modification times the packages gave, by path.
pub type Times = BTreeMap<Vec<u8>, i64>;

/// What makes layers.
pub struct Layers<'a> {
    /// Packages, and which document brings them.
    pub input: &'a BaseInput<'a>,
    /// What the sealed root will not hold.
    pub filter: &'a Filter,
    /// Who may compress files while others are still unpacked.
    pub sink: &'a dyn ContentSink,
    /// Who is told.
    pub progress: &'a dyn Progress,
}

impl std::fmt::Debug for Layers<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Layers").field("input", &self.input).finish_non_exhaustive()
    }
}

/// A kept layer.
struct Layer {
    root: Staging,
    times: Times,
    digest: String,
}

impl Layers<'_> {
    /// Unpacks and configures all packages in `work/root`.
    ///
    /// # Errors
    /// When a package is broken, a script fails, or the disk refuses.
    pub fn make(&self, work: &Path) -> Result<Times> {
        let layers = self.split()?;
        let (own, below) = layers.split_last().map_or((&[][..], &[][..]), |(own, below)| (own.as_slice(), below));
        if let Some(times) = self.put(own, below, Some(self.input.epoch), work)? {
            return Ok(times);
        }
        tracing::info!("the packages get into each other's way: no layers");
        files::remove(&work.join("root"))?;
        let all: Vec<usize> = (0..self.input.debs.len()).collect();
        let clash = || Error::new(Kind::Failed, "a new folder holds files already");
        self.put(&all, &[], Some(self.input.epoch), work)?.ok_or_else(clash)
    }

    /// The packages of each layer, the lowest first: their places in the lock.
    fn split(&self) -> Result<Vec<Vec<usize>>> {
        let all = 0..self.input.debs.len();
        let Some((_, lower)) = self.input.levels.split_last().filter(|(_, lower)| !lower.is_empty()) else {
            return Ok(vec![all.collect()]);
        };
        let control = |path: &PathBuf| Deb::open(path)?.control().context(format!("reading {}", path.display()));
        let controls = self.input.debs.iter().map(control).collect::<Result<Vec<_>>>()?;
        Ok(split(&controls, lower))
    }

    /// `own` over the layers `below`, in `work/root`; `None` where they get into each other's way.
    fn put(&self, own: &[usize], below: &[Vec<usize>], epoch: Option<Epoch>, work: &Path) -> Result<Option<Times>> {
        let staging = Staging::open(&work.join("root"))?;
        let under = match below.split_last() {
            None => None,
            Some((top, rest)) => match self.layer((top, rest), &staging, work)? {
                None => return Ok(None),
                under => under,
            },
        };
        if own.is_empty() {
            return Ok(Some(under.unwrap_or_default()));
        }
        let Some(Unpacked { packages, mtimes }) = self.unpack(own, &staging, under.as_ref())? else { return Ok(None) };
        self.check_names(own, &packages)?;
        let mut triggers = Vec::new();
        if under.is_some() {
            if database::redirects(&staging, &packages)? {
                return Ok(None);
            }
            triggers = database::set_off(&staging, &packages)?;
        }
        database::write(&staging, &packages).context("writing dpkg's database")?;
        {
            let _task = self.progress.begin("configuring", 0, Unit::Items);
            // A layer is older than the images that have it: its time is that of its newest file.
            let newest = mtimes.values().copied().max().and_then(|newest| u64::try_from(newest).ok()).unwrap_or_default();
            configure(&staging, (&packages, triggers), self.filter, epoch.unwrap_or(Epoch(newest)), work)?;
        }
        let mut times = under.unwrap_or_default();
        times.extend(mtimes);
        Ok(Some(times))
    }

    fn unpack(&self, own: &[usize], staging: &Staging, over: Option<&Times>) -> Result<Option<Unpacked>> {
        let debs: Vec<PathBuf> = own.iter().filter_map(|at| self.input.debs.get(*at).cloned()).collect();
        let total = own.iter().filter_map(|at| self.input.lock.packages.get(*at)).map(|package| package.size).sum();
        let task = self.progress.begin("unpacking", total, Unit::Bytes);
        let (filter, sink, kept) = (self.filter, self.sink, self.input.kept);
        unpack(&Job { staging, debs: &debs, filter, sink, task: task.as_ref(), kept, over })
    }

    /// A package file must be what the lock says it is, or the list of packages would lie.
    fn check_names(&self, own: &[usize], packages: &[Package]) -> Result<()> {
        for (at, package) in own.iter().zip(packages) {
            let Some(locked) = self.input.lock.packages.get(*at) else { continue };
            let found = (package.control.name(), package.control.field("version"));
            if found != (locked.name.as_str(), locked.version.as_str()) {
                let expected = format!("`{}` {}", locked.name, locked.version);
                return Err(Error::new(
                    Kind::Untrusted,
                    format!("the package file of {expected} holds `{}` {}", found.0, found.1),
                ));
            }
        }
        Ok(())
    }

    /// The layer in the empty `to`, which is `work/root`: a copy of the kept one, or made, and kept where others may want it.
    fn layer(&self, (own, below): (&[usize], &[Vec<usize>]), to: &Staging, work: &Path) -> Result<Option<Times>> {
        let entry = self.input.cache.join("layers").join(key(self.input, &[below, &[own.to_vec()]].concat(), None));
        if let Some(layer) = Layer::load(&entry)? {
            if copy(&layer.root, Some(to))?.to_string() == layer.digest {
                return Ok(Some(layer.times));
            }
            self.progress.note(&format!("the layer {} in the cache is damaged: making it again", entry.display()));
            files::remove(&entry)?;
            to.names(b"")?.iter().try_for_each(|name| to.remove(name))?;
        }
        if self.input.kept.is_none() {
            let made = self.put(own, below, None, work)?;
            return made.map(|times| settled(to, &times)).transpose();
        }
        let own_work = Work::begin(self.input.cache)?;
        let made = self.put(own, below, None, &own_work.folder)?;
        let mut kept = None;
        if let Some(times) = made {
            let root = Staging::open(&own_work.folder.join("root"))?;
            let digest = copy(&root, Some(to))?.to_string();
            let layer = Layer { times: settled(&root, &times)?, root, digest };
            layer.keep(&own_work.folder, &entry)?;
            kept = Some(layer.times);
        }
        own_work.end()?;
        Ok(kept)
    }
}

/// What scripts have touched since has the time of an image, whatever the packages said.
fn settled(root: &Staging, times: &Times) -> Result<Times> {
    let mut settled = Times::new();
    for (path, time) in times {
        let found = root.open_at(path, OFlags::PATH | OFlags::NOFOLLOW).and_then(rustix::fs::fstat);
        let untouched = found.is_ok_and(|stat| stat.st_mtime == *time && stat.st_mtime_nsec == 0);
        settled.insert(path.clone(), if untouched { *time } else { TOUCHED });
    }
    Ok(settled)
}

impl Layer {
    /// The layer kept at `entry`.
    fn load(entry: &Path) -> Result<Option<Self>> {
        let Some(bytes) = files::read_if_there(&entry.join("layer"))? else { return Ok(None) };
        let root = entry.join("root");
        let mut records = bytes.split(|b| *b == 0);
        let digest = records.next().and_then(|digest| std::str::from_utf8(digest).ok()).unwrap_or_default().to_owned();
        let record = |record: &[u8]| {
            let at = record.iter().position(|b| *b == b' ')?;
            let (time, path) = record.split_at_checked(at)?;
            Some((path.get(1..)?.to_vec(), std::str::from_utf8(time).ok()?.parse().ok()?))
        };
        let times = records.filter_map(record).collect();
        Ok(root.is_dir().then(|| Staging::open(&root)).transpose()?.map(|root| Self { root, times, digest }))
    }

    fn keep(&self, work: &Path, entry: &Path) -> Result<()> {
        let mut bytes = self.digest.as_bytes().to_vec();
        for (path, time) in &self.times {
            bytes.extend_from_slice(format!("\0{time} ").as_bytes());
            bytes.extend_from_slice(path);
        }
        bytes.push(0);
        for leftover in ["plan.json", "configure.log"] {
            files::remove(&work.join(leftover))?;
        }
        files::write_atomic(&work.join("layer"), &bytes)?;
        files::make_folder(entry.parent().unwrap_or(entry))?;
        match files::rename(work, entry) {
            // Another build may have been faster: then its layer is the same.
            Err(_) if entry.join("layer").is_file() => Ok(()),
            renamed => renamed,
        }
    }
}

/// Each package goes into the lowest layer that needs it; those that no document below the last needs are the last.
fn split(controls: &[Control], lower: &[Vec<String>]) -> Vec<Vec<usize>> {
    let order = Order::new(controls.iter());
    let essential = controls.iter().filter(|control| control.field("essential") == "yes").map(Control::name);
    let mut names: Vec<&str> = essential.collect();
    let mut taken = BTreeSet::new();
    let mut layers = Vec::new();
    for level in lower {
        names.extend(level.iter().map(String::as_str));
        let needed: BTreeSet<&str> = order.behind(&names, &["pre-depends", "depends"]).into_iter().map(Control::name).collect();
        let of = |(at, control): (usize, &Control)| needed.contains(control.name()).then_some(at);
        let own: Vec<usize> = controls.iter().enumerate().filter_map(of).filter(|at| taken.insert(*at)).collect();
        if !own.is_empty() {
            layers.push(own);
        }
    }
    layers.push((0..controls.len()).filter(|at| !taken.contains(at)).collect());
    layers
}

#[cfg(test)]
mod tests {
    use super::*;

    fn control(name: &str, rest: &str) -> Control {
        Control::parse(&format!("Package: {name}\nVersion: 1\nArchitecture: all\n{rest}"), BTreeMap::new()).unwrap()
    }

    #[test]
    fn packages_lie_as_low_as_they_are_needed() {
        let controls = [
            control("dpkg", "Essential: yes\nDepends: libc\n"),
            control("haproxy", "Depends: libc, lua\n"),
            control("init", "Depends: virtual | missing\n"),
            control("libc", ""),
            control("lua", "Provides: other\n"),
            control("provider", "Provides: virtual\n"),
            control("tool", "Depends: other\n"),
        ];
        let levels = |names: &[&[&str]]| -> Vec<Vec<String>> {
            names.iter().map(|level| level.iter().map(|name| (*name).to_owned()).collect()).collect()
        };
        assert_eq!(split(&controls, &levels(&[&["init"]])), [vec![0, 2, 3, 5], vec![1, 4, 6]]);
        assert_eq!(split(&controls, &levels(&[&["init"], &["tool", "gone"]])), [vec![0, 2, 3, 5], vec![4, 6], vec![1]]);
        // A document that brings nothing of its own, and an image that has no more than its base.
        assert_eq!(split(&controls, &levels(&[&[], &["gone"]])), [vec![0, 3], vec![1, 2, 4, 5, 6]]);
        let all: Vec<_> = controls.iter().map(Control::name).collect();
        assert_eq!(split(&controls, &levels(&[&all])), [vec![0, 1, 2, 3, 4, 5, 6], vec![]]);
    }

    #[test]
    fn a_kept_layer_is_read_back() {
        let cache = tempfile::tempdir().unwrap();
        let work = cache.path().join("work");
        let root = Staging::open(&work.join("root")).unwrap();
        root.write(b"a", b"1", 0o644).unwrap();
        let times = [(b"a".to_vec(), 0), (b"gone".to_vec(), 5)].into();
        let layer = Layer { times: settled(&root, &times).unwrap(), root, digest: "digest".to_owned() };
        assert_eq!(layer.times.values().collect::<Vec<_>>(), [&TOUCHED, &TOUCHED]);
        let entry = cache.path().join("layers/key");
        layer.keep(&work, &entry).unwrap();
        let read = Layer::load(&entry).unwrap().unwrap();
        assert_eq!((read.digest.as_str(), &read.times), ("digest", &layer.times));
        assert!(Layer::load(&cache.path().join("layers/other")).unwrap().is_none());
    }
}
