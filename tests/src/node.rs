//! A node: the root of a built image running in a container that is as near to a virtual machine as a container
//! gets, and starts in seconds. The root is the sealed one of the image, `/etc` forgets, `/state` is kept; systemd is
//! process 1, the network a bridge. The kernel, the initrd and the boot chain are the host's: `boot.rs` has those.
//!
//! | VM | node |
//! |---|---|
//! | dm-verity, erofs root | the erofs of the image, without dm-verity |
//! | state partition | a folder of the host at `/state`, kept by [`Node::kill`] and [`Node::start_again`] |
//! | profile as SMBIOS credential | as system credential |
//! | `eth0` of the hypervisor | a veth named `eth0`, on the bridge of a [`Network`] |

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::fixture::scratch;
use crate::network::{Network, cable, end_groups};
use crate::programs::{Said, must, said, tool, top};

/// Partition type of the root, x86-64 (Discoverable Partitions Specification).
const ROOT: &str = "4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709";

/// See the module. It ends, without grace, when it goes out of scope.
#[derive(Debug)]
pub struct Node {
    name: String,
    group: String,
    namespace: String,
    image: PathBuf,
    profile: Option<PathBuf>,
    folder: tempfile::TempDir,
    process: Option<Child>,
}

impl Node {
    /// Starts the image of a release folder (or an image file, raw) with a profile, and does not wait. A signature
    /// beside the profile, `PROFILE.sig`, is handed over with it ([`crate::profiles::signed`] writes both).
    ///
    /// The node ends with the thread that starts it.
    ///
    /// # Panics
    /// When there is no image, or nspawn does not start.
    #[must_use]
    pub fn start(network: &Network, name: &str, image: &Path, profile: Option<&Path>) -> Self {
        assert!(name.len() <= 12, "the name of a cable ends at 15 letters: {name}");
        let mut node = Self {
            name: name.to_owned(),
            group: format!("{}-{name}", network.namespace()),
            namespace: network.namespace().to_owned(),
            image: raw_of(image),
            profile: profile.map(Path::to_owned),
            folder: scratch(),
            process: None,
        };
        node.start_again();
        node
    }

    /// Starts it again, after [`Node::kill`] or its own end; `/state` is as it was left.
    ///
    /// # Panics
    /// When it still runs, or nspawn does not start.
    pub fn start_again(&mut self) {
        assert!(!self.running(), "{} still runs", self.name);
        let (offset, size) = partition(&self.image, ROOT);
        let harness = top().join("tests/src/node");
        let console = File::options().create(true).append(true).open(self.console_path()).unwrap();
        let mut command = tool("setpriv", ["--pdeathsig", "TERM", "unshare", "--mount", "--propagation", "private", "bash"]);
        command.arg(harness.join("start.sh")).arg(&self.name).arg(self.folder.path()).arg(&self.image);
        command.args([offset.to_string(), size.to_string(), self.namespace.clone(), self.group.clone()]);
        command.arg(format!("--load-credential=systemd.extra-unit.harness.service:{}/harness.service", harness.display()));
        if let Some(profile) = &self.profile {
            command.arg(format!("--load-credential=ingot.profile:{}", profile.display()));
            let signature = profile.with_added_extension("sig");
            if signature.exists() {
                command.arg(format!("--load-credential=ingot.profile.sig:{}", signature.display()));
            }
        }
        command.stdout(console.try_clone().unwrap()).stderr(console);
        self.process = Some(command.spawn().expect("setpriv starts"));
    }

    /// The profile it gets at its next start.
    pub fn give(&mut self, profile: Option<&Path>) {
        self.profile = profile.map(Path::to_owned);
    }

    /// Cuts the power: everything in it ends at once. Nothing happens where it does not run.
    ///
    /// # Panics
    /// When the tools of this machine do not start.
    pub fn kill(&mut self) {
        end_groups(&self.group);
        if let Some(mut process) = self.process.take() {
            // Before it has joined its group.
            process.kill().unwrap();
            process.wait().unwrap();
        }
        end_groups(&self.group);
        // The kernel takes its namespace away, and the cable with it, when it has time.
        said(&mut tool("ip", ["-n", &self.namespace, "link", "delete", &cable(&self.name)]));
    }

    /// Lets it power off by itself, as an operator's shutdown would.
    ///
    /// # Panics
    /// When it has not within `seconds`.
    pub fn power_off(&mut self, seconds: u64) {
        self.must("systemctl poweroff --no-block");
        let mut process = self.process.take().expect("it runs");
        let ended = ends(&mut process, Duration::from_secs(seconds));
        self.process = Some(process);
        assert!(ended, "{} did not power off; its console:\n{}", self.name, self.console());
        self.kill();
    }

    /// Whether its nspawn runs.
    pub fn running(&mut self) -> bool {
        self.process.as_mut().is_some_and(|process| process.try_wait().unwrap().is_none())
    }

    /// A shell command in the node, as root. Fails where the node has not started yet.
    ///
    /// # Panics
    /// When the tools of this machine do not start.
    #[must_use]
    pub fn run(&self, script: &str) -> Said {
        match self.command(script) {
            Some(mut command) => said(&mut command),
            None => Said { code: -1, out: String::new(), err: format!("{} does not run", self.name) },
        }
    }

    /// The same as a command that can be spawned; `None` where the node does not run.
    #[must_use]
    pub fn command(&self, script: &str) -> Option<Command> {
        let leader = self.leader()?;
        let inside = format!("cd / && {script}");
        let clean = ["env", "-i", "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root"];
        Some(tool("nsenter", ["--target", &leader, "--all", "--"].iter().chain(&clean).chain(&["/bin/sh", "-c", &inside])))
    }

    /// Runs it and wants success; gives its output.
    ///
    /// # Panics
    /// With what it said, when it fails.
    pub fn must(&self, script: &str) -> String {
        let said = self.run(script);
        assert!(said.code == 0, "{}: `{script}` ended with {}:\n{}{}", self.name, said.code, said.out, said.err);
        said.out
    }

    /// Runs it every half second until it succeeds; gives how long that took.
    ///
    /// # Panics
    /// With its last words, its failed units and the console, when it has not within `seconds`.
    pub fn wait_for(&mut self, script: &str, seconds: u64) -> Duration {
        let started = Instant::now();
        loop {
            let last = self.run(script);
            if last.code == 0 {
                return started.elapsed();
            }
            assert!(
                self.running() && started.elapsed() < Duration::from_secs(seconds),
                "{}: `{script}` did not come true in {} s; the last time it ended with {}:\n{}{}\n{}",
                self.name,
                started.elapsed().as_secs(),
                last.code,
                last.out,
                last.err,
                self.tell(),
            );
            sleep(Duration::from_millis(500));
        }
    }

    /// Waits until all units have started, and wants none failed.
    ///
    /// # Panics
    /// With the failed ones, or when it has not within `seconds`.
    pub fn wait_until_up(&mut self, seconds: u64) -> Duration {
        let up = self.wait_for("systemctl is-system-running | grep -qE '^(running|degraded)$'", seconds);
        assert_eq!(self.run("systemctl is-system-running").out.trim(), "running", "{}", self.tell());
        up
    }

    /// What helps to understand a failure.
    #[must_use]
    pub fn tell(&self) -> String {
        let failed = self.run("systemctl list-units --failed --plain --no-legend; systemctl list-jobs --no-legend").out;
        let journal = self.run("journalctl --no-pager --priority=warning --lines=60").out;
        format!("failed units and jobs:\n{failed}\njournal:\n{journal}\nconsole:\n{}", self.console())
    }

    /// Everything on its console, of all its starts.
    #[must_use]
    pub fn console(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.console_path()).unwrap_or_default()).into_owned()
    }

    /// Its `/state`, on the host.
    #[must_use]
    pub fn state(&self) -> PathBuf {
        self.folder.path().join("state")
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    fn console_path(&self) -> PathBuf {
        self.folder.path().join("console.log")
    }

    /// Process 1 of the node, by its number here: the child of nspawn that is 1 in its own namespace.
    fn leader(&self) -> Option<String> {
        let nspawn = self.process.as_ref()?.id();
        let children = fs::read_to_string(format!("/proc/{nspawn}/task/{nspawn}/children")).ok()?;
        children.split_whitespace().map(str::to_owned).find(|pid| {
            let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
            status.lines().any(|line| line.starts_with("NSpid:") && line.split_whitespace().count() == 3 && line.ends_with("\t1"))
        })
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the console of {}:\n{}", self.name, self.console());
        }
        self.kill();
    }
}

fn ends(process: &mut Child, limit: Duration) -> bool {
    let started = Instant::now();
    while started.elapsed() < limit {
        if process.try_wait().unwrap().is_some() {
            return true;
        }
        sleep(Duration::from_millis(50));
    }
    false
}

/// The one raw image of a release folder; a file is one itself.
fn raw_of(image: &Path) -> PathBuf {
    if image.is_file() {
        return image.to_owned();
    }
    let entries = fs::read_dir(image).unwrap_or_else(|e| panic!("{}: {e}", image.display()));
    let mut raws = entries.map(|entry| entry.unwrap().path()).filter(|path| path.extension().is_some_and(|e| e == "raw"));
    raws.next().unwrap_or_else(|| panic!("{} holds no .raw", image.display()))
}

/// First byte and size of the partition of this type.
#[must_use]
pub fn partition(raw: &Path, kind: &str) -> (u64, u64) {
    let table: serde_json::Value = serde_json::from_str(&must(tool("sfdisk", ["--json"]).arg(raw))).unwrap();
    let all = table["partitiontable"]["partitions"].as_array().unwrap();
    let found = all.iter().find(|p| p["type"] == kind).unwrap_or_else(|| panic!("{} has no {kind}", raw.display()));
    let bytes = |key: &str| found[key].as_u64().unwrap() * 512;
    (bytes("start"), bytes("size"))
}
