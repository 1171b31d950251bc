//! `haproxy.cfg` for HAProxy 3.0.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use profile::load_balancer::{Backend, CheckKind, Frontend, LoadBalancer};
use profile::rules;

use super::{Refusal, checked};

/// Where the CA of the cluster (PEM) is expected by the rendered text.
pub const CA_FILE: &str = "/etc/haproxy/cluster-ca.pem";
/// Runtime socket, of root only.
pub const SOCKET: &str = "/run/haproxy/admin.sock";

const HEAD: &str = "\
# Rendered from the profile at each boot: changes made here are lost.
global
    user haproxy
    group haproxy
    stats socket /run/haproxy/admin.sock mode 600 level admin expose-fd listeners
    stats timeout 30s

defaults
    mode tcp
    option tcpka
    option redispatch
    retries 3
    timeout connect 5s
    timeout check 5s
    timeout client 24h
    timeout server 24h
    timeout tunnel 24h
";

/// The whole text.
///
/// # Errors
/// A name or a path that is none, a repeated or missing one, or a number out of its bounds: the profile
/// crate refuses these as well, but here they would become syntax.
pub fn render(balancer: &LoadBalancer) -> Result<String, Refusal> {
    let mut text = HEAD.to_owned();
    for frontend in &balancer.frontends {
        section(&mut text, balancer, frontend)?;
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

fn section(text: &mut String, balancer: &LoadBalancer, frontend: &Frontend) -> Result<(), Refusal> {
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
        server(text, name, frontend, backend)?;
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

fn server(text: &mut String, frontend_name: &str, frontend: &Frontend, backend: &Backend) -> Result<(), Refusal> {
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
            let _ = write!(text, " check-ssl verify required ca-file {CA_FILE}");
        }
        CheckKind::Https => text.push_str(" check-ssl verify none"),
        CheckKind::Http | CheckKind::Tcp | CheckKind::None => {}
    }
    text.push_str(if frontend.send_proxy { " send-proxy-v2\n" } else { "\n" });
    Ok(())
}
