//! The Kubernetes of the image: `/usr/share/ingot/kubernetes.json`, which the builder writes.

use profile::cluster::Version;
use trust::kubernetes;
pub use trust::kubernetes::Kubernetes as Release;

use crate::failure::{Failure, Result};
use crate::machine::Machine;
use crate::report::codes;

/// Where the image says it.
pub const PATH: &str = "/usr/share/ingot/kubernetes.json";

/// Version of kubeadm's configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Api {
    /// Up to Kubernetes 1.21.
    V1Beta2,
    /// 1.22 to 1.30.
    V1Beta3,
    /// From 1.31.
    V1Beta4,
}

impl Api {
    /// As it is written.
    pub fn name(self) -> &'static str {
        match self {
            Api::V1Beta2 => "kubeadm.k8s.io/v1beta2",
            Api::V1Beta3 => "kubeadm.k8s.io/v1beta3",
            Api::V1Beta4 => "kubeadm.k8s.io/v1beta4",
        }
    }
}

/// The oldest minor version whose kubeadm reads v1beta2.
const OLDEST: u32 = 15;

/// Reads the image's; `None` where it has no Kubernetes.
///
/// # Errors
/// [`codes::KUBERNETES_UNKNOWN`]: the file is not one this program reads.
pub fn read(machine: &dyn Machine) -> Result<Option<Release>> {
    let Some(bytes) = machine.read(PATH).map_err(|e| Failure::io("reading", PATH, &e))? else { return Ok(None) };
    let wrong = |e: kubernetes::Unreadable| Failure::new(&codes::KUBERNETES_UNKNOWN, format!("{PATH}: {e}"));
    Release::parse(&bytes).map(Some).map_err(wrong)
}

/// Its version, read.
///
/// # Errors
/// [`codes::KUBERNETES_UNKNOWN`].
pub fn version(release: &Release) -> Result<Version> {
    let wrong = || format!("{PATH}: expected a version such as `1.33.2`, found `{}`", release.version);
    release.version.parse().map_err(|()| Failure::new(&codes::KUBERNETES_UNKNOWN, wrong()))
}

/// The configuration that its kubeadm reads.
///
/// # Errors
/// [`codes::KUBERNETES_UNKNOWN`]: none that this program writes.
pub fn api(release: &Release) -> Result<Api> {
    match version(release)?.minor {
        ..OLDEST => {
            let message = format!(
                "kubeadm {} reads configurations older than v1beta2 only, which are no longer written; the oldest is 1.{OLDEST}",
                release.version
            );
            Err(Failure::new(&codes::KUBERNETES_UNKNOWN, message))
        }
        OLDEST..=21 => Ok(Api::V1Beta2),
        22..=30 => Ok(Api::V1Beta3),
        _ => Ok(Api::V1Beta4),
    }
}

/// Keys of the taints by which kubeadm of this version keeps workloads off control planes.
pub fn control_plane_taints(minor: u32) -> &'static [&'static str] {
    match minor {
        ..=23 => &["node-role.kubernetes.io/master"],
        24 => &["node-role.kubernetes.io/master", "node-role.kubernetes.io/control-plane"],
        _ => &["node-role.kubernetes.io/control-plane"],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn release(version: &str) -> Release {
        let text = format!(
            r#"{{"schema":1,"version":"{version}","image_repository":"r","pause":"r/pause:3","coredns":"r/coredns:1","etcd":"r/etcd:3","cni_bin":"/opt/cni/bin"}}"#
        );
        serde_json::from_str(&text).unwrap()
    }

    #[test]
    fn versions_of_the_configuration() {
        for (version, wanted) in [
            ("1.15.0", Some(Api::V1Beta2)),
            ("1.20.2", Some(Api::V1Beta2)),
            ("1.21.14", Some(Api::V1Beta2)),
            ("1.22.0", Some(Api::V1Beta3)),
            ("1.30.9", Some(Api::V1Beta3)),
            ("1.31.0", Some(Api::V1Beta4)),
            ("1.36.1", Some(Api::V1Beta4)),
            ("1.14.10", None),
            ("1.31", None),
        ] {
            assert_eq!(api(&release(version)).ok(), wanted, "{version}");
        }
        let words = api(&release("1.14.10")).unwrap_err().to_string();
        assert!(words.contains("1.14.10") && words.contains("the oldest is 1.15"), "{words}");
    }
}
