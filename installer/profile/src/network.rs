//! `[network]` and `[[interface]]`: addresses, routes, DNS.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::Deserialize;

use crate::address::Prefix;
use crate::check::{Check, Text};
use crate::document::{Located, quoted};
use crate::rules;

/// `[network]` as it is written.
#[derive(Debug, Clone, Default, Deserialize)]
#[cfg_attr(any(test, feature = "schema"), derive(schemars::JsonSchema), schemars(rename = "Network"))]
#[serde(deny_unknown_fields)]
pub struct Written {
    /// DNS servers for all interfaces; those of DHCP where there are none.
    #[serde(default)]
    pub dns: Vec<Text>,
    /// Search domains; none by default.
    #[serde(default)]
    pub search: Vec<Text>,
    /// Seconds within which a gateway must answer after a change of the network, or the change is
    /// taken back; 60 by default, 5 to 600.
    pub confirm_secs: Option<Located<u32>>,
}

/// Which address families ask DHCP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[cfg_attr(any(test, feature = "schema"), derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Dhcp {
    /// None.
    No,
    /// IPv4.
    Ipv4,
    /// IPv6.
    Ipv6,
    /// Both.
    Both,
}

/// How the members of a bond share the traffic (systemd.netdev(5)).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[cfg_attr(any(test, feature = "schema"), derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum BondMode {
    /// One works, the others wait.
    ActiveBackup,
    /// LACP (802.3ad).
    #[serde(rename = "802.3ad")]
    Lacp,
    /// By address.
    BalanceXor,
}

/// `[[interface]]` as it is written: exactly one of `match`, `vlan`, `bond` says what it is.
#[derive(Debug, Clone, Deserialize)]
#[cfg_attr(any(test, feature = "schema"), derive(schemars::JsonSchema), schemars(rename = "Interface"))]
#[serde(deny_unknown_fields)]
pub struct WrittenInterface {
    /// Name the interface gets: letters, digits, `-`, `_`, `.`, at most 15.
    pub name: Text,
    /// A network card.
    #[serde(rename = "match")]
    pub matches: Option<WrittenMatch>,
    /// A VLAN on another interface.
    pub vlan: Option<WrittenVlan>,
    /// A bond of other interfaces.
    pub bond: Option<WrittenBond>,
    /// Which address families ask DHCP; `no` where there are addresses, else `both`. A member of a bond has none.
    pub dhcp: Option<Located<Dhcp>>,
    /// Fixed addresses with prefix length: `10.0.0.5/24`.
    #[serde(default)]
    pub addresses: Vec<Text>,
    /// Default gateways, at most one of each address family.
    #[serde(default)]
    pub gateways: Vec<Text>,
    /// Further routes.
    #[serde(default)]
    pub routes: Vec<WrittenRoute>,
    /// DNS servers asked through this interface only.
    #[serde(default)]
    pub dns: Vec<Text>,
    /// Largest packet in bytes; the driver's own by default, 1280 to 9216.
    pub mtu: Option<Located<u32>>,
}

/// `interface.match` as it is written: what is said must hold together.
#[derive(Debug, Clone, Default, Deserialize)]
#[cfg_attr(any(test, feature = "schema"), derive(schemars::JsonSchema), schemars(rename = "Match"))]
#[serde(deny_unknown_fields)]
pub struct WrittenMatch {
    /// Hardware address: `00:15:5d:01:02:03`.
    pub mac: Option<Text>,
    /// Name the kernel gave, with `*` and `?`: `eth0`, `en*`.
    pub name: Option<Text>,
}

/// `interface.vlan` as it is written.
#[derive(Debug, Clone, Deserialize)]
#[cfg_attr(any(test, feature = "schema"), derive(schemars::JsonSchema), schemars(rename = "Vlan"))]
#[serde(deny_unknown_fields)]
pub struct WrittenVlan {
    /// Interface it is on, by the name in this profile.
    pub on: Text,
    /// VLAN id, 1 to 4094.
    pub id: Located<u32>,
}

/// `interface.bond` as it is written.
#[derive(Debug, Clone, Deserialize)]
#[cfg_attr(any(test, feature = "schema"), derive(schemars::JsonSchema), schemars(rename = "Bond"))]
#[serde(deny_unknown_fields)]
pub struct WrittenBond {
    /// Interfaces it is made of, by their names in this profile.
    pub members: Vec<Text>,
    /// How they share the traffic; `active-backup` by default.
    pub mode: Option<BondMode>,
}

/// A route as it is written.
#[derive(Debug, Clone, Deserialize)]
#[cfg_attr(any(test, feature = "schema"), derive(schemars::JsonSchema), schemars(rename = "Route"))]
#[serde(deny_unknown_fields)]
pub struct WrittenRoute {
    /// Where to: `10.1.0.0/16`.
    pub to: Text,
    /// Through which neighbour.
    pub via: Text,
    /// Lower wins; the kernel's default where it is not said.
    pub metric: Option<Located<u32>>,
}

/// The network of a machine.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Network {
    /// DNS servers for all interfaces.
    pub dns: Vec<IpAddr>,
    /// Search domains.
    pub search: Vec<String>,
    /// Seconds within which a gateway must answer after a change.
    pub confirm_secs: u32,
    /// The interfaces, in the order written. Empty: every card asks DHCP.
    pub interfaces: Vec<Interface>,
}

/// An interface.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// What it is.
    pub link: Link,
    /// Which families ask DHCP.
    pub dhcp: Dhcp,
    /// Fixed addresses.
    pub addresses: Vec<Prefix>,
    /// Default gateways.
    pub gateways: Vec<IpAddr>,
    /// Further routes.
    pub routes: Vec<Route>,
    /// Its own DNS servers.
    pub dns: Vec<IpAddr>,
    /// Largest packet in bytes.
    pub mtu: Option<u32>,
}

/// What an interface is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Link {
    /// A card with this hardware address and this name of the kernel, where said.
    Card {
        /// Hardware address, lower case.
        mac: Option<String>,
        /// Pattern of names.
        name: Option<String>,
    },
    /// A VLAN.
    Vlan {
        /// Interface it is on.
        on: String,
        /// VLAN id.
        id: u16,
    },
    /// A bond.
    Bond {
        /// Its members.
        members: Vec<String>,
        /// How they share the traffic.
        mode: BondMode,
    },
}

/// A route.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Route {
    /// Where to.
    pub to: Prefix,
    /// Through which neighbour.
    pub via: IpAddr,
    /// Lower wins.
    pub metric: Option<u32>,
}

pub(crate) fn check(check: &mut Check<'_>, written: &Written, interfaces: &[WrittenInterface]) -> Network {
    let names: Vec<&str> = interfaces.iter().map(|interface| interface.name.as_str()).collect();
    check.twice("interface", interfaces.iter().map(|interface| &interface.name));
    check.twice("DNS server", &written.dns);
    let network = Network {
        dns: addresses(check, &written.dns),
        search: check.list(&written.search, &rules::DOMAIN),
        confirm_secs: check.number(written.confirm_secs.as_ref(), "confirm_secs", 5..=600, 60),
        interfaces: interfaces.iter().filter_map(|interface| one_interface(check, interface, &names)).collect(),
    };
    members(check, interfaces);
    vlans(check, interfaces);
    unique_addresses(check, interfaces);
    default_routes(check, interfaces);
    network
}

fn addresses(check: &mut Check<'_>, list: &[Text]) -> Vec<IpAddr> {
    list.iter().filter_map(|text| check.address(text)).collect()
}

fn one_interface(check: &mut Check<'_>, written: &WrittenInterface, names: &[&str]) -> Option<Interface> {
    let name = check.text(&written.name, &rules::INTERFACE);
    let link = link(check, written, names);
    let mut prefixes = Vec::new();
    for text in &written.addresses {
        if let Some(prefix) = check.prefix(text) {
            if !prefix.is_host()
                || prefix.address().is_unspecified()
                || prefix.address().is_multicast()
                || prefix.address().is_loopback()
            {
                check.faults.add(text.place(), format!("{} is no address a machine can have", quoted(text)));
            }
            prefixes.push(prefix);
        }
    }
    let reachable = |check: &mut Check<'_>, text: &Text, what: &str| {
        let address = check.address(text)?;
        let local = matches!(address, IpAddr::V6(address) if address.is_unicast_link_local());
        if !local
            && !prefixes.is_empty()
            && !prefixes.iter().any(|prefix| prefix.contains(address) && prefix.address() != address)
        {
            let message = format!("the {what} {address} is in no network of this interface");
            check.faults.add_with_hint(text.place(), message, "is the prefix length of the address right?");
        }
        Some(address)
    };
    let gateways = written.gateways.iter().filter_map(|text| reachable(check, text, "gateway")).collect();
    let mut routes = Vec::new();
    for route in &written.routes {
        let (to, via) = (check.network(&route.to), reachable(check, &route.via, "neighbour"));
        if let (Some(to), Some(via)) = (to, via) {
            if to.address().is_ipv4() != via.is_ipv4() {
                check.faults.add(route.via.place(), format!("the route to {to} goes through an address of the other family"));
            }
            routes.push(Route { to, via, metric: route.metric.as_ref().map(|metric| **metric) });
        }
    }
    if written.mtu.as_ref().is_some_and(|mtu| !(1280..=9216).contains(&**mtu)) {
        check.number(written.mtu.as_ref(), "mtu", 1280..=9216, 0);
    }
    let default = if prefixes.is_empty() { Dhcp::Both } else { Dhcp::No };
    Some(Interface {
        name,
        link: link?,
        dhcp: written.dhcp.as_ref().map_or(default, |dhcp| **dhcp),
        addresses: prefixes,
        gateways,
        routes,
        dns: addresses(check, &written.dns),
        mtu: written.mtu.as_ref().map(|mtu| **mtu),
    })
}

fn link(check: &mut Check<'_>, written: &WrittenInterface, names: &[&str]) -> Option<Link> {
    match (&written.matches, &written.vlan, &written.bond) {
        (Some(matches), None, None) => {
            if matches.mac.is_none() && matches.name.is_none() && check.whole {
                check.faults.add_with_hint(written.name.place(), "`match` is empty", "give `mac` or `name`");
            }
            let mac = check.optional(matches.mac.as_ref(), &rules::MAC).map(|mac| mac.to_ascii_lowercase());
            Some(Link::Card { mac, name: check.optional(matches.name.as_ref(), &rules::INTERFACE_PATTERN) })
        }
        (None, Some(vlan), None) => {
            check.known(&vlan.on, "interface", names);
            let id = check.number(Some(&vlan.id), "id", 1..=4094, 0);
            Some(Link::Vlan { on: vlan.on.to_string(), id: u16::try_from(id).unwrap_or_default() })
        }
        (None, None, Some(bond)) => {
            for member in &bond.members {
                check.known(member, "interface", names);
            }
            if bond.members.is_empty() {
                check.faults.add(written.name.place(), "the bond has no members");
            }
            let members = bond.members.iter().map(|member| member.to_string()).collect();
            Some(Link::Bond { members, mode: bond.mode.unwrap_or(BondMode::ActiveBackup) })
        }
        _ => {
            if check.whole {
                let message = format!("nothing, or more than one thing, says what the interface {} is", quoted(&written.name));
                check.faults.add_with_hint(written.name.place(), message, "give exactly one of `match`, `vlan`, `bond`");
            }
            None
        }
    }
}

/// A member belongs to one bond, is a card, and has no addresses of its own.
fn members(check: &mut Check<'_>, interfaces: &[WrittenInterface]) {
    check.twice("member", interfaces.iter().filter_map(|interface| interface.bond.as_ref()).flat_map(|bond| &bond.members));
    for member in interfaces.iter().filter_map(|interface| interface.bond.as_ref()).flat_map(|bond| &bond.members) {
        let Some(interface) = interfaces.iter().find(|interface| interface.name == *member) else { continue };
        if interface.matches.is_none() {
            check.faults.add(member.place(), format!("the member {} is no network card", quoted(member)));
        }
        let addressed = interface.addresses.iter().chain(&interface.gateways).map(Located::place).next();
        let addressed = addressed.or(interface.dhcp.as_ref().filter(|dhcp| ***dhcp != Dhcp::No).map(Located::place));
        if let Some(place) = addressed {
            check.faults.add_with_hint(
                place,
                format!("{} is a member of a bond", quoted(&interface.name)),
                "addresses belong to the bond",
            );
        }
    }
}

/// A VLAN is on a card or a bond, and no id stands twice on one.
fn vlans(check: &mut Check<'_>, interfaces: &[WrittenInterface]) {
    let mut seen: BTreeMap<(&str, u32), ()> = BTreeMap::new();
    for vlan in interfaces.iter().filter_map(|interface| interface.vlan.as_ref()) {
        if interfaces.iter().any(|interface| interface.name == vlan.on && interface.vlan.is_some()) {
            check.faults.add(vlan.on.place(), format!("{} is a VLAN itself", quoted(&vlan.on)));
        }
        if seen.insert((vlan.on.as_str(), *vlan.id), ()).is_some() {
            check.faults.add(vlan.id.place(), format!("the VLAN {} on {} is already there", *vlan.id, quoted(&vlan.on)));
        }
    }
}

fn unique_addresses(check: &mut Check<'_>, interfaces: &[WrittenInterface]) {
    let mut seen: BTreeMap<IpAddr, &Text> = BTreeMap::new();
    for text in interfaces.iter().flat_map(|interface| &interface.addresses) {
        let Ok(prefix) = text.parse::<Prefix>() else { continue };
        if let Some(first) = seen.insert(prefix.address(), text) {
            let hint = format!("it stands first at {}", check.faults.texts().show(first.place()));
            check.faults.add_with_hint(text.place(), format!("the address {} is already there", prefix.address()), hint);
        }
    }
}

fn default_routes(check: &mut Check<'_>, interfaces: &[WrittenInterface]) {
    let mut seen: BTreeMap<bool, &Text> = BTreeMap::new();
    for text in interfaces.iter().flat_map(|interface| &interface.gateways) {
        let Ok(address) = text.parse::<IpAddr>() else { continue };
        if let Some(first) = seen.insert(address.is_ipv4(), text) {
            let message = "there are two default gateways of one address family";
            let hint =
                format!("the first stands at {}; for other networks write `routes`", check.faults.texts().show(first.place()));
            check.faults.add_with_hint(text.place(), message, hint);
        }
    }
}
