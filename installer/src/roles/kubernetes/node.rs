//! The step `node`: the Node object has the labels and annotations of the profile, and is Ready.

use std::collections::BTreeMap;
use std::time::Duration;

use profile::address::Endpoint;
use profile::node::Taint;
use serde_json::Value;

use super::api::{self, ADMIN, Answer, As, KUBELET_CONF};
use super::config::effect;
use crate::failure::{Failure, Result};
use crate::machine::{Command, Machine, run};
use crate::report::codes;
use crate::steps::{Verdict, Work, World};

/// How long a node may take to be Ready.
const WAIT: Duration = Duration::from_secs(600);

/// The step.
#[derive(Debug)]
pub struct Node {
    /// Its name.
    pub name: String,
    /// Where the API is.
    pub endpoint: Endpoint,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Annotations.
    pub annotations: BTreeMap<String, String>,
    /// Taints. A node may not change its own: those of workers are set when they register.
    pub taints: Vec<Taint>,
    /// Whether this is a control plane, which has the administrator's certificate.
    pub control_plane: bool,
}

/// What is wanted and not there.
#[derive(Debug, Default, PartialEq, Eq)]
struct Lacks {
    labels: Vec<String>,
    annotations: Vec<String>,
    taints: Vec<String>,
}

impl Lacks {
    fn none(&self) -> bool {
        self.labels.is_empty() && self.annotations.is_empty() && self.taints.is_empty()
    }
}

/// The message of the condition Ready; `None` where it holds.
fn not_ready(node: &Value) -> Option<String> {
    let conditions = node.pointer("/status/conditions").and_then(Value::as_array);
    let ready = conditions.into_iter().flatten().find(|condition| condition.get("type").is_some_and(|kind| kind == "Ready"));
    match ready {
        Some(ready) if ready.get("status").is_some_and(|status| status == "True") => None,
        Some(ready) => Some(ready.get("message").and_then(Value::as_str).unwrap_or("no reason is given").to_owned()),
        None => Some("the kubelet has not reported yet".to_owned()),
    }
}

impl Node {
    fn lacks(&self, node: &Value) -> Lacks {
        let missing = |wanted: &BTreeMap<String, String>, kind: &str| -> Vec<String> {
            let found = |key: &str| node.get("metadata")?.get(kind)?.get(key)?.as_str();
            wanted.iter().filter(|(key, value)| found(key) != Some(value)).map(|(key, value)| format!("{key}={value}")).collect()
        };
        let there = node.pointer("/spec/taints").and_then(Value::as_array).cloned().unwrap_or_default();
        let has = |taint: &&Taint| {
            there.iter().any(|found| {
                let text = |key: &str| found.get(key).and_then(Value::as_str).unwrap_or_default();
                text("key") == taint.key && text("value") == taint.value && text("effect") == effect(taint.effect)
            })
        };
        let taint = |taint: &Taint| format!("{}={}:{}", taint.key, taint.value, effect(taint.effect));
        let taints = self.taints.iter().filter(|_| self.control_plane).filter(|taint| !has(taint));
        Lacks {
            labels: missing(&self.labels, "labels"),
            annotations: missing(&self.annotations, "annotations"),
            taints: taints.map(taint).collect(),
        }
    }

    fn look(&self, machine: &dyn Machine) -> Result<Answer> {
        api::get(machine, &self.endpoint, As::Node, &format!("/api/v1/nodes/{}", self.name))
    }

    /// What keeps it from being so; `None` where it is.
    fn amiss(&self, node: &Value) -> Option<String> {
        let lacks = self.lacks(node);
        match not_ready(node) {
            Some(reason) => Some(format!("the node is not Ready: {reason}")),
            None if lacks.none() => None,
            None => Some("labels, annotations or taints are not those of the profile".to_owned()),
        }
    }

    fn set(&self, machine: &dyn Machine, lacks: &Lacks) -> Result<()> {
        let kubeconfig = format!("--kubeconfig={}", if self.control_plane { ADMIN } else { KUBELET_CONF });
        for (verb, values) in [("label", &lacks.labels), ("annotate", &lacks.annotations), ("taint", &lacks.taints)] {
            if values.is_empty() {
                continue;
            }
            let mut arguments = vec![kubeconfig.as_str(), verb, "--overwrite", "node", &self.name];
            arguments.extend(values.iter().map(String::as_str));
            run(machine, &Command::new("/usr/bin/kubectl", &arguments).within(Duration::from_secs(60)))?;
        }
        Ok(())
    }
}

impl Work for Node {
    fn lines(&self) -> Vec<String> {
        let pair = |kind: &'static str| move |(key, value): (&String, &String)| format!("{kind} {key}={value}");
        let taints = self.taints.iter().map(|taint| format!("taint {}={}:{}", taint.key, taint.value, effect(taint.effect)));
        let all = self.labels.iter().map(pair("label")).chain(self.annotations.iter().map(pair("annotation"))).chain(taints);
        all.chain([format!("the node {} is Ready", self.name)]).collect()
    }

    fn input(&self) -> Vec<u8> {
        format!("{} {:?} {:?} {:?}", self.name, self.labels, self.annotations, self.taints).into_bytes()
    }

    fn check(&self, machine: &dyn Machine) -> Result<Verdict> {
        let differs = match self.look(machine)? {
            Answer::Object(node) => self.amiss(&node),
            Answer::Missing => Some("the cluster does not have it".to_owned()),
            Answer::Silent(reason) => Some(format!("the API cannot be asked: {reason}")),
        };
        Ok(differs.map_or(Verdict::Holds, Verdict::Differs))
    }

    fn apply(&self, world: World<'_>) -> Result<()> {
        let machine = world.machine;
        if !machine.live() {
            return Ok(());
        }
        let end = machine.uptime().saturating_add(WAIT);
        loop {
            let seen = match self.look(machine)? {
                Answer::Object(node) => {
                    let lacks = self.lacks(&node);
                    if !lacks.none() {
                        self.set(machine, &lacks)?;
                    }
                    match not_ready(&node) {
                        None => return Ok(()),
                        Some(reason) => reason,
                    }
                }
                Answer::Missing => format!("the cluster has no node {}", self.name),
                Answer::Silent(reason) => reason,
            };
            if machine.uptime() >= end {
                return Err(Failure::new(&codes::NODE_NOT_READY, format!("not Ready in {} s: {seen}", WAIT.as_secs())));
            }
            world.report.waiting("node", &format!("the node to be Ready ({seen})"), WAIT);
            machine.sleep(Duration::from_secs(1));
        }
    }
}

#[cfg(test)]
mod tests {
    use profile::node::Effect;
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_amiss_with_a_node() {
        let text = "schema = 1\n[node]\nname = \"cp-1\"\nrole = \"control-plane\"\nlabels = { pool = \"a\" }\n\
            annotations = { note = \"x y\" }\ntaints = [{ key = \"k\", value = \"v\", effect = \"NoExecute\" }]\n\
            [cluster]\nname = \"c\"\nkind = \"workload\"\nendpoint = \"10.0.0.10:6443\"\n[cluster.join]\nfirst = true\n";
        let profile = profile::Profile::parse("p", text.as_bytes()).unwrap();
        let endpoint = profile.cluster.unwrap().endpoint;
        let profile::node::Node { labels, annotations, taints, .. } = profile.node;
        assert_eq!(taints[0].effect, Effect::NoExecute);
        let node = Node { name: "cp-1".to_owned(), endpoint, labels, annotations, taints, control_plane: true };
        let mut found = json!({ "metadata": { "labels": { "pool": "b" } }, "spec": {}, "status": {} });
        let lacks = node.lacks(&found);
        assert_eq!((lacks.labels.concat(), lacks.annotations.concat()), ("pool=a".to_owned(), "note=x y".to_owned()));
        assert_eq!(lacks.taints, ["k=v:NoExecute"]);
        assert_eq!(node.amiss(&found).unwrap(), "the node is not Ready: the kubelet has not reported yet");
        found["metadata"] = json!({ "labels": { "pool": "a", "other": "1" }, "annotations": { "note": "x y" } });
        found["spec"]["taints"] = json!([{ "key": "k", "value": "v", "effect": "NoExecute" }]);
        found["status"]["conditions"] = json!([{ "type": "Ready", "status": "False", "message": "no network" }]);
        assert!(node.lacks(&found).none());
        assert_eq!(node.amiss(&found).unwrap(), "the node is not Ready: no network");
        found["status"]["conditions"][0]["status"] = json!("True");
        assert_eq!(node.amiss(&found), None);
    }
}
