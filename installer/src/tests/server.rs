//! A profile from a server: late, never, and newer than the kept one.

use std::fs;
use std::path::Path;

use super::{machine_of, tree};
use crate::machine::scripted::{Faults, Scripted};
use crate::report::codes::{self, Exit};
use crate::sequence::{Source, run};

/// A machine whose command line names a server, with nothing on a medium; and the profile for it.
fn machine() -> (tempfile::TempDir, String) {
    let root = machine_of("01-dhcp");
    let profile = fs::read_to_string(root.path().join("profile.toml")).unwrap();
    fs::remove_file(root.path().join("profile.toml")).unwrap();
    fs::create_dir_all(root.path().join("proc")).unwrap();
    let pin = "a".repeat(64);
    let line = format!("quiet ingot.profile=https://10.0.0.5/p.toml ingot.profile_ca=sha256:{pin}\n");
    fs::write(root.path().join("proc/cmdline"), line).unwrap();
    (root, profile)
}

fn scripted(root: &Path, served: Option<(u64, &str)>) -> Scripted {
    let machine = Scripted::new(root, Faults::default());
    *machine.served.borrow_mut() = served.map(|(from, text)| (from, text.as_bytes().to_vec()));
    machine
}

fn said(machine: &Scripted, text: &str) -> bool {
    machine.lines.borrow().iter().any(|line| line.contains(text))
}

#[test]
fn the_network_starts_and_the_server_is_asked_until_it_answers() {
    let (root, profile) = machine();
    let machine = scripted(root.path(), Some((300, &profile)));
    run(&machine, &Source::Any).unwrap();
    let waited = machine.up.get().as_secs();
    assert!((300..340).contains(&waited), "{waited}");
    let notices = machine.notices.borrow();
    let (ready, verify) = ("READY=1", "STATUS=verify");
    let at = |text: &str| notices.iter().position(|notice| notice.as_str() == text).unwrap();
    assert!(at(ready) < at(verify), "units that wait for us go on before there is a profile: {notices:?}");
    assert!(said(&machine, "waiting for the server of the profile, at most 3600 s"), "{:?}", machine.lines);
    assert_eq!(fs::read_to_string(root.path().join("state/ingot/profile.toml")).unwrap(), profile);
}

#[test]
fn an_hour_without_network_ends_with_a_later_try_and_nothing_changed() {
    let (root, profile) = machine();
    let before = tree(root.path());
    let machine = scripted(root.path(), None);
    let failure = run(&machine, &Source::Any).unwrap_err();
    assert_eq!((failure.code(), failure.code().exit), (&codes::NO_PROFILE, Exit::Later));
    assert!(failure.to_string().contains("no route to host"), "{failure}");
    assert!((3600..3640).contains(&machine.up.get().as_secs()));
    let mut after = tree(root.path());
    after.retain(|path, _| path != "/run/ingot/status.json");
    assert_eq!(after, before);
    // The service manager starts it again, and now there is a network.
    run(&scripted(root.path(), Some((0, &profile))), &Source::Any).unwrap();
}

#[test]
fn a_kept_copy_is_used_at_once_and_a_newer_profile_follows_it() {
    let (root, profile) = machine();
    run(&scripted(root.path(), Some((0, &profile))), &Source::Any).unwrap();
    let hostname = || fs::read_to_string(root.path().join("etc/hostname")).unwrap();
    let former = hostname();
    let silent = scripted(root.path(), None);
    run(&silent, &Source::Any).unwrap();
    assert!(silent.asked.get() == 1 && silent.up.get().as_secs() < 60, "{:?}", silent.up);
    // The same bytes: nothing to do.
    let same = scripted(root.path(), Some((0, &profile)));
    run(&same, &Source::Any).unwrap();
    assert!(same.commands.borrow().is_empty(), "{:?}", same.commands);
    // What is no profile, and what is older, is told and not taken.
    let next = format!("serial = 7\n{}", profile.replace("serial = 1\n", ""));
    for wrong in ["schema = 9\n", "rubbish"] {
        let machine = scripted(root.path(), Some((0, wrong)));
        run(&machine, &Source::Any).unwrap();
        assert!(said(&machine, codes::NOT_A_PROFILE.number) && hostname() == former, "{:?}", machine.lines);
    }
    let name = former.trim();
    let renamed = next.replace(&format!("name = \"{name}\""), "name = \"newer\"");
    run(&scripted(root.path(), Some((0, &renamed))), &Source::Any).unwrap();
    assert_eq!(hostname(), "newer\n");
    assert_eq!(fs::read_to_string(root.path().join("state/ingot/profile.toml")).unwrap(), renamed);
    let machine = scripted(root.path(), Some((0, &profile)));
    run(&machine, &Source::Any).unwrap();
    assert!(said(&machine, codes::OLDER.number) && hostname() == "newer\n", "{:?}", machine.lines);
}
