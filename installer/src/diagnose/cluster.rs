//! Virtual address, endpoint, TLS, CA, token, ports, backends.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use profile::node::Role;

use super::join::{Target, Trouble, find};
use super::network::neighbour;
use super::{Finding, Level, Subject};
use crate::report::{State, codes};
use crate::roles::load_balancer::agent;

const WITHIN: Duration = Duration::from_secs(3);

/// Who has the virtual address.
pub(super) fn address(subject: &Subject) -> Vec<Finding> {
    let test = "address";
    let Some(profile) = &subject.profile else { return vec![Finding::skip(test, "there is no profile")] };
    let balancer = profile.load_balancer.iter().flat_map(|balancer| &balancer.addresses).map(|address| address.address.address());
    let mut all: Vec<IpAddr> = balancer.collect();
    let endpoint = profile.cluster.as_ref().and_then(|cluster| cluster.endpoint.address());
    all.extend(endpoint.filter(|address| !all.contains(address)));
    let port = profile.cluster.as_ref().map_or(6443, |cluster| cluster.endpoint.port);
    let one = |address: &IpAddr| {
        if subject.addresses.contains(address) {
            return Finding::ok(test, format!("{address} is on this machine"));
        }
        // Trying to connect makes the kernel ask who has it.
        let answers = subject.net.connect(SocketAddr::new(*address, port), WITHIN);
        match (answers, neighbour(&*subject.net, *address)) {
            (_, Some(mac)) => Finding::ok(test, format!("{address} is at {mac}")),
            (Ok(()), None) => Finding::ok(test, format!("{address} is behind a router, and answers")),
            (Err(error), None) if error.kind() == std::io::ErrorKind::ConnectionRefused => {
                Finding::ok(test, format!("{address} is there, port {port} is closed"))
            }
            (Err(error), None) => Finding::fail(test, &codes::ADDRESS_NOBODY, format!("nobody answers for {address}: {error}")),
        }
    };
    if all.is_empty() { vec![Finding::skip(test, "the endpoint is a name")] } else { all.iter().map(one).collect() }
}

/// The API at the endpoint: TLS, CA, names, times, pin, token.
pub(super) fn api(subject: &Subject) -> Vec<Finding> {
    let test = "api";
    let Some(cluster) = subject.profile.as_ref().and_then(|profile| profile.cluster.as_ref()) else {
        return vec![Finding::skip(test, "the profile names no cluster")];
    };
    let join = cluster.join.as_ref();
    let source = join.and_then(|join| join.token.as_ref());
    let token = subject.secret(source);
    let endpoint = format!("{}:{}", cluster.endpoint.host, cluster.endpoint.port);
    match find(&*subject.net, &Target::of(cluster, token, subject.at())) {
        Ok(_) => {
            let by = match (token.is_some(), source.is_some()) {
                (true, _) => "CA and token are in order",
                (false, true) => "the CA is in order; the token's credential is not at hand here",
                (false, false) => "the CA is in order",
            };
            vec![Finding::ok(test, format!("{endpoint} answers; {by}"))]
        }
        // The first control plane makes what is missing, and a load balancer comes before it.
        Err(trouble @ (Trouble::Unreachable(_) | Trouble::NotTls(_) | Trouble::InfoMissing(_)))
            if join.is_none_or(|join| join.first) && !ready_node(subject) =>
        {
            vec![Finding::warn(test, trouble.code(), trouble.seen())]
        }
        // A token is of no use any more to who has joined.
        Err(trouble @ (Trouble::TokenUnknown(_) | Trouble::TokenSecret(_))) if ready_node(subject) => {
            vec![Finding::ok(
                test,
                format!("{endpoint} answers; {}, which a machine that has joined does not need", trouble.seen()),
            )]
        }
        Err(trouble) => vec![Finding::fail(test, trouble.code(), trouble.seen())],
    }
}

fn ready(subject: &Subject) -> bool {
    subject.status.as_ref().is_some_and(|status| status.state == State::Ready)
}

fn ready_node(subject: &Subject) -> bool {
    ready(subject) && subject.profile.as_ref().is_some_and(|profile| profile.node.role.is_node())
}

/// Ports of a role and the programs that should have them.
fn wanted(subject: &Subject) -> Vec<(u16, &'static str)> {
    let Some(profile) = &subject.profile else { return Vec::new() };
    match profile.node.role {
        Role::ControlPlane => vec![
            (6443, "kube-apiserver"),
            (2379, "etcd"),
            (2380, "etcd"),
            (10250, "kubelet"),
            (10257, "kube-controller-manager"),
            (10259, "kube-scheduler"),
        ],
        Role::LoadBalancer => profile
            .load_balancer
            .iter()
            .flat_map(|balancer| &balancer.frontends)
            .map(|frontend| (frontend.port, "haproxy"))
            .collect(),
        _ => vec![(10250, "kubelet")],
    }
}

/// Each port of the role is free, or held by whom it is meant for.
pub(super) fn ports(subject: &Subject) -> Vec<Finding> {
    let test = "ports";
    let mut wrong = Vec::new();
    let mut well = Vec::new();
    for (port, program) in wanted(subject) {
        // The kernel keeps 15 letters of a name.
        let short = program.get(..program.len().min(15)).unwrap_or(program);
        match subject.listeners.get(&port) {
            Some(names) if names.is_empty() || names.iter().any(|name| name == short) => well.push(format!("{port} {program}")),
            Some(names) => {
                let seen = format!("port {port} is for {program}, but {} has it", names.join(", "));
                wrong.push(Finding::fail(test, &codes::PORT_TAKEN, seen));
            }
            None if ready(subject) => {
                wrong.push(Finding::fail(test, &codes::PORT_CLOSED, format!("port {port}: {program} does not listen")));
            }
            None => well.push(format!("{port} free for {program}")),
        }
    }
    if !well.is_empty() {
        wrong.push(Finding::ok(test, well.join(", ")));
    }
    if wrong.is_empty() { vec![Finding::skip(test, "the profile asks for none")] } else { wrong }
}

/// Each backend of a load balancer takes connections. Other roles only know the endpoint.
pub(super) fn peers(subject: &Subject) -> Vec<Finding> {
    let test = "peers";
    let frontends = subject.profile.iter().flat_map(|profile| &profile.load_balancer).flat_map(|balancer| &balancer.frontends);
    let backends: Vec<(String, SocketAddr)> = frontends
        .flat_map(|frontend| frontend.backends.iter())
        .map(|backend| (backend.name.clone(), SocketAddr::new(backend.address, backend.port)))
        .collect();
    if backends.is_empty() {
        return vec![Finding::skip(test, "the profile names no other machine")];
    }
    // All at once: a site may have many, and each may be silent.
    std::thread::scope(|scope| {
        let tries: Vec<_> = backends
            .iter()
            .take(64)
            .map(|(name, address)| scope.spawn(move || (name, address, subject.net.connect(*address, WITHIN))))
            .collect();
        tries
            .into_iter()
            .filter_map(|one| one.join().ok())
            .map(|(name, address, result)| match result {
                Ok(()) => Finding::ok(test, format!("{name} ({address}) takes connections")),
                Err(error) => Finding::warn(test, &codes::PEER_SILENT, format!("{name} ({address}): {error}")),
            })
            .collect()
    })
}

/// The other load balancers are there.
pub(super) fn vrrp(subject: &Subject) -> Vec<Finding> {
    let test = "vrrp";
    let vrrp = subject.profile.iter().flat_map(|profile| &profile.load_balancer).find_map(|balancer| balancer.vrrp.as_ref());
    let Some(vrrp) = vrrp else { return vec![Finding::skip(test, "the profile has no `[load_balancer.vrrp]`")] };
    let one = |peer: &IpAddr| {
        // Any answer, a refusal too, shows that somebody is there.
        let there = match subject.net.connect(SocketAddr::new(*peer, 6443), WITHIN) {
            Ok(()) => true,
            Err(error) => error.kind() == std::io::ErrorKind::ConnectionRefused,
        };
        match there.then(String::new).or_else(|| neighbour(&*subject.net, *peer).map(|mac| format!(" at {mac}"))) {
            Some(at) => Finding::ok(test, format!("the peer {peer} is there{at}")),
            None => Finding::warn(test, &codes::PEER_SILENT, format!("the peer {peer} does not answer")),
        }
    };
    vrrp.peers.iter().map(one).collect()
}

/// The agent for Services of type LoadBalancer: what it tells.
pub(super) fn services(subject: &Subject) -> Vec<Finding> {
    let test = "services";
    let pool =
        subject.profile.iter().flat_map(|profile| &profile.load_balancer).any(|balancer| !balancer.service_pool.is_empty());
    if !pool {
        return vec![Finding::skip(test, "the profile has no `service_pool`")];
    }
    let Some(told) = &subject.agent else { return vec![Finding::warn(test, &codes::NOT_READY, "ingot-agent has not begun")] };
    let trouble = |trouble: &agent::Trouble| {
        let code = codes::by_number(&trouble.code).unwrap_or(&codes::AGENT_API);
        // The first control plane may come after its load balancer.
        if *code == codes::AGENT_UNREACHABLE {
            Finding::warn(test, code, trouble.message.as_str())
        } else {
            Finding::fail(test, code, trouble.message.as_str())
        }
    };
    let mut findings: Vec<Finding> = told.troubles.iter().map(trouble).collect();
    findings.extend(told.notes.iter().map(|note| Finding { level: Level::Warn, ..Finding::skip(test, note.as_str()) }));
    if findings.is_empty() {
        let who = if told.holder { "gives addresses away" } else { "follows the other balancer" };
        findings.push(Finding::ok(
            test,
            format!("{}: {} services on {} nodes; this machine {who}", told.state, told.services, told.nodes),
        ));
    }
    findings
}
