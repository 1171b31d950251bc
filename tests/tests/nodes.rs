//! The harness for nodes: what the stories of clusters stand on.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "test code")]

use std::fs;

use ingot_tests::fixture::{load_balancer, scratch};
use ingot_tests::network::Network;
use ingot_tests::node::Node;
use ingot_tests::profiles::signed;

/// A start takes some seconds; a loaded machine may take many times that.
const PATIENCE: u64 = 120;

fn profile(name: &str, address: &str) -> String {
    format!(
        r#"schema = 1
[node]
name = "{name}"
role = "load-balancer"
[time]
wait_secs = 1
[[interface]]
name = "lan"
match = {{ name = "e*" }}
addresses = ["{address}/24"]
gateways = ["10.77.0.1"]
[[load_balancer.frontends]]
name = "web"
port = 8443
backends = [{{ name = "outside", address = "10.77.0.1" }}]
"#
    )
}

#[test]
fn two_nodes_meet_and_one_comes_back_after_a_power_cut_with_its_state() {
    let release = load_balancer();
    let (network, folder) = (Network::new(), scratch());
    let start = |name: &str, address: &str| {
        let own = folder.path().join(name);
        fs::create_dir(&own).unwrap();
        let profile = signed(&own, &profile(name, address));
        Node::start(&network, name, &release, Some(&profile))
    };
    let mut one = start("lb-1", "10.77.0.11");
    let mut two = start("lb-2", "10.77.0.12");
    for node in [&mut one, &mut two] {
        node.wait_until_up(PATIENCE);
        assert_eq!(node.must("hostname").trim(), node.name());
        assert!(node.must("findmnt -rno FSTYPE,OPTIONS /").starts_with("erofs ro"), "the sealed root");
        assert!(node.run("touch /usr/here").code != 0, "/usr is read-only");
        assert_eq!(node.must("findmnt -no FSTYPE /etc").trim(), "overlay");
    }
    one.wait_for("ping -c 1 -W 1 10.77.0.12", 30);
    two.wait_for("ping -c 1 -W 1 10.77.0.11", 30);

    let id = one.must("cat /etc/machine-id");
    assert_ne!(id, two.must("cat /etc/machine-id"), "two machines");
    one.must("echo kept > /var/lib/kept && echo forgotten > /etc/forgotten && sync");
    one.kill();
    assert!(!one.running() && one.run("true").code != 0);
    let gone = two.run("ping -c 2 -W 1 10.77.0.11");
    assert!(gone.code != 0, "a dead node does not answer: {}", gone.out);

    one.start_again();
    one.wait_until_up(PATIENCE);
    two.wait_for("ping -c 1 -W 1 10.77.0.11", 30);
    assert_eq!(one.must("cat /var/lib/kept"), "kept\n");
    assert_eq!(one.must("cat /etc/machine-id"), id, "it is the same machine");
    assert!(one.run("test -e /etc/forgotten").code != 0, "/etc forgets");
    one.power_off(60);
}
