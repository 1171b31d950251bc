//! `ingot-installer drain`: takes new pods away from this node, and moves those that are on it elsewhere.
//!
//! Everything is done as the kubelet of the node, on workers and control planes alike: a node may cordon itself and evict
//! the pods that are bound to it, and no others (the API server's admission plugin NodeRestriction sees to that). `kubectl
//! drain` cannot do it as a node, since it reads DaemonSets, which a node may not. An eviction asks PodDisruptionBudgets;
//! one that says no is asked again until the time is over. Pods of DaemonSets, static pods and those that have ended stay.
//!
//! The next run of the installer takes the cordon away where it was ours ([`super::node`]).

use std::collections::BTreeMap;
use std::time::Duration;

use profile::address::Endpoint;
use serde_json::{Value, json};

use super::api::{Answer, As, Change, Way};
use super::member;
use super::node::{DRAINED, annotation};
use super::release;
use crate::failure::{Failure, Result};
use crate::machine::net::Sent;
use crate::machine::{Machine, read_text};
use crate::report::codes;
use crate::steps::World;

/// Where the kubelet's API is.
const KUBELET_CONF: &str = "/etc/kubernetes/kubelet.conf";

/// Between questions.
const AGAIN: Duration = Duration::from_secs(2);

/// How a node is drained.
#[derive(Debug, Clone, Copy)]
pub struct Drain {
    /// How long it may take.
    pub within: Duration,
    /// Also pods that nothing makes anew elsewhere.
    pub force: bool,
}

/// A pod that has to leave.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Pod {
    namespace: String,
    name: String,
    /// Something makes it anew elsewhere.
    owned: bool,
    /// It is on its way.
    leaving: bool,
}

impl Pod {
    /// `None` for one that stays.
    fn of(pod: &Value) -> Option<Self> {
        let text = |path: &str| pod.pointer(path).and_then(Value::as_str);
        let owners = pod.pointer("/metadata/ownerReferences").and_then(Value::as_array);
        let owner = owners.into_iter().flatten().find(|owner| owner.get("controller").is_some_and(|is| is == true));
        let daemon = owner.is_some_and(|owner| owner.get("kind").is_some_and(|kind| kind == "DaemonSet"));
        let ended = matches!(text("/status/phase"), Some("Succeeded" | "Failed"));
        if daemon || ended || annotation(pod, "kubernetes.io/config.mirror").is_some() {
            return None;
        }
        Some(Self {
            namespace: text("/metadata/namespace")?.to_owned(),
            name: text("/metadata/name")?.to_owned(),
            owned: owner.is_some(),
            leaving: text("/metadata/deletionTimestamp").is_some(),
        })
    }

    fn id(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }
}

fn failed(why: impl Into<String>) -> Failure {
    Failure::new(&codes::NOT_DRAINED, why)
}

/// The API that the kubelet uses.
fn endpoint(machine: &dyn Machine) -> Result<Endpoint> {
    let text = read_text(machine, KUBELET_CONF)?.unwrap_or_default();
    let server = text.lines().find_map(|line| line.trim().strip_prefix("server: https://"));
    let parsed = server.and_then(|server| server.trim().trim_end_matches('/').parse().ok());
    parsed.ok_or_else(|| failed(format!("{KUBELET_CONF} names no API: this machine is part of no cluster")))
}

/// Drains the node.
///
/// # Errors
/// [`codes::NOT_DRAINED`] with what is left, and why.
pub fn drain(world: World<'_>, how: Drain) -> Result<()> {
    let machine = world.machine;
    let name = member::name(machine)?;
    let endpoint = endpoint(machine)?;
    let minor = release::read(machine)?.map(|release| release::version(&release)).transpose()?.map_or(u32::MAX, |v| v.minor);
    let way = Way::of(machine, &endpoint, As::Node)?.map_err(failed)?;
    cordon(world, &way, &name)?;
    let end = machine.uptime().saturating_add(how.within);
    let mut said = BTreeMap::new();
    loop {
        let pods = pods(machine, &way, &name)?;
        if pods.is_empty() {
            machine.say(&format!("ingot: {name} is drained"));
            return Ok(());
        }
        if let Some(bare) = pods.iter().find(|pod| !pod.owned && !pod.leaving && !how.force) {
            return Err(failed(format!("nothing makes {} anew elsewhere: it would be gone for good", bare.id())));
        }
        let mut held = Vec::new();
        for pod in &pods {
            let state = if pod.leaving { "is ending".to_owned() } else { evict(machine, &way, pod, minor)? };
            if said.get(&pod.id()) != Some(&state) {
                machine.say(&format!("ingot: {} {state}", pod.id()));
                said.insert(pod.id(), state.clone());
            }
            held.push(format!("{} {state}", pod.id()));
        }
        if machine.uptime() >= end {
            return Err(failed(format!("{} pods are left after {} s: {}", held.len(), how.within.as_secs(), held.join("; "))));
        }
        world.report.waiting("drain", "the pods of this node to end", how.within);
        machine.sleep(AGAIN);
    }
}

/// No new pods come here. That it was us is noted, unless somebody else has cordoned it already.
fn cordon(world: World<'_>, way: &Way<'_>, name: &str) -> Result<()> {
    let machine = world.machine;
    let path = format!("/api/v1/nodes/{name}");
    let node = match way.get(machine, &path) {
        Answer::Object(node) => node,
        Answer::Missing => return Err(failed(format!("the cluster has no node {name}"))),
        Answer::Silent(reason) => return Err(failed(format!("the API cannot be asked: {reason}"))),
    };
    if node.pointer("/spec/unschedulable").is_some_and(|is| is == true) {
        machine.say(&format!("ingot: {name} is cordoned already"));
        return Ok(());
    }
    let patch = json!({ "metadata": { "annotations": { DRAINED: "true" } }, "spec": { "unschedulable": true } });
    match way.change(machine, &path, Sent::Merge, &patch) {
        Change::Done => {
            machine.say(&format!("ingot: {name} is cordoned"));
            Ok(())
        }
        Change::Refused(_, reason) | Change::Silent(reason) => Err(failed(format!("{name} cannot be cordoned: {reason}"))),
    }
}

/// The pods that have to leave.
fn pods(machine: &dyn Machine, way: &Way<'_>, name: &str) -> Result<Vec<Pod>> {
    let list = match way.get(machine, &format!("/api/v1/pods?fieldSelector=spec.nodeName%3D{name}")) {
        Answer::Object(list) => list,
        Answer::Missing => json!({}),
        Answer::Silent(reason) => return Err(failed(format!("the API cannot be asked for the pods: {reason}"))),
    };
    Ok(list.get("items").and_then(Value::as_array).into_iter().flatten().filter_map(Pod::of).collect())
}

/// Asks for the eviction; what became of it.
fn evict(machine: &dyn Machine, way: &Way<'_>, pod: &Pod, minor: u32) -> Result<String> {
    let Pod { namespace, name, .. } = pod;
    let version = if minor >= 22 { "policy/v1" } else { "policy/v1beta1" };
    let body = json!({ "apiVersion": version, "kind": "Eviction", "metadata": { "name": name, "namespace": namespace } });
    let path = format!("/api/v1/namespaces/{namespace}/pods/{name}/eviction");
    match way.change(machine, &path, Sent::Post, &body) {
        Change::Done | Change::Refused(404, _) => Ok("is evicted".to_owned()),
        Change::Refused(429, words) => Ok(format!("may not leave yet: {words}")),
        Change::Refused(status @ (401 | 403), words) => Err(failed(format!("{}: {status}: {words}", pod.id()))),
        Change::Refused(_, words) | Change::Silent(words) => Ok(format!("cannot be evicted: {words}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_leaves() {
        let owner = |kind: &str| json!([{ "kind": kind, "controller": true, "name": "x" }]);
        let pod = |more: Value| {
            let mut pod = json!({ "metadata": { "name": "p", "namespace": "n" }, "status": { "phase": "Running" } });
            for (key, value) in more.as_object().unwrap() {
                pod["metadata"][key] = value.clone();
            }
            pod
        };
        let leaves = |more: Value| Pod::of(&pod(more)).map(|pod| (pod.owned, pod.leaving));
        assert_eq!(leaves(json!({ "ownerReferences": owner("ReplicaSet") })), Some((true, false)));
        assert_eq!(leaves(json!({ "deletionTimestamp": "2026-01-01T00:00:00Z" })), Some((false, true)));
        assert_eq!(leaves(json!({ "ownerReferences": owner("DaemonSet") })), None);
        assert_eq!(
            leaves(json!({ "ownerReferences": owner("Node"), "annotations": { "kubernetes.io/config.mirror": "x" } })),
            None
        );
        let mut ended = pod(json!({}));
        ended["status"]["phase"] = json!("Succeeded");
        assert_eq!(Pod::of(&ended), None);
    }
}
