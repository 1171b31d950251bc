//! The step `node`: the Node object has the labels, annotations and taints of the profile, is not held back by our own
//! `drain`, and is Ready.
//!
//! What was set is remembered in the annotation `ingot/set` of the Node itself: what the profile no longer has is taken away,
//! and what others set stays.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use profile::address::Endpoint;
use profile::node::Taint;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::api::{self, Answer, As, Change, Patience};
use super::config::effect;
use crate::failure::{Failure, Result};
use crate::machine::Machine;
use crate::machine::net::Sent;
use crate::report::codes;
use crate::steps::{Verdict, Work, World};

/// How long a node may take to be Ready.
const WAIT: Duration = Duration::from_secs(600);

/// What of a Node came from its profile.
const SET: &str = "ingot/set";

/// Says that `ingot-installer drain` has cordoned the node, so that the next run may take it back.
pub const DRAINED: &str = "ingot/drained";

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

/// Content of [`SET`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
struct Set {
    labels: BTreeSet<String>,
    annotations: BTreeSet<String>,
    /// Key and effect: what tells taints apart.
    taints: BTreeSet<String>,
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

/// An annotation of a Node.
pub(super) fn annotation<'n>(node: &'n Value, key: &str) -> Option<&'n str> {
    node.get("metadata")?.get("annotations")?.get(key)?.as_str()
}

/// What makes the texts of this kind as they are wanted; `null` takes one away.
fn texts(node: &Value, kind: &str, wanted: &BTreeMap<String, String>, former: &BTreeSet<String>) -> Value {
    let found = |key: &str| node.get("metadata")?.get(kind)?.get(key)?.as_str();
    let set = wanted.iter().filter(|(key, value)| found(key) != Some(value)).map(|(key, value)| (key.clone(), json!(value)));
    let gone = former.iter().filter(|key| !wanted.contains_key(*key) && found(key).is_some());
    Value::Object(set.chain(gone.map(|key| (key.clone(), Value::Null))).collect())
}

fn told_apart(key: &str, effect: &str) -> String {
    format!("{key}:{effect}")
}

impl Node {
    fn path(&self) -> String {
        format!("/api/v1/nodes/{}", self.name)
    }

    /// As who it is changed.
    fn who(&self) -> As {
        if self.control_plane { As::Admin } else { As::Node }
    }

    /// What of it is set.
    fn set(&self) -> Set {
        let taints = self.taints.iter().filter(|_| self.control_plane);
        Set {
            labels: self.labels.keys().cloned().collect(),
            annotations: self.annotations.keys().cloned().collect(),
            taints: taints.map(|taint| told_apart(&taint.key, effect(taint.effect))).collect(),
        }
    }

    /// The whole list of taints, where it must change.
    fn taints(&self, node: &Value, former: &Set) -> Option<Value> {
        let there = node.pointer("/spec/taints").and_then(Value::as_array).cloned().unwrap_or_default();
        let text = |taint: &Value, key: &str| taint.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
        let own = self.set().taints;
        let mut wanted: Vec<Value> = there.clone();
        wanted.retain(|taint| {
            let id = told_apart(&text(taint, "key"), &text(taint, "effect"));
            !former.taints.contains(&id) && !own.contains(&id)
        });
        for taint in &self.taints {
            let effect = effect(taint.effect);
            let known = there.iter().find(|found| {
                (text(found, "key"), text(found, "value"), text(found, "effect"))
                    == (taint.key.clone(), taint.value.clone(), effect.to_owned())
            });
            let new = json!({ "key": taint.key, "value": taint.value, "effect": effect });
            wanted.push(known.cloned().unwrap_or(new));
        }
        let same = wanted.len() == there.len() && wanted.iter().all(|taint| there.contains(taint));
        (!same).then(|| json!(wanted))
    }

    /// What makes it as the profile says (RFC 7396), and why; `None` where it is so.
    fn lacks(&self, node: &Value) -> Option<(Value, &'static str)> {
        let former: Set = annotation(node, SET).and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
        let labels = texts(node, "labels", &self.labels, &former.labels);
        let mut annotations = texts(node, "annotations", &self.annotations, &former.annotations);
        let mut spec = json!({});
        if let Some(taints) = self.taints(node, &former).filter(|_| self.control_plane) {
            spec["taints"] = taints;
        }
        let own = self.set();
        if own != former {
            let text = serde_json::to_string(&own).unwrap_or_default();
            annotations[SET] = if own == Set::default() { Value::Null } else { json!(text) };
        }
        let mut why = "labels, annotations or taints are not those of the profile";
        if annotation(node, DRAINED).is_some() {
            annotations[DRAINED] = Value::Null;
            spec["unschedulable"] = Value::Null;
            why = "it was drained by `ingot-installer drain`";
        }
        let none = |part: &Value| part.as_object().is_none_or(serde_json::Map::is_empty);
        if none(&labels) && none(&annotations) && none(&spec) {
            return None;
        }
        let mut patch = json!({ "metadata": { "labels": labels, "annotations": annotations }, "spec": spec });
        if let Some(version) = node.pointer("/metadata/resourceVersion") {
            // The list of taints is replaced whole: not where somebody has changed it meanwhile.
            patch["metadata"]["resourceVersion"] = version.clone();
        }
        Some((patch, why))
    }

    fn look(&self, machine: &dyn Machine) -> Result<Answer> {
        api::get(machine, &self.endpoint, As::Node, &self.path())
    }

    /// What keeps it from being so; `None` where it is.
    fn amiss(&self, node: &Value) -> Option<String> {
        let lacks = self.lacks(node).map(|(_, why)| why.to_owned());
        not_ready(node).map(|reason| format!("the node is not Ready: {reason}")).or(lacks)
    }

    /// Brings the node to what the profile says; what is still waited for.
    fn bring(&self, machine: &dyn Machine) -> Result<Option<String>> {
        let node = match self.look(machine)? {
            Answer::Object(node) => node,
            Answer::Missing => return Ok(Some(format!("the cluster has no node {}", self.name))),
            Answer::Silent(reason) => return Ok(Some(reason)),
        };
        let Some((patch, _)) = self.lacks(&node) else { return Ok(not_ready(&node)) };
        match api::change(machine, &self.endpoint, self.who(), &self.path(), (Sent::Merge, &patch))? {
            Change::Done => Ok(not_ready(&node)),
            // What the API never takes does not come right by waiting.
            Change::Refused(400 | 403 | 422, words) => {
                Err(Failure::new(&codes::NODE_NOT_READY, format!("it cannot be changed: {words}")))
            }
            Change::Refused(_, reason) | Change::Silent(reason) => Ok(Some(reason)),
        }
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
        Patience { step: "node", what: "the node to be Ready", most: WAIT }.until(world, || self.bring(machine))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(text: &str) -> Node {
        let text = format!(
            "schema = 1\n[node]\nname = \"cp-1\"\nrole = \"control-plane\"\n{text}\n\
            [cluster]\nname = \"c\"\nkind = \"workload\"\nendpoint = \"10.0.0.10:6443\"\n[cluster.join]\nfirst = true\n"
        );
        let profile = profile::Profile::parse("p", text.as_bytes()).unwrap_or_else(|refused| panic!("{refused}"));
        let endpoint = profile.cluster.unwrap().endpoint;
        let profile::node::Node { labels, annotations, taints, .. } = profile.node;
        Node { name: "cp-1".to_owned(), endpoint, labels, annotations, taints, control_plane: true }
    }

    const FULL: &str = "labels = { pool = \"a\" }\nannotations = { note = \"x y\" }\n\
        taints = [{ key = \"k\", value = \"v\", effect = \"NoExecute\" }]";

    #[test]
    fn what_is_amiss_with_a_node() {
        let full = node(FULL);
        let mut found = json!({ "metadata": { "labels": { "pool": "b" } }, "spec": {}, "status": {} });
        assert_eq!(full.amiss(&found).unwrap(), "the node is not Ready: the kubelet has not reported yet");
        let (patch, _) = full.lacks(&found).unwrap();
        assert_eq!(patch["metadata"]["labels"], json!({ "pool": "a" }));
        assert_eq!(patch["metadata"]["annotations"]["note"], "x y");
        assert_eq!(patch["spec"]["taints"], json!([{ "key": "k", "value": "v", "effect": "NoExecute" }]));
        json_patch(&mut found, &patch);
        found["status"]["conditions"] = json!([{ "type": "Ready", "status": "False", "message": "no network" }]);
        assert_eq!(full.lacks(&found), None);
        assert_eq!(full.amiss(&found).unwrap(), "the node is not Ready: no network");
        found["status"]["conditions"][0]["status"] = json!("True");
        assert_eq!(full.amiss(&found), None);
    }

    /// RFC 7396, as far as nodes need it.
    fn json_patch(target: &mut Value, patch: &Value) {
        let Value::Object(patch) = patch else { return };
        for (key, value) in patch {
            match value {
                Value::Null => drop(target.as_object_mut().unwrap().remove(key)),
                Value::Object(_) => {
                    if !target[key].is_object() {
                        target[key] = json!({});
                    }
                    json_patch(&mut target[key], value);
                }
                other => target[key] = other.clone(),
            }
        }
    }

    #[test]
    fn what_a_profile_no_longer_has_is_taken_away_and_what_others_set_stays() {
        let foreign =
            json!([{ "key": "node-role.kubernetes.io/master", "effect": "NoSchedule" }, { "key": "o", "effect": "NoSchedule" }]);
        let mut found = json!({
            "metadata": { "labels": { "other": "1" }, "annotations": { "theirs": "2" }, "resourceVersion": "7" },
            "spec": { "taints": foreign },
        });
        let (patch, _) = node(FULL).lacks(&found).unwrap();
        assert_eq!(patch["metadata"]["resourceVersion"], "7");
        json_patch(&mut found, &patch);
        assert_eq!(found["spec"]["taints"].as_array().unwrap().len(), 3);
        // The same key with another value is one taint.
        let other = node(&FULL.replace("\"v\"", "\"w\""));
        let patch = other.lacks(&found).unwrap().0;
        json_patch(&mut found, &patch);
        assert_eq!(found["spec"]["taints"][2]["value"], "w");
        let bare = node("");
        let patch = bare.lacks(&found).unwrap().0;
        json_patch(&mut found, &patch);
        assert_eq!(found["metadata"]["labels"], json!({ "other": "1" }));
        assert_eq!(found["metadata"]["annotations"], json!({ "theirs": "2" }));
        assert_eq!(found["spec"]["taints"], foreign);
        assert_eq!(bare.lacks(&found), None);
        // A worker does not touch taints: it may not.
        let worker = Node { control_plane: false, ..node(FULL) };
        let patch = worker.lacks(&found).unwrap().0;
        json_patch(&mut found, &patch);
        assert_eq!((&found["spec"]["taints"], worker.lacks(&found)), (&foreign, None));
    }

    #[test]
    fn a_node_is_uncordoned_where_we_cordoned_it() {
        let mut found = json!({ "metadata": { "annotations": {} }, "spec": { "unschedulable": true } });
        assert_eq!(node("").lacks(&found), None, "somebody else did");
        found["metadata"]["annotations"][DRAINED] = json!("true");
        let (patch, why) = node("").lacks(&found).unwrap();
        assert!(why.contains("drain"), "{why}");
        json_patch(&mut found, &patch);
        assert_eq!((&found["spec"], &found["metadata"]["annotations"]), (&json!({}), &json!({})));
    }
}
