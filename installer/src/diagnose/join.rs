//! Why a machine cannot join its cluster: name, port, TLS, CA, pin, token, each told apart.

use std::net::SocketAddr;
use std::time::Duration;

use profile::address::Endpoint;
use profile::cluster::Cluster;
use profile::secret::Secret;

use super::cluster_info::{ClusterInfo, Vouch};
use super::judge::{Fault, judge, pins};
use crate::failure::Failure;
use crate::machine::Machine;
use crate::machine::net::{Ask, Net, Reply, Whom};
use crate::report::codes::{self, Code};

/// How long each question may take; there are at most five.
const WITHIN: Duration = Duration::from_secs(3);

/// The ConfigMap everybody may read.
const CLUSTER_INFO: &str = "/api/v1/namespaces/kube-public/configmaps/cluster-info";

/// What a machine wants to join with.
#[derive(Debug, Clone, Copy)]
pub struct Target<'a> {
    /// Where the API is.
    pub endpoint: &'a Endpoint,
    /// Certificates of the cluster's CA, PEM.
    pub ca: Option<&'a str>,
    /// Pins of the CA, `sha256:...`.
    pub ca_pins: &'a [String],
    /// Bootstrap token.
    pub token: Option<&'a Secret>,
    /// The time certificates are compared with: seconds since 1970.
    pub at: u64,
}

impl<'a> Target<'a> {
    /// What the profile says, with the token's text.
    pub fn of(cluster: &'a Cluster, token: Option<&'a Secret>, at: u64) -> Self {
        let ca_pins = cluster.join.as_ref().map_or(&[][..], |join| &join.ca_pins);
        Self { endpoint: &cluster.endpoint, ca: cluster.ca.as_deref(), ca_pins, token, at }
    }
}

/// What is in the way, with what was seen.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Trouble {
    /// Nobody knows the endpoint's name.
    NameUnknown(String),
    /// No connection comes about.
    Unreachable(String),
    /// It speaks no TLS.
    NotTls(String),
    /// It answers, but not as an API server.
    NotKubernetes(String),
    /// Its certificate is by another CA.
    Untrusted(String),
    /// Its certificate's time has not come.
    NotYetValid(String),
    /// Its certificate's time is over.
    Expired(String),
    /// Its certificate is for other names.
    WrongName(String),
    /// It does not tell its CA.
    InfoMissing(String),
    /// It does not vouch for a token of this id: expired, or never there.
    TokenUnknown(String),
    /// It has the token's id with another secret.
    TokenSecret(String),
    /// Its CA is not pinned.
    PinWrong(String),
}

impl Trouble {
    /// Its code.
    pub fn code(&self) -> &'static Code {
        match self {
            Trouble::NameUnknown(_) => &codes::NAME_UNKNOWN,
            Trouble::Unreachable(_) => &codes::API_UNREACHABLE,
            Trouble::NotTls(_) | Trouble::NotKubernetes(_) => &codes::NOT_KUBERNETES,
            Trouble::Untrusted(_) => &codes::API_UNTRUSTED,
            Trouble::NotYetValid(_) | Trouble::Expired(_) => &codes::API_CERT_TIME,
            Trouble::WrongName(_) => &codes::API_CERT_NAME,
            Trouble::InfoMissing(_) => &codes::CLUSTER_INFO_MISSING,
            Trouble::TokenUnknown(_) => &codes::TOKEN_UNKNOWN,
            Trouble::TokenSecret(_) => &codes::TOKEN_SECRET,
            Trouble::PinWrong(_) => &codes::CA_PIN_WRONG,
        }
    }

    /// What was seen.
    pub fn seen(&self) -> &str {
        match self {
            Trouble::NameUnknown(seen)
            | Trouble::Unreachable(seen)
            | Trouble::NotTls(seen)
            | Trouble::NotKubernetes(seen)
            | Trouble::Untrusted(seen)
            | Trouble::NotYetValid(seen)
            | Trouble::Expired(seen)
            | Trouble::WrongName(seen)
            | Trouble::InfoMissing(seen)
            | Trouble::TokenUnknown(seen)
            | Trouble::TokenSecret(seen)
            | Trouble::PinWrong(seen) => seen,
        }
    }

    /// As a failure with its code.
    pub fn failure(&self) -> Failure {
        Failure::new(self.code(), self.seen())
    }
}

/// A cluster that can be joined.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Joinable {
    /// Certificates of its CA, PEM: what the profile has, or what cluster-info says and pin or token confirm.
    pub ca_pem: String,
    /// The address of its API by its own word, where it says one.
    pub server: Option<String>,
}

/// The first reason, outermost cause first, why nobody could join with this. `None`: name, port, TLS, CA, pin and token
/// are in order. Takes at most 15 s.
pub fn join_trouble(machine: &dyn Machine, target: &Target<'_>) -> Option<Failure> {
    find(&*machine.net(), target).err().map(|trouble| trouble.failure())
}

/// Follows the way a join goes, up to the point where the token would be sent; it never is.
///
/// # Errors
/// What is in the way.
pub fn find(net: &dyn Net, target: &Target<'_>) -> Result<Joinable, Trouble> {
    let to = reach(net, target.endpoint)?;
    let reply = info(net, target, to)?;
    let fits = |ca: &str| judge(&reply.chain, ca.as_bytes(), &target.endpoint.host, target.at).map_err(|fault| of(target, fault));
    if let Some(ca) = target.ca {
        fits(ca)?;
    }
    let info = read(&reply)?;
    let ca = info.ca().map_err(|why| Trouble::InfoMissing(format!("cluster-info: {why}")))?;
    pinned(target, &ca)?;
    vouched(target, &info)?;
    if target.ca.is_none() {
        fits(&ca)?;
    }
    Ok(Joinable { ca_pem: target.ca.map_or(ca, str::to_owned), server: info.server().map(str::to_owned) })
}

/// The first address of the endpoint that takes a connection.
fn reach(net: &dyn Net, endpoint: &Endpoint) -> Result<SocketAddr, Trouble> {
    let found = net.resolve(&endpoint.host, endpoint.port, WITHIN);
    let all = found.map_err(|e| Trouble::NameUnknown(format!("`{}`: {e}", endpoint.host)))?;
    let mut last = Trouble::NameUnknown(format!("`{}` has no address", endpoint.host));
    for address in all.into_iter().take(2) {
        match net.connect(address, WITHIN) {
            Ok(()) => return Ok(address),
            Err(error) => last = Trouble::Unreachable(format!("{address}: {error}")),
        }
    }
    Err(last)
}

fn info(net: &dyn Net, target: &Target<'_>, to: SocketAddr) -> Result<Reply, Trouble> {
    let endpoint = target.endpoint;
    let host = if endpoint.host.contains(':') { format!("[{}]", endpoint.host) } else { endpoint.host.clone() };
    let url = format!("https://{host}:{}{CLUSTER_INFO}", endpoint.port);
    // Whom to trust is what is to be found out. Nothing is sent but the question; what is read is judged below.
    let ask = Ask { to: Some(to), within: WITHIN, ..Ask::get(url, Whom::Anyone, target.at) };
    net.ask(&ask).map_err(|no| {
        let seen = format!("{to}: {}", no.reason);
        match (no.unreachable, no.chain.is_empty()) {
            (true, _) => Trouble::Unreachable(seen),
            (false, true) => Trouble::NotTls(seen),
            (false, false) => Trouble::NotKubernetes(seen),
        }
    })
}

fn of(target: &Target<'_>, fault: Fault) -> Trouble {
    let at = format!("{}:{}", target.endpoint.host, target.endpoint.port);
    let seen = |why: String| format!("the certificate shown at {at}: {why}");
    match fault {
        Fault::Untrusted(why) => Trouble::Untrusted(seen(why)),
        Fault::NotYetValid(why) => Trouble::NotYetValid(seen(why)),
        Fault::Expired(why) => Trouble::Expired(seen(why)),
        Fault::WrongName(why) => Trouble::WrongName(seen(why)),
    }
}

fn read(reply: &Reply) -> Result<ClusterInfo, Trouble> {
    match reply.status {
        200 => ClusterInfo::read(&reply.body).map_err(|why| Trouble::NotKubernetes(format!("cluster-info: {why}"))),
        status @ (401 | 403 | 404) => Err(Trouble::InfoMissing(format!("the API answers {status} for cluster-info"))),
        status => Err(Trouble::NotKubernetes(format!("it answers {status} for cluster-info"))),
    }
}

fn pinned(target: &Target<'_>, ca: &str) -> Result<(), Trouble> {
    let shown = pins(ca.as_bytes());
    if target.ca_pins.is_empty() || shown.iter().any(|pin| target.ca_pins.contains(pin)) {
        return Ok(());
    }
    let shown = if shown.is_empty() { "no certificate".to_owned() } else { shown.join(", ") };
    Err(Trouble::PinWrong(format!("the CA in cluster-info is {shown}; pinned is {}", target.ca_pins.join(", "))))
}

fn vouched(target: &Target<'_>, info: &ClusterInfo) -> Result<(), Trouble> {
    let Some(token) = target.token else { return Ok(()) };
    let id = token.expose().split('.').next().unwrap_or_default();
    match info.vouch(token) {
        Vouch::Good => Ok(()),
        Vouch::None => {
            let known = info.tokens();
            let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
            Err(Trouble::TokenUnknown(format!("the cluster knows no token `{id}` any more; it knows {known}")))
        }
        Vouch::Bad => Err(Trouble::TokenSecret(format!("cluster-info is not signed by this token of the id `{id}`"))),
    }
}

#[cfg(test)]
mod tests;
