//! Hostile profiles and signatures through the whole sequence: refused with the right code, and nothing is changed.

use std::fs;
use std::path::{Path, PathBuf};

use super::{golden, machine_of, profile, tree};
use crate::find::fixture::tool;
use crate::machine::scripted::{Faults, Scripted};
use crate::report::codes::{self, Code};
use crate::sequence::run;

/// Runs against the machine; the code it ends with. Only the status may be new, and no program is run.
fn refused(root: &Path, what: &str) -> &'static Code {
    let look = || {
        let mut found = tree(root);
        found.retain(|path, _| path != "/run/ingot/status.json");
        found
    };
    let before = look();
    let machine = Scripted::new(root, Faults::default());
    let code = run(&machine, &profile()).expect_err(what).code();
    assert!(look() == before, "{what}: the tree was changed");
    assert!(machine.commands.borrow().is_empty(), "{what}: {:?}", machine.commands);
    code
}

#[test]
fn hostile_profiles_change_nothing() {
    let mut cases: Vec<PathBuf> =
        fs::read_dir(golden().join("../hostile/profile")).unwrap().map(|entry| entry.unwrap().path()).collect();
    cases.retain(|path| path.extension().is_some_and(|end| end == "toml"));
    cases.sort();
    assert!(cases.len() >= 63);
    let root = machine_of("01-dhcp");
    for case in cases {
        let name = case.display().to_string();
        fs::copy(&case, root.path().join("profile.toml")).unwrap();
        let blank = fs::read(&case).unwrap().iter().all(u8::is_ascii_whitespace);
        let expected = if blank { &codes::NO_PROFILE } else { &codes::NOT_A_PROFILE };
        assert_eq!(refused(root.path(), &name), expected, "{name}");
    }
    // Larger than any profile: 100 MB.
    let file = fs::File::create(root.path().join("profile.toml")).unwrap();
    file.set_len(100_000_000).unwrap();
    assert_eq!(refused(root.path(), "100 MB").number, codes::NO_PROFILE.number);
    // Good, but for another role.
    let text = fs::read_to_string(golden().join("01-dhcp/profile.toml")).unwrap();
    fs::write(root.path().join("profile.toml"), text).unwrap();
    fs::create_dir_all(root.path().join("usr/share/ingot")).unwrap();
    fs::write(root.path().join("usr/share/ingot/role"), "control-plane\n").unwrap();
    assert_eq!(refused(root.path(), "wrong role"), &codes::WRONG_ROLE);
}

#[test]
fn signatures_that_do_not_hold_change_nothing() {
    let root = machine_of("01-dhcp");
    let trust = root.path().join("usr/share/ingot/trust");
    fs::remove_file(trust.join("unsigned-profiles-allowed")).unwrap();
    let keys = tempfile::tempdir().unwrap();
    for key in ["key", "stranger"] {
        tool(keys.path(), &format!("ssh-keygen -q -t ed25519 -N '' -C {key} -f {key}"));
    }
    let text = fs::read(root.path().join("profile.toml")).unwrap();
    fs::write(keys.path().join("profile"), &text).unwrap();
    let sign = |key: &str, namespace: &str| {
        let _ = fs::remove_file(keys.path().join("profile.sig"));
        tool(keys.path(), &format!("ssh-keygen -q -Y sign -n {namespace} -f {key} profile"));
        fs::read_to_string(keys.path().join("profile.sig")).unwrap()
    };
    let public = fs::read_to_string(keys.path().join("key.pub")).unwrap();
    let good = sign("key", "ingot-profile");
    let only = "namespaces=\"ingot-profile\"";
    let cases: Vec<(&str, Option<String>, &str, &str, &Code)> = vec![
        ("no signature", None, only, "", &codes::UNSIGNED),
        ("an empty one", Some(String::new()), only, "", &codes::UNTRUSTED),
        ("truncated", Some(good[..good.len() / 2].to_owned()), only, "", &codes::UNTRUSTED),
        ("wrong namespace", Some(sign("key", "ingot-release")), only, "", &codes::UNTRUSTED),
        ("a namespace of nobody", Some(sign("key", "file")), only, "", &codes::UNTRUSTED),
        ("a stranger", Some(sign("stranger", "ingot-profile")), only, "", &codes::UNTRUSTED),
        ("not for profiles", Some(good.clone()), "namespaces=\"ingot-media\"", "", &codes::UNTRUSTED),
        ("expired", Some(good.clone()), "valid-before=\"20200101\"", "", &codes::UNTRUSTED),
        ("not valid yet", Some(good.clone()), "valid-after=\"20900101\"", "", &codes::UNTRUSTED),
        ("revoked", Some(good.clone()), only, public.as_str(), &codes::UNTRUSTED),
        ("a list that is none", Some(good.clone()), "cert-authority", "", &codes::TRUST_BROKEN),
        ("a revocation list that is none", Some(good.clone()), only, "SSHKRL\n", &codes::TRUST_BROKEN),
    ];
    for (what, signature, options, revoked, expected) in cases {
        fs::write(trust.join("allowed_signers"), format!("ops {options} {public}")).unwrap();
        fs::write(trust.join("revoked_keys"), revoked).unwrap();
        let _ = fs::remove_file(root.path().join("profile.toml.sig"));
        if let Some(signature) = signature {
            fs::write(root.path().join("profile.toml.sig"), signature).unwrap();
        }
        assert_eq!(refused(root.path(), what), expected, "{what}");
    }
    // One bit of the profile.
    fs::write(trust.join("allowed_signers"), format!("ops {only} {public}")).unwrap();
    fs::write(trust.join("revoked_keys"), "").unwrap();
    fs::write(root.path().join("profile.toml.sig"), &good).unwrap();
    let changed = String::from_utf8(text.clone()).unwrap().replace("10.0.0.31", "10.0.0.30");
    fs::write(root.path().join("profile.toml"), changed).unwrap();
    assert_eq!(refused(root.path(), "another address"), &codes::UNTRUSTED);
    // And as it was signed, it is taken.
    fs::write(root.path().join("profile.toml"), &text).unwrap();
    run(&Scripted::new(root.path(), Faults::default()), &profile()).unwrap();
}
