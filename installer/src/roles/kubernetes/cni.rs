//! The built-in network of pods: a bridge on each node, with the addresses the cluster gave to the node.

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
                        replace(machine, FILE, render(&subnets).as_bytes(), Attributes::root(0o644))?;
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
