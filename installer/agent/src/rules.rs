//! From Services and Nodes to what is balanced.

use std::collections::BTreeMap;
use std::net::IpAddr;

use profile::address::Prefix;

use crate::ask::{Asked, Key, Member, Note, Port};
use crate::pool::Pool;

/// What is balanced for a Service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// Where clients come to.
    pub address: IpAddr,
    /// Its ports, by number.
    pub ports: Vec<Port>,
    /// Who may connect; empty: everybody.
    pub sources: Vec<Prefix>,
    /// Where nodes tell whether they have a pod of it, if only those serve.
    pub health: Option<u16>,
}

/// What is balanced.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rules {
    /// Nodes by name.
    pub nodes: BTreeMap<String, Member>,
    /// Services.
    pub services: BTreeMap<Key, Rule>,
}

/// What shall be.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Decision {
    /// What is balanced.
    pub rules: Rules,
    /// Addresses by Service: also of those without a port that can be balanced.
    pub addresses: BTreeMap<Key, IpAddr>,
    /// Addresses by identity of the Service, to be kept until its status tells them.
    pub fresh: BTreeMap<String, IpAddr>,
    /// Services whose status tells an address of ours that they have no more.
    pub gone: Vec<Key>,
    /// What could not be had.
    pub notes: Vec<(Key, Note)>,
}

/// Decides. `fresh` as in [`Pool::give`].
pub fn decide(
    pool: &Pool,
    services: &BTreeMap<Key, Asked>,
    nodes: &BTreeMap<String, Member>,
    fresh: Option<&BTreeMap<String, IpAddr>>,
) -> Decision {
    let given = pool.give(services, fresh);
    let mut decision = Decision { notes: given.notes, ..Decision::default() };
    decision.rules.nodes = trusted(nodes);
    for (key, asked) in services {
        decision.notes.extend(asked.notes.iter().map(|note| (key.clone(), note.clone())));
        let Some(address) = given.addresses.get(key) else {
            if !asked.foreign && asked.has.iter().any(|address| pool.contains(*address)) {
                decision.gone.push(key.clone());
            }
            continue;
        };
        if !asked.has.contains(address) {
            decision.fresh.insert(asked.uid.clone(), *address);
        }
        if !asked.ports.is_empty() {
            let Asked { ports, sources, health, .. } = asked.clone();
            decision.rules.services.insert(key.clone(), Rule { address: *address, ports, sources, health });
        }
    }
    decision.addresses = given.addresses;
    decision
}

/// Where no node is said to be ready, it is more likely that nobody says it than that all are gone: HAProxy's checks tell.
fn trusted(nodes: &BTreeMap<String, Member>) -> BTreeMap<String, Member> {
    let mut nodes = nodes.clone();
    if !nodes.values().any(|node| node.ready) {
        nodes.values_mut().for_each(|node| node.ready = true);
    }
    nodes
}
