//! Names of container images, in full: `registry.k8s.io/pause:3.10`. Nothing is guessed: no registry, no tag.

use std::fmt;
use std::str::FromStr;

use trust::Sha256Digest;

/// Longest name of registry and repository together, in bytes (OCI distribution specification 1.1).
const LONGEST: usize = 255;

/// Where a container image is: `registry/repository:tag` or `registry/repository@sha256:digest`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Reference {
    /// Host, with a port where it is not the usual one.
    pub registry: String,
    /// Path of the repository in the registry.
    pub repository: String,
    /// Which image of the repository.
    pub version: Version,
}

/// What stands behind the name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Version {
    /// A tag, which may be moved.
    Tag(String),
    /// The very bytes. A tag written beside it says nothing and is dropped, as container runtimes do.
    Digest(Sha256Digest),
}

impl Reference {
    /// Last part of the name: `kube-proxy`.
    pub fn name(&self) -> &str {
        self.repository.rsplit('/').next().unwrap_or(&self.repository)
    }

    /// Registry and path before the last part of the name.
    pub fn parent(&self) -> String {
        match self.repository.rsplit_once('/') {
            Some((path, _)) => format!("{}/{path}", self.registry),
            None => self.registry.clone(),
        }
    }
}

impl FromStr for Reference {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let refuse = |expected: &str| Err(format!("`{}` is no container image: expected {expected}", text.escape_debug()));
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => match digest.strip_prefix("sha256:").map(str::parse::<Sha256Digest>) {
                Some(Ok(digest)) => (rest, Some(digest)),
                _ => return refuse("`sha256:` and 64 hexadecimal digits behind the `@`"),
            },
            None => (text, None),
        };
        let (name, tag) = match rest.rsplit_once(':') {
            Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
            _ => (rest, None),
        };
        if tag.is_some_and(|tag| !is_tag(tag)) {
            return refuse("a tag of letters, digits, `_`, `.` and `-`, at most 128");
        }
        let version = match (digest, tag) {
            (Some(digest), _) => Version::Digest(digest),
            (None, Some(tag)) => Version::Tag(tag.to_owned()),
            (None, None) => return refuse("a tag or a digest"),
        };
        let (registry, repository) = match name.split_once('/') {
            Some(parts) if is_registry(parts.0) => parts,
            _ => return refuse("the registry in front, such as `docker.io/library/busybox:1.37`"),
        };
        if name.len() > LONGEST || !repository.split('/').all(is_part) {
            return refuse("lower-case names with `.`, `_` or `-` between letters and digits, separated by `/`");
        }
        Ok(Self { registry: registry.to_owned(), repository: repository.to_owned(), version })
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)?;
        match &self.version {
            Version::Tag(tag) => write!(f, ":{tag}"),
            Version::Digest(digest) => write!(f, "@sha256:{digest}"),
        }
    }
}

/// A first part is a host only with a dot, a port, or the name `localhost`; else it would be a path of Docker's own registry.
pub fn is_registry(text: &str) -> bool {
    let (host, port) = text.split_once(':').map_or((text, None), |(host, port)| (host, Some(port)));
    let label = |part: &str| {
        !part.is_empty()
            && !part.starts_with('-')
            && !part.ends_with('-')
            && part.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
    };
    let port_holds = port.is_none_or(|port| !port.is_empty() && port.parse::<u16>().is_ok_and(|port| port > 0));
    host.split('.').all(label) && port_holds && (host.contains('.') || port.is_some() || host == "localhost")
}

fn is_tag(tag: &str) -> bool {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    tag.len() <= 128 && tag.bytes().next().is_some_and(word) && tag.bytes().all(|b| word(b) || b == b'.' || b == b'-')
}

/// One part of a repository: `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`.
fn is_part(part: &str) -> bool {
    let letter = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = part.as_bytes();
    let ends = bytes.first().is_some_and(|b| letter(*b)) && bytes.last().is_some_and(|b| letter(*b));
    let separators = part.split(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit());
    ends && separators.filter(|s| !s.is_empty()).all(|s| matches!(s, "." | "_" | "__") || s.bytes().all(|b| b == b'-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn full_names_are_read_and_written_again() {
        let digest = "a".repeat(64);
        for text in [
            "registry.k8s.io/pause:3.10",
            "registry.k8s.io/coredns/coredns:v1.12.1",
            "127.0.0.1:5000/x/y__z:T_1.2-3",
            "localhost/a--b:1",
            &format!("quay.io/cilium/cilium@sha256:{digest}"),
        ] {
            assert_eq!(text.parse::<Reference>().unwrap().to_string(), text);
        }
        let both: Reference = format!("quay.io/a/b:tag@sha256:{digest}").parse().unwrap();
        assert_eq!(both.to_string(), format!("quay.io/a/b@sha256:{digest}"));
        assert_eq!((both.name(), both.parent().as_str()), ("b", "quay.io/a"));
        assert_eq!("k8s.gcr.io/etcd:1".parse::<Reference>().unwrap().parent(), "k8s.gcr.io");
    }

    #[test]
    fn what_would_have_to_be_guessed_is_refused() {
        for (text, words) in [
            ("busybox:1", "the registry in front"),
            ("library/busybox:1", "the registry in front"),
            ("docker.io/library/busybox", "a tag or a digest"),
            ("docker.io/a:b c", "a tag of letters"),
            ("docker.io/a@sha512:00", "64 hexadecimal"),
            ("docker.io/A/b:1", "lower-case"),
            ("docker.io/a..b/c:1", "lower-case"),
            ("docker.io/../b:1", "lower-case"),
            ("docker.io//b:1", "lower-case"),
            ("docker.io:99999/b:1", "the registry in front"),
            ("a@b@c/d:1", "64 hexadecimal"),
            ("https://docker.io/a:1", "the registry in front"),
            ("", "a tag or a digest"),
        ] {
            let error = text.parse::<Reference>().unwrap_err();
            assert!(error.contains(words), "{text}: {error}");
        }
    }
}
