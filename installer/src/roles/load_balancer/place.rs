//! Which interface has which address: from the profile, and where that does not say it (DHCP), from the machine.

use std::net::IpAddr;

use profile::address::Prefix;
use profile::load_balancer::{LoadBalancer, Vrrp};
use profile::network::Network;
use profile::secret::Secret;
use serde::Deserialize;

use super::keepalived::Place;
use crate::failure::{Failure, Result};
use crate::machine::{Command, Machine, run};
use crate::report::codes;

/// An address of this machine and the interface that has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Own {
    /// Name of the interface.
    pub interface: String,
    /// Address and its network.
    pub address: Prefix,
}

/// The interface in whose network an address is, by the profile alone. Its name is the kernel's after the step `card-names`.
pub fn interface(network: &Network, address: IpAddr) -> Option<&str> {
    let near = |own: &&profile::network::Interface| own.addresses.iter().any(|prefix| prefix.contains(address));
    network.interfaces.iter().find(near).map(|interface| interface.name.as_str())
}

/// The addresses of the profile.
pub fn written(network: &Network) -> Vec<Own> {
    let own = |interface: &profile::network::Interface| {
        let name = interface.name.clone();
        interface.addresses.clone().into_iter().map(move |address| Own { interface: name.clone(), address })
    };
    network.interfaces.iter().flat_map(own).collect()
}

#[derive(Debug, Deserialize)]
struct Link {
    ifname: String,
    #[serde(default)]
    addr_info: Vec<Address>,
}

#[derive(Debug, Deserialize)]
struct Address {
    #[serde(default)]
    local: String,
    #[serde(default)]
    prefixlen: u8,
}

/// The addresses that the machine has now.
///
/// # Errors
/// `ip` cannot be run.
pub fn present(machine: &dyn Machine) -> Result<Vec<Own>> {
    let output = run(machine, &Command::new("/usr/bin/ip", &["-j", "address", "show"]))?;
    let links: Vec<Link> = serde_json::from_str(&output.out)
        .map_err(|e| Failure::new(&codes::PROGRAM_FAILED, format!("what `ip -j address show` wrote: {e}")))?;
    let own = |link: Link| {
        let name = link.ifname;
        let prefixes = link.addr_info.into_iter().filter_map(|found| format!("{}/{}", found.local, found.prefixlen).parse().ok());
        prefixes.map(move |address| Own { interface: name.clone(), address }).collect::<Vec<_>>()
    };
    Ok(links.into_iter().filter(|link| link.ifname != "lo").flat_map(own).collect())
}

/// Where keepalived speaks from and what it puts where; `None` where these addresses do not tell.
pub fn place(balancer: &LoadBalancer, vrrp: &Vrrp, own: &[Own], password: Option<&Secret>) -> Option<Place> {
    let ours = |own: &&Own| !balancer.addresses.iter().any(|known| known.address.address() == own.address.address());
    let found = match (vrrp.source, vrrp.peers.first()) {
        (Some(source), _) => own.iter().find(|own| own.address.address() == source)?,
        (None, Some(peer)) => own.iter().filter(ours).find(|own| own.address.contains(*peer))?,
        (None, None) => return None,
    };
    let of = |known: &profile::load_balancer::VirtualAddress| {
        let near = own.iter().filter(ours).find(|own| own.address.contains(known.address.address()));
        known.interface.clone().or_else(|| near.map(|own| own.interface.clone())).unwrap_or_else(|| found.interface.clone())
    };
    Some(Place {
        source: found.address.address(),
        interface: found.interface.clone(),
        interfaces: balancer.addresses.iter().map(of).collect(),
        password: password.cloned(),
    })
}
