//! The rules as HAProxy 3.0 and keepalived read them.
//!
//! Names come from the API, but only those that are DNS labels get here ([`crate::ask`]): none carries syntax. `_` is in
//! no name of a profile or of Kubernetes, so no section meets one of haproxy.cfg or of another Service.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};

use crate::ask::{Key, Member};
use crate::pool::Pool;
use crate::rules::{Rule, Rules};

/// The backend whose servers all others track.
pub const NODES: &str = "ingot_nodes";
/// Where kube-proxy tells whether the node forwards.
pub const HEALTH: u16 = 10256;

const DEFAULTS: &str = "\
defaults ingot_services
    mode tcp
    log global
    balance leastconn
    option clitcpka
    clitcpka-idle 60s
    clitcpka-intvl 10s
    clitcpka-cnt 6
    option srvtcpka
    srvtcpka-idle 30s
    srvtcpka-intvl 10s
    srvtcpka-cnt 3
    option redispatch 1
    retries 3
    timeout connect 5s
    timeout check 2s
    timeout client 24h
    timeout server 24h
    timeout tunnel 24h
    default-server inter 2s fall 2 rise 1
";

const ASK: &str = "    option httpchk
    http-check send meth GET uri /healthz ver HTTP/1.1 hdr Host node
    http-check expect status 200
";

/// The name of a section.
pub fn section(key: &Key, port: u16) -> String {
    format!("svc_{}_{}_{port}", key.namespace, key.name)
}

/// The rules for HAProxy. `head` is a line that tells for whom they are.
pub fn haproxy(rules: &Rules, head: &str) -> String {
    let mut text = format!("{head}\n{DEFAULTS}\nbackend {NODES} from ingot_services\n{ASK}");
    for (name, node) in &rules.nodes {
        if let Some(address) = node.address(true) {
            let _ = writeln!(text, "    server {name} {} check{}", SocketAddr::new(address, HEALTH), disabled(node));
        }
    }
    for (key, rule) in &rules.services {
        service(&mut text, &rules.nodes, key, rule);
    }
    text
}

fn disabled(node: &Member) -> &'static str {
    if node.ready { "" } else { " disabled" }
}

fn service(text: &mut String, nodes: &BTreeMap<String, Member>, key: &Key, rule: &Rule) {
    for port in &rule.ports {
        let (name, at) = (section(key, port.port), SocketAddr::new(rule.address, port.port));
        // A standby listens on addresses that it does not have yet.
        let _ = write!(text, "\nlisten {name} from ingot_services\n    bind {at} transparent\n");
        // HAProxy takes 64 words in a line.
        for some in rule.sources.chunks(32) {
            let sources: String = some.iter().map(|source| format!(" {source}")).collect();
            let _ = writeln!(text, "    acl allowed src{sources}");
        }
        if !rule.sources.is_empty() {
            text.push_str("    tcp-request connection reject unless allowed\n");
        }
        if rule.health.is_some() {
            text.push_str(ASK);
        }
        for (name, node) in nodes {
            let Some(address) = node.address(rule.address.is_ipv4()) else { continue };
            let at = SocketAddr::new(address, port.node_port);
            let _ = match rule.health {
                Some(health) => writeln!(text, "    server {name} {at} check port {health}{}", disabled(node)),
                None => writeln!(text, "    server {name} {at} track {NODES}/{name}"),
            };
        }
    }
}

/// What keepalived's instance includes.
pub fn keepalived(rules: &Rules, pool: &Pool, head: &str) -> String {
    let mut addresses: Vec<IpAddr> = rules.services.values().map(|rule| rule.address).collect();
    addresses.sort();
    let mut text = format!("{head}\n");
    if addresses.is_empty() {
        return text;
    }
    text.push_str("virtual_ipaddress_excluded {\n");
    for address in addresses {
        let length = if address.is_ipv4() { 32 } else { 128 };
        let interface = pool.interface(address).map(|name| format!(" dev {name}")).unwrap_or_default();
        let _ = writeln!(text, "    {address}/{length}{interface}");
    }
    text.push_str("}\n");
    text
}
