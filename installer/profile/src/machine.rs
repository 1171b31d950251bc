//! `[disks]`, `[kernel]`, `[kubelet]`: what the machine is set up with.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::de::{self, Deserializer, Visitor};

use crate::check::{Check, Text};
use crate::document::{Located, quoted};
use crate::node::Role;
use crate::rules;
use crate::size::Size;

/// File system of the state partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[cfg_attr(any(test, feature = "schema"), derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum FileSystem {
    /// ext4.
    Ext4,
    /// XFS.
    Xfs,
}

/// How the state partition is encrypted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[cfg_attr(any(test, feature = "schema"), derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Encryption {
    /// Not at all.
    None,
    /// LUKS2 with a key sealed in the TPM2.
    Tpm2,
}

/// `[disks]` as it is written.
#[derive(Debug, Clone, Default, Deserialize)]
#[cfg_attr(any(test, feature = "schema"), derive(schemars::JsonSchema), schemars(rename = "Disks"))]
#[serde(deny_unknown_fields)]
pub struct WrittenDisks {
    /// The state partition: what persists over reboots and new images.
    #[serde(default)]
    pub state: WrittenState,
}

/// `[disks.state]` as it is written.
#[derive(Debug, Clone, Default, Deserialize)]
#[cfg_attr(any(test, feature = "schema"), derive(schemars::JsonSchema), schemars(rename = "State"))]
#[serde(deny_unknown_fields)]
pub struct WrittenState {
    /// File system; `ext4` by default. Decided at first boot.
    pub file_system: Option<FileSystem>,
    /// Encryption; `none` by default. Decided at first boot.
    pub encryption: Option<Encryption>,
    /// PCRs the key is bound to; `[7]` (Secure Boot) by default.
    pub pcrs: Option<Vec<Located<u8>>>,
    /// Least size: `8 GiB`; a smaller disk is refused. 256 MiB by default.
    pub least: Option<Located<Size>>,
}

/// The state partition.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct State {
    /// File system.
    pub file_system: FileSystem,
    /// Encryption.
    pub encryption: Encryption,
    /// PCRs, ascending; empty without encryption.
    pub pcrs: Vec<u8>,
    /// Least size in bytes.
    pub least: u64,
}

/// The least a state partition can be.
const LEAST_STATE: u64 = 256 << 20;

pub(crate) fn check_state(check: &mut Check<'_>, written: &WrittenState) -> State {
    let encryption = written.encryption.unwrap_or(Encryption::None);
    let mut pcrs: Vec<u8> = Vec::new();
    for pcr in written.pcrs.iter().flatten() {
        if **pcr > 23 {
            check.faults.add(pcr.place(), format!("expected a PCR from 0 to 23, found {}", **pcr));
        }
        if encryption == Encryption::None && check.whole {
            check.faults.add_with_hint(pcr.place(), "PCRs mean nothing without encryption", "add `encryption = \"tpm2\"`");
        }
        pcrs.push(**pcr);
    }
    check.twice("PCR", written.pcrs.iter().flatten());
    if written.pcrs.is_none() && encryption == Encryption::Tpm2 {
        pcrs.push(7);
    }
    pcrs.sort_unstable();
    let least = written.least.as_ref().map_or(LEAST_STATE, |least| least.0);
    if let Some(written) = written.least.as_ref().filter(|_| least < LEAST_STATE) {
        check.faults.add(written.place(), format!("expected {} or more, found {}", Size(LEAST_STATE), **written));
    }
    State { file_system: written.file_system.unwrap_or(FileSystem::Ext4), encryption, pcrs, least }
}

/// A sysctl's value: a text or a whole number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Value(pub String);

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ValueVisitor)
    }
}

struct ValueVisitor;

impl Visitor<'_> for ValueVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a text in quotes or a whole number")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Value, E> {
        Ok(Value(text.to_owned()))
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<Value, E> {
        Ok(Value(number.to_string()))
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<Value, E> {
        Ok(Value(number.to_string()))
    }

    /// A hole that an earlier fault left (see [`crate::document`]).
    fn visit_unit<E: de::Error>(self) -> Result<Value, E> {
        Ok(Value("0".to_owned()))
    }
}

/// `[kernel]` as it is written.
#[derive(Debug, Clone, Default, Deserialize)]
#[cfg_attr(any(test, feature = "schema"), derive(schemars::JsonSchema), schemars(rename = "Kernel"))]
#[serde(deny_unknown_fields)]
pub struct WrittenKernel {
    /// Modules loaded at boot.
    #[serde(default)]
    pub modules: Vec<Text>,
    /// sysctls, by name: `"net.ipv4.tcp_keepalive_time" = 600`.
    #[serde(default)]
    pub sysctls: BTreeMap<Text, Located<Value>>,
}

/// What the kernel is told.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Kernel {
    /// Modules loaded at boot, in the order written.
    pub modules: Vec<String>,
    /// sysctls.
    pub sysctls: BTreeMap<String, String>,
}

/// sysctls that name programs run as root, or that open what the image closed.
const REFUSED: [&str; 6] = [
    "kernel.core_pattern",
    "kernel.modprobe",
    "kernel.hotplug",
    "kernel.poweroff_cmd",
    "kernel.modules_disabled",
    "kernel.sysrq",
];

pub(crate) fn check_kernel(check: &mut Check<'_>, written: &WrittenKernel) -> Kernel {
    check.twice("module", &written.modules);
    for (name, value) in &written.sysctls {
        if REFUSED.contains(&name.replace('/', ".").as_str()) {
            check.faults.add(name.place(), format!("the sysctl {} is not for a profile", quoted(name)));
        }
        if !rules::LINE.holds(&value.0) || value.0.is_empty() {
            check.faults.add(value.place(), format!("{} is no value of a sysctl: expected one line", quoted(&value.0)));
        }
    }
    Kernel {
        modules: check.list(&written.modules, &rules::MODULE),
        sysctls: written.sysctls.iter().map(|(name, value)| (check.text(name, &rules::SYSCTL), value.0.clone())).collect(),
    }
}

/// `[kubelet]` as it is written.
#[derive(Debug, Clone, Default, Deserialize)]
#[cfg_attr(any(test, feature = "schema"), derive(schemars::JsonSchema), schemars(rename = "Kubelet"))]
#[serde(deny_unknown_fields)]
pub struct WrittenKubelet {
    /// Most pods on this node; 110 by default, 1 to 1000.
    pub max_pods: Option<Located<u32>>,
    /// Memory kept for the system: `512 MiB`; none by default.
    pub reserved_memory: Option<Located<Size>>,
    /// CPU kept for the system, in thousandths of a core; none by default, 0 to 64000.
    pub reserved_cpu_millis: Option<Located<u32>>,
    /// Free memory below which pods are evicted: `100 MiB` by default.
    pub eviction_memory: Option<Located<Size>>,
    /// Percent of the image store in use from which images are removed; 85 by default, 10 to 100.
    pub image_gc_percent: Option<Located<u32>>,
    /// Address of the node in the cluster; found by itself by default.
    pub node_address: Option<Text>,
    /// Further arguments, without `--`.
    #[serde(default)]
    pub arguments: BTreeMap<Text, Text>,
}

/// Settings of the kubelet.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Kubelet {
    /// Most pods.
    pub max_pods: u32,
    /// Memory kept for the system, in bytes.
    pub reserved_memory: u64,
    /// CPU kept for the system, in thousandths of a core.
    pub reserved_cpu_millis: u32,
    /// Free memory below which pods are evicted, in bytes.
    pub eviction_memory: u64,
    /// Percent of the image store.
    pub image_gc_percent: u32,
    /// Address of the node in the cluster.
    pub node_address: Option<std::net::IpAddr>,
    /// Further arguments.
    pub arguments: BTreeMap<String, String>,
}

/// Arguments the installer sets itself.
const OWN_ARGUMENTS: [&str; 14] = [
    "config",
    "kubeconfig",
    "bootstrap-kubeconfig",
    "hostname-override",
    "node-ip",
    "node-labels",
    "register-with-taints",
    "container-runtime-endpoint",
    "max-pods",
    "system-reserved",
    "eviction-hard",
    "image-gc-high-threshold",
    "image-gc-low-threshold",
    "cgroup-driver",
];

pub(crate) fn check_kubelet(
    check: &mut Check<'_>,
    written: &WrittenKubelet,
    role: Role,
    place: Option<crate::document::Place>,
) -> Kubelet {
    if let Some(place) = place.filter(|_| !role.is_node()) {
        check.faults.add_with_hint(place, "a load balancer has no kubelet", "leave `[kubelet]` out");
    }
    for name in written.arguments.keys().filter(|name| OWN_ARGUMENTS.contains(&name.as_str())) {
        let message = format!("the argument {} is set by the installer", quoted(name));
        check.faults.add_with_hint(name.place(), message, "the other keys of `[kubelet]` and `[node]` say it");
    }
    Kubelet {
        max_pods: check.number(written.max_pods.as_ref(), "max_pods", 1..=1000, 110),
        reserved_memory: written.reserved_memory.as_ref().map_or(0, |size| size.0),
        reserved_cpu_millis: check.number(written.reserved_cpu_millis.as_ref(), "reserved_cpu_millis", 0..=64000, 0),
        eviction_memory: written.eviction_memory.as_ref().map_or(100 << 20, |size| size.0),
        image_gc_percent: check.number(written.image_gc_percent.as_ref(), "image_gc_percent", 10..=100, 85),
        node_address: written.node_address.as_ref().and_then(|text| check.address(text)),
        arguments: written
            .arguments
            .iter()
            .map(|(k, v)| (check.text(k, &rules::ARGUMENT), check.text(v, &rules::ARGUMENT_VALUE)))
            .collect(),
    }
}
