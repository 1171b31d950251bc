//! Wrong definitions, as a user meets them: the right exit code, the place, no panic, nothing left.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "test code")]

use std::fs;

use ingot_tests::fixture::scratch;
use ingot_tests::programs::{ingot, said, top};

#[test]
fn every_wrong_definition_ends_with_its_code_and_its_place() {
    let folder = scratch();
    let mut seen = 0;
    for entry in fs::read_dir(top().join("tests/hostile/definition")).unwrap() {
        let case = entry.unwrap().path();
        let definition = case.join("definition.toml");
        if !definition.exists() {
            continue;
        }
        seen += 1;
        let out = folder.path().join("out");
        let refused = said(ingot(["build", "--offline"]).arg(&definition).arg("--output").arg(&out));
        assert!(matches!(refused.code, 2..=4), "{}: ended with {}\n{}", case.display(), refused.code, refused.err);
        assert!(
            refused.err.starts_with("signing with") || refused.err.starts_with("error:"),
            "{}:\n{}",
            case.display(),
            refused.err
        );
        assert!(!refused.err.contains("panicked"), "{}:\n{}", case.display(), refused.err);
        assert!(!out.exists(), "{}", case.display());
    }
    assert!(seen >= 30, "only {seen} wrong definitions");
}

#[test]
fn wrong_command_lines_are_usage_errors() {
    for (arguments, words) in [
        (vec!["build", "load-balancr"], "load-balancer"),
        (vec!["build", "load-balancer", "--formats", "vdi"], "raw, qcow2 and vhdx"),
        (vec!["build", "load-balancer", "--mirror", "nonsense"], "nonsense"),
        (vec!["bulid"], "build"),
        (vec!["verify", "/nonexistent"], "/nonexistent"),
    ] {
        let refused = said(&mut ingot(&arguments));
        assert_eq!(refused.code, 2, "{arguments:?}: {}", refused.err);
        assert!(refused.err.contains(words), "{arguments:?}: {}", refused.err);
    }
}
