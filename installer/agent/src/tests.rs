use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use k8s_openapi::api::core::v1::{Node, Service};
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::ask::{self, Asked, Key, Member, Port};
use crate::change::{Change, between};
use crate::config::Config;
use crate::pool::Pool;
use crate::rules::{Decision, Rules, decide};
use crate::text;

const HEAD: &str = "# Made by ingot-agent for tests";

fn pool(ranges: &[&str]) -> Pool {
    Pool::of(ranges.iter().map(|range| (range.parse().unwrap(), Some("eth0".to_owned()))).collect())
}

fn document(name: &str, spec: Value, status: Value) -> Service {
    let mut spec = spec;
    spec["type"] = spec.get("type").cloned().unwrap_or_else(|| json!("LoadBalancer"));
    serde_json::from_value(json!({
        "metadata": { "namespace": "shop", "name": name, "uid": format!("uid-{name}"), "resourceVersion": "7",
            "creationTimestamp": "2026-01-01T00:00:00Z" },
        "spec": spec,
        "status": { "loadBalancer": status },
    }))
    .unwrap()
}

fn web(name: &str, more: Value) -> (Key, Asked) {
    let mut spec = json!({ "clusterIP": "10.96.0.9", "ports": [{ "port": 80, "nodePort": 30080, "protocol": "TCP" }] });
    spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    ask::service(&document(name, spec, json!({}))).unwrap()
}

fn with_address((key, mut asked): (Key, Asked), address: &str) -> (Key, Asked) {
    asked.has = vec![address.parse().unwrap()];
    (key, asked)
}

fn nodes() -> BTreeMap<String, Member> {
    let node = |name: &str, addresses: &[&str], ready: &str| {
        let addresses: Vec<Value> = addresses.iter().map(|a| json!({ "type": "InternalIP", "address": a })).collect();
        let document: Node = serde_json::from_value(json!({
            "metadata": { "name": name },
            "status": { "addresses": addresses, "conditions": [{ "type": "Ready", "status": ready }] },
        }))
        .unwrap();
        ask::node(&document).unwrap()
    };
    BTreeMap::from([node("w-1", &["10.0.0.31", "fd00::31"], "True"), node("w-2.example.org", &["10.0.0.32"], "Unknown")])
}

fn decided(pool: &Pool, services: &[(Key, Asked)]) -> Decision {
    decide(pool, &services.iter().cloned().collect(), &nodes(), Some(&BTreeMap::new()))
}

fn address(decision: &Decision, name: &str) -> Option<String> {
    let key = Key { namespace: "shop".to_owned(), name: name.to_owned() };
    decision.addresses.get(&key).map(IpAddr::to_string)
}

fn reasons(decision: &Decision) -> Vec<&'static str> {
    decision.notes.iter().map(|(_, note)| note.reason).collect()
}

#[test]
fn the_older_is_first_who_has_keeps_and_who_names_gets() {
    let mut older = web("zz-older", json!({}));
    older.1.created -= 10;
    let named = web("named", json!({ "loadBalancerIP": "10.0.0.100" }));
    let has = with_address(web("has", json!({})), "10.0.0.101");
    let decision = decided(&pool(&["10.0.0.100-10.0.0.103"]), &[web("a", json!({})), older, named, has]);
    let all = ["zz-older", "named", "has", "a"].map(|name| address(&decision, name).unwrap());
    assert_eq!(all, ["10.0.0.102", "10.0.0.100", "10.0.0.101", "10.0.0.103"]);
    assert_eq!(reasons(&decision), Vec::<&str>::new());
    assert_eq!(decision.fresh.len(), 3, "the status of one tells its address already");
}

#[test]
fn what_cannot_be_had_is_told() {
    let small = pool(&["10.0.0.100"]);
    let decision = decided(&small, &[web("a", json!({})), web("b", json!({}))]);
    assert_eq!((address(&decision, "a").as_deref(), address(&decision, "b")), (Some("10.0.0.100"), None));
    assert_eq!(reasons(&decision), ["PoolExhausted"]);
    let outside = decided(&small, &[web("a", json!({ "loadBalancerIP": "10.9.9.9" }))]);
    assert_eq!((address(&outside, "a"), reasons(&outside)), (None, vec!["AddressNotInPool"]));
    let taken = [with_address(web("a", json!({})), "10.0.0.100"), web("b", json!({ "loadBalancerIP": "10.0.0.100" }))];
    assert_eq!(reasons(&decided(&small, &taken)), ["AddressInUse"]);
    let six = decided(&small, &[web("a", json!({ "ipFamilies": ["IPv6"] }))]);
    assert_eq!(reasons(&six), ["PoolExhausted"]);
    let udp = decided(&small, &[web("a", json!({ "ports": [{ "port": 53, "nodePort": 30053, "protocol": "UDP" }] }))]);
    assert_eq!((address(&udp, "a"), reasons(&udp)), (None, vec!["UnsupportedProtocol"]));
    let none = decided(&small, &[web("a", json!({ "ports": [{ "port": 80 }] }))]);
    assert_eq!((address(&none, "a"), reasons(&none)), (None, vec!["NodePortMissing"]));
    let source = decided(&small, &[web("a", json!({ "loadBalancerSourceRanges": ["10.0.0.0/8", "all"] }))]);
    assert_eq!((source.rules.services.len(), reasons(&source)), (0, vec!["InvalidSourceRange"]));
}

#[test]
fn services_of_others_are_left_alone_and_former_ones_are_cleared() {
    let range = pool(&["10.0.0.100-10.0.0.110"]);
    let other = with_address(web("a", json!({ "loadBalancerClass": "example.org/other" })), "10.0.0.100");
    let ours = web("b", json!({ "loadBalancerClass": ask::CLASS }));
    let former = with_address(web("c", json!({ "type": "ClusterIP" })), "10.0.0.105");
    let strangers = with_address(web("d", json!({ "type": "ClusterIP" })), "192.0.2.1");
    let decision = decided(&range, &[other, ours, former.clone(), strangers]);
    assert_eq!(decision.addresses.keys().map(|key| key.name.as_str()).collect::<Vec<_>>(), ["b"]);
    assert_eq!(decision.gone, [former.0]);
}

#[test]
fn without_the_virtual_address_the_status_is_all_there_is() {
    let range = pool(&["10.0.0.100-10.0.0.110"]);
    let services = BTreeMap::from([web("a", json!({})), with_address(web("b", json!({})), "10.0.0.107")]);
    let decision = decide(&range, &services, &nodes(), None);
    assert_eq!(decision.addresses.values().map(IpAddr::to_string).collect::<Vec<_>>(), ["10.0.0.107"]);
    assert!(decision.notes.is_empty() && decision.fresh.is_empty());
}

/// All that has a text of its own.
fn sample() -> (Pool, Decision) {
    let pool = pool(&["10.0.0.100-10.0.0.110", "fd00::100-fd00::110"]);
    let two = json!([{ "port": 443, "nodePort": 30443 }, { "port": 80, "nodePort": 30080 }]);
    let many: Vec<String> = (0..40).map(|n| format!("10.{n}.0.0/16")).collect();
    let local = json!({ "externalTrafficPolicy": "Local", "healthCheckNodePort": 31000 });
    let services = [
        web("plain", json!({ "ports": two })),
        web("local", local),
        web("six", json!({ "ipFamilies": ["IPv6"] })),
        web("sources", json!({ "loadBalancerSourceRanges": many })),
    ];
    let decision = decided(&pool, &services);
    assert_eq!((decision.rules.services.len(), reasons(&decision).len()), (4, 0));
    (pool, decision)
}

/// `INGOT_BLESS=1` writes what is expected.
#[expect(clippy::disallowed_methods, reason = "a switch of the test")]
fn golden(found: &str, name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/golden").join(name);
    if std::env::var_os("INGOT_BLESS").is_some() {
        std::fs::write(&path, found).unwrap();
    }
    assert!(found == std::fs::read_to_string(&path).unwrap(), "{name} differs; found:\n{found}");
    path
}

#[test]
fn golden_texts() {
    let (pool, decision) = sample();
    golden(&text::haproxy(&decision.rules, HEAD), "services.cfg");
    golden(&text::keepalived(&decision.rules, &pool, HEAD), "keepalived.conf");
    let nothing = Rules::default();
    golden(&text::haproxy(&nothing, HEAD), "nothing.cfg");
    assert_eq!(text::keepalived(&nothing, &pool, HEAD), format!("{HEAD}\n"));
}

/// HAProxy and keepalived of the image's Debian read them, together with what the installer renders.
#[test]
#[expect(clippy::disallowed_methods, reason = "the root with the real programs, and those")]
fn the_real_programs_accept_the_golden_texts() {
    let Some(root) = std::env::var_os("INGOT_ORACLE_ROOT").map(PathBuf::from) else { return };
    let folder = tempfile::tempdir_in(root.join("tmp")).unwrap();
    let inside = Path::new("/tmp").join(folder.path().file_name().unwrap());
    let top = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let installer = top.join("installer/src/roles/load_balancer/golden");
    let main = std::fs::read_to_string(installer.join("haproxy.cfg")).unwrap();
    let main: String = main.lines().filter(|line| !line.contains("ca-file")).map(|line| format!("{line}\n")).collect();
    std::fs::write(folder.path().join("haproxy.cfg"), main).unwrap();
    for name in ["services.cfg", "nothing.cfg"] {
        std::fs::copy(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/golden").join(name), folder.path().join(name)).unwrap();
        let output = Command::new("chroot")
            .args([root.as_path(), Path::new("/usr/sbin/haproxy"), Path::new("-c"), Path::new("-f")])
            .args([inside.join("haproxy.cfg"), "-f".into(), inside.join(name)])
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{name}: {said}");
        assert!(!said.contains("[WARNING]"), "{name}: {said}");
    }
    let main = std::fs::read_to_string(installer.join("keepalived.conf")).unwrap();
    let included = inside.join("services.conf");
    let main = main.replace("/run/ingot/services/keepalived.conf", &included.to_string_lossy());
    assert!(main.contains(&*included.to_string_lossy()));
    // The root of the tests has no installer, and is nobody's that keepalived would trust: without the script.
    let (before, after) = main.split_once("vrrp_script haproxy {").unwrap();
    let main = before.to_owned() + after.split_once("}\n\n").unwrap().1;
    let main = main.replace("    track_script {\n        haproxy\n    }\n", "");
    std::fs::write(folder.path().join("keepalived.conf"), main).unwrap();
    std::fs::copy(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/golden/keepalived.conf"), folder.path().join("services.conf"))
        .unwrap();
    // It wants the interface to be there.
    let script = "ip link add eth0 type veth peer name peer0; ip address add 10.0.0.11/24 dev eth0; ip link set eth0 up
        exec chroot \"$1\" /usr/sbin/keepalived -t -f \"$2\"";
    let output = Command::new("unshare")
        .args(["--net", "bash", "-euc", script, "keepalived"])
        .args([root, inside.join("keepalived.conf")])
        .output()
        .unwrap();
    let said = [output.stdout, output.stderr].concat();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&said));
}

#[test]
fn a_node_that_turns_is_one_command_and_a_service_more_is_a_reload() {
    let (_, decision) = sample();
    let old = decision.rules;
    assert_eq!(between(&old, &old), Change::None);
    let mut new = old.clone();
    new.nodes.get_mut("w-1").unwrap().ready = false;
    let expected = ["set server ingot_nodes/w-1 state maint", "set server svc_shop_local_80/w-1 state maint"];
    assert_eq!(between(&old, &new), Change::Commands(expected.map(str::to_owned).to_vec()));
    let mut moved = old.clone();
    let plain = moved.services.iter_mut().find(|(key, _)| key.name == "plain").unwrap().1;
    plain.ports[0] = Port { node_port: 31111, ..plain.ports[0] };
    let expected = [
        "set server svc_shop_plain_80/w-1 addr 10.0.0.31 port 31111",
        "set server svc_shop_plain_80/w-2.example.org addr 10.0.0.32 port 31111",
    ];
    assert_eq!(between(&old, &moved), Change::Commands(expected.map(str::to_owned).to_vec()));
    let mut fewer = old.clone();
    fewer.services.pop_first();
    assert_eq!(between(&old, &fewer), Change::Reload);
    let mut node = old.clone();
    node.nodes.pop_first();
    assert_eq!(between(&old, &node), Change::Reload);
}

#[test]
fn nodes_that_nobody_speaks_for_are_left_to_the_checks() {
    let mut all = nodes();
    all.values_mut().for_each(|node| node.ready = false);
    let decision = decide(&pool(&["10.0.0.100"]), &BTreeMap::new(), &all, None);
    assert!(decision.rules.nodes.values().all(|node| node.ready));
}

#[test]
fn names_with_a_syntax_of_their_own_are_none() {
    for wrong in ["", "a b", "a\nglobal", "A", "a_b", "a.b", "${HOME}", "a#", "ä"] {
        let mut service = document("x", json!({ "ports": [] }), json!({}));
        service.metadata.name = Some(wrong.to_owned());
        assert_eq!(ask::service(&service), None, "{wrong:?}");
        let node: Node = serde_json::from_value(json!({
            "metadata": { "name": format!("{wrong} x") },
            "status": { "addresses": [{ "type": "InternalIP", "address": "10.0.0.1" }] },
        }))
        .unwrap();
        assert_eq!(ask::node(&node), None, "{wrong:?}");
    }
}

#[test]
fn configurations() {
    let good = json!({ "schema": 1, "cluster": "site-a", "endpoint": "10.0.0.10:6443", "ca_file": "/c", "token_file": "/t",
        "virtual_address": "10.0.0.10", "pool": [{ "range": "10.0.0.100-10.0.0.150", "interface": "eth0" }] });
    let config = Config::parse(&good.to_string()).unwrap();
    assert_eq!(config.pool.told(), "10.0.0.100-10.0.0.150");
    for (key, value) in [
        ("schema", json!(2)),
        ("endpoint", json!("https://10.0.0.10")),
        ("cluster", json!("a\nb")),
        ("more", json!(1)),
        ("pool", json!([{ "range": "10.0.0.2-10.0.0.1" }])),
        ("pool", json!([{ "range": "10.0.0.1", "interface": "eth0 {" }])),
    ] {
        let mut wrong = good.clone();
        wrong[key] = value;
        let told = Config::parse(&wrong.to_string()).unwrap_err();
        assert!(told.contains(key), "{told}");
    }
}

/// A Service in the world of the property: when it was made, whether it names an address.
fn any_service() -> impl Strategy<Value = (Key, Asked)> {
    (0u16..200, 0i64..5, proptest::option::of(0u8..24)).prop_map(|(name, created, wants)| {
        let (key, mut asked) = web(&format!("s-{name}"), json!({}));
        asked.created += created;
        asked.wanted = wants.map(|host| format!("10.0.0.{}", 100 + u16::from(host)));
        (key, asked)
    })
}

proptest! {
    /// Whatever comes and goes: who has an address keeps it, nobody shares one, and all are of the pool.
    #[test]
    fn nobody_is_moved_by_another(
        first in proptest::collection::vec(any_service(), 0..30),
        more in proptest::collection::vec(any_service(), 0..30),
        fewer in proptest::collection::vec(any::<proptest::sample::Index>(), 0..5),
    ) {
        let range = pool(&["10.0.0.100-10.0.0.119"]);
        let mut services: BTreeMap<Key, Asked> = first.into_iter().collect();
        let before = decide(&range, &services, &nodes(), Some(&BTreeMap::new()));
        // Some statuses are told, others are not yet.
        for (number, (key, asked)) in services.iter_mut().enumerate() {
            if let Some(address) = before.addresses.get(key).filter(|_| number % 2 == 0) {
                asked.has = vec![*address];
            }
        }
        for index in fewer {
            if !services.is_empty() {
                let key = services.keys().nth(index.index(services.len())).unwrap().clone();
                services.remove(&key);
            }
        }
        let stayed: Vec<Key> = services.keys().cloned().collect();
        for (key, mut asked) in more {
            // One of a former name is another one.
            asked.uid += "-later";
            services.entry(key).or_insert(asked);
        }
        let after = decide(&range, &services, &nodes(), Some(&before.fresh));
        for (key, address) in &before.addresses {
            if stayed.contains(key) {
                prop_assert_eq!(after.addresses.get(key), Some(address));
            }
        }
        let unique: std::collections::BTreeSet<_> = after.addresses.values().collect();
        prop_assert_eq!(unique.len(), after.addresses.len());
        prop_assert!(after.addresses.values().all(|address| range.contains(*address)));
        // Nobody is left out while there is an address that is free and not asked for.
        let starved = after.notes.iter().any(|(_, note)| note.reason == "PoolExhausted");
        prop_assert!(!starved || after.addresses.len() == 20);
    }
}
