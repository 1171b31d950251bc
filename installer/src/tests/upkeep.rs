//! What happens to a node after it was made: certificates end, profiles change, management clusters come later, pods move.

use std::fs;
use std::path::Path;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::cluster::unmade;
use super::{machine_of, profile, undisturbed};
use crate::machine::net::{NoReply, Reply, Sent};
use crate::machine::scripted::{Faults, Scripted};
use crate::report::codes::{self, Code};
use crate::report::{Report, State, Status};
use crate::roles::kubernetes::drain::{self, Drain};
use crate::sequence::run;
use crate::steps::World;
use crate::upkeep::{STATUS, status, upkeep};

const PLANE: &str = "21-control-plane";
const MANAGEMENT: &str = "https://10.0.0.20:6443/api/v1/namespaces/clusters/secrets/site-a-kubeconfig";

fn change(root: &Path, from: &str, to: &str) {
    let text = fs::read_to_string(root.join("profile.toml")).unwrap();
    assert!(text.contains(from), "{from}");
    fs::write(root.join("profile.toml"), text.replace(from, to)).unwrap();
}

fn kubeadm(machine: &Scripted) -> Vec<String> {
    let commands = machine.commands.borrow();
    let words = |line: &String| Some(line.strip_prefix("/usr/bin/kubeadm ")?.split(" --").next().unwrap().to_owned());
    commands.iter().filter_map(words).collect()
}

fn turn(machine: &Scripted) -> Status {
    upkeep(machine).unwrap();
    status(machine, STATUS).unwrap().unwrap()
}

fn manifest(root: &Path, pod: &str) -> String {
    fs::read_to_string(root.join(format!("state/kubernetes/manifests/{pod}.yaml"))).unwrap()
}

/// Twenty days before the end of the first certificates.
const NEAR: u64 = 7_258_118_400 - 20 * 86_400;

#[test]
fn certificates_near_their_end_are_renewed_and_the_pods_restarted() {
    let root = machine_of(PLANE);
    undisturbed(root.path());
    let machine = Scripted::new(root.path(), Faults::default());
    assert!(turn(&machine).steps.iter().all(|step| step.result == "unchanged"));
    assert!(machine.commands.borrow().is_empty(), "{:?}", machine.commands);
    let mut machine = Scripted::new(root.path(), Faults::default());
    machine.clock = NEAR;
    let told = turn(&machine);
    assert_eq!((told.steps[0].result.as_str(), told.warnings), ("applied", vec![]));
    assert_eq!(kubeadm(&machine), ["certs renew all"]);
    for pod in ["etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler"] {
        assert!(manifest(root.path(), pod).contains("ingot/inputs: "), "{pod}");
    }
    let machine = Scripted::new(root.path(), Faults::default());
    assert!(turn(&machine).steps.iter().all(|step| step.result == "unchanged"));
    // A run does it, too: the machine may have been off for long.
    let root = machine_of(PLANE);
    undisturbed(root.path());
    let mut machine = Scripted::new(root.path(), Faults::default());
    machine.clock = NEAR;
    run(&machine, &profile()).unwrap();
    assert_eq!(kubeadm(&machine), ["certs renew all"]);
}

#[test]
fn killed_anywhere_in_a_renewal_it_ends_the_same() {
    let made = machine_of(PLANE);
    undisturbed(made.path());
    let copy = || {
        let root = tempfile::tempdir_in(made.path().parent().unwrap()).unwrap();
        super::copy(made.path(), root.path());
        root
    };
    let outcome = |root: &Path| {
        let mut tree = super::tree(&root.join("state/kubernetes"));
        tree.retain(|path, _| path.ends_with(".yaml") || path.ends_with(".json") || path.ends_with(".crt"));
        tree
    };
    let near = |root: &Path, kill_at: Option<usize>| {
        let mut machine = Scripted::new(root, Faults { kill_at, ..Faults::default() });
        machine.clock = NEAR;
        let _ = upkeep(&machine);
        machine.changes.get()
    };
    let root = copy();
    let changes = near(root.path(), None);
    let wanted = outcome(root.path());
    assert!(changes > 30 && manifest(root.path(), "etcd").contains("ingot/inputs"), "{changes}");
    for kill_at in 0..changes {
        let root = copy();
        near(root.path(), Some(kill_at));
        near(root.path(), None);
        assert_eq!(outcome(root.path()), wanted, "killed at {kill_at}");
    }
}

#[test]
fn later_settings_of_the_api_server_are_applied_once() {
    let root = machine_of(PLANE);
    undisturbed(root.path());
    change(root.path(), "\"event-ttl\" = \"2h0m0s\"", "\"event-ttl\" = \"3h0m0s\"");
    let machine = undisturbed(root.path());
    let phases = ["init phase certs apiserver", "init phase control-plane apiserver", "init phase upload-config kubeadm"];
    assert_eq!(kubeadm(&machine), phases);
    assert!(manifest(root.path(), "kube-apiserver").contains("--event-ttl=3h0m0s"));
    assert!(kubeadm(&undisturbed(root.path())).is_empty());
    // What the API server reads at its start only.
    let before = manifest(root.path(), "kube-apiserver");
    change(root.path(), "level: Metadata", "level: Request");
    assert!(kubeadm(&undisturbed(root.path())).is_empty());
    let after = manifest(root.path(), "kube-apiserver");
    assert_ne!(after, before);
    assert!(!manifest(root.path(), "etcd").contains("ingot/inputs"), "no other pod is touched");
    // Killed between, and a certificate that is gone.
    fs::remove_file(root.path().join("state/kubernetes/pki/apiserver.crt")).unwrap();
    assert_eq!(kubeadm(&undisturbed(root.path())), phases[..2]);
}

/// The profile of a workload cluster with a management cluster.
fn workload(root: &Path) {
    let ca = fs::read_to_string(super::golden().join("base/cluster/ca.pem")).unwrap();
    let section = format!(
        "[cluster.management]\nendpoint = \"10.0.0.20:6443\"\nnamespace = \"clusters\"\ntoken = \"registrar-secret-0123456789abcdef\"\nca = '''\n{ca}'''\n[cluster.join]"
    );
    change(root, "[cluster.join]", &section);
}

#[test]
fn a_workload_cluster_registers_when_its_management_cluster_is_there() {
    let root = machine_of(PLANE);
    workload(root.path());
    let made = undisturbed(root.path());
    assert!(made.commands.borrow().iter().any(|line| line.contains("kubectl") && line.contains("apply")));
    // Nobody is there.
    let mut later = unmade();
    let nobody = NoReply { reason: "connection refused".to_owned(), unreachable: true, chain: Vec::new() };
    later.web.insert(format!("{MANAGEMENT}?fieldManager=ingot&force=true"), Err(nobody));
    let gone = Scripted::new(root.path(), Faults::default()).in_network(later);
    let told = turn(&gone);
    assert_eq!((told.state, told.warnings.len()), (State::Ready, 1));
    assert_eq!(told.warnings[0].code, codes::NOT_REGISTERED.number);
    assert!(told.warnings[0].message.contains("site-a at 10.0.0.20:6443: "), "{:?}", told.warnings);
    // It is.
    let machine = Scripted::new(root.path(), Faults::default());
    assert_eq!(turn(&machine).warnings, []);
    let path = root.path().join("api").join(MANAGEMENT.strip_prefix("https://").unwrap());
    let secret: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    assert_eq!(secret["type"], "cluster.x-k8s.io/secret");
    assert_eq!(secret["metadata"]["labels"], json!({ "cluster.x-k8s.io/cluster-name": "site-a" }));
    let kubeconfig = String::from_utf8(STANDARD.decode(secret["data"]["value"].as_str().unwrap()).unwrap()).unwrap();
    assert!(kubeconfig.contains("server: https://10.0.0.10:6443\n") && kubeconfig.contains("token: manager-secret\n"));
    let told = machine.lines.take().join("\n") + &machine.commands.take().join("\n");
    assert!(!told.contains("manager-secret") && !told.contains("registrar-secret"), "{told}");
    let asked = machine.net.asked.lock().unwrap();
    let apply = asked.iter().find(|ask| ask.sent == Sent::Apply).unwrap();
    assert_eq!(apply.authorization.as_ref().unwrap().expose(), "Bearer registrar-secret-0123456789abcdef");
    assert!(apply.own.is_none(), "the management cluster is not shown another cluster's certificate");
    drop(asked);
    // Once, and again where somebody has changed it.
    assert!(turn(&Scripted::new(root.path(), Faults::default())).steps.iter().all(|step| step.result == "unchanged"));
    fs::write(&path, "{}").unwrap();
    let told = turn(&Scripted::new(root.path(), Faults::default()));
    assert_eq!(told.steps.last().unwrap().result, "applied");
}

#[test]
fn nothing_is_done_while_the_installer_runs() {
    let root = machine_of(PLANE);
    undisturbed(root.path());
    let path = root.path().join("run/ingot/status.json");
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, text.replace("\"ready\"", "\"running\"")).unwrap();
    let mut machine = Scripted::new(root.path(), Faults::default());
    machine.clock = NEAR;
    upkeep(&machine).unwrap();
    assert!(machine.commands.borrow().is_empty());
}

/// A node with these pods on it; each eviction is answered so.
fn with_pods(root: &Path, pods: &[Value], status: u16) -> Scripted {
    let api = "https://10.0.0.10:6443/api/v1";
    let mut played = unmade();
    let reply = |status: u16, body: &Value| Ok(Reply { status, body: body.to_string().into_bytes(), ..Reply::default() });
    let list = json!({ "items": pods });
    played.web.insert(format!("{api}/pods?fieldSelector=spec.nodeName%3Dcp-1"), reply(200, &list));
    let words = json!({ "message": "Cannot evict pod as it would violate the pod's disruption budget." });
    played.web.insert(format!("{api}/namespaces/n/pods/p/eviction"), reply(status, &words));
    Scripted::new(root, Faults::default()).in_network(played)
}

fn ends(machine: &Scripted, force: bool) -> Result<(), (&'static Code, String)> {
    let report = Report::at(machine, "/run/ingot/drain.json");
    let how = Drain { within: Duration::from_secs(60), force };
    let ended = drain::drain(World { machine, report: &report }, how);
    ended.map_err(|failure| (failure.code(), failure.to_string()))
}

#[test]
fn a_node_is_drained_as_far_as_budgets_allow() {
    let root = machine_of(PLANE);
    undisturbed(root.path());
    fs::write(root.path().join("state/kubernetes/kubelet.conf"), "    server: https://10.0.0.10:6443\n").unwrap();
    let owned = json!([{ "kind": "ReplicaSet", "controller": true }]);
    let pod = json!({ "metadata": { "name": "p", "namespace": "n", "ownerReferences": owned } });
    let (code, words) = ends(&with_pods(root.path(), std::slice::from_ref(&pod), 429), false).unwrap_err();
    assert_eq!(code, &codes::NOT_DRAINED);
    assert!(
        words.contains("1 pods are left after 60 s: n/p may not leave yet") && words.contains("disruption budget"),
        "{words}"
    );
    let node: Value =
        serde_json::from_slice(&fs::read(root.path().join("api/10.0.0.10:6443/api/v1/nodes/cp-1")).unwrap()).unwrap();
    assert_eq!(
        (&node["spec"]["unschedulable"], &node["metadata"]["annotations"]["ingot/drained"]),
        (&json!(true), &json!("true"))
    );
    // The next run takes it back, and a second one has nothing to do.
    undisturbed(root.path());
    let node: Value =
        serde_json::from_slice(&fs::read(root.path().join("api/10.0.0.10:6443/api/v1/nodes/cp-1")).unwrap()).unwrap();
    assert_eq!((node["spec"].get("unschedulable"), node["metadata"]["annotations"].get("ingot/drained")), (None, None));
    // Nothing is left to move; what the API forbids; what would be lost.
    let idle = with_pods(root.path(), &[], 201);
    ends(&idle, false).unwrap();
    assert!(idle.lines.borrow().iter().any(|line| line.contains("cp-1 is drained")), "{:?}", idle.lines);
    assert!(ends(&with_pods(root.path(), std::slice::from_ref(&pod), 403), false).unwrap_err().1.contains("403"));
    let bare = json!({ "metadata": { "name": "p", "namespace": "n" } });
    let machine = with_pods(root.path(), &[bare], 201);
    assert!(ends(&machine, false).unwrap_err().1.contains("gone for good"));
    assert!(!machine.net.asked.lock().unwrap().iter().any(|ask| ask.url.ends_with("eviction")));
    assert!(ends(&machine, true).unwrap_err().1.contains("n/p is evicted"));
}

#[test]
fn a_setting_that_only_a_restart_takes_away_asks_for_one() {
    let case = "03-everything";
    let root = machine_of(case);
    undisturbed(root.path());
    assert!(!root.path().join("run/reboot-required").exists());
    change(root.path(), "\"net.ipv4.ip_forward\" = 1", "\"net.core.somaxconn\" = 4096");
    let _ = run(&Scripted::new(root.path(), Faults::default()), &profile());
    let why = fs::read_to_string(root.path().join("run/reboot-required.pkgs")).unwrap();
    assert_eq!(why, "sysctl net.ipv4.ip_forward is no longer set by the profile\n");
    assert!(root.path().join("run/reboot-required").is_file());
}
