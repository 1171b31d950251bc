//! What changed between two images, with the reason for every file: facts in ([`Snapshot`]),
//! [`Difference`] out, text or JSON of it.

pub mod snapshot;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use serde::Serialize;

use crate::error::{Error, Kind, Result};
use crate::inspect::bars::{Style, harmless, signed_size, size, total};

/// Changed files shown one by one for one reason; the JSON has all.
const SHOWN: usize = 10;

/// What is compared.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    /// Package versions by name.
    pub packages: BTreeMap<String, String>,
    /// Container images on board, by their names: tag and digest.
    pub containers: BTreeMap<String, String>,
    /// Files by path without leading `/`.
    pub files: BTreeMap<String, FileFact>,
    /// Single settings: kernel command line, root hash, sizes of partitions.
    pub settings: BTreeMap<String, String>,
}

/// One file, or anything else with a path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FileFact {
    /// Bytes; 0 for what is no regular file.
    pub size: u64,
    /// Digest of the content, or what stands for it (target of a link, device number).
    pub content: String,
    /// Mode with the type of file, owner, group and attributes in one text: `100644 0:0`.
    pub metadata: String,
    /// The package it comes from, if any.
    pub package: Option<String>,
}

/// A value before and after; `None` where there is none.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Change<T> {
    /// What changed.
    pub name: String,
    /// In the first image.
    pub before: Option<T>,
    /// In the second image.
    pub after: Option<T>,
}

/// Why a file is not the same.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case", tag = "reason", content = "package")]
pub enum Reason {
    /// Its package changed its version, came or went.
    Package(String),
    /// Its package is the same, so what was laid over or generated changed it.
    Overlay(String),
    /// It belongs to no package: a file of the definition, or made by a maintainer script.
    Definition,
}

/// A file that changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FileChange {
    /// Before and after.
    #[serde(flatten)]
    pub change: Change<FileFact>,
    /// Why.
    #[serde(flatten)]
    pub reason: Reason,
    /// Content is the same; only mode, owner or attributes changed.
    pub only_metadata: bool,
}

/// All changes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// Changed settings.
    pub settings: Vec<Change<String>>,
    /// Changed packages.
    pub packages: Vec<Change<String>>,
    /// Changed container images.
    pub containers: Vec<Change<String>>,
    /// Changed files, by path.
    pub files: Vec<FileChange>,
    /// Bytes of all files before and after.
    pub bytes: (u64, u64),
}

/// Compares two images.
pub fn compare(before: &Snapshot, after: &Snapshot) -> Difference {
    let packages = changes(&before.packages, &after.packages);
    let moved: BTreeSet<&str> = packages.iter().map(|change| change.name.as_str()).collect();
    let files = changes(&before.files, &after.files).into_iter().map(|change| file_change(change, &moved)).collect();
    let bytes = |snapshot: &Snapshot| total(snapshot.files.values().map(|file| file.size));
    Difference {
        settings: changes(&before.settings, &after.settings),
        containers: changes(&before.containers, &after.containers),
        files,
        bytes: (bytes(before), bytes(after)),
        packages,
    }
}

fn changes<T: Clone + PartialEq>(before: &BTreeMap<String, T>, after: &BTreeMap<String, T>) -> Vec<Change<T>> {
    let names: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
    let different = names.into_iter().filter(|name| before.get(*name) != after.get(*name));
    different
        .map(|name| Change { name: name.clone(), before: before.get(name).cloned(), after: after.get(name).cloned() })
        .collect()
}

fn file_change(change: Change<FileFact>, moved: &BTreeSet<&str>) -> FileChange {
    let packages = [&change.before, &change.after].map(|fact| fact.as_ref().and_then(|fact| fact.package.clone()));
    // The package that changed, be it the old owner or the new one.
    let by_package = packages.iter().flatten().find(|package| moved.contains(package.as_str()));
    let reason = match (by_package, packages.iter().flatten().next()) {
        (Some(package), _) => Reason::Package(package.clone()),
        (None, Some(package)) => Reason::Overlay(package.clone()),
        (None, None) => Reason::Definition,
    };
    let only_metadata = matches!((&change.before, &change.after), (Some(a), Some(b)) if a.content == b.content);
    FileChange { change, reason, only_metadata }
}

impl Difference {
    /// Whether nothing changed.
    pub fn is_empty(&self) -> bool {
        self.settings.is_empty() && self.packages.is_empty() && self.containers.is_empty() && self.files.is_empty()
    }
}

/// The difference as JSON, one object.
///
/// # Errors
/// Never in practice: all fields are plain.
pub fn to_json(difference: &Difference) -> Result<String> {
    serde_json::to_string_pretty(difference).map_err(|e| Error::new(Kind::Failed, format!("writing the difference as JSON: {e}")))
}

/// The difference as text, files grouped by reason, largest change of size first.
pub fn render(difference: &Difference, style: Style) -> String {
    if difference.is_empty() {
        return "no difference\n".to_owned();
    }
    let mut text = String::new();
    values("Settings", &difference.settings, style, &mut text);
    values("Packages", &difference.packages, style, &mut text);
    values("Container images", &difference.containers, style, &mut text);
    let mut groups: BTreeMap<&Reason, Vec<&FileChange>> = BTreeMap::new();
    for file in &difference.files {
        groups.entry(&file.reason).or_default().push(file);
    }
    let mut groups: Vec<_> = groups.into_iter().map(|(reason, files)| (weight(&files), reason, files)).collect();
    groups.sort_by(|a, b| b.0.cmp(&a.0).then(a.1.cmp(b.1)));
    if !groups.is_empty() {
        let (before, after) = difference.bytes;
        let sum = format!(
            "Files: {} changed, {} -> {} ({})",
            difference.files.len(),
            size(before),
            size(after),
            signed_size(before, after)
        );
        let _ = writeln!(text, "{}", style.paint("1", &sum));
    }
    groups.iter().for_each(|(_, reason, files)| group(reason, files, style, &mut text));
    text
}

fn values(title: &str, changes: &[Change<String>], style: Style, text: &mut String) {
    if changes.is_empty() {
        return;
    }
    let _ = writeln!(text, "{}", style.paint("1", &format!("{title}: {} changed", changes.len())));
    for change in changes {
        let name = harmless(&change.name);
        let line = match (&change.before, &change.after) {
            (None, Some(after)) => style.paint("32", &format!("+ {name} {}", harmless(after))),
            (Some(before), None) => style.paint("31", &format!("- {name} {}", harmless(before))),
            (before, after) => {
                let word = |value: &Option<String>| harmless(value.as_deref().unwrap_or(""));
                style.paint("33", &format!("~ {name} {} -> {}", word(before), word(after)))
            }
        };
        let _ = writeln!(text, "  {line}");
    }
}

fn sizes(file: &FileChange) -> (u64, u64) {
    let bytes = |fact: &Option<FileFact>| fact.as_ref().map_or(0, |fact| fact.size);
    (bytes(&file.change.before), bytes(&file.change.after))
}

fn weight(files: &[&FileChange]) -> u64 {
    total(files.iter().map(|file| sizes(file)).map(|(before, after)| before.abs_diff(after)))
}

fn group(reason: &Reason, files: &[&FileChange], style: Style, text: &mut String) {
    let why = match reason {
        Reason::Package(package) => format!("because the package {} changed", harmless(package)),
        Reason::Overlay(package) => format!("generated or laid over the unchanged package {}", harmless(package)),
        Reason::Definition => "of no package: definition or maintainer scripts".to_owned(),
    };
    let (before, after) =
        files.iter().map(|file| sizes(file)).fold((0u64, 0u64), |sum, (b, a)| (sum.0.saturating_add(b), sum.1.saturating_add(a)));
    let _ = writeln!(
        text,
        "  {} file{}, {}, {why}",
        files.len(),
        if files.len() == 1 { "" } else { "s" },
        signed_size(before, after)
    );
    let mut sorted = files.to_vec();
    sorted.sort_by(|a, b| weight(&[b]).cmp(&weight(&[a])).then(a.change.name.cmp(&b.change.name)));
    for file in sorted.iter().take(SHOWN) {
        let (before, after) = sizes(file);
        let (code, sign) = match (&file.change.before, &file.change.after) {
            (None, _) => ("32", "+"),
            (_, None) => ("31", "-"),
            _ => ("33", "~"),
        };
        let how = match (&file.change.before, &file.change.after) {
            (Some(a), Some(b)) if a.metadata != b.metadata => format!("  {} -> {}", harmless(&a.metadata), harmless(&b.metadata)),
            _ => String::new(),
        };
        let line = format!("{sign} {:>10}  {}", signed_size(before, after), harmless(&file.change.name));
        let _ = writeln!(text, "    {}{how}", style.paint(code, &line));
    }
    if sorted.len() > SHOWN {
        let _ = writeln!(text, "      and {} more", sorted.len() - SHOWN);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fact(size: u64, content: &str, package: &str) -> FileFact {
        let package = (!package.is_empty()).then(|| package.to_owned());
        FileFact { size, content: content.to_owned(), metadata: "100644 0:0".to_owned(), package }
    }

    fn snapshot(packages: &[(&str, &str)], files: &[(&str, FileFact)], hash: &str) -> Snapshot {
        Snapshot {
            packages: packages.iter().map(|(name, version)| ((*name).to_owned(), (*version).to_owned())).collect(),
            files: files.iter().map(|(path, fact)| ((*path).to_owned(), fact.clone())).collect(),
            containers: BTreeMap::new(),
            settings: BTreeMap::from([("root hash".to_owned(), hash.to_owned())]),
        }
    }

    fn pair() -> (Snapshot, Snapshot) {
        let mut setuid = fact(10, "same", "bash");
        setuid.metadata = "104755 0:0".to_owned();
        let many: Vec<(String, FileFact)> = (0..12).map(|n| (format!("usr/share/{n:02}"), fact(n, "x", "haproxy"))).collect();
        let mut before = vec![
            ("usr/sbin/haproxy", fact(1000, "a", "haproxy")),
            ("etc/hosts", fact(5, "a", "")),
            ("etc/bash.bashrc", fact(7, "a", "bash")),
            ("bin/x", fact(10, "same", "bash")),
            ("gone", fact(3, "a", "old")),
            ("same", fact(3, "a", "bash")),
        ];
        before.extend(many.iter().map(|(path, fact)| (path.as_str(), fact.clone())));
        let after = [
            ("usr/sbin/haproxy", fact(5000, "b", "haproxy")),
            ("etc/hosts", fact(6, "b", "")),
            ("etc/bash.bashrc", fact(7, "b", "bash")),
            ("bin/x", setuid),
            ("new\u{7}name", fact(9, "n", "")),
            ("same", fact(3, "a", "bash")),
        ];
        let old = snapshot(&[("haproxy", "3.0.1"), ("bash", "5"), ("old", "1")], &before, "48ab");
        (old, snapshot(&[("haproxy", "3.0.2"), ("bash", "5"), ("young", "1")], &after, "99cd"))
    }

    #[test]
    fn every_file_has_its_reason() {
        let (mut before, after) = pair();
        before.containers.insert("registry.k8s.io/pause".to_owned(), "3.10 sha256:012345678901".to_owned());
        let difference = compare(&before, &after);
        let reason = |path: &str| difference.files.iter().find(|file| file.change.name == path).map(|file| file.reason.clone());
        assert_eq!(reason("usr/sbin/haproxy"), Some(Reason::Package("haproxy".to_owned())));
        assert_eq!(reason("gone"), Some(Reason::Package("old".to_owned())));
        assert_eq!(reason("etc/bash.bashrc"), Some(Reason::Overlay("bash".to_owned())));
        assert_eq!(reason("etc/hosts"), Some(Reason::Definition));
        assert_eq!(reason("same"), None);
        let metadata: Vec<&str> = difference.files.iter().filter(|f| f.only_metadata).map(|f| f.change.name.as_str()).collect();
        assert_eq!(metadata, ["bin/x"]);
        insta::assert_snapshot!(render(&difference, Style::PLAIN));
        let json: serde_json::Value = serde_json::from_str(&to_json(&difference).unwrap()).unwrap();
        assert_eq!(json["packages"].as_array().unwrap().len(), 3);
        assert_eq!(json["files"].as_array().unwrap().len(), difference.files.len());
    }

    #[test]
    fn equal_images_have_no_difference() {
        let (before, _) = pair();
        assert!(compare(&before, &before).is_empty());
        assert_eq!(render(&compare(&before, &before), Style::PLAIN), "no difference\n");
    }
}
