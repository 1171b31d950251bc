//! What may happen to a machine while it is made: killed, full and read-only disks, wrong clocks, a dead gateway.

use std::fs;
use std::io::ErrorKind;

use super::{machine_of, profile, reboot, tree, undisturbed};
use crate::machine::scripted::{Faults, Scripted};
use crate::report::codes::{self, Exit};
use crate::report::{State, Status};
use crate::sequence::{Source, run};

/// The one with most steps.
const CASE: &str = "03-everything";

/// All kinds of machines: a worker, a control plane, and a load balancer.
const CASES: [&str; 3] = [CASE, "21-control-plane", "20-load-balancer"];

/// The state in which runs are compared: without what tells of the run itself.
fn outcome(root: &std::path::Path) -> std::collections::BTreeMap<String, (u32, String)> {
    let mut tree = tree(root);
    tree.retain(|path, _| path != "/run/ingot/status.json" && path != crate::journal::PATH);
    tree
}

#[test]
fn killed_at_every_change_and_run_again_it_ends_the_same() {
    CASES.iter().for_each(|case| killed(case));
}

fn killed(case: &str) {
    let root = machine_of(case);
    let machine = undisturbed(root.path());
    let (changes, wanted) = (machine.changes.get(), outcome(root.path()));
    let told: Vec<String> = machine.commands.borrow().iter().filter(|line| line.contains("systemctl")).cloned().collect();
    assert!(changes > 60 && told.len() >= 3, "{changes} {told:?}");
    for kill_at in 0..changes {
        let root = machine_of(case);
        let first = Scripted::new(root.path(), Faults { kill_at: Some(kill_at), ..Faults::default() });
        let killed = run(&first, &profile());
        // In the last change, which only publishes the status, nothing is left to fail.
        let last = kill_at + 8 >= changes;
        assert!(killed.is_err() || last, "{kill_at}");
        let again = undisturbed(root.path());
        let left = outcome(root.path());
        for (left, wanted) in left.iter().zip(&wanted) {
            assert_eq!(left, wanted, "killed at {kill_at}");
        }
        assert_eq!(left.len(), wanted.len(), "killed at {kill_at}");
        // Each unit was told, before or after the kill.
        let both = [first.commands.take(), again.commands.take()].concat();
        for line in &told {
            let unit = line.rsplit(' ').next().unwrap();
            assert!(both.iter().any(|other| other.contains("systemctl") && other.contains(unit)), "killed at {kill_at}: {line}");
        }
    }
}

#[test]
fn a_second_run_changes_nothing_and_a_later_boot_renders_the_same() {
    CASES.iter().for_each(|case| again(case));
}

fn again(case: &str) {
    let root = machine_of(case);
    undisturbed(root.path());
    let first = outcome(root.path());
    let journal = fs::read(root.path().join("state/ingot/journal")).unwrap();
    let again = undisturbed(root.path());
    assert!(again.commands.borrow().is_empty(), "{:?}", again.commands);
    assert_eq!(outcome(root.path()), first);
    reboot(root.path(), case);
    // Later boots may have no medium: the profile that was kept is taken.
    let later = Scripted::new(root.path(), Faults { silent: true, ..Faults::default() });
    fs::remove_file(root.path().join("profile.toml")).unwrap();
    run(&later, &Source::Any).unwrap();
    let mut after = outcome(root.path());
    after.insert("/profile.toml".to_owned(), first["/profile.toml"].clone());
    assert_eq!(after, first);
    let asked =
        later.commands.borrow().iter().any(|line| line.contains("ping -n -q -c 1 -W 1 10.0.0.1") || line.contains("ssh-keygen"));
    assert!(!asked, "an unchanged network is not asked again: {:?}", later.commands);
    assert_eq!(fs::read(root.path().join("state/ingot/journal")).unwrap(), journal, "nothing new to remember");
}

#[test]
fn a_full_or_read_only_state_partition_is_told_and_the_machine_still_made() {
    for (kind, code) in [(ErrorKind::StorageFull, &codes::DISK_FULL), (ErrorKind::ReadOnlyFilesystem, &codes::READ_ONLY)] {
        let root = machine_of(CASE);
        let machine = Scripted::new(root.path(), Faults { disk: Some(("/state", kind)), ..Faults::default() });
        // All but what must be remembered: a machine that forgets it has joined would join twice.
        assert_eq!(run(&machine, &profile()).unwrap_err().code(), code);
        assert!(machine.notices.borrow().iter().any(|notice| notice == "READY=1"), "the network and the rest start");
        let status: Status = serde_json::from_slice(&fs::read(root.path().join("run/ingot/status.json")).unwrap()).unwrap();
        assert_eq!(status.state, State::Failed);
        assert!(status.warnings.iter().any(|told| told.code == code.number), "{status:?}");
        assert_eq!(fs::read_to_string(root.path().join("etc/hostname")).unwrap(), "w-1\n");
        // When there is room again, what is missing is made up for.
        undisturbed(root.path());
        assert!(root.path().join("state/ssh/ssh_host_ed25519_key").is_file());
        assert!(root.path().join("state/ingot/profile.toml").is_file());
    }
    let root = machine_of(CASE);
    let machine = Scripted::new(root.path(), Faults { disk: Some(("/etc", ErrorKind::StorageFull)), ..Faults::default() });
    assert_eq!(run(&machine, &profile()).unwrap_err().code(), &codes::DISK_FULL, "without /etc there is no machine");
}

#[test]
fn clocks_of_1970_and_2100_make_the_same_machine() {
    let root = machine_of(CASE);
    undisturbed(root.path());
    for clock in [0, 4_102_444_800] {
        let other = machine_of(CASE);
        let mut machine = Scripted::new(other.path(), Faults::default());
        machine.clock = clock;
        run(&machine, &profile()).unwrap();
        assert_eq!(outcome(other.path()), outcome(root.path()), "{clock}");
        let codes: Vec<_> = machine.lines.borrow().iter().filter(|line| line.contains("warning")).cloned().collect();
        // No time server answered; and a clock before the image was made is said to be unset.
        assert_eq!(codes.len(), if clock == 0 { 2 } else { 1 }, "{codes:?}");
    }
}

#[test]
fn a_torn_journal_is_told_and_harmless() {
    let root = machine_of(CASE);
    undisturbed(root.path());
    let path = root.path().join("state/ingot/journal");
    let bytes = fs::read(&path).unwrap();
    fs::write(&path, &bytes[..bytes.len() - 30]).unwrap();
    let machine = undisturbed(root.path());
    assert!(machine.lines.borrow().iter().any(|line| line.contains(codes::JOURNAL_TORN.number)));
}

#[test]
fn a_silent_gateway_brings_the_former_network_back() {
    let root = machine_of("02-static");
    undisturbed(root.path());
    let file = root.path().join("etc/systemd/network/40-ingot-lan.network");
    let former = fs::read_to_string(&file).unwrap();
    let text = fs::read_to_string(root.path().join("profile.toml")).unwrap();
    fs::write(root.path().join("profile.toml"), text.replace("10.0.0.11/24", "10.0.0.99/24")).unwrap();
    let machine = Scripted::new(root.path(), Faults { silent: true, ..Faults::default() });
    let failure = run(&machine, &profile()).unwrap_err();
    assert_eq!(failure.code(), &codes::GATEWAY_SILENT);
    assert_eq!(fs::read_to_string(&file).unwrap(), former);
    let waited = machine.up.get().as_secs();
    assert!((60..75).contains(&waited), "{waited}");
    assert!(machine.notices.borrow().iter().any(|line| line.starts_with("EXTEND_TIMEOUT_USEC=")));
    assert!(machine.lines.borrow().iter().any(|line| line.contains("waiting for 10.0.0.1")), "{:?}", machine.lines);
    assert!(!fs::read_to_string(root.path().join("state/ingot/profile.toml")).unwrap().contains("10.0.0.99"));
    // Started again by the service manager, it does not swing back.
    let machine = Scripted::new(root.path(), Faults::default());
    machine.up.set(std::time::Duration::from_secs(waited + 30));
    assert_eq!(run(&machine, &profile()).unwrap_err().code(), &codes::GATEWAY_SILENT);
    assert_eq!(fs::read_to_string(&file).unwrap(), former);
    // After a while it tries once more, and the gateway is there.
    let machine = Scripted::new(root.path(), Faults::default());
    machine.up.set(std::time::Duration::from_secs(waited + 700));
    run(&machine, &profile()).unwrap();
    assert!(fs::read_to_string(&file).unwrap().contains("10.0.0.99"));
}

#[test]
fn dhcp_that_answers_late_is_waited_for_and_never_is_told() {
    let root = machine_of("01-dhcp");
    let machine = Scripted::new(root.path(), Faults { dhcp_after: 50, ..Faults::default() });
    run(&machine, &profile()).unwrap();
    let root = machine_of("01-dhcp");
    let machine = Scripted::new(root.path(), Faults { dhcp_after: u64::MAX, ..Faults::default() });
    let failure = run(&machine, &profile()).unwrap_err();
    assert_eq!((failure.code(), failure.code().exit), (&codes::NO_ADDRESS, Exit::Later));
    assert!(root.path().join("etc/hostname").is_file(), "what needs no network is there");
}

#[test]
fn a_clone_stops() {
    let root = machine_of(CASE);
    undisturbed(root.path());
    reboot(root.path(), CASE);
    fs::write(root.path().join("etc/machine-id"), "11111111111111111111111111111111\n").unwrap();
    let machine = Scripted::new(root.path(), Faults::default());
    assert_eq!(run(&machine, &profile()).unwrap_err().code(), &codes::OTHER_MACHINE);
    assert!(!root.path().join("etc/systemd/network").exists());
}

#[test]
fn no_secret_is_told_or_readable() {
    let root = machine_of(CASE);
    let machine = undisturbed(root.path());
    let mut told = machine.lines.take().join("\n") + &machine.commands.take().join("\n") + &machine.notices.take().join("\n");
    for entry in machine.entries.take() {
        told += &String::from_utf8_lossy(&entry);
    }
    for secret in ["registry-secret", "proxy-secret", "file-secret", "$6$"] {
        assert!(!told.contains(secret), "{secret}");
        let files = tree(root.path());
        let holding: Vec<_> =
            files.iter().filter(|(path, (_, text))| text.contains(secret) && !path.starts_with("/run/cred")).collect();
        assert!(!holding.is_empty() || secret == "registry-secret", "{secret} is used");
        for (path, (mode, _)) in holding {
            assert!(mode & 0o007 == 0 || path == "/profile.toml", "{path} {mode:o} holds {secret}");
        }
    }
}
