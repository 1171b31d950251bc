//! Control plane and Linux worker (DESIGN.md 6): Kubernetes by kubeadm, with nobody logging in.
//!
//! | step | when | what |
//! |---|---|---|
//! | `kubernetes-state` | local | `/etc/kubernetes` and `/etc/cni/net.d` are folders of the state partition ([`persist`]) |
//! | `containerd` | local | its configuration ([`containerd`]) |
//! | `kubelet` | local | its arguments; it is started where this machine is part of its cluster ([`kubelet`]) |
//! | `control-plane-files` | local | encryption of Secrets, token of load balancers, audit policy ([`control_plane`]) |
//! | `pod-routes` | local | the unit that keeps routes to the pods of other nodes ([`routes`]) |
//! | `container-images` | network | the images on board are imported and pinned ([`images`]) |
//! | `cluster` | network | makes or joins the cluster; cannot be undone ([`member`], [`etcd_member`], [`kubeadm`], [`config`]) |
//! | `control-plane` | network, control planes; upkeep | certificates, settings of the API server, static pods ([`plane`]) |
//! | `pod-network` | network | the built-in bridge ([`cni`]) |
//! | `add-ons` | network, first control plane | manifests ([`addons`]) |
//! | `node` | network | labels, annotations, taints; Ready ([`node`]) |
//! | `join-material` | network, first control plane | bootstrap token and certificates for others ([`material`]) |
//! | `upkeep` | network, control planes | the timer of [`crate::upkeep`] |
//! | `registration` | upkeep | a workload cluster is known to its management cluster ([`registration`]) |
//!
//! `ingot-installer drain` moves the pods of a node elsewhere ([`drain`]), `ingot-installer reset` takes it out of its cluster ([`leave`]). A later boot renders the local ones again, and asks the API once whether the node is Ready ([`api`]).
//! Files: `/usr/share/ingot/kubernetes.json` ([`release`]), `/usr/share/ingot/container-images/`,
//! `/usr/share/ingot/addons/`, `/etc/add-ons/`.

pub mod addons;
pub mod api;
pub mod certificates;
pub mod cni;
pub mod config;
pub mod containerd;
pub mod control_plane;
pub mod drain;
pub mod etcd_member;
pub mod images;
pub mod kubeadm;
pub mod kubelet;
pub mod leave;
pub mod material;
pub mod member;
pub mod node;
pub mod persist;
pub mod plane;
pub mod registration;
pub mod release;
pub mod routes;
pub mod static_pods;

use std::time::Duration;

use profile::Profile;
use profile::cluster::{Cluster, Cni, Join};
use profile::node::Role;
use profile::secret::{Secret, SecretSource};

use crate::diagnose::pins;
use crate::facts::Facts;
use crate::failure::{Failure, Result};
use crate::plan::Input;
use crate::report::codes;
use crate::secrets::Secrets;
use crate::steps::{Phase, Step, Task};
use crate::upkeep;
use config::Source;
use member::{Member, Part};
use release::Release;

/// What the steps are made of.
///
/// # Errors
/// Profile and image do not fit: [`codes::KUBERNETES_MISSING`], [`codes::KUBERNETES_UNKNOWN`],
/// [`codes::KUBERNETES_VERSION`].
fn source<'a>(profile: &'a Profile, facts: &'a Facts, secrets: &'a Secrets) -> Result<Source<'a>> {
    let (Some(cluster), Some(release)) = (&profile.cluster, &facts.kubernetes) else {
        let message = format!("the profile is for a {}, and there is no {}", profile.node.role.name(), release::PATH);
        return Err(Failure::new(&codes::KUBERNETES_MISSING, message));
    };
    let join = cluster.join.as_ref().ok_or_else(|| Failure::new(&codes::NOT_A_PROFILE, "there is no `[cluster.join]`"))?;
    fits(cluster, release)?;
    Ok(Source { profile, cluster, join, release, facts, secrets })
}

/// The steps of a node.
///
/// # Errors
/// Profile and image do not fit; [`codes::SECRET_MISSING`].
pub fn steps(input: Input<'_>) -> Result<Vec<Step>> {
    let Input { profile, facts, secrets, .. } = input;
    let source = source(profile, facts, secrets)?;
    let Source { cluster, join, release, .. } = source;
    let control_plane = profile.node.role == Role::ControlPlane;
    let mut steps = vec![
        Step::local("kubernetes-state", persist::Persist),
        Step::local("containerd", containerd::files(release, facts)),
        Step::local("kubelet", kubelet::Arguments::of(profile, facts)),
    ];
    if control_plane {
        steps.push(Step::local("control-plane-files", control_plane::files(cluster, secrets)?));
    }
    let (name, endpoint) = (profile.node.name.clone(), cluster.endpoint.clone());
    let wanted = cluster.cni == Cni::Bridge;
    steps.push(Step::local("pod-routes", routes::unit(wanted, &endpoint, &name)));
    steps.push(Step::network("container-images", images::Images));
    let member = member(source)?;
    steps.push(Step { name: "cluster", phase: Phase::Network, task: Task::Irreversible(Box::new(member)) });
    if control_plane {
        steps.push(Step::network("control-plane", plane(source)?));
    }
    steps.push(Step::network("pod-network", cni::Bridge { wanted, node: name.clone(), endpoint: endpoint.clone() }));
    if join.first {
        steps.push(Step::network("add-ons", addons::AddOns { built_in: built_in(cluster) }));
    }
    let profile::node::Node { labels, annotations, taints, .. } = profile.node.clone();
    let node = node::Node { name, endpoint: endpoint.clone(), labels, annotations, taints, control_plane };
    steps.push(Step::network("node", node));
    if join.first && (join.token.is_some() || join.certificate_key.is_some()) {
        let token = secret(input, join.token.as_ref())?;
        let certificates = join.certificate_key.is_some();
        let material = material::Material { endpoint, token, certificates, config: source.init()? };
        steps.push(Step::network("join-material", material));
    }
    if control_plane {
        steps.push(Step::network("upkeep", upkeep::units()));
    }
    Ok(steps)
}

/// The steps of a control plane's upkeep.
///
/// # Errors
/// Those of [`steps`].
pub fn upkeep(profile: &Profile, facts: &Facts, secrets: &Secrets) -> Result<Vec<Step>> {
    let source = source(profile, facts, secrets)?;
    let mut steps = vec![Step::network("control-plane", plane(source)?)];
    let cluster = source.cluster;
    if let Some(management) = &cluster.management {
        let registration = registration::Registration {
            cluster: cluster.name.clone(),
            endpoint: cluster.endpoint.clone(),
            management: management.endpoint.clone(),
            ca: management.ca.clone(),
            token: secrets.get(&management.token)?.clone(),
            namespace: management.namespace.clone(),
        };
        steps.push(Step::network("registration", registration));
    }
    Ok(steps)
}

/// Manifests that every cluster of this kind has.
fn built_in(cluster: &Cluster) -> String {
    let balancers = cluster.load_balancer_token.as_ref().map(|_| control_plane::balancer_rights());
    let registrar = cluster.registrar.as_ref().map(|registrar| registration::registrar(&registrar.namespace));
    let manager = cluster.management.as_ref().map(|_| registration::manager());
    [balancers, registrar, manager].into_iter().flatten().collect()
}

fn plane(source: Source<'_>) -> Result<plane::Plane> {
    let (settings, arguments) = source.settings();
    Ok(plane::Plane {
        node: source.profile.node.name.clone(),
        endpoint: source.cluster.endpoint.clone(),
        first: source.join.first,
        minor: release::version(source.release)?.minor,
        config: source.init()?,
        settings,
        arguments,
    })
}

fn secret(input: Input<'_>, source: Option<&SecretSource>) -> Result<Option<Secret>> {
    source.map(|source| input.secrets.get(source).cloned()).transpose()
}

/// Whether image and profile speak of the same Kubernetes.
fn fits(cluster: &Cluster, release: &Release) -> Result<()> {
    let found = release::version(release)?;
    match cluster.kubernetes {
        Some(wanted) if wanted != found => {
            let message = format!("the profile wants Kubernetes {wanted}, the image has {found}");
            Err(Failure::new(&codes::KUBERNETES_VERSION, message))
        }
        _ => Ok(()),
    }
}

fn member(source: Source<'_>) -> Result<Member> {
    let Source { profile, cluster, join, secrets, .. } = source;
    let Join { first, wait_secs, .. } = *join;
    let part = match (first, profile.node.role) {
        (true, _) => Part::First,
        (false, Role::ControlPlane) => Part::Further,
        _ => Part::Worker,
    };
    // What the profile's CA stands for is pinned, too.
    let own = cluster.ca.as_ref().map(|ca| pins(ca.as_bytes())).unwrap_or_default();
    let ca_pins = if join.ca_pins.is_empty() { own } else { join.ca_pins.clone() };
    let get = |source: &Option<SecretSource>| source.as_ref().map(|source| secrets.get(source).cloned()).transpose();
    Ok(Member {
        cluster: cluster.name.clone(),
        node: profile.node.name.clone(),
        part,
        endpoint: cluster.endpoint.clone(),
        ca: cluster.ca.clone(),
        ca_key: get(&join.ca_key)?,
        token: get(&join.token)?,
        wait: Duration::from_secs(u64::from(wait_secs)),
        init: (profile.node.role == Role::ControlPlane).then(|| source.init()).transpose()?,
        minor: release::version(source.release)?.minor,
        join: (join.token.is_some() && !ca_pins.is_empty()).then(|| source.join(&ca_pins)).transpose()?,
        ca_pins,
    })
}
