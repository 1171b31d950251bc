//! Running kubeadm: its configuration holds secrets, so it is a file of root's in memory for as long as it runs.

use std::time::Duration;

use profile::secret::Secret;

use super::containerd::SOCKET;
use crate::failure::{Failure, Result};
use crate::machine::{Attributes, Command, Machine, run};
use crate::report::codes::{self, Code};
use crate::steps::World;

const KUBEADM: &str = "/usr/bin/kubeadm";
/// Its configuration, while it runs.
pub const CONFIG: &str = "/run/ingot/kubeadm.yaml";

/// How long it may take; its own bounds are shorter.
const WHOLE: Duration = Duration::from_secs(900);

/// What an init that was cut off has left, and goes on with.
const LEFT: &str = "DirAvailable--var-lib-etcd,FileAvailable--etc-kubernetes-manifests-kube-apiserver.yaml,\
    FileAvailable--etc-kubernetes-manifests-kube-controller-manager.yaml,FileAvailable--etc-kubernetes-manifests-kube-scheduler.yaml,\
    FileAvailable--etc-kubernetes-manifests-etcd.yaml,Port-6443,Port-10250,Port-10257,Port-10259,Port-2379,Port-2380";

/// Makes the cluster; with `again` over what a former run has left.
pub fn init(world: World<'_>, config: &Secret, again: bool) -> Result<()> {
    let mut arguments = vec!["init", "--skip-token-print"];
    if config.expose().contains("\"certificateKey\"") {
        arguments.extend(["--upload-certs", "--skip-certificate-key-print"]);
    }
    let left = format!("--ignore-preflight-errors={LEFT}");
    if again {
        arguments.push(&left);
    }
    world.report.waiting("cluster", "kubeadm init", WHOLE);
    with(world.machine, config, &arguments).map_err(|failure| told(&failure, &codes::INIT_FAILED))
}

/// Joins the cluster, or carries out a part of that.
pub fn join(world: World<'_>, config: &Secret, arguments: &[&str]) -> Result<()> {
    world.report.waiting("cluster", "kubeadm join", WHOLE);
    with(world.machine, config, &[&["join"], arguments].concat()).map_err(|failure| {
        let words = failure.to_string();
        let code = if words.contains("kubeadm-certs") {
            &codes::CERTIFICATES_GONE
        } else if words.contains("already exists in the cluster") {
            &codes::NODE_NAME_TAKEN
        } else {
            &codes::JOIN_FAILED
        };
        told(&failure, code)
    })
}

/// A phase of init, of which each can be run again.
pub fn phase(machine: &dyn Machine, config: &Secret, arguments: &[&str]) -> Result<()> {
    with(machine, config, &[&["init", "phase"], arguments].concat())
}

/// A command of kubeadm that reads the configuration.
pub fn with(machine: &dyn Machine, config: &Secret, arguments: &[&str]) -> Result<()> {
    machine.make_folder("/run/ingot", Attributes::root(0o755)).map_err(|e| Failure::io("making", "/run/ingot", &e))?;
    machine.write(CONFIG, config.expose().as_bytes(), Attributes::root(0o600)).map_err(|e| Failure::io("writing", CONFIG, &e))?;
    let command = Command::new(KUBEADM, &[arguments, &["--config", CONFIG]].concat()).within(WHOLE);
    let ran = run(machine, &command).map(drop);
    forget(machine)?;
    ran
}

/// Removes the configuration of a run that was cut off.
pub fn forget(machine: &dyn Machine) -> Result<()> {
    machine.remove(CONFIG).map_err(|e| Failure::io("removing", CONFIG, &e))
}

/// The failure of a program under the code of what it was for.
fn told(failure: &Failure, code: &'static Code) -> Failure {
    if failure.code() == &codes::PROGRAM_FAILED {
        Failure::new(code, failure.to_string())
    } else {
        Failure::new(failure.code(), failure.to_string())
    }
}

/// Removes what kubeadm made on this machine. Its member of etcd, where it had one, has been taken out before: kubeadm asks
/// for minutes for a member that is no more, and leaves the data when it is not to ask.
pub fn reset(world: World<'_>) -> Result<()> {
    let machine = world.machine;
    world.report.waiting("cluster", "kubeadm reset of what was begun", Duration::from_secs(180));
    let arguments = ["reset", "--force", "--cri-socket", SOCKET, "--skip-phases=remove-etcd-member"];
    run(machine, &Command::new(KUBEADM, &arguments).within(Duration::from_secs(180)))?;
    run(machine, &Command::new("/usr/bin/rm", &["-rf", "--one-file-system", "/var/lib/etcd/member"])).map(drop)
}

/// Removes files that a power cut left empty: kubeadm makes those anew that are not there, and stops at those that it
/// cannot read.
pub fn clean(machine: &dyn Machine) -> Result<()> {
    for folder in ["/etc/kubernetes", "/etc/kubernetes/pki", "/etc/kubernetes/pki/etcd", "/etc/kubernetes/manifests"] {
        let reading = |e| Failure::io("reading", folder, &e);
        for name in machine.list(folder).map_err(reading)? {
            let path = format!("{folder}/{name}");
            let file = [".conf", ".crt", ".key", ".pub", ".yaml"].iter().any(|end| name.ends_with(end));
            if file && machine.read(&path).map_err(reading)?.is_some_and(|bytes| bytes.is_empty()) {
                machine.remove(&path).map_err(|e| Failure::io("removing", &path, &e))?;
            }
        }
    }
    Ok(())
}
