//! The agent for Services of type LoadBalancer (`installer/agent`): what it reads, and its unit. It runs where the profile
//! has a pool; what it does after that is its own business, and no part of whether this machine is ready.

use profile::address::Range;
use profile::cluster::Cluster;
use profile::load_balancer::LoadBalancer;
use profile::secret::Secret;
use serde::Deserialize;
use serde_json::{Value, json};
use trust::Sha256Digest;

use super::place::{Own, present, written};
use crate::failure::{Failure, Result};
use crate::machine::{Machine, read_text};
use crate::plan::Input;
use crate::report::codes;
use crate::steps::files::{Files, Wanted};
use crate::steps::{How, UnitAction, Verdict, Work, World};

/// Its unit.
pub const UNIT: &str = "ingot-agent.service";
/// Its configuration.
pub const CONFIG: &str = "/etc/ingot/agent.json";
/// What it tells of itself.
pub const REPORT: &str = "/run/ingot/agent.json";
const FOLDER: &str = "/etc/ingot";
const CA: &str = "/etc/ingot/agent-ca.pem";
const TOKEN: &str = "/etc/ingot/agent-token";
/// The rules that it made.
const RULES: &str = "services.cfg";

/// What the agent tells of itself; what else it may say is passed over.
#[derive(Debug, Clone, Deserialize)]
pub struct Told {
    /// `waiting` or `serving`.
    pub state: String,
    /// Whether it gives addresses away.
    pub holder: bool,
    /// Services with rules.
    pub services: u64,
    /// Nodes behind them.
    pub nodes: u64,
    /// What is not well.
    pub troubles: Vec<Trouble>,
    /// Services that do not have what they ask for.
    pub notes: Vec<String>,
}

/// Trouble of the agent.
#[derive(Debug, Clone, Deserialize)]
pub struct Trouble {
    /// Its code.
    pub code: String,
    /// What was seen.
    pub message: String,
}

/// What it tells, where it runs.
pub fn told(machine: &dyn Machine) -> Option<Told> {
    let text = read_text(machine, REPORT).ok().flatten()?;
    serde_json::from_str(&text).ok()
}

/// The agent as the profile wants it.
#[derive(Debug)]
pub struct Agent {
    cluster: Cluster,
    ca: String,
    token: Secret,
    pool: Vec<Range>,
    virtual_address: String,
    written: Vec<Own>,
}

impl Agent {
    /// That of the profile; `None` where it has no pool.
    ///
    /// # Errors
    /// [`codes::SECRET_MISSING`]; [`codes::NOT_A_PROFILE`] where the profile crate let something through.
    pub fn of(input: Input<'_>, balancer: &LoadBalancer) -> Result<Option<Self>> {
        if balancer.service_pool.is_empty() {
            return Ok(None);
        }
        let missing = |what: &str| Failure::new(&codes::NOT_A_PROFILE, format!("`service_pool` takes {what}"));
        let cluster = input.profile.cluster.clone().ok_or_else(|| missing("`[cluster]`"))?;
        let ca = cluster.ca.clone().ok_or_else(|| missing("`ca` of `[cluster]`"))?;
        let source = cluster.load_balancer_token.as_ref().ok_or_else(|| missing("`load_balancer_token` of `[cluster]`"))?;
        let token = input.secrets.get(source)?.clone();
        let first = balancer.addresses.first().ok_or_else(|| missing("`addresses`"))?;
        Ok(Some(Self {
            ca,
            token,
            pool: balancer.service_pool.clone(),
            virtual_address: first.address.address().to_string(),
            written: written(&input.profile.network),
            cluster,
        }))
    }

    /// The files. Each range is put on the interface in whose network it begins; else on the one of VRRP.
    fn files(&self, own: &[Own]) -> Files {
        let range = |range: &Range| {
            let near = own.iter().find(|own| own.address.contains(range.first()));
            match near {
                Some(own) => json!({ "range": range.to_string(), "interface": own.interface }),
                None => json!({ "range": range.to_string() }),
            }
        };
        let document = json!({
            "schema": 1,
            "cluster": self.cluster.name,
            "endpoint": self.cluster.endpoint.to_string(),
            "ca_file": CA,
            "token_file": TOKEN,
            "virtual_address": self.virtual_address,
            "pool": self.pool.iter().map(range).collect::<Vec<Value>>(),
        });
        let token = Wanted { content: self.token.clone(), ..Wanted::private(TOKEN, "") };
        let files = vec![Wanted::public(CA, self.ca.as_str()), token, Wanted::public(CONFIG, format!("{document}\n"))];
        Files::of(files)
    }

    /// From the profile, else (DHCP) from what the machine has.
    fn now(&self, machine: &dyn Machine) -> Result<Files> {
        if self.written.is_empty() && machine.live() {
            return Ok(self.files(&present(machine)?));
        }
        Ok(self.files(&self.written))
    }
}

impl Work for Agent {
    fn lines(&self) -> Vec<String> {
        let pool: Vec<String> = self.pool.iter().map(ToString::to_string).collect();
        vec![format!("{UNIT} for {} at {}, pool {}", self.cluster.name, self.cluster.endpoint, pool.join(", "))]
    }

    fn input(&self) -> Vec<u8> {
        let token = Sha256Digest::of(self.token.expose().as_bytes());
        let Self { cluster, ca, pool, virtual_address, written, .. } = self;
        format!("{} {} {ca} {token} {pool:?} {virtual_address} {written:?}", cluster.name, cluster.endpoint).into_bytes()
    }

    fn check(&self, machine: &dyn Machine) -> Result<Verdict> {
        self.now(machine)?.check(machine)
    }

    fn apply(&self, world: World<'_>) -> Result<()> {
        self.now(world.machine)?.apply(world)
    }

    fn units(&self) -> Vec<UnitAction> {
        vec![UnitAction::new(How::Restart, UNIT), UnitAction::new(How::Start, UNIT)]
    }
}

/// A profile without a pool: the agent does not run, and what it made is gone.
#[derive(Debug)]
pub struct Gone;

impl Gone {
    fn files() -> Files {
        Files::default().sweep(FOLDER, "agent").sweep(super::haproxy::SERVICES, RULES)
    }
}

impl Work for Gone {
    fn lines(&self) -> Vec<String> {
        vec![format!("{UNIT} does not run")]
    }

    fn input(&self) -> Vec<u8> {
        Vec::new()
    }

    fn check(&self, machine: &dyn Machine) -> Result<Verdict> {
        Self::files().check(machine)
    }

    fn apply(&self, world: World<'_>) -> Result<()> {
        Self::files().apply(world)?;
        // It says what is no longer so.
        if read_text(world.machine, REPORT)?.is_some() {
            world.machine.remove(REPORT).map_err(|e| Failure::io("removing", REPORT, &e))?;
        }
        Ok(())
    }

    fn units(&self) -> Vec<UnitAction> {
        vec![UnitAction::new(How::Stop, UNIT), UnitAction::new(How::Reload, super::HAPROXY.unit)]
    }
}
