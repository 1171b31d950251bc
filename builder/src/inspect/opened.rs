//! Fills a report with what is inside the image: boot files, chain of trust, root.

use std::path::Path;

use der::Encode;
use trust::{AllowedSigners, Sha256Digest, kubernetes};

use super::{Link, Report, Sized, look};
use crate::boot::{authenticode, contents, variables};
use crate::disk::PartitionType;
use crate::error::{Error, Kind, Result};
use crate::files;
use crate::image::appliance::{Appliance, BootFile};
use crate::image::{Image, ReadAt, installed};
use crate::inspect::bars::total;
use crate::seal::layout::kind;
use crate::seal::{read, verity};

/// Larger roots are not hashed: nobody has vouched for the size yet. 64 GiB.
const LARGEST_HASHED: u64 = 64 << 30;
/// Threads that hash blocks.
const HASHERS: usize = 2;
/// Whom a machine of this image believes.
const SIGNERS: &str = "usr/share/ingot/trust/allowed_signers";

/// Everything about the image at `path`; `secure-boot/db.esl` beside it tells what the firmware trusts.
///
/// # Errors
/// When the image has no partition table, or no boot files and root as ours have.
pub fn open(path: &Path) -> Result<Report> {
    let image = Image::open(path)?;
    let mut report = look(&image)?;
    let appliance = Appliance::open(&image)?;
    let hash = boot(&appliance, db_beside(path)?.as_deref(), &mut report)?;
    let (data, area) = appliance.sealed()?;
    used(&mut report, PartitionType::Root, data.size());
    used(&mut report, PartitionType::RootVerity, verity::area_size(data.size() / 4096).min(area.size()));
    let holds = (data.size() <= LARGEST_HASHED).then(|| verity::check(&data, &area, &hash, HASHERS).is_ok());
    report.trust.push(Link {
        what: "root hash".to_owned(),
        vouches_for: "every block of the root (dm-verity)".to_owned(),
        holds,
    });
    root(&read::Image::open(&data)?, &mut report)?;
    Ok(report)
}

/// The signature list of a release, where the image is in one.
fn db_beside(path: &Path) -> Result<Option<Vec<u8>>> {
    path.parent().map_or(Ok(None), |folder| files::read_if_there(&folder.join("secure-boot/db.esl")))
}

fn used(report: &mut Report, kind: PartitionType, bytes: u64) {
    let word = if kind == PartitionType::Root { "root" } else { "root-verity" };
    report.partitions.iter_mut().filter(|p| p.kind == word).for_each(|p| p.used = Some(bytes));
}

/// UKI and loader: the links of the chain from the firmware to the root hash, which is given back.
fn boot(appliance: &Appliance<'_>, db: Option<&[u8]>, report: &mut Report) -> Result<Sha256Digest> {
    let files = appliance.boot_files()?;
    let uki = files.iter().find(|file| file.is_uki());
    let uki = uki.ok_or_else(|| Error::new(Kind::Failed, "there is no UKI in EFI/Linux of the EFI system partition"))?;
    let found = contents::contents(&uki.bytes)?;
    for file in files.iter().filter(|file| !file.is_uki()).chain([uki]) {
        report.trust.push(signed(file, db));
    }
    if let Some(certificate) = &found.signer {
        let print = Sha256Digest::of(&certificate.to_der().unwrap_or_default());
        report.facts.push(("UKI signer".to_owned(), certificate.tbs_certificate.subject.to_string()));
        report.facts.push(("its SHA-256".to_owned(), print.to_string()));
    }
    let hash = found.root_hash()?;
    for (name, value) in [
        ("root hash", hash.to_string()),
        ("kernel", found.kernel.clone()),
        ("stub", found.stub.clone()),
        ("command line", found.settled_command_line()),
    ] {
        report.facts.push((name.to_owned(), value));
    }
    let (data, tree) = hash.as_bytes().split_at(16);
    let halves = [(PartitionType::Root, data), (PartitionType::RootVerity, tree)];
    let fits =
        halves.iter().all(|(kind, half)| appliance.table.find(kind.guid()).is_some_and(|entry| entry.uuid.as_bytes() == half));
    report.trust.push(Link {
        what: "command line of the UKI".to_owned(),
        vouches_for: format!("root hash {hash}"),
        holds: Some(fits),
    });
    report.sections = found.sections.into_iter().map(|(name, size)| Sized { name, size }).collect();
    Ok(hash)
}

/// Whether the signature holds for the certificate in it, and whether the release's db has that one.
fn signed(file: &BootFile, db: Option<&[u8]>) -> Link {
    let carried = crate::boot::pe::Pe::parse(&file.bytes).ok().and_then(|pe| authenticode::carried(&pe));
    let Some(certificate) = carried else {
        return Link { what: "firmware db".to_owned(), vouches_for: format!("{}: not signed", file.path), holds: Some(false) };
    };
    let der = certificate.to_der().unwrap_or_default();
    let listed = db.map(|db| variables::entries(db).is_ok_and(|entries| entries.iter().any(|entry| entry.data == der)));
    let holds = match authenticode::verify(&file.bytes, &certificate).is_ok() {
        true => listed,
        false => Some(false),
    };
    Link {
        what: "firmware db".to_owned(),
        vouches_for: format!("{}, signed by {}", file.path, certificate.tbs_certificate.subject),
        holds,
    }
}

/// Title, package list and files.
fn root(root: &read::Image<'_>, report: &mut Report) -> Result<()> {
    let os_release = installed::file(root, "usr/lib/os-release")?.unwrap_or_default();
    let value = |key: &str| {
        let of = |line: &str| line.strip_prefix(key)?.strip_prefix('=').map(|v| v.trim_matches(['"', '\'']).to_owned());
        os_release.lines().find_map(of).unwrap_or_default()
    };
    report.title = format!("{} {}", value("IMAGE_ID"), value("IMAGE_VERSION")).trim().to_owned();
    report.facts.push(("system".to_owned(), value("PRETTY_NAME")));
    let packages = installed::packages(root)?;
    report.packages = packages.into_iter().map(|p| Sized { name: format!("{} {}", p.name, p.version), size: p.size }).collect();
    root.walk(&mut |path, inode| {
        if inode.kind() == kind::FILE {
            report.files.push(Sized { name: String::from_utf8_lossy(path).into_owned(), size: inode.size });
        }
        Ok(())
    })?;
    let bytes = total(report.files.iter().map(|file| file.size));
    report.facts.push((
        "root".to_owned(),
        format!("{} files, {} unpacked, {} sealed", report.files.len(), super::bars::size(bytes), super::bars::size(root.size())),
    ));
    containers(root, report)?;
    let signers = installed::file(root, SIGNERS)?.and_then(|text| AllowedSigners::parse(&text).ok());
    let keys = signers.map_or_else(
        || "no usable key".to_owned(),
        |signers| format!("{} key{}", signers.len(), if signers.len() == 1 { "" } else { "s" }),
    );
    report.trust.push(Link {
        what: "root".to_owned(),
        vouches_for: format!("/{SIGNERS}: {keys} for profiles"),
        holds: Some(keys != "no usable key"),
    });
    Ok(())
}

/// Kubernetes, and the container images that are on board.
fn containers(root: &read::Image<'_>, report: &mut Report) -> Result<()> {
    let wrong = |path: &str, e: &dyn std::fmt::Display| Error::new(Kind::Document, format!("/{path} of the image: {e}"));
    if let Some(text) = installed::file(root, kubernetes::KUBERNETES)? {
        let found = kubernetes::Kubernetes::parse(text.as_bytes()).map_err(|e| wrong(kubernetes::KUBERNETES, &e))?;
        report.facts.push(("Kubernetes".to_owned(), format!("{}, images of {}", found.version, found.image_repository)));
    }
    let images = installed::container_images(root)?;
    report.containers = images.into_iter().map(|image| Sized { name: image.reference, size: image.size }).collect();
    Ok(())
}
