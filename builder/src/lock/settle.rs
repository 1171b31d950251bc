//! Taking the lock that is there, or making another.

use std::path::{Path, PathBuf};

use crate::definition::Definition;
use crate::epoch::Epoch;
use crate::error::{Error, Kind, Result};
use crate::files;
use crate::lock::{Change, Choose, Containers, Download, Lock, changes, indexes, resolve};
use crate::progress::{Progress, Unit};

/// What may happen to a lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Policy {
    /// It must be there and fit the definition.
    Locked,
    /// Made or renewed where it is missing or stale.
    WhereNeeded,
    /// Made anew from the repositories as they are now.
    Update,
}

/// The lock of a definition, and what was done for it.
#[derive(Debug)]
pub struct Settled {
    /// The lock.
    pub lock: Lock,
    /// Where it stands.
    pub path: PathBuf,
    /// What differs from the lock that was there; everything where there was none.
    pub changes: Vec<Change>,
    /// Whether it was made now. The caller decides whether it is written.
    pub renewed: bool,
}

/// The lock file of a definition stands beside it: `images/load-balancer.lock`.
pub fn path(definition: &Path) -> PathBuf {
    definition.with_extension("lock")
}

/// Takes or makes the lock of the definition at `at`; writes nothing.
///
/// # Errors
/// [`Kind::Document`] for a missing or stale lock under [`Policy::Locked`], and for a damaged one;
/// those of downloading and resolving.
pub fn settle(
    (definition, at): (&Definition, &Path),
    policy: Policy,
    (download, choose, now): (&dyn Download, &dyn Choose, Epoch),
    progress: &dyn Progress,
) -> Result<Settled> {
    let path = path(at);
    let old = match files::read_if_there(&path)? {
        Some(bytes) => Some(read(&path, &bytes)?),
        None => None,
    };
    let reason = match &old {
        None => Some(format!("there is no lock {}", path.display())),
        Some(lock) if lock.resolution != definition.resolution || lock.architecture != definition.architecture => Some(format!(
            "the lock {} is stale: repositories, packages, pins or container images of the definition have changed since",
            path.display()
        )),
        Some(_) => None,
    };
    if let (Policy::Locked, Some(reason)) = (policy, &reason) {
        return Err(Error::new(Kind::Document, reason)
            .hint(format!("`ingot lock {}` makes it; review and keep it with the definition", at.display())));
    }
    match (old, reason) {
        (Some(lock), None) if policy != Policy::Update => Ok(Settled { lock, path, changes: Vec::new(), renewed: false }),
        (old, reason) => {
            if let Some(reason) = reason {
                progress.note(&format!("{reason}: choosing packages"));
            }
            let lock = renew(definition, (download, choose, now), progress)?;
            let before = old.unwrap_or_else(|| Lock { packages: Vec::new(), containers: Containers::default(), ..lock.clone() });
            let changes = changes(&before, &lock);
            Ok(Settled { lock, path, changes, renewed: true })
        }
    }
}

fn read(path: &Path, bytes: &[u8]) -> Result<Lock> {
    let text = std::str::from_utf8(bytes).map_err(|e| {
        Error::new(
            Kind::Document,
            format!("{}: expected UTF-8, found another byte at offset {}", path.display(), e.valid_up_to()),
        )
        .hint("`ingot lock --update` makes it anew")
    })?;
    Lock::parse(&path.display().to_string(), text)
}

fn renew(
    definition: &Definition,
    (download, choose, now): (&dyn Download, &dyn Choose, Epoch),
    progress: &dyn Progress,
) -> Result<Lock> {
    let task = progress.begin("reading the repositories' indexes", 0, Unit::Items);
    let indexes = indexes(definition, download, now)?;
    drop(task);
    let task = progress.begin("choosing packages", 0, Unit::Items);
    let lock = resolve(definition, &indexes)?;
    drop(task);
    let _task = progress.begin("choosing container images", 0, Unit::Items);
    let containers = choose.choose(definition, &lock.packages)?;
    Ok(Lock { containers, ..lock })
}
