//! `ingot-installer reset`: takes this node out of its cluster, so that it can join anew or be thrown away.
//!
//! On a control plane its member leaves etcd first, which is refused where those that stay would be too few to decide.
//! kubeadm would do that too, but says nothing where it does not, and the others then wait for a member that is gone.

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
        let kubeconfig = format!("--kubeconfig={ADMIN}");
        let arguments = [&kubeconfig, "delete", "node", &name, "--ignore-not-found", "--wait=false"];
        if let Err(failure) = run(machine, &Command::new("/usr/bin/kubectl", &arguments).within(Duration::from_secs(60))) {
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
fn may_leave(machine: &dyn Machine, manifest: &str) -> Result<()> {
    let command = etcdctl(&["endpoint", "health", "--cluster", "--write-out", "json"]);
    // It ends with an error where one of them is not well, and says which.
    let output = machine.run(&command).map_err(|e| Failure::io("running", &command.program, &e))?;
    let own = manifest.lines().find_map(|line| line.split_once("--advertise-client-urls=").map(|(_, url)| url.trim()));
    stays(&output.out, own.unwrap_or_default()).map_err(|why| Failure::new(&codes::QUORUM, why))
}

/// Takes the member of this name out of etcd.
fn remove_member(machine: &dyn Machine, name: &str) -> Result<()> {
    let list = run(machine, &etcdctl(&["member", "list", "--write-out", "simple"]))?.out;
    match member(&list, name) {
        Some(id) => run(machine, &etcdctl(&["member", "remove", id])).map(drop),
        None => Ok(()),
    }
}

/// The id of a member: `ID, state, NAME, peers, clients, learner` a line.
fn member<'a>(list: &'a str, name: &str) -> Option<&'a str> {
    list.lines().map(|line| line.split(", ").collect::<Vec<_>>()).find(|fields| fields.get(2) == Some(&name))?.first().copied()
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
    use super::{member, stays};

    #[test]
    fn members() {
        let list = "19f9e2c3b6a7d1c2, started, cp-1, https://10.0.0.1:2380, https://10.0.0.1:2379, false\n\
            8e9e05c52164694d, unstarted, , https://10.0.0.2:2380, , false\n";
        assert_eq!((member(list, "cp-1"), member(list, "cp-2")), (Some("19f9e2c3b6a7d1c2"), None));
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
