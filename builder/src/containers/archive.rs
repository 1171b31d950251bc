//! The container images of an image: one tar in the form of an OCI image layout (image specification 1.1), which
//! `ctr images import` takes as it is, and what it is called in a list beside it. Layers stay as the registry has them.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Serialize;
use trust::Sha256Digest;
use trust::kubernetes::{self, ContainerImage, ContainerImages};

use super::{Reference, Version};
use crate::blob::Blob;
use crate::definition::{FileContent, FileEntry};
use crate::error::{Error, Kind, Result};
use crate::fetch::Store;
use crate::files;
use crate::lock::{Lock, LockedImage, LockedKubernetes};

/// A tar record, in bytes.
const RECORD: u64 = 512;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Index<'a> {
    schema_version: u32,
    media_type: &'static str,
    manifests: Vec<Descriptor<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Descriptor<'a> {
    media_type: &'a str,
    digest: String,
    size: u64,
    annotations: BTreeMap<&'static str, String>,
}

/// What the lock's Kubernetes and its container images put into the image: none where there are none. Every part must
/// be in the store.
///
/// # Errors
/// When the store cannot be read.
pub fn files(lock: &Lock, store: &Store) -> Result<Vec<FileEntry>> {
    let mut entries = Vec::new();
    if let Some(found) = &lock.containers.kubernetes {
        entries.push(entry(kubernetes::KUBERNETES, FileContent::Bytes(json(&facts(found, lock))?)));
    }
    if lock.containers.kubernetes.is_some() || !lock.containers.images.is_empty() {
        entries.push(entry(
            kubernetes::IMAGES,
            FileContent::Bytes(json(&ContainerImages { schema: kubernetes::SCHEMA, images: listed(lock) })?),
        ));
        entries.push(entry(kubernetes::ARCHIVE, FileContent::Joined(archive(lock, store)?)));
    }
    Ok(entries)
}

/// Bytes of the archive among these files; 0 where there is none.
pub fn size(files: &[FileEntry]) -> u64 {
    let of = |entry: &FileEntry| match &entry.content {
        FileContent::Joined(parts) => parts.iter().map(Blob::len).sum(),
        _ => 0,
    };
    files.iter().map(of).sum()
}

fn entry(path: &str, content: FileContent) -> FileEntry {
    FileEntry { path: format!("/{path}"), content, mode: 0o644, owner: "root".to_owned(), group: "root".to_owned() }
}

fn json(value: &impl Serialize) -> Result<Vec<u8>> {
    serde_json::to_vec(value).map_err(|e| Error::new(Kind::Failed, format!("writing JSON: {e}")))
}

fn facts(found: &LockedKubernetes, lock: &Lock) -> kubernetes::Kubernetes {
    let LockedKubernetes { version, image_repository, pause, coredns, etcd } = found.clone();
    let own = lock.packages.iter().any(|package| package.name == "kubernetes-cni");
    // Debian's package of the same plugins has them elsewhere.
    let cni_bin = if own { "/opt/cni/bin" } else { "/usr/lib/cni" }.to_owned();
    kubernetes::Kubernetes { schema: kubernetes::SCHEMA, version, image_repository, pause, coredns, etcd, cni_bin }
}

/// The container images of the lock, as the image and its manifest name them.
pub fn listed(lock: &Lock) -> Vec<ContainerImage> {
    let one = |image: &LockedImage| ContainerImage {
        reference: image.reference.clone(),
        digest: image.documents.first().map_or_else(String::new, |named| format!("sha256:{}", named.sha256)),
        size: image.documents.iter().chain(&image.layers).map(|named| named.size).sum(),
    };
    lock.containers.images.iter().map(one).collect()
}

/// The tar, piece by piece: headers in memory, everything else where it lies in the store.
fn archive(lock: &Lock, store: &Store) -> Result<Vec<Blob>> {
    let images = &lock.containers.images;
    let mut tar = Tar::default();
    tar.file("oci-layout", Blob::memory(*br#"{"imageLayoutVersion":"1.0.0"}"#))?;
    let manifests = images.iter().map(descriptor).collect::<Result<Vec<_>>>()?;
    let index = Index { schema_version: 2, media_type: "application/vnd.oci.image.index.v1+json", manifests };
    tar.file("index.json", Blob::memory(json(&index)?))?;
    tar.folder("blobs/")?;
    tar.folder("blobs/sha256/")?;
    let parts: BTreeMap<Sha256Digest, u64> = images
        .iter()
        .flat_map(|image| image.documents.iter().chain(&image.layers))
        .map(|named| (named.sha256, named.size))
        .collect();
    for (sha256, size) in parts {
        let file = Arc::new(files::open(&store.path(&sha256))?);
        tar.file(&format!("blobs/sha256/{sha256}"), Blob::file(file, 0, size))?;
    }
    Ok(tar.end())
}

fn descriptor(image: &LockedImage) -> Result<Descriptor<'_>> {
    let named =
        image.documents.first().ok_or_else(|| Error::new(Kind::Document, format!("{} has no document", image.reference)))?;
    let reference: Reference = image.reference.parse().map_err(|why: String| Error::new(Kind::Document, why))?;
    // The name that containerd gives it, and the short one of the OCI specification.
    let mut annotations = BTreeMap::from([("io.containerd.image.name", image.reference.clone())]);
    if let Version::Tag(tag) = reference.version {
        annotations.insert("org.opencontainers.image.ref.name", tag);
    }
    Ok(Descriptor { media_type: &image.media_type, digest: format!("sha256:{}", named.sha256), size: named.size, annotations })
}

/// A tar of POSIX.1-1988 form without times and owners.
#[derive(Default)]
struct Tar {
    parts: Vec<Blob>,
}

impl Tar {
    fn file(&mut self, path: &str, bytes: Blob) -> Result<()> {
        self.header(path, tar::EntryType::Regular, bytes.len())?;
        let padding = bytes.len().next_multiple_of(RECORD) - bytes.len();
        self.parts.push(bytes);
        self.parts.push(Blob::memory(vec![0; padding as usize]));
        Ok(())
    }

    fn folder(&mut self, path: &str) -> Result<()> {
        self.header(path, tar::EntryType::Directory, 0)
    }

    fn header(&mut self, path: &str, kind: tar::EntryType, size: u64) -> Result<()> {
        let mut header = tar::Header::new_ustar();
        header.set_path(path).map_err(|e| Error::new(Kind::Failed, format!("naming {path} in a tar: {e}")))?;
        header.set_entry_type(kind);
        header.set_size(size);
        header.set_mode(if kind == tar::EntryType::Directory { 0o755 } else { 0o644 });
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_cksum();
        self.parts.push(Blob::memory(*header.as_bytes()));
        Ok(())
    }

    /// Two empty records are the end.
    fn end(mut self) -> Vec<Blob> {
        self.parts.push(Blob::memory(vec![0; 2 * RECORD as usize]));
        self.parts.retain(|part| !part.is_empty());
        self.parts
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;
    use crate::containers::document::Named;
    use crate::lock::Containers;

    fn lock(store: &Store) -> Lock {
        let put = |text: &str| {
            let (size, sha256) = (text.len() as u64, Sha256Digest::of(text.as_bytes()));
            store.insert(&mut text.as_bytes(), size, &sha256).unwrap();
            Named { sha256, size }
        };
        let image = |reference: &str, documents: &[&str]| LockedImage {
            reference: reference.to_owned(),
            media_type: "application/vnd.oci.image.index.v1+json".to_owned(),
            because: "wanted".to_owned(),
            documents: documents.iter().map(|text| put(text)).collect(),
            layers: vec![put("config"), put("a layer that both have")],
        };
        let mut lock = crate::sbom::tests::lock();
        lock.containers = Containers {
            kubernetes: Some(LockedKubernetes {
                version: "1.20.2".to_owned(),
                image_repository: "k8s.gcr.io".to_owned(),
                pause: "k8s.gcr.io/pause:3.2".to_owned(),
                coredns: "k8s.gcr.io/coredns:1.7.0".to_owned(),
                etcd: "k8s.gcr.io/etcd:3.4.13-0".to_owned(),
            }),
            images: vec![image("a.io/one:1", &["index", "manifest"]), image("a.io/two:2", &["another"])],
        };
        lock
    }

    #[test]
    fn the_archive_is_a_layout_that_any_tar_reads_and_always_the_same() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let lock = lock(&store);
        let bytes: Vec<u8> = archive(&lock, &store).unwrap().iter().flat_map(|part| part.to_vec().unwrap()).collect();
        let mut found = BTreeMap::new();
        for entry in tar::Archive::new(bytes.as_slice()).entries().unwrap() {
            let mut entry = entry.unwrap();
            let mut content = Vec::new();
            entry.read_to_end(&mut content).unwrap();
            assert_eq!((entry.header().mtime().unwrap(), entry.header().uid().unwrap()), (0, 0));
            found.insert(entry.path().unwrap().display().to_string(), content);
        }
        // oci-layout, index.json, two folders, five different parts.
        assert_eq!(found.len(), 9, "{:?}", found.keys());
        for (path, content) in found.iter().filter(|(path, content)| path.starts_with("blobs/sha256/") && !content.is_empty()) {
            assert_eq!(*path, format!("blobs/sha256/{}", Sha256Digest::of(content)));
        }
        let index: serde_json::Value = serde_json::from_slice(&found["index.json"]).unwrap();
        assert_eq!(index["manifests"][0]["annotations"]["io.containerd.image.name"], "a.io/one:1");
        assert_eq!(index["manifests"][1]["annotations"]["org.opencontainers.image.ref.name"], "2");
        assert_eq!(index["manifests"][0]["digest"], format!("sha256:{}", Sha256Digest::of(b"index")));
        // A change of these bytes is a change of every image that is built: say why.
        insta::assert_snapshot!(Sha256Digest::of(&bytes), @"436fbcd69f79ebe2caa3365f75d255e2afdbb47e1d381f7f8641217090f00605");
    }

    #[test]
    fn the_files_beside_it_are_what_the_installer_reads() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let mut lock = lock(&store);
        let text =
            |entries: &[FileEntry], path: &str| match entries.iter().find(|entry| entry.path[1..] == *path).map(|e| &e.content) {
                Some(FileContent::Bytes(bytes)) => String::from_utf8(bytes.clone()).unwrap(),
                other => panic!("{other:?}"),
            };
        let entries = files(&lock, &store).unwrap();
        insta::assert_snapshot!(text(&entries, kubernetes::KUBERNETES), @r#"{"schema":1,"version":"1.20.2","image_repository":"k8s.gcr.io","pause":"k8s.gcr.io/pause:3.2","coredns":"k8s.gcr.io/coredns:1.7.0","etcd":"k8s.gcr.io/etcd:3.4.13-0","cni_bin":"/usr/lib/cni"}"#);
        let images = ContainerImages::parse(text(&entries, kubernetes::IMAGES).as_bytes()).unwrap().images;
        assert_eq!(images[0].digest, format!("sha256:{}", Sha256Digest::of(b"index")));
        assert_eq!((images[0].reference.as_str(), images[0].size), ("a.io/one:1", 5 + 8 + 6 + 22));
        lock.containers = Containers::default();
        assert!(files(&lock, &store).unwrap().is_empty());
    }
}
