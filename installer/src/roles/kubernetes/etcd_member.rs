//! A control plane that was cut off while it became a member of etcd.
//!
//! kubeadm tells etcd of the new member first and writes the manifest of its pod then. A machine that dies between the two
//! leaves a member that never starts: where there was one member before, two now have to agree, and one cannot. etcd
//! waits for ever, and the API with it. kubeadm's own `reset` does not look for such a member.
//!
//! So [`note`] writes down who is in etcd before this machine comes to it, and [`undo`], before a half-made control plane
//! is reset, takes its member out. Where etcd cannot decide any more, the member is started first: with it, etcd can.

use std::time::Duration;

use profile::address::Endpoint;
use profile::secret::Secret;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::api::{self, Answer, As, Patience};
use super::node::annotation;
use super::static_pods::{API_SERVER, manifest};
use super::{kubeadm, kubelet, leave};
use crate::failure::{Failure, Result};
use crate::machine::{Attributes, Command, Machine, read_text, replace, run};
use crate::report::codes;
use crate::steps::World;

/// Who is in etcd, while this machine becomes a member.
const NOTE: &str = "/etc/kubernetes/ingot-etcd.json";

const ETCD: &str = "/etc/kubernetes/manifests/etcd.yaml";
const PODS: &str = "/api/v1/namespaces/kube-system/pods?labelSelector=component%3Detcd";
const CLIENT_URLS: &str = "kubeadm.kubernetes.io/etcd.advertise-client-urls";
const EXISTING: &str = "    - --initial-cluster-state=existing";

/// How long etcd may take until it decides again.
const WAIT: Duration = Duration::from_secs(180);

/// A member, as its pod says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Peer {
    name: String,
    client: String,
}

impl Peer {
    /// Where the other members reach it.
    fn url(&self) -> String {
        self.client.strip_suffix(":2379").map_or_else(|| self.client.clone(), |host| format!("{host}:2380"))
    }
}

/// The members that the cluster's pods tell of; none where it does not answer.
fn peers(machine: &dyn Machine, endpoint: &Endpoint) -> Result<Vec<Peer>> {
    let Answer::Object(list) = api::get(machine, endpoint, As::Admin, PODS)? else { return Ok(Vec::new()) };
    let peer = |pod: &Value| {
        let name = pod.pointer("/spec/nodeName")?.as_str()?.to_owned();
        Some(Peer { name, client: annotation(pod, CLIENT_URLS)?.to_owned() })
    };
    Ok(list.get("items").and_then(Value::as_array).into_iter().flatten().filter_map(peer).collect())
}

/// Notes who is in etcd.
///
/// # Errors
/// The note cannot be written.
pub fn note(machine: &dyn Machine, endpoint: &Endpoint) -> Result<()> {
    let text = serde_json::to_string(&peers(machine, endpoint)?).unwrap_or_default();
    replace(machine, NOTE, text.as_bytes(), Attributes::root(0o600))
}

/// Forgets it.
///
/// # Errors
/// The note cannot be removed.
pub fn forget(machine: &dyn Machine) -> Result<()> {
    machine.remove(NOTE).map_err(|e| Failure::io("removing", NOTE, &e))
}

/// Takes the member of this half-made control plane out of etcd, where there is one.
///
/// # Errors
/// [`codes::QUORUM`]: etcd cannot decide, and does not with this member either.
pub fn undo(world: World<'_>, endpoint: &Endpoint, node: &str, config: Option<&Secret>) -> Result<()> {
    let machine = world.machine;
    let server = read_text(machine, &manifest(API_SERVER))?.unwrap_or_default();
    let Some(own) = server.lines().find_map(|line| line.trim().strip_prefix("- --advertise-address=")) else { return Ok(()) };
    let host = if own.contains(':') { format!("[{own}]") } else { own.to_owned() };
    let own = Peer { name: node.to_owned(), client: format!("https://{host}:2379") };
    let noted: Option<Vec<Peer>> = read_text(machine, NOTE)?.and_then(|text| serde_json::from_str(&text).ok());
    let mut others = noted.filter(|noted| !noted.is_empty()).map_or_else(|| peers(machine, endpoint), Ok)?;
    others.retain(|peer| peer.client != own.client);
    if others.is_empty() {
        return Ok(());
    }
    let urls = others.iter().map(|peer| peer.client.as_str()).collect::<Vec<_>>().join(",");
    if remove(machine, &urls, &own)? {
        return Ok(());
    }
    let Some(config) = config else { return Ok(()) };
    world.report.waiting("cluster", "etcd, which waits for this machine", WAIT);
    start(machine, config, &own, &others)?;
    let patience = Patience { step: "cluster", what: "etcd to decide again", most: WAIT };
    let decides = || Ok((!remove(machine, &urls, &own)?).then(|| "it does not answer".to_owned()));
    patience.until(world, decides).map_err(|failure| Failure::new(&codes::QUORUM, failure.to_string()))
}

/// Takes it out; `false` where etcd does not decide.
fn remove(machine: &dyn Machine, urls: &str, own: &Peer) -> Result<bool> {
    let ask = |arguments: &[&str]| {
        let command = leave::etcdctl(urls, arguments);
        machine.run(&command).map_err(|e| Failure::io("running", &command.program, &e))
    };
    let list = ask(&["member", "list", "--write-out", "simple"])?;
    let Some(id) = id(&list.out, &own.url()) else { return Ok(list.ok()) };
    Ok(ask(&["member", "remove", id])?.ok())
}

/// The id of the member with this URL: `ID, state, NAME, peers, clients, learner` a line.
fn id<'a>(list: &'a str, url: &str) -> Option<&'a str> {
    let fields = list.lines().map(|line| line.split(", ").collect::<Vec<_>>());
    fields.into_iter().find(|fields| fields.get(3) == Some(&url))?.first().copied()
}

/// Starts the member that was told of: kubeadm's manifest of a first member, as one of an existing cluster.
fn start(machine: &dyn Machine, config: &Secret, own: &Peer, others: &[Peer]) -> Result<()> {
    let systemctl = |verb: &str| run(machine, &Command::new("/usr/bin/systemctl", &[verb, kubelet::UNIT])).map(drop);
    if read_text(machine, ETCD)?.is_some_and(|text| text.contains(EXISTING)) {
        return systemctl("start");
    }
    // It must not see the manifest before it says so: etcd would begin a cluster of its own.
    systemctl("stop")?;
    machine.remove(ETCD).map_err(|e| Failure::io("removing", ETCD, &e))?;
    kubeadm::phase(machine, config, &["etcd", "local"])?;
    let text = read_text(machine, ETCD)?.unwrap_or_default();
    let text = existing(&text, own, others).ok_or_else(|| {
        let _ = machine.remove(ETCD);
        Failure::new(&codes::QUORUM, format!("{ETCD} is not as kubeadm writes it"))
    })?;
    replace(machine, "/etc/kubernetes/ingot-manifest", text.as_bytes(), Attributes::root(0o600))?;
    machine.rename("/etc/kubernetes/ingot-manifest", ETCD).map_err(|e| Failure::io("writing", ETCD, &e))?;
    systemctl("start")
}

/// The manifest of a first member as that of a further one.
fn existing(text: &str, own: &Peer, others: &[Peer]) -> Option<String> {
    let all = others.iter().chain([own]).map(|peer| format!("{}={}", peer.name, peer.url())).collect::<Vec<_>>().join(",");
    let begun = text.lines().position(|line| line.starts_with("    - --initial-cluster="))?;
    let mut lines: Vec<&str> = text.lines().collect();
    let cluster = format!("    - --initial-cluster={all}");
    *lines.get_mut(begun)? = &cluster;
    lines.insert(begun + 1, EXISTING);
    Some(lines.join("\n") + "\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(name: &str, host: &str) -> Peer {
        Peer { name: name.to_owned(), client: format!("https://{host}:2379") }
    }

    #[test]
    fn a_member_is_known_by_its_url() {
        let list = "19f9e2c3b6a7d1c2, started, cp-1, https://10.0.0.1:2380, https://10.0.0.1:2379, false\n\
            8e9e05c52164694d, unstarted, , https://10.0.0.2:2380, , false\n";
        assert_eq!(id(list, &peer("cp-2", "10.0.0.2").url()), Some("8e9e05c52164694d"));
        assert_eq!((id(list, &peer("cp-3", "10.0.0.20").url()), id("", "https://10.0.0.1:2380")), (None, None));
        assert_eq!(peer("cp-2", "[fd00::2]").url(), "https://[fd00::2]:2380");
    }

    #[test]
    fn the_manifest_of_a_further_member() {
        let text = "spec:\n  containers:\n  - command:\n    - etcd\n    - --initial-cluster=cp-2=https://10.0.0.2:2380\n    - --name=cp-2\n";
        let further = existing(text, &peer("cp-2", "10.0.0.2"), &[peer("cp-1", "10.0.0.1")]).unwrap();
        let both = "    - --initial-cluster=cp-1=https://10.0.0.1:2380,cp-2=https://10.0.0.2:2380\n    - --initial-cluster-state=existing\n";
        assert_eq!(further, text.replace("    - --initial-cluster=cp-2=https://10.0.0.2:2380\n", both));
        assert_eq!(existing("", &peer("a", "b"), &[]), None);
    }
}
