//! The kubelet's own arguments, rendered at every boot so that they follow the profile.

use std::collections::BTreeMap;

use profile::Profile;
use profile::machine::Kubelet;

use super::member::MARKER;
use crate::apply::expect;
use crate::facts::Facts;
use crate::failure::{Failure, Result};
use crate::machine::Machine;
use crate::steps::files::{Files, Wanted};
use crate::steps::{How, UnitAction, Verdict, Work, World};

/// Its unit.
pub const UNIT: &str = "kubelet.service";

/// What upstream's unit reads.
const FILE: &str = "/etc/default/kubelet";

/// The kubelet's thresholds by default, which naming one of them takes away.
const EVICTION: &str = "nodefs.available<10%,nodefs.inodesFree<5%,imagefs.available<15%";

/// The step `kubelet`: its arguments; it is started once this machine is part of its cluster, before that by kubeadm.
#[derive(Debug)]
pub struct Arguments(Files);

impl Arguments {
    /// Those of the profile.
    pub fn of(profile: &Profile, facts: &Facts) -> Self {
        let all: Vec<String> = arguments(profile, facts).iter().map(|(name, value)| format!("--{name}={value}")).collect();
        let text = format!("# Made by ingot-installer.\nKUBELET_EXTRA_ARGS=\"{}\"\n", all.join(" "));
        Self(Files::of(vec![Wanted::public(FILE, text)]))
    }
}

fn arguments(profile: &Profile, facts: &Facts) -> BTreeMap<String, String> {
    let Kubelet { max_pods, reserved_memory, reserved_cpu_millis, eviction_memory, image_gc_percent, .. } = profile.kubelet;
    let mut all = profile.kubelet.arguments.clone();
    let mut set = |name: &str, value: String| {
        all.insert(name.to_owned(), value);
    };
    set("max-pods", max_pods.to_string());
    let mut reserved = Vec::new();
    reserved.extend((reserved_cpu_millis > 0).then(|| format!("cpu={reserved_cpu_millis}m")));
    reserved.extend((reserved_memory > 0).then(|| format!("memory={reserved_memory}")));
    if !reserved.is_empty() {
        set("system-reserved", reserved.join(","));
    }
    set("eviction-hard", format!("memory.available<{eviction_memory},{EVICTION}"));
    set("image-gc-high-threshold", image_gc_percent.to_string());
    set("image-gc-low-threshold", image_gc_percent.saturating_sub(5).to_string());
    if !facts.container {
        // The image sets what the kubelet would set by itself.
        set("protect-kernel-defaults", "true".to_owned());
    }
    if let Some(address) = profile.kubelet.node_address {
        set("node-ip", address.to_string());
    }
    let labels: Vec<String> = profile.node.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
    if !labels.is_empty() {
        set("node-labels", labels.join(","));
    }
    if facts.legacy_cgroups {
        // The cluster's own setting may be that of machines with version 2.
        set("cgroup-driver", "cgroupfs".to_owned());
    }
    all
}

impl Work for Arguments {
    fn lines(&self) -> Vec<String> {
        self.0.lines()
    }

    fn input(&self) -> Vec<u8> {
        self.0.input()
    }

    fn check(&self, machine: &dyn Machine) -> Result<Verdict> {
        self.0.check(machine)
    }

    fn apply(&self, world: World<'_>) -> Result<()> {
        let machine = world.machine;
        let joined = machine.attributes(MARKER).map_err(|e| Failure::io("reading", MARKER, &e))?.is_some();
        let mut units = vec![UnitAction::new(How::Restart, UNIT)];
        units.extend(joined.then(|| UnitAction::new(How::Start, UNIT)));
        expect(machine, units)?;
        self.0.apply(world)
    }
}
