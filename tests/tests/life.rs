//! What a cluster of a built image lives through after it was made: its management cluster comes later, its pods move,
//! its certificates end, its profile changes.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "test code")]

use std::fs;
use std::path::{Path, PathBuf};

use ingot_tests::fixture::scratch;
use ingot_tests::kubernetes::{Upstream, releases};
use ingot_tests::network::Network;
use ingot_tests::node::Node;
use ingot_tests::profiles::signed;
use ingot_tests::programs::{must, tool};

/// A node takes a minute and a half on a quiet machine; a loaded one may take many times that.
const PATIENCE: u64 = 420;
const KUBECTL: &str = "kubectl --kubeconfig /etc/kubernetes/admin.conf";
const TOKEN: &str = "registrar-0123456789-0123456789-0123";

fn profile(name: &str, address: &str, kind: &str, node: &str, more: &str) -> String {
    format!(
        r#"schema = 1
[node]
name = "{name}"
role = "control-plane"
{node}
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
name = "{name}-cluster"
kind = "{kind}"
endpoint = "{address}:6443"
{more}
[cluster.join]
first = true
"#
    )
}

/// One turn of the upkeep, now.
fn turn(node: &Node) {
    node.must("systemctl start ingot-upkeep.service");
}

/// Two pods that may run on a control plane, of which one must always be there.
const PODS: &str = r#"apiVersion: apps/v1
kind: Deployment
metadata: { name: web }
spec:
  replicas: 1
  selector: { matchLabels: { app: web } }
  template:
    metadata: { labels: { app: web } }
    spec:
      tolerations: [{ operator: Exists, effect: NoSchedule, key: node-role.kubernetes.io/master }]
      terminationGracePeriodSeconds: 1
      containers: [{ name: web, image: "k8s.gcr.io/pause:3.2" }]
---
apiVersion: policy/v1beta1
kind: PodDisruptionBudget
metadata: { name: web }
spec: { minAvailable: 1, selector: { matchLabels: { app: web } } }
"#;

/// A certificate of the cluster's CA with the same name and key as this one, good for ten more days.
fn age(folder: &Path, pki: &Path) {
    let script = r#"cd "$1"; pki=$2
        printf '[ca]\ndefault_ca=d\n[d]\ndatabase=index\nserial=serial\nnew_certs_dir=.\ndefault_md=sha256\npolicy=p\npreserve=yes\n[p]\norganizationName=supplied\ncommonName=supplied\n[x]\nextendedKeyUsage=clientAuth\n' >ca.cnf
        : >index; echo 4242 >serial
        name=apiserver-kubelet-client
        openssl req -new -key "$pki/$name.key" -subj "/O=system:masters/CN=kube-$name" -out request
        openssl ca -batch -config ca.cnf -extensions x -cert "$pki/ca.crt" -keyfile "$pki/ca.key" -in request -notext -out old.crt \
            -startdate "$(date -u -d '355 days ago' +%Y%m%d%H%M%SZ)" -enddate "$(date -u -d '10 days' +%Y%m%d%H%M%SZ)"
        cp old.crt "$pki/$name.crt""#;
    must(tool("bash", ["-euc", script, "age"]).arg(folder).arg(pki));
}

#[test]
fn a_cluster_is_known_and_moves_its_pods() {
    let upstream = Upstream::new();
    let [plane, _] = releases(&upstream);
    let (network, folder) = (Network::new(), scratch());
    let write = |name: &str, text: &str| -> PathBuf {
        let own = folder.path().join(name);
        fs::create_dir(&own).unwrap();
        signed(&own, text)
    };
    let registrar = format!("[cluster.registrar]\nnamespace = \"clusters\"\ntoken = \"{TOKEN}\"");
    let text = profile("m-1", "10.77.0.21", "management", "", &registrar);
    let mut m1 = Node::start(&network, "m-1", &plane, Some(&write("m-1", &text)));
    m1.wait_for("ingot-installer status", PATIENCE);
    let ca = fs::read_to_string(m1.state().join("kubernetes/pki/ca.crt")).unwrap();
    for (namespace, may) in [("clusters", "yes"), ("default", "no"), ("kube-system", "no")] {
        let can = m1.run(&format!("{KUBECTL} auth can-i create secrets --as ingot-registrar -n {namespace}")).out;
        assert_eq!(can.trim(), may, "{namespace}");
    }
    // The workload cluster does not need it to be there.
    m1.kill();
    let management = format!(
        "[cluster.management]\nendpoint = \"10.77.0.21:6443\"\nnamespace = \"clusters\"\ntoken = \"{TOKEN}\"\nca = '''\n{ca}'''"
    );
    let labels = "labels = { \"example.org/pool\" = \"tests\", \"example.org/gone\" = \"later\" }";
    let text = profile("cp-1", "10.77.0.11", "workload", labels, &management);
    let mut cp1 = Node::start(&network, "cp-1", &plane, Some(&write("cp-1", &text)));
    cp1.wait_for("ingot-installer status", PATIENCE);
    cp1.wait_for("ingot-installer status | grep -q 'pending INGOT-N1014'", 60);
    cp1.wait_until_up(60);
    m1.start_again();
    m1.wait_for("ingot-installer status", PATIENCE);
    turn(&cp1);
    assert!(!cp1.must("ingot-installer status").contains("pending"));
    let secret = format!("{KUBECTL} -n clusters get secret cp-1-cluster-kubeconfig");
    let form = m1.must(&format!("{secret} -o jsonpath='{{.type}} {{.metadata.labels}}'"));
    assert_eq!(form, r#"cluster.x-k8s.io/secret {"cluster.x-k8s.io/cluster-name":"cp-1-cluster"}"#);
    m1.must(&format!("{secret} -o jsonpath='{{.data.value}}' | base64 -d >/run/kubeconfig"));
    assert!(m1.must("kubectl --kubeconfig /run/kubeconfig get nodes").contains("cp-1"));
    assert_ne!(m1.run("kubectl --kubeconfig /run/kubeconfig get secrets -A").code, 0, "it sees no Secrets");
    assert!(!cp1.must("journalctl --boot --output cat").contains(TOKEN));
    m1.kill();

    drained(&mut cp1);
}

#[test]
fn certificates_are_renewed_and_later_settings_applied() {
    let upstream = Upstream::new();
    let [plane, _] = releases(&upstream);
    let (network, folder) = (Network::new(), scratch());
    let write = |name: &str, text: &str| -> PathBuf {
        let own = folder.path().join(name);
        fs::create_dir(&own).unwrap();
        signed(&own, text)
    };
    let labels = "labels = { \"example.org/pool\" = \"tests\", \"example.org/gone\" = \"later\" }";
    let text = profile("cp-1", "10.77.0.11", "workload", labels, "");
    let mut cp1 = Node::start(&network, "cp-1", &plane, Some(&write("cp-1", &text)));
    cp1.wait_for("ingot-installer status", PATIENCE);
    renewed(&mut cp1, folder.path());

    // Another profile: an argument more, a label less.
    let more = "[cluster.api_server]\narguments = { \"event-ttl\" = \"2h0m0s\" }\nnames = [\"api.example.org\"]";
    let labels = "labels = { \"example.org/pool\" = \"tests\" }";
    cp1.kill();
    cp1.give(Some(&write("later", &profile("cp-1", "10.77.0.11", "workload", labels, more))));
    cp1.start_again();
    cp1.wait_for("ingot-installer status", PATIENCE);
    let pod = cp1.must(&format!("{KUBECTL} -n kube-system get pod kube-apiserver-cp-1 -o yaml"));
    assert!(pod.contains("--event-ttl=2h0m0s"), "{pod}");
    assert!(cp1.must(&format!("{KUBECTL} -n kube-system get configmap kubeadm-config -o yaml")).contains("event-ttl"));
    must(
        tool("openssl", ["x509", "-noout", "-checkhost", "api.example.org", "-in"])
            .arg(cp1.state().join("kubernetes/pki/apiserver.crt")),
    );
    let shown = cp1.must(&format!("{KUBECTL} get node cp-1 --show-labels"));
    assert!(shown.contains("example.org/pool=tests") && !shown.contains("example.org/gone"), "{shown}");
    let begun = cp1.must("systemctl show ingot-installer -P NRestarts");
    assert_eq!(begun.trim(), "0", "the first run ends well");
}

fn drained(cp1: &mut Node) {
    fs::write(cp1.state().join("web.yaml"), PODS).unwrap();
    cp1.must(&format!("{KUBECTL} apply -f /state/web.yaml"));
    let running = format!("{KUBECTL} get pods -l app=web -o jsonpath='{{.items[*].status.phase}}' | grep -qx Running");
    cp1.wait_for(&running, 120);
    cp1.wait_for(&format!("[ $({KUBECTL} get pdb web -o jsonpath='{{.status.currentHealthy}}') = 1 ]"), 60);
    let said = cp1.run("ingot-installer drain --timeout 6");
    assert_eq!(said.code, 75, "{}{}", said.out, said.err);
    assert!(said.err.contains("INGOT-N1015") && said.err.contains("disruption budget"), "{}", said.err);
    cp1.must(&format!("{running} && {KUBECTL} delete pdb web"));
    cp1.must("ingot-installer drain --timeout 120");
    cp1.must(&format!("{KUBECTL} get node cp-1 | grep SchedulingDisabled"));
    cp1.must(&format!("! ({running})"));
    cp1.must("systemctl restart ingot-installer");
    cp1.wait_for("ingot-installer status", PATIENCE);
    cp1.wait_for(&running, 120);
    cp1.must(&format!("! ({KUBECTL} get node cp-1 | grep SchedulingDisabled)"));
}

fn renewed(cp1: &mut Node, folder: &Path) {
    let pki = cp1.state().join("kubernetes/pki");
    turn(cp1);
    let before = fs::read(pki.join("apiserver.crt")).unwrap();
    age(folder, &pki);
    turn(cp1);
    assert!(!cp1.must("ingot-installer status").contains("pending"));
    assert_ne!(fs::read(pki.join("apiserver.crt")).unwrap(), before);
    must(tool("openssl", ["x509", "-noout", "-checkend", "25920000", "-in"]).arg(pki.join("apiserver-kubelet-client.crt")));
    let pods = cp1.must(&format!("{KUBECTL} -n kube-system get pods -o yaml"));
    assert_eq!(pods.matches("  ingot/inputs: ").count(), 4, "{pods}");
    let logs = format!("{KUBECTL} -n kube-system logs etcd-cp-1 --tail 1");
    cp1.wait_for(&logs, 60);
}
