//! `[node]`: who this machine is.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::check::{Check, Text};
use crate::document::Located;
use crate::rules;

/// What a machine is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[cfg_attr(any(test, feature = "schema"), derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// HAProxy and keepalived in front of a cluster.
    LoadBalancer,
    /// Runs the control plane of a cluster.
    ControlPlane,
    /// Runs workloads on Linux.
    LinuxWorker,
    /// Runs workloads on Windows.
    WindowsWorker,
}

impl Role {
    /// Whether machines of this role run a kubelet.
    pub fn is_node(self) -> bool {
        self != Role::LoadBalancer
    }

    /// As it is written.
    pub fn name(self) -> &'static str {
        match self {
            Role::LoadBalancer => "load-balancer",
            Role::ControlPlane => "control-plane",
            Role::LinuxWorker => "linux-worker",
            Role::WindowsWorker => "windows-worker",
        }
    }
}

/// What a taint does to pods that do not tolerate it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[cfg_attr(any(test, feature = "schema"), derive(schemars::JsonSchema))]
pub enum Effect {
    /// They are not scheduled here.
    NoSchedule,
    /// They are scheduled here only where nothing else is left.
    PreferNoSchedule,
    /// They are not scheduled here, and those here are evicted.
    NoExecute,
}

/// `[node]` as it is written.
#[derive(Debug, Clone, Deserialize)]
#[cfg_attr(any(test, feature = "schema"), derive(schemars::JsonSchema), schemars(rename = "Node"))]
#[serde(deny_unknown_fields)]
pub struct Written {
    /// Name of the machine: its host name, and its name in the cluster. Lower-case letters, digits and `-`, at most 63.
    pub name: Text,
    /// DNS domain of the machine; none by default.
    pub domain: Option<Text>,
    /// What the machine is for. Must be the role of the image.
    pub role: Located<Role>,
    /// Kubernetes labels of the node; none by default.
    #[serde(default)]
    pub labels: BTreeMap<Text, Text>,
    /// Kubernetes annotations of the node; none by default.
    #[serde(default)]
    pub annotations: BTreeMap<Text, Text>,
    /// Kubernetes taints of the node; none by default.
    #[serde(default)]
    pub taints: Vec<WrittenTaint>,
}

/// A taint as it is written.
#[derive(Debug, Clone, Deserialize)]
#[cfg_attr(any(test, feature = "schema"), derive(schemars::JsonSchema), schemars(rename = "Taint"))]
#[serde(deny_unknown_fields)]
pub struct WrittenTaint {
    /// Key, as that of a label.
    pub key: Text,
    /// Value; empty by default.
    pub value: Option<Text>,
    /// What it does.
    pub effect: Effect,
}

/// Who this machine is.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Node {
    /// Host name without domain.
    pub name: String,
    /// DNS domain.
    pub domain: Option<String>,
    /// What the machine is for.
    pub role: Role,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Annotations.
    pub annotations: BTreeMap<String, String>,
    /// Taints, in the order written.
    pub taints: Vec<Taint>,
}

/// A taint.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Taint {
    /// Key.
    pub key: String,
    /// Value, may be empty.
    pub value: String,
    /// What it does.
    pub effect: Effect,
}

/// Labels the API server does not let a kubelet give itself (NodeRestriction).
const RESERVED: [&str; 2] = ["kubernetes.io/", "k8s.io/"];

/// Labels below [`RESERVED`] that it lets through.
const ALLOWED: [&str; 6] = [
    "node.kubernetes.io/",
    "kubelet.kubernetes.io/",
    "topology.kubernetes.io/",
    "kubernetes.io/hostname",
    "kubernetes.io/os",
    "kubernetes.io/arch",
];

pub(crate) fn check(check: &mut Check<'_>, written: &Written) -> Node {
    if !written.role.is_node() {
        for (key, _) in written.labels.iter().chain(&written.annotations) {
            check.faults.add(key.place(), "a load balancer is no node of a cluster: it has no labels and annotations");
        }
        for taint in &written.taints {
            check.faults.add(taint.key.place(), "a load balancer is no node of a cluster: it has no taints");
        }
    }
    for key in written.labels.keys() {
        let reserved = key.split_once('/').is_some_and(|(prefix, _)| {
            RESERVED.iter().any(|end| format!("{prefix}/").ends_with(end)) && !ALLOWED.iter().any(|start| key.starts_with(start))
        });
        if reserved {
            let message = format!("a node may not give itself the label {}", crate::document::quoted(key));
            check.faults.add_with_hint(key.place(), message, "take a prefix of your own, or `node.kubernetes.io/`");
        }
    }
    let mut taints = Vec::new();
    for taint in &written.taints {
        taints.push(Taint {
            key: check.text(&taint.key, &rules::LABEL_KEY),
            value: check.optional(taint.value.as_ref(), &rules::LABEL_VALUE).unwrap_or_default(),
            effect: taint.effect,
        });
    }
    Node {
        name: check.text(&written.name, &rules::NAME),
        domain: check.optional(written.domain.as_ref(), &rules::DOMAIN),
        role: *written.role,
        labels: written
            .labels
            .iter()
            .map(|(k, v)| (check.text(k, &rules::LABEL_KEY), check.text(v, &rules::LABEL_VALUE)))
            .collect(),
        annotations: written
            .annotations
            .iter()
            .map(|(k, v)| (check.text(k, &rules::LABEL_KEY), check.text(v, &rules::LINE)))
            .collect(),
        taints,
    }
}
