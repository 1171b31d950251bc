//! The world around a node in tests: an API, containerd, kubeadm and kubectl, as far as steps can tell.

use std::fs;
use std::io;
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use super::golden;
use crate::machine::net::Reply;
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
    let ok = |body: &serde_json::Value| Ok(Reply { status: 200, body: body.to_string().into_bytes(), ..Reply::default() });
    let ready = serde_json::json!([{ "type": "Ready", "status": "True" }]);
    let node = |labels: serde_json::Value| {
        serde_json::json!({
            "metadata": { "labels": labels, "annotations": { "example.org/note": "Reihe 3" } },
            "spec": { "podCIDR": "10.244.3.0/24", "taints": [{ "key": "example.org/infra", "effect": "PreferNoSchedule" }] },
            "status": { "conditions": ready },
        })
    };
    let mut played = Played::default();
    for (path, body) in [
        ("nodes/w-1", node(serde_json::json!({}))),
        ("nodes/cp-1", node(serde_json::json!({ "example.org/rack": "r1" }))),
        ("namespaces/kube-system/secrets/bootstrap-token-abcdef", serde_json::json!({})),
        ("namespaces/kube-system/secrets/kubeadm-certs", serde_json::json!({})),
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
                let list: serde_json::Value = serde_json::from_slice(&list)?;
                let names = list["images"].as_array().unwrap().iter().map(|image| image["reference"].as_str().unwrap());
                machine.put(IMAGES, &names.fold(String::new(), |text, name| text + name + "\n"))?;
            }
            _ => {}
        },
        ("/usr/bin/kubeadm", ["reset", ..]) => {
            for path in ["etc/kubernetes/admin.conf", "etc/kubernetes/kubelet.conf", "var/lib/etcd/member/wal"] {
                let _ = fs::remove_file(machine.root.join(path));
            }
            let _ = fs::remove_dir(machine.root.join("var/lib/etcd/member"));
            let _ = fs::remove_dir_all(machine.root.join("state/kubernetes/pki"));
        }
        ("/usr/bin/kubeadm", _) if machine.faults.kubeadm.is_some() => {
            let tail = machine.faults.kubeadm.unwrap_or_default().to_owned();
            return Ok(Output { code: Some(1), out: String::new(), tail });
        }
        ("/usr/bin/kubeadm", [verb @ ("init" | "join"), .., "--config", config]) => {
            let config = machine.read(config)?.ok_or(io::ErrorKind::NotFound)?;
            let plane = *verb == "init" || String::from_utf8_lossy(&config).contains("\"controlPlane\"");
            let ca = "/etc/kubernetes/pki/ca.crt";
            if machine.read(ca)?.is_none() {
                machine.put(ca, &String::from_utf8_lossy(&fixture("ca.pem")))?;
            }
            if plane {
                let (certificate, key) = (STANDARD.encode("CERTIFICATE\n"), STANDARD.encode("KEY\n"));
                let text = format!("    client-certificate-data: {certificate}\n    client-key-data: {key}\n");
                machine.put("/etc/kubernetes/admin.conf", &text)?;
                machine.put("/var/lib/etcd/member/wal", "")?;
            }
            machine.put("/var/lib/kubelet/pki/kubelet-client-current.pem", "OWN\n")?;
            machine.put("/etc/kubernetes/kubelet.conf", "kind: Config\n")?;
        }
        _ => {}
    }
    answer(0, "")
}
