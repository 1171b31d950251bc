//! All of it together: one loop that takes what the API tells, decides, and does.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv6Addr, UdpSocket};
use std::path::Path;
use std::time::Duration;

use futures::future::{BoxFuture, FutureExt};
use futures::stream::{FuturesUnordered, StreamExt};
use k8s_openapi::api::core::v1::{Node, Service};
use kube::Client;
use kube::runtime::watcher::{self, Event};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, sleep_until};

use crate::api::{self, Watch};
use crate::ask::{self, Asked, Key, Member};
use crate::config::Config;
use crate::pace::Pace;
use crate::programs::{Done, Loaded};
use crate::report::{Level, Report, Teller, say};
use crate::rules::{Decision, decide};
use crate::trouble::Trouble;

/// How many statuses are under way at once.
const AT_ONCE: usize = 16;
/// After something that did not work.
const AGAIN: Duration = Duration::from_secs(3);
/// After a configuration that is none: the installer restarts us with another one.
const WRONG: Duration = Duration::from_secs(30);
/// How often we look whether the virtual address is here.
const LOOK: Duration = Duration::from_millis(500);

/// Objects of one kind by name; a list is taken over when it is whole.
#[derive(Debug)]
struct Store<K, V> {
    all: BTreeMap<K, V>,
    coming: BTreeMap<K, V>,
    known: bool,
    trouble: Option<Trouble>,
}

impl<K: Ord, V: PartialEq> Store<K, V> {
    fn new() -> Self {
        Self { all: BTreeMap::new(), coming: BTreeMap::new(), known: false, trouble: None }
    }

    /// Takes an event; whether something changed.
    fn take<O>(&mut self, event: watcher::Result<Event<O>>, read: fn(&O) -> Option<(K, V)>, name: fn(&O) -> Option<K>) -> bool {
        match event {
            Ok(Event::Init) => self.coming.clear(),
            Ok(Event::InitApply(object)) => self.coming.extend(read(&object)),
            Ok(Event::InitDone) => {
                self.trouble = None;
                let coming = std::mem::take(&mut self.coming);
                let changed = !self.known || coming != self.all;
                (self.all, self.known) = (coming, true);
                return changed;
            }
            Ok(Event::Apply(object)) => {
                self.trouble = None;
                return match read(&object) {
                    Some((key, value)) if self.all.get(&key) == Some(&value) => false,
                    Some((key, value)) => {
                        self.all.insert(key, value);
                        true
                    }
                    None => name(&object).is_some_and(|key| self.all.remove(&key).is_some()),
                };
            }
            Ok(Event::Delete(object)) => return name(&object).is_some_and(|key| self.all.remove(&key).is_some()),
            Err(error) => self.trouble = Some(Trouble::of_watch(&error)),
        }
        false
    }
}

fn service_key(service: &Service) -> Option<Key> {
    Some(Key { namespace: service.metadata.namespace.clone()?, name: service.metadata.name.clone()? })
}

fn node_key(node: &Node) -> Option<String> {
    node.metadata.name.clone()
}

/// A status or an Event that was sent: of which Service in which version, and what came of it.
type Sent = (Key, String, Result<(), kube::Error>);

struct Agent {
    config: Config,
    client: Client,
    head: String,
    services: Store<Key, Asked>,
    nodes: Store<String, Member>,
    holder: bool,
    /// Addresses that no status tells yet.
    fresh: BTreeMap<String, IpAddr>,
    loaded: Loaded,
    pace: Pace,
    again: Option<Instant>,
    load_trouble: Option<Trouble>,
    sending: FuturesUnordered<BoxFuture<'static, Sent>>,
    queue: BTreeMap<Key, (String, Option<IpAddr>)>,
    /// Versions whose status is written or under way.
    written: BTreeMap<Key, String>,
    send_trouble: Option<Trouble>,
    /// Events told, by identity and message.
    told: BTreeSet<(String, String)>,
    report: Report,
    teller: Teller,
}

/// Runs until it is told to end.
///
/// # Errors
/// This process can wait for no signal.
pub async fn serve(path: &Path) -> std::io::Result<()> {
    let mut end = signal(SignalKind::terminate())?;
    let (mut teller, mut report) = (Teller::default(), Report::new());
    loop {
        let made = Config::read(path).and_then(|config| Ok((api::client(&config)?, config)));
        match made {
            Ok((client, config)) => {
                let mut agent = Agent::new(config, client, teller);
                agent.begin().await;
                agent.run(&mut end).await;
                return Ok(());
            }
            Err(trouble) => report.troubles = vec![trouble],
        }
        teller.tell(&report);
        tokio::select! {
            _ = end.recv() => return Ok(()),
            () = sleep(WRONG) => {}
        }
    }
}

/// Whether this machine has the address. IPv4: the kernel sends nothing from one that is not here, though with
/// `ip_nonlocal_bind` it lets it be bound. IPv6: what is sent to an own address comes from that same one.
fn has(address: IpAddr) -> bool {
    let from = if address.is_ipv4() { address } else { Ipv6Addr::UNSPECIFIED.into() };
    let own = UdpSocket::bind((from, 0)).and_then(|socket| {
        socket.connect((address, 9))?;
        socket.local_addr()
    });
    own.is_ok_and(|own| own.ip() == address)
}

impl Agent {
    fn new(config: Config, client: Client, teller: Teller) -> Self {
        let pool = config.pool.told();
        let head = format!(
            "# Made by ingot-agent for {} at {}, pool {pool}: changes made here are lost.",
            config.cluster, config.endpoint
        );
        Self {
            holder: has(config.virtual_address),
            config,
            client,
            head,
            services: Store::new(),
            nodes: Store::new(),
            fresh: BTreeMap::new(),
            loaded: Loaded::default(),
            pace: Pace::default(),
            again: None,
            load_trouble: None,
            sending: FuturesUnordered::new(),
            queue: BTreeMap::new(),
            written: BTreeMap::new(),
            send_trouble: None,
            told: BTreeSet::new(),
            report: Report::new(),
            teller,
        }
    }

    /// What a former run left stands until the API answers.
    async fn begin(&mut self) {
        match self.loaded.restore(&self.head).await {
            Ok(done) if done.reloaded => say(Level::Notice, "the rules of the last boot serve until the API answers"),
            Ok(_) => {}
            Err(trouble) => self.load_trouble = Some(trouble),
        }
        if self.loaded.stands() {
            self.report.state = "standing";
        }
        self.tell();
    }

    async fn run(&mut self, end: &mut Signal) {
        let mut services: Watch<Service> = api::watch(&self.client);
        let mut nodes: Watch<Node> = api::watch(&self.client);
        let mut look = interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let due = self.due();
            let changed = tokio::select! {
                _ = end.recv() => return,
                Some(event) = services.next() => self.services.take(event, ask::service, service_key),
                Some(event) = nodes.next() => self.nodes.take(event, ask::node, node_key),
                Some(sent) = self.sending.next(), if !self.sending.is_empty() => { self.sent(sent); false }
                _ = look.tick() => self.look(),
                () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {
                    self.act().await;
                    false
                }
            };
            if changed {
                self.pace.changed(Instant::now());
            }
            self.send();
            self.tell();
        }
    }

    fn due(&self) -> Option<Instant> {
        let known = self.services.known && self.nodes.known;
        let soonest = [self.pace.due(), self.again].into_iter().flatten().min();
        soonest.filter(|_| known)
    }

    fn look(&mut self) -> bool {
        let holder = has(self.config.virtual_address);
        let changed = holder != self.holder;
        if changed {
            let what = if holder { "here: this machine gives addresses away" } else { "elsewhere" };
            say(Level::Notice, &format!("the virtual address {} is {what}", self.config.virtual_address));
            self.holder = holder;
        }
        changed
    }

    /// Decides, loads, and then tells the API.
    async fn act(&mut self) {
        self.pace.taken();
        self.again = None;
        let began = Instant::now();
        self.written.retain(|key, _| self.services.all.contains_key(key));
        let fresh = self.holder.then_some(&self.fresh);
        let decision = decide(&self.config.pool, &self.services.all, &self.nodes.all, fresh);
        match self.loaded.load(&decision.rules, &self.config.pool, &self.head).await {
            Ok(done) => self.loaded_well(&decision, done, began),
            Err(trouble) => {
                self.load_trouble = Some(trouble);
                self.again = Some(Instant::now() + AGAIN);
            }
        }
        self.fresh.clone_from(&decision.fresh);
        self.report.note(&decision.notes);
        self.events(&decision);
    }

    fn loaded_well(&mut self, decision: &Decision, done: Done, began: Instant) {
        self.load_trouble = None;
        let rules = &decision.rules;
        if done != Done::default() {
            let (services, nodes, millis) = (rules.services.len(), rules.nodes.len(), began.elapsed().as_millis());
            let Done { reloaded, commands, addresses } = done;
            let how = if reloaded { "reload".to_owned() } else { format!("{commands} commands") };
            let moved = if addresses { ", other addresses" } else { "" };
            say(Level::Notice, &format!("{services} services on {nodes} nodes by {how}{moved}, {millis} ms"));
        }
        if done.reloaded {
            self.pace.reloaded(Instant::now());
            self.report.reloads += 1;
        }
        self.report.state = "serving";
        (self.report.services, self.report.nodes) = (rules.services.len(), rules.nodes.len());
        self.report.addresses = decision.addresses.len();
        if done != Done::default()
            && let Err(trouble) = self.loaded.keep()
        {
            self.load_trouble = Some(trouble);
        }
        if !self.holder {
            self.queue.clear();
            return;
        }
        let gone = decision.gone.iter().map(|key| (key, None));
        for (key, address) in decision.addresses.iter().map(|(key, address)| (key, Some(*address))).chain(gone) {
            let Some(asked) = self.services.all.get(key) else { continue };
            let told = asked.has.first().copied() == address && asked.has.len() <= 1;
            if !told && self.written.get(key) != Some(&asked.version) {
                self.queue.insert(key.clone(), (asked.version.clone(), address));
            }
        }
    }

    fn events(&mut self, decision: &Decision) {
        if !self.holder {
            return;
        }
        let mut now = BTreeSet::new();
        for (key, note) in &decision.notes {
            let Some(asked) = self.services.all.get(key) else { continue };
            let told = (asked.uid.clone(), note.message.clone());
            if !self.told.contains(&told) {
                say(Level::Warning, &format!("{key}: {}: {}", note.reason, note.message));
                let (client, key, uid, note) = (self.client.clone(), key.clone(), asked.uid.clone(), note.clone());
                let send = async move { (key.clone(), String::new(), api::tell(&client, &key, &uid, &note).await) };
                self.sending.push(send.boxed());
            }
            now.insert(told);
        }
        self.told = now;
    }

    /// Sends what waits, some at once.
    fn send(&mut self) {
        while self.sending.len() < AT_ONCE
            && let Some((key, (version, address))) = self.queue.pop_first()
        {
            self.written.insert(key.clone(), version.clone());
            let client = self.client.clone();
            let send = async move {
                let result = api::write(&client, &key, &version, address).await;
                (key, version, result)
            };
            self.sending.push(send.boxed());
        }
    }

    fn sent(&mut self, (key, version, result): Sent) {
        let Err(error) = result else {
            self.send_trouble = None;
            return;
        };
        if self.written.get(&key) == Some(&version) {
            self.written.remove(&key);
        }
        // Changed or deleted meanwhile: the watch tells.
        if let kube::Error::Api(status) = &error
            && matches!(status.code, 404 | 409)
        {
            return;
        }
        let trouble = Trouble::of(&error);
        self.send_trouble = Some(Trouble { message: format!("status of {key}: {}", trouble.message), ..trouble });
        self.again.get_or_insert(Instant::now() + AGAIN);
    }

    fn tell(&mut self) {
        let all = [&self.services.trouble, &self.nodes.trouble, &self.load_trouble, &self.send_trouble];
        let mut troubles: Vec<Trouble> = all.into_iter().flatten().cloned().collect();
        // Both watches stumble over the same.
        troubles.dedup_by_key(|trouble| trouble.code);
        self.report.troubles = troubles;
        self.report.holder = self.holder;
        self.teller.tell(&self.report);
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn own_addresses_and_others() {
        for (address, own) in [("127.0.0.1", true), ("192.0.2.1", false), ("2001:db8::1", false)] {
            assert_eq!(super::has(address.parse().unwrap()), own, "{address}");
        }
    }
}
