//! Gets the indexes of a definition's repositories: signed release first, then only what its
//! digests vouch for.

use std::collections::BTreeMap;
use std::io::Read;

use trust::Sha256Digest;

use super::LockedRelease;
use super::index::is_safe_path;
use super::openpgp::Keyring;
use super::release::Release;
use crate::definition::{Definition, Repository};
use crate::epoch::Epoch;
use crate::error::{Context, Error, Kind, Result};

/// Largest InRelease taken, in bytes (Debian's are below 200 KB).
const RELEASE_LIMIT: u64 = 8 << 20;
/// Largest index taken, in bytes, packed and unpacked (Debian main is 57 MB).
const INDEX_LIMIT: u64 = 1 << 30;

/// Gets files of repositories, from the network or from a store. No other access is made.
pub trait Download {
    /// The file at `path` below the repository of that name, at most `limit` bytes.
    ///
    /// # Errors
    /// Where it cannot be had.
    fn get(&self, repository: &str, path: &str, limit: u64) -> Result<Vec<u8>>;

    /// The file of that size in bytes and that digest, from `path` or from a store.
    ///
    /// # Errors
    /// Where it cannot be had, or is another one.
    fn get_verified(&self, repository: &str, path: &str, size: u64, sha256: Sha256Digest) -> Result<Vec<u8>>;
}

/// The verified indexes of all repositories of a definition.
#[derive(Debug, Clone, Default)]
pub struct Indexes {
    /// The releases, in the order of the definition.
    pub releases: Vec<LockedRelease>,
    /// The indexes, in the order of the definition; [`resolve`](super::resolve) looks only here.
    pub indexes: Vec<Index>,
}

/// One `Packages` file.
#[derive(Debug, Clone)]
pub struct Index {
    /// [`Repository::name`].
    pub repository: String,
    /// Suite as the definition writes it.
    pub suite: String,
    /// Further names of the release by which pins may speak of it: suite and codename.
    pub aliases: Vec<String>,
    /// apt priority of its packages where no pin says otherwise.
    pub priority: i32,
    /// Path below the repository, for messages.
    pub path: String,
    /// The text.
    pub text: String,
}

/// Gets and verifies the indexes of every repository, suite and component.
///
/// # Errors
/// [`Kind::Untrusted`] for signatures, times and digests; [`Kind::Document`] for what a release or
/// an index lacks; the download's own.
pub fn indexes(definition: &Definition, download: &dyn Download, now: Epoch) -> Result<Indexes> {
    let mut all = Indexes::default();
    for repository in &definition.repositories {
        let keyring = Keyring::of(repository)?;
        for suite in &repository.suites {
            let source = Source { repository, suite, download };
            let doing = || format!("reading the suite `{suite}` of the repository `{}`", repository.name);
            let (release, locked) = source.release(&keyring, now).context(doing())?;
            for stem in source.stems(&release, &definition.architecture).context(doing())? {
                all.indexes.push(source.index(&release, &stem).context(doing())?);
            }
            all.releases.push(locked);
        }
    }
    Ok(all)
}

struct Source<'a> {
    repository: &'a Repository,
    suite: &'a str,
    download: &'a dyn Download,
}

impl Source<'_> {
    fn release(&self, keyring: &Keyring, now: Epoch) -> Result<(Release, LockedRelease)> {
        let name = &self.repository.name;
        let bytes = self.download.get(name, &format!("{}InRelease", self.folder()), RELEASE_LIMIT)?;
        let signed = keyring.verify(&bytes, now)?;
        let release = Release::parse(&signed.text)?;
        release.check(self.suite, now)?;
        let locked = LockedRelease {
            repository: name.clone(),
            suite: self.suite.to_owned(),
            date: release.date,
            sha256: Sha256Digest::of(&bytes),
            signed_by: signed.fingerprint,
        };
        Ok((release, locked))
    }

    /// Where the release lies below the repository, with a slash at the end.
    fn folder(&self) -> String {
        match self.suite.strip_suffix('/') {
            Some("" | ".") => String::new(),
            Some(flat) => format!("{}/", flat.trim_start_matches("./")),
            None => format!("dists/{}/", self.suite),
        }
    }

    /// The indexes to get, without the suffix of compression.
    fn stems(&self, release: &Release, architecture: &str) -> Result<Vec<String>> {
        if self.suite.ends_with('/') {
            return Ok(vec!["Packages".to_owned()]);
        }
        if !release.architectures.is_empty() && !release.architectures.iter().any(|a| a == architecture || a == "all") {
            let found = release.architectures.join(", ");
            return Err(Error::new(Kind::Document, format!("it has no packages for {architecture}, only for {found}")));
        }
        let mut stems = Vec::new();
        for component in &self.repository.components {
            let architectures = [Some(architecture), release.separate_all.then_some("all")];
            let mut found: Vec<String> = architectures
                .into_iter()
                .flatten()
                .map(|a| format!("{component}/binary-{a}/Packages"))
                .filter(|stem| pick(release, stem).is_some())
                .collect();
            if found.is_empty() {
                let there: BTreeMap<&str, ()> =
                    release.files.keys().filter_map(|path| Some((path.split_once("/binary-")?.0, ()))).collect();
                let there: Vec<&str> = there.into_keys().collect();
                return Err(Error::new(Kind::Document, format!("there is no component `{component}` for {architecture}"))
                    .hint(format!("the release has these: {}", there.join(", "))));
            }
            stems.append(&mut found);
        }
        Ok(stems)
    }

    fn index(&self, release: &Release, stem: &str) -> Result<Index> {
        let name = &self.repository.name;
        let (path, packing, size, sha256) = pick(release, stem).ok_or_else(|| {
            Error::new(Kind::Document, format!("the release lists no `{stem}` that can be read"))
                .hint("expected one packed with xz or gzip, or a plain one, in the SHA256 section")
        })?;
        if size > INDEX_LIMIT || !is_safe_path(&path) {
            return Err(Error::new(Kind::Document, format!("the index `{path}` of {size} bytes is not acceptable")));
        }
        let folder = self.folder();
        let plain = format!("{folder}{path}");
        let packed = if release.by_hash {
            let place = path.rsplit_once('/').map_or(String::new(), |(place, _)| format!("{place}/"));
            let first = self.download.get_verified(name, &format!("{folder}{place}by-hash/SHA256/{sha256}"), size, sha256);
            // Partial mirrors leave by-hash out; the digest holds either way.
            first.or_else(|error| self.download.get_verified(name, &plain, size, sha256).map_err(|_| error))?
        } else {
            self.download.get_verified(name, &plain, size, sha256)?
        };
        let limit = release.files.get(stem).map_or(INDEX_LIMIT, |(size, _)| *size);
        let text = unpack(&packed, packing, limit.min(INDEX_LIMIT)).context(format!("unpacking `{plain}`"))?;
        Ok(Index {
            repository: name.clone(),
            suite: self.suite.to_owned(),
            aliases: vec![release.suite.clone(), release.codename.clone()],
            priority: priority(self.repository.priority, release),
            path: plain,
            text,
        })
    }
}

#[derive(Debug, Clone, Copy)]
enum Packing {
    Xz,
    Gzip,
    Plain,
}

fn pick(release: &Release, stem: &str) -> Option<(String, Packing, u64, Sha256Digest)> {
    [(".xz", Packing::Xz), (".gz", Packing::Gzip), ("", Packing::Plain)].into_iter().find_map(|(suffix, packing)| {
        let path = format!("{stem}{suffix}");
        // Some flat repositories write `./Packages`.
        let found = release.files.get(&path).or_else(|| release.files.get(&format!("./{path}")));
        found.map(|(size, sha256)| (path, packing, *size, *sha256))
    })
}

/// A release may ask not to be used by itself (backports, experimental); apt_preferences(5).
fn priority(wanted: i32, release: &Release) -> i32 {
    match (wanted, release.not_automatic, release.but_automatic_upgrades) {
        (500, true, true) => 100,
        (500, true, false) => 1,
        _ => wanted,
    }
}

fn unpack(packed: &[u8], packing: Packing, limit: u64) -> Result<String> {
    let reader: Box<dyn Read + '_> = match packing {
        Packing::Xz => Box::new(liblzma::read::XzDecoder::new_multi_decoder(packed)),
        Packing::Gzip => Box::new(flate2::read::MultiGzDecoder::new(packed)),
        Packing::Plain => Box::new(packed),
    };
    let mut text = Vec::with_capacity(usize::try_from(limit).unwrap_or(0).min(128 << 20));
    let read = reader.take(limit.saturating_add(1)).read_to_end(&mut text);
    let read = read.map_err(|e| Error::new(Kind::Document, format!("it is broken: {e}")))?;
    if read as u64 > limit {
        return Err(Error::new(Kind::Document, format!("it grows beyond {limit} bytes")));
    }
    String::from_utf8(text).map_err(|_| Error::new(Kind::Document, "it is no UTF-8 text"))
}

#[cfg(test)]
#[path = "obtain_tests.rs"]
mod tests;
