//! Knowing, without looking at gigabytes, that a release folder is what a build would make again.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use trust::Sha256Digest;

use crate::error::{Error, Result};
use crate::files;

/// Digest of all that decides the bytes of a release: definition, lock, keys, epoch, and the programs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Fingerprint(Sha256Digest);

impl Fingerprint {
    /// The fingerprint of these inputs and of this very program.
    ///
    /// # Errors
    /// When the program's own file cannot be read.
    pub fn of(inputs: &[&[u8]]) -> Result<Self> {
        let mut hasher = trust::Sha256::new();
        hasher.update(Sha256Digest::of(&files::read(Path::new("/proc/self/exe"))?).as_bytes());
        for input in inputs {
            hasher.update(Sha256Digest::of(input).as_bytes());
        }
        Ok(Self(hasher.finish()))
    }
}

/// The note that is kept about one release folder.
#[derive(Debug)]
pub struct Freshness {
    note: PathBuf,
    folder: PathBuf,
}

/// What the note says.
#[derive(Serialize, Deserialize)]
struct Note {
    fingerprint: Fingerprint,
    files: Vec<Seen>,
}

/// A file as it was when the build ended. Whoever changes it changes one of these.
#[derive(PartialEq, Eq, Serialize, Deserialize)]
struct Seen {
    name: PathBuf,
    size: u64,
    inode: u64,
    changed: (i64, i64),
}

impl Freshness {
    /// The note about `folder`, kept below `notes`.
    ///
    /// # Errors
    /// When the current folder cannot be asked for.
    pub fn new(notes: &Path, folder: &Path) -> Result<Self> {
        let absolute = std::path::absolute(folder).map_err(|e| Error::io("finding", folder, &e))?;
        let name = Sha256Digest::of(absolute.as_os_str().as_encoded_bytes());
        Ok(Self { note: notes.join(format!("{name}.json")), folder: absolute })
    }

    /// Whether the folder still holds exactly what a build with this fingerprint left there. A note
    /// that cannot be read counts as none.
    ///
    /// # Errors
    /// When the folder is there and cannot be read.
    pub fn holds(&self, fingerprint: &Fingerprint) -> Result<bool> {
        let Some(bytes) = files::read_if_there(&self.note)? else { return Ok(false) };
        let Ok(note) = serde_json::from_slice::<Note>(&bytes) else { return Ok(false) };
        Ok(note.fingerprint == *fingerprint && self.folder.is_dir() && note.files == self.look()?)
    }

    /// Notes what the folder holds now.
    ///
    /// # Errors
    /// When the folder cannot be read or the note cannot be written.
    pub fn remember(&self, fingerprint: &Fingerprint) -> Result<()> {
        let note = Note { fingerprint: fingerprint.clone(), files: self.look()? };
        if let Some(folder) = self.note.parent() {
            files::make_folder(folder)?;
        }
        let bytes = serde_json::to_vec(&note).map_err(|e| Error::io("writing", &self.note, &e.into()))?;
        files::write_atomic(&self.note, &bytes)
    }

    fn look(&self) -> Result<Vec<Seen>> {
        let mut seen = Vec::new();
        let mut folders = vec![PathBuf::new()];
        while let Some(below) = folders.pop() {
            let path = self.folder.join(&below);
            for entry in std::fs::read_dir(&path).map_err(|e| Error::io("reading", &path, &e))? {
                let entry = entry.map_err(|e| Error::io("reading", &path, &e))?;
                let found = entry.metadata().map_err(|e| Error::io("reading", &entry.path(), &e))?;
                let name = below.join(entry.file_name());
                if found.is_dir() {
                    folders.push(name);
                } else {
                    seen.push(Seen { name, size: found.len(), inode: found.ino(), changed: (found.ctime(), found.ctime_nsec()) });
                }
            }
        }
        seen.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(seen)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notices_a_changed_an_added_and_a_missing_file() {
        let folder = tempfile::tempdir().unwrap();
        let release = folder.path().join("release");
        files::make_folder(&release.join("secure-boot")).unwrap();
        std::fs::write(release.join("a"), "1").unwrap();
        std::fs::write(release.join("secure-boot/b"), "2").unwrap();
        let freshness = Freshness::new(&folder.path().join("notes"), &release).unwrap();
        let fingerprint = Fingerprint::of(&[b"one"]).unwrap();
        assert!(!freshness.holds(&fingerprint).unwrap(), "no note yet");
        freshness.remember(&fingerprint).unwrap();
        assert!(freshness.holds(&fingerprint).unwrap());
        assert!(!freshness.holds(&Fingerprint::of(&[b"two"]).unwrap()).unwrap(), "other inputs");
        std::fs::write(release.join("c"), "3").unwrap();
        assert!(!freshness.holds(&fingerprint).unwrap(), "added");
        std::fs::remove_file(release.join("c")).unwrap();
        assert!(freshness.holds(&fingerprint).unwrap());
        std::fs::write(release.join("secure-boot/b"), "x").unwrap();
        assert!(!freshness.holds(&fingerprint).unwrap(), "changed");
        std::fs::remove_dir_all(&release).unwrap();
        assert!(!freshness.holds(&fingerprint).unwrap(), "missing");
    }
}
