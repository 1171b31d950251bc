//! The step `cluster`, which cannot be undone: this machine makes its cluster, or joins it.
//!
//! **What counts** is [`MARKER`], written when all is done: with it nothing is ever made or reset here again. Without it:
//!
//! | found | the machine | what happens |
//! |---|---|---|
//! | nothing | first | unless the cluster answers already (then it joins as control plane), `kubeadm init` |
//! | files, no data of etcd | first | its own half state is reset, then as above |
//! | data of etcd | first | `kubeadm init` goes on over what there is: etcd's data is the cluster, and is never removed here |
//! | `kubelet.conf` and its certificate | worker | it has joined, and was cut off before it could note it |
//! | files, not both | worker | its own half state is reset, then it joins |
//! | files | further control plane | its member is taken out of etcd ([`etcd_member`]), `kubeadm reset`, then it joins |
//!
//! Before it joins it waits for the API until CA and token are in order, and says what it waits for.

use std::time::Duration;

use profile::address::Endpoint;
use profile::secret::Secret;
use serde::{Deserialize, Serialize};

use super::{api, etcd_member, kubeadm};
use crate::diagnose::{self, Target, Trouble, join_trouble};
use crate::failure::{Failure, Result};
use crate::machine::{Attributes, Machine, read_text, replace};
use crate::report::codes;
use crate::steps::{Verdict, Work, World};

/// Noted when this machine is part of its cluster.
pub const MARKER: &str = "/etc/kubernetes/ingot.json";

const FILES: [&str; 6] =
    ["admin.conf", "kubelet.conf", "bootstrap-kubelet.conf", "controller-manager.conf", "scheduler.conf", "pki"];
const KUBELET_CONF: &str = "/etc/kubernetes/kubelet.conf";
const ETCD: &str = "/var/lib/etcd/member";

/// What may come right by itself while others start.
const SETTLES: Duration = Duration::from_secs(180);
/// The first minor version whose kubeadm adds members without a vote to etcd.
const LEARNERS: u32 = 29;

/// Between questions.
const AGAIN: Duration = Duration::from_secs(2);

/// Content of [`MARKER`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Marker {
    schema: u32,
    cluster: String,
    node: String,
}

/// The name this machine joined with.
///
/// # Errors
/// [`codes::OTHER_CLUSTER`]: it is not noted.
pub(super) fn name(machine: &dyn Machine) -> Result<String> {
    let marker: Option<Marker> = read_text(machine, MARKER)?.and_then(|text| serde_json::from_str(&text).ok());
    let name = marker.map(|marker| marker.node);
    name.ok_or_else(|| Failure::new(&codes::OTHER_CLUSTER, format!("{MARKER} does not say which node this is")))
}

/// What a machine is in its cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// It makes the cluster.
    First,
    /// A further control plane.
    Further,
    /// A worker.
    Worker,
}

/// The step.
#[derive(Debug)]
pub struct Member {
    /// Cluster.
    pub cluster: String,
    /// Name of the node.
    pub node: String,
    /// What it is.
    pub part: Part,
    /// Where the API is.
    pub endpoint: Endpoint,
    /// Certificate of the CA, where the profile has it.
    pub ca: Option<String>,
    /// Its key, where the CA is made beforehand.
    pub ca_key: Option<Secret>,
    /// Pins of the CA.
    pub ca_pins: Vec<String>,
    /// Bootstrap token.
    pub token: Option<Secret>,
    /// How long the API is waited for.
    pub wait: Duration,
    /// Configuration for `kubeadm init`, and for its phases; of control planes only.
    pub init: Option<Secret>,
    /// Minor version of Kubernetes.
    pub minor: u32,
    /// Configuration for `kubeadm join`; the first has one too where its profile has what joining takes.
    pub join: Option<Secret>,
}

/// What of a half-made node there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Half {
    files: bool,
    kubelet: bool,
    etcd: bool,
}

impl Half {
    fn of(machine: &dyn Machine) -> Result<Self> {
        let there = |path: &str| -> Result<bool> {
            Ok(machine.attributes(path).map_err(|e| Failure::io("reading", path, &e))?.is_some())
        };
        let mut files = false;
        for name in FILES {
            files |= there(&format!("/etc/kubernetes/{name}"))?;
        }
        // The kubelet writes its kubeconfig before it has the certificate that this names.
        let filled = |path: &str| Ok::<_, Failure>(read_text(machine, path)?.is_some_and(|text| !text.is_empty()));
        let kubelet = filled(KUBELET_CONF)? && filled(api::KUBELET)?;
        Ok(Self { files, kubelet, etcd: there(ETCD)? })
    }
}

impl Member {
    fn target<'a>(&'a self, machine: &dyn Machine) -> Target<'a> {
        let (endpoint, ca, ca_pins) = (&self.endpoint, self.ca.as_deref(), &self.ca_pins);
        Target { endpoint, ca, ca_pins, token: self.token.as_ref(), at: api::at(machine) }
    }

    fn init(&self, world: World<'_>) -> Result<()> {
        let machine = world.machine;
        let half = Half::of(machine)?;
        if half.files && !half.etcd {
            kubeadm::reset(world)?;
        }
        if !half.etcd {
            // A first machine with an empty disk may be the replacement of one that is gone: a cluster that answers
            // is not made twice.
            match diagnose::find(&*machine.net(), &self.target(machine)) {
                Ok(_) => return self.join(world),
                Err(Trouble::Unreachable(_) | Trouble::NameUnknown(_) | Trouble::NotTls(_) | Trouble::NotKubernetes(_)) => {}
                Err(trouble) => return Err(trouble.failure().context("a cluster answers at the endpoint already")),
            }
        }
        if let (Some(ca), Some(key)) = (&self.ca, &self.ca_key) {
            let folder = "/etc/kubernetes/pki";
            machine.make_folder(folder, Attributes::root(0o700)).map_err(|e| Failure::io("making", folder, &e))?;
            replace(machine, &format!("{folder}/ca.key"), key.expose().as_bytes(), Attributes::root(0o600))?;
            replace(machine, &format!("{folder}/ca.crt"), ca.as_bytes(), Attributes::root(0o644))?;
        }
        kubeadm::clean(machine)?;
        let config = self.init.as_ref().ok_or_else(|| Failure::new(&codes::INIT_FAILED, "there is no configuration for it"))?;
        kubeadm::init(world, config, half.etcd)
    }

    fn join(&self, world: World<'_>) -> Result<()> {
        let machine = world.machine;
        let half = Half::of(machine)?;
        if self.part == Part::Worker && half.kubelet {
            return Ok(());
        }
        if half.files || half.etcd {
            if self.part != Part::Worker {
                etcd_member::undo(world, &self.endpoint, &self.node, self.init.as_ref())?;
            }
            kubeadm::reset(world)?;
        }
        let config = self.join.as_ref().ok_or_else(|| {
            let message = "a cluster answers at the endpoint already, and the profile has no `token` to join it";
            Failure::new(&codes::INIT_FAILED, message)
        })?;
        self.wait(world)?;
        let Err(failed) = self.carry_out(world, config) else { return Ok(()) };
        // kubeadm's words tell what it did, not always why that failed.
        Err(match join_trouble(machine, &self.target(machine)) {
            Some(trouble) if failed.code() == &codes::JOIN_FAILED => trouble.context(failed.to_string()),
            _ => failed,
        })
    }

    /// Joins; a control plane notes in between who is in etcd. From 1.29 on kubeadm brings a member in that has no vote
    /// until it runs: etcd can be without it, and answers afterwards.
    fn carry_out(&self, world: World<'_>, config: &Secret) -> Result<()> {
        if self.part == Part::Worker || self.minor >= LEARNERS {
            return kubeadm::join(world, config, &[]);
        }
        kubeadm::join(world, config, &["--skip-phases=control-plane-join"])?;
        etcd_member::note(world.machine, &self.endpoint)?;
        kubeadm::join(world, config, &["phase", "control-plane-join", "all"])?;
        etcd_member::forget(world.machine)
    }

    /// Until the API answers, and CA and token are in order.
    fn wait(&self, world: World<'_>) -> Result<()> {
        let machine = world.machine;
        let begin = machine.uptime();
        let mut wrong_since = None;
        loop {
            let Err(trouble) = diagnose::find(&*machine.net(), &self.target(machine)) else { return Ok(()) };
            let now = machine.uptime();
            let starting = matches!(
                trouble,
                Trouble::Unreachable(_)
                    | Trouble::NameUnknown(_)
                    | Trouble::NotTls(_)
                    | Trouble::NotKubernetes(_)
                    | Trouble::InfoMissing(_)
            );
            let since = *wrong_since.get_or_insert(now);
            if starting {
                wrong_since = None;
            }
            // An API that is starting is waited for; one that says no may have others that are starting beside it.
            let most = if starting { self.wait } else { SETTLES.min(self.wait) };
            let waited = now.saturating_sub(if starting { begin } else { since });
            if waited >= most {
                return Err(trouble.failure().context(format!("waited {} s", waited.as_secs())));
            }
            let what = format!("the API at {}:{} ({})", self.endpoint.host, self.endpoint.port, trouble.code().title);
            world.report.waiting("cluster", &what, most);
            machine.sleep(AGAIN);
        }
    }
}

impl Work for Member {
    fn lines(&self) -> Vec<String> {
        let how = match self.part {
            Part::First => "makes the cluster, or joins it where it answers already",
            Part::Further => "joins the control plane of",
            Part::Worker => "joins",
        };
        let Endpoint { host, port } = &self.endpoint;
        vec![format!(
            "{} {how} {} at {host}:{port}; waits for its API for {} s at most",
            self.node,
            self.cluster,
            self.wait.as_secs()
        )]
    }

    /// A correction of endpoint, token, pin or name must heal a machine that could not join: those that matter once it
    /// has are in [`MARKER`].
    fn input(&self) -> Vec<u8> {
        if self.part == Part::Worker { b"worker".to_vec() } else { b"control plane".to_vec() }
    }

    fn check(&self, machine: &dyn Machine) -> Result<Verdict> {
        let Some(text) = read_text(machine, MARKER)? else {
            return Ok(Verdict::Differs(format!("this machine is no part of the cluster {} yet", self.cluster)));
        };
        let marker: Marker = serde_json::from_str(&text)
            .map_err(|e| Failure::new(&codes::OTHER_CLUSTER, format!("{MARKER} cannot be read: {e}")))?;
        if marker.cluster != self.cluster || marker.node != self.node {
            let Marker { cluster, node, .. } = marker;
            let message =
                format!("it is `{node}` of the cluster `{cluster}`; the profile says `{}` of `{}`", self.node, self.cluster);
            return Err(Failure::new(&codes::OTHER_CLUSTER, message));
        }
        Ok(Verdict::Holds)
    }

    fn apply(&self, world: World<'_>) -> Result<()> {
        let machine = world.machine;
        if !machine.live() {
            return Ok(());
        }
        super::cni::forget(machine)?;
        match self.part {
            Part::First => self.init(world)?,
            Part::Further | Part::Worker => self.join(world)?,
        }
        super::cni::settle(machine, &self.endpoint, &self.node)?;
        super::plane::forget(machine)?;
        let marker = Marker { schema: 1, cluster: self.cluster.clone(), node: self.node.clone() };
        let text = serde_json::to_string(&marker).map_err(|e| Failure::new(&codes::INPUT_OUTPUT, format!("{MARKER}: {e}")))?;
        replace(machine, MARKER, text.as_bytes(), Attributes::root(0o600))
    }
}
