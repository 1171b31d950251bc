//! The documents of container images: OCI image indexes and manifests (image specification 1.1), and Docker's
//! (manifest version 2, schema 2), which are the same but for their names.

use serde::Deserialize;
use trust::Sha256Digest;

use crate::error::{Error, Kind, Result};

/// What a registry is asked for.
pub const ACCEPTED: &str = "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, \
    application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.docker.distribution.manifest.v2+json";
/// Largest document, in bytes: what registries take (distribution specification 1.1).
pub const LARGEST: u64 = 4 << 20;
/// Most layers of an image; overlayfs ends earlier.
const MOST_LAYERS: usize = 500;
/// Largest layer, in bytes.
const LARGEST_LAYER: u64 = 16 << 30;

const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const DOCKER_INDEX: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";

/// Something named by digest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Named {
    /// Its digest.
    pub sha256: Sha256Digest,
    /// Its size in bytes.
    pub size: u64,
}

/// A document, as far as it matters here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Document {
    /// One image for several platforms: what it is for ours.
    Index(Named),
    /// One image: its configuration, then its layers.
    Manifest(Vec<Named>),
}

#[derive(Deserialize)]
struct Written {
    #[serde(rename = "schemaVersion")]
    schema: u32,
    #[serde(rename = "mediaType")]
    media_type: Option<String>,
    manifests: Option<Vec<Descriptor>>,
    config: Option<Descriptor>,
    layers: Option<Vec<Descriptor>>,
}

#[derive(Deserialize)]
struct Descriptor {
    digest: String,
    size: u64,
    platform: Option<Platform>,
    #[serde(default)]
    urls: Vec<String>,
}

#[derive(Deserialize)]
struct Platform {
    os: String,
    architecture: String,
    variant: Option<String>,
    #[serde(rename = "os.version")]
    os_version: Option<String>,
}

/// Reads a document: its media type, and what it says. Of an index only what is for Linux on `architecture` counts.
///
/// # Errors
/// [`Kind::Document`] for other formats, values out of bounds, and an index that has nothing for us.
pub fn read(bytes: &[u8], architecture: &str) -> Result<(&'static str, Document)> {
    let wrong = |why: String| Error::new(Kind::Document, why);
    let written: Written = serde_json::from_slice(bytes).map_err(|e| wrong(format!("it is no manifest: {e}")))?;
    if written.schema != 2 {
        return Err(wrong(format!("schema version {} of the manifest, expected 2", written.schema))
            .hint("images of Docker's oldest format must be pushed again with a current tool"));
    }
    let said = written.media_type.as_deref();
    // Who reads a document by one of its halves must not see another image than who reads it by the other (CVE-2021-41190).
    match (written.manifests, written.config, written.layers) {
        (Some(manifests), None, None) => {
            let kind = kind(said, [OCI_INDEX, DOCKER_INDEX])?;
            Ok((kind, Document::Index(ours(&manifests, architecture)?)))
        }
        (None, Some(config), Some(layers)) => {
            let kind = kind(said, [OCI_MANIFEST, DOCKER_MANIFEST])?;
            if layers.len() > MOST_LAYERS {
                return Err(wrong(format!("{} layers, expected {MOST_LAYERS} at most", layers.len())));
            }
            if layers.iter().any(|layer| !layer.urls.is_empty()) {
                return Err(wrong("some of its layers lie outside of the registry (foreign layers)".to_owned()));
            }
            let parts = [config].iter().chain(&layers).map(named).collect::<Result<_>>()?;
            Ok((kind, Document::Manifest(parts)))
        }
        _ => Err(wrong("expected either `manifests`, or `config` and `layers`, and nothing of the other".to_owned())),
    }
}

fn kind(said: Option<&str>, known: [&'static str; 2]) -> Result<&'static str> {
    let Some(said) = said else { return Ok(known[0]) };
    known.into_iter().find(|known| *known == said).ok_or_else(|| {
        Error::new(Kind::Document, format!("media type `{}`, expected `{}` or `{}`", said.escape_debug(), known[0], known[1]))
    })
}

fn named(descriptor: &Descriptor) -> Result<Named> {
    let digest = descriptor.digest.strip_prefix("sha256:").and_then(|digits| digits.parse().ok());
    let sha256 = digest.ok_or_else(|| {
        Error::new(Kind::Document, format!("the digest `{}`, expected one of SHA-256", descriptor.digest.escape_debug()))
    })?;
    if descriptor.size > LARGEST_LAYER {
        let why = format!("{sha256} has {} bytes, expected {LARGEST_LAYER} at most", descriptor.size);
        return Err(Error::new(Kind::Document, why));
    }
    Ok(Named { sha256, size: descriptor.size })
}

/// The plainest of what is for our platform: without variant and version of the system before others.
fn ours(manifests: &[Descriptor], architecture: &str) -> Result<Named> {
    let fits = |platform: &&Platform| platform.os == "linux" && platform.architecture == architecture;
    let plainness = |descriptor: &&Descriptor| {
        descriptor.platform.as_ref().filter(fits).map(|platform| (platform.variant.is_some(), platform.os_version.is_some()))
    };
    let found = manifests.iter().filter(|d| plainness(d).is_some()).min_by_key(plainness);
    found.map_or_else(
        || {
            let there: Vec<String> =
                manifests.iter().filter_map(|d| d.platform.as_ref()).map(|p| format!("{}/{}", p.os, p.architecture)).collect();
            let what = format!("it has nothing for linux/{architecture}, only for {}", there.join(", "));
            Err(Error::new(Kind::Document, what.escape_debug().to_string()))
        },
        named,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest() -> String {
        let digest = format!("sha256:{}", "1".repeat(64));
        format!(
            r#"{{"schemaVersion":2,"config":{{"digest":"{digest}","size":3}},"layers":[{{"digest":"{digest}","size":4}},{{"digest":"{digest}","size":5}}]}}"#
        )
    }

    fn index(platforms: &[&str]) -> String {
        let of = |(number, platform): (usize, &&str)| {
            format!(r#"{{"digest":"sha256:{}","size":{number},"platform":{platform}}}"#, "0".repeat(64))
        };
        let all: Vec<String> = platforms.iter().enumerate().map(of).collect();
        format!(r#"{{"schemaVersion":2,"mediaType":"{DOCKER_INDEX}","manifests":[{}]}}"#, all.join(","))
    }

    #[test]
    fn manifests_give_their_parts_and_indexes_what_is_for_us() {
        let (kind, document) = read(manifest().as_bytes(), "amd64").unwrap();
        assert_eq!(kind, OCI_MANIFEST);
        let Document::Manifest(parts) = document else { panic!("{document:?}") };
        assert_eq!(parts.iter().map(|part| part.size).collect::<Vec<_>>(), [3, 4, 5]);
        let text = index(&[
            r#"{"os":"windows","architecture":"amd64","os.version":"10"}"#,
            r#"{"os":"linux","architecture":"arm64"}"#,
            r#"{"os":"linux","architecture":"amd64","variant":"v3"}"#,
            r#"{"os":"linux","architecture":"amd64"}"#,
            r#"{"os":"unknown","architecture":"unknown"}"#,
        ]);
        let (kind, document) = read(text.as_bytes(), "amd64").unwrap();
        let Document::Index(named) = document else { panic!("{document:?}") };
        assert_eq!((kind, named.size), (DOCKER_INDEX, 3));
    }

    #[test]
    fn other_documents_are_refused_with_the_reason() {
        let plain = manifest();
        for (text, words) in [
            ("{}".to_owned(), "no manifest"),
            (plain.replace(":2,", ":1,"), "schema version 1"),
            (plain.replace("\"config\"", "\"manifests\":[],\"config\""), "nothing of the other"),
            (plain.replace("\"layers\"", "\"layer\""), "nothing of the other"),
            (plain.replace("sha256:1", "sha512:1"), "one of SHA-256"),
            (plain.replace("\"size\":5", "\"size\":99999999999999"), "at most"),
            (plain.replace("\"size\":5", "\"size\":-5"), "no manifest"),
            (plain.replace("\"size\":5", "\"size\":5,\"urls\":[\"http://x\"]"), "foreign layers"),
            (plain.replace(":2,", &format!(":2,\"mediaType\":\"{OCI_INDEX}\",")), "media type"),
            (index(&[r#"{"os":"linux","architecture":"arm64"}"#]), "only for linux/arm64"),
        ] {
            let error = read(text.as_bytes(), "amd64").unwrap_err();
            assert!(error.to_string().contains(words), "{text}: {error}");
        }
    }
}
