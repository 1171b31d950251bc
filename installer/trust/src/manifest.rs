//! The schema of `manifest.json`: what a release is, made of, and holds. The machine that updates
//! itself and `ingot verify` read it; only the builder writes it.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::digest::Sha256Digest;
use crate::kubernetes::ContainerImage;

/// The only version of the format so far.
pub const FORMAT: u32 = 1;
/// Longest manifest that is read, in bytes.
pub const LIMIT: usize = 8 << 20;

/// A release.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// [`FORMAT`].
    pub format: u32,
    /// Name of the image: `load-balancer`.
    pub name: String,
    /// Version of the image.
    pub version: String,
    /// What a machine of it is for: `load-balancer`.
    pub role: String,
    /// Debian architecture.
    pub architecture: String,
    /// The time that stands in all its files, in seconds since 1970.
    pub epoch: u64,
    /// Digest of the lock's text.
    pub lock: Sha256Digest,
    /// Digest of the definition.
    pub definition: Sha256Digest,
    /// Signed releases of repositories that were used.
    pub inputs: Vec<Input>,
    /// The sealed root.
    pub root: Root,
    /// Partitions of the disk, by rising offset.
    pub partitions: Vec<Partition>,
    /// Packages inside, by name.
    pub packages: Vec<Package>,
    /// Container images inside, by reference.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub container_images: Vec<ContainerImage>,
    /// Files of the release beside this one and its signature, by name.
    pub files: Vec<File>,
}

/// A repository's release file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Input {
    /// Repository by its name in the definition.
    pub repository: String,
    /// Suite.
    pub suite: String,
    /// Its date, in seconds since 1970.
    pub date: u64,
    /// Digest of the InRelease file.
    pub sha256: Sha256Digest,
    /// Fingerprint of the key that signed it.
    pub signed_by: String,
}

/// The root file system and its verity tree (dm-verity, version 1, SHA-256).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Root {
    /// Root hash.
    pub hash: Sha256Digest,
    /// Salt in hexadecimal digits; may be empty.
    pub salt: String,
    /// Bytes of a data block and of a hash block.
    pub block_size: u32,
    /// Data blocks.
    pub blocks: u64,
}

/// A partition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Partition {
    /// Label.
    pub label: String,
    /// Type GUID, lower case.
    #[serde(rename = "type")]
    pub kind: String,
    /// Its own GUID, lower case.
    pub uuid: String,
    /// First byte on the disk.
    pub offset: u64,
    /// Bytes.
    pub size: u64,
}

/// A package inside.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Package {
    /// Binary package name.
    pub name: String,
    /// Version as dpkg writes it.
    pub version: String,
    /// `amd64` or `all`.
    pub architecture: String,
    /// Digest of the .deb.
    pub sha256: Sha256Digest,
}

/// A file of the release.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct File {
    /// Path below the release folder: `load-balancer.raw`, `secure-boot/db.auth`.
    pub name: String,
    /// Bytes.
    pub size: u64,
    /// Digest.
    pub sha256: Sha256Digest,
}

/// What is wrong with a manifest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotAManifest {
    /// It is too long.
    #[error("expected {LIMIT} bytes at most, found {0}")]
    TooLong(usize),
    /// It is no JSON of this schema.
    #[error("{0}")]
    Schema(String),
    /// It was written by a newer program.
    #[error("expected format {FORMAT}, found {0}")]
    Format(u32),
    /// A value contradicts the schema or another value.
    #[error("{field}: {problem}")]
    Value {
        /// Where.
        field: String,
        /// Expected and found.
        problem: String,
    },
}

impl Manifest {
    /// Reads and checks a manifest: `verified.try_map(Manifest::parse)`.
    ///
    /// # Errors
    /// [`NotAManifest`] with the first thing that is wrong.
    pub fn parse(bytes: &[u8]) -> Result<Self, NotAManifest> {
        #[derive(Deserialize)]
        struct Version {
            format: u32,
        }
        if bytes.len() > LIMIT {
            return Err(NotAManifest::TooLong(bytes.len()));
        }
        let schema = |e: serde_json::Error| NotAManifest::Schema(e.to_string());
        let Version { format } = serde_json::from_slice(bytes).map_err(schema)?;
        if format != FORMAT {
            return Err(NotAManifest::Format(format));
        }
        let manifest: Self = serde_json::from_slice(bytes).map_err(schema)?;
        manifest.check()?;
        Ok(manifest)
    }

    /// The one text form: indented JSON in the order of the schema, with a line feed at the end.
    ///
    /// # Errors
    /// [`NotAManifest`] when a reader would refuse it.
    pub fn to_text(&self) -> Result<String, NotAManifest> {
        self.check()?;
        let text = serde_json::to_string_pretty(self).map_err(|e| NotAManifest::Schema(e.to_string()))?;
        Ok(text + "\n")
    }

    fn check(&self) -> Result<(), NotAManifest> {
        if self.format != FORMAT {
            return Err(NotAManifest::Format(self.format));
        }
        for (field, word) in
            [("name", &self.name), ("version", &self.version), ("role", &self.role), ("architecture", &self.architecture)]
        {
            let sound = is_word(word);
            require(
                sound,
                || field.to_owned(),
                || format!("expected a word of letters, digits and `.-+~_`, found `{}`", short(word)),
            )?;
        }
        self.root.check()?;
        let mut end = 0;
        for (number, partition) in self.partitions.iter().enumerate() {
            end = partition.check(number, end)?;
        }
        strictly_rising("packages", self.packages.iter().map(|package| (package.name.as_str(), package.architecture.as_str())))?;
        strictly_rising("container_images", self.container_images.iter().map(|image| (image.reference.as_str(), "")))?;
        self.container_images.iter().try_for_each(|image| {
            let digest = image.digest.strip_prefix("sha256:").is_some_and(|digits| digits.parse::<Sha256Digest>().is_ok());
            let problem = || format!("expected `sha256:` and 64 digits, found `{}`", short(&image.digest));
            require(digest, || format!("container_images: {}: digest", short(&image.reference)), problem)
        })?;
        strictly_rising("files", self.files.iter().map(|file| (file.name.as_str(), "")))?;
        strictly_rising("inputs", self.inputs.iter().map(|input| (input.repository.as_str(), input.suite.as_str())))?;
        let folded: BTreeSet<_> = self.files.iter().map(|file| file.name.to_ascii_lowercase()).collect();
        require(folded.len() == self.files.len(), || "files".into(), || "two names differ only in their case".into())?;
        self.files.iter().try_for_each(|file| {
            require(
                is_path(&file.name),
                || "files".into(),
                || format!("expected a path below the release, found `{}`", short(&file.name)),
            )
        })
    }
}

impl Root {
    fn check(&self) -> Result<(), NotAManifest> {
        let hex = self.salt.len().is_multiple_of(2)
            && self.salt.len() <= 512
            && self.salt.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        require(
            hex,
            || "root.salt".into(),
            || format!("expected up to 256 bytes in lower-case hexadecimal digits, found `{}`", short(&self.salt)),
        )?;
        let block = self.block_size.is_power_of_two() && (512..=524_288).contains(&self.block_size);
        require(
            block,
            || "root.block_size".into(),
            || format!("expected a power of two from 512 to 524288, found {}", self.block_size),
        )?;
        let size = self.blocks.checked_mul(u64::from(self.block_size)).filter(|size| *size > 0);
        require(size.is_some(), || "root.blocks".into(), || format!("expected a number of blocks, found {}", self.blocks))
    }
}

impl Partition {
    /// Checks partition `number`, which must not begin before `earliest`; gives its end.
    fn check(&self, number: usize, earliest: u64) -> Result<u64, NotAManifest> {
        let field = |name: &'static str| move || format!("partitions[{number}].{name}");
        for (name, guid) in [("type", &self.kind), ("uuid", &self.uuid)] {
            require(is_guid(guid), field(name), || format!("expected a GUID in lower case, found `{}`", short(guid)))?;
        }
        // GPT: 36 UTF-16 units.
        let label = self.label.encode_utf16().count() <= 36 && !self.label.chars().any(char::is_control);
        require(label, field("label"), || format!("expected 36 characters at most, found `{}`", short(&self.label)))?;
        require(self.offset >= earliest, field("offset"), || format!("expected {earliest} or more, found {}", self.offset))?;
        let end = self.offset.checked_add(self.size).filter(|_| self.size > 0);
        end.ok_or_else(|| NotAManifest::Value {
            field: field("size")(),
            problem: format!("expected a size on the disk, found {}", self.size),
        })
    }
}

fn require(sound: bool, field: impl Fn() -> String, problem: impl Fn() -> String) -> Result<(), NotAManifest> {
    if sound { Ok(()) } else { Err(NotAManifest::Value { field: field(), problem: problem() }) }
}

fn strictly_rising<'a>(field: &str, keys: impl Iterator<Item = (&'a str, &'a str)>) -> Result<(), NotAManifest> {
    let mut last = None;
    for key in keys {
        let sound = last.is_none_or(|last| last < key);
        require(
            sound,
            || field.to_owned(),
            || format!("expected each once and in order, found `{} {}` out of place", short(key.0), short(key.1)),
        )?;
        last = Some(key);
    }
    Ok(())
}

fn is_word(text: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || ".-+~_".contains(c);
    (1..=128).contains(&text.len()) && text.chars().all(plain) && !text.starts_with(['.', '-'])
}

fn is_path(text: &str) -> bool {
    text.len() <= 255 && text.split('/').all(is_word)
}

fn is_guid(text: &str) -> bool {
    text.len() == 36
        && text.bytes().enumerate().all(|(at, byte)| match at {
            8 | 13 | 18 | 23 => byte == b'-',
            _ => byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte),
        })
}

/// At most 80 characters, fit for a terminal.
fn short(text: &str) -> String {
    text.chars().take(80).flat_map(char::escape_debug).collect()
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;

    pub(crate) fn sample() -> Manifest {
        let digest = Sha256Digest::of(b"x");
        let file = |name: &str| File { name: name.into(), size: 3, sha256: digest };
        let package =
            |name: &str| Package { name: name.into(), version: "1:2-3".into(), architecture: "amd64".into(), sha256: digest };
        let partition = |label: &str, offset| Partition {
            label: label.into(),
            kind: "c12a7328-f81f-11d2-ba4b-00a0c93ec93b".into(),
            uuid: "00000000-0000-4000-8000-00000000000a".into(),
            offset,
            size: 1 << 20,
        };
        Manifest {
            format: FORMAT,
            name: "load-balancer".into(),
            version: "1.0+2~rc1".into(),
            role: "load-balancer".into(),
            architecture: "amd64".into(),
            epoch: 1_700_000_000,
            lock: digest,
            definition: digest,
            inputs: vec![Input {
                repository: "debian".into(),
                suite: "trixie".into(),
                date: 1,
                sha256: digest,
                signed_by: "AB".into(),
            }],
            root: Root { hash: digest, salt: "00ff".into(), block_size: 4096, blocks: 7 },
            partitions: vec![partition("esp", 1 << 20), partition("root-a", 2 << 20)],
            packages: vec![package("haproxy"), package("keepalived")],
            container_images: Vec::new(),
            files: vec![file("load-balancer.efi"), file("load-balancer.raw"), file("secure-boot/db.auth")],
        }
    }

    #[test]
    fn text_form_round_trips_and_is_pinned() {
        let text = sample().to_text().unwrap();
        assert_eq!(Manifest::parse(text.as_bytes()), Ok(sample()));
        // A change of the written form is a change of the format: say why in the commit.
        assert_eq!(
            Sha256Digest::of(text.as_bytes()).to_string(),
            "b9073c494914e9ed8219587dfb425c3c74d897462604c7342f8e8898a1fb8f01"
        );
    }

    fn pause(tag: &str) -> ContainerImage {
        let digest = format!("sha256:{}", Sha256Digest::of(b"x"));
        ContainerImage { reference: format!("registry.k8s.io/pause:{tag}"), digest, size: 7 }
    }

    #[test]
    fn container_images_are_said_where_there_are_some() {
        let mut manifest = sample();
        assert!(!manifest.to_text().unwrap().contains("container_images"));
        manifest.container_images = vec![pause("3.10"), pause("3.9")];
        assert_eq!(Manifest::parse(manifest.to_text().unwrap().as_bytes()), Ok(manifest));
    }

    type Change = fn(&mut Manifest);

    #[test]
    fn contradictions_are_named() {
        let cases: [(&str, Change); 20] = [
            ("expected format 1, found 2", |m| m.format = 2),
            ("name: ", |m| m.name = "../x".into()),
            ("version: ", |m| m.version = String::new()),
            ("role: ", |m| m.role = "a b".into()),
            ("architecture: ", |m| m.architecture = "\u{1b}[2J".into()),
            ("root.salt: ", |m| m.root.salt = "ABC".into()),
            ("root.block_size: ", |m| m.root.block_size = 4095),
            ("root.blocks: ", |m| m.root.blocks = u64::MAX),
            ("partitions[1].offset: expected 2097152 or more, found 1048577", |m| m.partitions[1].offset = (1 << 20) + 1),
            ("partitions[1].size: ", |m| m.partitions[1].size = u64::MAX),
            ("partitions[0].size: ", |m| m.partitions[0].size = 0),
            ("partitions[0].uuid: ", |m| m.partitions[0].uuid = "x".repeat(36)),
            ("partitions[0].label: ", |m| m.partitions[0].label = "x".repeat(37)),
            ("packages: expected each once", |m| m.packages.swap(0, 1)),
            ("packages: expected each once", |m| m.packages[1] = m.packages[0].clone()),
            ("container_images: expected each once", |m| m.container_images = vec![pause("3.10"), pause("3.1")]),
            ("container_images: registry.k8s.io/pause:3: digest", |m| {
                m.container_images = vec![ContainerImage { digest: "sha256:0".into(), ..pause("3") }];
            }),
            ("files: expected a path", |m| m.files[2].name = "secure-boot/../../x".into()),
            ("files: expected a path", |m| m.files[0].name = "/etc/passwd".into()),
            ("files: two names", |m| m.files[0].name = "LOAD-balancer.raw".into()),
        ];
        for (expected, change) in cases {
            let mut manifest = sample();
            change(&mut manifest);
            let text = serde_json::to_string(&manifest).unwrap();
            for error in [Manifest::parse(text.as_bytes()).map(|_| ()), manifest.to_text().map(|_| ())] {
                let error = error.expect_err(expected).to_string();
                assert!(error.contains(expected), "expected `{expected}`, found `{error}`");
                assert!(!error.contains('\u{1b}'));
            }
        }
    }

    #[test]
    fn unknown_doubled_and_missing_keys_are_refused() {
        let text = sample().to_text().unwrap();
        for (from, to) in [
            ("\"epoch\":", "\"epoch\": 1, \"epoch\":"),
            ("\"epoch\":", "\"spare\": 1, \"epoch\":"),
            ("\"salt\":", "\"pepper\": 1, \"salt\":"),
            ("\"epoch\":", "\"epohc\":"),
            ("1700000000", "-1"),
            ("1700000000", "1e999"),
        ] {
            assert!(text.contains(from));
            let error = Manifest::parse(text.replacen(from, to, 1).as_bytes()).unwrap_err();
            assert!(matches!(error, NotAManifest::Schema(_)), "{error}");
        }
        assert!(matches!(Manifest::parse(format!("{text}x").as_bytes()), Err(NotAManifest::Schema(_))));
        assert!(matches!(Manifest::parse(&vec![b' '; LIMIT + 1]), Err(NotAManifest::TooLong(_))));
        assert!(Manifest::parse("[".repeat(100_000).as_bytes()).is_err());
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_reader_panic(at in 0usize..2000, byte: u8) {
            let mut bytes = sample().to_text().unwrap().into_bytes();
            let length = bytes.len();
            bytes[at % length] = byte;
            let _ = Manifest::parse(&bytes);
            let _ = Manifest::parse(&bytes[..at % length]);
        }
    }
}
