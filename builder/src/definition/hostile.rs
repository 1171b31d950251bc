//! Walks `tests/hostile/definition`: each folder is one wrong definition and the exact text and
//! exit code it gets. `RECORD=1 cargo test` writes the texts anew; read the difference before you commit it.

use std::fs;
use std::path::{Path, PathBuf};

use super::load::Disk;
use super::parse;

fn cases() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/hostile/definition");
    let mut cases: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    cases.sort();
    cases
}

/// What a person is told, with the exit code.
fn told(case: &Path) -> String {
    let folder = Disk::open(case, Path::new("")).unwrap();
    match parse(Path::new("definition.toml"), &folder) {
        Ok(definition) => format!("no fault: {definition:#?}\n"),
        Err(error) => {
            let hints: String = error.hints().iter().map(|hint| format!("hint: {hint}\n")).collect();
            format!("exit code {}\n{error}\n{hints}", error.kind().exit_code())
        }
    }
}

#[test]
fn wrong_definitions_are_refused_in_these_words() {
    #[allow(clippy::disallowed_methods)] // a test, not an output
    let record = std::env::var_os("RECORD").is_some();
    let cases = cases();
    assert!(cases.len() >= 30, "{} cases", cases.len());
    let mut differing = String::new();
    for case in cases {
        let told = told(&case);
        assert!(told.starts_with("exit code 3\n") || told.starts_with("exit code 2\n"), "{}: {told}", case.display());
        let path = case.join("expected.txt");
        let expected = fs::read_to_string(&path).unwrap_or_default();
        if told != expected && record {
            fs::write(&path, &told).unwrap();
        } else if told != expected {
            differing += &format!("--- {}\n{expected}+++ now\n{told}", case.display());
        }
    }
    assert!(differing.is_empty(), "{differing}");
}
