//! Whole profiles: the samples, one that fills every field, hostile ones, and secrets.

mod strings;

use std::fs;
use std::path::{Path, PathBuf};

use proptest::prelude::*;

use crate::{Profile, schema};

fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(path)
}

fn tomls(folder: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(repository(folder)).unwrap().map(|entry| entry.unwrap().path());
    let mut paths: Vec<_> = entries.filter(|path| path.extension().is_some_and(|extension| extension == "toml")).collect();
    paths.sort();
    paths
}

/// Whether this run writes what it would compare.
fn record() -> bool {
    #[allow(clippy::disallowed_methods)] // a test, not an output
    std::env::var_os("RECORD").is_some()
}

#[test]
fn every_sample_is_a_profile() {
    let samples = tomls("profiles");
    assert!(samples.len() >= 5);
    for path in samples {
        Profile::parse("p.toml", &fs::read(&path).unwrap()).unwrap_or_else(|refused| panic!("{}:\n{refused}", path.display()));
    }
}

/// Between them every field of every section, none with its default.
const FULL: [&str; 3] = [
    include_str!("../../../tests/golden/profile/full.toml"),
    include_str!("../../../tests/golden/profile/full-load-balancer.toml"),
    include_str!("../../../tests/golden/profile/full-management.toml"),
];

/// Each secret of [`FULL`] holds this word, and nothing else does.
const MARK: &str = "deadbeef";

#[test]
fn profiles_with_every_field() {
    let mut shown = String::new();
    for text in FULL {
        let profile = Profile::parse("full.toml", text.as_bytes()).unwrap_or_else(|refused| panic!("{refused}"));
        shown += &format!("{profile:#?}\n");
    }
    assert!(!shown.contains(MARK), "a secret prints");
    assert_eq!(shown.matches("Secret(..)").count(), 13, "fewer secrets than the documents have");
    insta::assert_snapshot!(shown);
}

/// A field that is added to the schema must be added to the full profiles.
#[test]
fn the_full_profiles_are_full() {
    let schema: serde_json::Value = serde_json::from_str(&schema::text().unwrap()).unwrap();
    let tables = schema["$defs"].as_object().unwrap().values().chain([&schema]);
    let keys = tables.filter_map(|table| table["properties"].as_object()).flat_map(|table| table.keys());
    let missing: Vec<_> = keys.filter(|key| *key != "credential" && !FULL.concat().contains(key.as_str())).collect();
    assert!(missing.is_empty(), "{missing:?}");
}

#[test]
fn the_json_schema_is_the_one_checked_in() {
    let path = repository("profiles/profile.schema.json");
    let text = schema::text().unwrap();
    if record() {
        fs::write(&path, &text).unwrap();
    }
    assert!(
        fs::read_to_string(&path).unwrap_or_default() == text,
        "RECORD=1 cargo test -p ingot-profile writes {}",
        path.display()
    );
    let schema: serde_json::Value = serde_json::from_str(&text).unwrap();
    for (name, table) in schema["$defs"].as_object().unwrap().iter().filter(|(_, table)| table["properties"].is_object()) {
        assert_eq!(table["additionalProperties"], false, "{name}");
        for (key, field) in table["properties"].as_object().unwrap() {
            assert!(field["description"].is_string() || name == "Secret", "{name}.{key} has no description");
        }
    }
}

/// `RECORD=1 cargo test -p ingot-profile` writes the page.
#[test]
fn the_page_is_as_the_schema() {
    let path = repository("docs/profile.md");
    let text = schema::page::page().unwrap();
    if record() {
        fs::write(&path, &text).unwrap();
    }
    assert!(
        fs::read_to_string(&path).unwrap_or_default() == text,
        "RECORD=1 cargo test -p ingot-profile writes {}",
        path.display()
    );
    for field in ["`schema`", "`[[interface]]`", "`[load_balancer.vrrp]`", "`confirm_secs`", "`[cluster.join]`"] {
        assert!(text.contains(field), "{field}");
    }
}

#[test]
fn hostile_profiles_are_refused_in_these_words() {
    let cases = tomls("tests/hostile/profile");
    assert!(cases.len() >= 40, "{} cases", cases.len());
    let mut differing = String::new();
    for case in cases {
        let name = case.file_name().unwrap().to_string_lossy().into_owned();
        let told = match Profile::parse(&name, &fs::read(&case).unwrap()) {
            Ok(profile) => panic!("{name} is taken: {profile:#?}"),
            Err(refused) => format!("{refused}\n"),
        };
        assert!(!told.contains(MARK), "{name} shows a secret: {told}");
        let path = case.with_extension("txt");
        let expected = fs::read_to_string(&path).unwrap_or_default();
        if told != expected && record() {
            fs::write(&path, &told).unwrap();
        } else if told != expected {
            differing += &format!("--- {name}\n{expected}+++ now\n{told}");
        }
    }
    assert!(differing.is_empty(), "{differing}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Whatever is broken around a secret, nothing that is shown repeats it.
    #[test]
    fn no_fault_shows_a_secret(text in prop::sample::select(&FULL[..]), line in 0usize..200, kind in 0usize..7) {
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        let at = line % lines.len();
        lines[at] = match (kind, lines[at].split_once(" = ")) {
            (0, Some((key, value))) => format!("x{key} = {value}"),
            (1, Some((key, value))) => format!("{key} = [{value}]"),
            (2, Some((key, value))) => format!("{key} = {value}\n{key} = {value}"),
            (3, Some((key, value))) => format!("{key} = {}", value.trim_end_matches('"')),
            (4, Some((key, value))) => format!("{key}\" = {value}"),
            (5, Some((key, value))) => format!("{key} = {}", value.replace('"', "")),
            (_, _) => String::new(),
        };
        if let Err(refused) = Profile::parse("p.toml", lines.join("\n").as_bytes()) {
            prop_assert!(!refused.to_string().contains(MARK), "line {}: {}\n{refused}", at + 1, lines[at]);
        }
    }

    #[test]
    fn no_bytes_make_it_panic(full in prop::sample::select(&FULL[..]), place in 0usize..8000, bytes: Vec<u8>) {
        let mut text = full.as_bytes().to_vec();
        let at = place % text.len();
        text.splice(at..(at + bytes.len()).min(full.len()), bytes);
        if let Err(refused) = Profile::parse("p.toml", &text) {
            prop_assert!(!refused.faults().is_empty());
            refused.render(crate::document::Style::Coloured);
        }
    }
}
