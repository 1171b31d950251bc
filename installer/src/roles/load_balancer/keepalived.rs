//! `keepalived.conf`: unicast VRRP.
//!
//! Choices, and why:
//! * All balancers start as BACKUP with `nopreempt`: whoever has the addresses keeps them until it fails.
//! * Version 3 of VRRP (RFC 5798) counts hundredths of a second: with the default of 500 ms a dead balancer is missed after
//!   at most 2 s. A password needs version 2, with whole seconds.
//! * The tracked check asks whether HAProxy answers, not whether any API server is up ([`super::health`] says why).
//! * Gratuitous ARP is repeated: a switch, or Hyper-V's, may lose the first.

use std::fmt::Write as _;
use std::net::IpAddr;

use profile::load_balancer::{LoadBalancer, Vrrp};
use profile::rule::{Rule, alnum, only};
use profile::secret::Secret;

use super::{Refusal, checked};

/// Where it is.
pub const CONFIG: &str = "/etc/keepalived/keepalived.conf";
/// What the service agent adds to the instance: its `virtual_ipaddress_excluded` block. It may be absent.
pub const SERVICES: &str = "/run/ingot/services/keepalived.conf";
/// What keepalived runs to learn whether HAProxy works; as root, because its socket is root's.
pub const CHECK: &str = "/usr/bin/ingot-installer check-haproxy";

const INTERFACE: Rule = Rule {
    what: "interface name",
    expected: "1 to 15 letters, digits, `-`, `_`, `.`",
    holds: |text| only(text, 15, |c| alnum(c) || "-_.".contains(c)),
};
const PASSWORD: Rule = Rule { what: "VRRP password", expected: "1 to 8 letters or digits", holds: |text| only(text, 8, alnum) };

/// What only the running machine can tell.
#[derive(Debug, Clone)]
pub struct Place {
    /// Own address towards the peers.
    pub source: IpAddr,
    /// Kernel's name of the interface that has it.
    pub interface: String,
    /// Kernel's name of the interface of each virtual address, in the profile's order.
    pub interfaces: Vec<String>,
    /// The password, where the profile has one.
    pub password: Option<Secret>,
}

/// The whole text, for a file that only root reads: it holds the password. `None`: the profile has no VRRP.
///
/// # Errors
/// No peers (keepalived would speak to everybody), peers of another family than `source`, or texts that
/// are no names.
pub fn render(balancer: &LoadBalancer, place: &Place) -> Result<Option<Secret>, Refusal> {
    let Some(vrrp) = &balancer.vrrp else { return Ok(None) };
    sound(balancer, vrrp, place)?;
    // Passwords are gone from version 3.
    let version = if place.password.is_some() { 2 } else { 3 };
    let mut text = format!(
        "# Rendered from the profile at each boot: changes made here are lost.\n\
         global_defs {{\n    enable_script_security\n    script_user root\n    vrrp_version {version}\n    \
         vrrp_garp_master_delay 2\n    vrrp_garp_master_refresh 30\n    vrrp_garp_master_repeat 5\n    vrrp_garp_master_refresh_repeat 2\n}}\n\n\
         vrrp_script haproxy {{\n    script \"{CHECK}\"\n    interval 1\n    timeout 1\n    fall 2\n    rise 2\n}}\n\n\
         vrrp_instance ingot {{\n    state BACKUP\n    nopreempt\n    interface {}\n    virtual_router_id {}\n    \
         priority {}\n    advert_int {}.{:03}\n    unicast_src_ip {}\n    unicast_peer {{\n",
        checked(&INTERFACE, "VRRP", &place.interface)?,
        vrrp.id,
        vrrp.priority,
        vrrp.interval_millis / 1000,
        vrrp.interval_millis % 1000,
        place.source
    );
    for peer in &vrrp.peers {
        let _ = writeln!(text, "        {peer}");
    }
    text.push_str("    }\n");
    if let Some(password) = &place.password {
        // Its text is in no message.
        if !PASSWORD.holds(password.expose()) {
            return Err(Refusal { told: format!("VRRP: the password is not {}", PASSWORD.expected), hint: "give another one" });
        }
        let _ = write!(text, "    authentication {{\n        auth_type PASS\n        auth_pass {}\n    }}\n", password.expose());
    }
    // Adverts carry addresses of their own family only; the others move along.
    addresses(&mut text, "virtual_ipaddress", balancer, place, true)?;
    addresses(&mut text, "virtual_ipaddress_excluded", balancer, place, false)?;
    text.push_str("    track_script {\n        haproxy\n    }\n");
    if !balancer.service_pool.is_empty() {
        let _ = writeln!(text, "    include {SERVICES}");
    }
    text.push_str("}\n");
    Ok(Some(Secret::new(text)))
}

fn sound(balancer: &LoadBalancer, vrrp: &Vrrp, place: &Place) -> Result<(), Refusal> {
    let refuse = |told: String, hint| Err(Refusal { told, hint });
    let family = place.source.is_ipv4();
    if vrrp.id == 0 || !(1..=254).contains(&vrrp.priority) || !(100..=10000).contains(&vrrp.interval_millis) {
        let told = format!("VRRP: id {}, priority {}, {} ms", vrrp.id, vrrp.priority, vrrp.interval_millis);
        return refuse(told, "expected 1 to 255, 1 to 254 and 100 to 10000");
    }
    let step = if vrrp.password.is_some() { 1000 } else { 10 };
    if !vrrp.interval_millis.is_multiple_of(step) {
        return refuse(
            format!("VRRP: found adverts every {} ms", vrrp.interval_millis),
            "take whole seconds with a password, else steps of 10 ms",
        );
    }
    if vrrp.peers.is_empty() {
        return refuse("VRRP: found no peers, expected one or more".to_owned(), "add the other load balancers to `peers`");
    }
    if let Some(peer) = vrrp.peers.iter().find(|peer| peer.is_ipv4() != family) {
        return refuse(format!("VRRP: the peer {peer} is of another family than {}", place.source), "give `source`");
    }
    if !family && vrrp.password.is_some() {
        return refuse("VRRP: a password over IPv6".to_owned(), "leave it out: VRRP version 3 has none");
    }
    if vrrp.password.is_some() != place.password.is_some() {
        return refuse("VRRP: the password was not found, or none was asked for".to_owned(), "check its credential");
    }
    if balancer.addresses.len() != place.interfaces.len()
        || !balancer.addresses.iter().any(|known| known.address.address().is_ipv4() == family)
    {
        return refuse(
            format!("VRRP: no virtual address of the family of {}, or one has no interface", place.source),
            "check `addresses`",
        );
    }
    Ok(())
}

fn addresses(text: &mut String, block: &str, balancer: &LoadBalancer, place: &Place, same: bool) -> Result<(), Refusal> {
    let mut lines = String::new();
    for (known, interface) in balancer.addresses.iter().zip(&place.interfaces) {
        if (known.address.address().is_ipv4() == place.source.is_ipv4()) == same {
            let interface = checked(&INTERFACE, "virtual address", interface)?;
            let _ = writeln!(lines, "        {} dev {interface}", known.address);
        }
    }
    if !lines.is_empty() {
        let _ = write!(text, "    {block} {{\n{lines}    }}\n");
    }
    Ok(())
}
