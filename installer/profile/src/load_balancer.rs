//! `[load_balancer]`: virtual addresses, frontends, VRRP, and addresses for services.

use std::net::IpAddr;

use serde::Deserialize;

use crate::address::{Prefix, Range};
use crate::check::{Check, Text};
use crate::document::{Located, quoted};
use crate::network::Network;
use crate::rules;
use crate::secret::SecretSource;

/// `[load_balancer]` as it is written.
#[derive(Debug, Clone, Deserialize)]
#[cfg_attr(any(test, feature = "schema"), derive(schemars::JsonSchema), schemars(rename = "LoadBalancer"))]
#[serde(deny_unknown_fields)]
pub struct Written {
    /// Addresses that move between the load balancers: `10.0.0.10/24`.
    #[serde(default)]
    pub addresses: Vec<WrittenAddress>,
    /// How load balancers agree who has them; required where there are addresses.
    pub vrrp: Option<WrittenVrrp>,
    /// What is balanced.
    #[serde(default)]
    pub frontends: Vec<WrittenFrontend>,
    /// Addresses for Services of type LoadBalancer; none by default. It takes `vrrp`, and `ca` and
    /// `load_balancer_token` of `[cluster]`.
    #[serde(default)]
    pub service_pool: Vec<Text>,
    /// Where statistics and Prometheus metrics are served; nowhere by default.
    pub metrics: Option<Text>,
}

/// A virtual address as it is written.
#[derive(Debug, Clone, Deserialize)]
#[cfg_attr(any(test, feature = "schema"), derive(schemars::JsonSchema), schemars(rename = "Address"))]
#[serde(deny_unknown_fields)]
pub struct WrittenAddress {
    /// Address with prefix length.
    pub address: Text,
    /// Interface it is put on, by the name in this profile; found by its network by default.
    pub interface: Option<Text>,
}

/// `[load_balancer.vrrp]` as it is written.
#[derive(Debug, Clone, Deserialize)]
#[cfg_attr(any(test, feature = "schema"), derive(schemars::JsonSchema), schemars(rename = "Vrrp"))]
#[serde(deny_unknown_fields)]
pub struct WrittenVrrp {
    /// Virtual router id, 1 to 255: the same on all peers, and no other's in this network.
    pub id: Located<u32>,
    /// Higher wins; 100 by default, 1 to 254.
    pub priority: Option<Located<u32>>,
    /// Addresses of the other load balancers.
    pub peers: Vec<Text>,
    /// Own address towards them; found by their network by default.
    pub source: Option<Text>,
    /// Milliseconds between advertisements; 500 by default (a dead balancer is replaced within 2 s), in steps of 10;
    /// with a password 1000 by default (within 4 s), in steps of 1000; 100 to 10000.
    pub interval_millis: Option<Located<u32>>,
    /// Password, 1 to 8 characters, against mix-ups (not attacks); none by default: it takes VRRP version 2 (RFC 3768).
    /// A secret.
    pub password: Option<Located<SecretSource>>,
}

/// How a backend is asked whether it works.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[cfg_attr(any(test, feature = "schema"), derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum CheckKind {
    /// GET of `/readyz` over TLS, checked against `[cluster] ca`: for API servers.
    Readyz,
    /// GET over TLS.
    Https,
    /// GET.
    Http,
    /// A connection.
    Tcp,
    /// Not at all.
    None,
}

/// A frontend as it is written.
#[derive(Debug, Clone, Deserialize)]
#[cfg_attr(any(test, feature = "schema"), derive(schemars::JsonSchema), schemars(rename = "Frontend"))]
#[serde(deny_unknown_fields)]
pub struct WrittenFrontend {
    /// Name, as that of a node.
    pub name: Text,
    /// Virtual address it listens on; all of them by default.
    pub address: Option<Text>,
    /// Port it listens on.
    pub port: Located<u16>,
    /// What it is shared among.
    #[serde(default)]
    pub backends: Vec<WrittenBackend>,
    /// How backends are asked; `readyz` for port 6443, else `tcp`.
    pub check: Option<Located<CheckKind>>,
    /// Path of the request, for `https` and `http`; `/` by default.
    pub check_path: Option<Text>,
    /// Milliseconds between checks; 2000 by default, 100 to 60000.
    pub check_millis: Option<Located<u32>>,
    /// Seconds a connection may be silent; 86400 by default (watches are silent for long), 10 to 604800.
    pub idle_secs: Option<Located<u32>>,
    /// Whether backends get the PROXY protocol (version 2); `false` by default.
    #[serde(default)]
    pub send_proxy: bool,
}

/// A backend as it is written.
#[derive(Debug, Clone, Deserialize)]
#[cfg_attr(any(test, feature = "schema"), derive(schemars::JsonSchema), schemars(rename = "Backend"))]
#[serde(deny_unknown_fields)]
pub struct WrittenBackend {
    /// Name, as that of a node.
    pub name: Text,
    /// Address.
    pub address: Text,
    /// Port; the frontend's by default.
    pub port: Option<Located<u16>>,
    /// Share; 100 by default, 0 (drained: no new connections) to 256.
    pub weight: Option<Located<u32>>,
}

/// A load balancer.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct LoadBalancer {
    /// Virtual addresses.
    pub addresses: Vec<VirtualAddress>,
    /// How load balancers agree.
    pub vrrp: Option<Vrrp>,
    /// What is balanced.
    pub frontends: Vec<Frontend>,
    /// Addresses for services.
    pub service_pool: Vec<Range>,
    /// Where statistics are served.
    pub metrics: Option<(IpAddr, u16)>,
}

/// A virtual address.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct VirtualAddress {
    /// Address and its network.
    pub address: Prefix,
    /// Interface it is put on; `None`: the one whose network it is in.
    pub interface: Option<String>,
}

/// VRRP.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Vrrp {
    /// Virtual router id.
    pub id: u8,
    /// Higher wins.
    pub priority: u8,
    /// The others.
    pub peers: Vec<IpAddr>,
    /// Own address.
    pub source: Option<IpAddr>,
    /// Milliseconds between advertisements.
    pub interval_millis: u32,
    /// Password.
    pub password: Option<SecretSource>,
}

/// A frontend.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Frontend {
    /// Name.
    pub name: String,
    /// Virtual address; `None`: all.
    pub address: Option<IpAddr>,
    /// Port.
    pub port: u16,
    /// What it is shared among.
    pub backends: Vec<Backend>,
    /// How backends are asked.
    pub check: CheckKind,
    /// Path of the request.
    pub check_path: String,
    /// Milliseconds between checks.
    pub check_millis: u32,
    /// Seconds a connection may be silent.
    pub idle_secs: u32,
    /// PROXY protocol.
    pub send_proxy: bool,
}

/// A backend.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Backend {
    /// Name.
    pub name: String,
    /// Address.
    pub address: IpAddr,
    /// Port.
    pub port: u16,
    /// Share; 0: drained.
    pub weight: u16,
}

const PASSWORD: crate::rule::Rule = crate::rule::Rule {
    what: "VRRP password",
    expected: "1 to 8 letters or digits",
    holds: |text| crate::rule::only(text, 8, crate::rule::alnum),
};

/// What `[cluster]` has that a load balancer may need.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Given {
    pub(crate) ca: bool,
    pub(crate) token: bool,
}

pub(crate) fn check(check: &mut Check<'_>, written: &Written, network: &Network, given: Given) -> LoadBalancer {
    let addresses = addresses(check, written, network);
    let own: Vec<IpAddr> = network.interfaces.iter().flat_map(|interface| &interface.addresses).map(Prefix::address).collect();
    let metrics = written.metrics.as_ref().and_then(|text| check.endpoint(text).map(|endpoint| (text, endpoint))).and_then(
        |(text, endpoint)| {
            let address = endpoint.address();
            if address.is_none_or(|address| address.is_unspecified()) {
                check.faults.add_with_hint(
                    text.place(),
                    "statistics are served on one address only",
                    "give an address of the management network and a port",
                );
            }
            address.map(|address| (address, endpoint.port))
        },
    );
    if let Some(first) = written.addresses.first().filter(|_| written.vrrp.is_none() && check.whole) {
        check.faults.add_with_hint(
            first.address.place(),
            "nothing says how load balancers agree who has the virtual addresses",
            "add `[load_balancer.vrrp]` with `id` and `peers`",
        );
    }
    check.twice("frontend", written.frontends.iter().map(|frontend| &frontend.name));
    LoadBalancer {
        vrrp: written.vrrp.as_ref().map(|vrrp| check_vrrp(check, vrrp, &own)),
        frontends: frontends(check, written, &addresses, given.ca),
        service_pool: pool(check, written, &addresses, &own, given),
        addresses,
        metrics,
    }
}

fn addresses(check: &mut Check<'_>, written: &Written, network: &Network) -> Vec<VirtualAddress> {
    let names: Vec<&str> = network.interfaces.iter().map(|interface| interface.name.as_str()).collect();
    let dhcp =
        network.interfaces.is_empty() || network.interfaces.iter().any(|interface| interface.dhcp != crate::network::Dhcp::No);
    check.twice("virtual address", written.addresses.iter().map(|address| &address.address));
    let mut addresses = Vec::new();
    for entry in &written.addresses {
        if let Some(name) = &entry.interface {
            check.known(name, "interface", &names);
        }
        let Some(address) = check.prefix(&entry.address) else { continue };
        let mut near = network.interfaces.iter().flat_map(|interface| &interface.addresses);
        if near.clone().any(|own| own.address() == address.address()) {
            let message = format!("the virtual address {} is an interface's own address", address.address());
            check.faults.add_with_hint(
                entry.address.place(),
                message,
                "it moves between the machines: take one that no machine has",
            );
        } else if !address.is_host() {
            check.faults.add(entry.address.place(), format!("{} is no address a machine can have", quoted(&entry.address)));
        } else if check.whole && entry.interface.is_none() && !dhcp && !near.any(|own| own.contains(address.address())) {
            let message = format!("the virtual address {} is in no network of an interface", address.address());
            check.faults.add_with_hint(entry.address.place(), message, "say its `interface`");
        }
        addresses.push(VirtualAddress { address, interface: entry.interface.as_ref().map(|name| name.to_string()) });
    }
    addresses
}

fn check_vrrp(check: &mut Check<'_>, written: &WrittenVrrp, own: &[IpAddr]) -> Vrrp {
    check.twice("peer", &written.peers);
    let mut peers = Vec::new();
    for text in &written.peers {
        let Some(peer) = check.address(text) else { continue };
        if own.contains(&peer) {
            check.faults.add_with_hint(text.place(), format!("the peer {peer} is this machine"), "`peers` are the others");
        }
        peers.push(peer);
    }
    let source = written.source.as_ref().and_then(|text| {
        let source = check.address(text)?;
        if !own.is_empty() && !own.contains(&source) {
            check.faults.add(text.place(), format!("the source {source} is no address of this machine"));
        }
        Some(source)
    });
    let small = |number: u32| u8::try_from(number).unwrap_or_default();
    // RFC 5798 counts hundredths of a second; version 2, the one with passwords, seconds.
    let (usual, step) = if written.password.is_some() { (1000, 1000) } else { (500, 10) };
    let interval_millis = check.number(written.interval_millis.as_ref(), "interval_millis", 100..=10000, usual);
    if let Some(place) = written.interval_millis.as_ref().filter(|_| !interval_millis.is_multiple_of(step)).map(Located::place) {
        let version =
            if step == 1000 { "with a password, VRRP counts whole seconds" } else { "VRRP counts hundredths of a second" };
        check.faults.add_with_hint(
            place,
            format!("`interval_millis` is {interval_millis}, but {version}"),
            format!("take a multiple of {step}"),
        );
    }
    Vrrp {
        id: small(check.number(Some(&written.id), "id", 1..=255, 0)),
        priority: small(check.number(written.priority.as_ref(), "priority", 1..=254, 100)),
        peers,
        source,
        interval_millis,
        password: written.password.as_ref().map(|password| check.secret(password, &PASSWORD)),
    }
}

fn frontends(check: &mut Check<'_>, written: &Written, addresses: &[VirtualAddress], has_ca: bool) -> Vec<Frontend> {
    let mut frontends: Vec<Frontend> = Vec::new();
    for entry in &written.frontends {
        let address = entry.address.as_ref().and_then(|text| {
            let address = check.address(text)?;
            if check.whole && !addresses.iter().any(|known| known.address.address() == address) {
                check.faults.add(text.place(), format!("{address} is no virtual address of this load balancer"));
            }
            Some(address)
        });
        let port = check.port(&entry.port);
        let clash = frontends
            .iter()
            .find(|other| other.port == port && (other.address == address || other.address.is_none() || address.is_none()));
        if let Some(other) = clash.filter(|_| !entry.port.place().is_hole()) {
            let message = format!("the frontend {} listens on this address and port already", quoted(&other.name));
            check.faults.add(entry.port.place(), message);
        }
        let kind = entry.check.as_ref().map_or(if port == 6443 { CheckKind::Readyz } else { CheckKind::Tcp }, |kind| **kind);
        let place = entry.check.as_ref().map_or(entry.name.place(), Located::place);
        if kind == CheckKind::Readyz && !has_ca && check.whole {
            check.faults.add_with_hint(
                place,
                "API servers are checked against the CA of the cluster, but there is none",
                "add `ca` to `[cluster]`, or `check = \"tcp\"`",
            );
        }
        if let Some(path) = entry.check_path.as_ref().filter(|_| !matches!(kind, CheckKind::Https | CheckKind::Http)) {
            check.faults.add(path.place(), "`check_path` is for the checks `https` and `http` only");
        }
        let path = check.optional(entry.check_path.as_ref(), &rules::HTTP_PATH);
        frontends.push(Frontend {
            name: check.text(&entry.name, &rules::NAME),
            address,
            port,
            backends: backends(check, entry, port),
            check: kind,
            check_path: path.unwrap_or_else(|| if kind == CheckKind::Readyz { "/readyz" } else { "/" }.to_owned()),
            check_millis: check.number(entry.check_millis.as_ref(), "check_millis", 100..=60000, 2000),
            idle_secs: check.number(entry.idle_secs.as_ref(), "idle_secs", 10..=604_800, 86400),
            send_proxy: entry.send_proxy,
        });
    }
    frontends
}

fn backends(check: &mut Check<'_>, frontend: &WrittenFrontend, port: u16) -> Vec<Backend> {
    if frontend.backends.is_empty() && check.whole {
        check.faults.add(frontend.name.place(), format!("the frontend {} has no backends", quoted(&frontend.name)));
    }
    check.twice("backend", frontend.backends.iter().map(|backend| &backend.name));
    let mut backends: Vec<Backend> = Vec::new();
    for entry in &frontend.backends {
        let name = check.text(&entry.name, &rules::NAME);
        let port = entry.port.as_ref().map_or(port, |port| check.port(port));
        let weight = check.number(entry.weight.as_ref(), "weight", 0..=256, 100);
        let Some(address) = check.address(&entry.address) else { continue };
        if let Some(other) = backends.iter().find(|other| other.address == address && other.port == port) {
            check
                .faults
                .add(entry.address.place(), format!("the backend {} has this address and port already", quoted(&other.name)));
        }
        backends.push(Backend { name, address, port, weight: u16::try_from(weight).unwrap_or_default() });
    }
    backends
}

fn pool(check: &mut Check<'_>, written: &Written, addresses: &[VirtualAddress], own: &[IpAddr], given: Given) -> Vec<Range> {
    if let Some(first) = written.service_pool.first().filter(|_| check.whole) {
        let vrrp = written.vrrp.is_some() && !written.addresses.is_empty();
        for (there, what, hint) in [
            (
                vrrp,
                "nothing says who has the addresses of the pool",
                "add `addresses` and `[load_balancer.vrrp]`: they move with those",
            ),
            (given.ca, "Services are asked of the cluster's API, but nothing vouches for it", "add `ca` to `[cluster]`"),
            (
                given.token,
                "Services are asked of the cluster's API, but nothing says who asks",
                "add `load_balancer_token` to `[cluster]`",
            ),
        ] {
            if !there {
                check.faults.add_with_hint(first.place(), what, hint);
            }
        }
    }
    let mut pool: Vec<Range> = Vec::new();
    let taken: Vec<IpAddr> = addresses.iter().map(|entry| entry.address.address()).chain(own.iter().copied()).collect();
    for text in &written.service_pool {
        let Some(range) = check.range(text) else { continue };
        if let Some(other) = pool.iter().find(|other| other.overlaps(&range)) {
            check.faults.add(text.place(), format!("the ranges {other} and {range} overlap"));
        }
        if let Some(address) = taken.iter().find(|address| range.contains(**address)) {
            check.faults.add(text.place(), format!("the pool {range} holds the address {address}, which is taken"));
        }
        pool.push(range);
    }
    pool
}
