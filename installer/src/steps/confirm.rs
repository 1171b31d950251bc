//! A change of the network is confirmed by its gateway, or taken back.
//!
//! Confirmed files are kept in `/state/ingot/network` as JSON. While the profile's files are those, nobody is asked:
//! a gateway that is down for a while must not change a machine that works. Files that were refused are not tried
//! again for ten minutes, so that a machine does not swing between two networks.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use profile::network::{Dhcp, Network};
use serde::{Deserialize, Serialize};
use trust::Sha256Digest;

use super::files::{Files, Wanted};
use super::network::{FOLDER, PREFIX};
use super::{UnitAction, Verdict, Work, World};
use crate::failure::{Failure, Result};
use crate::machine::{Attributes, Command, Machine, read_text, replace, run};
use crate::report::codes;

const GOOD: &str = "/state/ingot/network";
const REFUSED: &str = "/run/ingot/network-refused";

/// Seconds after which refused files are tried again.
const AGAIN: u64 = 600;

/// Files that worked.
#[derive(Debug, Serialize, Deserialize)]
struct Good {
    digest: String,
    files: BTreeMap<String, String>,
}

fn good(machine: &dyn Machine) -> Result<Option<Good>> {
    // One that a disk error spoilt is none: the network is then confirmed again.
    Ok(read_text(machine, GOOD)?.and_then(|text| serde_json::from_str(&text).ok()))
}

fn refused(machine: &dyn Machine, digest: &str) -> Result<bool> {
    let text = read_text(machine, REFUSED)?.unwrap_or_default();
    let (found, at) = text.trim().split_once(' ').unwrap_or_default();
    let now = machine.uptime().as_secs();
    Ok(found == digest && at.parse().is_ok_and(|at: u64| now.saturating_sub(at) < AGAIN))
}

/// The network files, unless they were refused just now.
#[derive(Debug)]
pub struct Rendered(pub Files);

impl Rendered {
    fn digest(&self) -> String {
        Sha256Digest::of(&self.0.input()).to_string()
    }
}

impl Work for Rendered {
    fn lines(&self) -> Vec<String> {
        self.0.lines()
    }

    fn input(&self) -> Vec<u8> {
        self.0.input()
    }

    fn check(&self, machine: &dyn Machine) -> Result<Verdict> {
        if refused(machine, &self.digest())? { Ok(Verdict::Holds) } else { self.0.check(machine) }
    }

    fn apply(&self, world: World<'_>) -> Result<()> {
        if refused(world.machine, &self.digest())? { Ok(()) } else { self.0.apply(world) }
    }

    fn units(&self) -> Vec<UnitAction> {
        self.0.units()
    }
}

/// Some gateway answers.
#[derive(Debug)]
pub struct Confirm {
    files: Files,
    gateways: Vec<IpAddr>,
    /// Some interface learns its gateway from the network.
    learns: bool,
    within: Duration,
}

impl Confirm {
    /// For these files of this network.
    pub fn of(network: &Network, files: Files) -> Self {
        let gateways = network.interfaces.iter().flat_map(|interface| interface.gateways.iter().copied()).collect();
        let learns = network.interfaces.is_empty() || network.interfaces.iter().any(|interface| interface.dhcp != Dhcp::No);
        Self { files, gateways, learns, within: Duration::from_secs(network.confirm_secs.into()) }
    }

    fn digest(&self) -> String {
        Sha256Digest::of(&self.files.input()).to_string()
    }

    /// The gateways of the profile, or those the network told.
    fn gateways(&self, machine: &dyn Machine) -> Result<Vec<String>> {
        if !self.gateways.is_empty() {
            return Ok(self.gateways.iter().map(ToString::to_string).collect());
        }
        let mut found = Vec::new();
        for family in ["-4", "-6"] {
            let output = run(machine, &Command::new("/usr/bin/ip", &["-j", family, "route", "show", "default"]))?;
            let routes: Vec<serde_json::Value> = serde_json::from_str(&output.out).unwrap_or_default();
            for route in routes {
                let text = |key: &str| route.get(key).and_then(|value| value.as_str()).map(str::to_owned);
                if let Some(gateway) = text("gateway") {
                    let zone = text("dev").filter(|_| gateway.starts_with("fe80:"));
                    found.push(zone.map_or_else(|| gateway.clone(), |dev| format!("{gateway}%{dev}")));
                }
            }
        }
        Ok(found)
    }

    /// Whether the kernel has a route by this gateway yet: until networkd has made it, there is nothing to ask. The tables
    /// of the kernel (proc_pid_net(5)) hold addresses as numbers in hexadecimal.
    fn routed(machine: &dyn Machine, gateway: &str) -> Result<bool> {
        let (path, number) = match gateway.parse() {
            Ok(IpAddr::V4(address)) => ("/proc/net/route", format!("{:08X}", u32::from_ne_bytes(address.octets()))),
            Ok(IpAddr::V6(address)) => ("/proc/net/ipv6_route", format!("{:032x}", u128::from(address))),
            Err(_) => return Ok(true),
        };
        let table = read_text(machine, path)?;
        Ok(table.is_none_or(|table| table.split_ascii_whitespace().any(|field| field == number)))
    }

    /// By ping, or (where that is filtered) by its answer to the question for its hardware address.
    fn answers(machine: &dyn Machine, gateway: &str) -> Result<bool> {
        let ping = Command::new("/usr/bin/ping", &["-n", "-q", "-c", "1", "-W", "1", gateway]).within(Duration::from_secs(5));
        if machine.run(&ping).map_err(|e| Failure::io("running", &ping.program, &e))?.ok() {
            return Ok(true);
        }
        let address = gateway.split('%').next().unwrap_or_default();
        let output = run(machine, &Command::new("/usr/bin/ip", &["-j", "neigh", "show", "to", address]))?;
        Ok(output.out.contains("\"REACHABLE\""))
    }

    fn wait(&self, world: World<'_>) -> Result<Vec<String>> {
        let machine = world.machine;
        let end = machine.uptime().saturating_add(self.within);
        loop {
            let gateways = self.gateways(machine)?;
            for gateway in &gateways {
                if Self::routed(machine, gateway)? && Self::answers(machine, gateway)? {
                    return Ok(Vec::new());
                }
            }
            if machine.uptime() >= end {
                return Ok(if gateways.is_empty() { vec!["a gateway".to_owned()] } else { gateways });
            }
            let what = if gateways.is_empty() { "an address and a gateway".to_owned() } else { gateways.join(" or ") };
            world.report.waiting("gateway", &what, self.within);
            machine.sleep(Duration::from_millis(500));
        }
    }

    fn keep(&self, machine: &dyn Machine) -> Result<()> {
        let files = self.files.files.iter().map(|file| (file.path.clone(), file.content.expose().to_owned())).collect();
        let text = serde_json::to_string(&Good { digest: self.digest(), files })
            .map_err(|e| Failure::new(&codes::INPUT_OUTPUT, format!("writing {GOOD}: {e}")))?;
        machine.make_folder("/state/ingot", Attributes::root(0o700)).map_err(|e| Failure::io("making", GOOD, &e))?;
        replace(machine, GOOD, text.as_bytes(), Attributes::root(0o600))
    }

    /// Puts the former files back, where there are any.
    fn take_back(&self, world: World<'_>) -> Result<bool> {
        let machine = world.machine;
        let Some(good) = good(machine)? else { return Ok(false) };
        let ours = |path: &String| path.starts_with(&format!("{FOLDER}/{PREFIX}")) && !path.contains("..");
        let files = good.files.into_iter().filter(|(path, _)| ours(path));
        let mark = format!("{} {}\n", self.digest(), machine.uptime().as_secs());
        replace(machine, REFUSED, mark.as_bytes(), Attributes::root(0o644))?;
        Files::of(files.map(|(path, text)| Wanted::public(path, text)).collect()).sweep(FOLDER, PREFIX).apply(world)?;
        run(machine, &Command::new("/usr/bin/systemctl", &["reload", "systemd-networkd.service"]))?;
        Ok(true)
    }
}

impl Work for Confirm {
    fn lines(&self) -> Vec<String> {
        let gateways: Vec<String> = self.gateways.iter().map(ToString::to_string).collect();
        let who = if gateways.is_empty() { "the gateway the network names".to_owned() } else { gateways.join(" or ") };
        vec![format!("after a change, {who} answers within {} s, or the former files come back", self.within.as_secs())]
    }

    fn input(&self) -> Vec<u8> {
        self.files.input()
    }

    fn check(&self, machine: &dyn Machine) -> Result<Verdict> {
        let known = good(machine)?.is_some_and(|good| good.digest == self.digest());
        // A network without any gateway is one by design: there is nobody to ask.
        let nobody = self.gateways.is_empty() && !self.learns;
        if known || nobody || !machine.live() {
            return Ok(Verdict::Holds);
        }
        Ok(Verdict::Differs("the network is new or changed".to_owned()))
    }

    fn apply(&self, world: World<'_>) -> Result<()> {
        if refused(world.machine, &self.digest())? {
            let message = format!("this network was taken back less than {} minutes ago", AGAIN / 60);
            return Err(Failure::new(&codes::GATEWAY_SILENT, message));
        }
        let silent = self.wait(world)?;
        if silent.is_empty() {
            return self.keep(world.machine);
        }
        let message = format!("{} did not answer within {} s", silent.join(" and "), self.within.as_secs());
        if self.take_back(world)? {
            return Err(Failure::new(&codes::GATEWAY_SILENT, format!("{message}; the former network is in use again")));
        }
        let code = if self.gateways.is_empty() { &codes::NO_ADDRESS } else { &codes::GATEWAY_SILENT };
        Err(Failure::new(code, message))
    }

    fn keeps_only(&self) -> bool {
        true
    }
}
