//! What must survive: kills, damaged downloads, full disks, a missing network.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::disallowed_methods, reason = "test code")]

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use ingot_tests::fixture::{load_balancer, scratch};
use ingot_tests::programs::{cache, ingot, must, said, tool};

/// A cache folder that shares only the package store with the other tests.
fn own_cache(folder: &Path) -> PathBuf {
    let own = folder.join("cache");
    fs::create_dir_all(&own).unwrap();
    std::os::unix::fs::symlink(cache().join("ingot/store"), own.join("store")).unwrap();
    own
}

fn sums(release: &Path) -> String {
    fs::read_to_string(release.join("SHA256SUMS")).unwrap()
}

/// What a release folder's parent holds, hidden names included.
fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn definition() -> std::path::PathBuf {
    ingot_tests::fixture::definitions().join("load-balancer.toml")
}

#[test]
fn killed_in_every_stage_the_next_build_gives_the_same_bytes() {
    let wanted = sums(&load_balancer());
    let folder = scratch();
    let own = own_cache(folder.path());
    let out = folder.path().join("out");
    let build = || {
        let mut command = ingot(["build", "--locked", "--offline", "--force", "--verbose"]);
        command.arg(definition()).arg("--output").arg(out.join("load-balancer")).env("INGOT_CACHE", &own);
        command
    };
    let mut killed = Vec::new();
    // Each round kills at the first stage line that no round before was killed at.
    loop {
        let mut child = build().stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let mut met = None;
        for line in lines.map_while(Result::ok) {
            let stage = line.strip_prefix("stage: ").map(str::to_owned);
            if let Some(stage) = stage.filter(|stage| !killed.contains(stage)) {
                // Not at its first instruction but somewhere in it.
                std::thread::sleep(std::time::Duration::from_millis(37 * (killed.len() as u64 + 1)));
                child.kill().unwrap();
                met = Some(stage);
                break;
            }
        }
        child.wait().unwrap();
        match met {
            Some(stage) => killed.push(stage),
            None => break,
        }
        assert!(
            !out.join("load-balancer/SHA256SUMS").exists() || sums(&out.join("load-balancer")) == wanted,
            "a half-written release after {killed:?}"
        );
    }
    assert!(killed.len() >= 6, "{killed:?}");
    must(&mut build());
    assert_eq!(sums(&out.join("load-balancer")), wanted, "after kills in {killed:?}");
    assert_eq!(names(&out), ["load-balancer"], "leftovers of killed builds are gone");
    let mounts = fs::read_to_string("/proc/mounts").unwrap();
    assert!(!mounts.contains(own.to_str().unwrap()), "a mount is left");
}

#[test]
fn ctrl_c_leaves_nothing_behind() {
    load_balancer();
    for stage in ["tree", "export"] {
        let folder = scratch();
        let own = own_cache(folder.path());
        let out = folder.path().join("out");
        let mut command = ingot(["build", "--locked", "--offline", "--verbose"]);
        command.arg(definition()).arg("--output").arg(out.join("load-balancer")).env("INGOT_CACHE", &own);
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok);
        let wanted = format!("stage: {stage}");
        assert!(lines.any(|line| line == wanted), "no {wanted}");
        std::thread::sleep(std::time::Duration::from_millis(if stage == "tree" { 1500 } else { 60 }));
        rustix::process::kill_process(rustix::process::Pid::from_child(&child), rustix::process::Signal::INT).unwrap();
        lines.for_each(drop);
        assert_eq!(child.wait().unwrap().code(), Some(130), "{stage}");
        assert!(!out.exists() || names(&out).is_empty(), "{stage}: {:?}", names(&out));
        let work = own.join("work");
        let left: Vec<String> = if work.exists() { names(&work) } else { Vec::new() };
        assert!(left.iter().all(|name| name.ends_with(".lock")), "{stage}: {left:?}");
    }
}

#[test]
fn a_full_disk_is_an_error_and_leaves_nothing_half_written() {
    load_balancer();
    let folder = scratch();
    let small = r#"mount -t tmpfs -o size=60m tmpfs "$1" && shift && "$@"; code=$?; ls -A "$0"; exit $code"#;
    let out = folder.path().join("small");
    fs::create_dir_all(&out).unwrap();
    let mut command = tool("unshare", ["--mount", "--propagation", "private", "bash", "-uc", small]);
    command.arg(&out).arg(&out).arg(ingot_tests::programs::ingot_path());
    command.args(["build", "--locked", "--offline"]).arg(definition()).arg("--output").arg(out.join("load-balancer"));
    command
        .env("INGOT_CACHE", cache().join("ingot"))
        .env("INGOT_KEYS", cache().join("keys"))
        .current_dir(ingot_tests::programs::top());
    let said = said(&mut command);
    assert_eq!(said.code, 1, "{}{}", said.out, said.err);
    assert!(said.err.contains("No space left") || said.err.contains("no space left"), "{}", said.err);
    assert_eq!(said.out.trim(), "", "left behind");
}

#[test]
fn a_damaged_package_in_the_store_is_noticed_and_named() {
    load_balancer();
    let folder = scratch();
    let own = folder.path().join("cache");
    fs::create_dir_all(&own).unwrap();
    must(tool("cp", ["-r"]).arg(cache().join("ingot/store")).arg(own.join("store")));
    let lock = fs::read_to_string(definition().with_extension("lock")).unwrap();
    let haproxy = lock.lines().find(|line| line.contains("name = \"haproxy\"")).unwrap();
    let (_, digest) = haproxy.split_once("sha256 = \"").unwrap();
    let digest = &digest[..64];
    let largest = must(tool("find", [own.to_str().unwrap(), "-name", digest]).arg("-print")).trim().to_owned();
    let mut bytes = fs::read(&largest).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&largest, bytes).unwrap();
    let out = folder.path().join("load-balancer");
    let offline =
        said(ingot(["build", "--locked", "--offline"]).arg(definition()).arg("--output").arg(&out).env("INGOT_CACHE", &own));
    assert_eq!(offline.code, 5, "{}", offline.err);
    assert!(offline.err.contains("haproxy"), "{}", offline.err);
    must(ingot(["build", "--locked"]).arg(definition()).arg("--output").arg(&out).env("INGOT_CACHE", &own));
    assert_eq!(sums(&out), sums(&cache().join("releases/load-balancer")));
}

#[test]
fn no_network_is_an_error_that_says_so() {
    load_balancer();
    let folder = scratch();
    let mut command = tool("unshare", ["--net"]);
    command
        .arg(ingot_tests::programs::ingot_path())
        .args(["build", "--locked"])
        .arg(definition())
        .arg("--output")
        .arg(folder.path().join("out"));
    command
        .env("INGOT_CACHE", folder.path().join("empty"))
        .env("INGOT_KEYS", cache().join("keys"))
        .current_dir(ingot_tests::programs::top());
    let refused = said(&mut command);
    assert_eq!(refused.code, 5, "{}", refused.err);
    assert!(refused.err.contains("hint"), "{}", refused.err);
    // With everything in the store the network is not needed.
    let mut command = tool("unshare", ["--net"]);
    command
        .arg(ingot_tests::programs::ingot_path())
        .args(["build", "--locked", "--force"])
        .arg(definition())
        .arg("--output")
        .arg(folder.path().join("out"));
    command
        .env("INGOT_CACHE", cache().join("ingot"))
        .env("INGOT_KEYS", cache().join("keys"))
        .current_dir(ingot_tests::programs::top());
    must(&mut command);
}

#[test]
fn a_broken_budget_stops_the_build_and_says_by_how_much() {
    load_balancer();
    let folder = scratch();
    let copies = folder.path().join("definitions");
    must(tool("cp", ["-r"]).arg(ingot_tests::fixture::definitions()).arg(&copies));
    let definition = copies.join("small.toml");
    fs::write(&definition, "schema = 1\nextends = \"load-balancer.toml\"\nname = \"small\"\n[budgets]\nuki = \"4 MiB\"\n")
        .unwrap();
    fs::copy(copies.join("load-balancer.lock"), copies.join("small.lock")).unwrap();
    let refused = said(ingot(["build"]).arg(&definition).arg("--output").arg(folder.path().join("out")));
    assert_eq!(refused.code, 3, "{}", refused.err);
    assert!(refused.err.contains("uki") && refused.err.contains("4 MiB"), "{}", refused.err);
    assert!(!folder.path().join("out").exists());
}
