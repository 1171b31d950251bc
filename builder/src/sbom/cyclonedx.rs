//! CycloneDX 1.6 in JSON (cyclonedx.org/docs/1.6/json, ECMA-424).

use serde::Serialize;
use trust::Sha256Digest;

use super::{Inventory, to_json};
use crate::error::Result;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Bom {
    bom_format: &'static str,
    spec_version: &'static str,
    serial_number: String,
    version: u32,
    metadata: Metadata,
    components: Vec<Component>,
    dependencies: [Dependency; 1],
}

#[derive(Serialize)]
struct Metadata {
    timestamp: String,
    tools: Tools,
    component: Component,
}

#[derive(Serialize)]
struct Tools {
    components: [Component; 1],
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Component {
    #[serde(rename = "type")]
    kind: &'static str,
    #[serde(rename = "bom-ref")]
    reference: String,
    name: String,
    version: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    hashes: Vec<Hash>,
    #[serde(skip_serializing_if = "Option::is_none")]
    purl: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    external_references: Vec<External>,
}

#[derive(Serialize)]
struct Hash {
    alg: &'static str,
    content: Sha256Digest,
}

#[derive(Serialize)]
struct External {
    #[serde(rename = "type")]
    kind: &'static str,
    url: String,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Dependency {
    #[serde(rename = "ref")]
    reference: String,
    depends_on: Vec<String>,
}

/// The CycloneDX document of an image.
///
/// # Errors
/// When the lock names a repository that the definition does not have.
pub fn cyclonedx(inventory: &Inventory<'_>) -> Result<Vec<u8>> {
    let mut components = Vec::new();
    for package in &inventory.lock.packages {
        let purl = inventory.purl(package)?;
        components.push(Component {
            kind: "library",
            reference: purl.clone(),
            name: package.name.clone(),
            version: package.version.clone(),
            hashes: vec![Hash { alg: "SHA-256", content: package.sha256 }],
            purl: Some(purl),
            external_references: vec![External { kind: "distribution", url: inventory.url(package)? }],
        });
    }
    for container in inventory.containers()? {
        let purl = container.purl(&inventory.lock.architecture);
        components.push(Component {
            kind: "container",
            reference: purl.clone(),
            name: container.name(),
            version: container.version(),
            hashes: vec![Hash { alg: "SHA-256", content: container.sha256 }],
            purl: Some(purl),
            external_references: vec![External { kind: "distribution", url: container.url() }],
        });
    }
    let image = plain("operating-system", inventory.name, inventory.version);
    let mut depends_on: Vec<_> = components.iter().map(|component| component.reference.clone()).collect();
    depends_on.sort();
    depends_on.dedup();
    let reference = image.reference.clone();
    to_json(&Bom {
        bom_format: "CycloneDX",
        spec_version: "1.6",
        serial_number: serial_number(&inventory.digest()),
        version: 1,
        metadata: Metadata {
            timestamp: inventory.epoch.to_string(),
            tools: Tools { components: [plain("application", "ingot", env!("CARGO_PKG_VERSION"))] },
            component: image,
        },
        components,
        dependencies: [Dependency { reference, depends_on }],
    })
}

fn plain(kind: &'static str, name: &str, version: &str) -> Component {
    Component {
        kind,
        reference: format!("{kind}:{name}@{version}"),
        name: name.to_owned(),
        version: version.to_owned(),
        hashes: Vec::new(),
        purl: None,
        external_references: Vec::new(),
    }
}

/// A UUID of version 8 (RFC 9562 section 5.8) from the content, so that equal content has an equal one.
fn serial_number(digest: &Sha256Digest) -> String {
    let bytes = digest.as_bytes().first_chunk().copied().unwrap_or_default();
    uuid::Builder::from_custom_bytes(bytes).into_uuid().urn().to_string()
}
