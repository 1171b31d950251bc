//! The network as files of systemd-networkd: one `.network` for each interface, `.link` for a card's name, `.netdev`
//! for VLANs and bonds. The former files come back when no gateway answers (see [`super::confirm`]).

use std::fmt::Write;

use profile::network::{BondMode, Dhcp, Interface, Link, Network};

use super::files::{Files, Wanted};
use super::{How, UnitAction, Verdict, Work, World};
use crate::facts::{self, Facts};
use crate::failure::{Failure, Result};
use crate::machine::{Command, Machine, devices_settled, read_text, run};
use crate::report::codes;

/// Where the files are.
pub const FOLDER: &str = "/etc/systemd/network";

/// How their names begin: before the image's own (80-).
pub const PREFIX: &str = "40-ingot-";

/// A card and the name it gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Named {
    /// Its name now.
    pub now: String,
    /// The name it gets.
    pub name: String,
    /// Its hardware address.
    pub mac: String,
}

/// Which card is which interface of the profile.
///
/// # Errors
/// [`codes::NO_SUCH_CARD`]: none, or more than one.
pub fn cards(network: &Network, facts: &Facts) -> Result<Vec<Named>> {
    let mut named: Vec<Named> = Vec::new();
    for interface in &network.interfaces {
        let Link::Card { mac, name } = &interface.link else { continue };
        let mut fitting: Vec<&facts::Interface> = facts
            .interfaces
            .iter()
            .filter(|card| card.driver.is_some() && mac.as_ref().is_none_or(|mac| *mac == card.mac))
            // One that already has its name is still the one a pattern of kernel names meant.
            .filter(|card| name.as_ref().is_none_or(|pattern| matches(pattern, &card.name) || card.name == interface.name))
            .collect();
        if fitting.len() > 1 {
            let exact: Vec<_> = fitting.iter().copied().filter(|card| card.name == interface.name).collect();
            // The virtual function that Hyper-V puts behind a card has the card's address.
            let leading: Vec<_> = fitting.iter().copied().filter(|card| !card.follows).collect();
            fitting = [exact, leading].into_iter().find(|some| some.len() == 1).unwrap_or(fitting);
        }
        let [card] = fitting.as_slice() else { return Err(no_card(interface, &fitting, facts)) };
        if let Some(other) = named.iter().find(|other| other.now == card.name) {
            let message = format!("the card {} ({}) is both `{}` and `{}`", card.name, card.mac, other.name, interface.name);
            return Err(Failure::new(&codes::NO_SUCH_CARD, message));
        }
        named.push(Named { now: card.name.clone(), name: interface.name.clone(), mac: card.mac.clone() });
    }
    Ok(named)
}

fn no_card(interface: &Interface, fitting: &[&facts::Interface], facts: &Facts) -> Failure {
    let show = |cards: &mut dyn Iterator<Item = &facts::Interface>| {
        let list: Vec<String> = cards.map(|card| format!("{} ({})", card.name, card.mac)).collect();
        if list.is_empty() { "none".to_owned() } else { list.join(", ") }
    };
    let message = if fitting.is_empty() {
        let all = show(&mut facts.interfaces.iter().filter(|card| card.driver.is_some()));
        format!("no card matches the interface `{}`; there are: {all}", interface.name)
    } else {
        format!("several cards match the interface `{}`: {}", interface.name, show(&mut fitting.iter().copied()))
    };
    Failure::new(&codes::NO_SUCH_CARD, message)
}

/// A pattern with `*` and `?`, as fnmatch(3).
fn matches(pattern: &str, name: &str) -> bool {
    let mut pattern_rest = pattern.chars();
    match pattern_rest.next() {
        None => name.is_empty(),
        Some('*') => {
            let rest = pattern_rest.as_str();
            name.char_indices()
                .map(|(at, _)| at)
                .chain([name.len()])
                .any(|at| name.get(at..).is_some_and(|end| matches(rest, end)))
        }
        Some(letter) => {
            let mut name = name.chars();
            name.next().is_some_and(|c| letter == '?' || letter == c) && matches(pattern_rest.as_str(), name.as_str())
        }
    }
}

/// The files of a network.
pub fn files(network: &Network, cards: &[Named]) -> Files {
    let mut files = Vec::new();
    for interface in &network.interfaces {
        let mut add = |kind: &str, text: String| {
            files.push(Wanted::public(format!("{FOLDER}/{PREFIX}{}.{kind}", interface.name), text));
        };
        match &interface.link {
            Link::Card { .. } => {
                if let Some(card) = cards.iter().find(|card| card.name == interface.name) {
                    add("link", format!("{MADE}[Match]\nMACAddress={}\nType=ether\n\n[Link]\nName={}\n", card.mac, card.name));
                }
            }
            Link::Vlan { id, .. } => add("netdev", format!("{}\n[VLAN]\nId={id}\n", netdev(interface, "vlan"))),
            Link::Bond { mode, .. } => {
                let mode = match mode {
                    BondMode::ActiveBackup => "active-backup",
                    BondMode::Lacp => "802.3ad\nTransmitHashPolicy=layer3+4",
                    BondMode::BalanceXor => "balance-xor\nTransmitHashPolicy=layer3+4",
                };
                add("netdev", format!("{}\n[Bond]\nMode={mode}\nMIIMonitorSec=100ms\n", netdev(interface, "bond")));
            }
        }
        add("network", one(interface, network));
    }
    Files::of(files).sweep(FOLDER, PREFIX).tell(UnitAction::new(How::Reload, "systemd-networkd.service"))
}

const MADE: &str = "# Made by ingot-installer.\n";

fn netdev(interface: &Interface, kind: &str) -> String {
    let mtu = interface.mtu.map(|mtu| format!("MTUBytes={mtu}\n")).unwrap_or_default();
    format!("{MADE}[NetDev]\nName={}\nKind={kind}\n{mtu}", interface.name)
}

/// A `.network` file (systemd.network(5)).
fn one(interface: &Interface, network: &Network) -> String {
    let mut text = format!("{MADE}[Match]\nName={}\n\n[Link]\nRequiredForOnline=no\n", interface.name);
    if let Some(mtu) = interface.mtu {
        let _ = writeln!(text, "MTUBytes={mtu}");
    }
    text += "\n[Network]\n";
    let others = || network.interfaces.iter().filter(|other| other.name != interface.name);
    for other in others() {
        match &other.link {
            Link::Vlan { on, .. } if *on == interface.name => {
                let _ = writeln!(text, "VLAN={}", other.name);
            }
            _ => {}
        }
    }
    let bond = others().find(|other| matches!(&other.link, Link::Bond { members, .. } if members.contains(&interface.name)));
    if let Some(bond) = bond {
        let _ = writeln!(text, "Bond={}", bond.name);
        return text;
    }
    let dhcp = match interface.dhcp {
        Dhcp::No => "no",
        Dhcp::Ipv4 => "ipv4",
        Dhcp::Ipv6 => "ipv6",
        Dhcp::Both => "yes",
    };
    let _ = writeln!(text, "DHCP={dhcp}");
    let router = matches!(interface.dhcp, Dhcp::Ipv6 | Dhcp::Both);
    let _ = writeln!(text, "IPv6AcceptRA={}", if router { "yes" } else { "no" });
    for (key, list) in [
        ("Address", interface.addresses.iter().map(ToString::to_string).collect::<Vec<_>>()),
        ("Gateway", interface.gateways.iter().map(ToString::to_string).collect()),
        ("DNS", interface.dns.iter().map(ToString::to_string).collect()),
    ] {
        list.iter().for_each(|value| text += &format!("{key}={value}\n"));
    }
    for route in &interface.routes {
        let _ = write!(text, "\n[Route]\nDestination={}\nGateway={}\n", route.to, route.via);
        if let Some(metric) = route.metric {
            let _ = writeln!(text, "Metric={metric}");
        }
    }
    if !network.dns.is_empty() && interface.dhcp != Dhcp::No {
        text += "\n[DHCPv4]\nUseDNS=no\n\n[DHCPv6]\nUseDNS=no\n\n[IPv6AcceptRA]\nUseDNS=no\n";
    }
    text
}

/// The cards have the names of the profile.
#[derive(Debug)]
pub struct Names(pub Vec<Named>);

impl Names {
    fn address(machine: &dyn Machine, name: &str) -> Result<Option<String>> {
        let text = read_text(machine, &format!("/sys/class/net/{name}/address"))?;
        Ok(text.map(|text| text.trim().to_ascii_lowercase()))
    }

    /// The cards that need another name, by the names they have once udev has given its own: it may do so while we start.
    fn waiting(&self, machine: &dyn Machine) -> Result<Vec<Named>> {
        let mut waiting: Vec<Named> = self.0.iter().filter(|card| card.now != card.name && machine.live()).cloned().collect();
        if waiting.is_empty() {
            return Ok(waiting);
        }
        devices_settled(machine)?;
        let there = facts::interfaces(machine)?;
        for card in waiting.iter_mut().filter(|card| there.iter().all(|other| other.name != card.now)) {
            if let Some(renamed) = there.iter().find(|other| other.mac == card.mac && other.driver.is_some() && !other.follows) {
                card.now.clone_from(&renamed.name);
            }
        }
        Ok(waiting)
    }
}

impl Work for Names {
    fn lines(&self) -> Vec<String> {
        self.0.iter().map(|card| format!("card {} is `{}`", card.mac, card.name)).collect()
    }

    fn input(&self) -> Vec<u8> {
        self.0.iter().flat_map(|card| format!("{} {}\n", card.mac, card.name).into_bytes()).collect()
    }

    fn check(&self, machine: &dyn Machine) -> Result<Verdict> {
        for card in self.0.iter().filter(|_| machine.live()) {
            // What has the name now was found by it, or is renamed; a bond's member may show the bond's address.
            if card.now != card.name && Self::address(machine, &card.name)?.is_none_or(|mac| mac != card.mac) {
                return Ok(Verdict::Differs(format!("the card {} is still `{}`", card.mac, card.now)));
            }
        }
        Ok(Verdict::Holds)
    }

    fn apply(&self, world: World<'_>) -> Result<()> {
        let rename = |from: &str, to: &str| {
            run(world.machine, &Command::new("/usr/bin/ip", &["link", "set", "dev", from, "name", to])).map(drop)
        };
        let mut waiting = self.waiting(world.machine)?;
        for index in 0..waiting.len() {
            // Two cards may change their names with each other: one steps aside.
            let Some(name) = waiting.get(index).map(|card| card.name.clone()) else { continue };
            if let Some(other) = waiting.iter_mut().find(|other| other.now == name) {
                let aside = format!("ingot-{index}");
                rename(&other.now, &aside)?;
                other.now = aside;
            }
            let Some(card) = waiting.get(index) else { continue };
            if Self::address(world.machine, &card.name)?.is_none_or(|mac| mac != card.mac) {
                rename(&card.now, &card.name)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_of_names() {
        for (pattern, name, fits) in [
            ("eth0", "eth0", true),
            ("e*", "enp1s0", true),
            ("e?h*", "eth0", true),
            ("*", "", true),
            ("en*", "eth0", false),
            ("?", "", false),
        ] {
            assert_eq!(matches(pattern, name), fits, "{pattern} {name}");
        }
    }
}
