//! The images of a cluster's roles, built from a real Kubernetes: repository, registry and kubeadm are real ones.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "test code")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use ingot_tests::fixture::scratch;
use ingot_tests::kubernetes::{Upstream, definition, program, releases};
use ingot_tests::programs::{cache, ingot, must, said, tool};
use serde_json::Value;
use trust::kubernetes::{ContainerImages, Kubernetes};

/// Partition type of the root, x86-64 (Discoverable Partitions Specification).
const ROOT: &str = "4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709";

/// Runs a script as root in the image's own root, with fresh folders for what machines write to; `/out` is `out`.
fn inside(raw: &Path, out: &Path, script: &str) -> String {
    let table: Value = serde_json::from_str(&must(tool("sfdisk", ["--json"]).arg(raw))).unwrap();
    let partitions = table["partitiontable"]["partitions"].as_array().unwrap().clone();
    let root = partitions.into_iter().find(|partition| partition["type"] == ROOT).unwrap();
    let bytes = |key: &str| root[key].as_u64().unwrap() * 512;
    // As nodes mount it, which may be there at the same time: the kernel takes one loop device for all.
    let offset = format!("offset={},sizelimit={}", bytes("start"), bytes("size"));
    let enter = r#"mkdir -p "$1/m" && mount -t erofs -o "ro,loop,$2" "$3" "$1/m" && cd "$1/m"
        mount -t proc proc proc && mount --rbind /dev dev && mount --rbind /sys sys
        for folder in run tmp var; do mount -t tmpfs tmpfs "$folder"; done
        mkdir run/out && mount --bind "$1" run/out && mkdir -p var/lib
        exec env -i PATH=/usr/sbin:/usr/bin LC_ALL=C.UTF-8 unshare --net --pid --fork chroot . /bin/bash -euc "$4""#;
    let mut command = tool("unshare", ["--mount", "--propagation", "private", "bash", "-euc", enter, "enter"]);
    must(command.arg(out).arg(offset).arg(raw).arg(script))
}

/// Name and SHA-256 of every file below `folder`.
fn digests(folder: &Path) -> BTreeMap<String, String> {
    must(tool("bash", ["-euc", "find . -type f -print0 | xargs -0 sha256sum"]).current_dir(folder))
        .lines()
        .map(|line| line.split_once("  ").map(|(digest, name)| (name.to_owned(), digest.to_owned())).unwrap())
        .collect()
}

#[test]
fn each_role_holds_what_kubeadm_wants_of_it() {
    let upstream = Upstream::new();
    let releases = releases(&upstream);
    let wanted = must(tool("/usr/bin/env", ["-i"]).arg(program("kubeadm")).args([
        "config",
        "images",
        "list",
        "--kubernetes-version",
        "v1.20.2",
    ]));
    let wanted: BTreeSet<String> = wanted.lines().filter(|l| l.starts_with("k8s.gcr.io/")).map(str::to_owned).collect();
    assert_eq!(wanted.len(), 7, "{wanted:?}");
    for (release, role) in releases.iter().zip(["control-plane", "linux-worker"]) {
        must(ingot(["verify"]).arg(release));
        let raw = release.join(format!("{role}.raw"));
        let report: Value = serde_json::from_str(&said(ingot(["inspect", "--json"]).arg(&raw)).out).unwrap();
        let on_board: BTreeSet<String> =
            report["containers"].as_array().unwrap().iter().map(|image| image["name"].as_str().unwrap().to_owned()).collect();
        let expected = match role {
            "control-plane" => wanted.clone(),
            _ => wanted.iter().filter(|image| image.contains("kube-proxy") || image.contains("pause")).cloned().collect(),
        };
        assert_eq!(on_board, expected, "{role}");
        let out = scratch();
        let script = "cp /usr/share/ingot/kubernetes.json /usr/share/ingot/role /run/out/
            for p in containerd runc ctr crictl kubeadm kubelet kubectl conntrack ethtool ipset iptables nft socat; do command -v $p; done
            kubeadm version -o short; kubelet --version; test -x /opt/cni/bin/bridge
            test -d /usr/libexec/kubernetes/kubelet-plugins/volume/exec
            find /usr/lib/modules -name 'br_netfilter.ko*' | grep . ; find /usr/lib/modules -name 'overlay.ko*' | grep .
            ! test -e /etc/containerd/config.toml; ! test -e /etc/systemd/system/multi-user.target.wants/kubelet.service
            ! test -e /usr/bin/etcd";
        let facts = inside(&raw, out.path(), script);
        assert!(facts.contains("v1.20.2") && facts.contains("Kubernetes v1.20.2"), "{facts}");
        let etcdctl = inside(&raw, out.path(), "command -v etcdctl || true");
        assert_eq!(etcdctl.contains("etcdctl"), role == "control-plane");
        assert_eq!(fs::read_to_string(out.path().join("role")).unwrap().trim(), role);
        let kubernetes = Kubernetes::parse(&fs::read(out.path().join("kubernetes.json")).unwrap()).unwrap();
        assert_eq!((kubernetes.version.as_str(), kubernetes.cni_bin.as_str()), ("1.20.2", "/opt/cni/bin"));
        assert_eq!(kubernetes.image_repository, "k8s.gcr.io");
        for image in [kubernetes.pause, kubernetes.coredns, kubernetes.etcd] {
            assert!(wanted.contains(&image), "{image}");
        }
    }
}

#[test]
fn containerd_of_the_image_takes_the_images_that_are_on_board() {
    let upstream = Upstream::new();
    let [control_plane, _] = releases(&upstream);
    let out = scratch();
    // Unpacking checks what no digest of ours says: that the layers are what the configuration promises.
    let script = r#"printf 'version = 2\nroot = "/var/lib/c"\nstate = "/run/c"\ndisabled_plugins = ["io.containerd.grpc.v1.cri"]\n' > /run/c.toml
        containerd --config /run/c.toml > /run/out/containerd.log 2>&1 &
        for i in $(seq 100); do ctr version > /dev/null 2>&1 && break; sleep 0.1; done
        ctr -n k8s.io images import --snapshotter native /usr/share/ingot/container-images/images.tar > /run/out/import.log
        ctr -n k8s.io images ls > /run/out/images
        ctr -n k8s.io images check --snapshotter native > /run/out/check
        cp /usr/share/ingot/container-images/images.json /run/out/
        kill %1; wait"#;
    inside(&control_plane.join("control-plane.raw"), out.path(), script);
    let read = |name: &str| fs::read_to_string(out.path().join(name)).unwrap();
    let listed = ContainerImages::parse(read("images.json").as_bytes()).unwrap().images;
    assert_eq!(listed.len(), 7);
    let (images, check) = (read("images"), read("check"));
    for image in listed {
        let line =
            |text: &str| text.lines().find(|line| line.split_whitespace().next() == Some(&image.reference)).map(str::to_owned);
        let shown = line(&images).unwrap_or_else(|| panic!("{} is not in\n{images}", image.reference));
        assert!(shown.contains(&image.digest), "{shown}\n{}", image.digest);
        let state = line(&check).unwrap_or_else(|| panic!("{} is not in\n{check}", image.reference));
        assert!(state.contains(" complete ") && state.trim_end().ends_with("true"), "{state}");
    }
}

#[test]
fn offline_and_with_nothing_cached_the_bytes_are_the_same() {
    let upstream = Upstream::new();
    let releases = releases(&upstream);
    let own = scratch();
    let cache_folder = own.path().join("cache");
    fs::create_dir_all(&cache_folder).unwrap();
    std::os::unix::fs::symlink(cache().join("ingot/store"), cache_folder.join("store")).unwrap();
    let build = |roles: &[&str], out: &Path| {
        let definitions = roles.iter().map(|role| definition(role));
        let mut command = ingot(["build", "--locked", "--offline", "--force"]);
        command.args(definitions).args(upstream.without_network()).arg("--output").arg(out).env("INGOT_CACHE", &cache_folder);
        must(&mut command);
    };
    let out = own.path().join("out");
    build(&["linux-worker", "control-plane"], &out);
    for (release, role) in releases.iter().zip(["control-plane", "linux-worker"]) {
        let (first, second) = (digests(release), digests(&out.join(role)));
        assert!(first.len() >= 10, "{first:?}");
        assert_eq!(first, second, "{role}");
    }
}

#[test]
fn what_cannot_be_had_is_told_with_the_next_action() {
    let upstream = Upstream::new();
    let own = scratch();
    let lock = |arguments: &[String]| {
        let mut command = ingot(["lock", "--dry-run", "--update"]);
        command.arg(definition("linux-worker")).args(arguments).env("INGOT_CACHE", own.path());
        // Nobody's own settings.
        said(command.env("DOCKER_CONFIG", own.path()).env_remove("INGOT_REGISTRY"))
    };
    let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
    let refused = lock(&[]);
    assert!(refused.code == 3 && refused.err.contains("--repository-key kubernetes=FILE"), "{}", refused.err);
    let with = |change: &dyn Fn(&mut String)| {
        let mut arguments = upstream.arguments();
        arguments.iter_mut().for_each(change);
        arguments
    };
    let newer = lock(&with(&|word| *word = if word == "1.20" { "1.21".to_owned() } else { word.clone() }));
    assert!(newer.code == 3 && newer.err.contains("the best that the repositories have is 1.20.2"), "{}", newer.err);
    let key = format!("kubernetes={}", definition("keys/debian-trixie-stable").with_extension("asc").display());
    let foreign = lock(&with(&|word| *word = if word.ends_with("key.asc") { key.clone() } else { word.clone() }));
    assert!(foreign.code == 4, "{}", foreign.err);
    let gone = lock(&with(&|word| *word = word.replace(&upstream.endpoint("registry"), "127.0.0.1:9")));
    assert!(gone.code == 5 && gone.err.contains("resolving the container image k8s.gcr.io/"), "{}", gone.err);
    let misspelt = lock(&[upstream.arguments(), words(&["--repository", "kubernets=http://127.0.0.1:9"])].concat());
    assert!(misspelt.code == 2 && misspelt.err.contains("no repository `kubernets`"), "{}", misspelt.err);
}
