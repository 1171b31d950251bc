//! Every text of the schema, filled with what the files of other programs are written in: refused, or one of the few that
//! hold any text. Those are listed in a snapshot; that each ends as one inert value is tested where it is rendered
//! (`installer/src/tests/texts.rs`).

use std::collections::{BTreeMap, BTreeSet};

use toml::{Table, Value};

use super::FULL;
use crate::Profile;

/// Shells, HAProxy, keepalived, systemd and networkd, sshd, URLs, paths, and what tears lines and terminals.
pub(crate) const HOSTILE: [&str; 30] = [
    "; reboot",
    "$(reboot)",
    "`reboot`",
    "| sh",
    "&& reboot",
    "> /etc/passwd",
    "$HOME",
    "${HOME}",
    "%n",
    "%{+Q}o",
    "\"",
    "'",
    "\\",
    "#",
    " #x",
    "!x",
    "{",
    "}",
    "[Service]",
    "x\nserver evil 192.0.2.1:1",
    "x\nnotify_master /bin/sh",
    "x\nExecStart=/bin/sh",
    "x\r\nX: y",
    "\0",
    "\t",
    "\u{7f}",
    "\u{202e}",
    "../../etc/shadow",
    "-oProxyCommand=sh",
    "@192.0.2.1",
];

/// Where a value stands: keys, and numbers of entries of lists.
type Path = Vec<String>;

fn texts(value: &Value, path: &mut Path, found: &mut Vec<Path>) {
    match value {
        Value::String(_) => found.push(path.clone()),
        Value::Array(entries) => {
            for (number, entry) in entries.iter().enumerate() {
                path.push(number.to_string());
                texts(entry, path, found);
                path.pop();
            }
        }
        Value::Table(table) => {
            for (key, value) in table {
                path.push(key.clone());
                texts(value, path, found);
                path.pop();
            }
        }
        _ => {}
    }
}

fn at<'v>(root: &'v mut Value, path: &[String]) -> &'v mut Value {
    path.iter().fold(root, |value, part| match value {
        Value::Array(entries) => &mut entries[part.parse::<usize>().unwrap()],
        other => &mut other[part.as_str()],
    })
}

/// As the schema calls it: numbers of entries, and keys that the profile chooses, do not matter.
fn field(path: &[String]) -> String {
    let chosen = ["labels", "annotations", "sysctls", "arguments"];
    let mut shown = Vec::new();
    for (number, part) in path.iter().enumerate() {
        let free = number > 0 && chosen.contains(&path[number - 1].as_str());
        if free {
            shown.push("*");
        } else if part.parse::<usize>().is_err() {
            shown.push(part);
        }
    }
    shown.join(".")
}

fn taken(root: &Value) -> bool {
    let Value::Table(table) = root else { panic!("a profile is a table") };
    let text = toml::to_string(table).unwrap();
    Profile::parse("p", text.as_bytes()).is_ok()
}

#[test]
fn every_text_of_the_schema_refuses_what_other_programs_would_obey() {
    let mut fields = BTreeSet::new();
    let mut free: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for text in FULL {
        // Without its encrypted part it is whole: names that others refer to must be there.
        let mut table = text.parse::<Table>().unwrap();
        table.remove("encrypted");
        let mut root = Value::Table(table);
        assert!(taken(&root), "it is good as it is");
        let mut paths = Vec::new();
        texts(&root, &mut Vec::new(), &mut paths);
        for path in paths {
            let original = at(&mut root, &path).as_str().unwrap().to_owned();
            let mut note = |root: &Value, field: String, hostile: &str| {
                fields.insert(field.clone());
                if taken(root) {
                    free.entry(field).or_default().insert(hostile.to_owned());
                }
            };
            for hostile in HOSTILE {
                for text in [hostile.to_owned(), format!("{original}{hostile}"), format!("{hostile}{original}")] {
                    *at(&mut root, &path) = Value::String(text);
                    note(&root, field(&path), hostile);
                }
            }
            *at(&mut root, &path) = Value::String(original);
            // Keys that the profile chooses are texts too.
            let (key, above) = path.split_last().unwrap();
            if field(&path).ends_with('*') {
                for hostile in HOSTILE {
                    let Value::Table(table) = at(&mut root, above) else { panic!("keys are of tables") };
                    let value = table.remove(key).unwrap();
                    table.insert(format!("{key}{hostile}"), value.clone());
                    note(&root, format!("{} (key)", field(&path)), hostile);
                    let Value::Table(table) = at(&mut root, above) else { panic!("keys are of tables") };
                    table.remove(&format!("{key}{hostile}"));
                    table.insert(key.clone(), value);
                }
            }
        }
    }
    assert!(fields.len() >= 75, "{} fields: {fields:?}", fields.len());
    // What tears lines is for the contents of files alone, a policy among them; around a PEM block there may be blanks.
    let tearing: Vec<_> = free
        .iter()
        .filter(|(field, _)| !["file.content", "file.secret", "cluster.api_server.audit_policy"].contains(&field.as_str()))
        .flat_map(|(field, hostile)| hostile.iter().map(move |text| (field, text)))
        .filter(|(field, text)| {
            let pem = ["ca", "ca_key"].contains(&field.rsplit('.').next().unwrap());
            text.contains(char::is_control) && !(pem && text.trim().is_empty())
        })
        .collect();
    assert!(tearing.is_empty(), "{tearing:?}");
    insta::assert_debug_snapshot!(free);
}
