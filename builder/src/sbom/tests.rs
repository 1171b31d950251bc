//! Required fields and forms of both specifications.

use std::collections::BTreeSet;

use serde_json::Value;

use super::*;
use crate::containers::document::Named;
use crate::lock::Containers;

fn repository(name: &str, url: &str) -> Repository {
    Repository {
        name: name.into(),
        url: url.into(),
        suites: Vec::new(),
        components: Vec::new(),
        keys: Vec::new(),
        fingerprints: Vec::new(),
        priority: 500,
    }
}

pub(crate) fn repositories() -> Vec<Repository> {
    vec![
        repository("debian", "https://deb.debian.org/debian"),
        repository("kubernetes", "https://pkgs.k8s.io/core:/stable:/v1.34/deb/"),
    ]
}

pub(crate) fn lock() -> Lock {
    let package = |name: &str, version: &str, repository: &str, suite: &str| LockedPackage {
        name: name.into(),
        version: version.into(),
        architecture: "amd64".into(),
        repository: repository.into(),
        suite: suite.into(),
        path: format!("pool/{name}_{version}_amd64.deb"),
        size: 7,
        sha256: Sha256Digest::of(name.as_bytes()),
        because: "wanted".into(),
    };
    Lock {
        resolution: Sha256Digest::of(b""),
        architecture: "amd64".into(),
        epoch: Epoch(1_700_000_000),
        releases: Vec::new(),
        packages: vec![
            package("haproxy", "3.0.11-1+deb13u1", "debian", "trixie-security"),
            package("kubelet", "1.34.1-1.1", "kubernetes", "/"),
            package("libstdc++6", "1:14.2.0~rc1-19", "debian", "trixie"),
            package("libstdc--6", "1", "debian", "trixie"),
        ],
        containers: Containers::default(),
    }
}

pub(crate) fn inventory<'a>(lock: &'a Lock, repositories: &'a [Repository]) -> Inventory<'a> {
    Inventory { name: "load-balancer", version: "1.0", epoch: lock.epoch, lock, repositories }
}

fn with_container_images() -> Lock {
    let named = |text: &str| Named { sha256: Sha256Digest::of(text.as_bytes()), size: 7 };
    let image = |reference: String| LockedImage {
        media_type: "application/vnd.oci.image.index.v1+json".into(),
        because: "kubernetes".into(),
        documents: vec![named(&reference), named("the manifest for amd64")],
        layers: vec![named("a configuration")],
        reference,
    };
    let digest = Sha256Digest::of(b"x");
    let images = vec![image(format!("quay.io/a/b@sha256:{digest}")), image("registry.k8s.io/coredns/coredns:v1.12.1".into())];
    Lock { containers: Containers { kubernetes: None, images }, ..lock() }
}

#[test]
fn container_images_are_parts_with_their_digests() {
    let lock = with_container_images();
    let [document, bom] = documents(&lock);
    let index = Sha256Digest::of(b"registry.k8s.io/coredns/coredns:v1.12.1");
    let purl =
        format!("pkg:oci/coredns@sha256:{index}?arch=amd64&repository_url=registry.k8s.io%2Fcoredns%2Fcoredns&tag=v1.12.1");
    let package = document["packages"].as_array().unwrap().last().unwrap();
    assert_eq!((text(package, "name"), text(package, "versionInfo")), ("registry.k8s.io/coredns/coredns", "v1.12.1"));
    assert_eq!(
        (text(package, "primaryPackagePurpose"), text(&package["externalRefs"][0], "referenceLocator")),
        ("CONTAINER", purl.as_str())
    );
    assert_eq!(text(&package["checksums"][0], "checksumValue"), index.to_string());
    assert!(text(package, "SPDXID").starts_with("SPDXRef-oci-registry.k8s.io-coredns-coredns-v1.12.1-"));
    assert!(text(package, "downloadLocation").ends_with(&format!("/v2/coredns/coredns/manifests/sha256:{index}")));
    assert_eq!(document["relationships"].as_array().unwrap().len(), 7);
    let components = bom["components"].as_array().unwrap();
    let component = components.last().unwrap();
    assert_eq!((text(component, "type"), text(component, "purl"), components.len()), ("container", purl.as_str(), 6));
    // By digest there is no tag.
    let by_digest = text(&components[4], "purl");
    assert!(by_digest.ends_with("&repository_url=quay.io%2Fa%2Fb"), "{by_digest}");
    let mut other = lock.clone();
    other.containers.images[1].documents[0].sha256 = Sha256Digest::of(b"moved");
    assert_ne!(documents(&other)[1]["serialNumber"], bom["serialNumber"]);
}

fn documents(lock: &Lock) -> [Value; 2] {
    let repositories = repositories();
    let inventory = inventory(lock, &repositories);
    [spdx(&inventory).unwrap(), cyclonedx(&inventory).unwrap()].map(|text| serde_json::from_slice(&text).unwrap())
}

fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value[field].as_str().unwrap_or_else(|| panic!("expected `{field}` in {value}"))
}

#[test]
fn package_urls_follow_their_specification() {
    let (lock, repositories) = (lock(), repositories());
    let inventory = inventory(&lock, &repositories);
    let purls: Vec<_> = lock.packages.iter().map(|package| inventory.purl(package).unwrap()).collect();
    assert_eq!(
        purls[..3],
        [
            "pkg:deb/debian/haproxy@3.0.11-1%2Bdeb13u1?arch=amd64&distro=trixie",
            "pkg:deb/kubernetes/kubelet@1.34.1-1.1?arch=amd64",
            "pkg:deb/debian/libstdc%2B%2B6@1:14.2.0~rc1-19?arch=amd64&distro=trixie",
        ]
    );
    assert_eq!(
        inventory.url(&lock.packages[1]).unwrap(),
        "https://pkgs.k8s.io/core:/stable:/v1.34/deb/pool/kubelet_1.34.1-1.1_amd64.deb"
    );
    let mut stray = lock.packages[0].clone();
    stray.repository = "elsewhere".into();
    assert_eq!(inventory.purl(&stray).unwrap_err().kind(), Kind::Document);
}

#[test]
fn spdx_has_what_its_specification_requires() {
    let [document, _] = documents(&lock());
    assert_eq!((text(&document, "spdxVersion"), text(&document, "dataLicense")), ("SPDX-2.3", "CC0-1.0"));
    assert_eq!(text(&document, "SPDXID"), "SPDXRef-DOCUMENT");
    assert_eq!(text(&document, "name"), "load-balancer-1.0");
    let namespace = text(&document, "documentNamespace");
    assert!(namespace.contains(':') && !namespace.contains('#'), "{namespace}");
    assert_eq!(text(&document["creationInfo"], "created"), "2023-11-14T22:13:20Z");
    assert!(document["creationInfo"]["creators"][0].as_str().unwrap().starts_with("Tool: ingot-"));
    let mut ids = BTreeSet::from(["SPDXRef-DOCUMENT"]);
    for package in document["packages"].as_array().unwrap() {
        let id = text(package, "SPDXID");
        let rest = id.strip_prefix("SPDXRef-").unwrap();
        assert!(!rest.is_empty() && rest.chars().all(|c| c.is_ascii_alphanumeric() || ".-".contains(c)), "{id}");
        assert!(ids.insert(id), "{id} twice");
        for field in ["name", "downloadLocation", "licenseConcluded", "licenseDeclared", "copyrightText", "versionInfo"] {
            assert!(!text(package, field).is_empty());
        }
        assert_eq!(package["filesAnalyzed"], false);
        if id != "SPDXRef-image" {
            let value = text(&package["checksums"][0], "checksumValue");
            assert!(text(&package["checksums"][0], "algorithm") == "SHA256" && value.len() == 64);
            let reference = &package["externalRefs"][0];
            assert_eq!((text(reference, "referenceCategory"), text(reference, "referenceType")), ("PACKAGE-MANAGER", "purl"));
        }
    }
    let relations = document["relationships"].as_array().unwrap();
    assert_eq!(relations.len(), 5);
    for relation in relations {
        assert!(
            ids.contains(text(relation, "spdxElementId")) && ids.contains(text(relation, "relatedSpdxElement")),
            "{relation}"
        );
    }
}

#[test]
fn cyclonedx_has_what_its_specification_requires() {
    let [_, bom] = documents(&lock());
    assert_eq!((text(&bom, "bomFormat"), text(&bom, "specVersion"), &bom["version"]), ("CycloneDX", "1.6", &Value::from(1)));
    let serial: uuid::Uuid = text(&bom, "serialNumber").strip_prefix("urn:uuid:").unwrap().parse().unwrap();
    assert_eq!(serial.get_version_num(), 8);
    assert_eq!(text(&bom["metadata"], "timestamp"), "2023-11-14T22:13:20Z");
    let components = bom["components"].as_array().unwrap();
    let references: BTreeSet<_> = components.iter().map(|component| text(component, "bom-ref")).collect();
    assert_eq!((components.len(), references.len()), (4, 4));
    for component in components {
        assert_eq!((text(component, "type"), text(component, "purl")), ("library", text(component, "bom-ref")));
        assert_eq!((text(&component["hashes"][0], "alg"), text(&component["hashes"][0], "content").len()), ("SHA-256", 64));
    }
    let dependency = &bom["dependencies"][0];
    assert_eq!(text(dependency, "ref"), text(&bom["metadata"]["component"], "bom-ref"));
    assert!(dependency["dependsOn"].as_array().unwrap().iter().all(|reference| references.contains(reference.as_str().unwrap())));
}

#[test]
fn equal_content_gives_equal_documents_and_other_content_another_name() {
    assert_eq!(documents(&lock()), documents(&lock()));
    let mut other = lock();
    other.packages[0].version = "3.0.12-1".into();
    let ([spdx, cyclonedx], [spdx_other, cyclonedx_other]) = (documents(&lock()), documents(&other));
    assert_ne!(spdx["documentNamespace"], spdx_other["documentNamespace"]);
    assert_ne!(cyclonedx["serialNumber"], cyclonedx_other["serialNumber"]);
}
