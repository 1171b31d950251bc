//! The load balancer (DESIGN.md 6): HAProxy shares connections, keepalived moves the virtual addresses.
//!
//! | module | what it does |
//! |---|---|
//! | [`haproxy`], [`keepalived`] | the texts; pure: the same profile gives the same bytes |
//! | [`place`] | which interface has which address |
//! | [`configured`] | a configuration that its program accepts before it is put in place; the last good one |
//! | [`vip`] | keepalived's step: where it speaks from, and that nobody else has its addresses |
//! | [`neighbours`], [`advert`] | who else answers for an address or speaks with our VRRP id |
//! | [`agent`] | what the service agent reads, and its unit |
//! | [`health`] | `check-haproxy`, which keepalived runs every second |
//!
//! **Steps.** `haproxy` (before the network): the CA of the cluster and haproxy.cfg. `keepalived` (with the network):
//! keepalived.conf, after looking for strangers. `haproxy-kept` and `keepalived-kept`: what was accepted is kept on the
//! state partition. A unit is started when it is first configured, and reloaded only when its files changed.
//!
//! **A refused configuration** (`haproxy -c`, `keepalived -t`) is never put in place. The last good one stands, or is
//! brought back from `/state/ingot/*.good` at a later boot, and serves; this is told as a warning at once, so that
//! everything that serves is still started, and as the failure [`crate::report::codes::BALANCER_REFUSED`] by the step that would have
//! kept it: a machine that is not what its profile says does not say "ready", and does not keep that profile.
//!
//! **Adding and draining backends** is another profile: HAProxy is reloaded, the former process keeps its connections
//! until they end ([`haproxy`] says for how long), the new one takes the listening sockets over from it.
//!
//! **Services of type LoadBalancer** are the business of `ingot-agent`, a program of its own (`installer/agent`), which runs
//! where the profile has a pool. HAProxy also reads `*.cfg` in `/run/ingot/services`; they are checked
//! together with haproxy.cfg. Where the profile has a pool, keepalived's instance includes
//! `/run/ingot/services/keepalived.conf`, a `virtual_ipaddress_excluded` block or nothing.
//!
//! Every text that goes into a configuration is checked here again, whoever made it, so that none can carry syntax of its
//! own.

pub mod advert;
pub mod agent;
pub mod configured;
pub mod haproxy;
pub mod health;
pub mod keepalived;
pub mod neighbours;
pub mod place;
#[cfg(test)]
mod tests;
pub mod vip;

use std::fmt;
use std::time::Duration;

use profile::load_balancer::LoadBalancer;
use profile::rule::Rule;
use trust::Sha256Digest;

use crate::failure::{Failure, Result};
use crate::machine::Command;
use crate::plan::Input;
use crate::report::codes;
use crate::steps::Step;
use crate::steps::files::{Files, Wanted};
use configured::{Configured, Kept, Program};

/// HAProxy.
pub static HAPROXY: Program = Program {
    name: "haproxy",
    unit: "haproxy.service",
    config: haproxy::CONFIG,
    good: "/state/ingot/haproxy.good",
    refused: "/run/ingot/haproxy-refused",
    test: |candidate, services| {
        let mut arguments = vec!["-c", "-q", "-f", candidate];
        arguments.extend(services.then_some(["-f", haproxy::SERVICES]).into_iter().flatten());
        Command::new("/usr/sbin/haproxy", &arguments).within(TEST)
    },
};

/// keepalived.
pub static KEEPALIVED: Program = Program {
    name: "keepalived",
    unit: "keepalived.service",
    config: keepalived::CONFIG,
    good: "/state/ingot/keepalived.good",
    refused: "/run/ingot/keepalived-refused",
    test: |candidate, _| Command::new("/usr/sbin/keepalived", &["-t", "-f", candidate]).within(TEST),
};

/// How long a program may read its configuration.
const TEST: Duration = Duration::from_secs(20);

/// The steps of a load balancer.
///
/// # Errors
/// [`codes::NOT_A_PROFILE`]: what the profile crate let through would be no configuration; [`codes::SECRET_MISSING`].
pub fn steps(input: Input<'_>) -> Result<Vec<Step>> {
    let Some(balancer) = &input.profile.load_balancer else { return Ok(Vec::new()) };
    let ca = input.profile.cluster.as_ref().and_then(|cluster| cluster.ca.as_deref());
    let haproxy = Configured { program: &HAPROXY, files: haproxy_files(balancer, ca)?, hidden: None };
    let kept: Vec<String> = haproxy.files.files.iter().map(|file| file.path.clone()).collect();
    let mut steps = vec![Step::local("haproxy", haproxy)];
    match vip::Addresses::of(&input.profile.network, balancer, input.secrets)? {
        Some(addresses) => {
            steps.push(Step::network("keepalived", addresses));
            if let Some(agent) = agent::Agent::of(input, balancer)? {
                steps.push(Step::network("service-agent", agent));
            }
            steps.push(Step::network("haproxy-kept", Kept { program: &HAPROXY, paths: kept }));
            let paths = vec![keepalived::CONFIG.to_owned()];
            steps.push(Step::network("keepalived-kept", Kept { program: &KEEPALIVED, paths }));
        }
        None => {
            steps.push(Step::network("keepalived", configured::Gone(&KEEPALIVED)));
            steps.push(Step::network("haproxy-kept", Kept { program: &HAPROXY, paths: kept }));
        }
    }
    if balancer.service_pool.is_empty() || balancer.vrrp.is_none() {
        steps.push(Step::local("service-agent", agent::Gone));
    }
    Ok(steps)
}

/// The files of HAProxy, its configuration last.
fn haproxy_files(balancer: &LoadBalancer, ca: Option<&str>) -> Result<Files> {
    let mut files = Vec::new();
    let digest = Sha256Digest::of(ca.unwrap_or_default().as_bytes()).to_string();
    let path = format!("/etc/haproxy/{}{}.pem", haproxy::CA_PREFIX, digest.get(..16).unwrap_or_default());
    if let Some(ca) = ca {
        files.push(Wanted::public(path.as_str(), ca));
    }
    files.push(Wanted::public(haproxy::CONFIG, haproxy::render(balancer, &path).map_err(Failure::from)?));
    Ok(Files::of(files).sweep("/etc/haproxy", haproxy::CA_PREFIX))
}

/// Why no configuration is rendered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// Which object, what was found and what was expected.
    pub told: String,
    /// What to do next.
    pub hint: &'static str,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; {}", self.told, self.hint)
    }
}

impl std::error::Error for Refusal {}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        Failure::new(&codes::NOT_A_PROFILE, refusal.to_string())
    }
}

/// The text itself, if it holds to the rule; `object` names where it stands.
fn checked<'a>(rule: &Rule, object: &str, text: &'a str) -> Result<&'a str, Refusal> {
    if rule.holds(text) {
        Ok(text)
    } else {
        Err(Refusal { told: format!("{object}: {}", rule.told(text)), hint: "correct it in the profile" })
    }
}
