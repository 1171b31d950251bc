//! Stage 5: what is inside, for people who must know: SPDX 2.3 and CycloneDX 1.6, both JSON. They
//! are pure functions of the lock, so that the same file is inside the image and beside it.
//!
//! | module | what it writes |
//! |---|---|
//! | [`spdx`](mod@spdx) | SPDX 2.3 |
//! | [`cyclonedx`](mod@cyclonedx) | CycloneDX 1.6 |

pub mod cyclonedx;
pub mod spdx;
#[cfg(test)]
pub(crate) mod tests;

pub use cyclonedx::cyclonedx;
pub use spdx::spdx;
use trust::{Sha256, Sha256Digest};

use crate::containers::{Reference, Version};
use crate::definition::Repository;
use crate::epoch::Epoch;
use crate::error::{Error, Kind, Result};
use crate::fetch::network::encode;
use crate::lock::{Lock, LockedImage, LockedPackage};

/// What a bill of materials is about.
#[derive(Debug, Clone, Copy)]
pub struct Inventory<'a> {
    /// Name of the image.
    pub name: &'a str,
    /// Its version.
    pub version: &'a str,
    /// The time that the documents carry.
    pub epoch: Epoch,
    /// What is inside.
    pub lock: &'a Lock,
    /// Where it came from, by public URL.
    pub repositories: &'a [Repository],
}

impl Inventory<'_> {
    /// A digest that differs whenever the content of a document differs.
    fn digest(&self) -> Sha256Digest {
        let mut hasher = Sha256::new();
        for word in [self.name, self.version, &self.epoch.0.to_string(), &self.lock.architecture] {
            put(&mut hasher, word);
        }
        for package in &self.lock.packages {
            for word in
                [&package.name, &package.version, &package.architecture, &package.repository, &package.suite, &package.path]
            {
                put(&mut hasher, word);
            }
            hasher.update(package.sha256.as_bytes());
        }
        for image in &self.lock.containers.images {
            put(&mut hasher, &image.reference);
            image.documents.iter().for_each(|named| hasher.update(named.sha256.as_bytes()));
        }
        hasher.finish()
    }

    /// The container images by what can be said of each.
    fn containers(&self) -> Result<Vec<Container<'_>>> {
        self.lock.containers.images.iter().map(Container::of).collect()
    }

    /// The package URLs of the container images with their digests.
    ///
    /// # Errors
    /// [`Kind::Document`] when the lock names one that cannot be.
    pub fn container_purls(&self) -> Result<Vec<(String, Sha256Digest)>> {
        let all = self.containers()?;
        Ok(all.iter().map(|container| (container.purl(&self.lock.architecture), container.sha256)).collect())
    }

    fn repository(&self, package: &LockedPackage) -> Result<&Repository> {
        self.repositories.iter().find(|repository| repository.name == package.repository).ok_or_else(|| {
            Error::new(
                Kind::Document,
                format!(
                    "{} comes from the repository `{}`, which the definition does not have",
                    package.name, package.repository
                ),
            )
            .hint("the lock was made from another definition: `ingot lock`")
        })
    }

    /// The public URL of a package.
    ///
    /// # Errors
    /// [`Kind::Document`] when the lock names a repository or path that cannot be.
    pub fn url(&self, package: &LockedPackage) -> Result<String> {
        let repository = self.repository(package)?;
        Ok(format!("{}/{}", repository.url.trim_end_matches('/'), encode(&package.path)?))
    }

    /// The package URL: `pkg:deb/debian/haproxy@3.0.11-1?arch=amd64&distro=trixie`.
    ///
    /// # Errors
    /// As [`Inventory::url`].
    pub fn purl(&self, package: &LockedPackage) -> Result<String> {
        let repository = self.repository(package)?;
        let debian = repository
            .url
            .split_once("://")
            .is_some_and(|(_, rest)| rest.split('/').next().is_some_and(|host| host.ends_with(".debian.org")));
        let vendor = if debian { "debian" } else { repository.name.as_str() };
        // Suites of Debian are named after the distribution; a flat repository has none.
        let distro = match package.suite.split(['-', '/']).next().filter(|_| !package.suite.ends_with('/')) {
            Some(codename) => format!("&distro={}", quote(if debian { codename } else { &package.suite })),
            None => String::new(),
        };
        let [vendor, name] = [vendor, &package.name].map(|word| quote(&word.to_lowercase()));
        Ok(format!("pkg:deb/{vendor}/{name}@{}?arch={}{distro}", quote(&package.version), quote(&package.architecture)))
    }
}

/// A container image of the lock.
#[derive(Debug)]
struct Container<'a> {
    locked: &'a LockedImage,
    reference: Reference,
    /// Digest of what the reference names.
    sha256: Sha256Digest,
}

impl<'a> Container<'a> {
    fn of(locked: &'a LockedImage) -> Result<Self> {
        let wrong = |why: String| Error::new(Kind::Document, why);
        let reference = locked.reference.parse().map_err(wrong)?;
        let named = locked.documents.first().ok_or_else(|| wrong(format!("{} has no document", locked.reference)))?;
        Ok(Self { locked, reference, sha256: named.sha256 })
    }

    /// Registry and repository.
    fn name(&self) -> String {
        format!("{}/{}", self.reference.registry, self.reference.repository)
    }

    /// Its tag, else its digest.
    fn version(&self) -> String {
        match &self.reference.version {
            Version::Tag(tag) => tag.clone(),
            Version::Digest(digest) => format!("sha256:{digest}"),
        }
    }

    /// Where a registry has it (OCI distribution specification 1.1).
    fn url(&self) -> String {
        let Reference { registry, repository, .. } = &self.reference;
        format!("https://{registry}/v2/{repository}/manifests/sha256:{}", self.sha256)
    }

    /// `pkg:oci/pause@sha256:…?arch=amd64&repository_url=registry.k8s.io%2Fpause&tag=3.10`
    fn purl(&self, architecture: &str) -> String {
        let tag = match &self.reference.version {
            Version::Tag(tag) => format!("&tag={}", quote(tag)),
            Version::Digest(_) => String::new(),
        };
        let [name, architecture, from] = [self.reference.name(), architecture, &self.name()].map(quote);
        format!("pkg:oci/{name}@sha256:{}?arch={architecture}&repository_url={from}{tag}", self.sha256)
    }
}

/// Length first, so that no two lists of words look the same.
fn put(hasher: &mut Sha256, word: &str) {
    hasher.update(&(word.len() as u64).to_le_bytes());
    hasher.update(word.as_bytes());
}

/// Percent-encoding of the purl specification: all but letters, digits and `.-_~:`.
fn quote(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b".-_~:".contains(&byte);
    text.bytes().map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

/// Indented JSON in the order of the fields, with a line feed at the end.
pub(crate) fn to_json<T: serde::Serialize>(document: &T) -> Result<Vec<u8>> {
    let mut text = serde_json::to_vec_pretty(document).map_err(|e| Error::new(Kind::Failed, format!("writing JSON: {e}")))?;
    text.push(b'\n');
    Ok(text)
}
