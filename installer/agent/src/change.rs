//! From the former rules to the new ones: what HAProxy's runtime socket can do is done there, the rest is a reload.
//!
//! A node that is ready or not, and addresses and node ports of servers that stay, are commands. A Service more or less,
//! or a node, is a reload: HAProxy cannot listen anew without.

use std::net::IpAddr;

use crate::rules::Rules;
use crate::text::{HEALTH, NODES, section};

/// More than this and reading the rules again is quicker.
const MOST: usize = 2000;

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Nothing.
    None,
    /// These commands to the runtime socket.
    Commands(Vec<String>),
    /// HAProxy reads its configuration again.
    Reload,
}

/// What leads from one to the other.
pub fn between(old: &Rules, new: &Rules) -> Change {
    if old == new {
        return Change::None;
    }
    if !same_sections(old, new) {
        return Change::Reload;
    }
    let mut commands = Vec::new();
    for ((name, before), after) in old.nodes.iter().zip(new.nodes.values()) {
        let (before_at, after_at) = (before.address(true), after.address(true));
        place(&mut commands, NODES, name, (before_at, HEALTH), (after_at, HEALTH));
        let state = if after.ready { "ready" } else { "maint" };
        let turned = before.ready != after.ready;
        if turned {
            commands.push(format!("set server {NODES}/{name} state {state}"));
        }
        for ((key, rule), former) in new.services.iter().zip(old.services.values()) {
            let ipv4 = rule.address.is_ipv4();
            for (port, former) in rule.ports.iter().zip(&former.ports) {
                let backend = section(key, port.port);
                let (was, is) = ((before.address(ipv4), former.node_port), (after.address(ipv4), port.node_port));
                place(&mut commands, &backend, name, was, is);
                // The others track the nodes, and are what those are.
                if turned && rule.health.is_some() {
                    commands.push(format!("set server {backend}/{name} state {state}"));
                }
            }
        }
    }
    match commands.len() {
        0 => Change::None,
        1..=MOST => Change::Commands(commands),
        _ => Change::Reload,
    }
}

fn same_sections(old: &Rules, new: &Rules) -> bool {
    old.nodes.keys().eq(new.nodes.keys())
        && old.services.len() == new.services.len()
        && old.services.iter().zip(&new.services).all(|((old_key, old), (key, rule))| {
            old_key == key
                && old.address == rule.address
                && old.sources == rule.sources
                && old.health == rule.health
                && old.ports.iter().map(|port| port.port).eq(rule.ports.iter().map(|port| port.port))
        })
}

fn place(commands: &mut Vec<String>, backend: &str, name: &str, old: (Option<IpAddr>, u16), new: (Option<IpAddr>, u16)) {
    if let (true, (Some(address), port)) = (old != new, new) {
        commands.push(format!("set server {backend}/{name} addr {address} port {port}"));
    }
}
