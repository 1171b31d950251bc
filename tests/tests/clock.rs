//! A machine whose clock is a day behind: the shipped worker in a virtual machine under Secure Boot, and a control plane
//! beside it. The worker names what is wrong; once a time server answers it goes on by itself, and joins.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr, reason = "test code")]

use std::fs;
use std::process::Child;

use ingot_tests::cluster::{KUBECTL, Plan};
use ingot_tests::fixture::scratch;
use ingot_tests::kubernetes::{Upstream, release, releases};
use ingot_tests::machine::boot_watched;
use ingot_tests::programs::{ingot, must, oracle, tool};

/// A node takes a minute and a half on a quiet machine; a loaded one may take many times that.
const PATIENCE: u64 = 420;

#[test]
fn a_clock_a_day_behind_is_named_and_a_time_server_heals_it() {
    let upstream = Upstream::new();
    let [plane, _] = releases(&upstream);
    let release = release(&upstream, "linux-worker-report");
    let plan = Plan::new("10.77.0.11:6443");
    let mut cp1 = plan.start("cp-11", &plane, &plan.plane(11, true, ""));
    cp1.wait_for("ingot-installer status", PATIENCE);
    // The machine is in QEMU's own network, which leads into that of the cluster.
    let profile = plan
        .worker(15)
        .replace("10.77.0.15", "10.0.2.15")
        .replace("gateways = [\"10.77.0.1\"]", "gateways = [\"10.0.2.2\"]")
        .replace("[time]", "[time]\nservers = [\"10.77.0.1\"]")
        .replace("[cluster.join]", "[cluster.join]\nwait_secs = 10");
    let profile = plan.signed(&profile);
    let yesterday = must(&mut tool("date", ["-u", "-d", "yesterday", "+%Y-%m-%dT%H:%M:%S"]));
    let arguments = ["--profile", profile.to_str().unwrap(), "--via", "smbios", "--memory", "2048", "--clock", yesterday.trim()];

    let folder = scratch();
    fs::write(folder.path().join("chrony.conf"), "local stratum 1\nallow all\ncmdport 0\n").unwrap();
    let mut server: Option<Child> = None;
    let watch = |console: &str| {
        if server.is_none() && console.contains("INGOT-N1109") {
            let chrony = oracle(folder.path(), "exec chronyd -x -d -f /mnt/chrony.conf");
            server = Some(plan.network.enter(&chrony).spawn().unwrap());
        }
    };
    let boot = plan.network.enter(&ingot(["boot"]));
    let run = boot_watched(boot, &release, 900, &arguments, &["Kernel panic"], watch);
    if let Some(mut server) = server {
        server.kill().unwrap();
        server.wait().unwrap();
    }
    eprintln!("power on to a Ready worker and off again, its clock wrong at first: {} s", run.took.as_secs());
    run.assert_says("INGOT-N1109");
    run.assert_says("clock");
    assert_eq!((run.fact("reported"), run.fact("status")), (Some("yes"), Some("ready")), "{}", run.console);
    assert_eq!(run.fact("running"), Some("running"), "failed: {:?}\n{}", run.fact("failed"), run.console);
    assert!(cp1.must(&format!("{KUBECTL} get nodes")).contains("w-15"));
}
