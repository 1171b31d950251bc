//! The support bundle: what those who help need to see, as one tar.gz, without secrets.
//!
//! Every byte goes through [`crate::blot::Blot`]. Files that are nothing but secrets (keys, kubeconfigs, credentials, the
//! pki folder) are not looked at at all.

use std::io::{self, Write};
use std::sync::Arc;
use std::time::Duration;

use flate2::Compression;
use flate2::write::GzEncoder;

use super::{Finding, Subject, json, words};
use crate::failure::{Failure, Result};
use crate::machine::{Attributes, Command, Machine, read_text, replace};

/// Bytes of one entry at most: its end is what is kept.
const LONGEST: usize = 512 << 10;

/// Files, as they are.
const FILES: [&str; 15] = [
    "/run/ingot/status.json",
    "/run/ingot/pending",
    "/run/ingot/events.json",
    "/run/ingot/state-request.conf",
    "/state/ingot/journal",
    "/etc/hostname",
    "/etc/hosts",
    "/etc/os-release",
    "/usr/share/ingot/kubernetes.json",
    "/usr/share/ingot/container-images/images.json",
    "/run/systemd/resolve/resolv.conf",
    "/proc/mounts",
    "/proc/cmdline",
    "/proc/meminfo",
    "/proc/partitions",
];

/// Folders, with all below them.
const FOLDERS: [&str; 11] = [
    "/etc/systemd/network",
    "/etc/systemd/resolved.conf.d",
    "/etc/systemd/timesyncd.conf.d",
    "/etc/systemd/system",
    "/etc/haproxy",
    "/etc/keepalived",
    "/etc/containerd",
    "/etc/cni",
    "/etc/kubernetes",
    "/etc/modules-load.d",
    "/run/ingot/services",
];

/// Names of files and folders that hold nothing but secrets.
fn private(name: &str) -> bool {
    let kubeconfig = name.ends_with(".conf")
        && ["admin", "super-admin", "kubelet", "bootstrap", "controller", "scheduler"].iter().any(|of| name.starts_with(of));
    kubeconfig || name == "pki" || [".key", ".pem", ".kubeconfig", ".p12"].iter().any(|end| name.ends_with(end))
}

/// Programs and what their output is called.
const PROGRAMS: [(&str, &[&str]); 15] = [
    ("ip-address.txt", &["/usr/bin/ip", "-d", "address", "show"]),
    ("ip-route.txt", &["/usr/bin/ip", "route", "show", "table", "all"]),
    ("ip6-route.txt", &["/usr/bin/ip", "-6", "route", "show", "table", "all"]),
    ("ip-neighbour.txt", &["/usr/bin/ip", "neighbour", "show"]),
    ("sockets.txt", &["/usr/bin/ss", "-tulnp"]),
    ("resolvectl.txt", &["/usr/bin/resolvectl", "--no-pager", "status"]),
    ("networkctl.txt", &["/usr/bin/networkctl", "--no-pager", "status", "--all"]),
    ("timedatectl.txt", &["/usr/bin/timedatectl", "--no-pager", "timesync-status"]),
    ("lsblk.txt", &["/usr/bin/lsblk", "-o", "NAME,SIZE,TYPE,FSTYPE,LABEL,PARTLABEL,MOUNTPOINTS,RO"]),
    ("df.txt", &["/usr/bin/df", "-h"]),
    ("units.txt", &["/usr/bin/systemctl", "list-units", "--all", "--no-pager", "--plain"]),
    ("units-failed.txt", &["/usr/bin/systemctl", "status", "--state=failed", "--no-pager", "--lines=20"]),
    ("images.txt", &["/usr/bin/ctr", "-n", "k8s.io", "images", "ls"]),
    ("journal-kernel.txt", &["/usr/bin/journalctl", "-b", "-k", "--no-pager", "-n", "1000"]),
    (
        "journal.txt",
        &[
            "/usr/bin/journalctl",
            "-b",
            "--no-pager",
            "-o",
            "short-iso-precise",
            "-n",
            "4000",
            "-t",
            "ingot-installer",
            "-t",
            "haproxy",
            "-t",
            "Keepalived",
            "-t",
            "Keepalived_vrrp",
            "-t",
            "containerd",
            "-t",
            "kubelet",
            "-t",
            "systemd",
            "-t",
            "systemd-networkd",
            "-t",
            "systemd-resolved",
            "-t",
            "systemd-timesyncd",
        ],
    ),
];

/// Writes the bundle to a file (root's, 0600).
///
/// # Errors
/// It cannot be written.
pub fn write(machine: &dyn Machine, subject: &Arc<Subject>, findings: &[Finding], path: &str) -> Result<()> {
    let bytes = pack(machine, entries(machine, subject, findings)).map_err(|e| Failure::io("packing", path, &e))?;
    replace(machine, path, &bytes, Attributes::root(0o600))
}

/// Names and texts, by now without secrets.
fn entries(machine: &dyn Machine, subject: &Arc<Subject>, findings: &[Finding]) -> Vec<(String, String)> {
    let mut all = vec![
        ("diagnose.json".to_owned(), json(findings)),
        ("diagnose.txt".to_owned(), words(findings)),
        ("profile.toml".to_owned(), subject.shown.clone()),
        ("facts.json".to_owned(), serde_json::to_string_pretty(&subject.facts).unwrap_or_default()),
        ("version.txt".to_owned(), format!("ingot-installer {}\n", env!("CARGO_PKG_VERSION"))),
    ];
    for path in FILES {
        all.extend(file(machine, path));
    }
    for folder in FOLDERS {
        below(machine, folder, 0, &mut all);
    }
    all.extend(programs(subject));
    // The last line of defence, over everything.
    all.into_iter().map(|(name, text)| (name, subject.blot.text(end(&text)))).collect()
}

fn file(machine: &dyn Machine, path: &str) -> Option<(String, String)> {
    // What cannot be read is told as such: that is a finding too.
    let text = read_text(machine, path).unwrap_or_else(|failure| Some(format!("{failure}\n")))?;
    Some((format!("files{path}"), text))
}

fn below(machine: &dyn Machine, folder: &str, depth: usize, all: &mut Vec<(String, String)>) {
    for name in machine.list(folder).unwrap_or_default() {
        let path = format!("{folder}/{name}");
        if private(&name) || all.len() >= 1000 {
            continue;
        }
        match machine.list(&path) {
            Ok(names) if !names.is_empty() && depth < 6 => below(machine, &path, depth + 1, all),
            _ => all.extend(file(machine, &path)),
        }
    }
}

/// All at once: each waits for somebody.
fn programs(subject: &Arc<Subject>) -> Vec<(String, String)> {
    std::thread::scope(|scope| {
        let runs: Vec<_> = PROGRAMS.iter().map(|(name, line)| (name, scope.spawn(move || output(subject, line)))).collect();
        let text = |run: std::thread::ScopedJoinHandle<'_, String>| run.join().unwrap_or_default();
        runs.into_iter().map(|(name, run)| (format!("programs/{name}"), text(run))).collect()
    })
}

fn output(subject: &Subject, line: &[&str]) -> String {
    let Some((program, arguments)) = line.split_first() else { return String::new() };
    match subject.net.run(&Command::new(program, arguments).within(Duration::from_secs(10))) {
        Ok(output) if output.ok() => output.out,
        Ok(output) => format!("{}{}\nended with {:?}\n", output.out, output.tail, output.code),
        Err(error) => format!("{program}: {error}\n"),
    }
}

/// The last lines.
fn end(text: &str) -> &str {
    let from = text.len().saturating_sub(LONGEST);
    let at = text.char_indices().map(|(at, _)| at).find(|at| *at >= from).unwrap_or_default();
    text.get(at..).unwrap_or_default()
}

fn pack(machine: &dyn Machine, entries: Vec<(String, String)>) -> io::Result<Vec<u8>> {
    let mut tar = tar::Builder::new(GzEncoder::new(Vec::new(), Compression::default()));
    for (name, text) in entries {
        let mut header = tar::Header::new_gnu();
        header.set_size(text.len() as u64);
        header.set_mode(0o600);
        header.set_mtime(machine.now());
        tar.append_data(&mut header, format!("ingot-support/{name}"), text.as_bytes())?;
    }
    let mut gz = tar.into_inner()?;
    gz.flush()?;
    gz.finish()
}
