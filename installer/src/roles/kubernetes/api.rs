//! Questions to a cluster's API, by the machine's own certificate or a token: a few milliseconds where kubectl takes a
//! second.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use profile::address::Endpoint;
use profile::secret::Secret;
use serde_json::Value;

use crate::failure::{Failure, Result};
use crate::machine::net::{Ask, Reply, Sent, Whom};
use crate::machine::reader::Local;
use crate::machine::{Machine, read_text};
use crate::report::codes;
use crate::steps::World;
use crate::verify;

/// The kubelet's certificate and key, renewed by itself.
pub(super) const KUBELET: &str = "/var/lib/kubelet/pki/kubelet-client-current.pem";
/// The administrator's, on control planes.
pub const ADMIN: &str = "/etc/kubernetes/admin.conf";
/// The cluster's CA.
pub const CA: &str = "/etc/kubernetes/pki/ca.crt";

const WITHIN: Duration = Duration::from_secs(5);

/// The Nodes of a large cluster: some 10 KiB each.
const LIMIT: usize = 64 << 20;

/// Who asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum As {
    /// The kubelet of this node.
    Node,
    /// The administrator.
    Admin,
}

/// What came back.
#[derive(Debug, Clone, PartialEq)]
pub enum Answer {
    /// The object.
    Object(Value),
    /// There is none of this name.
    Missing,
    /// Nobody answers, or not so that it helps, for this reason.
    Silent(String),
}

/// What became of a change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// It was made.
    Done,
    /// The API says no: its status of HTTP, and its words.
    Refused(u16, String),
    /// Nobody answers.
    Silent(String),
}

/// A way into a cluster.
#[derive(Debug)]
pub struct Way<'a> {
    /// Where its API is.
    pub endpoint: &'a Endpoint,
    /// Certificates of its CA, PEM.
    pub roots: Vec<u8>,
    /// Certificate and key, PEM.
    pub own: Option<Secret>,
    /// Bearer token.
    pub token: Option<Secret>,
}

/// An address as part of a URL.
pub fn host(endpoint: &Endpoint) -> String {
    let Endpoint { host, port } = endpoint;
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

impl<'a> Way<'a> {
    /// Into the cluster of this machine; why there is none yet.
    ///
    /// # Errors
    /// Files of the machine cannot be read.
    pub fn of(machine: &dyn Machine, endpoint: &'a Endpoint, who: As) -> Result<Result<Self, String>> {
        let Some(own) = identity(machine, who)? else { return Ok(Err("this machine has no certificate yet".to_owned())) };
        let Some(ca) = read_text(machine, CA)? else { return Ok(Err(format!("there is no {CA}"))) };
        Ok(Ok(Self { endpoint, roots: ca.into_bytes(), own: Some(own), token: None }))
    }

    fn exchange(&self, machine: &dyn Machine, path: &str, body: Option<(Sent, &Value)>) -> Result<Reply, String> {
        let url = format!("https://{}{path}", host(self.endpoint));
        let authorization = self.token.as_ref().map(|token| Secret::new(format!("Bearer {}", token.expose())));
        let mut ask = Ask::get(url, Whom::Roots(self.roots.clone()), at(machine));
        ask = Ask { own: self.own.clone(), authorization, within: WITHIN, limit: LIMIT, ..ask };
        if let Some((sent, body)) = body {
            (ask.sent, ask.post) = (sent, Some(body.to_string().into_bytes()));
        }
        machine.net().ask(&ask).map_err(|no| no.reason)
    }

    /// Asks for an object: `/api/v1/nodes/cp-1`.
    pub fn get(&self, machine: &dyn Machine, path: &str) -> Answer {
        match self.exchange(machine, path, None) {
            Err(reason) => Answer::Silent(reason),
            Ok(reply) if reply.status == 404 => Answer::Missing,
            Ok(reply) if reply.status == 200 => match serde_json::from_slice(&reply.body) {
                Ok(object) => Answer::Object(object),
                Err(_) => Answer::Silent("it answers something else than JSON".to_owned()),
            },
            Ok(reply) => Answer::Silent(format!("it answers {}{}", reply.status, words(&reply))),
        }
    }

    /// Changes an object, or makes one.
    pub fn change(&self, machine: &dyn Machine, path: &str, sent: Sent, body: &Value) -> Change {
        match self.exchange(machine, path, Some((sent, body))) {
            Err(reason) => Change::Silent(reason),
            Ok(reply) if (200..300).contains(&reply.status) => Change::Done,
            Ok(reply) => Change::Refused(reply.status, format!("it answers {}{}", reply.status, words(&reply))),
        }
    }
}

/// What the API says of a refusal, in 300 letters at most.
fn words(reply: &Reply) -> String {
    let status: Option<Value> = serde_json::from_slice(&reply.body).ok();
    let message = status.as_ref().and_then(|status| status.get("message")?.as_str());
    message.map(|message| format!(": {}", message.chars().take(300).collect::<String>())).unwrap_or_default()
}

/// Asks the cluster of this machine for an object.
///
/// # Errors
/// Files of the machine cannot be read.
pub fn get(machine: &dyn Machine, endpoint: &Endpoint, who: As, path: &str) -> Result<Answer> {
    Ok(Way::of(machine, endpoint, who)?.map_or_else(Answer::Silent, |way| way.get(machine, path)))
}

/// Changes an object of the cluster of this machine.
///
/// # Errors
/// Files of the machine cannot be read.
pub fn change(machine: &dyn Machine, endpoint: &Endpoint, who: As, path: &str, body: (Sent, &Value)) -> Result<Change> {
    let way = Way::of(machine, endpoint, who)?;
    Ok(way.map_or_else(Change::Silent, |way| way.change(machine, path, body.0, body.1)))
}

/// What a step waits for, and how long.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// The step.
    pub step: &'static str,
    /// What it waits for.
    pub what: &'static str,
    /// How long at most.
    pub most: Duration,
}

/// For so long something may be there at any moment.
const AT_ONCE: Duration = Duration::from_secs(20);

impl Patience {
    /// Looks until it sees no reason any more to wait: ten times a second at first, for what comes at once, and later once a
    /// second.
    ///
    /// # Errors
    /// [`codes::NODE_NOT_READY`] with the last reason; what `look` ends with.
    pub fn until(self, world: World<'_>, mut look: impl FnMut() -> Result<Option<String>>) -> Result<()> {
        let Self { step, what, most } = self;
        let machine = world.machine;
        let begin = machine.uptime();
        while let Some(seen) = look()? {
            let waited = machine.uptime().saturating_sub(begin);
            if waited >= most {
                let message = format!("waited {} s for {what}: {seen}", most.as_secs());
                return Err(Failure::new(&codes::NODE_NOT_READY, message));
            }
            world.report.waiting(step, &format!("{what} ({seen})"), most);
            machine.sleep(Duration::from_millis(if waited < AT_ONCE { 100 } else { 1000 }));
        }
        Ok(())
    }
}

/// The time certificates are compared with: never before the image was made.
pub fn at(machine: &dyn Machine) -> u64 {
    verify::Time::of(&Local(machine)).map_or_else(|_| machine.now(), verify::Time::not_before)
}

fn identity(machine: &dyn Machine, who: As) -> Result<Option<Secret>> {
    match who {
        As::Node => Ok(read_text(machine, KUBELET)?.map(Secret::new)),
        As::Admin => {
            let Some(text) = read_text(machine, ADMIN)?.map(Secret::new) else { return Ok(None) };
            let certificate = decoded(text.expose(), "client-certificate-data:");
            let key = decoded(text.expose(), "client-key-data:");
            let both = certificate.zip(key).map(|(certificate, key)| format!("{}{}", certificate.expose(), key.expose()));
            let wrong = || Failure::new(&codes::INPUT_OUTPUT, format!("{ADMIN} holds no certificate and key"));
            both.map(|both| Some(Secret::new(both))).ok_or_else(wrong)
        }
    }
}

/// A value of a kubeconfig as kubeadm writes it: one line.
pub(super) fn decoded(text: &str, key: &str) -> Option<Secret> {
    let coded = text.lines().find_map(|line| line.trim().strip_prefix(key))?;
    String::from_utf8(STANDARD.decode(coded.trim()).ok()?).ok().map(Secret::new)
}
