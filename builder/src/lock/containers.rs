//! What a lock says of container images: which Kubernetes, which images, each with all its parts.

use std::collections::BTreeSet;
use std::fmt::Write;

use serde::Deserialize;
use trust::Sha256Digest;

use super::LockedPackage;
use super::file::quote;
use crate::containers::Reference;
use crate::containers::document::Named;
use crate::definition::Definition;
use crate::error::Result;

/// Most bytes of one part.
const SIZE_LIMIT: u64 = 16 << 30;

/// Chooses the container images of a definition.
pub trait Choose {
    /// Those that belong to the definition and the chosen packages.
    ///
    /// # Errors
    /// Where one cannot be had, or is not what it should be.
    fn choose(&self, definition: &Definition, packages: &[LockedPackage]) -> Result<Containers>;
}

/// Container images, and what they belong to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Containers {
    /// The Kubernetes of the packages.
    pub kubernetes: Option<LockedKubernetes>,
    /// The images, sorted by reference.
    pub images: Vec<LockedImage>,
}

/// A Kubernetes, in the words of its kubeadm.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LockedKubernetes {
    /// Version without `v`.
    pub version: String,
    /// Registry and path of its images.
    pub image_repository: String,
    /// Its pause image.
    pub pause: String,
    /// Its CoreDNS image.
    pub coredns: String,
    /// Its etcd image.
    pub etcd: String,
}

/// A container image with all its parts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LockedImage {
    /// Full reference.
    pub reference: String,
    /// Media type of what the reference names.
    pub media_type: String,
    /// `kubernetes`, or `wanted`.
    pub because: String,
    /// What the reference names, and where that is an index, the manifest it has for us.
    pub documents: Vec<Named>,
    /// The configuration, then the layers in their order.
    pub layers: Vec<Named>,
}

/// An image as a lock writes it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WrittenImage {
    reference: String,
    media_type: String,
    because: String,
    documents: Vec<(Sha256Digest, u64)>,
    layers: Vec<(Sha256Digest, u64)>,
}

/// The part of the text that is about containers; nothing where there are none.
pub(super) fn write(containers: &Containers, text: &mut String) {
    if let Some(LockedKubernetes { version, image_repository, pause, coredns, etcd }) = &containers.kubernetes {
        let [version, repository, pause, coredns, etcd] =
            [version, image_repository, pause, coredns, etcd].map(|value| quote(value));
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "\nkubernetes = {{ version = {version}, image_repository = {repository}, pause = {pause}, coredns = {coredns}, etcd = {etcd} }}"
        );
    }
    if containers.images.is_empty() {
        return;
    }
    text.push_str("\ncontainer_images = [\n");
    for image in &containers.images {
        let [reference, media_type, because] = [&image.reference, &image.media_type, &image.because].map(|value| quote(value));
        let (documents, layers) = (list(&image.documents), list(&image.layers));
        let _ = writeln!(
            text,
            "  {{ reference = {reference}, because = {because}, media_type = {media_type}, documents = [{documents}], layers = [{layers}] }},"
        );
    }
    text.push_str("]\n");
}

fn list(parts: &[Named]) -> String {
    parts.iter().map(|part| format!("[\"{}\", {}]", part.sha256, part.size)).collect::<Vec<_>>().join(", ")
}

/// Checks one image that was read, given the references before it.
pub(super) fn check(written: WrittenImage, seen: &mut BTreeSet<String>) -> Result<LockedImage, String> {
    let WrittenImage { reference, media_type, because, documents, layers } = written;
    let parsed: Reference = reference.parse()?;
    let named = |parts: Vec<(Sha256Digest, u64)>| -> Result<Vec<Named>, String> {
        match parts.iter().find(|(_, size)| *size == 0 || *size > SIZE_LIMIT) {
            Some((sha256, size)) => Err(format!("{reference}: {sha256} with {size} bytes, expected 1 to {SIZE_LIMIT}")),
            None => Ok(parts.into_iter().map(|(sha256, size)| Named { sha256, size }).collect()),
        }
    };
    let (documents, layers) = (named(documents)?, named(layers)?);
    if parsed.to_string() != reference || !(1..=2).contains(&documents.len()) || layers.is_empty() {
        return Err(format!("{reference}: expected its plain name, one or two documents, and at least a configuration"));
    }
    if !media_type.starts_with("application/vnd.") || media_type.chars().any(|c| c.is_control() || c == ' ') {
        return Err(format!("{reference}: `{}` is no media type", media_type.escape_debug()));
    }
    if seen.last().is_some_and(|last| *last >= reference) {
        return Err(format!("{reference}: container images must be sorted by reference, each once"));
    }
    seen.insert(reference.clone());
    Ok(LockedImage { reference, media_type, because, documents, layers })
}
