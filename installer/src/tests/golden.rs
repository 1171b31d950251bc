//! Golden folders: `tests/golden/NN-name/{profile.toml, root/} -> expected/`. `INGOT_BLESS=1` writes what is expected.

use std::fmt::Write;
use std::fs;

use super::{golden, machine_of, profile, tree};
use crate::machine::scripted::{Faults, Scripted};
use crate::sequence::{preview, run};

#[test]
fn golden_folders() {
    let mut cases = Vec::new();
    for entry in fs::read_dir(golden()).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        if name.starts_with(|c: char| c.is_ascii_digit()) {
            cases.push(name);
        }
    }
    cases.sort();
    assert!(cases.len() >= 6, "{cases:?}");
    cases.iter().for_each(|case| one(case));
}

/// One text for the whole outcome: the plan, what was said and run, and each file that is new or changed.
#[expect(clippy::disallowed_methods, reason = "a switch of the test")]
fn one(case: &str) {
    let root = machine_of(case);
    let before = tree(root.path());
    let machine = Scripted::new(root.path(), Faults::default());
    let plan = preview(&machine, &profile()).unwrap_or_default();
    assert_eq!(tree(root.path()), before, "{case}: a preview changes nothing");
    let result = run(&machine, &profile());
    let mut text = format!("# outcome\n{}\n", result.as_ref().err().map_or("ready".to_owned(), |failure| format!("{failure:?}")));
    let _ = write!(text, "\n# plan\n{plan}\n# console\n{}\n", machine.lines.borrow().join("\n"));
    let _ = write!(text, "\n# programs\n{}\n", machine.commands.borrow().join("\n"));
    for (path, (mode, content)) in tree(root.path()) {
        if before.get(&path) != Some(&(mode, content.clone())) && !path.starts_with("/sys") {
            let _ = write!(text, "\n# {path} {mode:04o}\n{content}");
        }
    }
    let expected = golden().join(case).join("expected/outcome.txt");
    if std::env::var_os("INGOT_BLESS").is_some() {
        fs::create_dir_all(expected.parent().unwrap()).unwrap();
        fs::write(&expected, &text).unwrap();
    }
    let expected = fs::read_to_string(&expected).unwrap();
    for (number, (found, wanted)) in text.lines().zip(expected.lines()).enumerate() {
        assert_eq!(found, wanted, "{case}: line {}", number + 1);
    }
    assert_eq!(text, expected, "{case}");
}
