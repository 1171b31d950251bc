//! What of `/etc` a node keeps: `/etc` itself forgets, so these folders are those of the state partition.

use super::kubeadm;
use crate::failure::{Failure, Result};
use crate::machine::{Attributes, Command, Machine, read_text, run};
use crate::steps::{Verdict, Work, World};

/// Folders and where they are kept.
const FOLDERS: [(&str, &str, u32); 2] =
    [("/etc/kubernetes", "/state/kubernetes", 0o755), (super::containerd::NETWORKS, "/state/cni", 0o755)];

/// The step `kubernetes-state`.
#[derive(Debug)]
pub struct Persist;

fn mounted(machine: &dyn Machine, folder: &str) -> Result<bool> {
    let table = read_text(machine, "/proc/self/mountinfo")?.unwrap_or_default();
    Ok(table.lines().any(|line| line.split(' ').nth(4) == Some(folder)))
}

impl Work for Persist {
    fn lines(&self) -> Vec<String> {
        FOLDERS.iter().map(|(folder, kept, _)| format!("{folder} is {kept}")).collect()
    }

    fn input(&self) -> Vec<u8> {
        self.lines().concat().into_bytes()
    }

    fn check(&self, machine: &dyn Machine) -> Result<Verdict> {
        if machine.attributes(kubeadm::CONFIG).map_err(|e| Failure::io("reading", kubeadm::CONFIG, &e))?.is_some() {
            return Ok(Verdict::Differs(format!("a run that was cut off has left {}", kubeadm::CONFIG)));
        }
        for (folder, _, _) in FOLDERS {
            if !mounted(machine, folder)? {
                return Ok(Verdict::Differs(format!("{folder} is not kept yet")));
            }
        }
        Ok(Verdict::Holds)
    }

    fn apply(&self, world: World<'_>) -> Result<()> {
        let machine = world.machine;
        kubeadm::forget(machine)?;
        for (folder, kept, mode) in FOLDERS {
            if !machine.live() || mounted(machine, folder)? {
                continue;
            }
            for path in [kept, folder] {
                machine.make_folder(path, Attributes::root(mode)).map_err(|e| Failure::io("making", path, &e))?;
            }
            run(machine, &Command::new("/usr/bin/mount", &["--bind", kept, folder]))?;
        }
        Ok(())
    }

    /// Without it the machine cannot join; it can still be reached, and tell why.
    fn keeps_only(&self) -> bool {
        true
    }
}
