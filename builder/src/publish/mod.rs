//! Stage 10: the release folder.
//!
//! | module | what it does |
//! |---|---|
//! | [`folder`] | the folder appears in one step or not at all |
//! | [`provenance`](mod@provenance) | how it was made (in-toto, SLSA) |
//!
//! | file | what |
//! |---|---|
//! | `NAME.raw`, `.qcow2`, `.vhdx`, `NAME.efi` | what the stages before have written: the artifacts |
//! | `NAME.spdx.json`, `NAME.cyclonedx.json` | what is inside |
//! | `provenance.json` | how it was made |
//! | `secure-boot/` | certificates and variables for the firmware |
//! | `manifest.json`, `.sig` | all that is known about the release, signed |
//! | `SHA256SUMS`, `.sig` | for people with `sha256sum -c` and `ssh-keygen -Y verify`, signed |

pub mod folder;
pub mod provenance;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::fmt::Write;
use std::fs::OpenOptions;
use std::io;
use std::path::PathBuf;

pub use folder::Partial;
pub use provenance::provenance;
use trust::{Manifest, Namespace, Sha256, Sha256Digest, manifest};

use crate::error::{Error, Kind, Result};
use crate::files;
use crate::keys::SigningKey;
use crate::sbom::{Inventory, cyclonedx, spdx};

/// A file of a release: name, size and digest.
pub type Artifact = manifest::File;

/// All that makes a release, besides the folder with its images.
#[derive(Debug)]
pub struct Release<'a> {
    /// What the release is; its `files` are filled in here.
    pub manifest: Manifest,
    /// What is inside.
    pub inventory: Inventory<'a>,
    /// Files that are in the partial folder already.
    pub artifacts: Vec<Artifact>,
    /// Further files as bytes: `secure-boot/db.auth`.
    pub documents: Vec<(String, Vec<u8>)>,
    /// Signs.
    pub key: &'a SigningKey,
}

impl Partial {
    /// Size and digest of a file that is in the folder; for those whose writer did not hash them.
    ///
    /// # Errors
    /// Failures of reading.
    pub fn artifact(&self, name: &str) -> Result<Artifact> {
        let path = self.path().join(name);
        let mut hasher = Sha256::new();
        let size = io::copy(&mut files::open(&path)?, &mut hasher).map_err(|e| Error::io("reading", &path, &e))?;
        Ok(Artifact { name: name.to_owned(), size, sha256: hasher.finish() })
    }
}

/// Completes the folder (bills of materials, provenance, manifest, sums, signatures) and lets it
/// take its place. After an error nothing of it stays.
///
/// # Errors
/// [`Kind::Failed`] when the folder holds other files than `release` says; the key's and the file system's.
pub fn publish(partial: Partial, release: Release<'_>) -> Result<PathBuf> {
    let Release { mut manifest, inventory, artifacts, mut documents, key } = release;
    compare(&partial, &artifacts)?;
    documents.push((format!("{}.spdx.json", manifest.name), spdx(&inventory)?));
    documents.push((format!("{}.cyclonedx.json", manifest.name), cyclonedx(&inventory)?));
    documents.push(("provenance.json".to_owned(), provenance(&manifest, &inventory, &artifacts)?));
    manifest.files = artifacts;
    manifest.files.extend(documents.iter().map(|(name, bytes)| describe(name, bytes)));
    manifest.files.sort_by(|one, other| one.name.cmp(&other.name));
    // This refuses names that lead elsewhere, so it comes before the first one is used.
    let text = manifest.to_text().map_err(|e| Error::new(Kind::Failed, format!("writing manifest.json: {e}")))?;
    for (name, bytes) in &documents {
        write(&partial, name, bytes)?;
    }
    let mut files = manifest.files;
    files.push(signed(&partial, "manifest.json", text.as_bytes(), key)?);
    signed(&partial, "SHA256SUMS", sums(&mut files).as_bytes(), key)?;
    partial.publish()
}

/// The folder holds exactly the artifacts, with their sizes.
fn compare(partial: &Partial, artifacts: &[Artifact]) -> Result<()> {
    let there: BTreeSet<_> = folder::list(partial.path())?.into_iter().collect();
    let said: BTreeSet<_> = artifacts.iter().map(|artifact| artifact.name.clone()).collect();
    if let Some(name) = there.symmetric_difference(&said).next() {
        let (expected, found) = if there.contains(name) { ("no", "a") } else { ("a", "no") };
        return Err(Error::new(
            Kind::Failed,
            format!("expected {expected} file `{name}` in the release, found {found} such file"),
        ));
    }
    for artifact in artifacts {
        let path = partial.path().join(&artifact.name);
        let size = files::open(&path)?.metadata().map_err(|e| Error::io("reading", &path, &e))?.len();
        if size != artifact.size {
            return Err(Error::new(
                Kind::Failed,
                format!("expected {} bytes in {}, found {size}", artifact.size, path.display()),
            ));
        }
    }
    Ok(())
}

fn describe(name: &str, bytes: &[u8]) -> Artifact {
    Artifact { name: name.to_owned(), size: bytes.len() as u64, sha256: Sha256Digest::of(bytes) }
}

/// Writes a new file of the release.
fn write(partial: &Partial, name: &str, bytes: &[u8]) -> Result<()> {
    let path = partial.path().join(name);
    if let Some(folder) = path.parent() {
        files::make_folder(folder)?;
    }
    let put = || {
        let mut file = OpenOptions::new().write(true).create_new(true).open(&path)?;
        io::Write::write_all(&mut file, bytes)?;
        file.sync_all()
    };
    put().map_err(|e| Error::io("writing", &path, &e))
}

/// Writes a file and its signature beside it.
fn signed(partial: &Partial, name: &str, bytes: &[u8], key: &SigningKey) -> Result<Artifact> {
    let signature = key.sign(Namespace::Release, bytes).map_err(|e| e.context(format!("signing {name}")))?;
    write(partial, &format!("{name}.sig"), signature.as_bytes())?;
    write(partial, name, bytes)?;
    Ok(describe(name, bytes))
}

/// As `sha256sum` writes and checks it, by name.
fn sums(files: &mut [Artifact]) -> String {
    files.sort_by(|one, other| one.name.cmp(&other.name));
    files.iter().fold(String::new(), |mut text, file| {
        // Writing into a String cannot fail.
        let _ = writeln!(text, "{}  {}", file.sha256, file.name);
        text
    })
}
