//! Stage 9: one disk in the formats hypervisors take.
//!
//! The disk is looked through once (`survey`: what is zero, what compresses); from then on a
//! format is a pure function that arranges its own tables and the disk's blobs into the bytes of a
//! file (`qcow2`, `vhdx`). All files are then written side by side, hashed as they are written.
//! A further format (VHD, VMDK) is one more such function and one more [`Format`].

mod qcow2;
mod survey;
mod vhdx;
mod write;

use std::path::{Path, PathBuf};
use std::thread;

use trust::Sha256Digest;

use crate::blob::Extents;
use crate::error::{Context, Error, Kind, Result};
use crate::progress::{Progress, Unit};
use survey::Survey;

/// A file format of a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// The plain bytes, sparse.
    Raw,
    /// qcow2 version 3 with deflated clusters, for QEMU, KVM and Proxmox.
    Qcow2,
    /// Dynamic VHDX, for Hyper-V and Azure Local.
    Vhdx,
}

impl Format {
    /// All of them, in the order of the release folder.
    pub const ALL: [Format; 3] = [Format::Raw, Format::Qcow2, Format::Vhdx];

    /// The ending of the file name, without dot.
    pub fn extension(self) -> &'static str {
        match self {
            Format::Raw => "raw",
            Format::Qcow2 => "qcow2",
            Format::Vhdx => "vhdx",
        }
    }
}

/// What is to be written where.
#[derive(Debug, Clone, Copy)]
pub struct ExportInput<'a> {
    /// The disk; whole sectors of 512 bytes.
    pub disk: &'a Extents,
    /// Digest of what the disk is made of; the GUIDs that formats want follow from it.
    pub identity: [u8; 32],
    /// Which formats, each once.
    pub formats: &'a [Format],
    /// The folder the files are made in. It exists; the caller removes it when this fails.
    pub folder: &'a Path,
    /// Name of the files without ending.
    pub name: &'a str,
}

/// A written file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Artifact {
    /// What it is.
    pub format: Format,
    /// Where it is.
    pub path: PathBuf,
    /// Its length in bytes.
    pub size: u64,
    /// Bytes of it that are not a hole. Counted, not asked from the file system, so that it is the same everywhere.
    pub allocated: u64,
    /// SHA-256 of all bytes, holes included.
    pub sha256: Sha256Digest,
}

/// Writes the disk in every format; the artifacts come in the order of `formats`.
/// Nothing is synced: the caller does that when it publishes the folder.
///
/// # Errors
/// When the disk cannot be read, a file cannot be written, or a format cannot hold the disk.
pub fn export(input: &ExportInput<'_>, progress: &dyn Progress) -> Result<Vec<Artifact>> {
    let task = progress.begin("looking through the disk", input.disk.allocated(), Unit::Bytes);
    let spool = input.formats.contains(&Format::Qcow2).then_some(input.folder);
    let survey = Survey::of(input.disk, spool, task.as_ref()).context("looking through the disk")?;
    drop(task);
    let files: Vec<(Format, Extents)> =
        input.formats.iter().map(|format| Ok((*format, lay_out(*format, &survey, &input.identity)?))).collect::<Result<_>>()?;
    let total = files.iter().map(|(_, file)| file.allocated()).sum();
    let task = progress.begin("writing the image files", total, Unit::Bytes);
    let task = task.as_ref();
    thread::scope(|scope| {
        let write = |(format, file): &(Format, Extents)| {
            let path = input.folder.join(format!("{}.{}", input.name, format.extension()));
            let (format, file) = (*format, file.clone());
            scope.spawn(move || {
                let sha256 = write::write(&path, &file, task)?;
                Ok(Artifact { format, path, size: file.size(), allocated: file.allocated(), sha256 })
            })
        };
        let running: Vec<_> = files.iter().map(write).collect();
        running.into_iter().map(|thread| thread.join().map_err(|_| stopped())?).collect()
    })
}

/// The bytes of the file of one format.
fn lay_out(format: Format, survey: &Survey, identity: &[u8; 32]) -> Result<Extents> {
    match format {
        Format::Raw => Ok(survey.content.clone()),
        Format::Qcow2 => qcow2::lay_out(survey).context("arranging the qcow2 file"),
        Format::Vhdx => vhdx::lay_out(survey, identity, vhdx::BLOCK).context("arranging the VHDX file"),
    }
}

/// A thread of ours panicked: a defect, told as an error so that the folder is still cleaned up.
fn stopped() -> Error {
    Error::new(Kind::Failed, "a thread that writes image files stopped early").hint("this is a defect of ingot: please report it")
}

#[cfg(test)]
mod tests;
