//! `ingot-installer remove-node NAME`, on a control plane that is well: takes a node out whose machine is lost. Its
//! replacement could not join while etcd waits for the lost member.

use std::time::Duration;

use super::api::ADMIN;
use super::leave::{self, ETCD, OWN, ask_health, etcdctl, stays};
use super::member;
use crate::failure::{Failure, Result};
use crate::machine::{Command, Machine, read_text, run};
use crate::report::codes;

/// Takes a lost node out of the cluster of this control plane: its member of etcd, then its Node. Gives what was done.
///
/// # Errors
/// [`codes::NOT_LOST`], [`codes::QUORUM`]; words of kubectl and etcdctl.
pub fn remove(machine: &dyn Machine, lost: &str) -> Result<String> {
    let not_lost = |why: String| Err(Failure::new(&codes::NOT_LOST, why));
    if read_text(machine, ETCD)?.is_none() {
        return not_lost("this machine is no control plane".to_owned());
    }
    if member::name(machine)? == lost {
        return not_lost(format!("{lost} is this machine"));
    }
    let ready = r#"-o=jsonpath={.status.conditions[?(@.type=="Ready")].status}"#;
    if kubectl(machine, &["get", "node", lost, "--ignore-not-found", ready])? == "True" {
        return not_lost(format!("{lost} is Ready"));
    }
    let list = run(machine, &etcdctl(OWN, &["member", "list", "--write-out", "simple"]))?.out;
    let mut done = String::new();
    if let Some((id, clients)) = leave::entry(&list, lost) {
        stays(&ask_health(machine)?, clients).map_err(|why| Failure::new(&codes::QUORUM, why))?;
        run(machine, &etcdctl(OWN, &["member", "remove", id]))?;
        done = format!("{lost} is no member of etcd any more\n");
    }
    let deleted = kubectl(machine, &["delete", "node", lost, "--ignore-not-found", "--wait=false"])?;
    done += if deleted.trim().is_empty() { "there was no node of this name\n" } else { "its node is deleted\n" };
    Ok(done)
}

/// As the cluster's administrator; gives what it wrote.
fn kubectl(machine: &dyn Machine, arguments: &[&str]) -> Result<String> {
    let kubeconfig = format!("--kubeconfig={ADMIN}");
    let arguments = [&[kubeconfig.as_str()], arguments].concat();
    Ok(run(machine, &Command::new("/usr/bin/kubectl", &arguments).within(Duration::from_secs(60)))?.out)
}
