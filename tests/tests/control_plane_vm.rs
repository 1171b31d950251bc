//! The shipped control plane in a virtual machine under Secure Boot, from power on to a Ready node: real kernel, dm-verity,
//! control groups of version 2, kubeadm and etcd, all emulated. That takes some six minutes of two processors, and nothing
//! else runs meanwhile (.config/nextest.toml): on a host that others load, the API server does not come up within kubeadm's
//! patience, and the installer tries again.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    clippy::print_stderr,
    reason = "test code"
)]

use ingot_tests::fixture::scratch;
use ingot_tests::kubernetes::{Upstream, release};
use ingot_tests::machine::boot_until;
use ingot_tests::profiles::signed;

/// The first try of kubeadm init may fail; the installer tries again.
const PATIENCE: u64 = 1200;

/// The smallest control plane: one machine in QEMU's user network, with everything made by kubeadm.
const PROFILE: &str = r#"schema = 1
[node]
name = "cp-1"
role = "control-plane"
labels = { "example.org/pool" = "vm" }
[time]
wait_secs = 1
[[interface]]
name = "lan"
match = { name = "e*" }
addresses = ["10.0.2.15/24"]
gateways = ["10.0.2.2"]
[kubelet]
node_address = "10.0.2.15"
[cluster]
name = "vm"
kind = "workload"
endpoint = "10.0.2.15:6443"
[cluster.join]
first = true
"#;

#[test]
fn a_control_plane_boots_under_secure_boot_to_a_ready_node() {
    let upstream = Upstream::new();
    let release = release(&upstream, "control-plane-report");
    let folder = scratch();
    let profile = signed(folder.path(), PROFILE);
    let arguments =
        ["--profile", profile.to_str().unwrap(), "--via", "smbios", "--memory", "3072", "--cpus", "2", "--disk-size", "8"];
    let run = boot_until(&release, PATIENCE, &arguments, &["Kernel panic"]);
    eprintln!("power on to a Ready node and off again: {} s", run.took.as_secs());
    assert_eq!(run.fact("reported"), Some("yes"), "{}", run.console);
    assert_eq!(run.fact("status"), Some("ready"), "{}", run.console);
    assert_eq!(run.fact("nodes"), Some("cp-1 Ready;"), "{}", run.console);
    assert_eq!(run.fact("cgroups"), Some("cgroup2fs systemd"), "version 2, and systemd's driver");
    let pods = run.fact("pods").unwrap();
    for pod in [
        "etcd-cp-1=Running",
        "kube-apiserver-cp-1=Running",
        "kube-controller-manager-cp-1=Running",
        "kube-scheduler-cp-1=Running",
    ] {
        assert!(pods.contains(pod), "{pod} is not in {pods}");
    }
    assert_eq!(run.fact("running"), Some("running"), "failed: {:?}\n{}", run.fact("failed"), run.console);
    assert_eq!(run.fact("failed"), Some(""));
    assert_eq!(run.fact("boot_complete"), Some("active"));
    assert_eq!(run.fact("secure_boot"), Some("1"));
    assert!(run.fact("lockdown").unwrap().contains("[integrity]"));
    let root = run.fact("root").unwrap();
    assert!(root.starts_with("/dev/dm-") && root.contains("erofs ro"), "dm-verity, read-only: {root}");
    assert_eq!((run.fact("etc"), run.fact("usr_writable")), (Some("overlay"), Some("no")));
}
