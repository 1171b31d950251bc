//! Takes what is compared out of an image.

use std::collections::BTreeMap;
use std::path::Path;

use trust::kubernetes::ContainerImage;

use super::{FileFact, Snapshot};
use crate::boot::contents;
use crate::error::{Error, Kind, Result};
use crate::image::appliance::Appliance;
use crate::image::{Image, installed};
use crate::seal::read;
use crate::tree::{Entry, Node, Tree};

/// Where first boot takes the files of `/var` from.
const FACTORY: &str = "usr/share/factory/";

/// The snapshot of the image at `path`; every file of the root is read.
///
/// # Errors
/// When it has no boot files and root as our images have, or any part of the root is broken.
pub fn take(path: &Path) -> Result<Snapshot> {
    let image = Image::open(path)?;
    let appliance = Appliance::open(&image)?;
    let mut snapshot = Snapshot { settings: settings(&appliance)?, ..Snapshot::default() };
    let (data, _) = appliance.sealed()?;
    let root = read::Image::open(&data)?;
    for package in installed::packages(&root)? {
        snapshot.packages.insert(package.name, package.version);
    }
    snapshot.containers = installed::container_images(&root)?.iter().map(container_image).collect();
    let tree = root.tree()?;
    let owners = real(&installed::owners(&root)?, &tree);
    for (path, entry) in &tree.entries {
        let name = String::from_utf8_lossy(path).into_owned();
        let owner = owners.get(&name).or_else(|| owners.get(name.strip_prefix(FACTORY)?));
        let fact = fact(entry, owner.filter(|_| !matches!(entry.node, Node::Folder)).cloned());
        snapshot.files.insert(name, fact);
    }
    Ok(snapshot)
}

/// The name of an image, and which one it is: `v1.34.2 sha256:0123…`.
fn container_image(image: &ContainerImage) -> (String, String) {
    let digest = image.digest.get(..19).unwrap_or_default();
    match image.reference.rsplit_once(':').filter(|(name, tag)| !tag.contains('/') && !name.contains('@')) {
        Some((name, tag)) => (name.to_owned(), format!("{tag} {digest}")),
        None => (image.reference.split('@').next().unwrap_or_default().to_owned(), digest.to_owned()),
    }
}

/// Command line, versions, and what the firmware starts.
fn settings(appliance: &Appliance<'_>) -> Result<BTreeMap<String, String>> {
    let files = appliance.boot_files()?;
    let uki = files.iter().find(|file| file.is_uki());
    let uki = uki.ok_or_else(|| Error::new(Kind::Failed, "there is no UKI in EFI/Linux of the EFI system partition"))?;
    let found = contents::contents(&uki.bytes)?;
    let mut settings = BTreeMap::from([
        ("kernel command line".to_owned(), found.settled_command_line()),
        ("root hash".to_owned(), found.root_hash()?.to_string()),
        ("kernel".to_owned(), found.kernel.clone()),
        ("stub".to_owned(), found.stub.clone()),
        ("disk size".to_owned(), appliance.size().to_string()),
    ]);
    let pe = crate::boot::pe::Pe::parse(&uki.bytes)?;
    for name in [".linux", ".initrd"] {
        let bytes = pe.section(name).unwrap_or_default();
        settings.insert(format!("UKI {name}"), described(bytes));
    }
    for file in files.iter().filter(|file| !file.is_uki()) {
        settings.insert(file.path.clone(), described(&file.bytes));
    }
    for entry in &appliance.table.entries {
        settings
            .insert(format!("partition {}", entry.number), format!("{}, {} bytes at {}", entry.label, entry.size, entry.start));
    }
    Ok(settings)
}

fn described(bytes: &[u8]) -> String {
    let digest = trust::Sha256Digest::of(bytes).to_string();
    format!("{} bytes, SHA-256 {}", bytes.len(), digest.get(..16).unwrap_or_default())
}

/// The packages' lists name `/bin/x` where the file is `usr/bin/x`.
fn real(owners: &BTreeMap<String, String>, tree: &Tree) -> BTreeMap<String, String> {
    let name = |path: &String| {
        let real = tree.real_path(path.as_bytes(), false);
        real.map_or_else(|| path.clone(), |real| String::from_utf8_lossy(&real).into_owned())
    };
    owners.iter().map(|(path, package)| (name(path), package.clone())).collect()
}

fn fact(entry: &Entry, package: Option<String>) -> FileFact {
    let (size, letters, content) = match &entry.node {
        Node::Folder => (0, "04", String::new()),
        Node::File { size, content, .. } => (*size, "10", format!("{content:?}")),
        Node::Link(target) => (0, "12", format!("-> {}", String::from_utf8_lossy(target))),
        Node::Character(major, minor) => (0, "02", format!("{major}:{minor}")),
        Node::Block(major, minor) => (0, "06", format!("{major}:{minor}")),
        Node::Fifo => (0, "01", String::new()),
    };
    let mut metadata = format!("{letters}{:04o} {}:{}", entry.mode, entry.uid, entry.gid);
    for (name, value) in &entry.xattrs {
        metadata +=
            &format!(" {}={}", String::from_utf8_lossy(name), value.iter().map(|byte| format!("{byte:02x}")).collect::<String>());
    }
    FileFact { size, content, metadata, package }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn container_images_go_by_their_names() {
        let digest = format!("sha256:{}", "0".repeat(64));
        let of = |reference: &str| {
            container_image(&ContainerImage { reference: reference.to_owned(), digest: digest.clone(), size: 1 })
        };
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(of("registry.k8s.io/pause:3.10"), pair("registry.k8s.io/pause", "3.10 sha256:000000000000"));
        assert_eq!(of(&format!("localhost:5000/a@{digest}")), pair("localhost:5000/a", "sha256:000000000000"));
    }

    #[test]
    fn modes_owners_and_attributes_are_facts() {
        let entry = |node| Entry {
            mode: 0o4755,
            uid: 0,
            gid: 5,
            mtime: 1,
            xattrs: BTreeMap::from([(b"user.x".to_vec(), vec![1, 255])]),
            node,
        };
        assert_eq!(fact(&entry(Node::Fifo), None).metadata, "014755 0:5 user.x=01ff");
        assert_eq!(fact(&entry(Node::Link(b"a".to_vec())), None).content, "-> a");
    }

    #[test]
    fn lists_lead_to_the_real_file() {
        let mut tree = Tree::default();
        let link =
            Entry { mode: 0o777, uid: 0, gid: 0, mtime: 0, xattrs: BTreeMap::new(), node: Node::Link(b"usr/bin".to_vec()) };
        tree.entries.insert(b"bin".to_vec(), link);
        let owners = real(&BTreeMap::from([("bin/sh".to_owned(), "dash".to_owned())]), &tree);
        assert_eq!(owners.get("usr/bin/sh").map(String::as_str), Some("dash"));
    }
}
