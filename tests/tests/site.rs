//! A whole site of built images: two load balancers, three control planes, two workers, started at the same moment.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr, reason = "test code")]

use std::time::{Duration, Instant};

use ingot_tests::cluster::{KUBECTL, Plan, members, nodes_ready};
use ingot_tests::fixture::load_balancer;
use ingot_tests::kubernetes::{Upstream, releases};
use ingot_tests::node::Node;
use ingot_tests::programs::said;

/// A site takes some minutes on a quiet machine; a loaded one may take some times that.
const PATIENCE: u64 = 1200;

/// Until the API answers through the virtual address.
fn answers(plan: &Plan, within: Duration) -> Duration {
    let begin = Instant::now();
    let url = format!("https://{}/readyz", plan.endpoint);
    loop {
        let said = said(plan.network.command("curl").args(["-sk", "--max-time", "0.5", &url]));
        if said.out == "ok" {
            return begin.elapsed();
        }
        assert!(begin.elapsed() < within, "no answer through the virtual address after {:?}: {}", begin.elapsed(), said.err);
    }
}

#[test]
fn it_assembles_itself_and_lives_through_the_loss_of_machines() {
    let upstream = Upstream::new();
    let [plane, worker] = releases(&upstream);
    let balancer = load_balancer();
    let plan = Plan::new("10.77.0.10:6443");
    let begin = Instant::now();
    let mut w31 = plan.start("w-31", &worker, &plan.worker(31));
    let mut w32 = plan.start("w-32", &worker, &plan.worker(32));
    let mut cp12 = plan.start("cp-12", &plane, &plan.plane(12, false, ""));
    let mut cp13 = plan.start("cp-13", &plane, &plan.plane(13, false, ""));
    let mut cp11 = plan.start("cp-11", &plane, &plan.plane(11, true, ""));
    let mut lb21 = plan.start("lb-21", &balancer, &plan.balancer(21, 22, &[11, 12, 13], ""));
    let mut lb22 = plan.start("lb-22", &balancer, &plan.balancer(22, 21, &[11, 12, 13], ""));
    for node in [&mut cp11, &mut w31, &mut w32, &mut cp12, &mut cp13, &mut lb21, &mut lb22] {
        let limit = PATIENCE.saturating_sub(begin.elapsed().as_secs());
        node.wait_for("ingot-installer status", limit);
        eprintln!("{} was ready after {:?}", node.name(), begin.elapsed());
    }
    nodes_ready(&mut cp11, 5, 60);
    eprintln!("seven machines, started at once: all ready after {:?}", begin.elapsed());
    for node in [&mut cp11, &mut w31, &mut w32, &mut cp12, &mut cp13, &mut lb21, &mut lb22] {
        node.wait_until_up(60);
    }
    assert_eq!(members(&cp11), 3);

    // The load balancer that has the address dies.
    let has = |node: &Node| node.run("ip -br address").out.contains("10.77.0.10/");
    let (holder, other) = if has(&lb21) { (&mut lb21, &lb22) } else { (&mut lb22, &lb21) };
    answers(&plan, Duration::from_secs(5));
    holder.kill();
    let moved = answers(&plan, Duration::from_secs(3));
    eprintln!("the other load balancer answered after {moved:?}");
    assert!(has(other));

    // A worker starts again.
    w32.power_off(120);
    w32.start_again();
    w32.wait_for("ingot-installer status", PATIENCE);
    nodes_ready(&mut cp11, 5, 120);

    // A control plane is lost with its disk, and another takes its place under its name.
    drop(cp13);
    answers(&plan, Duration::from_secs(30));
    nodes_ready(&mut cp11, 4, 180);
    cp11.must("ingot-installer remove-node cp-13");
    assert_eq!(members(&cp11), 2);
    let mut cp13 = plan.start("cp-13", &plane, &plan.plane(13, false, ""));
    cp13.wait_for("ingot-installer status", PATIENCE);
    nodes_ready(&mut cp11, 5, 120);
    assert_eq!(members(&cp11), 3);
    // Enough of them are left when another one goes: even the one that made the cluster.
    cp11.kill();
    answers(&plan, Duration::from_secs(30));
    cp12.wait_for(&format!("{KUBECTL} create namespace written"), 60);
}
