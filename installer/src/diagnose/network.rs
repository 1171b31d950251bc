//! Gateway, DNS, clock, MTU.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::dns::{A, AAAA, Said, answer, question};
use super::judge::date;
use super::{Finding, Subject};
use crate::machine::Command;
use crate::machine::net::Net;
use crate::report::codes;

const WITHIN: Duration = Duration::from_secs(3);

/// One ping of so many bytes of data that may not be cut on its way.
fn ping(net: &dyn Net, to: &str, data: u32) -> bool {
    let size = data.to_string();
    let line = ["-n", "-q", "-c", "1", "-W", "1", "-M", "do", "-s", &size, to];
    net.run(&Command::new("/usr/bin/ping", &line).within(WITHIN)).is_ok_and(|output| output.ok())
}

/// An address as `ping` and `ip` take it.
fn zoned(address: IpAddr, interface: Option<&String>) -> String {
    let local = matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local());
    interface.filter(|_| local).map_or_else(|| address.to_string(), |interface| format!("{address}%{interface}"))
}

/// Whether the kernel has lately heard from a neighbour.
pub(super) fn neighbour(net: &dyn Net, address: IpAddr) -> Option<String> {
    let command = Command::new("/usr/bin/ip", &["-j", "neigh", "show", "to", &address.to_string()]).within(WITHIN);
    let output = net.run(&command).ok().filter(|output| output.ok())?;
    let entries: Vec<serde_json::Value> = serde_json::from_str(&output.out).ok()?;
    let alive = |entry: &&serde_json::Value| {
        let states = entry.get("state").and_then(|state| state.as_array()).cloned().unwrap_or_default();
        states.iter().any(|state| state == "REACHABLE" || state == "DELAY" || state == "PROBE")
    };
    entries.iter().find(alive)?.get("lladdr")?.as_str().map(str::to_owned)
}

/// Each gateway answers a ping, or (where that is filtered) the question for its hardware address.
pub(super) fn gateway(subject: &Subject) -> Vec<Finding> {
    let test = "gateway";
    if subject.gateways.is_empty() {
        return vec![Finding::skip(test, "neither the profile nor the network names a gateway")];
    }
    let one = |(address, interface): &(IpAddr, Option<String>)| {
        if ping(&*subject.net, &zoned(*address, interface.as_ref()), 8) {
            return Finding::ok(test, format!("{address} answers"));
        }
        match neighbour(&*subject.net, *address) {
            Some(mac) => Finding::ok(test, format!("{address} answers no ping, but is there: {mac}")),
            None => Finding::fail(test, &codes::GATEWAY_SILENT, format!("{address} answers neither ping nor ARP")),
        }
    };
    subject.gateways.iter().map(one).collect()
}

/// Each name server answers; the endpoint's name has an address.
pub(super) fn dns(subject: &Subject) -> Vec<Finding> {
    let test = "dns";
    let own = subject.profile.iter().flat_map(|profile| {
        profile.network.dns.iter().chain(profile.network.interfaces.iter().flat_map(|interface| &interface.dns)).copied()
    });
    let mut servers: Vec<IpAddr> = own.collect();
    if servers.is_empty() {
        servers.clone_from(&subject.learned_dns);
    }
    if servers.is_empty() {
        return vec![Finding::skip(test, "neither the profile nor the network names a name server")];
    }
    let cluster = subject.profile.as_ref().and_then(|profile| profile.cluster.as_ref());
    let named = cluster.map(|cluster| cluster.endpoint.host.as_str()).filter(|host| host.parse::<IpAddr>().is_err());
    let mut findings = Vec::new();
    let mut known = false;
    let mut answered = false;
    for server in servers {
        match ask(&*subject.net, server, named.unwrap_or("localhost")) {
            Ok(Said::Refused(code)) => {
                findings.push(Finding::fail(test, &codes::DNS_SILENT, format!("{server} refuses with RCODE {code}")));
            }
            Ok(said) => {
                answered = true;
                known |= matches!(said, Said::Addresses(_));
                findings.push(Finding::ok(test, format!("{server} answers")));
            }
            Err(why) => findings.push(Finding::fail(test, &codes::DNS_SILENT, format!("{server}: {why}"))),
        }
    }
    if let Some(name) = named.filter(|_| answered) {
        findings.push(if known {
            Finding::ok(test, format!("`{name}` has an address"))
        } else {
            Finding::fail(test, &codes::NAME_UNKNOWN, format!("no server knows an address of `{name}`"))
        });
    }
    findings
}

fn ask(net: &dyn Net, server: IpAddr, name: &str) -> Result<Said, String> {
    let mut said = Err("the name cannot be asked for".to_owned());
    for kind in [A, AAAA] {
        let Some(packet) = question(0x1d07 + kind, name, kind) else { return said };
        let reply = net.exchange_udp(SocketAddr::new(server, 53), &packet, WITHIN).map_err(|e| e.to_string())?;
        said = answer(&reply, &packet, kind).map_err(str::to_owned);
        if !matches!(said, Ok(Said::Nothing)) {
            break;
        }
    }
    said
}

/// Seconds between 1900 (NTP) and 1970.
const NTP_EPOCH: u64 = 2_208_988_800;

/// An image is not used for longer than this, in seconds: 20 years.
const LONGEST: u64 = 20 * 31_557_600;

/// The clock is in the image's time, and not far from a time server's.
pub(super) fn clock(subject: &Subject) -> Vec<Finding> {
    let test = "clock";
    let (now, image) = subject.clock;
    if image > 0 && (now < image || now > image.saturating_add(LONGEST)) {
        let seen = format!("it says {}, but the image was made {}", date(now), date(image));
        return vec![Finding::fail(test, &codes::CLOCK_WRONG, seen)];
    }
    let servers = subject.profile.as_ref().map(|profile| profile.time.servers.as_slice()).unwrap_or_default();
    let mut findings: Vec<Finding> = servers.iter().take(4).map(|server| compare(subject, server)).collect();
    if servers.is_empty() {
        findings.push(Finding::skip(test, "the profile names no time server"));
    }
    findings.push(if subject.synchronised {
        Finding::ok(test, format!("it is synchronised: {}", date(now)))
    } else {
        Finding::warn(test, &codes::CLOCK_NOT_SET, format!("it is not synchronised: {}", date(now)))
    });
    findings
}

fn compare(subject: &Subject, server: &str) -> Finding {
    let test = "clock";
    let silent = |why: String| Finding::warn(test, &codes::NO_TIME_SERVER, format!("{server}: {why}"));
    let address = match subject.net.resolve(server, 123, WITHIN).map(|all| all.first().copied()) {
        Ok(Some(address)) => address,
        Ok(None) => return silent("it has no address".to_owned()),
        Err(error) => return silent(error.to_string()),
    };
    // RFC 4330 section 4: version 4, mode 3 (client).
    let mut packet = [0_u8; 48];
    packet[0] = 0x23;
    let reply = match subject.net.exchange_udp(address, &packet, WITHIN) {
        Ok(reply) => reply,
        Err(error) => return silent(error.to_string()),
    };
    // Mode 4 (server), stratum 1 to 15: one that knows the time itself.
    let good = reply.first().is_some_and(|head| head & 7 == 4) && reply.get(1).is_some_and(|stratum| (1..16).contains(stratum));
    let seconds = reply.get(40..44).and_then(|bytes| bytes.try_into().ok()).map(u32::from_be_bytes).filter(|_| good);
    let Some(seconds) = seconds else { return silent("it does not know the time itself".to_owned()) };
    // Section 3: what has the first bit clear is after 2036.
    let era = if seconds & 0x8000_0000 == 0 { 1 << 32 } else { 0 };
    let theirs = (u64::from(seconds) + era).saturating_sub(NTP_EPOCH);
    let off = i64::try_from(subject.clock.0).unwrap_or(i64::MAX).saturating_sub(i64::try_from(theirs).unwrap_or_default());
    let seen = format!("{server}: this clock is {} s {}", off.unsigned_abs(), if off < 0 { "late" } else { "early" });
    match off.unsigned_abs() {
        0..=4 => Finding::ok(test, format!("{server} agrees")),
        5..=60 => Finding::warn(test, &codes::CLOCK_WRONG, seen),
        _ => Finding::fail(test, &codes::CLOCK_WRONG, seen),
    }
}

/// Sizes of packets that are usual on the way: Ethernet, PPPoE, common tunnels, the least of IPv6.
const USUAL: [u32; 8] = [9000, 1500, 1492, 1480, 1450, 1420, 1400, 1280];

/// Packets as large as the interface sends reach the gateway and the endpoint.
pub(super) fn mtu(subject: &Subject) -> Vec<Finding> {
    let test = "mtu";
    let endpoint =
        subject.profile.as_ref().and_then(|profile| profile.cluster.as_ref()).and_then(|cluster| cluster.endpoint.address());
    let own = |address: &IpAddr| subject.addresses.contains(address);
    let targets =
        subject.gateways.iter().take(2).cloned().chain(endpoint.filter(|address| !own(address)).map(|address| (address, None)));
    let findings: Vec<Finding> = targets.map(|(address, interface)| path(subject, address, interface)).collect();
    if findings.is_empty() { vec![Finding::skip(test, "there is nobody to send to")] } else { findings }
}

fn path(subject: &Subject, address: IpAddr, interface: Option<String>) -> Finding {
    let test = "mtu";
    let net = &*subject.net;
    let interface = interface.or_else(|| {
        let command = Command::new("/usr/bin/ip", &["-j", "route", "get", &address.to_string()]).within(WITHIN);
        let routes: Vec<serde_json::Value> = serde_json::from_str(&net.run(&command).ok()?.out).ok()?;
        routes.first()?.get("dev")?.as_str().map(str::to_owned)
    });
    let Some(most) = interface.as_ref().and_then(|interface| subject.mtus.get(interface)).copied() else {
        return Finding::skip(test, format!("the interface towards {address} is not known"));
    };
    let to = zoned(address, interface.as_ref());
    // Header of IP and of ICMP.
    let header = if address.is_ipv4() { 28 } else { 48 };
    let passes = |size: u32| ping(net, &to, size.saturating_sub(header));
    if !passes(header + 8) {
        return Finding::skip(test, format!("{address} answers no ping"));
    }
    // Twice: a packet may be lost by chance.
    if passes(most) || passes(most) {
        return Finding::ok(test, format!("{most} bytes reach {address}"));
    }
    let largest = USUAL.into_iter().filter(|size| *size < most).find(|size| passes(*size));
    let fits = largest.map_or_else(|| "less than 1280".to_owned(), |size| format!("at least {size}"));
    Finding::fail(test, &codes::MTU_SMALL, format!("{most} bytes do not reach {address}; {fits} do: set `mtu` accordingly"))
}
