//! A worker with a wrong profile says what is wrong and what to do, and is healed by the right one: the machine is the
//! same, nothing of it is made anew by hand.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "test code")]

use ingot_tests::cluster::{Plan, TOKEN, nodes_ready};
use ingot_tests::kubernetes::{Upstream, releases};
use ingot_tests::node::Node;
use serde_json::Value;

/// A node takes a minute and a half on a quiet machine; a loaded one may take many times that.
const PATIENCE: u64 = 420;

/// Starts the machine again with this profile, and waits until it says this.
fn says(plan: &Plan, node: &mut Node, profile: &str, code: &str) {
    node.kill();
    node.give(Some(&plan.signed(profile)));
    node.start_again();
    failed(node, code);
}

/// Waits until it has failed so. The service manager lets it try again a little later.
fn failed(node: &mut Node, code: &str) {
    node.wait_for(&format!("grep -q '\"code\": \"{code}\"' /run/ingot/status.json"), 180);
    let status: Value = serde_json::from_str(&node.must("cat /run/ingot/status.json")).unwrap();
    let told = &status["failure"];
    assert_eq!(told["code"], code, "{status}");
    assert!(told["message"].as_str().is_some_and(|seen| seen.len() > 10), "{status}");
    assert!(told["action"].as_str().is_some_and(|next| next.ends_with('.')), "{status}");
    let secret = TOKEN.split_once('.').unwrap().1;
    assert_eq!(node.run(&format!("journalctl --no-pager -o export | grep -ac {secret}")).out.trim(), "0", "a secret is told");
}

#[test]
fn each_mistake_has_its_code_and_a_correction_heals_it() {
    let upstream = Upstream::new();
    let [plane, worker] = releases(&upstream);
    let plan = Plan::new("10.77.0.11:6443");
    let mut cp = plan.start("cp-11", &plane, &plan.plane(11, true, ""));
    let right = plan.worker(12).replace("[cluster.join]\n", "[cluster.join]\nwait_secs = 20\n");
    // Nobody is at this endpoint.
    let mut node = plan.start("w-12", &worker, &right.replace(&plan.endpoint, "10.77.0.99:6443"));
    failed(&mut node, "INGOT-N1107");
    cp.wait_for("ingot-installer status", PATIENCE);

    says(&plan, &mut node, &right.replace(".0123456789abcdef", ".fedcba9876543210"), "INGOT-N1112");
    says(&plan, &mut node, &right.replace("\"abcdef.", "\"fedcba."), "INGOT-N1111");
    let pin = plan.authority.pin();
    let last = if pin.ends_with('0') { "1" } else { "0" };
    says(&plan, &mut node, &right.replace(&pin, &format!("{}{last}", &pin[..pin.len() - 1])), "INGOT-N1114");
    says(&plan, &mut node, &right.replace("\"w-12\"", "\"cp-11\""), "INGOT-N1008");
    says(&plan, &mut node, &plan.plane(12, false, ""), "INGOT-N0202");
    let other = right.replace("[cluster.join]", "kubernetes = \"1.19.0\"\n[cluster.join]");
    says(&plan, &mut node, &other, "INGOT-N1003");

    // The right one, with a registry that is gone: what is on board is enough.
    let registry = "[[registry]]\nhost = \"registry.example.org\"\nmirrors = [\"http://10.77.0.98:5000\"]\n";
    node.kill();
    node.give(Some(&plan.signed(&format!("{right}{registry}"))));
    node.start_again();
    node.wait_for("ingot-installer status", PATIENCE);
    nodes_ready(&mut cp, 2, 60);
    let diagnosed = node.run("ingot-installer diagnose");
    assert!(diagnosed.code == 1 && diagnosed.out.contains("INGOT-N1116"), "{}{}", diagnosed.out, diagnosed.err);
}
