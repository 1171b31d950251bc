//! `ingot-installer reset`: takes this node out of its cluster, so that it can join anew or be thrown away.
//!
//! Its pods go elsewhere first ([`drain`]). On a control plane its member leaves etcd then, which is refused where those
//! that stay would be too few to decide. kubeadm would do that too, but says nothing where it does not, and the others then wait for a member that is gone.

use std::time::Duration;

use serde_json::Value;

use super::api::ADMIN;
use super::drain::{self, Drain};
use super::member::MARKER;
use super::{addons, cni, etcd_member, kubeadm, member, plane};
use crate::failure::{Failure, Result};
use crate::machine::{Command, Machine, read_text, run};
use crate::report::codes;
use crate::steps::World;

pub(super) const ETCD: &str = "/etc/kubernetes/manifests/etcd.yaml";

/// How long pods may take to go elsewhere.
const EVICTION: Duration = Duration::from_secs(120);

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
    if !last {
        let how = Drain { within: EVICTION, force: true };
        // What cannot be moved ends with the node; whoever asks for `reset` wants it gone.
        if let Err(failure) = drain::drain(world, how) {
            world.report.warn(&failure);
        }
    }
    if manifest.is_some() && !last {
        let name = member::name(machine)?;
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
    plane::forget(machine)?;
    etcd_member::forget(machine)?;
    cni::forget(machine)
}

/// The member of etcd on this machine.
pub(super) const OWN: &str = "https://127.0.0.1:2379";

/// A question to members of etcd (URLs, separated by commas).
pub(super) fn etcdctl(members: &str, arguments: &[&str]) -> Command {
    let folder = "/etc/kubernetes/pki/etcd";
    let [ca, certificate, key] = ["ca.crt", "server.crt", "server.key"].map(|file| format!("{folder}/{file}"));
    let access = ["--endpoints", members, "--cacert", &ca, "--cert", &certificate, "--key", &key];
    Command::new("/usr/bin/etcdctl", &[&access[..], arguments].concat()).within(Duration::from_secs(30))
}

/// Asks etcd who is well: JSON, nothing where it does not answer.
pub(super) fn ask_health(machine: &dyn Machine) -> Result<String> {
    let command = etcdctl(OWN, &["endpoint", "health", "--cluster", "--write-out", "json"]);
    // It ends with an error where one of them is not well, and says which.
    Ok(machine.run(&command).map_err(|e| Failure::io("running", &command.program, &e))?.out)
}

/// The URL of the member on this machine.
fn own_url(manifest: &str) -> &str {
    manifest.lines().find_map(|line| line.split_once("--advertise-client-urls=").map(|(_, url)| url.trim())).unwrap_or_default()
}

fn may_leave(machine: &dyn Machine, manifest: &str) -> Result<()> {
    stays(&ask_health(machine)?, own_url(manifest)).map_err(|why| Failure::new(&codes::QUORUM, why))
}

/// Whether etcd can do without the member on this machine for a moment, as far as that is known: one that does not answer
/// itself has nothing to lose.
///
/// # Errors
/// [`codes::QUORUM`]: it is well, and another one is not.
pub(super) fn others_are_well(machine: &dyn Machine, manifest: &str) -> Result<()> {
    let Health { own, others, well } = Health::of(&ask_health(machine)?, own_url(manifest)).unwrap_or_default();
    if own && well < others {
        let message = format!("of the {others} other members of etcd {well} are well: its restart waits for them");
        return Err(Failure::new(&codes::QUORUM, message));
    }
    Ok(())
}

/// Takes the member of this name, which is this machine's, out of etcd. Others are asked to: it ends before it can answer.
fn remove_member(machine: &dyn Machine, name: &str) -> Result<()> {
    let list = run(machine, &etcdctl(OWN, &["member", "list", "--write-out", "simple"]))?.out;
    let Some((id, own)) = entry(&list, name) else { return Ok(()) };
    let others = clients(&list).filter(|url| *url != own && !url.is_empty()).collect::<Vec<_>>().join(",");
    let command = etcdctl(if others.is_empty() { OWN } else { &others }, &["member", "remove", id]);
    let end = machine.uptime().saturating_add(SETTLES);
    loop {
        match run(machine, &command).map(drop) {
            // etcd lets nobody go who has not been seen for five seconds.
            Err(failure) if failure.to_string().contains("unhealthy cluster") && machine.uptime() < end => {
                machine.sleep(Duration::from_secs(1));
            }
            ended => return ended,
        }
    }
}

/// How long etcd may take to see that its members are there.
const SETTLES: Duration = Duration::from_secs(30);

/// Client URLs of all members.
fn clients(list: &str) -> impl Iterator<Item = &str> {
    list.lines().filter_map(|line| line.split(", ").nth(4))
}

/// Number and client URL of the member of this name: `ID, state, NAME, peers, clients, learner` a line.
pub(super) fn entry<'a>(list: &'a str, name: &str) -> Option<(&'a str, &'a str)> {
    list.lines().find_map(|line| match line.split(", ").collect::<Vec<_>>()[..] {
        [id, _, named, _, clients, ..] if named == name => Some((id, clients)),
        _ => None,
    })
}

/// Who of etcd is well.
#[derive(Debug, Clone, Copy, Default)]
struct Health {
    /// The member on this machine is.
    own: bool,
    /// How many others there are.
    others: usize,
    /// And how many of them are well.
    well: usize,
}

impl Health {
    fn of(text: &str, own: &str) -> Option<Self> {
        let members: Vec<Value> = serde_json::from_str(text).ok()?;
        let is = |member: &&Value, key: &str, value: &Value| member.get(key) == Some(value);
        let well = |member: &&Value| is(member, "health", &Value::from(true));
        let (own, others): (Vec<_>, Vec<_>) = members.iter().partition(|member| is(member, "endpoint", &Value::from(own)));
        Some(Self { own: own.iter().any(well), others: others.len(), well: others.iter().filter(|one| well(one)).count() })
    }
}

/// Whether etcd can decide without this member.
pub(super) fn stays(health: &str, own: &str) -> Result<(), String> {
    match Health::of(health, own) {
        None => Err("etcd does not say who is well".to_owned()),
        Some(Health { others: 0, .. }) => Err("it is the last member of etcd: the cluster would end with it".to_owned()),
        Some(Health { others, well, .. }) if well <= others / 2 => {
            Err(format!("of the {others} other members of etcd {well} are well"))
        }
        Some(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::{entry, stays};

    #[test]
    fn members() {
        let list = "19f9e2c3b6a7d1c2, started, cp-1, https://10.0.0.1:2380, https://10.0.0.1:2379, false\n\
            8e9e05c52164694d, unstarted, , https://10.0.0.2:2380, , false\n";
        let first = ("19f9e2c3b6a7d1c2", "https://10.0.0.1:2379");
        assert_eq!((entry(list, "cp-1"), entry(list, "cp-2")), (Some(first), None));
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
