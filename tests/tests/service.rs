//! Services of type LoadBalancer, of built images: two load balancers in front of a control plane give them addresses that
//! answer from outside, a thousand of them in seconds, without dropping what is open, and go on without the API.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr, reason = "test code")]

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use ingot_tests::fixture::{load_balancer, scratch};
use ingot_tests::kubernetes::{Authority, Upstream, releases};
use ingot_tests::network::Network;
use ingot_tests::node::Node;
use ingot_tests::profiles::signed;
use ingot_tests::programs::{must, said, top};

/// A node takes a minute and a half on a quiet machine; a loaded one may take many times that.
const PATIENCE: u64 = 420;
const KUBECTL: &str = "kubectl --kubeconfig /etc/kubernetes/admin.conf";
const BALANCER_TOKEN: &str = "balancer-0123456789-0123456789-0123";
/// The pool has room for the two Services of the story and these.
const MANY: usize = 1000;

fn common(name: &str, role: &str, address: &str, authority: &Authority) -> String {
    format!(
        r#"schema = 1
[node]
name = "{name}"
role = "{role}"
[time]
wait_secs = 1
[[interface]]
name = "lan"
match = {{ name = "e*" }}
addresses = ["{address}/24"]
gateways = ["10.77.0.1"]
[cluster]
name = "tests"
kind = "workload"
endpoint = "10.77.0.10:6443"
load_balancer_token = "{BALANCER_TOKEN}"
ca = '''
{}'''
"#,
        authority.certificate
    )
}

fn plane(authority: &Authority) -> String {
    let join =
        format!("[cluster.join]\nfirst = true\nca_key = '''\n{}'''\n[kubelet]\nnode_address = \"10.77.0.11\"\n", authority.key);
    common("cp-1", "control-plane", "10.77.0.11", authority) + &join
}

fn balancer(own: u8, authority: &Authority) -> String {
    let peer = 43 - own;
    let section = format!(
        r#"[load_balancer]
addresses = [{{ address = "10.77.0.10/24" }}]
service_pool = ["10.77.0.100-10.77.0.101", "10.78.0.1-10.78.3.232"]
[load_balancer.vrrp]
id = 51
peers = ["10.77.0.{peer}"]
[[load_balancer.frontends]]
name = "api"
port = 6443
check_millis = 500
backends = [{{ name = "cp-1", address = "10.77.0.11" }}]
"#
    );
    common(&format!("lb-{own}"), "load-balancer", &format!("10.77.0.{own}"), authority) + &section
}

/// A Service in front of the cluster's DNS, whose pods answer `/health`.
fn service(name: &str, more: &str) -> String {
    format!(
        r#"{{"apiVersion":"v1","kind":"Service","metadata":{{"name":"{name}","namespace":"kube-system"}},"spec":{{"type":"LoadBalancer",
        "selector":{{"k8s-app":"kube-dns"}},"ports":[{{"port":80,"targetPort":8080}}]{more}}}}}"#
    )
}

fn apply(plane: &Node, document: &str) {
    plane.must(&format!("{KUBECTL} apply -f - <<'END'\n{document}\nEND\n"));
}

fn outside(network: &Network, arguments: &[&str]) -> Command {
    let mut command = network.command("/usr/bin/python3");
    command.arg(top().join("tests/tests/service/outside.py")).args(arguments);
    command
}

fn seconds(network: &Network, folder: &Path, what: &str, arguments: &[&str]) -> f64 {
    must(outside(network, &[what, &folder.to_string_lossy()]).args(arguments)).trim().parse().unwrap()
}

fn answers(network: &Network, address: &str) -> bool {
    said(network.command("curl").args(["-sf", "-m", "2", &format!("http://{address}/health")])).code == 0
}

fn answers_within(network: &Network, address: &str, limit: Duration, nodes: [&Node; 2]) -> Duration {
    let begin = Instant::now();
    while !answers(network, address) {
        let tell = |node: &Node| {
            format!("{}\n{}", node.run("cat /run/ingot/agent.json; journalctl -u ingot-agent -n 20").out, node.tell())
        };
        assert!(begin.elapsed() < limit, "{address}: {}\n{}", tell(nodes[0]), tell(nodes[1]));
    }
    begin.elapsed()
}

/// A connection that is asked all the time.
struct Held(Child);

impl Held {
    fn open(network: &Network, address: &str) -> Self {
        let mut command = outside(network, &["hold", address]);
        Self(command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit()).spawn().unwrap())
    }

    fn end(mut self) -> String {
        drop(self.0.stdin.take());
        let output = self.0.wait_with_output().unwrap();
        assert!(output.status.success(), "the connection was dropped");
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }
}

fn reloads(node: &Node) -> u64 {
    let report: serde_json::Value = serde_json::from_str(&node.must("cat /run/ingot/agent.json")).unwrap();
    report["reloads"].as_u64().unwrap()
}

/// The balancer that has the virtual address, and the other one.
fn by_role(mut nodes: Vec<Node>) -> (Node, Node) {
    let first = nodes[0].run("ip -br addr show | grep -q '10.77.0.10/'").code == 0;
    let (one, two) = (nodes.remove(0), nodes.remove(0));
    if first { (one, two) } else { (two, one) }
}

#[test]
fn services_get_addresses_that_answer_also_without_the_api() {
    let upstream = Upstream::new();
    let [plane_image, _] = releases(&upstream);
    let balancer_image = load_balancer();
    let (network, folder) = (Network::new(), scratch());
    must(network.command("ip").args(["route", "add", "10.78.0.0/16", "dev", "ingot0"]));
    let authority = Authority::new(folder.path());
    let start = |name: &str, image: &Path, text: &str| {
        let own = folder.path().join(name);
        fs::create_dir(&own).unwrap();
        Node::start(&network, name, image, Some(&signed(&own, text)))
    };
    let mut cp1 = start("cp-1", &plane_image, &plane(&authority));
    let mut balancers: Vec<Node> =
        [21, 22].map(|own| start(&format!("lb-{own}"), &balancer_image, &balancer(own, &authority))).into();
    for node in balancers.iter_mut().chain([&mut cp1]) {
        node.wait_for("ingot-installer status", PATIENCE);
    }
    let begin = Instant::now();
    apply(&cp1, &service("web", ""));
    apply(&cp1, &service("local", r#","externalTrafficPolicy":"Local""#));
    let address =
        |name: &str| format!("{KUBECTL} -n kube-system get service {name} -o jsonpath='{{.status.loadBalancer.ingress[0].ip}}'");
    cp1.wait_for(&format!("[ \"$({})\" = 10.77.0.100 ] && [ \"$({})\" = 10.77.0.101 ]", address("web"), address("local")), 60);
    // Pods of a cluster that was made this minute may still be starting.
    let patience = Duration::from_secs(90);
    for address in ["10.77.0.100", "10.77.0.101"] {
        answers_within(&network, address, patience, [&balancers[0], &balancers[1]]);
    }
    eprintln!("two Services answer from outside after {:.1} s", begin.elapsed().as_secs_f64());
    let (mut holder, mut other) = by_role(balancers);
    same_rules(&holder, &mut other);
    for node in [&holder, &other] {
        let said = node.run("systemd-analyze security --no-pager --threshold=25 ingot-agent.service");
        assert_eq!(said.code, 0, "{}", said.out);
        eprintln!("{}", said.out.lines().last().unwrap_or_default());
    }
    many(&network, &cp1, folder.path(), (&mut holder, &mut other));
    wrong_token(&mut other);

    // No API: what is there stands, over a restart of the agent and the loss of a balancer.
    cp1.must("mv /etc/kubernetes/manifests/kube-apiserver.yaml /etc/kubernetes/");
    holder.wait_for("ingot-installer status | grep -q INGOT-N1042", 90);
    holder.must("systemctl restart ingot-agent");
    other.must("systemctl restart ingot-agent");
    other.wait_for("ingot-installer status | grep -q INGOT-N1042", 30);
    assert!(answers(&network, "10.77.0.100") && answers(&network, "10.77.0.101"), "{}", holder.tell());
    holder.kill();
    let moved = answers_within(&network, "10.77.0.100", Duration::from_secs(5), [&other, &other]);
    eprintln!("without the API, the addresses moved within {moved:?}");
    // A machine that starts without the API serves what it had.
    other.kill();
    other.start_again();
    answers_within(&network, "10.77.0.100", Duration::from_secs(90), [&other, &other]);
    assert_eq!(other.must("systemctl show -P NRestarts ingot-agent").trim(), "0");
}

fn same_rules(holder: &Node, other: &mut Node) {
    let rules = "cat /run/ingot/services/services.cfg /run/ingot/services/keepalived.conf";
    let wanted = holder.must(rules);
    assert!(wanted.contains("svc_kube-system_web_80"), "{wanted}");
    let digest = holder.must(&format!("{rules} | sha256sum"));
    other.wait_for(&format!("[ \"$({rules} | sha256sum)\" = '{}' ]", digest.trim()), 30);
}

/// A thousand Services, one change among them, and one too many.
fn many(network: &Network, plane: &Node, folder: &Path, (holder, other): (&mut Node, &mut Node)) {
    fs::write(folder.join("admin.conf"), plane.must("cat /etc/kubernetes/admin.conf")).unwrap();
    let held = Held::open(network, "10.77.0.100");
    let one = seconds(network, folder, "one", &["single"]);
    let gone = seconds(network, folder, "delete", &["single"]);
    for node in [&*holder, &*other] {
        node.must("systemctl stop ingot-agent");
    }
    let count = MANY.to_string();
    let made = seconds(network, folder, "create", &["0", &count]);
    for node in [&*holder, &*other] {
        node.must("systemctl start ingot-agent");
    }
    // All that the API tells is new, as after it was away. The clock of the test sees half seconds.
    let rules = holder.wait_for("grep -qE '\"services\":100[0-9]' /run/ingot/agent.json", 60).as_secs_f64();
    let all = seconds(network, folder, "all", &[&count]);
    let first = reloads(holder);
    let late = seconds(network, folder, "delete", &["many-0007"]);
    let again = seconds(network, folder, "one", &["many-0007"]);
    eprintln!(
        "{MANY} Services: made in {made:.1} s, the last rule active {rules:.1} s after the agent's start by {first} reloads, all \
         statuses told and all addresses tried {all:.1} s later; \
         a Service more {one:.2} s, among them {again:.2} s; one less {gone:.2} s, among them {late:.2} s"
    );
    assert!(rules < 10.0 && first <= 4, "{rules} s, {first} reloads\n{}", holder.tell());
    // Half a second on a machine that does nothing else.
    assert!(one < 2.0 && again < 3.0, "{one} s, {again} s\n{}", holder.tell());
    apply(plane, &service("late", ""));
    let exhausted = format!("{KUBECTL} -n kube-system get events --field-selector reason=PoolExhausted | grep -q late");
    let begin = Instant::now();
    while plane.run(&exhausted).code != 0 {
        assert!(begin.elapsed() < Duration::from_secs(30), "no event\n{}", holder.tell());
    }
    eprintln!("a connection through all of it: {}", held.end());
    assert!(holder.must("ingot-installer status").contains("PoolExhausted"));
    same_rules(holder, other);
}

/// A wrong token is told by its code; the rules stand, and the right one heals it.
fn wrong_token(node: &mut Node) {
    let rules = node.must("sha256sum /run/ingot/services/services.cfg");
    node.must("cp -p /etc/ingot/agent-token /run/right && printf wrong-wrong-wrong-wrong-wrong-wrong >/etc/ingot/agent-token");
    node.must("systemctl restart ingot-agent");
    node.wait_for("ingot-installer status | grep -q INGOT-N1044", 30);
    assert_eq!(node.must("sha256sum /run/ingot/services/services.cfg"), rules);
    node.must("cp -p /run/right /etc/ingot/agent-token && systemctl restart ingot-agent");
    node.wait_for("ingot-installer status | grep -q 'services: serving'", 30);
    assert_eq!(node.must(&format!("journalctl -b -o cat | grep -c {BALANCER_TOKEN} || true")).trim(), "0");
}
