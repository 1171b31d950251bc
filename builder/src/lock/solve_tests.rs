use std::fmt::Write;

use trust::Sha256Digest;

use super::*;
use crate::definition::{Budgets, DiskShape, Kernel, Pin, Role, Units, Wanted};
use crate::epoch::Epoch;
use crate::lock::{Index, LockedRelease};

/// A definition that wants these relations, at `test.toml:1`, `test.toml:2` and so on.
pub(in crate::lock) fn definition(install: &[&str]) -> Definition {
    let wanted =
        |(at, relation): (usize, &&str)| Wanted { relation: (*relation).to_owned(), origin: format!("test.toml:{}", at + 1) };
    Definition {
        description: None,
        name: "test".to_owned(),
        version: "1".to_owned(),
        role: Role::LoadBalancer,
        architecture: "amd64".to_owned(),
        repositories: Vec::new(),
        install: install.iter().enumerate().map(wanted).collect(),
        without: Vec::new(),
        pins: Vec::new(),
        ids: Vec::new(),
        kubernetes: None,
        containers: Vec::new(),
        files: Vec::new(),
        exclude: Vec::new(),
        keep: Vec::new(),
        users: Vec::new(),
        units: Units::default(),
        kernel: Kernel::default(),
        disk: DiskShape { esp: 0, slot: 0, verity: 0 },
        budgets: Budgets::default(),
        sources: Vec::new(),
        resolution: Sha256Digest::of(b""),
        digest: Sha256Digest::of(b""),
    }
}

/// Indexes of (repository, suite, priority, packages), packages as `name version` lines followed by
/// indented fields.
pub(in crate::lock) fn sources(sources: &[(&str, &str, i32, &str)]) -> Indexes {
    let mut all = Indexes::default();
    for (repository, suite, priority, packages) in sources {
        let mut text = String::new();
        for line in packages.lines().filter(|line| !line.trim().is_empty()) {
            if line.starts_with(' ') {
                writeln!(text, "{}", line.trim()).unwrap();
                continue;
            }
            let (name, version) = line.split_once(' ').unwrap();
            let digest = Sha256Digest::of(line.as_bytes());
            write!(text, "\nPackage: {name}\nVersion: {version}\nArchitecture: amd64\nSize: 1\nSHA256: {digest}\n").unwrap();
            writeln!(text, "Filename: pool/{repository}/{name}_{version}.deb").unwrap();
        }
        all.releases.push(LockedRelease {
            repository: (*repository).to_owned(),
            suite: (*suite).to_owned(),
            date: Epoch(1_000 + all.releases.len() as u64),
            sha256: Sha256Digest::of(b""),
            signed_by: "00".to_owned(),
        });
        all.indexes.push(Index {
            repository: (*repository).to_owned(),
            suite: (*suite).to_owned(),
            aliases: Vec::new(),
            priority: *priority,
            path: "Packages".to_owned(),
            text,
        });
    }
    all
}

fn show(lock: &Lock) -> String {
    let one = |package: &LockedPackage| format!("{}={}<{}", package.name, package.version, package.because);
    lock.packages.iter().map(one).collect::<Vec<_>>().join(" ")
}

#[test]
fn choices_follow_apts_rules() {
    for (title, install, packages, expected) in [
        ("depends", "a", "a 1\n Depends: b (>= 1)\nb 2\nc 1", "a=1<wanted b=2<a"),
        ("pre-depends", "a", "a 1\n Pre-Depends: b\nb 2", "a=1<wanted b=2<a"),
        ("no recommends", "a", "a 1\n Recommends: b\nb 2", "a=1<wanted"),
        ("broken provides", "a", "a 1\na 2\n Provides: )", "a=1<wanted"),
        ("highest version", "a", "a 1\na 1:0~1\na 2", "a=1:0~1<wanted"),
        ("version asked for", "a (<< 2)", "a 1\na 2\na 1.5", "a=1.5<wanted"),
        ("essential", "a", "a 1\ne 1\n Essential: yes\n Depends: f\nf 1", "a=1<wanted e=1<essential f=1<e"),
        ("first alternative", "a | b", "a 1\nb 1", "a=1<wanted"),
        ("next alternative", "a | b", "a 1\n Depends: nothing\nb 1", "b=1<wanted"),
        ("real before virtual", "x", "a 1\n Provides: v\nv 1\nx 1\n Depends: v", "v=1<x x=1<wanted"),
        ("last provider by name", "v", "a 1\n Provides: v\nc 1\n Provides: v\nb 1\n Provides: v", "c=1<wanted"),
        ("provider by priority", "v", "a 1\n Provides: v\nb 1\n Provides: v\n Priority: important", "b=1<wanted"),
        ("versioned provides", "x", "x 1\n Depends: v (>= 2)\na 1\n Provides: v\nb 1\n Provides: v (= 2)", "b=1<x x=1<wanted"),
        ("conflict avoided", "x, b", "x 1\n Depends: a | c\na 1\n Conflicts: b\nb 1\nc 1", "b=1<wanted c=1<x x=1<wanted"),
        ("breaks older only", "a, b", "a 1\n Breaks: b (<< 2)\nb 2", "a=1<wanted b=2<wanted"),
        ("own virtual", "a", "a 1\n Provides: v\n Conflicts: v\nb 1\n Provides: v", "a=1<wanted"),
        ("any", "x", "x 1\n Depends: p:any\np 1\n Multi-Arch: allowed", "p=1<x x=1<wanted"),
        ("needed anyway goes first", "x", "x 1\n Depends: a | b, c\nc 1\n Depends: b\na 1\nb 1", "b=1<c c=1<x x=1<wanted"),
    ] {
        let lock = resolve(&definition(&[install]), &sources(&[("debian", "trixie", 500, packages)]));
        assert_eq!(show(&lock.unwrap_or_else(|error| panic!("{title}: {error}"))), expected, "{title}");
    }
}

#[test]
fn sources_are_weighed_as_apt_does() {
    let pin = |package: &str, release: &str, priority| Pin {
        package: package.to_owned(),
        version: None,
        release: Some(release.to_owned()),
        priority,
        origin: "test.toml:9".to_owned(),
    };
    let world = sources(&[
        ("debian", "trixie", 500, "a 1\nb 1"),
        ("security", "trixie-security", 500, "a 1.1"),
        ("debian", "trixie-backports", 100, "a 3\nb 1\nn 1"),
    ]);
    for (pins, expected) in [
        (vec![], "a=1.1<wanted from trixie-security b=1<wanted from trixie n=1<wanted from trixie-backports"),
        (
            vec![pin("a", "trixie-backports", 500)],
            "a=3<wanted from trixie-backports b=1<wanted from trixie n=1<wanted from trixie-backports",
        ),
        (vec![pin("*", "trixie", 1001)], "a=1<wanted from trixie b=1<wanted from trixie n=1<wanted from trixie-backports"),
    ] {
        let lock = resolve(&Definition { pins, ..definition(&["a", "b", "n"]) }, &world).unwrap();
        let one = |p: &LockedPackage| format!("{}={}<{} from {}", p.name, p.version, p.because, p.suite);
        assert_eq!(lock.packages.iter().map(one).collect::<Vec<_>>().join(" "), expected);
        assert_eq!((lock.epoch, lock.releases.len()), (Epoch(1_002), 3));
        assert_eq!(Lock::parse("x", &lock.to_text()).unwrap(), lock);
    }
    let never = resolve(&Definition { pins: vec![pin("n", "debian", -1)], ..definition(&["n"]) }, &world).unwrap_err();
    assert!(never.to_string().contains("the pin at test.toml:9: priority -1 means never"), "{never}");
}

#[test]
fn refusals_explain_themselves() {
    for (install, packages, expected) in [
        ("haprxoy", "haproxy 3", &["test.toml:1: there is no package `haprxoy`", "did you mean `haproxy`?"][..]),
        (
            "a (>= 2)",
            "a 1",
            &["test.toml:1 wants `a (>= 2)`, which is not to be had", "there is a 1 (debian trixie), but `>= 2`"],
        ),
        (
            "a",
            "a 1\n Depends: bb (>= 2)\nbb 1\nc 1\n Provides: bb",
            &[
                "test.toml:1 wants `a`: that is a 1",
                "a 1 (debian trixie) needs `bb (>= 2)`, which",
                "c 1 (debian trixie) provides no version",
            ],
        ),
        (
            "a",
            "a 1\n Depends: openssh-servr\nopenssh-server 1",
            &["no package `openssh-servr`", "did you mean `openssh-server`?"],
        ),
        (
            "a, b",
            "a 1\n Depends: c\nb 1\nc 1\n Breaks: b (<< 2)",
            &["needs `c`: that is c 1", "c 1 (debian trixie) cannot be together with b 1 (debian trixie) (`Breaks: b (<< 2)`)"],
        ),
        ("a", "a 1\ne 1\n Essential: yes\n Conflicts: a", &["e 1 (debian trixie) is Essential", "cannot be together with a 1"]),
        ("a", "a 1\n Depends: )(", &["a 1 (debian trixie) cannot be taken: its Depends is broken"]),
        ("a", "a 1\n Depends: x\nx 1", &["there is x 1 (debian trixie), but the definition excludes it by `without`"]),
        ("a", "a 1\n Depends: p:any\np 1", &["there is p 1 (debian trixie), but `p:any` is asked for"]),
        (
            "a (= 2)",
            "a 1\na 2\n Provides: )",
            &["there is a 2 (debian trixie), but its Provides is broken", "there is a 1 (debian"],
        ),
        ("a |", "a 1", &["test.toml:1: `` is no package relation"]),
        (
            "a | b",
            "a 1\n Depends: n1\nb 1\n Depends: n2",
            &["wants `a | b`: that is one of a 1 (debian trixie), b 1", "no package `n1`", "no package `n2`"],
        ),
    ] {
        let definition = Definition { without: vec!["x".to_owned()], ..definition(&[install]) };
        let error = resolve(&definition, &sources(&[("debian", "trixie", 500, packages)])).unwrap_err();
        let said = format!("{error:?}");
        assert_eq!(error.kind(), Kind::Document);
        expected.iter().for_each(|part| assert!(said.contains(part), "{install}: {part}\n{said}"));
    }
}

#[test]
fn a_broken_index_is_named() {
    let mut world = sources(&[("debian", "trixie", 500, "a 1")]);
    world.indexes[0].text.push_str("\nPackage: b\n\n");
    let said = resolve(&definition(&["a"]), &world).unwrap_err().to_string();
    assert!(said.contains("the index `Packages` of `debian`: line "), "{said}");
}
