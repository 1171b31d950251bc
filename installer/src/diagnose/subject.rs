//! What is read of the machine before anything is asked, so that tests need nothing but this and the network.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use profile::Profile;
use profile::conceal::{Concealed, conceal};
use profile::network::Dhcp;
use profile::secret::{Secret, SecretSource};

use super::ports::{Listeners, listeners};
use crate::blot::Blot;
use crate::facts::{Facts, facts};
use crate::failure::Failure;
use crate::find::https::{ROOTS, SYSTEM_ROOTS};
use crate::find::{KEPT, PROFILE_LIMIT};
use crate::machine::net::{Net, Via};
use crate::machine::reader::Local;
use crate::machine::{Command, Machine, Space, read_text};
use crate::report::{STATUS, Status, events};
use crate::roles::load_balancer::agent::{Told, told};
use crate::secrets::{self, FOLDERS, Secrets};
use crate::sequence::{self, Source};
use crate::verify;

/// A machine as the tests see it.
#[derive(Debug)]
pub struct Subject {
    /// The profile this machine would take, else the one it kept.
    pub profile: Option<Profile>,
    /// Why it would take none.
    pub refused: Option<Failure>,
    /// The profile's text without secrets.
    pub shown: String,
    /// Hides every secret that is known.
    pub blot: Blot,
    /// What this machine is.
    pub facts: Facts,
    pub(super) secrets: Secrets,
    pub(super) net: Arc<dyn Net>,
    /// The clock, and when the image was made: seconds since 1970.
    pub(super) clock: (u64, u64),
    pub(super) synchronised: bool,
    pub(super) status: Option<Status>,
    /// What the service agent tells.
    pub(super) agent: Option<Told>,
    pub(super) listeners: Listeners,
    /// Mount options of the state partition.
    pub(super) state_mount: Option<String>,
    pub(super) space: Option<Space>,
    /// Name servers of the links, as resolved knows them.
    pub(super) learned_dns: Vec<IpAddr>,
    /// Gateways, with their interface.
    pub(super) gateways: Vec<(IpAddr, Option<String>)>,
    pub(super) mtus: BTreeMap<String, u32>,
    /// Own addresses.
    pub(super) addresses: Vec<IpAddr>,
    /// Roots of the system, PEM.
    pub(super) roots: Vec<u8>,
    /// Events that were not delivered.
    pub(super) undelivered: usize,
}

impl Subject {
    /// Looks at the machine. What cannot be read is as if it was not there: `diagnose` is for machines that are not well.
    pub fn of(machine: &dyn Machine) -> Self {
        let (current, text, refused) = profile_of(machine);
        let mut known = credentials(machine);
        let Concealed { text: shown, secrets: inline } = conceal(text.as_bytes(), None);
        known.extend(inline);
        let profile = current.map(|(profile, inline)| {
            known.extend(inline);
            profile
        });
        let found = profile.as_ref().map(|profile| secrets::present(machine, profile)).unwrap_or_default();
        known.extend(profile.iter().flat_map(secrets::named).filter_map(|source| found.get(source).ok().cloned()));
        let net = machine.net();
        let file = |path: &str| read_text(machine, path).ok().flatten();
        let (learned, addresses) = addresses(&*net);
        let status: Option<Status> = file(STATUS).and_then(|text| serde_json::from_str(&text).ok());
        let image = verify::Time::of(&Local(machine)).map_or(0, |time| time.image());
        Self {
            gateways: gateways(profile.as_ref(), learned),
            blot: Blot::of(&known),
            facts: facts(machine).unwrap_or_default(),
            secrets: found,
            clock: (machine.now(), image),
            agent: told(machine),
            synchronised: file("/run/systemd/timesync/synchronized").is_some(),
            status,
            listeners: listeners(machine).unwrap_or_default(),
            state_mount: file("/proc/self/mounts").and_then(|mounts| mount(&mounts, "/state")),
            space: machine.space("/state").ok(),
            learned_dns: name_servers(&file("/run/systemd/resolve/resolv.conf").unwrap_or_default()),
            mtus: mtus(machine),
            addresses,
            roots: file(ROOTS).or_else(|| file(SYSTEM_ROOTS)).unwrap_or_default().into_bytes(),
            undelivered: events::kept(machine).len(),
            profile,
            refused,
            shown,
            net,
        }
    }

    /// The text of a secret, where it is at hand.
    pub(super) fn secret<'s>(&'s self, source: Option<&'s SecretSource>) -> Option<&'s Secret> {
        source.and_then(|source| self.secrets.get(source).ok())
    }

    /// The time certificates are compared with: never before the image was made.
    pub(super) fn at(&self) -> u64 {
        self.clock.0.max(self.clock.1)
    }

    /// The proxy for https, where there is one.
    pub(super) fn via(&self) -> Option<Via> {
        let profile = self.profile.as_ref()?;
        via(profile, &self.secrets)
    }
}

/// The proxy of a profile.
pub(crate) fn via(profile: &Profile, secrets: &Secrets) -> Option<Via> {
    let proxy = profile.proxy.as_ref()?;
    let login = proxy.login.as_ref().and_then(|(name, password)| Some((name.clone(), secrets.get(password).ok()?.clone())));
    Some(Via { url: proxy.https.clone(), login, none_for: crate::steps::outside::none_for(profile, proxy).join(",") })
}

/// A profile and the secrets in it.
type Known = (Profile, Vec<Secret>);

/// The profile this machine would take; else the one it kept, with the reason. And its text.
fn profile_of(machine: &dyn Machine) -> (Option<Known>, String, Option<Failure>) {
    match sequence::accepted(machine, &Source::Any) {
        Ok(current) => (Some((current.profile, current.inline)), current.text, None),
        Err(failure) => {
            let kept = machine.read(KEPT).ok().flatten().filter(|bytes| bytes.len() <= PROFILE_LIMIT).unwrap_or_default();
            const NAME: &str = "the profile that was kept";
            let outer = || Profile::parse(NAME, &kept).ok().map(|profile| (profile, Vec::new()));
            let known = sequence::read(machine, NAME, &kept).ok().or_else(outer);
            (known, String::from_utf8_lossy(&kept).into_owned(), Some(failure))
        }
    }
}

/// All credentials but the profile itself: nobody knows what is in them.
fn credentials(machine: &dyn Machine) -> Vec<Secret> {
    let mut found: Vec<Secret> = secrets::keys(machine).into_iter().collect();
    for folder in FOLDERS.map(str::to_owned).into_iter().chain(machine.credentials()) {
        for name in machine.list(&folder).unwrap_or_default() {
            if !name.starts_with("ingot.profile") {
                let text = read_text(machine, &format!("{folder}/{name}")).ok().flatten();
                found.extend(text.map(Secret::new));
            }
        }
    }
    found
}

/// Options of the file system that is mounted there (fstab(5)).
fn mount(mounts: &str, at: &str) -> Option<String> {
    let fields = |line: &str| line.split(' ').map(str::to_owned).collect::<Vec<_>>();
    let found = mounts.lines().map(fields).rfind(|fields| fields.get(1).is_some_and(|path| path == at))?;
    found.get(3).cloned()
}

fn name_servers(resolv: &str) -> Vec<IpAddr> {
    resolv.lines().filter_map(|line| line.strip_prefix("nameserver ")?.trim().parse().ok()).collect()
}

fn mtus(machine: &dyn Machine) -> BTreeMap<String, u32> {
    let names = machine.list("/sys/class/net").unwrap_or_default();
    let mtu = |name: String| {
        let text = read_text(machine, &format!("/sys/class/net/{name}/mtu")).ok().flatten()?;
        Some((name, text.trim().parse().ok()?))
    };
    names.into_iter().filter_map(mtu).collect()
}

type Gateways = Vec<(IpAddr, Option<String>)>;

/// Gateways the kernel has, and own addresses.
fn addresses(net: &dyn Net) -> (Gateways, Vec<IpAddr>) {
    let ask = |arguments: &[&str]| -> Vec<serde_json::Value> {
        let output = net.run(&Command::new("/usr/bin/ip", arguments).within(std::time::Duration::from_secs(5)));
        output.ok().and_then(|output| serde_json::from_str(&output.out).ok()).unwrap_or_default()
    };
    let text = |value: &serde_json::Value, key: &str| value.get(key).and_then(|value| value.as_str()).map(str::to_owned);
    let mut gateways = Gateways::new();
    for family in ["-4", "-6"] {
        for route in ask(&["-j", family, "route", "show", "default"]) {
            if let Some(gateway) = text(&route, "gateway").and_then(|gateway| gateway.parse().ok()) {
                gateways.push((gateway, text(&route, "dev")));
            }
        }
    }
    let mut own = Vec::new();
    for interface in ask(&["-j", "addr", "show"]) {
        let infos = interface.get("addr_info").and_then(|infos| infos.as_array()).cloned().unwrap_or_default();
        own.extend(infos.iter().filter_map(|info| text(info, "local")?.parse::<IpAddr>().ok()));
    }
    (gateways, own)
}

/// Those of the profile; those that the network named where it leaves that to the network.
fn gateways(profile: Option<&Profile>, learned: Gateways) -> Gateways {
    let interfaces = profile.map(|profile| profile.network.interfaces.as_slice()).unwrap_or_default();
    let mut all = learned;
    for interface in interfaces {
        for gateway in &interface.gateways {
            if !all.iter().any(|(known, _)| known == gateway) {
                all.push((*gateway, Some(interface.name.clone())));
            }
        }
    }
    let learns = interfaces.is_empty() || interfaces.iter().any(|interface| interface.dhcp != Dhcp::No);
    all.retain(|(gateway, _)| learns || interfaces.iter().any(|interface| interface.gateways.contains(gateway)));
    all
}
