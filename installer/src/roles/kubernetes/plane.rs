//! The step `control-plane`: the control plane of this node goes on as it should be after it was made.
//!
//! | what | how |
//! |---|---|
//! | certificates near their end ([`certificates`]) | `kubeadm certs renew all` |
//! | settings of the API server in a later profile | its certificate and manifest by `kubeadm init phase`; by the first control plane kubeadm's ConfigMap, too, for those that join later |
//! | files that a static pod reads at its start ([`static_pods`]) | the pod is restarted, one after the other |
//!
//! It is part of a run (before the node is asked for, so that a machine that was off for long heals) and of the upkeep.
//! [`NOTE`] says with what everything runs: whatever differs from it is done again until it holds.

use std::collections::BTreeMap;

use profile::address::Endpoint;
use profile::secret::Secret;
use serde::{Deserialize, Serialize};

use super::static_pods::{self, API_SERVER, PODS};
use super::{certificates, kubeadm};
use crate::failure::{Failure, Result};
use crate::machine::{Attributes, Machine, read_text, replace};
use crate::report::codes;
use crate::steps::{Verdict, Work, World};

/// With what the control plane runs.
pub const NOTE: &str = "/etc/kubernetes/ingot-plane.json";

const CERTIFICATE: [&str; 2] = ["/etc/kubernetes/pki/apiserver.crt", "/etc/kubernetes/pki/apiserver.key"];

/// The step.
#[derive(Debug)]
pub struct Plane {
    /// Name of the node.
    pub node: String,
    /// Where the API is.
    pub endpoint: Endpoint,
    /// Whether this is the first control plane.
    pub first: bool,
    /// Minor version of Kubernetes.
    pub minor: u32,
    /// kubeadm's configuration.
    pub config: Secret,
    /// Digest of the settings of the API server in it.
    pub settings: String,
    /// Arguments of the API server as its manifest has them.
    pub arguments: Vec<String>,
}

/// Content of [`NOTE`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Note {
    schema: u32,
    /// The settings of the API server's manifest and certificate.
    settings: String,
    /// Those of kubeadm's ConfigMap.
    kept: String,
    /// What each pod was started with.
    pods: BTreeMap<String, String>,
}

impl Note {
    fn read(machine: &dyn Machine) -> Result<Option<Self>> {
        let text = read_text(machine, NOTE)?;
        // One that cannot be read is written anew, as if everything were new.
        Ok(text.map(|text| serde_json::from_str(&text).unwrap_or_default()))
    }

    fn write(&self, machine: &dyn Machine) -> Result<()> {
        let text = serde_json::to_string(self).map_err(|e| Failure::new(&codes::INPUT_OUTPUT, format!("{NOTE}: {e}")))?;
        replace(machine, NOTE, text.as_bytes(), Attributes::root(0o600))
    }
}

/// A node that joins anew has other pods.
///
/// # Errors
/// The file cannot be removed.
pub fn forget(machine: &dyn Machine) -> Result<()> {
    machine.remove(NOTE).map_err(|e| Failure::io("removing", NOTE, &e))
}

impl Plane {
    /// What a control plane runs with that was made a moment ago. One that joined was made with what kubeadm had kept of
    /// an earlier profile.
    fn begun(&self, machine: &dyn Machine) -> Result<Note> {
        let manifest = read_text(machine, &static_pods::manifest(API_SERVER))?.unwrap_or_default();
        let so = self.arguments.iter().all(|argument| manifest.lines().any(|line| line.trim() == format!("- {argument}")));
        let settings = if so { self.settings.clone() } else { String::new() };
        let mut pods = BTreeMap::new();
        for pod in &PODS {
            pods.insert(pod.name.to_owned(), pod.inputs(machine, &settings)?);
        }
        Ok(Note { schema: 1, kept: settings.clone(), settings, pods })
    }

    /// Why it is not as it should be.
    fn amiss(&self, machine: &dyn Machine, note: &Note) -> Result<Option<String>> {
        if let Some(due) = certificates::due(machine, &self.node)? {
            return Ok(Some(due));
        }
        if self.renders(machine, note)? {
            return Ok(Some("the API server's settings are new or changed".to_owned()));
        }
        for pod in &PODS {
            if note.pods.get(pod.name) != Some(&pod.inputs(machine, &self.settings)?) {
                return Ok(Some(format!("{} runs with former files", pod.name)));
            }
        }
        let kept = !self.first || note.kept == self.settings;
        Ok((!kept).then(|| "kubeadm keeps former settings of the API server".to_owned()))
    }

    /// Whether manifest and certificate of the API server are made anew.
    fn renders(&self, machine: &dyn Machine, note: &Note) -> Result<bool> {
        let mut missing = false;
        for path in CERTIFICATE {
            missing |= machine.attributes(path).map_err(|e| Failure::io("reading", path, &e))?.is_none();
        }
        Ok(missing || note.settings != self.settings)
    }

    fn render(&self, machine: &dyn Machine) -> Result<()> {
        // kubeadm keeps one that is there, whatever its names.
        for path in CERTIFICATE {
            machine.remove(path).map_err(|e| Failure::io("removing", path, &e))?;
        }
        kubeadm::phase(machine, &self.config, &["certs", "apiserver"])?;
        kubeadm::phase(machine, &self.config, &["control-plane", "apiserver"])
    }
}

impl Work for Plane {
    fn lines(&self) -> Vec<String> {
        let arguments = self.arguments.iter().map(|argument| format!("API server {argument}"));
        arguments.chain(["certificates are renewed a month before their end".to_owned()]).collect()
    }

    fn input(&self) -> Vec<u8> {
        self.settings.clone().into_bytes()
    }

    fn check(&self, machine: &dyn Machine) -> Result<Verdict> {
        let Some(note) = Note::read(machine)? else {
            return Ok(Verdict::Differs("it is not noted yet with what the control plane runs".to_owned()));
        };
        Ok(self.amiss(machine, &note)?.map_or(Verdict::Holds, Verdict::Differs))
    }

    fn apply(&self, world: World<'_>) -> Result<()> {
        let machine = world.machine;
        if !machine.live() {
            return Ok(());
        }
        let mut note = match Note::read(machine)? {
            Some(note) => note,
            None => {
                let note = self.begun(machine)?;
                note.write(machine)?;
                note
            }
        };
        if certificates::due(machine, &self.node)?.is_some() {
            certificates::renew(machine, &self.config, self.minor)?;
        }
        if self.renders(machine, &note)? {
            self.render(machine)?;
            note.settings.clone_from(&self.settings);
            note.write(machine)?;
        }
        let mut begun = Vec::new();
        for pod in &PODS {
            let inputs = pod.inputs(machine, &self.settings)?;
            if note.pods.get(pod.name) != Some(&inputs) {
                pod.restart(machine, &inputs)?;
                begun.push((pod, inputs));
            }
            if pod.beside_next {
                continue;
            }
            for (pod, inputs) in begun.drain(..) {
                pod.back(world, &self.endpoint, &self.node, &inputs)?;
                note.pods.insert(pod.name.to_owned(), inputs);
                note.write(machine)?;
            }
        }
        if self.first && note.kept != self.settings {
            kubeadm::phase(machine, &self.config, &["upload-config", "kubeadm"])?;
            note.kept.clone_from(&self.settings);
            note.write(machine)?;
        }
        Ok(())
    }
}
