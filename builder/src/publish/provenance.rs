//! How the release was made: an in-toto Statement v1 with SLSA Provenance v1 (slsa.dev/spec/v1.0).
//! Nothing of the machine or the moment is in it, so it is the same from build to build.

use serde::Serialize;
use trust::{Manifest, Sha256Digest, manifest};

use crate::error::Result;
use crate::sbom::{Inventory, to_json};

/// What `externalParameters` mean.
const BUILD_TYPE: &str = "urn:ingot:image-build:1";
const BUILDER: &str = "urn:ingot:builder";

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Statement<'a> {
    #[serde(rename = "_type")]
    kind: &'static str,
    subject: Vec<Resource>,
    predicate_type: &'static str,
    predicate: Predicate<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Predicate<'a> {
    build_definition: BuildDefinition<'a>,
    run_details: RunDetails,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct BuildDefinition<'a> {
    build_type: &'static str,
    external_parameters: Parameters<'a>,
    resolved_dependencies: Vec<Resource>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Parameters<'a> {
    name: &'a str,
    version: &'a str,
    role: &'a str,
    architecture: &'a str,
    epoch: u64,
    definition: Digests,
    lock: Digests,
}

#[derive(Serialize)]
struct Resource {
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    uri: Option<String>,
    digest: Digests,
}

#[derive(Serialize)]
struct Digests {
    sha256: Sha256Digest,
}

#[derive(Serialize)]
struct RunDetails {
    builder: Builder,
}

#[derive(Serialize)]
struct Builder {
    id: &'static str,
    version: Versions,
}

#[derive(Serialize)]
struct Versions {
    ingot: &'static str,
}

/// The statement about `subjects`, made as `manifest` and `inventory` say.
///
/// # Errors
/// When the lock names a repository that the definition does not have.
pub fn provenance(manifest: &Manifest, inventory: &Inventory<'_>, subjects: &[manifest::File]) -> Result<Vec<u8>> {
    let digest = |sha256: &Sha256Digest| Digests { sha256: *sha256 };
    let subject =
        subjects.iter().map(|file| Resource { name: Some(file.name.clone()), uri: None, digest: digest(&file.sha256) }).collect();
    let mut resolved_dependencies = Vec::new();
    for input in &manifest.inputs {
        let name = format!("{} {}", input.repository, input.suite);
        let repository = inventory.repositories.iter().find(|repository| repository.name == input.repository);
        let uri = repository.map(|repository| release_url(&repository.url, &input.suite));
        resolved_dependencies.push(Resource { name: Some(name), uri, digest: digest(&input.sha256) });
    }
    for package in &inventory.lock.packages {
        let uri = Some(inventory.purl(package)?);
        resolved_dependencies.push(Resource { name: None, uri, digest: digest(&package.sha256) });
    }
    for (purl, sha256) in inventory.container_purls()? {
        resolved_dependencies.push(Resource { name: None, uri: Some(purl), digest: digest(&sha256) });
    }
    let Manifest { name, version, role, architecture, .. } = manifest;
    to_json(&Statement {
        kind: "https://in-toto.io/Statement/v1",
        subject,
        predicate_type: "https://slsa.dev/provenance/v1",
        predicate: Predicate {
            build_definition: BuildDefinition {
                build_type: BUILD_TYPE,
                external_parameters: Parameters {
                    name,
                    version,
                    role,
                    architecture,
                    epoch: manifest.epoch,
                    definition: digest(&manifest.definition),
                    lock: digest(&manifest.lock),
                },
                resolved_dependencies,
            },
            run_details: RunDetails { builder: Builder { id: BUILDER, version: Versions { ingot: env!("CARGO_PKG_VERSION") } } },
        },
    })
}

fn release_url(base: &str, suite: &str) -> String {
    let base = base.trim_end_matches('/');
    match suite.strip_suffix('/') {
        Some("") => format!("{base}/InRelease"),
        Some(flat) => format!("{base}/{flat}/InRelease"),
        None => format!("{base}/dists/{suite}/InRelease"),
    }
}
