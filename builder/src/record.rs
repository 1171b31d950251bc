//! What a release says of itself: the manifest, and which files it is made of.

use std::collections::BTreeMap;

use trust::Sha256Digest;
use trust::manifest::{self, Manifest};

use crate::boot::assemble::BootFiles;
use crate::containers;
use crate::definition::Definition;
use crate::disk::Disk;
use crate::epoch::Epoch;
use crate::error::{Error, Result};
use crate::export;
use crate::lock::Lock;
use crate::publish::{Artifact, Partial};
use crate::seal::Sealed;

/// The manifest of a build; its list of files is filled in when it is published.
pub fn manifest(definition: &Definition, (lock, epoch): (&Lock, Epoch), sealed: &Sealed, disk: &Disk) -> Manifest {
    Manifest {
        format: manifest::FORMAT,
        name: definition.name.clone(),
        version: definition.version.clone(),
        role: definition.role.as_str().to_owned(),
        architecture: definition.architecture.clone(),
        epoch: epoch.0,
        lock: Sha256Digest::of(lock.to_text().as_bytes()),
        definition: definition.digest,
        inputs: lock.releases.iter().map(input).collect(),
        root: manifest::Root {
            hash: sealed.root_hash,
            salt: sealed.salt.iter().map(|byte| format!("{byte:02x}")).collect(),
            block_size: 4096,
            blocks: sealed.data_blocks,
        },
        partitions: disk.partitions.iter().map(partition).collect(),
        packages: lock.packages.iter().map(package).collect(),
        container_images: containers::listed(lock),
        files: Vec::new(),
    }
}

fn input(release: &crate::lock::LockedRelease) -> manifest::Input {
    manifest::Input {
        repository: release.repository.clone(),
        suite: release.suite.clone(),
        date: release.date.0,
        sha256: release.sha256,
        signed_by: release.signed_by.clone(),
    }
}

fn partition(partition: &crate::disk::Partition) -> manifest::Partition {
    manifest::Partition {
        label: partition.label.clone(),
        kind: partition.kind.guid().to_string(),
        uuid: partition.uuid.to_string(),
        offset: partition.start,
        size: partition.size,
    }
}

fn package(package: &crate::lock::LockedPackage) -> manifest::Package {
    manifest::Package {
        name: package.name.clone(),
        version: package.version.clone(),
        architecture: package.architecture.clone(),
        sha256: package.sha256,
    }
}

/// Files of the partial folder, and further ones as bytes by their names.
pub type Files = (Vec<Artifact>, Vec<(String, Vec<u8>)>);

/// Writes the UKI beside the images, and lists both; what the firmware is to be told goes to `secure-boot/`.
///
/// # Errors
/// When the UKI cannot be written.
pub fn files(
    partial: &Partial,
    name: &str,
    (images, boot): (&[export::Artifact], &BootFiles),
    enrolment: BTreeMap<String, Vec<u8>>,
) -> Result<Files> {
    let mut artifacts: Vec<Artifact> = images
        .iter()
        .map(|image| Artifact { name: format!("{name}.{}", image.format.extension()), size: image.size, sha256: image.sha256 })
        .collect();
    let uki = format!("{name}.efi");
    let path = partial.path().join(&uki);
    std::fs::write(&path, &boot.uki).map_err(|e| Error::io("writing", &path, &e))?;
    artifacts.push(Artifact { name: uki, size: boot.uki.len() as u64, sha256: Sha256Digest::of(&boot.uki) });
    let documents = enrolment.into_iter().map(|(file, bytes)| (format!("secure-boot/{file}"), bytes)).collect();
    Ok((artifacts, documents))
}
