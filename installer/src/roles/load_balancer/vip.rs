//! keepalived's step: its configuration, put in place only when nobody else has what it would take.

use profile::load_balancer::{LoadBalancer, Vrrp};
use profile::network::Network;
use profile::secret::Secret;
use std::time::Duration;

use super::configured::Configured;
use super::keepalived::{self, Place, render};
use super::neighbours::{Claim, free};
use super::place::{Own, place, present, written};
use super::{KEEPALIVED, Refusal};
use crate::failure::{Failure, Result};
use crate::machine::{Machine, read_text};
use crate::report::codes;
use crate::secrets::Secrets;
use crate::steps::files::{Files, Wanted};
use crate::steps::{Verdict, Work, World};
use trust::Sha256Digest;

/// How long the own address may take to appear: duplicate address detection and a slow switch included.
const APPEARS: Duration = Duration::from_secs(30);

/// The virtual addresses, kept by keepalived.
#[derive(Debug)]
pub struct Addresses {
    balancer: LoadBalancer,
    vrrp: Vrrp,
    password: Option<Secret>,
    written: Vec<Own>,
}

impl Addresses {
    /// Those of the profile; `None` where it has no VRRP.
    ///
    /// # Errors
    /// [`codes::SECRET_MISSING`]; what can be rendered from the profile alone, and is no configuration.
    pub fn of(network: &Network, balancer: &LoadBalancer, secrets: &Secrets) -> Result<Option<Self>> {
        let Some(vrrp) = balancer.vrrp.clone() else { return Ok(None) };
        let password = vrrp.password.as_ref().map(|source| secrets.get(source).cloned()).transpose()?;
        let addresses = Self { balancer: balancer.clone(), vrrp, password, written: written(network) };
        if let Some(place) = addresses.place(&addresses.written) {
            render(balancer, &place).map_err(Failure::from)?;
        }
        Ok(Some(addresses))
    }

    fn place(&self, own: &[Own]) -> Option<Place> {
        place(&self.balancer, &self.vrrp, own, self.password.as_ref())
    }

    /// From the profile, else (DHCP) from what the machine has.
    fn now(&self, machine: &dyn Machine) -> Result<Option<Place>> {
        match self.place(&self.written) {
            Some(place) => Ok(Some(place)),
            None if machine.live() => Ok(self.place(&present(machine)?)),
            None => Ok(None),
        }
    }

    /// Where it speaks from, once the machine has that address: at a later boot nobody has waited for the network yet.
    fn settled(&self, world: World<'_>) -> Result<Place> {
        let machine = world.machine;
        let end = machine.uptime().saturating_add(APPEARS);
        loop {
            let own = present(machine)?;
            if let Some(place) = self.now(machine)?
                && own.iter().any(|own| own.interface == place.interface && own.address.address() == place.source)
            {
                return Ok(place);
            }
            let peers: Vec<String> = self.vrrp.peers.iter().map(ToString::to_string).collect();
            let what = format!("an address towards {}", peers.join(", "));
            if machine.uptime() >= end {
                return Err(Failure::new(&codes::NO_VRRP_ADDRESS, format!("no interface has {what}")));
            }
            world.report.waiting("keepalived", &what, APPEARS);
            machine.sleep(Duration::from_millis(250));
        }
    }

    fn configured(&self, place: &Place) -> Result<Configured, Refusal> {
        let text = render(&self.balancer, place)?;
        let file = text.map(|text| Wanted { content: text, ..Wanted::private(keepalived::CONFIG, "") });
        Ok(Configured { program: &KEEPALIVED, files: Files::of(file.into_iter().collect()), hidden: self.password.clone() })
    }

    /// Nobody else has the addresses or the id. One that serves already is not stopped for it: it is told.
    fn alone(&self, world: World<'_>, place: &Place) -> Result<()> {
        let pairs = self.balancer.addresses.iter().zip(&place.interfaces);
        let claim = Claim {
            interface: &place.interface,
            source: place.source,
            peers: &self.vrrp.peers,
            id: self.vrrp.id,
            addresses: pairs.map(|(known, interface)| (known.address.address(), interface.as_str())).collect(),
            listen: Duration::from_millis(u64::from(self.vrrp.interval_millis) * 3),
        };
        match free(world.machine, &claim) {
            Err(failure) if serves(world.machine)? => {
                world.report.warn(&failure);
                Ok(())
            }
            result => result,
        }
    }
}

/// Whether keepalived runs.
fn serves(machine: &dyn Machine) -> Result<bool> {
    let Some(pid) = read_text(machine, "/run/keepalived.pid")? else { return Ok(false) };
    let Ok(pid) = pid.trim().parse::<u32>() else { return Ok(false) };
    Ok(read_text(machine, &format!("/proc/{pid}/comm"))?.is_some_and(|name| name.trim() == "keepalived"))
}

impl Work for Addresses {
    fn lines(&self) -> Vec<String> {
        let addresses: Vec<String> = self.balancer.addresses.iter().map(|known| known.address.to_string()).collect();
        let peers: Vec<String> = self.vrrp.peers.iter().map(ToString::to_string).collect();
        let (addresses, peers) = (addresses.join(", "), peers.join(", "));
        vec![format!("{} for {addresses}, id {}, with {peers}", keepalived::CONFIG, self.vrrp.id)]
    }

    fn input(&self) -> Vec<u8> {
        let secret = self.password.as_ref().map(|password| Sha256Digest::of(password.expose().as_bytes()).to_string());
        let LoadBalancer { addresses, service_pool, .. } = &self.balancer;
        let services = service_pool.is_empty();
        format!("{addresses:?} {services} {:?} {secret:?} {:?}", self.vrrp, self.written).into_bytes()
    }

    fn check(&self, machine: &dyn Machine) -> Result<Verdict> {
        let Some(place) = self.now(machine)? else {
            return Ok(Verdict::Differs("it is not known yet where it speaks from".to_owned()));
        };
        self.configured(&place)?.check(machine)
    }

    fn apply(&self, world: World<'_>) -> Result<()> {
        if !world.machine.live() {
            return Ok(());
        }
        let place = self.settled(world)?;
        let configured = self.configured(&place)?;
        if !configured.stands(world.machine)? {
            self.alone(world, &place)?;
        }
        configured.apply(world)
    }
}
