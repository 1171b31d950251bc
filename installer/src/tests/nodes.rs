//! Control planes and workers: half-made ones, clusters that are there already, what kubeadm says.

use std::fs;
use std::path::Path;

use super::cluster::{made, unmade};
use super::{machine_of, profile, undisturbed};
use crate::machine::scripted::{Faults, Scripted};
use crate::report::codes::{self, Code};
use crate::sequence::run;

const PLANE: &str = "21-control-plane";
const WORKER: &str = "03-everything";

fn kubeadm(machine: &Scripted) -> Vec<String> {
    let commands = machine.commands.borrow();
    let verb = |line: &String| line.strip_prefix("/usr/bin/kubeadm ").map(|rest| rest.split(' ').next().unwrap().to_owned());
    commands.iter().filter_map(verb).collect()
}

fn put(root: &Path, path: &str, text: &str) {
    let path = root.join(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

fn change(root: &Path, from: &str, to: &str) {
    let text = fs::read_to_string(root.join("profile.toml")).unwrap();
    assert!(text.contains(from), "{from}");
    fs::write(root.join("profile.toml"), text.replace(from, to)).unwrap();
}

fn ends_with(machine: &Scripted, code: &Code) -> String {
    let failure = run(machine, &profile()).unwrap_err();
    assert_eq!(failure.code(), code, "{failure}");
    failure.to_string()
}

/// What a half-made node has, and what is done to it.
#[test]
fn half_made_nodes() {
    let etcd = "var/lib/etcd/member/wal";
    let conf = "state/kubernetes/kubelet.conf";
    for (case, left, text, wanted) in [
        (WORKER, None, "", vec!["join"]),
        (WORKER, Some("state/kubernetes/bootstrap-kubelet.conf"), "x", vec!["reset", "join"]),
        (WORKER, Some(conf), "", vec!["reset", "join"]),
        (WORKER, Some(conf), "without its certificate", vec!["reset", "join"]),
        (WORKER, Some(conf), "x", vec![]),
        (PLANE, None, "", vec!["init"]),
        (PLANE, Some("state/kubernetes/admin.conf"), "x", vec!["reset", "init"]),
        (PLANE, Some(etcd), "x", vec!["init"]),
    ] {
        let root = machine_of(case);
        if let Some(left) = left {
            put(root.path(), left, text);
        }
        if wanted.is_empty() {
            // The kubelet's certificate and the CA are there by then.
            put(root.path(), "state/kubernetes/pki/ca.crt", "x");
            put(root.path(), "var/lib/kubelet/pki/kubelet-client-current.pem", "x");
        }
        let machine = undisturbed(root.path());
        assert_eq!(kubeadm(&machine), wanted, "{case} {left:?}");
        let goes_on = machine.commands.borrow().iter().any(|line| line.contains("DirAvailable--var-lib-etcd"));
        assert_eq!(goes_on, left == Some(etcd), "{case} {left:?}");
        assert!(root.path().join("state/kubernetes/ingot.json").is_file());
        assert!(!root.path().join("run/ingot/kubeadm.yaml").exists(), "it holds secrets");
    }
}

#[test]
fn a_cluster_that_answers_is_joined_and_not_made_again() {
    let root = machine_of(PLANE);
    let machine = Scripted::new(root.path(), Faults::default()).in_network(made());
    run(&machine, &profile()).unwrap();
    assert_eq!(kubeadm(&machine), ["join"]);
    // Another cluster has the address.
    let root = machine_of(PLANE);
    change(root.path(), "token = \"abcdef.0123456789abcdef\"", "token = \"abcdef.0123456789abcdee\"");
    let machine = Scripted::new(root.path(), Faults::default()).in_network(made());
    ends_with(&machine, &codes::TOKEN_SECRET);
    assert!(kubeadm(&machine).is_empty());
}

#[test]
fn a_corrected_profile_heals_what_could_not_join() {
    let root = machine_of(WORKER);
    change(root.path(), "abcdef.0123456789abcdef", "uvwxyz.0123456789abcdef");
    let machine = Scripted::new(root.path(), Faults::default());
    let words = ends_with(&machine, &codes::TOKEN_UNKNOWN);
    assert!(words.contains("waited 18") && words.contains("uvwxyz"), "{words}");
    assert!(
        machine.lines.borrow().iter().any(|line| line.contains("waiting for the API at 10.0.0.10:6443")),
        "{:?}",
        machine.lines
    );
    // Nobody is there, for as long as the profile says.
    let machine = Scripted::new(root.path(), Faults::default()).in_network(unmade());
    assert!(ends_with(&machine, &codes::API_UNREACHABLE).contains("waited 1800 s"));
    change(root.path(), "uvwxyz.0123456789abcdef", "abcdef.0123456789abcdef");
    undisturbed(root.path());
}

#[test]
fn the_words_of_kubeadm_have_codes() {
    for (words, code) in [
        ("error: secrets \"kubeadm-certs\" is forbidden", &codes::CERTIFICATES_GONE),
        ("a Node with name \"w-1\" and status \"Ready\" already exists in the cluster.", &codes::NODE_NAME_TAKEN),
        ("timed out waiting for the condition", &codes::JOIN_FAILED),
    ] {
        let root = machine_of(WORKER);
        let machine = Scripted::new(root.path(), Faults { kubeadm: Some(words), ..Faults::default() });
        assert!(ends_with(&machine, code).contains(words));
        // What it left is reset, and the machine joins.
        put(root.path(), "state/kubernetes/bootstrap-kubelet.conf", "x");
        assert_eq!(kubeadm(&undisturbed(root.path())), ["reset", "join"]);
    }
}

#[test]
fn a_member_of_another_cluster_is_left_alone() {
    let root = machine_of(WORKER);
    undisturbed(root.path());
    change(root.path(), "name = \"site-a\"", "name = \"site-b\"");
    let machine = Scripted::new(root.path(), Faults::default());
    let words = ends_with(&machine, &codes::OTHER_CLUSTER);
    assert!(words.contains("`w-1` of the cluster `site-a`"), "{words}");
    assert!(kubeadm(&machine).is_empty());
}

#[test]
fn image_and_profile_must_fit() {
    let root = machine_of(WORKER);
    change(root.path(), "kubernetes = \"1.34.2\"", "kubernetes = \"1.33.0\"");
    ends_with(&Scripted::new(root.path(), Faults::default()), &codes::KUBERNETES_VERSION);
    fs::remove_file(root.path().join("usr/share/ingot/kubernetes.json")).unwrap();
    ends_with(&Scripted::new(root.path(), Faults::default()), &codes::KUBERNETES_MISSING);
    put(root.path(), "usr/share/ingot/kubernetes.json", "{}");
    ends_with(&Scripted::new(root.path(), Faults::default()), &codes::KUBERNETES_UNKNOWN);
}

#[test]
fn no_secret_of_a_control_plane_is_told_or_readable() {
    let root = machine_of(PLANE);
    let machine = undisturbed(root.path());
    let told = machine.lines.take().join("\n") + &machine.commands.take().join("\n") + &machine.notices.take().join("\n");
    let key = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
    for secret in ["abcdef.0123456789abcdef", key, "balancer-secret", "bm90IGEgcmVhbCBrZXks", "bm90IGEga2V5LCBvbmx5"] {
        assert!(!told.contains(secret), "{secret}");
        for (path, (mode, text)) in super::tree(root.path()) {
            assert!(!text.contains(secret) || mode & 0o077 == 0 || path == "/profile.toml", "{path} {mode:o} holds {secret}");
        }
    }
}
