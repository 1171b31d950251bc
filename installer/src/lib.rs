//! The installer: makes a machine, at every boot, what its signed profile says.
//!
//! | module | what it does |
//! |---|---|
//! | [`sequence`] | the one straight path: find, verify, parse, facts, plan, apply, report |
//! | [`find`] | reads every place a profile may come from, and names each outcome |
//! | [`verify`] | whether to believe the profile: signature, times, order, identity of the machine |
//! | [`facts`] | what this machine is |
//! | [`secrets`] | the secrets a profile only names |
//! | [`state`] | the state partition, before anything else starts |
//! | [`plan`] | profile and facts to ordered steps; pure |
//! | [`steps`] | the steps: check, apply, check |
//! | [`apply`], [`journal`] | carrying them out, and remembering it |
//! | [`machine`] | the only door to the world |
//! | [`report`] | console, status file, service manager, journal, host, events, codes |
//! | [`diagnose`] | what keeps the machine from being what its profile says; support bundle |
//! | [`blot`] | hides secrets in what leaves the machine |
//! | [`roles`] | what a role runs: HAProxy and keepalived of a load balancer; Kubernetes of a node |
//! | [`upkeep`], [`reboot`] | what is done again and again afterwards; that a restart is wanted |
//! | [`failure`] | what went wrong, with its code |
//!
//! Paths it touches: `/etc` (rendered at every boot), `/run/ingot/{status,upkeep,drain}.json`, `/run/ingot/pending`, `/run/reboot-required`,
//! `/run/reboot-required.pkgs`,
//! `/run/ingot/{files,registries,proxy,events.json}`, `/var/lib/hyperv/.kvp_pool_1`, `/run/ingot/{network-refused,clock-waited}`, `/run/ingot/volatile.json`, `/run/repart.d/50-state.conf`,
//! `/run/ingot/{haproxy,keepalived}-refused`, `/run/ingot/kubeadm.yaml` (while kubeadm runs), `/var/lib/containerd/io.ingot.images`; on the state
//! partition `/state/ingot/{journal,profile.toml,profile.toml.sig,accepted.json,identity.json,machine-id,network,
//! haproxy.good,keepalived.good}`, `/state/ssh`, `/state/{kubernetes,cni}` (seen as `/etc/kubernetes`, `/etc/cni/net.d`); `/var/home`; `/proc/sys`.

pub mod apply;
pub mod blot;
pub mod diagnose;
pub mod facts;
pub mod failure;
pub mod find;
pub mod journal;
pub mod machine;
pub mod plan;
pub mod reboot;
pub mod report;
pub mod roles;
pub mod secrets;
pub mod sequence;
pub mod state;
pub mod steps;
#[cfg(test)]
mod tests;
pub mod upkeep;
pub mod verify;

pub use failure::{Failure, Result};
