//! The one place that knows the order of the stages.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::thread;

use crate::blob::{Blob, Extents};
use crate::boot::assemble::{self, BootFiles, Parts};
use crate::boot::initrd::{self, Initrd};
use crate::boot::variables;
use crate::budgets::{self, Measured};
use crate::containers::{self, Upstream};
use crate::definition::{self, Definition, Overrides};
use crate::disk::{self, Disk, DiskInput};
use crate::epoch::Epoch;
use crate::error::{Context, Error, Kind, Result};
use crate::export::{self, ExportInput, Format};
use crate::fetch::{self, Network, Source, Store};
use crate::files;
use crate::freshness::{Fingerprint, Freshness};
use crate::furnish::{Furnishing, furnish};
use crate::keys::KeySet;
use crate::lock::Lock;
use crate::lock::settle::{self, Policy};
use crate::programs::Programs;
use crate::progress::Progress;
use crate::publish::{self, Partial, Release};
use crate::record;
use crate::sbom::{self, Inventory};
use crate::seal::{self, ClusterCache, SealInput, Sealed};
use crate::tree::kept::Kept;
use crate::tree::{self, BaseInput, BaseTree, Composed};

/// How the loader behaves: no menu, no editing of the signed command line, the newest version first.
const LOADER_CONF: &str = "timeout 0\neditor no\nauto-firmware no\nsecure-boot-enroll off\n";
/// Threads that compress beside the unpacking.
const COMPRESSORS: usize = 2;

/// What a build is asked for.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// The definition's file.
    pub definition: &'a Path,
    /// What goes before the definition's own words.
    pub overrides: &'a Overrides,
    /// What may happen to the lock.
    pub lock: Policy,
    /// How packages are had.
    pub network: &'a Network,
    /// Folder of the store and the caches.
    pub cache: &'a Path,
    /// What signs.
    pub keys: &'a KeySet,
    /// The release folder; `out/<name>` by default.
    pub output: Option<&'a Path>,
    /// The time in outputs; the lock's by default.
    pub epoch: Option<Epoch>,
    /// Disk formats.
    pub formats: &'a [Format],
    /// Folder of the programs that go into images.
    pub programs: &'a Path,
    /// Build although nothing changed.
    pub force: bool,
    /// What it shares with other images of the same command.
    pub shared: &'a Shared,
    /// The time now, for the validity of repository signatures.
    pub now: Epoch,
}

/// What came of it.
#[derive(Debug, serde::Serialize)]
pub struct Outcome {
    /// Name of the image.
    pub name: String,
    /// The release folder.
    pub output: PathBuf,
    /// Whether anything was built; `false` when nothing had changed.
    pub built: bool,
    /// Bytes of `uki`, `root`, `container_images` and `image` (raw, without holes); empty when nothing was built.
    pub sizes: BTreeMap<&'static str, u64>,
    /// Root hash of the sealed root.
    pub root_hash: Option<String>,
}

/// What the images of one command share. It saves work; nothing in an image depends on it.
#[derive(Debug)]
pub struct Shared {
    kept: Option<Kept>,
    clusters: OnceLock<ClusterCache>,
}

impl Shared {
    /// For so many images, in this cache folder.
    ///
    /// # Errors
    /// When the cache folder cannot be written.
    pub fn new(images: usize, cache: &Path) -> Result<Self> {
        let kept = (images > 1).then(|| Kept::begin(cache)).transpose()?;
        Ok(Self { kept, clusters: OnceLock::new() })
    }

    /// Opened where something is built: where nothing changed, nobody waits for it.
    fn clusters(&self, cache: &Path) -> Result<&ClusterCache> {
        if self.clusters.get().is_none() {
            let opened = ClusterCache::open(&cache.join("clusters"), COMPRESSORS)?;
            return Ok(self.clusters.get_or_init(|| opened));
        }
        self.clusters.get().ok_or_else(|| Error::new(Kind::Failed, "the cluster cache is not open"))
    }
}

/// An image on the way.
#[derive(Debug)]
pub enum Begun {
    /// Nothing had changed.
    UpToDate(Outcome),
    /// Its tree is there: [`finish`] does the rest.
    Tree(Box<Furnished>),
}

/// What [`begin`] has made.
#[derive(Debug)]
pub struct Furnished {
    definition: Definition,
    output: PathBuf,
    programs: Programs,
    store: Store,
    lock: Lock,
    epoch: Epoch,
    fingerprint: Fingerprint,
    freshness: Freshness,
    base: BaseTree,
}

/// The stages up to the tree. Of several images, one at a time is there, beside one in [`finish`]. To be called inside
/// [`tree::namespace::enter`].
///
/// # Errors
/// Those of the stages.
pub fn begin(request: &Request<'_>, progress: &dyn Progress) -> Result<Begun> {
    stage("definition");
    let definition = definition::load_with(request.definition, request.overrides)?;
    let output = request.output.map_or_else(|| Path::new("out").join(&definition.name), Path::to_owned);
    let programs = Programs::read(request.programs, definition.role)?;

    stage("lock");
    let store = Store::open(&request.cache.join("store"))?;
    let lock = lock_of(request, &definition, &store, progress)?;
    let epoch = request.epoch.unwrap_or(lock.epoch);

    let fingerprint = fingerprint(request, &definition, (&lock, epoch), &programs)?;
    let freshness = Freshness::new(&request.cache.join("built"), &output)?;
    if !request.force && freshness.holds(&fingerprint)? {
        let outcome = Outcome { name: definition.name, output, built: false, sizes: BTreeMap::new(), root_hash: None };
        return Ok(Begun::UpToDate(outcome));
    }

    stage("fetch");
    let debs = fetch::packages(&lock, &definition.repositories, &store, request.network, progress)?;
    fetch::registry::images(&lock, &store, request.network, progress)?;

    stage("tree");
    let clusters = request.shared.clusters(request.cache)?;
    let levels = levels(&definition);
    let base = tree::base(&base_input(request, &definition, &lock, (&debs, &levels), epoch), clusters, progress)?;
    Ok(Begun::Tree(Box::new(Furnished { definition, output, programs, store, lock, epoch, fingerprint, freshness, base })))
}

/// The stages behind the tree, into the release folder.
///
/// # Errors
/// Those of the stages; then the release folder is what it was before.
pub fn finish(request: &Request<'_>, furnished: Furnished, progress: &dyn Progress) -> Result<Outcome> {
    let Furnished { mut definition, output, programs, store, lock, epoch, fingerprint, freshness, base } = furnished;
    let clusters = request.shared.clusters(request.cache)?;

    stage("compose");
    let repositories = definition.repositories.clone();
    let (name, version) = (definition.name.clone(), definition.version.clone());
    let inventory = Inventory { name: &name, version: &version, epoch, lock: &lock, repositories: &repositories };
    let Programs { init, root: programs } = programs;
    let furnishing = Furnishing { allowed_signers: &request.keys.allowed_signers, spdx: sbom::spdx(&inventory)?, programs };
    let furniture = furnish(&definition, furnishing);
    let brought = containers::files(&lock, &store)?;
    let container_images = containers::size(&brought);
    definition.files.splice(0..0, furniture.into_iter().chain(brought));
    let composed = tree::compose(&base.tree, &base, &definition, epoch)?;

    stage("seal");
    let (sealed, initrd) = seal_beside_initrd(&composed, &base, (&definition, &init, epoch), (clusters, progress))?;

    stage("boot");
    let boot = boot_files(&composed, &base, &definition, (&initrd, &sealed), request.keys)?;
    let measured = Measured { uki: boot.uki.len() as u64, root: sealed.root.size(), container_images, image: 0 };
    budgets::check(&definition, measured)?;

    stage("disk");
    let disk = lay_out(&definition, &sealed, &boot, epoch)?;

    stage("export");
    let partial = Partial::begin(&output)?;
    let input = ExportInput {
        disk: &disk.extents,
        identity: *sealed.root_hash.as_bytes(),
        formats: request.formats,
        folder: partial.path(),
        name: &definition.name,
    };
    let images = export::export(&input, progress)?;
    let measured = Measured { image: disk.extents.allocated(), ..measured };
    budgets::check(&definition, measured)?;

    stage("publish");
    let manifest = record::manifest(&definition, (&lock, epoch), &sealed, &disk);
    let (artifacts, documents) =
        record::files(&partial, &definition.name, (&images, &boot), variables::enrolment(&request.keys.secure_boot, epoch)?)?;
    publish::publish(partial, Release { manifest, inventory, artifacts, documents, key: &request.keys.release })?;
    freshness.remember(&fingerprint)?;
    Ok(Outcome {
        name: definition.name.clone(),
        output,
        built: true,
        sizes: measured.by_name(),
        root_hash: Some(sealed.root_hash.to_string()),
    })
}

/// Where a build is, for people with `--verbose`.
fn stage(name: &str) {
    tracing::info!("stage: {name}");
}

fn lock_of(request: &Request<'_>, definition: &Definition, store: &Store, progress: &dyn Progress) -> Result<Lock> {
    let source = Source { repositories: &definition.repositories, store, network: request.network, progress };
    let upstream = Upstream { download: &source, network: request.network, store, cache: request.cache };
    let settled = settle::settle((definition, request.definition), request.lock, (&source, &upstream, request.now), progress)?;
    if settled.renewed {
        files::write_atomic(&settled.path, settled.lock.to_text().as_bytes())?;
    }
    Ok(settled.lock)
}

fn fingerprint(
    request: &Request<'_>,
    definition: &Definition,
    (lock, epoch): (&Lock, Epoch),
    programs: &Programs,
) -> Result<Fingerprint> {
    let rest = format!("{} {:?}", epoch.0, request.formats);
    let (lock, keys) = (lock.to_text(), request.keys.public()?);
    let mut inputs = vec![definition.digest.as_bytes(), lock.as_bytes(), &keys, rest.as_bytes()];
    inputs.extend(programs.bytes());
    Fingerprint::of(&inputs)
}

/// Names of the packages that each document of the definition installs, the base first.
fn levels(definition: &Definition) -> Vec<Vec<String>> {
    let mut levels: Vec<(&str, Vec<String>)> = Vec::new();
    for wanted in &definition.install {
        // `images/base.toml:12:5`
        let document = wanted.origin.rsplitn(3, ':').last().unwrap_or_default();
        let names = wanted.relation.split('|').filter_map(|name| name.split([' ', ':', '(']).find(|part| !part.is_empty()));
        match levels.iter_mut().find(|(known, _)| *known == document) {
            Some((_, level)) => level.extend(names.map(str::to_owned)),
            None => levels.push((document, names.map(str::to_owned).collect())),
        }
    }
    levels.into_iter().map(|(_, level)| level).collect()
}

fn base_input<'a>(
    request: &Request<'a>,
    definition: &'a Definition,
    lock: &'a Lock,
    (debs, levels): (&'a [PathBuf], &'a [Vec<String>]),
    epoch: Epoch,
) -> BaseInput<'a> {
    BaseInput {
        lock,
        debs,
        levels,
        ids: &definition.ids,
        exclude: &definition.exclude,
        keep: &definition.keep,
        epoch,
        cache: request.cache,
        kept: request.shared.kept.as_ref(),
    }
}

/// The initrd needs nothing of the sealed root, so both are made at the same time.
fn seal_beside_initrd(
    composed: &Composed,
    base: &BaseTree,
    (definition, init, epoch): (&Definition, &[u8], Epoch),
    (clusters, progress): (&ClusterCache, &dyn Progress),
) -> Result<(Sealed, Initrd)> {
    thread::scope(|scope| {
        let initrd = scope.spawn(|| initrd::initrd(&base.tree, base, &definition.kernel, init, epoch));
        let input = SealInput { epoch, volume: "root".to_owned() };
        let sealed = seal::seal(&composed.tree, &composed.contents(base), &input, clusters, progress);
        let initrd = initrd.join().map_err(|_| Error::new(Kind::Failed, "making the initrd ended in a defect of ingot"))?;
        Ok((sealed?, initrd?))
    })
}

fn boot_files(
    composed: &Composed,
    base: &BaseTree,
    definition: &Definition,
    (initrd, sealed): (&Initrd, &Sealed),
    keys: &KeySet,
) -> Result<BootFiles> {
    let os_release = composed.read(base, "usr/lib/os-release")?;
    let parts = Parts { tree: &base.tree, contents: base, os_release: &os_release, kernel: &definition.kernel, initrd };
    assemble::assemble(parts, &sealed.root_hash, &keys.secure_boot.db)
}

fn lay_out(definition: &Definition, sealed: &Sealed, boot: &BootFiles, epoch: Epoch) -> Result<Disk> {
    let mut verity = Extents::new(sealed.verity.len());
    verity.push(0, sealed.verity.clone());
    let (loader, uki) = (Blob::memory(&boot.loader[..]), Blob::memory(&boot.uki[..]));
    let files = disk::boot_files(&definition.name, &definition.version, &loader, &uki, LOADER_CONF);
    disk::lay_out(&DiskInput {
        name: &definition.name,
        version: &definition.version,
        root: &sealed.root,
        verity: &verity,
        root_hash: sealed.root_hash,
        files: &files,
        shape: &definition.disk,
        room: 0,
        epoch,
    })
    .context("laying out the disk")
}
