//! A network of its own for the nodes of one test: a namespace with a bridge, in which the test itself is
//! 10.77.0.1. Nothing of it is seen from outside, and several may be there at once.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::sleep;
use std::time::Duration;

use crate::programs::{must, said, tool};

/// Begins the names of all namespaces and control groups of tests.
const PREFIX: &str = "ingot-test-";

/// See the module.
#[derive(Debug)]
pub struct Network {
    /// Name of the network namespace; the control groups of nodes begin with it.
    namespace: String,
}

impl Network {
    /// Makes it; takes away what tests that were killed have left.
    ///
    /// # Panics
    /// Where the machine lets us make no namespace.
    #[must_use]
    #[allow(clippy::new_without_default, reason = "it makes something outside of the process")]
    pub fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        sweep();
        let namespace = format!("{PREFIX}{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        must(&mut tool("ip", ["netns", "add", &namespace]));
        let network = Self { namespace };
        must(network.command("ip").args(["link", "set", "lo", "up"]));
        must(network.command("ip").args(["link", "add", "ingot0", "type", "bridge", "forward_delay", "0"]));
        must(network.command("ip").args(["address", "add", "10.77.0.1/24", "dev", "ingot0"]));
        must(network.command("ip").args(["link", "set", "ingot0", "up"]));
        network
    }

    /// Name of the network namespace.
    #[must_use]
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// A program of this machine that is in the network, as 10.77.0.1: the world outside of the cluster.
    #[must_use]
    pub fn command(&self, program: &str) -> Command {
        tool("nsenter", [&format!("--net=/run/netns/{}", self.namespace), "--", program])
    }

    /// The same command, in the network.
    #[must_use]
    pub fn enter(&self, command: &Command) -> Command {
        let mut inside = self.command(&command.get_program().to_string_lossy());
        inside.args(command.get_args());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => inside.env(name, value),
                None => inside.env_remove(name),
            };
        }
        inside.current_dir(command.get_current_dir().unwrap_or(Path::new("/")));
        inside
    }

    /// Takes the cable of a node out (`false`), or puts it in again.
    ///
    /// # Panics
    /// When there is no such node.
    pub fn connect(&self, node: &str, connected: bool) {
        let state = if connected { "up" } else { "down" };
        must(self.command("ip").args(["link", "set", "dev", &cable(node), state]));
    }
}

/// What nspawn names the host's end of a node's cable.
pub(crate) fn cable(node: &str) -> String {
    format!("vb-{node}").chars().take(15).collect()
}

impl Drop for Network {
    fn drop(&mut self) {
        remove(&self.namespace);
    }
}

/// Removes the namespaces and control groups of test processes that are no more.
fn sweep() {
    for name in names(Path::new("/run/netns")) {
        let owner = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next());
        if owner.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
            remove(&name);
        }
    }
}

/// Ends what runs in it, then removes it.
fn remove(namespace: &str) {
    for pid in said(&mut tool("ip", ["netns", "pids", namespace])).out.lines() {
        said(&mut tool("kill", ["-KILL", pid]));
    }
    end_groups(&format!("{namespace}-*"));
    said(&mut tool("ip", ["netns", "delete", namespace]));
}

/// Ends all that runs in the control groups of this name (a pattern of the shell) and below, and removes them: the end of
/// nspawn would not end what runs in its container.
pub(crate) fn end_groups(name: &str) {
    let (group, below) = (format!("*/{name}"), format!("*/{name}/*"));
    let groups = ["/sys/fs/cgroup", "-depth", "-type", "d", "(", "-path", &group, "-o", "-path", &below, ")"];
    for _ in 0..100 {
        let processes = said(tool("find", groups).args(["-exec", "cat", "{}/cgroup.procs", ";"])).out;
        for pid in processes.lines() {
            said(&mut tool("kill", ["-KILL", pid]));
        }
        said(tool("find", groups).args(["-exec", "rmdir", "{}", "+"]));
        if said(&mut tool("find", groups)).out.is_empty() {
            return;
        }
        sleep(Duration::from_millis(100));
    }
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
}
