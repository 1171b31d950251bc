//! The static pods of a control plane, and what they read at their start: when that has changed they are restarted, one
//! after the other, each once the one before is back; controller manager and scheduler, which nobody waits for, together.
//!
//! The kubelet makes a static pod anew when its manifest changes. So the digest of what a pod reads is written into its
//! manifest as the annotation `ingot/inputs`; the pod is back when the API shows it with that annotation, and Ready.

use std::time::Duration;

use profile::address::Endpoint;
use serde_json::Value;
use trust::Sha256Digest;

use super::api::{self, Answer, As, Patience};
use super::leave;
use super::node::annotation;
use crate::failure::{Failure, Result};
use crate::machine::{Attributes, Machine, read_text, replace};
use crate::report::codes;
use crate::steps::World;

const MANIFESTS: &str = "/etc/kubernetes/manifests";
const INPUTS: &str = "ingot/inputs";

/// How long one may take to come back.
const WAIT: Duration = Duration::from_secs(300);

/// A static pod and the files it reads at its start, in `/etc/kubernetes`.
#[derive(Debug)]
pub struct StaticPod {
    /// Its name, without that of the node.
    pub name: &'static str,
    /// Whether the next may be restarted before this one is back.
    pub beside_next: bool,
    files: &'static [&'static str],
}

/// The API server.
pub const API_SERVER: &str = "kube-apiserver";
const ETCD: &str = "etcd";

/// In the order in which they are restarted.
pub const PODS: [StaticPod; 4] = [
    StaticPod { name: ETCD, beside_next: false, files: &["pki/etcd/ca.crt", "pki/etcd/server.crt", "pki/etcd/peer.crt"] },
    StaticPod {
        name: API_SERVER,
        beside_next: false,
        files: &[
            "pki/ca.crt",
            "pki/apiserver.crt",
            "pki/apiserver-kubelet-client.crt",
            "pki/apiserver-etcd-client.crt",
            "pki/front-proxy-client.crt",
            "pki/sa.pub",
            "ingot/encryption.yaml",
            "ingot/tokens.csv",
            "ingot/audit.yaml",
        ],
    },
    StaticPod { name: "kube-controller-manager", beside_next: true, files: &["pki/ca.crt", "controller-manager.conf"] },
    StaticPod { name: "kube-scheduler", beside_next: false, files: &["scheduler.conf"] },
];

/// The manifest of a pod.
pub fn manifest(name: &str) -> String {
    format!("{MANIFESTS}/{name}.yaml")
}

impl StaticPod {
    /// Digest of all it reads; `settings` are those of the API server.
    ///
    /// # Errors
    /// A file cannot be read.
    pub fn inputs(&self, machine: &dyn Machine, settings: &str) -> Result<String> {
        let mut text = if self.name == API_SERVER { format!("{settings}\n") } else { String::new() };
        for file in self.files {
            let path = format!("/etc/kubernetes/{file}");
            let bytes = machine.read(&path).map_err(|e| Failure::io("reading", &path, &e))?;
            text += &bytes.map_or_else(|| "none\n".to_owned(), |bytes| format!("{}\n", Sha256Digest::of(&bytes)));
        }
        Ok(Sha256Digest::of(text.as_bytes()).to_string())
    }

    /// Lets the kubelet restart it.
    ///
    /// # Errors
    /// [`codes::PLANE_STALE`]: its manifest is not kubeadm's; [`codes::QUORUM`]: others of etcd are not well.
    pub fn restart(&self, machine: &dyn Machine, inputs: &str) -> Result<()> {
        let path = manifest(self.name);
        let text = read_text(machine, &path)?.ok_or_else(|| stale(&format!("there is no {path}")))?;
        let marked = marked(&text, inputs).ok_or_else(|| stale(&format!("{path} is not as kubeadm writes it")))?;
        if marked == text {
            return Ok(());
        }
        if self.name == ETCD {
            leave::others_are_well(machine, &text)?;
        }
        // Not beside it: the kubelet takes every file of the folder for a manifest.
        let aside = "/etc/kubernetes/ingot-manifest";
        replace(machine, aside, marked.as_bytes(), Attributes::root(0o600))?;
        machine.rename(aside, &path).map_err(|e| Failure::io("writing", &path, &e))?;
        machine.sync_folder(MANIFESTS).map_err(|e| Failure::io("writing", MANIFESTS, &e))
    }

    /// Waits until it is back.
    ///
    /// # Errors
    /// [`codes::PLANE_STALE`]: it does not come back.
    pub fn back(&self, world: World<'_>, endpoint: &Endpoint, node: &str, inputs: &str) -> Result<()> {
        let machine = world.machine;
        let object = format!("/api/v1/namespaces/kube-system/pods/{}-{node}", self.name);
        let patience = Patience { step: "control-plane", what: self.name, most: WAIT };
        let waited = patience.until(world, || {
            Ok(match api::get(machine, endpoint, As::Admin, &object)? {
                Answer::Object(pod) => not_back(&pod, inputs).map(str::to_owned),
                Answer::Missing => Some("the cluster has no such pod".to_owned()),
                Answer::Silent(reason) => Some(reason),
            })
        });
        waited.map_err(|failure| match failure.code() {
            code if code == &codes::NODE_NOT_READY => stale(&failure.to_string()),
            _ => failure,
        })
    }
}

fn stale(why: &str) -> Failure {
    Failure::new(&codes::PLANE_STALE, why)
}

/// What a pod lacks that is to be back with these inputs.
fn not_back(pod: &Value, inputs: &str) -> Option<&'static str> {
    if annotation(pod, INPUTS) != Some(inputs) {
        return Some("the kubelet has not made it anew yet");
    }
    let conditions = pod.pointer("/status/conditions").and_then(Value::as_array);
    let is = |condition: &Value, key: &str, value: &str| condition.get(key).is_some_and(|found| found == value);
    let ready = conditions.into_iter().flatten().any(|one| is(one, "type", "Ready") && is(one, "status", "True"));
    (!ready).then_some("it is not Ready yet")
}

/// A manifest of kubeadm's with the annotation; `None` for a text of another form.
fn marked(text: &str, inputs: &str) -> Option<String> {
    let line = format!("    {INPUTS}: {inputs}");
    let own = format!("    {INPUTS}: ");
    let mut lines: Vec<&str> = text.lines().filter(|line| !line.starts_with(&own)).collect();
    let metadata = lines.iter().position(|line| *line == "metadata:")?;
    let end = lines.iter().skip(metadata + 1).position(|line| !line.starts_with(' ')).map(|at| metadata + 1 + at)?;
    match lines.get(metadata..end)?.iter().position(|line| *line == "  annotations:") {
        Some(at) => lines.insert(metadata + at + 1, &line),
        None => {
            lines.insert(metadata + 1, "  annotations:");
            lines.insert(metadata + 2, &line);
        }
    }
    Some(lines.join("\n") + "\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn manifests_of_kubeadm_are_marked_once() {
        let with =
            "apiVersion: v1\nkind: Pod\nmetadata:\n  annotations:\n    a/b: c\n  labels:\n    x: y\nspec:\n  containers: []\n";
        let first = marked(with, "11").unwrap();
        assert_eq!(first, with.replace("annotations:\n", "annotations:\n    ingot/inputs: 11\n"));
        assert_eq!(marked(&first, "22").unwrap(), first.replace("11", "22"));
        let without = "apiVersion: v1\nmetadata:\n  creationTimestamp: null\nspec: {}\n";
        let first = marked(without, "11").unwrap();
        assert_eq!(first, without.replace("metadata:\n", "metadata:\n  annotations:\n    ingot/inputs: 11\n"));
        assert_eq!(marked(&first, "11").unwrap(), first);
        assert_eq!((marked("", "1"), marked("kind: Pod\n", "1")), (None, None));
    }
}
