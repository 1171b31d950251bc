//! What is inside the images of a release, against its manifest.

use std::path::Path;

use der::Encode;
use trust::Manifest;
use x509_cert::Certificate;

use super::release::Trust;
use super::{Check, files, partitions};
use crate::boot::{authenticode, contents, variables};
use crate::disk::PartitionType;
use crate::error::{Error, Kind, Result};
use crate::export::Format;
use crate::image::appliance::{Appliance, LARGEST_BOOT_FILE};
use crate::image::{Image, ReadAt, Window, installed};
use crate::progress::{Progress, Unit};
use crate::seal::{read, verity};

/// Threads that hash blocks.
const HASHERS: usize = 2;
/// Largest signature list that is read, in bytes.
const LARGEST_LIST: u64 = 1 << 20;

/// What all images of a release have in common.
struct Expected<'a> {
    manifest: &'a Manifest,
    certificate: &'a Certificate,
    /// The UKI that lies beside the images, where it can be read.
    uki: Option<Vec<u8>>,
}

/// Checks the UKI, every image, and the lists for the firmware. The first image is read whole; the
/// others have signed digests, and must have the same tables and boot files.
pub(super) fn check(folder: &Path, manifest: &Manifest, trust: &Trust<'_>, progress: &dyn Progress, checks: &mut Vec<Check>) {
    let name = format!("{}.efi", manifest.name);
    let bytes = files::small(&folder.join(&name), LARGEST_BOOT_FILE);
    match &bytes {
        Ok(bytes) => uki(&name, bytes, manifest, trust.certificate, checks),
        Err(error) => checks.push(Check::of(&name, "it can be read", &Err(again(error)))),
    }
    let expected = Expected { manifest, certificate: trust.certificate, uki: bytes.ok() };
    let mut whole = true;
    for format in Format::ALL {
        for file in
            manifest.files.iter().filter(|file| Path::new(&file.name).extension().is_some_and(|e| e == format.extension()))
        {
            let image = Image::open(&folder.join(&file.name));
            checks.push(Check::of(
                &file.name,
                format!("it is a readable {} image", format.extension()),
                &right_format(&image, format),
            ));
            let Ok(image) = image else { continue };
            disk(&file.name, &image, &expected, checks);
            if std::mem::take(&mut whole) {
                let task = progress.begin("checking the root", 0, Unit::Bytes);
                root(&file.name, &image, manifest, checks);
                drop(task);
            }
        }
    }
    for list in ["PK", "KEK", "db"] {
        let result = signature_list(folder, list, (list == "db").then_some(trust.certificate));
        let claim = if list == "db" {
            "it makes the firmware trust the certificate, and no other"
        } else {
            "it holds the certificate beside it"
        };
        checks.push(Check::of(format!("secure-boot/{list}.esl"), claim, &result));
    }
}

/// The same error once more, for a list that keeps its own.
fn again(error: &Error) -> Error {
    Error::new(error.kind(), error.to_string())
}

fn right_format(image: &Result<Image>, format: Format) -> Result<()> {
    match image {
        Err(error) => Err(again(error)),
        Ok(image) if image.format() != format => {
            Err(Error::new(Kind::Untrusted, format!("its first bytes are those of {}", image.format().extension())))
        }
        Ok(_) => Ok(()),
    }
}

fn uki(name: &str, bytes: &[u8], manifest: &Manifest, certificate: &Certificate, checks: &mut Vec<Check>) {
    checks.push(signature(name, bytes, certificate));
    match contents::contents(bytes).and_then(|found| found.root_hash()) {
        Ok(hash) => checks.push(Check::equal(
            name,
            "the root hash of its command line is the manifest's",
            &hash.to_string(),
            &manifest.root.hash.to_string(),
        )),
        Err(error) => checks.push(Check::of(name, "the root hash of its command line is the manifest's", &Err(error))),
    }
}

fn signature(subject: &str, bytes: &[u8], certificate: &Certificate) -> Check {
    let claim = format!("it is signed for Secure Boot by {}", certificate.tbs_certificate.subject);
    Check::of(subject, claim, &authenticode::verify(bytes, certificate))
}

/// Partition table and EFI system partition.
fn disk(subject: &str, image: &Image, expected: &Expected<'_>, checks: &mut Vec<Check>) {
    let appliance = match Appliance::open(image) {
        Ok(appliance) => appliance,
        Err(error) => return checks.push(Check::of(subject, "it has a partition table", &Err(error))),
    };
    checks.extend(partitions(subject, &appliance.table, &expected.manifest.root.hash));
    let mut found = appliance
        .table
        .entries
        .iter()
        .map(|entry| format!("{} {} {} at {} with {} bytes", entry.label, entry.kind, entry.uuid, entry.start, entry.size))
        .collect::<Vec<_>>();
    let mut wanted = expected
        .manifest
        .partitions
        .iter()
        .map(|p| format!("{} {} {} at {} with {} bytes", p.label, p.kind, p.uuid, p.offset, p.size))
        .collect::<Vec<_>>();
    found.sort();
    wanted.sort();
    checks.push(Check::equal(subject, "the partitions are those of the manifest", &found.join("; "), &wanted.join("; ")));
    if let Err(error) = boot_files(subject, &appliance, expected, checks) {
        checks.push(Check::of(subject, "its boot files can be read", &Err(error)));
    }
}

fn boot_files(subject: &str, appliance: &Appliance<'_>, expected: &Expected<'_>, checks: &mut Vec<Check>) -> Result<()> {
    let files = appliance.boot_files()?;
    let ukis: Vec<_> = files.iter().filter(|file| file.is_uki()).collect();
    let same = match (ukis.as_slice(), &expected.uki) {
        (_, None) => Err(Error::new(Kind::Missing, "the file to compare with cannot be read")),
        ([one], Some(uki)) if one.bytes == *uki => Ok(()),
        ([one], Some(_)) => Err(Error::new(Kind::Untrusted, format!("{} has other bytes", one.path))),
        (many, _) => Err(Error::new(Kind::Untrusted, format!("found {} UKIs, expected one", many.len()))),
    };
    checks.push(Check::of(subject, format!("its UKI is {}.efi, byte for byte", expected.manifest.name), &same));
    for file in files.iter().filter(|file| !file.is_uki()) {
        let mut check = signature(subject, &file.bytes, expected.certificate);
        check.claim = format!("{}: {}", file.path, check.claim);
        checks.push(check);
    }
    let loader = files.iter().any(|file| file.path.eq_ignore_ascii_case("EFI/BOOT/BOOTX64.EFI"));
    checks.push(Check::equal(
        subject,
        "there is a loader where the firmware looks for it",
        if loader { "one" } else { "none" },
        "one",
    ));
    Ok(())
}

/// Every block of the root against the root hash, and what only then can be believed.
fn root(subject: &str, image: &Image, manifest: &Manifest, checks: &mut Vec<Check>) {
    let windows = sealed(image, manifest);
    let held = windows.as_ref().map_err(again).and_then(|(data, area)| verity::check(data, area, &manifest.root.hash, HASHERS));
    let claim = format!("every block of the root belongs to the root hash {}", manifest.root.hash);
    let trusted = held.is_ok();
    checks.push(Check::of(subject, claim, &held));
    let (true, Ok((data, _))) = (trusted, windows) else { return };
    let erofs = read::Image::open(&data);
    checks.push(Check::of(subject, "the root is a readable erofs", &erofs.as_ref().map(|_| ()).map_err(again)));
    if let Ok(erofs) = erofs {
        checks.push(Check::of(subject, "the packages of the root are those of the manifest", &packages(&erofs, manifest)));
    }
}

/// Root and hash area, as long as the manifest says.
fn sealed<'a>(image: &'a Image, manifest: &Manifest) -> Result<(Window<'a>, Window<'a>)> {
    let (data, area) = Appliance::open(image)?.sealed()?;
    let wanted = manifest.root.blocks.saturating_mul(manifest.root.block_size.into());
    if data.size() != wanted {
        return Err(Error::new(
            Kind::Untrusted,
            format!(
                "the verity tree of partition {:?} is about {} bytes, expected {wanted}",
                PartitionType::RootVerity,
                data.size()
            ),
        ));
    }
    Ok((data, area))
}

fn packages(root: &read::Image<'_>, manifest: &Manifest) -> Result<()> {
    let found = installed::packages(root)?;
    let mut found: Vec<String> = found.iter().map(|p| format!("{} {} {}", p.name, p.version, p.architecture)).collect();
    let mut wanted: Vec<String> =
        manifest.packages.iter().map(|p| format!("{} {} {}", p.name, p.version, p.architecture)).collect();
    found.sort();
    wanted.sort();
    let only = |these: &[String], those: &[String]| {
        let list: Vec<&str> = these.iter().filter(|one| those.binary_search(one).is_err()).map(String::as_str).take(5).collect();
        if list.is_empty() { "nothing".to_owned() } else { list.join(", ") }
    };
    if found == wanted {
        return Ok(());
    }
    let (root, listed) = (only(&found, &wanted), only(&wanted, &found));
    Err(Error::new(Kind::Untrusted, format!("only in the root: {root}; only in the manifest: {listed}")))
}

/// A list holds one certificate: `expected`, else the one in the `.der` file beside it.
fn signature_list(folder: &Path, name: &str, expected: Option<&Certificate>) -> Result<()> {
    let path = |extension: &str| folder.join("secure-boot").join(format!("{name}.{extension}"));
    let wanted = match expected {
        Some(certificate) => {
            certificate.to_der().map_err(|e| Error::new(Kind::Failed, format!("writing the certificate: {e}")))?
        }
        None => files::small(&path("der"), LARGEST_LIST)?,
    };
    let bytes = files::small(&path("esl"), LARGEST_LIST)?;
    match variables::entries(&bytes)?.as_slice() {
        [one] if one.kind == variables::CERT_X509 && one.data == wanted => Ok(()),
        [_] => Err(Error::new(Kind::Untrusted, "it holds another certificate")),
        many => Err(Error::new(Kind::Untrusted, format!("it holds {} entries, expected one", many.len()))),
    }
}
