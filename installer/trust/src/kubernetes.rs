//! What an image of a Kubernetes role says of itself: which Kubernetes it holds, and which container images it
//! brings along. The builder writes both files, the installer reads them.

use serde::{Deserialize, Serialize};

/// The only schema so far, of both files.
pub const SCHEMA: u32 = 1;
/// Where [`Kubernetes`] lies in an image, without leading `/`.
pub const KUBERNETES: &str = "usr/share/ingot/kubernetes.json";
/// Where [`ContainerImages`] lies in an image, without leading `/`.
pub const IMAGES: &str = "usr/share/ingot/container-images/images.json";
/// The images themselves: an OCI image layout as a tar, to be imported as it is; without leading `/`.
pub const ARCHIVE: &str = "usr/share/ingot/container-images/images.tar";
/// Longest of either file that is read, in bytes.
pub const LIMIT: usize = 1 << 20;

/// The Kubernetes of an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Kubernetes {
    /// [`SCHEMA`].
    pub schema: u32,
    /// Version without `v`: `1.34.2`.
    pub version: String,
    /// Registry and path before the names of its images: `registry.k8s.io`.
    pub image_repository: String,
    /// The image that holds a pod's namespaces, as kubeadm of this version wants it; containerd's sandbox image.
    pub pause: String,
    /// CoreDNS, as kubeadm of this version wants it.
    pub coredns: String,
    /// etcd, as kubeadm of this version wants it.
    pub etcd: String,
    /// Folder of the CNI plugins: `/opt/cni/bin`.
    pub cni_bin: String,
}

/// The container images that an image brings along, by reference.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ContainerImages {
    /// [`SCHEMA`].
    pub schema: u32,
    /// The images.
    pub images: Vec<ContainerImage>,
}

/// One container image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ContainerImage {
    /// Full reference under which it is imported: `registry.k8s.io/pause:3.10`.
    pub reference: String,
    /// Digest of what the reference names (an index or a manifest): `sha256:` and 64 hexadecimal digits.
    pub digest: String,
    /// Bytes of its documents and layers; images share layers, so the sum of all may be more than the archive.
    pub size: u64,
}

/// Why bytes are not such a file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unreadable {
    /// It is too long.
    #[error("expected {LIMIT} bytes at most, found {0}")]
    TooLong(usize),
    /// It was written by a newer program.
    #[error("expected schema {SCHEMA}, found {0}")]
    Schema(u32),
    /// It is no JSON of this schema.
    #[error("{0}")]
    Form(String),
}

impl Kubernetes {
    /// Reads the file's bytes.
    ///
    /// # Errors
    /// See [`Unreadable`].
    pub fn parse(bytes: &[u8]) -> Result<Self, Unreadable> {
        parse(bytes)
    }
}

impl ContainerImages {
    /// Reads the file's bytes.
    ///
    /// # Errors
    /// See [`Unreadable`].
    pub fn parse(bytes: &[u8]) -> Result<Self, Unreadable> {
        parse(bytes)
    }
}

fn parse<T: serde::de::DeserializeOwned>(bytes: &[u8]) -> Result<T, Unreadable> {
    /// What is looked at first, so that a newer file is called that and not a broken one.
    #[derive(Deserialize)]
    struct Head {
        schema: u32,
    }
    if bytes.len() > LIMIT {
        return Err(Unreadable::TooLong(bytes.len()));
    }
    let wrong = |e: serde_json::Error| Unreadable::Form(e.to_string());
    match serde_json::from_slice::<Head>(bytes).map_err(wrong)?.schema {
        SCHEMA => serde_json::from_slice(bytes).map_err(wrong),
        other => Err(Unreadable::Schema(other)),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "test code")]
mod tests {
    use super::*;

    const GOOD: &str = r#"{"schema":1,"version":"1.20.2","image_repository":"k8s.gcr.io","pause":"k8s.gcr.io/pause:3.2",
        "coredns":"k8s.gcr.io/coredns:1.7.0","etcd":"k8s.gcr.io/etcd:3.4.13-0","cni_bin":"/opt/cni/bin"}"#;

    #[test]
    fn both_files_are_read() {
        let kubernetes = Kubernetes::parse(GOOD.as_bytes()).unwrap();
        assert_eq!((kubernetes.version.as_str(), kubernetes.cni_bin.as_str()), ("1.20.2", "/opt/cni/bin"));
        let text = r#"{"schema":1,"images":[{"reference":"k8s.gcr.io/pause:3.2","digest":"sha256:00","size":7}]}"#;
        let images = ContainerImages::parse(text.as_bytes()).unwrap();
        assert_eq!(serde_json::to_string(&images).unwrap(), text);
    }

    #[test]
    fn others_are_refused_for_their_reason() {
        let newer = GOOD.replace("\"schema\":1", "\"schema\":2,\"more\":1");
        assert_eq!(Kubernetes::parse(newer.as_bytes()), Err(Unreadable::Schema(2)));
        for wrong in [GOOD.replace("pause\"", "paus\""), GOOD.replace('}', ",\"more\":1}"), String::new()] {
            assert!(matches!(Kubernetes::parse(wrong.as_bytes()), Err(Unreadable::Form(_))), "{wrong}");
        }
        assert_eq!(ContainerImages::parse(&vec![b' '; LIMIT + 1]), Err(Unreadable::TooLong(LIMIT + 1)));
    }
}
