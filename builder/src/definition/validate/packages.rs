//! Repositories, packages and pins.

use std::collections::BTreeMap;

use profile::document::quoted;

use super::super::{Pin, Repository, Wanted, merge, relation, rules, schema};
use super::Check;

/// Checks the repositories and reads their keys.
pub(super) fn repositories(check: &mut Check<'_>, written: &[schema::Repository]) -> Vec<Repository> {
    written.iter().map(|repository| one_repository(check, repository)).collect()
}

fn one_repository(check: &mut Check<'_>, written: &schema::Repository) -> Repository {
    let name = check.text(&written.name, &rules::NAME);
    for (what, list) in [("suite", &written.suites), ("component", &written.components), ("key file", &written.keys)] {
        merge::twice(what, list, &mut check.faults);
    }
    if written.suites.is_empty() {
        check.faults.add(written.name.place(), format!("the repository {} has no suites", quoted(&name)));
    }
    if written.keys.is_empty() && !check.around.overrides.keys.contains_key(&name) {
        let message = format!("the repository {} has no keys", quoted(&name));
        check.faults.add_with_hint(
            written.name.place(),
            message,
            "nothing is taken from a repository nobody signs: name its key file",
        );
    }
    let flat = |suite: &str| suite.ends_with('/');
    if written.components.is_empty() && written.suites.iter().any(|suite| !flat(suite)) {
        let message = format!("the repository {} has no components", quoted(&name));
        check.faults.add_with_hint(
            written.name.place(),
            message,
            "write `components = [\"main\"]`; only flat repositories have none",
        );
    }
    if let Some(component) = written.components.first().filter(|_| written.suites.iter().any(|suite| flat(suite))) {
        check.faults.add(component.place(), "a flat repository (a suite that ends in `/`) has no components");
    }
    if let Some(priority) = written.priority.as_ref().filter(|priority| ***priority == 0) {
        check.faults.add(priority.place(), "the priority 0 means nothing: take a number below it, or from 1 on");
    }
    let fingerprints = check.list(&written.fingerprints, &rules::FINGERPRINT);
    let url = check.text(&written.url, &rules::URL).trim_end_matches('/').to_owned();
    Repository {
        url: check.around.overrides.repositories.get(&name).cloned().unwrap_or(url),
        suites: check.list(&written.suites, &rules::SUITE),
        components: check.list(&written.components, &rules::COMPONENT),
        keys: keys(check, &name, &written.keys, None),
        fingerprints: fingerprints.into_iter().map(|text| text.to_ascii_uppercase()).collect(),
        priority: written.priority.as_ref().map_or(500, |priority| **priority),
        name,
    }
}

/// The keys of a repository: those that the command line names, else those of the document. `hint` is for a file
/// that is not there.
pub(super) fn keys(
    check: &mut Check<'_>,
    repository: &str,
    written: &[schema::Text],
    hint: Option<&str>,
) -> Vec<(std::path::PathBuf, Vec<u8>)> {
    match check.around.overrides.keys.get(repository) {
        Some(keys) => keys.clone(),
        None => written.iter().filter_map(|key| key_file(check, key, hint)).collect(),
    }
}

/// A key file that looks like one; whether its keys hold is seen when they verify something.
fn key_file(check: &mut Check<'_>, name: &schema::Text, hint: Option<&str>) -> Option<(std::path::PathBuf, Vec<u8>)> {
    let (_, bytes) = check.beside(name, hint)?;
    let start: Vec<u8> = bytes.iter().copied().skip_while(u8::is_ascii_whitespace).take(64).collect();
    if start.starts_with(b"-----BEGIN PGP PRIVATE KEY BLOCK-----") {
        let message = format!("the key file {} holds a private key", quoted(name));
        check.faults.add_with_hint(name.place(), message, "export the public half: gpg --armor --export KEY");
        return None;
    }
    // RFC 9580, 4.2: a public key packet (tag 6) with an old or a new header.
    let binary = bytes.first().is_some_and(|byte| *byte == 0xc6 || (0x98..=0x9b).contains(byte));
    if !binary && !start.starts_with(b"-----BEGIN PGP PUBLIC KEY BLOCK-----") {
        let message = format!("the key file {} holds no OpenPGP public key", quoted(name));
        check.faults.add_with_hint(name.place(), message, "expected the output of `gpg --export`, with or without `--armor`");
        return None;
    }
    Some((std::path::PathBuf::from(name.as_str()), bytes))
}

/// Checks what is installed and what must not enter.
pub(super) fn packages(check: &mut Check<'_>, written: &schema::Packages, repositories: usize) -> (Vec<Wanted>, Vec<String>) {
    if let Some(first) = written.install.first().filter(|_| repositories == 0 && check.whole) {
        check.faults.add_with_hint(first.place(), "packages are wanted, but there is no repository", "add a `[[repository]]`");
    }
    let mut sole: BTreeMap<String, usize> = BTreeMap::new();
    let mut install = Vec::new();
    for text in &written.install {
        match relation::parse(text) {
            Ok(relation) => {
                if let [name] = relation.names.as_slice() {
                    sole.insert(name.clone(), install.len());
                }
                install.push(Wanted { relation: relation.text, origin: check.around.texts.show(text.place()) });
            }
            Err((message, Some(hint))) => check.faults.add_with_hint(text.place(), message, hint),
            Err((message, None)) => check.faults.add(text.place(), message),
        }
    }
    for name in &written.without {
        check.text(name, &rules::PACKAGE);
        if let Some(wanted) = sole.get(name.as_str()).and_then(|index| install.get(*index)) {
            let message = format!("the package {} is wanted and must not enter", quoted(name));
            let hint = format!("it is wanted at {}; `packages.remove` takes back what a base says", wanted.origin);
            check.faults.add_with_hint(name.place(), message, hint);
        }
    }
    (install, written.without.iter().map(|name| name.to_string()).collect())
}

/// Checks the pins against the repositories.
pub(super) fn pins(check: &mut Check<'_>, written: &[schema::Pin], repositories: &[Repository]) -> Vec<Pin> {
    let mut known: Vec<&str> = Vec::new();
    for repository in repositories {
        known.push(&repository.name);
        known.extend(repository.suites.iter().map(String::as_str));
    }
    let mut pins = Vec::new();
    for pin in written {
        if pin.package.as_str() != "*" {
            check.text(&pin.package, &rules::PACKAGE);
        }
        if let Some(release) = pin.release.as_ref().filter(|release| check.whole && !known.contains(&release.as_str())) {
            check.unknown(release.place(), "repository or suite", release, &known);
        }
        match (&pin.version, &pin.release) {
            (None, None) => check.faults.add_with_hint(
                pin.package.place(),
                "the pin says neither `version` nor `release`",
                "say which versions it is about: `version = \"3.0.*\"`, or `release = \"trixie-backports\"`",
            ),
            (Some(version), Some(_)) => {
                check.faults.add(version.place(), "a pin is about a `version` or about a `release`, not both");
            }
            _ => {}
        }
        if *pin.priority == 0 {
            check.faults.add(pin.priority.place(), "the priority 0 means nothing: take a number below it, or from 1 on");
        }
        pins.push(Pin {
            package: pin.package.to_string(),
            version: pin.version.as_ref().map(|version| check.text(version, &rules::VERSION_PATTERN)),
            release: pin.release.as_ref().map(|release| release.to_string()),
            priority: *pin.priority,
            origin: check.around.texts.show(pin.package.place()),
        });
    }
    pins
}
