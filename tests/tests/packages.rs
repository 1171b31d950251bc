//! dpkg's own judgement of the tree that images are made of.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "test code")]

use std::fs;
use std::path::{Path, PathBuf};

use ingot_tests::fixture::{load_balancer, scratch};
use ingot_tests::kubernetes::{Upstream, releases};
use ingot_tests::node::partition;
use ingot_tests::programs::{cache, ingot, must, said, tool};

/// The configured base tree of the load balancer, made for this test alone.
fn base(own: &Path) -> PathBuf {
    load_balancer();
    std::os::unix::fs::symlink(cache().join("ingot/store"), own.join("store")).unwrap();
    let definition = ingot_tests::fixture::definitions().join("load-balancer.toml");
    must(
        ingot(["build", "--locked", "--offline", "--quiet", "--formats", "raw"])
            .arg(definition)
            .arg("--output")
            .arg(own.join("out"))
            .env("INGOT_CACHE", own),
    );
    let entry = fs::read_dir(own.join("base")).unwrap().next().unwrap().unwrap();
    entry.path().join("root")
}

#[test]
fn dpkg_finds_every_package_configured_and_every_file_in_place() {
    let own = scratch();
    let root = base(own.path());
    let audit = said(tool("dpkg", ["--audit"]).arg(format!("--root={}", root.display())));
    assert_eq!((audit.code, audit.out.as_str()), (0, ""), "{}", audit.err);
    // Documentation is left out while unpacking, as the definition says; nothing else may differ.
    let verify = said(tool("dpkg", ["--verify"]).arg(format!("--root={}", root.display())));
    let left_out = [
        "/usr/share/doc/",
        "/usr/share/man/",
        "/usr/share/info/",
        "/usr/share/locale/",
        "/usr/share/lintian/",
        "/usr/share/bug/",
    ];
    let wrong: Vec<&str> = verify
        .out
        .lines()
        .filter(|line| !(line.starts_with("missing") && left_out.iter().any(|folder| line.contains(folder))))
        .collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(verify.out.lines().count() > 100, "dpkg --verify compared nothing");
}

/// What the root of a raw image holds of things that no image may hold, one `KEY=value` a line.
fn looked_through(own: &Path, raw: &Path) -> String {
    let (offset, size) = partition(raw, "4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709");
    let script = r#"mkdir "$1/m" && mount -t erofs -o "ro,loop,offset=$2,sizelimit=$3" "$4" "$1/m" && cd "$1/m"
        echo "machine-id=$(cat etc/machine-id)"
        echo "host-keys=$(find etc/ssh -name 'ssh_host_*' | wc -l)"
        echo "logs=$(find var -type f | wc -l)"
        echo "private-keys=$(grep -rlE 'BEGIN ([A-Z]+ )?PRIVATE KEY' etc usr/share usr/lib/systemd --exclude=images.tar 2>/dev/null | wc -l)"
        echo "passwords=$(cut -d: -f2 etc/shadow | grep -cvE '^[!*]' || true)"
        echo "world-writable=$(find . -xdev -perm -0002 ! -type l ! -perm -1000 | wc -l)"
        echo "setuid=$(find . -xdev -perm -4000 | sort | tr '\n' ' ')"
        echo "hostname=$(cat etc/hostname 2>/dev/null)"
        echo "repository=$(cat etc/apt/sources.list etc/apt/sources.list.d/* 2>/dev/null | wc -l)"
        echo "cluster=$(find etc/kubernetes etc/cni etc/containerd -type f 2>/dev/null | wc -l)"
        grep -rlF "$5" etc usr/share/ingot usr/lib/sysimage usr/bin/ingot-installer --exclude=images.tar 2>/dev/null | head -n 3 | sed 's/^/trace=/'; true"#;
    let here = cache().display().to_string();
    must(
        tool("unshare", ["--mount", "--propagation", "private", "bash", "-euc", script, "look"])
            .arg(own)
            .args([offset.to_string(), size.to_string()])
            .arg(raw)
            .arg(&here),
    )
}

fn assert_anonymous(facts: &str) {
    for fact in [
        "machine-id=uninitialized",
        "host-keys=0",
        "logs=0",
        "private-keys=0",
        "passwords=0",
        "world-writable=0",
        "hostname=",
        "repository=0",
        "cluster=0",
    ] {
        assert!(facts.lines().any(|line| line == fact), "{fact} is not in\n{facts}");
    }
    assert!(!facts.contains("trace="), "{facts}");
}

#[test]
fn image_holds_no_identity_no_secret_and_no_trace_of_the_builder() {
    let own = scratch();
    base(own.path());
    assert_anonymous(&looked_through(own.path(), &own.path().join("out/load-balancer.raw")));
}

#[test]
fn images_of_clusters_hold_none_either() {
    let upstream = Upstream::new();
    for release in releases(&upstream) {
        let own = scratch();
        let name = release.file_name().unwrap().to_str().unwrap().to_owned();
        let facts = looked_through(own.path(), &release.join(format!("{name}.raw")));
        assert_anonymous(&facts);
        // Where this run's repository and registry were is nobody's business.
        for trace in [upstream.endpoint("repository"), upstream.endpoint("registry")] {
            for file in ["manifest.json", &format!("{name}.spdx.json"), "provenance.json"] {
                let text = fs::read_to_string(release.join(file)).unwrap();
                assert!(!text.contains(&trace), "{file} of {name} tells {trace}");
            }
        }
        let bill = fs::read_to_string(release.join(format!("{name}.spdx.json"))).unwrap();
        assert!(bill.contains("pkg:oci/kube-proxy@sha256:"), "{name} does not say which container images it has");
        let manifest = fs::read_to_string(release.join("manifest.json")).unwrap();
        assert!(manifest.contains("\"reference\": \"k8s.gcr.io/kube-proxy:v1.20.2\""), "{manifest}");
    }
}
