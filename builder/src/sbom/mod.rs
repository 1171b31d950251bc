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

use crate::definition::Repository;
use crate::epoch::Epoch;
use crate::error::{Error, Kind, Result};
use crate::fetch::network::encode;
use crate::lock::{Lock, LockedPackage};

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
        hasher.finish()
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
