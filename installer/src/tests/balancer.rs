//! The load balancer: what its programs refuse, and strangers in its network.

use std::fs;
use std::path::Path;

use super::{machine_of, profile, reboot, undisturbed};
use crate::machine::Datagram;
use crate::machine::scripted::{Faults, Scripted};
use crate::report::codes::{self, Code};
use crate::sequence::{Source, run};

const CASE: &str = "20-load-balancer";
const CONFIG: &str = "etc/haproxy/haproxy.cfg";
const KEEPALIVED: &str = "etc/keepalived/keepalived.conf";

fn read(root: &Path, path: &str) -> String {
    fs::read_to_string(root.join(path)).unwrap_or_default()
}

fn change(root: &Path, from: &str, to: &str) {
    let text = read(root, "profile.toml");
    assert!(text.contains(from));
    fs::write(root.join("profile.toml"), text.replace(from, to)).unwrap();
}

fn ends_with(root: &Path, faults: Faults, code: &Code) -> (Scripted, String) {
    let machine = Scripted::new(root, faults);
    let failure = run(&machine, &profile()).unwrap_err();
    assert_eq!(failure.code(), code, "{failure}");
    (machine, failure.to_string())
}

fn told(machine: &Scripted, unit: &str) -> Vec<String> {
    machine.commands.borrow().iter().filter(|line| line.contains("systemctl") && line.contains(unit)).cloned().collect()
}

#[test]
fn units_are_told_of_what_changed_only() {
    let root = machine_of(CASE);
    let first = undisturbed(root.path());
    assert!(told(&first, "haproxy.service").iter().any(|line| line.contains(" start ")));
    assert!(told(&first, "keepalived.service").iter().any(|line| line.contains(" start ")));
    // A drained backend is HAProxy's business alone, and nobody looks for strangers again.
    change(root.path(), "\"10.0.0.21\"", "\"10.0.0.21\", weight = 0");
    let second = undisturbed(root.path());
    assert!(told(&second, "haproxy.service").iter().any(|line| line.contains("try-reload-or-restart")));
    assert_eq!(told(&second, "keepalived.service"), Vec::<String>::new());
    assert!(!second.commands.borrow().iter().any(|line| line.contains("try-restart") || line.contains("ping")));
    assert!(read(root.path(), CONFIG).contains("server cp-1 10.0.0.21:6443 weight 0 "));
}

#[test]
fn a_refused_configuration_leaves_the_last_good_one() {
    let root = machine_of(CASE);
    undisturbed(root.path());
    let (good, kept) = (read(root.path(), CONFIG), read(root.path(), "state/ingot/profile.toml"));
    change(root.path(), "\"10.0.0.22\", weight = 0", "\"10.0.0.29\"");
    let faults = || Faults { refused: Some("10.0.0.29"), ..Faults::default() };
    let (machine, words) = ends_with(root.path(), faults(), &codes::BALANCER_REFUSED);
    assert!(words.contains("parsing [/etc/haproxy/haproxy.cfg.candidate:7]: 10.0.0.29"), "{words}");
    assert_eq!(read(root.path(), CONFIG), good);
    assert!(!root.path().join("etc/haproxy/haproxy.cfg.candidate").exists());
    assert_eq!(told(&machine, "haproxy"), Vec::<String>::new(), "nothing changed, nobody is told");
    assert_eq!(read(root.path(), "state/ingot/profile.toml"), kept);
    // A later boot with it: /etc is the image's again, and the last good one is brought back and started.
    reboot(root.path(), CASE);
    let (machine, _) = ends_with(root.path(), faults(), &codes::BALANCER_REFUSED);
    assert_eq!(read(root.path(), CONFIG), good);
    assert!(good.contains("/etc/haproxy/cluster-ca-"));
    let ca = good.split("ca-file ").nth(1).unwrap().split_whitespace().next().unwrap();
    assert!(root.path().join(ca.trim_start_matches('/')).is_file(), "{ca}");
    assert!(told(&machine, "haproxy.service").iter().any(|line| line.contains(" start ")));
    assert!(told(&machine, "keepalived.service").iter().any(|line| line.contains(" start ")), "what serves is started");
    // The former profile again: all is well, and nothing is reloaded.
    change(root.path(), "\"10.0.0.29\"", "\"10.0.0.22\", weight = 0");
    let machine = undisturbed(root.path());
    assert_eq!(told(&machine, "haproxy"), Vec::<String>::new());
}

#[test]
fn without_a_former_one_a_refused_configuration_stops_the_machine() {
    let root = machine_of(CASE);
    let (_, words) = ends_with(root.path(), Faults { refused: Some("fe_api"), ..Faults::default() }, &codes::BALANCER_REFUSED);
    assert!(words.contains("there is no former one"), "{words}");
    assert!(!root.path().join(CONFIG).exists());
    // keepalived's words are told without the password.
    let root = machine_of(CASE);
    let (machine, words) =
        ends_with(root.path(), Faults { refused: Some("hidden77"), ..Faults::default() }, &codes::BALANCER_REFUSED);
    assert!(!words.contains("hidden77") && !machine.lines.take().concat().contains("hidden77"));
    assert!(root.path().join(CONFIG).exists() && !root.path().join(KEEPALIVED).exists());
}

#[test]
fn what_the_state_partition_holds_is_written_to_its_own_folder_only() {
    let root = machine_of(CASE);
    fs::create_dir_all(root.path().join("state/ingot")).unwrap();
    let kept = r#"{"files":{"/etc/passwd":[420,"x"],"/etc/haproxy/../evil":[420,"x"],
        "/etc/haproxy/haproxy.cfg":[420,"\# Rendered from the profile"]}}"#
        .replace("\\#", "#");
    fs::write(root.path().join("state/ingot/haproxy.good"), kept).unwrap();
    let before = read(root.path(), "etc/passwd");
    ends_with(root.path(), Faults { refused: Some("fe_api"), ..Faults::default() }, &codes::BALANCER_REFUSED);
    assert_eq!(read(root.path(), "etc/passwd"), before);
    assert!(!root.path().join("etc/evil").exists());
    assert_eq!(read(root.path(), CONFIG), "# Rendered from the profile");
}

/// Who answers for the virtual address and for the peer, what is heard, and how it ends.
#[test]
fn strangers_are_told_from_peers() {
    const PEER: (&str, &str) = ("10.0.0.12", "00:15:5d:00:00:12");
    let advert = |source: &str, id| Datagram { source: source.parse().unwrap(), bytes: vec![0x31, id, 100, 1, 0, 50, 0, 0] };
    let cases = [
        (vec![PEER], vec![], None),
        (vec![PEER, ("10.0.0.10", PEER.1)], vec![advert("10.0.0.12", 51)], None),
        (vec![PEER, ("10.0.0.10", "00:15:5D:66:66:66")], vec![], Some(&codes::ADDRESS_TAKEN)),
        (vec![("10.0.0.10", "00:15:5D:66:66:66")], vec![advert("10.0.0.12", 51)], Some(&codes::ADDRESS_TAKEN)),
        (vec![PEER], vec![advert("10.0.0.77", 51)], Some(&codes::VRRP_ID_TAKEN)),
        (vec![PEER], vec![advert("10.0.0.77", 52), advert("10.0.0.11", 51)], None),
    ];
    for (neighbours, adverts, code) in cases {
        let root = machine_of(CASE);
        let faults = Faults { neighbours: neighbours.clone(), adverts: adverts.clone(), ..Faults::default() };
        let Some(code) = code else {
            run(&Scripted::new(root.path(), faults), &profile()).unwrap();
            assert!(root.path().join(KEEPALIVED).is_file());
            continue;
        };
        let (machine, words) = ends_with(root.path(), faults.clone(), code);
        assert!(words.contains("00:15:5d:66:66:66") || words.contains("10.0.0.77"), "{words}");
        assert!(!root.path().join(KEEPALIVED).exists());
        assert!(told(&machine, "keepalived").is_empty());
        assert!(!told(&machine, "haproxy.service").is_empty());
        // One that serves goes on, with a warning.
        fs::create_dir_all(root.path().join("proc/77")).unwrap();
        fs::write(root.path().join("proc/77/comm"), "keepalived\n").unwrap();
        fs::create_dir_all(root.path().join("run")).unwrap();
        fs::write(root.path().join("run/keepalived.pid"), "77\n").unwrap();
        let machine = Scripted::new(root.path(), faults);
        run(&machine, &profile()).unwrap();
        assert!(machine.lines.borrow().iter().any(|line| line.contains(code.number)), "{:?}", machine.lines);
        assert!(root.path().join(KEEPALIVED).is_file());
    }
}

#[test]
fn with_dhcp_the_machine_says_where_it_speaks_from() {
    let root = machine_of(CASE);
    let text = read(root.path(), "profile.toml");
    let (before, rest) = text.split_once("[[interface]]").unwrap();
    let after = rest.split_once("[time]").unwrap().1;
    let text = format!("{before}[time]{after}").replace(", { address = \"fd00::10/64\" }", "");
    fs::write(root.path().join("profile.toml"), text).unwrap();
    run(&Scripted::new(root.path(), Faults::default()), &Source::File("/profile.toml".to_owned())).unwrap();
    let text = read(root.path(), KEEPALIVED);
    assert!(text.contains("    interface eth0\n") && text.contains("    unicast_src_ip 10.0.0.11\n"), "{text}");
    // Peers that no address of it reaches.
    change(root.path(), "\"10.0.0.12\"", "\"10.9.0.12\"");
    ends_with(root.path(), Faults::default(), &codes::NO_VRRP_ADDRESS);
}

#[test]
fn the_service_agent_runs_where_there_is_a_pool() {
    let root = machine_of(CASE);
    let first = undisturbed(root.path());
    assert!(told(&first, "ingot-agent.service").iter().any(|line| line.contains(" start ")));
    let config: serde_json::Value = serde_json::from_str(&read(root.path(), "etc/ingot/agent.json")).unwrap();
    assert_eq!(config["pool"][0], serde_json::json!({ "range": "10.0.0.100-10.0.0.150", "interface": "lan" }));
    assert_eq!(read(root.path(), "etc/ingot/agent-token"), "balancer-0123456789-0123456789-0123");
    // Another range: it is started again.
    change(root.path(), "10.0.0.150", "10.0.0.160");
    assert!(told(&undisturbed(root.path()), "ingot-agent.service").iter().any(|line| line.contains("try-restart")));
    // No pool: what it made goes with it.
    fs::create_dir_all(root.path().join("run/ingot/services")).unwrap();
    fs::write(root.path().join("run/ingot/services/services.cfg"), "x").unwrap();
    change(root.path(), "service_pool = [\"10.0.0.100-10.0.0.160\"]\n", "");
    let last = undisturbed(root.path());
    assert!(told(&last, "ingot-agent.service").iter().any(|line| line.contains(" stop ")));
    assert!(told(&last, "haproxy.service").iter().any(|line| line.contains("try-reload-or-restart")));
    for gone in ["run/ingot/services/services.cfg", "etc/ingot/agent-token", "etc/ingot/agent.json"] {
        assert!(!root.path().join(gone).exists(), "{gone}");
    }
}
