//! The world around a node in tests: an API, containerd, kubeadm and kubectl, as far as steps can tell.

use std::fs;
use std::io;
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use serde_json::{Value, json};

use super::golden;
use crate::machine::net::{Ask, NoReply, Reply, Sent};
use crate::machine::played::Played;
use crate::machine::scripted::Scripted;
use crate::machine::{Machine, Output};

const API: &str = "https://10.0.0.10:6443";
const IMAGES: &str = "/var/lib/containerd/images";

fn fixture(name: &str) -> Vec<u8> {
    fs::read(golden().join("base/cluster").join(name)).unwrap()
}

/// The API of the cluster in golden profiles. To the machine that makes it, nothing is there yet.
pub(crate) fn network(root: &Path) -> Played {
    let profile = fs::read_to_string(root.join("profile.toml")).unwrap_or_default();
    if profile.contains("first = true") { unmade() } else { made() }
}

/// A cluster that answers to those who are in it only.
pub(crate) fn unmade() -> Played {
    let ok = |body: &Value| Ok(Reply { status: 200, body: body.to_string().into_bytes(), ..Reply::default() });
    let ready = json!([{ "type": "Ready", "status": "True" }]);
    let node = |labels: Value| {
        json!({
            "metadata": { "labels": labels, "annotations": { "example.org/note": "Reihe 3" } },
            "spec": { "podCIDR": "10.244.3.0/24", "taints": [{ "key": "example.org/infra", "effect": "PreferNoSchedule" }] },
            "status": { "conditions": ready },
        })
    };
    let mut played = Played::default();
    for (path, body) in [
        ("nodes/w-1", node(json!({}))),
        ("nodes/cp-1", node(json!({ "example.org/rack": "r1" }))),
        ("namespaces/kube-system/secrets/bootstrap-token-abcdef", json!({})),
        ("namespaces/kube-system/secrets/kubeadm-certs", json!({})),
        ("namespaces/kube-system/secrets/ingot-manager-token", json!({ "data": { "token": STANDARD.encode("manager-secret") } })),
    ] {
        played.web.insert(format!("{API}/api/v1/{path}"), ok(&body));
    }
    played
}

/// A cluster that can be joined.
pub(crate) fn made() -> Played {
    let mut played = unmade();
    played.open.push("10.0.0.10:6443".parse().unwrap());
    let chain = vec![CertificateDer::from_pem_slice(&fixture("leaf.pem")).unwrap().to_vec()];
    let reply = Reply { status: 200, body: fixture("cluster-info.json"), chain, ..Reply::default() };
    played.web.insert(format!("{API}/api/v1/namespaces/kube-public/configmaps/cluster-info"), Ok(reply));
    played
}

/// Where a cluster keeps what is changed in it, below the root of the machine.
const KEPT: &str = "api";

/// What a cluster answers that keeps what is changed in it, and has the static pods of the machine.
pub(crate) fn keep(root: &Path, ask: &Ask, said: Option<&Result<Reply, NoReply>>) -> Option<Result<Reply, NoReply>> {
    let url = ask.url.split('?').next()?;
    if said.is_some_and(Result::is_err) {
        return None;
    }
    if let Some(name) = url.split("/namespaces/kube-system/pods/").nth(1) {
        let manifest =
            fs::read_to_string(root.join(format!("state/kubernetes/manifests/{}.yaml", name.strip_suffix("-cp-1")?))).ok()?;
        let inputs = manifest.lines().find_map(|line| line.trim().strip_prefix("ingot/inputs: "));
        let ready = json!([{ "type": "Ready", "status": "True" }]);
        let pod = json!({ "metadata": { "annotations": { "ingot/inputs": inputs } }, "status": { "conditions": ready } });
        return Some(Ok(answered(pod.to_string().into_bytes())));
    }
    let path = root.join(KEPT).join(url.split("://").nth(1)?);
    let kept = fs::read(&path).ok();
    let Some(body) = &ask.post else { return kept.map(|body| Ok(answered(body))) };
    if ask.sent == Sent::Post {
        return None;
    }
    let there = kept.or_else(|| said.and_then(|said| Some(said.as_ref().ok()?.body.clone())));
    let mut object: Value = there.and_then(|body| serde_json::from_slice(&body).ok()).unwrap_or_else(|| json!({}));
    merge(&mut object, &serde_json::from_slice(body).unwrap());
    let body = format!("{object:#}\n").into_bytes();
    fs::create_dir_all(path.parent()?).unwrap();
    fs::write(&path, &body).unwrap();
    Some(Ok(answered(body)))
}

fn answered(body: Vec<u8>) -> Reply {
    Reply { status: 200, body, ..Reply::default() }
}

/// RFC 7396.
fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = json!({});
    }
    for (key, value) in patch {
        if value.is_null() {
            target.as_object_mut().unwrap().remove(key);
        } else {
            merge(&mut target[key], value);
        }
    }
}

/// Arguments of the API server that the cluster keeps for those that join: those of the golden control plane.
const ARGUMENTS: [&str; 9] = [
    "--event-ttl=2h0m0s",
    "--encryption-provider-config=/etc/kubernetes/ingot/encryption.yaml",
    "--token-auth-file=/etc/kubernetes/ingot/tokens.csv",
    "--audit-policy-file=/etc/kubernetes/ingot/audit.yaml",
    "--audit-log-path=/var/log/kubernetes/audit.log",
    "--audit-log-maxage=30",
    "--audit-log-maxbackup=9",
    "--audit-log-maxsize=100",
    "--profiling=false",
];

const CERTIFICATES: [&str; 7] = [
    "apiserver",
    "apiserver-kubelet-client",
    "apiserver-etcd-client",
    "front-proxy-client",
    "etcd/server",
    "etcd/peer",
    "etcd/healthcheck-client",
];

fn certificate(words: &str) -> String {
    String::from_utf8(fixture(if words == "renewed" { "renewed.pem" } else { "leaf.pem" })).unwrap()
}

/// The certificates of a control plane; `words` tell those of one time from those of another.
fn certify(machine: &Scripted, names: &[&str], words: &str) -> io::Result<()> {
    let leaf = certificate(words);
    for name in names {
        machine.put(&format!("/etc/kubernetes/pki/{name}.crt"), &format!("{words}\n{leaf}"))?;
        machine.put(&format!("/etc/kubernetes/pki/{name}.key"), "KEY\n")?;
    }
    Ok(())
}

fn kubeconfigs(machine: &Scripted, words: &str) -> io::Result<()> {
    let certificate = format!("{words}\n{}", certificate(words));
    let (certificate, key) = (STANDARD.encode(certificate), STANDARD.encode("KEY\n"));
    let text = format!("    client-certificate-data: {certificate}\n    client-key-data: {key}\n");
    ["admin", "controller-manager", "scheduler"]
        .iter()
        .try_for_each(|name| machine.put(&format!("/etc/kubernetes/{name}.conf"), &text))
}

fn manifest(machine: &Scripted, pod: &str, arguments: &[String]) -> io::Result<()> {
    let command: String = arguments.iter().map(|argument| format!("    - {argument}\n")).collect();
    let text = format!("kind: Pod\nmetadata:\n  name: {pod}\nspec:\n  containers:\n  - command:\n    - {pod}\n{command}");
    machine.put(&format!("/etc/kubernetes/manifests/{pod}.yaml"), &text)
}

/// Arguments of the API server in kubeadm's configuration.
fn extra(config: &str) -> Vec<String> {
    let documents = config.split("---\n").filter_map(|text| serde_json::from_str::<Value>(text).ok());
    let server = documents.filter_map(|document| document.pointer("/apiServer/extraArgs").cloned()).next();
    let listed = server.as_ref().and_then(Value::as_array).into_iter().flatten();
    listed.map(|one| format!("--{}={}", one["name"].as_str().unwrap(), one["value"].as_str().unwrap())).collect()
}

/// What the programs of a node do.
pub(crate) fn program(machine: &Scripted, program: &str, arguments: &[&str]) -> io::Result<Output> {
    let answer = |code: i32, out: &str| Ok(Output { code: Some(code), out: out.to_owned(), tail: String::new() });
    match (program, arguments) {
        ("/usr/bin/ctr", ["--namespace", "k8s.io", rest @ ..]) => match rest {
            ["images", "list", "--quiet"] => {
                let text = fs::read_to_string(machine.root.join(IMAGES.trim_start_matches('/'))).unwrap_or_default();
                return answer(0, &text);
            }
            ["images", "import", archive] => {
                let list = machine.read(&archive.replace(".tar", ".json"))?.unwrap_or_default();
                let list: Value = serde_json::from_slice(&list)?;
                let names = list["images"].as_array().unwrap().iter().map(|image| image["reference"].as_str().unwrap());
                machine.put(IMAGES, &names.fold(String::new(), |text, name| text + name + "\n"))?;
            }
            _ => {}
        },
        // Asked for etcd too, it waits for a member that is gone, and is killed.
        ("/usr/bin/kubeadm", ["reset", .., "--skip-phases=remove-etcd-member"]) => {
            for path in ["etc/kubernetes/admin.conf", "etc/kubernetes/kubelet.conf"] {
                let _ = fs::remove_file(machine.root.join(path));
            }
            let _ = fs::remove_dir_all(machine.root.join("state/kubernetes/pki"));
            let _ = fs::remove_dir_all(machine.root.join("state/kubernetes/manifests"));
        }
        ("/usr/bin/rm", ["-rf", "--one-file-system", path]) => {
            let _ = fs::remove_dir_all(machine.root.join(path.trim_start_matches('/')));
        }
        ("/usr/bin/kubeadm", _) if machine.faults.kubeadm.is_some() => {
            let tail = machine.faults.kubeadm.unwrap_or_default().to_owned();
            return Ok(Output { code: Some(1), out: String::new(), tail });
        }
        ("/usr/bin/kubeadm", ["init", "phase", "certs", "apiserver", ..]) => certify(machine, &["apiserver"], "again")?,
        ("/usr/bin/kubeadm", ["init", "phase", "control-plane", "apiserver", "--config", config]) => {
            let config = machine.read(config)?.ok_or(io::ErrorKind::NotFound)?;
            manifest(machine, "kube-apiserver", &extra(&String::from_utf8_lossy(&config)))?;
        }
        ("/usr/bin/kubeadm", ["init", "phase", ..]) => {}
        ("/usr/bin/kubeadm", ["certs", "renew", "all", ..]) => {
            certify(machine, &CERTIFICATES, "renewed")?;
            kubeconfigs(machine, "renewed")?;
        }
        ("/usr/bin/etcdctl", _) => return answer(0, r#"[{"endpoint":"https://10.0.0.21:2379","health":true}]"#),
        ("/usr/bin/kubeadm", [verb @ ("init" | "join"), .., "--config", config]) => {
            let config = machine.read(config)?.ok_or(io::ErrorKind::NotFound)?;
            let plane = *verb == "init" || String::from_utf8_lossy(&config).contains("\"controlPlane\"");
            let ca = "/etc/kubernetes/pki/ca.crt";
            if machine.read(ca)?.is_none() {
                machine.put(ca, &String::from_utf8_lossy(&fixture("ca.pem")))?;
            }
            if plane {
                certify(machine, &CERTIFICATES, "made")?;
                kubeconfigs(machine, "made")?;
                let text = String::from_utf8_lossy(&config);
                let kept = ARGUMENTS.map(str::to_owned).to_vec();
                manifest(machine, "kube-apiserver", &if *verb == "init" { extra(&text) } else { kept })?;
                ["etcd", "kube-controller-manager", "kube-scheduler"].iter().try_for_each(|pod| manifest(machine, pod, &[]))?;
                machine.put("/var/lib/etcd/member/wal", "")?;
            }
            machine.put("/var/lib/kubelet/pki/kubelet-client-current.pem", "OWN\n")?;
            machine.put("/etc/kubernetes/kubelet.conf", "kind: Config\n")?;
        }
        _ => {}
    }
    answer(0, "")
}
