//! Clusters that make themselves, of built images: a control plane and a worker started at once, a power cut, a node
//! taken out and back.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "test code")]

use std::fs;
use std::path::Path;

use ingot_tests::fixture::scratch;
use ingot_tests::hardening::assert_hardened;
use ingot_tests::kubernetes::{Upstream, releases};
use ingot_tests::network::Network;
use ingot_tests::node::Node;
use ingot_tests::profiles::signed;
use ingot_tests::programs::{must, tool};

/// A node takes a minute and a half on a quiet machine; a loaded one may take many times that.
const PATIENCE: u64 = 420;
const KUBECTL: &str = "kubectl --kubeconfig /etc/kubernetes/admin.conf";
const TOKEN: &str = "abcdef.0123456789abcdef";
const ENCRYPTION: &str = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=";
const AUDIT: &str =
    "[cluster.api_server]\naudit_policy = '''\napiVersion: audit.k8s.io/v1\nkind: Policy\nrules: [{ level: Metadata }]\n'''";

/// The CA that is made beforehand.
struct Authority {
    certificate: String,
    key: String,
    pin: String,
}

impl Authority {
    fn new(folder: &Path) -> Self {
        let script = r#"cd "$1"
            openssl ecparam -name prime256v1 -genkey -noout -out ca.key
            openssl req -x509 -key ca.key -days 3650 -subj /CN=kubernetes -out ca.crt -addext basicConstraints=critical,CA:TRUE \
                -addext keyUsage=critical,digitalSignature,keyEncipherment,keyCertSign
            openssl x509 -in ca.crt -pubkey -noout | openssl pkey -pubin -outform der | sha256sum | cut -c1-64 >pin"#;
        must(tool("bash", ["-euc", script, "authority"]).arg(folder));
        let read = |name: &str| fs::read_to_string(folder.join(name)).unwrap();
        Self { certificate: read("ca.crt"), key: read("ca.key"), pin: read("pin").trim().to_owned() }
    }
}

fn profile(name: &str, role: &str, address: &str, cluster: &str, join: &str) -> String {
    format!(
        r#"schema = 1
[node]
name = "{name}"
role = "{role}"
labels = {{ "example.org/pool" = "tests" }}
[time]
wait_secs = 1
[[interface]]
name = "lan"
match = {{ name = "e*" }}
addresses = ["{address}/24"]
gateways = ["10.77.0.1"]
[kubelet]
node_address = "{address}"
[cluster]
name = "tests"
kind = "workload"
endpoint = "10.77.0.11:6443"
{cluster}
[cluster.join]
token = "{TOKEN}"
{join}
"#
    )
}

#[test]
fn a_control_plane_and_a_worker_meet_and_come_back_after_a_power_cut() {
    let upstream = Upstream::new();
    let [plane, worker] = releases(&upstream);
    let (network, folder) = (Network::new(), scratch());
    let authority = Authority::new(folder.path());
    let start = |name: &str, release: &Path, text: &str| {
        let own = folder.path().join(name);
        fs::create_dir(&own).unwrap();
        Node::start(&network, name, release, Some(&signed(&own, text)))
    };
    let ca = format!(
        "ca = '''\n{}'''\nload_balancer_token = \"balancer-0123456789-0123456789-0123\"\nencryption_key = \"{ENCRYPTION}\"\n{AUDIT}",
        authority.certificate
    );
    let first = format!("first = true\nca_key = '''\n{}'''", authority.key);
    // The worker first: it waits.
    let text = profile("w-1", "linux-worker", "10.77.0.12", "", &format!("ca_pins = [\"sha256:{}\"]", authority.pin));
    let mut w1 = start("w-1", &worker, &text);
    let mut cp1 = start("cp-1", &plane, &profile("cp-1", "control-plane", "10.77.0.11", &ca, &first));
    for node in [&mut cp1, &mut w1] {
        node.wait_for("ingot-installer status", PATIENCE);
        node.wait_until_up(PATIENCE);
    }
    let ready = format!("[ $({KUBECTL} get nodes | grep -c ' Ready ') = 2 ]");
    cp1.wait_for(&ready, 60);
    assert!(cp1.must(&format!("{KUBECTL} get nodes --show-labels")).contains("example.org/pool=tests"));
    assert_eq!(cp1.run(&format!("{KUBECTL} auth can-i list secrets --as ingot-load-balancer")).out.trim(), "no");
    cp1.must(&format!("{KUBECTL} auth can-i patch services --subresource=status --as ingot-load-balancer"));
    assert_hardened(&cp1, &[&w1]);
    // Pods of one node reach those of the other.
    w1.wait_for("ip route show proto 177 | grep -q 'via 10.77.0.11'", 60);
    // A power cut: both come back by themselves, and are not made again.
    let uid = cp1.must(&format!("{KUBECTL} get node cp-1 -o jsonpath='{{.metadata.uid}}'"));
    for node in [&mut cp1, &mut w1] {
        node.kill();
        node.start_again();
    }
    for node in [&mut cp1, &mut w1] {
        node.wait_for("ingot-installer status", PATIENCE);
        assert!(!node.must("journalctl --boot --unit ingot-installer --output cat").contains("kubeadm"), "nothing is made again");
    }
    cp1.wait_for(&ready, 120);
    assert_eq!(cp1.must(&format!("{KUBECTL} get node cp-1 -o jsonpath='{{.metadata.uid}}'")), uid, "it is the same cluster");
    // Taken out, and back at its next start.
    w1.must("ingot-installer reset");
    cp1.must(&format!("{KUBECTL} delete node w-1"));
    w1.must("systemctl restart ingot-installer");
    w1.wait_for("ingot-installer status", PATIENCE);
    cp1.wait_for(&ready, 60);
}
