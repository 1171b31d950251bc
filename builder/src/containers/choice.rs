//! Which container images, by digest: kubeadm's own that the definition picks, and those it names itself.

use std::collections::BTreeMap;
use std::path::Path;

use super::document::{self, Document, Named};
use super::{Reference, kubeadm};
use crate::definition::{Definition, Kubernetes};
use crate::error::{Context, Error, Kind, Result};
use crate::fetch::{Network, Store, registry};
use crate::lock::{Choose, Containers, Download, LockedImage, LockedKubernetes, LockedPackage};

/// Where what is chosen comes from.
#[derive(Clone, Copy)]
pub struct Upstream<'a> {
    /// Packages.
    pub download: &'a dyn Download,
    /// Registries.
    pub network: &'a Network,
    /// Where both are kept.
    pub store: &'a Store,
    /// The cache folder: programs are unpacked and run in it.
    pub cache: &'a Path,
}

impl std::fmt::Debug for Upstream<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Upstream").field("cache", &self.cache).finish_non_exhaustive()
    }
}

impl Choose for Upstream<'_> {
    fn choose(&self, definition: &Definition, packages: &[LockedPackage]) -> Result<Containers> {
        let mut wanted: BTreeMap<Reference, &str> = BTreeMap::new();
        let mut found = None;
        if let Some(kubernetes) = &definition.kubernetes {
            let (facts, images) = self.kubernetes(kubernetes, packages)?;
            wanted.extend(images.into_iter().map(|image| (image, "kubernetes")));
            found = Some(facts);
        }
        for text in &definition.containers {
            let reference = text.parse().map_err(|why: String| Error::new(Kind::Document, why))?;
            wanted.insert(reference, "wanted");
        }
        let lock = |(reference, because): (Reference, &str)| self.image(&reference, because, &definition.architecture);
        let mut images = wanted.into_iter().map(lock).collect::<Result<Vec<_>>>()?;
        images.sort_by(|a, b| a.reference.cmp(&b.reference));
        Ok(Containers { kubernetes: found, images })
    }
}

impl Upstream<'_> {
    /// What kubeadm says, and those of its images that the definition picks.
    fn kubernetes(&self, kubernetes: &Kubernetes, packages: &[LockedPackage]) -> Result<(LockedKubernetes, Vec<Reference>)> {
        let version = kubeadm::version(kubernetes, packages)?;
        let package = packages.iter().find(|package| package.name == kubeadm::PACKAGE);
        let package = package.ok_or_else(|| Error::new(Kind::Failed, "the package of kubeadm is gone from the lock"))?;
        let LockedPackage { repository, path, size, sha256, .. } = package;
        let bytes = self.download.get_verified(repository, path, *size, *sha256)?;
        let all = kubeadm::images(&bytes, &version, kubernetes.image_repository.as_deref(), &self.cache.join("work"))?;
        let facts = kubeadm::facts(&version, &all)?;
        let mut picked = Vec::new();
        for name in &kubernetes.images {
            let image = all.iter().find(|image| image.name() == name).ok_or_else(|| {
                let there: Vec<&str> = all.iter().map(Reference::name).collect();
                Error::new(Kind::Document, format!("`kubernetes.images` names `{name}`, which kubeadm {version} does not have"))
                    .hint(format!("it has: {}", there.join(", ")))
            })?;
            picked.push(image.clone());
        }
        Ok((facts, picked))
    }

    /// Follows a reference to its parts.
    fn image(&self, reference: &Reference, because: &str, architecture: &str) -> Result<LockedImage> {
        let doing = || format!("resolving the container image {reference}");
        let read = |bytes: &[u8]| document::read(bytes, architecture).context(doing());
        let first = registry::document(self.network, self.store, reference).context(doing())?;
        let named = |bytes: &[u8]| Named { sha256: trust::Sha256Digest::of(bytes), size: bytes.len() as u64 };
        let (media_type, what) = read(&first)?;
        let (documents, layers) = match what {
            Document::Manifest(layers) => (vec![named(&first)], layers),
            Document::Index(ours) => {
                let second = registry::further(self.network, self.store, reference, ours).context(doing())?;
                let Document::Manifest(layers) = read(&second)?.1 else {
                    let why = format!("{reference} is an index of indexes, expected an index of images");
                    return Err(Error::new(Kind::Document, why));
                };
                (vec![named(&first), ours], layers)
            }
        };
        Ok(LockedImage {
            reference: reference.to_string(),
            media_type: media_type.to_owned(),
            because: because.to_owned(),
            documents,
            layers,
        })
    }
}
