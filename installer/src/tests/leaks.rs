//! Where no secret of a profile may be: told, planned, noted, sent, bundled, given to programs, or readable for everybody.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::path::Path;

use profile::conceal::conceal;
use profile::secret::Secret;

use super::{golden, machine_of, profile, tree};
use crate::blot::Blot;
use crate::machine::scripted::{Faults, Scripted};
use crate::sequence::{check, preview, run};
use crate::{diagnose, find};

/// The secrets of a golden folder: in the profile, in its encrypted part, in credentials.
fn secrets(case: &str) -> Vec<Secret> {
    let folder = golden().join(case);
    let text = fs::read(folder.join("profile.toml")).unwrap();
    let part = fs::read_to_string(folder.join("part.toml")).ok().map(Secret::new);
    let mut all = conceal(&text, part.as_ref()).secrets;
    for entry in fs::read_dir(folder.join("root/run/credentials/@system")).unwrap() {
        all.push(Secret::new(fs::read_to_string(entry.unwrap().path()).unwrap().trim().to_owned()));
    }
    all
}

/// Everything that is told of a machine, by where; and what is meant for the server of the reports and the proxy alone.
fn told(root: &Path) -> (BTreeMap<String, String>, Vec<String>) {
    let machine = Scripted::new(root, Faults::default());
    let mut told = BTreeMap::new();
    told.insert("plan".to_owned(), preview(&machine, &profile()).unwrap());
    told.insert("check".to_owned(), check(&machine, &profile()).unwrap());
    run(&machine, &profile()).unwrap();
    told.insert("arguments".to_owned(), machine.commands.borrow().join("\n"));
    told.insert("console".to_owned(), machine.lines.borrow().join("\n"));
    told.insert("notices".to_owned(), machine.notices.borrow().join("\n"));
    let entries = machine.entries.borrow().concat();
    told.insert("journald".to_owned(), String::from_utf8_lossy(&entries).into_owned());
    let mut meant = Vec::new();
    for ask in machine.net.asked.lock().unwrap().iter() {
        let body = ask.post.as_deref().unwrap_or_default();
        told.insert(format!("event {}", told.len()), format!("{} {}", ask.url, String::from_utf8_lossy(body)));
        let login = ask.via.iter().filter_map(|via| via.login.as_ref()).map(|(_, password)| password);
        meant.extend(ask.authorization.iter().chain(login).map(|secret| secret.expose().to_owned()));
    }
    // Now it is the kept profile that is looked at.
    let (subject, findings) = diagnose::diagnose(&machine);
    told.insert("diagnose".to_owned(), diagnose::words(&findings) + &diagnose::json(&findings));
    fs::create_dir_all(root.join("tmp")).unwrap();
    diagnose::write_bundle(&machine, &subject, &findings, "/tmp/bundle.tar.gz").unwrap();
    let file = fs::File::open(root.join("tmp/bundle.tar.gz")).unwrap();
    let mut tar = tar::Archive::new(flate2::read::GzDecoder::new(file));
    for entry in tar.entries().unwrap() {
        let mut entry = entry.unwrap();
        let name = format!("bundle: {}", entry.path().unwrap().display());
        let mut text = String::new();
        entry.read_to_string(&mut text).unwrap();
        told.insert(name, text);
    }
    assert!(told.len() > 10, "{:?}", told.keys());
    (told, meant)
}

#[test]
fn no_secret_of_a_profile_is_told_or_readable() {
    for case in ["03-everything", "08-encrypted", "20-load-balancer"] {
        let secrets = secrets(case);
        assert!(!secrets.is_empty());
        let root = machine_of(case);
        let (told, meant) = told(root.path());
        let given = |path: &str| path.starts_with("/run/credentials") || path == "/profile.toml";
        let files = tree(root.path()).into_iter().filter(|(path, _)| !given(path));
        let (open, private): (Vec<_>, Vec<_>) = files.partition(|(_, (mode, _))| mode & 0o004 != 0);
        for (number, secret) in secrets.iter().enumerate() {
            let blot = Blot::of([secret]);
            for (place, text) in &told {
                assert_eq!(blot.found(text), None, "{case}: {place} tells secret {number}: {text}");
            }
            for (path, (mode, text)) in &open {
                assert_eq!(blot.found(text), None, "{case}: {path} {mode:o} holds secret {number}");
            }
            // What nobody finds anywhere would prove nothing.
            let key = secret.expose().contains("AGE-SECRET-KEY");
            let mut places = private.iter().map(|(_, (_, text))| text).chain(&meant);
            let used = places.any(|text| blot.found(text).is_some());
            assert!(used || key, "{case}: secret {number} is in no file that its program could read");
        }
        let kept = fs::read_to_string(root.path().join(find::KEPT.trim_start_matches('/'))).unwrap();
        assert_eq!(kept, fs::read_to_string(golden().join(case).join("profile.toml")).unwrap(), "as it was signed");
    }
}

/// What goes wrong with a secret says which, and nothing of it.
#[test]
fn errors_about_secrets_do_not_show_them() {
    let root = machine_of("08-encrypted");
    let key = root.path().join("run/credentials/@system/ingot.age-identity");
    let other = profile::sealed::Identity::generate().file();
    let good = fs::read_to_string(&key).unwrap();
    let text = fs::read_to_string(root.path().join("profile.toml")).unwrap();
    let at = text.find("ZC9").or(text.find("YWdl")).unwrap() + 200;
    let damaged = format!("{}{}{}", &text[..at], if &text[at..=at] == "A" { "B" } else { "A" }, &text[at + 1..]);
    let body = good.split_once("SECRET-KEY-1").map(|(_, body)| &body[..20]).unwrap();
    let half = &good[..good.trim().len() - 10];
    let cases = [
        (None, &text, "INGOT-N0203", "there is no credential `ingot.age-identity`"),
        (Some(""), &text, "INGOT-N0203", "there is no key"),
        (Some(half), &text, "INGOT-N0203", "line 2 is no key"),
        (Some(other.expose()), &text, "INGOT-N0206", "for other keys than this machine's, age1"),
        (Some(good.as_str()), &damaged, "INGOT-N0206", "it is damaged"),
    ];
    for (given, text, code, words) in cases {
        let _ = fs::remove_file(&key);
        if let Some(given) = given {
            fs::write(&key, given).unwrap();
        }
        fs::write(root.path().join("profile.toml"), text).unwrap();
        let before = tree(root.path());
        let machine = Scripted::new(root.path(), Faults::default());
        let failure = run(&machine, &profile()).unwrap_err();
        let said = format!("{failure}\n{}", machine.lines.borrow().join("\n"));
        assert_eq!(failure.code().number, code, "{said}");
        assert!(said.contains(words), "{said}");
        assert!(!said.contains(body) && !said.contains("inside"), "{said}");
        let mut after = tree(root.path());
        after.retain(|path, _| path != "/run/ingot/status.json");
        let mut before = before;
        before.retain(|path, _| path != "/run/ingot/status.json");
        assert!(before == after && machine.commands.borrow().is_empty(), "{code}: something was done");
    }
}
