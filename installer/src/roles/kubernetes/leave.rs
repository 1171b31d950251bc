//! `ingot-installer reset`: takes this node out of its cluster, so that it can join anew or be thrown away.
//!
//! On a control plane its member leaves etcd first, which is refused where those that stay would be too few to decide.
//! kubeadm would do that too, but says nothing where it does not, and the others then wait for a member that is gone.
//!
//! `ingot-installer remove-node NAME`, on a control plane that is well: takes a node out whose machine is lost. Its
//! replacement could not join while etcd waits for the lost member.

use std::time::Duration;

use serde_json::Value;

use super::api::ADMIN;
use super::member::MARKER;
use super::{addons, cni, kubeadm};
use crate::failure::{Failure, Result};
use crate::machine::{Command, Machine, read_text, run};
use crate::report::codes;
use crate::steps::World;

const ETCD: &str = "/etc/kubernetes/manifests/etcd.yaml";

/// Takes the node out; `last` says that the cluster may end with it.
///
/// # Errors
/// [`codes::QUORUM`]; kubeadm's words.
pub fn leave(world: World<'_>, last: bool) -> Result<()> {
    let machine = world.machine;
    let manifest = read_text(machine, ETCD)?;
    if let (Some(manifest), false) = (&manifest, last) {
        may_leave(machine, manifest)?;
    }
    if manifest.is_some() && !last {
        let name = name(machine)?;
        if let Err(failure) = kubectl(machine, &["delete", "node", &name, "--ignore-not-found", "--wait=false"]) {
            world.report.warn(&failure);
        }
        remove_member(machine, &name)?;
    }
    kubeadm::reset(world)?;
    for path in [MARKER, addons::DONE] {
        machine.remove(path).map_err(|e| Failure::io("removing", path, &e))?;
    }
    cni::forget(machine)
}

/// Takes a lost node out of the cluster of this control plane: its member of etcd, then its Node. Gives what was done.
///
/// # Errors
/// [`codes::NOT_LOST`], [`codes::QUORUM`]; words of kubectl and etcdctl.
pub fn remove(machine: &dyn Machine, lost: &str) -> Result<String> {
    let not_lost = |why: String| Err(Failure::new(&codes::NOT_LOST, why));
    if read_text(machine, ETCD)?.is_none() {
        return not_lost("this machine is no control plane".to_owned());
    }
    if name(machine)? == lost {
        return not_lost(format!("{lost} is this machine"));
    }
    let ready = r#"-o=jsonpath={.status.conditions[?(@.type=="Ready")].status}"#;
    if kubectl(machine, &["get", "node", lost, "--ignore-not-found", ready])? == "True" {
        return not_lost(format!("{lost} is Ready"));
    }
    let list = member_list(machine)?;
    let mut done = String::new();
    if let Some(member) = member(&list, lost) {
        stays(&health(machine)?, member.clients).map_err(|why| Failure::new(&codes::QUORUM, why))?;
        run(machine, &etcdctl(&["member", "remove", member.id]))?;
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

/// The name it joined with.
fn name(machine: &dyn Machine) -> Result<String> {
    let marker: Option<Value> = read_text(machine, MARKER)?.and_then(|text| serde_json::from_str(&text).ok());
    let name = marker.as_ref().and_then(|marker| marker.get("node")?.as_str()).map(str::to_owned);
    name.ok_or_else(|| Failure::new(&codes::OTHER_CLUSTER, format!("{MARKER} does not say which node this is")))
}

/// A question to the member of etcd on this machine.
fn etcdctl(arguments: &[&str]) -> Command {
    let folder = "/etc/kubernetes/pki/etcd";
    let [ca, certificate, key] = ["ca.crt", "server.crt", "server.key"].map(|file| format!("{folder}/{file}"));
    let access = ["--endpoints", "https://127.0.0.1:2379", "--cacert", &ca, "--cert", &certificate, "--key", &key];
    Command::new("/usr/bin/etcdctl", &[&access[..], arguments].concat()).within(Duration::from_secs(30))
}

/// Asks etcd who is well.
fn health(machine: &dyn Machine) -> Result<String> {
    let command = etcdctl(&["endpoint", "health", "--cluster", "--write-out", "json"]);
    // It ends with an error where one of them is not well, and says which.
    Ok(machine.run(&command).map_err(|e| Failure::io("running", &command.program, &e))?.out)
}

fn may_leave(machine: &dyn Machine, manifest: &str) -> Result<()> {
    let own = manifest.lines().find_map(|line| line.split_once("--advertise-client-urls=").map(|(_, url)| url.trim()));
    stays(&health(machine)?, own.unwrap_or_default()).map_err(|why| Failure::new(&codes::QUORUM, why))
}

fn member_list(machine: &dyn Machine) -> Result<String> {
    Ok(run(machine, &etcdctl(&["member", "list", "--write-out", "simple"]))?.out)
}

/// Takes the member of this name out of etcd.
fn remove_member(machine: &dyn Machine, name: &str) -> Result<()> {
    let list = member_list(machine)?;
    match member(&list, name) {
        Some(member) => run(machine, &etcdctl(&["member", "remove", member.id])).map(drop),
        None => Ok(()),
    }
}

/// A member of etcd.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Member<'a> {
    id: &'a str,
    /// Where clients reach it.
    clients: &'a str,
}

/// The member of this name: `ID, state, NAME, peers, clients, learner` a line.
fn member<'a>(list: &'a str, name: &str) -> Option<Member<'a>> {
    list.lines().find_map(|line| match line.split(", ").collect::<Vec<_>>()[..] {
        [id, _, named, _, clients, ..] if named == name => Some(Member { id, clients }),
        _ => None,
    })
}

/// Whether etcd can decide without this member.
fn stays(health: &str, own: &str) -> Result<(), String> {
    let members: Vec<Value> = serde_json::from_str(health).map_err(|_| "etcd does not say who is well".to_owned())?;
    let is = |member: &&Value, key: &str, value: &Value| member.get(key) == Some(value);
    let others = members.iter().filter(|member| !is(member, "endpoint", &Value::from(own)));
    let (count, well) = (others.clone().count(), others.filter(|member| is(member, "health", &Value::from(true))).count());
    match (count, well) {
        (0, _) => Err("it is the last member of etcd: the cluster would end with it".to_owned()),
        (count, well) if well <= count / 2 => Err(format!("of the {count} other members of etcd {well} are well")),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::{Member, member, stays};

    #[test]
    fn members() {
        let list = "19f9e2c3b6a7d1c2, started, cp-1, https://10.0.0.1:2380, https://10.0.0.1:2379, false\n\
            8e9e05c52164694d, unstarted, , https://10.0.0.2:2380, , false\n";
        let first = Member { id: "19f9e2c3b6a7d1c2", clients: "https://10.0.0.1:2379" };
        assert_eq!((member(list, "cp-1"), member(list, "cp-2")), (Some(first), None));
    }

    #[test]
    fn quorum() {
        let member = |name: &str, health: bool| format!(r#"{{"endpoint":"https://{name}:2379","health":{health}}}"#);
        let all = |members: &[(&str, bool)]| {
            format!("[{}]", members.iter().map(|(name, well)| member(name, *well)).collect::<Vec<_>>().join(","))
        };
        let own = "https://a:2379";
        assert!(stays(&all(&[("a", true)]), own).unwrap_err().contains("last member"));
        assert_eq!(stays(&all(&[("a", true), ("b", true)]), own), Ok(()));
        assert_eq!(stays(&all(&[("a", false), ("b", true), ("c", true)]), own), Ok(()));
        assert!(
            stays(&all(&[("a", true), ("b", true), ("c", false)]), own).unwrap_err().contains("of the 2 other members of etcd 1")
        );
        assert!(stays("", own).is_err());
    }
}
