//! SPDX 2.3 in JSON (spdx.github.io/spdx-spec/v2.3).

use serde::Serialize;
use trust::Sha256Digest;

use super::{Container, Inventory, quote, to_json};
use crate::error::Result;
use crate::lock::LockedPackage;

/// SPDX for "nobody looked": licences stand in each package's own copyright file inside the image.
const NOT_ASSERTED: &str = "NOASSERTION";
const DOCUMENT: &str = "SPDXRef-DOCUMENT";
const IMAGE: &str = "SPDXRef-image";

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Document {
    spdx_version: &'static str,
    data_license: &'static str,
    #[serde(rename = "SPDXID")]
    id: &'static str,
    name: String,
    document_namespace: String,
    creation_info: Creation,
    document_describes: [&'static str; 1],
    packages: Vec<Package>,
    relationships: Vec<Relationship>,
}

#[derive(Serialize)]
struct Creation {
    created: String,
    creators: [String; 1],
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Package {
    name: String,
    #[serde(rename = "SPDXID")]
    id: String,
    version_info: String,
    download_location: String,
    files_analyzed: bool,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    checksums: Vec<Checksum>,
    license_concluded: &'static str,
    license_declared: &'static str,
    copyright_text: &'static str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    external_refs: Vec<ExternalReference>,
    primary_package_purpose: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    comment: Option<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Checksum {
    algorithm: &'static str,
    checksum_value: Sha256Digest,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ExternalReference {
    reference_category: &'static str,
    reference_type: &'static str,
    reference_locator: String,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Relationship {
    spdx_element_id: &'static str,
    related_spdx_element: String,
    relationship_type: &'static str,
}

/// The SPDX document of an image.
///
/// # Errors
/// When the lock names a repository that the definition does not have.
pub fn spdx(inventory: &Inventory<'_>) -> Result<Vec<u8>> {
    let mut packages = vec![image(inventory)];
    let mut relationships =
        vec![Relationship { spdx_element_id: DOCUMENT, related_spdx_element: IMAGE.to_owned(), relationship_type: "DESCRIBES" }];
    let mut inside: Vec<Package> =
        inventory.lock.packages.iter().map(|package| describe(inventory, package)).collect::<Result<_>>()?;
    inside.extend(inventory.containers()?.iter().map(|container| container_image(inventory, container)));
    for package in inside {
        relationships.push(Relationship {
            spdx_element_id: IMAGE,
            related_spdx_element: package.id.clone(),
            relationship_type: "CONTAINS",
        });
        packages.push(package);
    }
    to_json(&Document {
        spdx_version: "SPDX-2.3",
        data_license: "CC0-1.0",
        id: DOCUMENT,
        name: format!("{}-{}", inventory.name, inventory.version),
        document_namespace: namespace(inventory),
        creation_info: Creation {
            created: inventory.epoch.to_string(),
            creators: [concat!("Tool: ingot-", env!("CARGO_PKG_VERSION")).to_owned()],
        },
        document_describes: [IMAGE],
        packages,
        relationships,
    })
}

/// The place that SPDX keeps for creators without a web site (section 6.5); unique by its content.
fn namespace(inventory: &Inventory<'_>) -> String {
    format!("https://spdx.org/spdxdocs/{}-{}-{}", quote(inventory.name), quote(inventory.version), inventory.digest())
}

fn image(inventory: &Inventory<'_>) -> Package {
    Package {
        name: inventory.name.to_owned(),
        id: IMAGE.to_owned(),
        version_info: inventory.version.to_owned(),
        download_location: NOT_ASSERTED.to_owned(),
        files_analyzed: false,
        checksums: Vec::new(),
        license_concluded: NOT_ASSERTED,
        license_declared: NOT_ASSERTED,
        copyright_text: NOT_ASSERTED,
        external_refs: Vec::new(),
        primary_package_purpose: "OPERATING-SYSTEM",
        comment: None,
    }
}

fn container_image(inventory: &Inventory<'_>, container: &Container<'_>) -> Package {
    Package {
        name: container.name(),
        id: identifier("oci", &container.locked.reference),
        version_info: container.version(),
        download_location: container.url(),
        checksums: vec![Checksum { algorithm: "SHA256", checksum_value: container.sha256 }],
        external_refs: vec![package_url(container.purl(&inventory.lock.architecture))],
        primary_package_purpose: "CONTAINER",
        comment: Some(format!("in the image because: {}", container.locked.because)),
        ..image(inventory)
    }
}

fn package_url(purl: String) -> ExternalReference {
    ExternalReference { reference_category: "PACKAGE-MANAGER", reference_type: "purl", reference_locator: purl }
}

fn describe(inventory: &Inventory<'_>, package: &LockedPackage) -> Result<Package> {
    Ok(Package {
        name: package.name.clone(),
        id: identifier("deb", &format!("{}:{}", package.name, package.architecture)),
        version_info: package.version.clone(),
        download_location: inventory.url(package)?,
        files_analyzed: false,
        checksums: vec![Checksum { algorithm: "SHA256", checksum_value: package.sha256 }],
        license_concluded: NOT_ASSERTED,
        license_declared: NOT_ASSERTED,
        copyright_text: NOT_ASSERTED,
        external_refs: vec![package_url(inventory.purl(package)?)],
        primary_package_purpose: "INSTALL",
        comment: Some(format!("in the image because: {}", package.because)),
    })
}

/// An SPDX identifier takes letters, digits, `.` and `-` (section 7.2): a part of the digest keeps
/// names apart which differ elsewhere.
fn identifier(kind: &str, full: &str) -> String {
    let plain: String = full.chars().map(|c| if c.is_ascii_alphanumeric() || c == '.' { c } else { '-' }).collect();
    let digest = Sha256Digest::of(full.as_bytes()).to_string();
    format!("SPDXRef-{kind}-{plain}-{}", digest.get(..12).unwrap_or_default())
}
