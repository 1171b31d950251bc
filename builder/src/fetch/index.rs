//! Small files of repositories, for the lock: release files (judged by their signature, remembered
//! for `--offline`) and indexes (judged by their digest, kept in the store).

use trust::Sha256Digest;

use super::network::{Expected, Network, Plain};
use super::store::Store;
use crate::definition::Repository;
use crate::error::{Error, Kind, Result};
use crate::files;
use crate::lock::Download;
use crate::progress::{Progress, Unit};

/// The repositories of a definition, as files by path.
#[derive(Clone, Copy)]
pub struct Source<'a> {
    /// The repositories by which names are looked up.
    pub repositories: &'a [Repository],
    /// Where verified files are kept and others remembered.
    pub store: &'a Store,
    /// How to get them.
    pub network: &'a Network,
    /// Who hears about it.
    pub progress: &'a dyn Progress,
}

impl Download for Source<'_> {
    /// A file whose content the caller judges itself, `limit` bytes at most. Offline it is the one
    /// that came the last time.
    ///
    /// # Errors
    /// [`Kind::Missing`] when it cannot be had, [`Kind::Untrusted`] when it is longer than `limit`.
    fn get(&self, repository: &str, path: &str, limit: u64) -> Result<Vec<u8>> {
        let repository = find(self.repositories, repository)?;
        let url = self.network.url(repository, path)?;
        // By the public URL, so that a mirror leaves no trace.
        let remembered = self.store.remembered(&format!("{}/{path}", repository.url.trim_end_matches('/')));
        if !self.network.is_offline() {
            let bytes = self.network.small((&url, &Plain), limit)?;
            files::write_atomic(&remembered, &bytes)?;
            return Ok(bytes);
        }
        let bytes = files::read_if_there(&remembered)?.ok_or_else(|| {
            Error::new(
                Kind::Missing,
                format!("{path} of `{}` was never fetched, and --offline forbids the network", repository.name),
            )
            .hint("run `ingot lock` once without --offline")
        })?;
        if bytes.len() as u64 > limit {
            return Err(Error::new(Kind::Untrusted, format!("{path} of `{}`: expected {limit} bytes at most", repository.name)));
        }
        Ok(bytes)
    }

    /// A file of known size and digest, from the store or else from the network.
    ///
    /// # Errors
    /// [`Kind::Missing`] when it cannot be had, [`Kind::Untrusted`] when the server has another one.
    fn get_verified(&self, repository: &str, path: &str, size: u64, sha256: Sha256Digest) -> Result<Vec<u8>> {
        let repository = find(self.repositories, repository)?;
        if let Some(bytes) = self.store.read(size, &sha256)? {
            return Ok(bytes);
        }
        let url = self.network.url(repository, path)?;
        let name = format!("{path} of `{}`", repository.name);
        let task = self.progress.begin(&name, size, Unit::Bytes);
        self.network.download((&url, &Plain), Expected { name: &name, size, sha256 }, self.store, &*task)?;
        self.store.read(size, &sha256)?.ok_or_else(|| {
            Error::new(Kind::Failed, format!("{} is no longer what was just put there", self.store.path(&sha256).display()))
        })
    }
}

impl std::fmt::Debug for Source<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Source").field("store", self.store).finish_non_exhaustive()
    }
}

/// The repository of that name.
pub(super) fn find<'a>(repositories: &'a [Repository], name: &str) -> Result<&'a Repository> {
    repositories.iter().find(|repository| repository.name == name).ok_or_else(|| {
        let known: Vec<_> = repositories.iter().map(|repository| repository.name.as_str()).collect();
        Error::new(Kind::Document, format!("expected a repository of the definition ({}), found `{name}`", known.join(", ")))
            .hint("the lock was made from another definition: `ingot lock`")
    })
}
