//! What of a Service and of a Node counts here. The rest is not kept: a Node alone is some 10 KiB.

use std::fmt;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::{Node, Service, ServiceSpec};
use profile::address::Prefix;

/// The class of Services that are ours; those without a class are, too.
pub const CLASS: &str = "ingot/load-balancer";
/// Nodes with this label get nothing.
const EXCLUDED: &str = "node.kubernetes.io/exclude-from-external-load-balancers";

/// Which Service.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// A port of a Service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Port {
    /// Where clients come to.
    pub port: u16,
    /// Where nodes listen.
    pub node_port: u16,
}

/// Why something is not as it was asked for: told as an Event of the Service.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Note {
    /// One word.
    pub reason: &'static str,
    /// What, and what helps.
    pub message: String,
}

impl Note {
    /// A note.
    pub fn new(reason: &'static str, message: impl Into<String>) -> Self {
        Self { reason, message: message.into() }
    }
}

/// A Service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// Its identity.
    pub uid: String,
    /// Its version, without which a status would overwrite what we have not seen.
    pub version: String,
    /// When it was made, seconds since 1970: the older one is first.
    pub created: i64,
    /// Whether it is of type LoadBalancer, and of our class or none.
    pub ours: bool,
    /// Whether it is of another class: its status is another's.
    pub foreign: bool,
    /// Whether IPv4 is wanted.
    pub ipv4: bool,
    /// `spec.loadBalancerIP`.
    pub wanted: Option<String>,
    /// Addresses in `status.loadBalancer`.
    pub has: Vec<IpAddr>,
    /// Ports, by number.
    pub ports: Vec<Port>,
    /// Who may connect; empty: everybody.
    pub sources: Vec<Prefix>,
    /// `externalTrafficPolicy: Local`: where nodes tell whether they have a pod of it.
    pub health: Option<u16>,
    /// What cannot be had.
    pub notes: Vec<Note>,
}

/// One label of a DNS name.
pub fn label(text: &str) -> bool {
    (1..=63).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
}

/// The part of a Service that counts; `None` where it has no name that could be one.
pub fn service(service: &Service) -> Option<(Key, Asked)> {
    let (meta, spec) = (&service.metadata, service.spec.as_ref()?);
    let key = Key { namespace: meta.namespace.clone()?, name: meta.name.clone()? };
    if !label(&key.namespace) || !label(&key.name) {
        return None;
    }
    let balanced = spec.type_.as_deref() == Some("LoadBalancer");
    let foreign = balanced && spec.load_balancer_class.as_deref().is_some_and(|class| class != CLASS);
    let mut notes = Vec::new();
    let ours = balanced && !foreign;
    let sources = if ours { sources(spec, &mut notes) } else { Some(Vec::new()) };
    let ports = match &sources {
        Some(_) if ours => ports(spec, &mut notes),
        _ => Vec::new(),
    };
    let asked = Asked {
        uid: meta.uid.clone()?,
        version: meta.resource_version.clone()?,
        created: meta.creation_timestamp.as_ref().map_or(0, |time| time.0.as_second()),
        ours,
        foreign,
        ipv4: ipv4(spec),
        wanted: spec.load_balancer_ip.clone().filter(|text| !text.is_empty()),
        has: ingress(service),
        ports,
        sources: sources.unwrap_or_default(),
        health: (spec.external_traffic_policy.as_deref() == Some("Local"))
            .then(|| spec.health_check_node_port.and_then(number))
            .flatten(),
        notes,
    };
    Some((key, asked))
}

fn ingress(service: &Service) -> Vec<IpAddr> {
    let status = service.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    let all = status.and_then(|balancer| balancer.ingress.as_deref()).unwrap_or_default();
    all.iter().filter_map(|one| one.ip.as_deref()?.parse().ok()).collect()
}

fn number(number: i32) -> Option<u16> {
    u16::try_from(number).ok().filter(|number| *number != 0)
}

/// The first family that the Service names; where it names none, that of its cluster address.
fn ipv4(spec: &ServiceSpec) -> bool {
    match spec.ip_families.as_deref().and_then(<[String]>::first) {
        Some(family) => family != "IPv6",
        None => spec.cluster_ip.as_deref().and_then(|ip| ip.parse::<IpAddr>().ok()).is_none_or(|ip| ip.is_ipv4()),
    }
}

/// `None`: one cannot be read, so nobody may connect.
fn sources(spec: &ServiceSpec, notes: &mut Vec<Note>) -> Option<Vec<Prefix>> {
    let mut sources = Vec::new();
    for text in spec.load_balancer_source_ranges.iter().flatten() {
        let Ok(prefix) = text.trim().parse() else {
            let message = format!("loadBalancerSourceRanges: {text:?} is no network such as 10.0.0.0/8: nobody is let in");
            notes.push(Note::new("InvalidSourceRange", message));
            return None;
        };
        sources.push(prefix);
    }
    sources.sort();
    sources.dedup();
    Some(sources)
}

fn ports(spec: &ServiceSpec, notes: &mut Vec<Note>) -> Vec<Port> {
    let mut ports: Vec<Port> = Vec::new();
    for asked in spec.ports.iter().flatten() {
        let protocol = asked.protocol.as_deref().unwrap_or("TCP");
        if protocol != "TCP" {
            let message = format!("port {}: {protocol} is not balanced, only TCP is", asked.port);
            notes.push(Note::new("UnsupportedProtocol", message));
            continue;
        }
        match (number(asked.port), asked.node_port.and_then(number)) {
            (Some(port), Some(node_port)) => ports.push(Port { port, node_port }),
            _ => {
                let message = format!("port {} has no node port: allocateLoadBalancerNodePorts must not be false", asked.port);
                notes.push(Note::new("NodePortMissing", message));
            }
        }
    }
    ports.sort();
    ports.dedup_by_key(|port| port.port);
    ports
}

/// A Node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Its internal addresses.
    pub addresses: Vec<IpAddr>,
    /// Whether its kubelet says so.
    pub ready: bool,
}

impl Member {
    /// Its address for a Service of this family, or of the other one: HAProxy speaks both.
    pub fn address(&self, ipv4: bool) -> Option<IpAddr> {
        self.addresses.iter().find(|address| address.is_ipv4() == ipv4).or_else(|| self.addresses.first()).copied()
    }
}

/// The part of a Node that counts; `None` where it gets nothing.
pub fn node(node: &Node) -> Option<(String, Member)> {
    let name = node.metadata.name.clone()?;
    let plain = |name: &str| name.len() <= 253 && name.split('.').all(label);
    if !plain(&name) || node.metadata.labels.iter().flatten().any(|(label, _)| label == EXCLUDED) {
        return None;
    }
    let status = node.status.as_ref()?;
    let internal = status.addresses.iter().flatten().filter(|address| address.type_ == "InternalIP");
    let addresses: Vec<IpAddr> = internal.filter_map(|address| address.address.parse().ok()).collect();
    let ready = status.conditions.iter().flatten().any(|condition| condition.type_ == "Ready" && condition.status == "True");
    (!addresses.is_empty()).then_some((name, Member { addresses, ready }))
}
