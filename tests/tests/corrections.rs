//! A worker with a wrong profile says what is wrong and what to do, and is healed by the right one: the machine is the
//! same, nothing of it is made anew by hand.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "test code")]

use ingot_tests::cluster::{KUBECTL, Plan, TOKEN};
use ingot_tests::kubernetes::{Upstream, releases};
use ingot_tests::node::Node;

const PATIENCE: u64 = 600;

/// Starts the machine again with this profile, and waits until it says this.
fn says(plan: &Plan, node: &mut Node, profile: &str, code: &str) {
    node.kill();
    node.give(Some(&plan.signed(profile)));
    node.start_again();
    // The first time it has, the service manager lets it try again a little later.
    node.wait_for(&format!("grep -q '\"code\": \"{code}\"' /run/ingot/status.json"), PATIENCE);
    let said = node.console();
    let lines: Vec<&str> = said.lines().filter(|line| line.contains("ingot: ")).collect();
    let at = lines.iter().rposition(|line| line.contains(&format!("ingot: {code}: "))).unwrap_or_else(|| panic!("{code}:\n{said}"));
    assert!(lines[at + 1].contains("seen: ") && lines[at + 2].contains("next: "), "{:?}", &lines[at..]);
    assert!(!said.contains(TOKEN.split_once('.').unwrap().1), "the secret part of a token is told");
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
    node.wait_for("grep -q '\"code\": \"INGOT-N1107\"' /run/ingot/status.json", PATIENCE);
    cp.wait_for("ingot-installer status", PATIENCE);

    says(&plan, &mut node, &right.replace(".0123456789abcdef", ".fedcba9876543210"), "INGOT-N1112");
    says(&plan, &mut node, &right.replace("\"abcdef.", "\"fedcba."), "INGOT-N1111");
    let pin = plan.authority.pin();
    let last = if pin.ends_with('0') { "1" } else { "0" };
    says(&plan, &mut node, &right.replace(&pin, &format!("{}{last}", &pin[..pin.len() - 1])), "INGOT-N1114");
    says(&plan, &mut node, &right.replace("\"w-12\"", "\"cp-11\""), "INGOT-N1008");
    says(&plan, &mut node, &right.replace("linux-worker", "control-plane"), "INGOT-N0202");
    let other = right.replace("[cluster.join]", "kubernetes = \"1.19.0\"\n[cluster.join]");
    says(&plan, &mut node, &other, "INGOT-N1003");

    // The right one, with a registry that is gone: what is on board is enough.
    let registry = "[[registry]]\nhost = \"registry.example.org\"\nmirrors = [\"http://10.77.0.98:5000\"]\n";
    node.kill();
    node.give(Some(&plan.signed(&format!("{right}{registry}"))));
    node.start_again();
    node.wait_for("ingot-installer status", PATIENCE);
    cp.wait_for(&format!("[ $({KUBECTL} get nodes | grep -c ' Ready ') = 2 ]"), 60);
    let diagnosed = node.run("ingot-installer diagnose");
    assert!(diagnosed.code == 1 && diagnosed.out.contains("INGOT-N1116"), "{}{}", diagnosed.out, diagnosed.err);
}
