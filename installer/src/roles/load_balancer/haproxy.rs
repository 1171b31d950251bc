//! `haproxy.cfg` for HAProxy 3.0.
//!
//! Choices, and why:
//! * `timeout client|server|tunnel` are long (`idle_secs`, a day by default): watches of the API are silent for long.
//!   Who is dead is found by TCP instead: `clitcpka-*` and `srvtcpka-*` end a dead connection after 60 to 120 s.
//! * A reload keeps the former process until its connections end, at most `hard-stop-after` 12 h: API servers end a watch
//!   within an hour by themselves, and a person's `kubectl exec` or `port-forward` lasts a working day at most.
//!   `mworker-max-reloads` bounds how many former processes there are.
//! * `weight 0` drains: no new connection, the open ones stay. Servers that went down keep theirs too: an API server that
//!   shuts down fails `/readyz` first and still serves what it has.
//! * `log stdout ... notice` says when a server comes or goes, in the unit's journal; connections are not logged.
//! * Nothing listens but the frontends, and the statistics on the one address the profile names.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use profile::load_balancer::{Backend, CheckKind, Frontend, LoadBalancer};
use profile::rules;

use super::{Refusal, checked};

/// Where it is.
pub const CONFIG: &str = "/etc/haproxy/haproxy.cfg";
/// Where further rules are found: files of the service agent, read by name after [`CONFIG`].
pub const SERVICES: &str = "/run/ingot/services";
/// How the names of the cluster's CA begin; the digest of its text follows, so that a former configuration keeps its own.
pub const CA_PREFIX: &str = "cluster-ca-";
/// Runtime socket, of root only.
pub const SOCKET: &str = "/run/haproxy/admin.sock";

const HEAD: &str = "\
# Rendered from the profile at each boot: changes made here are lost.
global
    user haproxy
    group haproxy
    log stdout format short daemon notice
    stats socket /run/haproxy/admin.sock mode 600 level admin expose-fd listeners
    stats timeout 30s
    hard-stop-after 12h
    mworker-max-reloads 50

defaults
    mode tcp
    log global
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
    timeout check 5s
    timeout client 24h
    timeout server 24h
    timeout tunnel 24h
";

/// The whole text. `ca_file` is where the CA of the cluster (PEM) is.
///
/// # Errors
/// A name or a path that is none, a repeated or missing one, or a number out of its bounds: the profile
/// crate refuses these as well, but here they would become syntax.
pub fn render(balancer: &LoadBalancer, ca_file: &str) -> Result<String, Refusal> {
    let mut text = HEAD.to_owned();
    for frontend in &balancer.frontends {
        section(&mut text, balancer, frontend, ca_file)?;
    }
    if let Some((address, port)) = balancer.metrics {
        if address.is_unspecified() || port == 0 {
            return Err(Refusal {
                told: format!("metrics: found {}, expected one address and a port", SocketAddr::new(address, port)),
                hint: "give an address of the management network",
            });
        }
        // `_` is in no name of a profile: this section meets no other.
        let _ = write!(
            text,
            "\nfrontend ingot_metrics\n    mode http\n    bind {}\n    timeout client 10s\n    \
             http-request use-service prometheus-exporter if {{ path /metrics }}\n    stats enable\n    stats uri /stats\n",
            SocketAddr::new(address, port)
        );
    }
    Ok(text)
}

fn section(text: &mut String, balancer: &LoadBalancer, frontend: &Frontend, ca_file: &str) -> Result<(), Refusal> {
    let name = checked(&rules::NAME, "frontend", &frontend.name)?;
    if frontend.port == 0 || frontend.backends.is_empty() {
        return Err(Refusal {
            told: format!("frontend {name}: found port {} and {} backends", frontend.port, frontend.backends.len()),
            hint: "give it a port and at least one backend",
        });
    }
    let idle = frontend.idle_secs;
    let _ = write!(text, "\nfrontend fe_{name}\n    timeout client {idle}s\n");
    for address in listening(balancer, frontend) {
        // A standby listens on addresses that it does not have yet.
        let _ = writeln!(text, "    bind {} transparent", SocketAddr::new(address, frontend.port));
    }
    if frontend.address.is_none() && balancer.addresses.is_empty() {
        let _ = writeln!(text, "    bind {} v4v6", SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), frontend.port));
    }
    let _ = write!(
        text,
        "    default_backend be_{name}\n\nbackend be_{name}\n    balance leastconn\n    \
         timeout server {idle}s\n    timeout tunnel {idle}s\n"
    );
    request(text, name, frontend)?;
    for backend in &frontend.backends {
        server(text, frontend, backend, ca_file)?;
    }
    Ok(())
}

fn listening(balancer: &LoadBalancer, frontend: &Frontend) -> Vec<IpAddr> {
    match frontend.address {
        Some(address) => vec![address],
        None => balancer.addresses.iter().map(|known| known.address.address()).collect(),
    }
}

fn request(text: &mut String, name: &str, frontend: &Frontend) -> Result<(), Refusal> {
    let (path, host) = match frontend.check {
        CheckKind::Readyz => ("/readyz", "kubernetes"),
        CheckKind::Https | CheckKind::Http => (checked(&rules::HTTP_PATH, name, &frontend.check_path)?, name),
        CheckKind::Tcp | CheckKind::None => return Ok(()),
    };
    let _ = write!(
        text,
        "    option httpchk\n    http-check send meth GET uri {path} ver HTTP/1.1 hdr Host {host}\n    \
         http-check expect status 200\n"
    );
    Ok(())
}

fn server(text: &mut String, frontend: &Frontend, backend: &Backend, ca_file: &str) -> Result<(), Refusal> {
    let frontend_name = &frontend.name;
    let name = checked(&rules::NAME, frontend_name, &backend.name)?;
    if backend.port == 0 || backend.weight > 256 || backend.address.is_unspecified() {
        return Err(Refusal {
            told: format!(
                "backend {name} of {frontend_name}: found {} with weight {}, expected an address, a port and 0 to 256",
                SocketAddr::new(backend.address, backend.port),
                backend.weight
            ),
            hint: "correct it in the profile",
        });
    }
    let _ = write!(text, "    server {name} {} weight {}", SocketAddr::new(backend.address, backend.port), backend.weight);
    if frontend.check != CheckKind::None {
        let _ = write!(text, " check inter {}ms fall 3 rise 2", frontend.check_millis);
    }
    match frontend.check {
        CheckKind::Readyz => {
            let _ = write!(text, " check-ssl verify required ca-file {ca_file}");
        }
        CheckKind::Https => text.push_str(" check-ssl verify none"),
        CheckKind::Http | CheckKind::Tcp | CheckKind::None => {}
    }
    text.push_str(if frontend.send_proxy { " send-proxy-v2\n" } else { "\n" });
    Ok(())
}
