//! Stage 3: packages into the store.
//!
//! | module | what it does |
//! |---|---|
//! | [`store`] | files by digest, checked when they enter and when they are used |
//! | [`mirrors`] | which server stands in for a public one |
//! | [`network`] | HTTP: retries, resumed downloads, limits |
//! | [`registries`] | which server stands in for a registry of container images, and who we are there |
//! | [`registry`] | container images: their documents for the lock, their layers for the store |
//! | [`index`] | release files and indexes for the lock |

pub mod index;
pub mod mirrors;
pub mod network;
pub mod registries;
pub mod registry;
pub mod store;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;

pub use index::Source;
pub use mirrors::Mirrors;
pub use network::{Network, Options};
pub use registries::Registries;
pub use store::Store;

use trust::Sha256Digest;

use crate::definition::Repository;
use crate::error::{Error, Kind, Result};
use crate::lock::{Lock, LockedPackage};
use crate::progress::{Progress, Unit};

/// Threads that check digests: hashing is what they do, and the machine has other work too.
const CHECKERS: usize = 2;

/// Makes sure that every package of `lock` is in the store, and gives their paths in the order of
/// the lock. What is there is checked by its digest; what is missing or damaged is fetched.
///
/// # Errors
/// [`Kind::Missing`] when a package cannot be had (offline: all that are missing are named),
/// [`Kind::Untrusted`] when a server has another file than the lock says.
pub fn packages(
    lock: &Lock,
    repositories: &[Repository],
    store: &Store,
    network: &Network,
    progress: &dyn Progress,
) -> Result<Vec<PathBuf>> {
    let distinct: BTreeMap<_, _> = lock.packages.iter().map(|package| (package.sha256, package)).collect();
    let distinct: Vec<&LockedPackage> = distinct.into_values().collect();
    let wanted = missing(("packages", &distinct), store, progress)?;
    if !wanted.is_empty() {
        if network.is_offline() {
            return Err(nothing_offline("packages", &wanted));
        }
        let total = wanted.iter().fold(0u64, |sum, package| sum.saturating_add(package.size));
        let task = progress.begin("fetching packages", total, Unit::Bytes);
        side_by_side(network.jobs(), &wanted, |package| {
            let repository = index::find(repositories, &package.repository)?;
            let url = network.url(repository, &package.path)?;
            let name = label(package);
            let expected = network::Expected { name: &name, size: package.size, sha256: package.sha256 };
            network.download((&url, &network::Plain), expected, store, &*task)
        })?;
    }
    Ok(lock.packages.iter().map(|package| store.path(&package.sha256)).collect())
}

/// Something that the store shall have.
trait Piece: Sync {
    fn size(&self) -> u64;
    fn sha256(&self) -> Sha256Digest;
    /// For messages.
    fn label(&self) -> String;
}

impl Piece for &LockedPackage {
    fn size(&self) -> u64 {
        self.size
    }

    fn sha256(&self) -> Sha256Digest {
        self.sha256
    }

    fn label(&self) -> String {
        label(self)
    }
}

/// Those of `pieces` that the store does not have in a sound state.
fn missing<P: Piece + Clone>((what, pieces): (&str, &[P]), store: &Store, progress: &dyn Progress) -> Result<Vec<P>> {
    let total = pieces.iter().fold(0u64, |sum, piece| sum.saturating_add(piece.size()));
    let task = progress.begin(&format!("checking {what}"), total, Unit::Bytes);
    let sound = side_by_side(CHECKERS, pieces, |piece| {
        let entry = store.check(piece.size(), &piece.sha256())?;
        task.advance(piece.size());
        if let store::Entry::Damaged(found) = &entry {
            let path = store.path(&piece.sha256());
            progress.note(&format!(
                "{} is damaged in the store ({found} in {}) and must be fetched again",
                piece.label(),
                path.display()
            ));
        }
        Ok(matches!(entry, store::Entry::Sound(_)))
    })?;
    Ok(pieces.iter().zip(sound).filter(|(_, sound)| !sound).map(|(piece, _)| piece.clone()).collect())
}

fn label(package: &LockedPackage) -> String {
    format!("{} {} ({})", package.name, package.version, package.architecture)
}

fn nothing_offline<P: Piece>(what: &str, wanted: &[P]) -> Error {
    let mut names: Vec<_> = wanted.iter().map(Piece::label).collect();
    names.sort();
    let (count, names) = (names.len(), names.join(", "));
    Error::new(Kind::Missing, format!("{count} {what} are not in the store, and --offline forbids the network: {names}"))
        .hint("run the build once without --offline, or copy the store of a machine that has them")
}

/// Runs `work` for each item in up to `threads` threads; results in the order of the items. After a
/// failure no new item is begun, and the failure of the earliest item is told.
fn side_by_side<T: Sync, R: Send>(threads: usize, items: &[T], work: impl Fn(&T) -> Result<R> + Sync) -> Result<Vec<R>> {
    let next = AtomicUsize::new(0);
    let failed = AtomicBool::new(false);
    let done = Mutex::new(BTreeMap::new());
    let turn = || {
        while !failed.load(Ordering::Relaxed) {
            let number = next.fetch_add(1, Ordering::Relaxed);
            let Some(item) = items.get(number) else { break };
            let result = work(item);
            failed.fetch_or(result.is_err(), Ordering::Relaxed);
            done.lock().unwrap_or_else(PoisonError::into_inner).insert(number, result);
        }
    };
    thread::scope(|scope| (0..threads.min(items.len())).for_each(|_| drop(scope.spawn(turn))));
    done.into_inner().unwrap_or_else(PoisonError::into_inner).into_values().collect()
}
