//! Who else answers for an address, or speaks with our VRRP id.
//!
//! The kernel asks (ARP, RFC 826; neighbour solicitation, RFC 4861) when something is sent to an address, here a ping; who
//! answered is in its neighbour table, whether or not it answers pings. A peer that has a virtual address is told from a
//! stranger by its hardware address, which is the one that answers for the peer's own address; where the virtual address is
//! on another interface than VRRP, by the adverts that are heard of the peer. A virtual address that no network of its interface holds is
//! not asked for: its questions would go to the gateway.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use super::advert::{Advert, PROTOCOL};
use crate::failure::{Failure, Result};
use crate::machine::{Command, Machine, Overheard, read_text, run};
use crate::report::codes;

/// Where adverts go that are not unicast: RFC 5798 section 5.1.1.2 and 5.1.2.2.
const GROUP_V4: IpAddr = IpAddr::V4(Ipv4Addr::new(224, 0, 0, 18));
const GROUP_V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0x12));

/// What nobody else shall have.
#[derive(Debug)]
pub struct Claim<'a> {
    /// Interface of VRRP.
    pub interface: &'a str,
    /// Own address on it.
    pub source: IpAddr,
    /// Who else may.
    pub peers: &'a [IpAddr],
    /// Virtual router id.
    pub id: u8,
    /// Virtual addresses and their interfaces.
    pub addresses: Vec<(IpAddr, &'a str)>,
    /// How long adverts are listened for: three intervals, after which a peer would be taken for dead.
    pub listen: Duration,
}

/// Looks for strangers.
///
/// # Errors
/// [`codes::ADDRESS_TAKEN`], [`codes::VRRP_ID_TAKEN`], with the address and the hardware address that were seen.
pub fn free(machine: &dyn Machine, claim: &Claim<'_>) -> Result<()> {
    let mut peers = BTreeSet::new();
    for peer in claim.peers {
        peers.extend(who(machine, *peer, claim.interface)?);
    }
    let group = if claim.source.is_ipv4() { GROUP_V4 } else { GROUP_V6 };
    let what = Overheard { interface: claim.interface, protocol: PROTOCOL, group, time: claim.listen };
    let heard = machine.overhear(&what).map_err(|e| Failure::io("listening on", claim.interface, &e))?;
    let mut peer_speaks = false;
    for datagram in heard {
        if Advert::parse(&datagram.bytes).is_none_or(|advert| advert.id != claim.id) || datagram.source == claim.source {
            continue;
        }
        if claim.peers.contains(&datagram.source) {
            peer_speaks = true;
            continue;
        }
        let mac = who(machine, datagram.source, claim.interface)?.unwrap_or_else(|| "not known".to_owned());
        let (id, source, interface) = (claim.id, datagram.source, claim.interface);
        let message = format!("VRRP adverts with the id {id} come from {source} (hardware address {mac}) on {interface}");
        return Err(Failure::new(&codes::VRRP_ID_TAKEN, message));
    }
    for (address, interface) in &claim.addresses {
        let Some(mac) = who(machine, *address, interface)? else { continue };
        if peers.contains(&mac) || (*interface != claim.interface && peer_speaks) {
            continue;
        }
        let message = format!("the hardware address {mac} answers for {address} on {interface}, and is that of no peer");
        return Err(Failure::new(&codes::ADDRESS_TAKEN, message));
    }
    Ok(())
}

/// The hardware address that answers for an address; lower case.
fn who(machine: &dyn Machine, address: IpAddr, interface: &str) -> Result<Option<String>> {
    let text = address.to_string();
    if may_be_known(machine, address)? {
        // What the kernel knew before may be of a machine that is gone.
        run(machine, &Command::new("/usr/bin/ip", &["neigh", "flush", "to", &text, "dev", interface]))?;
    }
    let ping = Command::new("/usr/bin/ping", &["-n", "-q", "-c", "1", "-W", "1", "-I", interface, &text]);
    machine.run(&ping.within(Duration::from_secs(3))).map_err(|e| Failure::io("running", "/usr/bin/ping", &e))?;
    if !may_be_known(machine, address)? {
        return Ok(None);
    }
    let output = run(machine, &Command::new("/usr/bin/ip", &["-j", "neigh", "show", "to", &text, "dev", interface]))?;
    let entries: Vec<serde_json::Value> = serde_json::from_str(&output.out).unwrap_or_default();
    Ok(entries.iter().find_map(|entry| entry.get("lladdr")?.as_str().map(str::to_ascii_lowercase)))
}

/// Whether the kernel may know a hardware address of it: `/proc/net/arp` (proc_pid_net(5)) says where it does not, and saves
/// two programs at each start. It has IPv4 only.
fn may_be_known(machine: &dyn Machine, address: IpAddr) -> Result<bool> {
    let table = if address.is_ipv4() { read_text(machine, "/proc/net/arp")? } else { None };
    let Some(table) = table else { return Ok(true) };
    let text = address.to_string();
    let is = |line: &str| {
        let mut fields = line.split_ascii_whitespace();
        fields.next() == Some(text.as_str()) && fields.nth(1) != Some("0x0")
    };
    Ok(table.lines().skip(1).any(is))
}

#[cfg(test)]
mod tests {
    use super::may_be_known;
    use crate::machine::scripted::{Faults, Scripted};

    #[test]
    fn what_the_kernel_knows() {
        let root = tempfile::tempdir().unwrap();
        let machine = Scripted::new(root.path(), Faults::default());
        let known = |address: &str| may_be_known(&machine, address.parse().unwrap()).unwrap();
        assert!(known("10.0.0.1"), "without the table nothing is ruled out");
        let table = "IP address       HW type     Flags       HW address            Mask     Device\n\
            10.0.0.1         0x1         0x2         52:54:00:12:34:56     *        lan\n\
            10.0.0.2         0x1         0x0         00:00:00:00:00:00     *        lan\n";
        machine.put("/proc/net/arp", table).unwrap();
        assert!(known("10.0.0.1") && known("fd00::1"));
        assert!(!known("10.0.0.2") && !known("10.0.0.3"));
    }
}
