//! Profiles signed and checked, alone, together, and against what an image says.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use profile::document::Style;
use profile::sealed::Identity;
use profile::secret::Secret;
use trust::AllowedSigners;

use super::check::{Against, Believed, Checked, Encrypted, Signature};
use super::encrypt;
use super::sign::{self, Signing};
use super::{ImageFacts, check};
use crate::error::Kind;
use crate::keys::{KeySet, ProfileSigner, SigningKey};

fn sample(name: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../profiles").join(name)).unwrap()
}

/// Files with these texts.
fn files(folder: &Path, texts: &[String]) -> Vec<PathBuf> {
    let write = |(number, text): (usize, &String)| {
        let path = folder.join(format!("p{number}.toml"));
        fs::write(&path, text).unwrap();
        path
    };
    texts.iter().enumerate().map(write).collect()
}

fn checked(texts: &[String], against: &Against<'_>) -> Vec<Checked> {
    let folder = tempfile::tempdir().unwrap();
    check(&files(folder.path(), texts), against).unwrap()
}

fn messages(all: &[Checked]) -> Vec<String> {
    let name = |checked: &Checked| checked.path.file_name().unwrap().to_string_lossy().into_owned();
    all.iter()
        .flat_map(|one| one.faults.iter().map(move |fault| format!("{}:{} {}", name(one), fault.line, fault.message)))
        .collect()
}

#[test]
fn a_signature_is_made_checked_and_broken_by_one_byte() {
    let folder = tempfile::tempdir().unwrap();
    let keys = KeySet::create(&folder.path().join("keys"), "Example", &[]).unwrap();
    let paths = files(folder.path(), &[sample("load-balancer.toml")]);
    let signing = Signing { key: &keys.release, allowed: Some(&keys.allowed_signers), at: 1_800_000_000 };
    let made = sign::sign(&paths[0], &signing).unwrap();
    assert_eq!(made, folder.path().join("p0.toml.sig"));
    let believed = Believed {
        signers: AllowedSigners::parse(&keys.allowed_signers).unwrap(),
        revoked: trust::RevokedKeys::default(),
        from: String::new(),
    };
    let against = Against { believed: Some(&believed), at: 1_800_000_000, ..Against::default() };
    let all = check(&paths, &against).unwrap();
    assert!(all[0].good() && matches!(all[0].signature, Signature::Holds(_)), "{:?}", all[0].signature);
    assert_eq!(check(&paths, &Against::default()).unwrap()[0].signature, Signature::NotChecked);
    fs::write(&paths[0], sample("load-balancer.toml") + "\n").unwrap();
    let all = check(&paths, &against).unwrap();
    assert!(!all[0].good() && all[0].faults.is_empty());
    assert!(matches!(&all[0].signature, Signature::Broken(reason) if reason.contains("does not belong to these bytes")));
    // What no machine would take is not signed.
    fs::write(&paths[0], "schema = 1\n").unwrap();
    assert_eq!(sign::sign(&paths[0], &signing).unwrap_err().kind(), Kind::Document);
}

#[test]
fn an_encrypted_part_is_made_and_checked_with_its_key() {
    let folder = tempfile::tempdir().unwrap();
    let machine = Identity::generate();
    let path = files(folder.path(), &[sample("load-balancer.toml")]).remove(0);
    let before = fs::read_to_string(&path).unwrap();
    let look = |identity: Option<&Identity>| {
        check(std::slice::from_ref(&path), &Against { identity, ..Against::default() }).unwrap().remove(0)
    };
    let part = |text: &str| Secret::new(text.to_owned());
    // What would have faults is not written, and they name places only.
    let error = encrypt::into(&path, &part("[report]\ntokn = 'hunter2'\n"), &machine.recipients()).unwrap_err();
    assert_eq!(error.kind(), Kind::Document);
    assert!(!format!("{error:?}").contains("hunter2"), "{error:?}");
    assert_eq!(fs::read_to_string(&path).unwrap(), before);
    assert_eq!(look(Some(&machine)).encrypted, Encrypted::None);
    for password in ["first1", "second2"] {
        let text = format!("[[access.users]]\nname = 'bob'\npassword_hash = '$6$saltsalt${password}'\n");
        encrypt::into(&path, &part(&text), &machine.recipients()).unwrap();
        let after = fs::read_to_string(&path).unwrap();
        assert_eq!(after.matches("BEGIN AGE ENCRYPTED FILE").count(), 1, "{after}");
        assert!(!after.contains(password));
        let closed = look(None);
        assert!(closed.good() && closed.encrypted == Encrypted::NotChecked);
        let opened = look(Some(&machine));
        assert!(opened.good() && opened.encrypted == Encrypted::Checked, "{:?}", opened.faults);
        assert!(opened.profile.unwrap().access.users.iter().any(|user| user.name == "bob"));
    }
    let other = look(Some(&Identity::generate()));
    assert_eq!(messages(&[other]).len(), 1);
    let told = look(Some(&Identity::generate())).render(Style::Plain);
    assert!(told.contains("the encrypted part cannot be opened: it is encrypted for other keys"), "{told}");
    // What only both together get wrong.
    let text = "[load_balancer]\nservice_pool = ['10.0.0.0-10.0.0.255']\n";
    let key = encrypt::seal(&part(text), &machine.recipients()).unwrap();
    fs::write(&path, before.replacen("schema = 1\n", &format!("schema = 1\n{key}"), 1)).unwrap();
    assert!(look(None).good());
    let bad = look(Some(&machine));
    assert!(!bad.good() && bad.render(Style::Plain).contains("(encrypted part):2:"), "{:?}", bad.faults);
    assert!(!bad.render(Style::Plain).contains("10.0.0.255"));
}

#[test]
fn separate_signers_take_the_right_from_the_release_key_and_have_their_time() {
    let folder = tempfile::tempdir().unwrap();
    let own = SigningKey::generate("profiles").unwrap();
    let public = folder.path().join("p.pub");
    fs::write(&public, own.public_line().unwrap()).unwrap();
    let typed = |rest: &str| format!("{}{rest}", public.display());
    for wrong in [
        ",from=2026",
        ",from=20261301",
        ",until=x",
        ",since=20260101",
        ",from=20260101,from=20260102",
        ",from=20260102,until=20260101",
    ] {
        assert_eq!(ProfileSigner::read(&typed(wrong)).unwrap_err().kind(), Kind::Usage, "{wrong}");
    }
    let signer = ProfileSigner::read(&typed(",from=20260101,until=20270101")).unwrap();
    let keys = KeySet::create(&folder.path().join("keys"), "Example", &[signer]).unwrap();
    let paths = files(folder.path(), &[sample("dhcp.toml")]);
    let with = |key, at| sign::sign(&paths[0], &Signing { key, allowed: Some(&keys.allowed_signers), at });
    let error = with(&keys.release, 1_780_000_000).unwrap_err();
    assert!(error.kind() == Kind::Untrusted && error.to_string().contains("may not sign `ingot-profile`"), "{error}");
    with(&own, 1_780_000_000).unwrap();
    for (at, when) in [(1_700_000_000, "yet"), (1_900_000_000, "any more")] {
        let error = with(&own, at).unwrap_err();
        assert!(error.kind() == Kind::Untrusted && error.to_string().contains(when), "{error}");
    }
}

fn image() -> ImageFacts {
    let keys = SigningKey::generate("image").unwrap();
    let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
    ImageFacts {
        title: "load-balancer 1".to_owned(),
        role: Some("load-balancer".to_owned()),
        kubernetes: "1.33.2".parse().ok(),
        signers: AllowedSigners::parse(&format!("a {}", keys.public_line().unwrap())).unwrap(),
        modules: words(&["dummy", "ext4"]),
        programs: words(&["sshd"]),
        accounts: (words(&["root"]), words(&["root"])),
        before_state: 1 << 30,
        ..ImageFacts::default()
    }
}

#[test]
fn what_only_an_image_can_tell_is_told_with_its_line() {
    let image = image();
    let against = Against { image: Some(&image), ..Against::default() };
    let good = checked(&[sample("load-balancer.toml")], &against);
    assert!(good[0].good(), "{:?}", messages(&good));
    assert_eq!(good[0].least_disk, Some((1 << 30) + (256 << 20)));
    let text = sample("load-balancer.toml")
        + "\n[kernel]\nmodules = [\"dummy\", \"wireguard\"]\n[disks.state]\nfile_system = \"xfs\"\nencryption = \"tpm2\"\n\
           [[file]]\npath = \"/etc/x\"\ncontent = \"\"\nowner = \"nginx\"\n\
           [[interface]]\nname = \"v5\"\nvlan = { on = \"lan\", id = 5 }\n";
    let told = messages(&checked(&[text], &against)).join("\n");
    for expected in [
        "no kernel of load-balancer 1 has the module `wireguard`",
        "`mkfs.xfs`, which load-balancer 1 does not have",
        "no kernel of load-balancer 1 has `xfs`",
        "`systemd-cryptenroll`",
        "there is no user `nginx`",
        "VLANs need the module `8021q`",
    ] {
        assert!(told.contains(expected), "{expected}: {told}");
    }
    assert!(!told.contains("dummy"), "{told}");
    let worker = sample("linux-worker.toml");
    let told = messages(&checked(&[worker.replace("[cluster]", "[cluster]\nkubernetes = \"1.30.1\"")], &against)).join("\n");
    assert!(told.contains("the profile is for a linux-worker, but load-balancer 1 is made for a load-balancer"), "{told}");
    assert!(
        told.contains("the profile is for Kubernetes 1.30.1, but load-balancer 1 holds 1.33.2")
            || worker.contains("kubernetes ="),
        "{told}"
    );
}

#[test]
fn what_only_files_together_can_tell() {
    let one = sample("load-balancer.toml");
    let two = sample("load-balancer-2.toml");
    assert!(checked(&[one.clone(), two.clone()], &Against::default()).iter().all(Checked::good), "the samples are a pair");
    let told = messages(&checked(&[one.clone(), one.clone()], &Against::default())).join("\n");
    for expected in ["the name `lb-1` is also in", "the address 10.0.0.11 is also in", "the priority 101 is also that of"] {
        assert!(told.contains(expected), "{expected}: {told}");
    }
    let stranger = two.replace("10.0.0.10", "10.0.0.9").replace("10.0.0.100-10.0.0.150", "10.0.0.140-10.0.0.160");
    let told = messages(&checked(&[one.clone(), stranger], &Against::default())).join("\n");
    for expected in ["the VRRP id 51 is also that of", "overlaps 10.0.0.100-10.0.0.150", "has another endpoint"] {
        assert!(told.contains(expected), "{expected}: {told}");
    }
    let taken = two.replace("10.0.0.12/24", "10.0.0.120/24").replace("10.0.0.12:", "10.0.0.120:");
    let told = messages(&checked(&[one.clone(), taken], &Against::default())).join("\n");
    assert!(told.contains("10.0.0.120 is in the service pool") && told.contains("`peers` lacks"), "{told}");
    let first = sample("control-plane-first.toml");
    let second = first.replace("cp-1", "cp-9");
    let told = messages(&checked(&[first, second], &Against::default())).join("\n");
    assert!(told.contains("has its first control plane in"), "{told}");
}

#[test]
fn a_secret_is_never_shown_with_a_fault_found_here() {
    let one = sample("load-balancer.toml").replace("id = 51", "id = 51\npassword = \"geheim\"");
    let all = checked(&[one.clone(), one], &Against::default());
    let shown = all.iter().map(|checked| checked.render(Style::Plain)).collect::<String>();
    assert!(shown.contains("is also in") && !shown.contains("geheim"), "{shown}");
}

/// The bound is 1 s for 200; a debug build on a busy machine gets some room.
#[test]
fn the_profiles_of_a_large_site_are_checked_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let one = sample("load-balancer.toml");
    let texts: Vec<String> = (0..200)
        .map(|number| {
            one.replace("lb-1", &format!("lb-{number}"))
                .replace("\"site-a\"", &format!("\"site-{number}\""))
                .replace("10.0.0.", &format!("10.1.{number}."))
        })
        .collect();
    let paths = files(folder.path(), &texts);
    let start = Instant::now();
    let all = check(&paths, &Against::default()).unwrap();
    let took = start.elapsed();
    assert!(all.iter().all(Checked::good), "{:?}", messages(&all).first());
    assert!(took < Duration::from_secs(3), "{took:?}");
    println!("200 profiles in {took:?}");
}
