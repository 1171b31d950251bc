//! The pool, and who gets which address of it.
//!
//! An address that a Service has stays with it as long as the pool holds it and the Service does not ask for another
//! one: what others do never moves it. New ones get the lowest that is free, the older Service first.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use profile::address::Range;

use crate::ask::{Asked, Key, Note};

/// Addresses and the interfaces they are put on; `None`: keepalived's own.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pool {
    ranges: Vec<(Range, Option<String>)>,
}

/// Addresses of Services, and what could not be had.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Given {
    /// By Service.
    pub addresses: BTreeMap<Key, IpAddr>,
    /// By Service.
    pub notes: Vec<(Key, Note)>,
}

impl Pool {
    /// Of these ranges, in their order.
    pub fn of(ranges: Vec<(Range, Option<String>)>) -> Self {
        Self { ranges }
    }

    /// Whether it holds the address.
    pub fn contains(&self, address: IpAddr) -> bool {
        self.ranges.iter().any(|(range, _)| range.contains(address))
    }

    /// The interface that the address is put on.
    pub fn interface(&self, address: IpAddr) -> Option<&str> {
        self.ranges.iter().find(|(range, _)| range.contains(address)).and_then(|(_, interface)| interface.as_deref())
    }

    /// The ranges as text.
    pub fn told(&self) -> String {
        self.ranges.iter().map(|(range, _)| range.to_string()).collect::<Vec<_>>().join(" ")
    }

    /// How many addresses there are of a family.
    pub fn count(&self, ipv4: bool) -> u128 {
        let of = self.ranges.iter().filter(|(range, _)| range.first().is_ipv4() == ipv4);
        of.fold(0, |sum, (range, _)| sum.saturating_add(range.count()))
    }

    fn all(&self, ipv4: bool) -> impl Iterator<Item = IpAddr> {
        let of = self.ranges.iter().filter(move |(range, _)| range.first().is_ipv4() == ipv4);
        of.flat_map(|(range, _)| (0..range.count()).map_while(|index| range.nth(index)))
    }

    /// Who has which address. `fresh` are addresses given away that no status tells yet; without them (`None`) nothing
    /// is given, and what the status of Services says is all there is.
    pub fn give(&self, services: &BTreeMap<Key, Asked>, fresh: Option<&BTreeMap<String, IpAddr>>) -> Given {
        let mut given = Given::default();
        let mut used = BTreeSet::new();
        let mut order: Vec<(&Key, &Asked)> = services.iter().filter(|(_, asked)| asked.ours).collect();
        order.sort_by_key(|(key, asked)| (asked.created, *key));
        for (key, asked) in &order {
            let first = asked.has.iter().find(|address| self.suits(asked, **address) && !used.contains(*address));
            if let Some(address) = first {
                used.insert(*address);
                given.addresses.insert((*key).clone(), *address);
            }
        }
        let Some(fresh) = fresh else { return given };
        let without: Vec<(&Key, &Asked)> =
            order.into_iter().filter(|(key, asked)| !given.addresses.contains_key(key) && !asked.ports.is_empty()).collect();
        // Those that were given already, then those that name one, then the rest: nobody takes what another one asks for.
        let mut rest = Vec::new();
        for (key, asked) in without {
            match fresh.get(&asked.uid).filter(|address| self.suits(asked, **address)) {
                Some(address) if used.insert(*address) => drop(given.addresses.insert(key.clone(), *address)),
                _ => rest.push((key, asked)),
            }
        }
        let (naming, rest): (Vec<_>, Vec<_>) = rest.into_iter().partition(|(_, asked)| asked.wanted.is_some());
        for (key, asked) in naming {
            match self.named(asked, &used) {
                Ok(address) => {
                    used.insert(address);
                    given.addresses.insert(key.clone(), address);
                }
                Err(note) => given.notes.push((key.clone(), note)),
            }
        }
        let mut next = BTreeMap::from([(true, self.free(true, &used)), (false, self.free(false, &used))]);
        for (key, asked) in rest {
            match next.get_mut(&asked.ipv4).and_then(|free| free.next()) {
                Some(address) => drop(given.addresses.insert(key.clone(), address)),
                None => given.notes.push((key.clone(), self.exhausted(asked.ipv4))),
            }
        }
        given
    }

    fn free<'a>(&'a self, ipv4: bool, used: &'a BTreeSet<IpAddr>) -> Box<dyn Iterator<Item = IpAddr> + 'a> {
        Box::new(self.all(ipv4).filter(|address| !used.contains(address)))
    }

    /// Whether a Service may have the address: of the pool, of its family, and the one it asks for if it does.
    fn suits(&self, asked: &Asked, address: IpAddr) -> bool {
        let named = asked.wanted.as_ref().is_none_or(|text| text.parse() == Ok(address));
        self.contains(address) && address.is_ipv4() == asked.ipv4 && named
    }

    fn named(&self, asked: &Asked, used: &BTreeSet<IpAddr>) -> Result<IpAddr, Note> {
        let text = asked.wanted.as_deref().unwrap_or_default();
        let address: Option<IpAddr> = text.parse().ok().filter(|address| self.suits(asked, *address));
        let outside = || {
            let message =
                format!("loadBalancerIP {text:?} is not in the pool {} or of another family than the Service", self.told());
            Note::new("AddressNotInPool", message)
        };
        let address = address.ok_or_else(outside)?;
        if used.contains(&address) {
            return Err(Note::new("AddressInUse", format!("loadBalancerIP {address} is another Service's")));
        }
        Ok(address)
    }

    fn exhausted(&self, ipv4: bool) -> Note {
        let (family, count) = (if ipv4 { "IPv4" } else { "IPv6" }, self.count(ipv4));
        let message = format!(
            "all {count} {family} addresses of the pool are taken: delete a Service, or add a range to `load_balancer.service_pool`"
        );
        Note::new("PoolExhausted", message)
    }
}
