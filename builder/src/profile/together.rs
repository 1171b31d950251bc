//! What only several profiles together can tell: the files of a site are one network.

use std::collections::BTreeMap;
use std::net::IpAddr;

use profile::address::{Prefix, Range};
use profile::document::Place;
use profile::profile::Written;

use super::Checked;

/// A fault: which file, where, what, and the next action.
type Told = (usize, Place, String, &'static str);

/// Adds to each profile what it has in common with another and must not.
pub(super) fn check(all: &mut [Checked]) {
    if all.len() < 2 {
        return;
    }
    let mut told = Vec::new();
    {
        let seen = Seen { all };
        seen.unique(&mut told);
        seen.balancers(&mut told);
        seen.clusters(&mut told);
    }
    for (at, place, message, hint) in told {
        if let Some(checked) = all.get_mut(at).filter(|_| !place.is_hole()) {
            let fault = checked.texts.fault(place, message).hint(hint);
            checked.faults.push(fault);
        }
    }
}

struct Seen<'a> {
    all: &'a [Checked],
}

/// A load balancer, by what others may clash with.
struct Balancer<'a> {
    file: usize,
    id: (u32, Place),
    priority: (u32, Place),
    addresses: Vec<Prefix>,
    networks: Vec<Prefix>,
    pool: Vec<(Range, Place)>,
    own: Vec<IpAddr>,
    peers: &'a [profile::document::Located<String>],
}

impl<'a> Seen<'a> {
    fn written(&self) -> impl Iterator<Item = (usize, &'a Written)> {
        self.all.iter().enumerate().filter_map(|(file, checked)| Some((file, checked.written.as_ref()?)))
    }

    fn shown(&self, file: usize, place: Place) -> String {
        self.all.get(file).map_or_else(String::new, |checked| checked.texts.show(place))
    }

    /// Names within a cluster, addresses and hardware addresses are there once.
    fn unique(&self, told: &mut Vec<Told>) {
        let mut first: BTreeMap<(&str, String), (usize, Place)> = BTreeMap::new();
        let mut once = |kind: &'static str, key: String, shown: String, file: usize, place: Place| {
            match first.get(&(kind, key.clone())) {
                // Twice in one file is that file's own fault, told already.
                Some((other, at)) if *other != file => {
                    let message = format!("the {kind} {shown} is also in {}", self.shown(*other, *at));
                    told.push((file, place, message, "each machine of a site has its own"));
                }
                Some(_) => {}
                None => drop(first.insert((kind, key), (file, place))),
            }
        };
        for (file, written) in self.written() {
            let cluster = written.cluster.as_ref().map_or("", |cluster| cluster.name.as_str());
            let name = &written.node.name;
            once("name", format!("{cluster}/{}", name.as_str()), format!("`{}`", name.as_str()), file, name.place());
            for interface in &written.interface {
                for text in &interface.addresses {
                    let Ok(prefix) = text.parse::<Prefix>() else { continue };
                    let address = prefix.address().to_string();
                    once("address", address.clone(), address, file, text.place());
                }
                if let Some(mac) = interface.matches.as_ref().and_then(|matches| matches.mac.as_ref()) {
                    let lower = mac.to_ascii_lowercase();
                    once("hardware address", lower.clone(), lower, file, mac.place());
                }
            }
        }
    }

    fn balancer(&self, file: usize, written: &'a Written) -> Option<Balancer<'a>> {
        let section = written.load_balancer.as_ref()?;
        let vrrp = section.vrrp.as_ref()?;
        let own = prefixes(written);
        let priority = vrrp.priority.as_ref().map_or((100, vrrp.id.place()), |priority| (**priority, priority.place()));
        Some(Balancer {
            file,
            id: (*vrrp.id, vrrp.id.place()),
            priority,
            addresses: section.addresses.iter().filter_map(|entry| entry.address.parse().ok()).collect(),
            networks: own.clone(),
            pool: section.service_pool.iter().filter_map(|text| Some((text.parse().ok()?, text.place()))).collect(),
            own: own.iter().map(Prefix::address).collect(),
            peers: &vrrp.peers,
        })
    }

    /// Peers agree and differ where they must; strangers in one network do not share an id.
    fn balancers(&self, told: &mut Vec<Told>) {
        let balancers: Vec<Balancer<'_>> = self.written().filter_map(|(file, written)| self.balancer(file, written)).collect();
        for (index, one) in balancers.iter().enumerate() {
            for other in balancers.iter().skip(index + 1) {
                self.pair(one, other, told);
            }
        }
        self.taken(&balancers, told);
    }

    fn pair(&self, one: &Balancer<'_>, other: &Balancer<'_>, told: &mut Vec<Told>) {
        let near = one.networks.iter().any(|a| other.networks.iter().any(|b| a.overlaps(b)));
        let shared = one.addresses.iter().any(|a| other.addresses.iter().any(|b| a.address() == b.address()));
        let place = || self.shown(one.file, one.id.1);
        match (shared, one.id.0 == other.id.0) {
            (false, true) if near => {
                let message = format!("the VRRP id {} is also that of {}, which has other virtual addresses", one.id.0, place());
                told.push((
                    other.file,
                    other.id.1,
                    message,
                    "load balancers of one network that are no peers need ids that differ",
                ));
            }
            (true, false) => {
                let message = format!("the virtual addresses are also those of {}, under the VRRP id {}", place(), one.id.0);
                told.push((other.file, other.id.1, message, "peers have the same id"));
            }
            (true, true) => {
                if one.priority.0 == other.priority.0 {
                    let message =
                        format!("the priority {} is also that of {}", one.priority.0, self.shown(one.file, one.priority.1));
                    told.push((
                        other.file,
                        other.priority.1,
                        message,
                        "one of the peers must win: give them priorities that differ",
                    ));
                }
                for (from, to) in [(one, other), (other, one)] {
                    let known =
                        to.own.is_empty() || from.peers.iter().any(|peer| peer.parse().is_ok_and(|peer| to.own.contains(&peer)));
                    if !known {
                        let message = format!("`peers` lacks the load balancer of {}", self.shown(to.file, to.id.1));
                        told.push((from.file, from.id.1, message, "each peer names all others"));
                    }
                }
            }
            (false, _) => {}
        }
        if !shared {
            for (range, place) in &other.pool {
                if let Some((taken, at)) = one.pool.iter().find(|(taken, _)| taken.overlaps(range)) {
                    let message = format!("the service pool {range} overlaps {taken} of {}", self.shown(one.file, *at));
                    told.push((other.file, *place, message, "only load balancers that are peers share a pool"));
                }
            }
        }
    }

    /// Virtual addresses and pools hold no machine's own address.
    fn taken(&self, balancers: &[Balancer<'_>], told: &mut Vec<Told>) {
        for (file, written) in self.written() {
            for text in written.interface.iter().flat_map(|interface| &interface.addresses) {
                let Ok(prefix) = text.parse::<Prefix>() else { continue };
                let address = prefix.address();
                for balancer in balancers.iter().filter(|balancer| balancer.file != file) {
                    if balancer.addresses.iter().any(|virtual_one| virtual_one.address() == address) {
                        let message = format!("{address} is a virtual address of {}", self.shown(balancer.file, balancer.id.1));
                        told.push((file, text.place(), message, "a virtual address moves: no machine has it as its own"));
                    }
                    if let Some((range, at)) = balancer.pool.iter().find(|(range, _)| range.contains(address)) {
                        let message = format!("{address} is in the service pool {range} of {}", self.shown(balancer.file, *at));
                        told.push((file, text.place(), message, "take an address outside, or make the pool smaller"));
                    }
                }
            }
        }
    }

    /// A cluster has one endpoint and one first control plane.
    fn clusters(&self, told: &mut Vec<Told>) {
        let mut endpoints: BTreeMap<&str, (usize, Place, &str)> = BTreeMap::new();
        let mut firsts: BTreeMap<&str, (usize, Place)> = BTreeMap::new();
        for (file, written) in self.written() {
            let Some(cluster) = &written.cluster else { continue };
            let name = cluster.name.as_str();
            let (other, at, endpoint) =
                *endpoints.entry(name).or_insert((file, cluster.endpoint.place(), cluster.endpoint.as_str()));
            if endpoint != cluster.endpoint.as_str() {
                let message = format!("the cluster `{name}` has another endpoint in {}: `{endpoint}`", self.shown(other, at));
                told.push((file, cluster.endpoint.place(), message, "all machines of a cluster reach its API at one place"));
            }
            if cluster.join.as_ref().is_some_and(|join| join.first) {
                let (other, at) = *firsts.entry(name).or_insert((file, cluster.name.place()));
                if other != file {
                    let message =
                        format!("the cluster `{name}` has its first control plane in {} already", self.shown(other, at));
                    told.push((
                        file,
                        cluster.name.place(),
                        message,
                        "`first = true` on one machine only: two would make two clusters",
                    ));
                }
            }
        }
    }
}

fn prefixes(written: &Written) -> Vec<Prefix> {
    written.interface.iter().flat_map(|interface| &interface.addresses).filter_map(|text| text.parse().ok()).collect()
}
