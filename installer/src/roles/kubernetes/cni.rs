//! The built-in network of pods: a bridge on each node, with the addresses the cluster gave to the node.
//!
//! A kubelet tells that its node is Ready in the moment in which it learns of these addresses, where a network is there by
//! then; else up to fifteen seconds later. So the unit that keeps the routes brings the bridge beside kubeadm's join
//! ([`bring`]): first without addresses, which no pod can use, and a tenth of a second after the cluster has told them as
//! it shall be. After the join it is compared with the Node ([`settle`]).

use std::time::Duration;

use profile::address::{Endpoint, Prefix};
use serde_json::{Value, json};

use super::api::{self, Answer, As, Patience};
use crate::failure::{Failure, Result};
use crate::machine::{Attributes, Machine, read_text, replace};
use crate::steps::{Verdict, Work, World};

const FILE: &str = "/etc/cni/net.d/10-ingot.conflist";

/// How long the cluster may take to give the node its addresses.
const WAIT: Duration = Duration::from_secs(300);

/// For so long a node that has just joined may wait for its addresses.
const WITHIN: Duration = Duration::from_secs(15);

/// The step `pod-network`.
#[derive(Debug)]
pub struct Bridge {
    /// Whether it is wanted.
    pub wanted: bool,
    /// Name of the node.
    pub node: String,
    /// Where the API is.
    pub endpoint: Endpoint,
}

fn render(subnets: &[Prefix]) -> String {
    let ranges: Vec<Value> = subnets.iter().map(|subnet| json!([{ "subnet": subnet.to_string() }])).collect();
    let default = |subnet: &Prefix| json!({ "dst": if subnet.address().is_ipv4() { "0.0.0.0/0" } else { "::/0" } });
    let routes: Vec<Value> = subnets.iter().map(default).collect();
    let document = json!({
        "cniVersion": "0.4.0",
        "name": "ingot",
        "plugins": [
            {
                "type": "bridge",
                "bridge": "cni0",
                "isGateway": true,
                "ipMasq": true,
                "hairpinMode": true,
                "ipam": { "type": "host-local", "ranges": ranges, "routes": routes },
            },
            { "type": "portmap", "capabilities": { "portMappings": true } },
        ],
    });
    format!("{document:#}\n")
}

/// The networks in what was rendered before.
fn subnets(text: &str) -> Option<Vec<Prefix>> {
    let document: Value = serde_json::from_str(text).ok()?;
    let ranges = document.pointer("/plugins/0/ipam/ranges")?.as_array()?;
    ranges.iter().map(|range| range.pointer("/0/subnet")?.as_str()?.parse().ok()).collect()
}

/// The networks of pods that a Node object names.
pub(super) fn given(node: &Value) -> Vec<Prefix> {
    let many = node.pointer("/spec/podCIDRs").and_then(Value::as_array).cloned().unwrap_or_default();
    let one = node.pointer("/spec/podCIDR").cloned();
    let all = if many.is_empty() { one.into_iter().collect() } else { many };
    all.iter().filter_map(|text| text.as_str()?.parse().ok()).collect()
}

/// A node that joins anew gets other addresses.
///
/// # Errors
/// The file cannot be removed.
pub fn forget(machine: &dyn Machine) -> Result<()> {
    machine.remove(FILE).map_err(|e| Failure::io("removing", FILE, &e))
}

fn write(machine: &dyn Machine, subnets: &[Prefix]) -> Result<()> {
    replace(machine, FILE, render(subnets).as_bytes(), Attributes::root(0o644))
}

/// After a join: the bridge must have the addresses of this node object, and of no former one.
///
/// # Errors
/// The file cannot be read, written or removed.
pub fn settle(machine: &dyn Machine, endpoint: &Endpoint, node: &str) -> Result<()> {
    let Some(text) = read_text(machine, FILE)?.filter(|text| *text != render(&[])) else { return Ok(()) };
    match api::get(machine, endpoint, As::Node, &format!("/api/v1/nodes/{node}"))? {
        Answer::Object(object) if given(&object).is_empty() => forget(machine),
        Answer::Object(object) if render(&given(&object)) == text => Ok(()),
        Answer::Object(object) => write(machine, &given(&object)),
        Answer::Missing | Answer::Silent(_) => forget(machine),
    }
}

/// Writes the bridge as soon as the cluster tells the addresses of this node, where there is none.
///
/// # Errors
/// The file cannot be written.
pub fn bring(machine: &dyn Machine, endpoint: &Endpoint, node: &str) -> Result<()> {
    let path = format!("/api/v1/nodes/{node}");
    let mut answered = None;
    loop {
        let found = read_text(machine, FILE)?;
        if found.as_ref().is_some_and(|text| *text != render(&[])) {
            return Ok(());
        }
        let joined = machine.attributes(api::KUBELET).is_ok_and(|there| there.is_some());
        let answer = if joined { api::get(machine, endpoint, As::Node, &path)? } else { Answer::Silent(String::new()) };
        match (answer, answered) {
            (Answer::Object(object), _) if !given(&object).is_empty() => return write(machine, &given(&object)),
            (Answer::Silent(_), _) => {}
            (_, None) => {
                answered = Some(machine.uptime());
                write(machine, &[])?;
            }
            // They come within a second, or something is wrong: then nobody shall take the node for Ready.
            (_, Some(since)) if machine.uptime().saturating_sub(since) > WITHIN => {
                forget(machine)?;
                machine.sleep(Duration::from_secs(5));
            }
            _ => {}
        }
        machine.sleep(Duration::from_millis(50));
    }
}

impl Work for Bridge {
    fn lines(&self) -> Vec<String> {
        let line =
            if self.wanted { format!("{FILE}, with the pod network of this node") } else { "that of an add-on".to_owned() };
        vec![line]
    }

    fn input(&self) -> Vec<u8> {
        vec![u8::from(self.wanted)]
    }

    fn check(&self, machine: &dyn Machine) -> Result<Verdict> {
        Ok(match (read_text(machine, FILE)?, self.wanted) {
            (None, false) => Verdict::Holds,
            (Some(_), false) => Verdict::Differs(format!("{FILE} is no longer wanted")),
            (None, true) => Verdict::Differs("the pod network of this node is not known yet".to_owned()),
            (Some(text), true) if subnets(&text).is_some_and(|found| !found.is_empty() && render(&found) == text) => {
                Verdict::Holds
            }
            (Some(_), true) => Verdict::Differs(format!("{FILE} has another content")),
        })
    }

    fn apply(&self, world: World<'_>) -> Result<()> {
        let machine = world.machine;
        if !machine.live() {
            return Ok(());
        }
        if !self.wanted {
            return forget(machine);
        }
        let path = format!("/api/v1/nodes/{}", self.node);
        let patience = Patience { step: "pod-network", what: "the pod network of this node", most: WAIT };
        patience.until(world, || {
            Ok(Some(match api::get(machine, &self.endpoint, As::Node, &path)? {
                Answer::Object(node) => match given(&node) {
                    none if none.is_empty() => "the node has no `podCIDR` yet".to_owned(),
                    subnets => {
                        write(machine, &subnets)?;
                        return Ok(None);
                    }
                },
                Answer::Missing => format!("the cluster has no node {} yet", self.node),
                Answer::Silent(reason) => reason,
            }))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_families_and_back() {
        let node = json!({ "spec": { "podCIDR": "10.244.1.0/24", "podCIDRs": ["10.244.1.0/24", "fd00:1::/64"] } });
        let text = render(&given(&node));
        assert_eq!(subnets(&text).unwrap(), given(&node));
        assert!(text.contains("\"0.0.0.0/0\"") && text.contains("\"::/0\""), "{text}");
        assert_eq!(given(&json!({ "spec": { "podCIDR": "10.244.1.0/24" } })).len(), 1);
        assert_eq!(given(&json!({ "spec": {} })), []);
        assert_eq!(subnets("{}"), None);
    }
}
