//! Which systemd units start, by the links that `systemctl enable` and `mask` make out of
//! `[Install]` sections (systemd.unit(5)), and a preset that says the same, so that the preset
//! run of a first boot changes nothing (systemd.preset(5)).

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use crate::definition::Units;
use crate::error::{Error, Kind, Result};
use crate::tree::compose::Composer;
use crate::tree::staging::split;
use crate::tree::{Node, Tree};

/// Where links of the administrator lie.
const ADMINISTRATOR: &str = "etc/systemd/system";
/// Where unit files are looked for, the first wins.
const FOLDERS: [&str; 3] = [ADMINISTRATOR, "usr/local/lib/systemd/system", "usr/lib/systemd/system"];
/// Read before all presets of packages.
const PRESET: &str = "usr/lib/systemd/system-preset/00-ingot.preset";
/// What folders of dependencies are called.
const DEPENDENCIES: [(&str, &str); 3] = [("wantedby", ".wants"), ("requiredby", ".requires"), ("upheldby", ".upholds")];

/// Removes the links that packages' scripts made: only the definition decides what starts.
pub(crate) fn forget(tree: &mut Tree) {
    let below = format!("{ADMINISTRATOR}/").into_bytes();
    tree.entries.retain(|path, entry| !(path.starts_with(&below) && matches!(entry.node, Node::Link(_))));
}

/// Enables, masks, sets the default target and writes the preset.
pub(crate) fn settle(composer: &mut Composer<'_>, units: &Units) -> Result<()> {
    let mut enabled = BTreeSet::new();
    let mut todo: Vec<String> = units.enable.iter().rev().cloned().collect();
    while let Some(name) = todo.pop() {
        if units.mask.contains(&name) && !units.enable.contains(&name) {
            // Another unit wants it along (`Also=`); the definition knows better.
            continue;
        }
        if units.mask.contains(&name) {
            let what = format!("the unit `{name}` shall be enabled and masked at once");
            return Err(Error::new(Kind::Document, what).hint("take it out of `units.enable` or of `units.mask`"));
        }
        if enabled.insert(name.clone()) {
            todo.extend(enable(composer, &name)?);
        }
    }
    for name in &units.mask {
        composer.put_link(format!("{ADMINISTRATOR}/{name}").as_bytes(), b"/dev/null")?;
    }
    if !units.default_target.is_empty() {
        let path = find(&composer.tree, &units.default_target).ok_or_else(|| unknown(&composer.tree, &units.default_target))?;
        composer.put_link(format!("{ADMINISTRATOR}/default.target").as_bytes(), format!("/{path}").as_bytes())?;
    }
    let preset = preset(&composer.tree);
    composer.put_file(PRESET.as_bytes(), preset.as_bytes(), 0o644)
}

/// Template and instance of `name@instance.suffix`.
fn instance(name: &str) -> Option<(String, &str)> {
    let (prefix, rest) = name.split_once('@')?;
    let (instance, suffix) = rest.rsplit_once('.')?;
    Some((format!("{prefix}@.{suffix}"), instance))
}

/// The file of a unit; an instance's is its template's unless it has its own.
fn find(tree: &Tree, name: &str) -> Option<String> {
    let template = instance(name).map(|(template, _)| template);
    let names = [Some(name.to_owned()), template];
    let paths = names.into_iter().flatten().flat_map(|n| FOLDERS.map(|folder| format!("{folder}/{n}")));
    let there = |path: &String| {
        let linked_away = matches!(tree.entries.get(path.as_bytes()).map(|e| &e.node), Some(Node::Link(t)) if t == b"/dev/null");
        !linked_away && tree.resolve(path.as_bytes()).is_some_and(|(_, entry)| matches!(entry.node, Node::File { .. }))
    };
    paths.into_iter().find(there)
}

fn unknown(tree: &Tree, name: &str) -> Error {
    let error = Error::new(Kind::Document, format!("there is no unit `{name}` in the image"));
    let names = FOLDERS.iter().flat_map(|folder| {
        let prefix = format!("{folder}/").into_bytes();
        let inside = tree.entries.range(prefix.clone()..).take_while(move |(path, _)| path.starts_with(&prefix));
        inside.filter_map(|(path, _)| String::from_utf8(split(path).1.to_vec()).ok())
    });
    match names.max_by(|a, b| strsim::jaro_winkler(a, name).total_cmp(&strsim::jaro_winkler(b, name))) {
        Some(near) if strsim::jaro_winkler(&near, name) > 0.8 => error.hint(format!("did you mean `{near}`?")),
        _ => error.hint("is the package that brings it in `packages.install`?"),
    }
}

/// `[Install]` by lower-case key, values as lists of words.
fn install(text: &str) -> BTreeMap<String, Vec<String>> {
    let joined = text.replace("\\\n", " ");
    let mut inside = false;
    let mut out: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for line in joined.lines().map(str::trim).filter(|line| !line.starts_with(['#', ';'])) {
        if line.starts_with('[') {
            inside = line == "[Install]";
        } else if let Some((key, value)) = line.split_once('=').filter(|_| inside) {
            let values = out.entry(key.trim().to_ascii_lowercase()).or_default();
            let words: Vec<String> = value.split_ascii_whitespace().map(str::to_owned).collect();
            // An empty assignment forgets the ones before.
            if words.is_empty() { values.clear() } else { values.extend(words) }
        }
    }
    out
}

/// Makes the links of one unit; gives the names of its `Also=`.
fn enable(composer: &mut Composer<'_>, name: &str) -> Result<Vec<String>> {
    let path = find(&composer.tree, name).ok_or_else(|| unknown(&composer.tree, name))?;
    let bytes = composer.read(path.as_bytes())?.unwrap_or_else(|| [].into());
    let install = install(&String::from_utf8_lossy(&bytes));
    let values = |key: &str| install.get(key).cloned().unwrap_or_default();
    let name = match (name.split_once("@."), values("defaultinstance").first()) {
        (Some((prefix, suffix)), Some(instance)) => format!("{prefix}@{instance}.{suffix}"),
        (Some(_), None) => {
            let what = format!("the unit `{name}` is a template without a default instance");
            return Err(Error::new(Kind::Document, what).hint("name the instance: `name@instance.service`"));
        }
        _ => name.to_owned(),
    };
    let also = values("also");
    let mut links = Vec::new();
    for (key, suffix) in DEPENDENCIES {
        for by in values(key) {
            links.push(format!("{ADMINISTRATOR}/{}{suffix}/{name}", expanded(&by, &name)?));
        }
    }
    for alias in values("alias") {
        links.push(format!("{ADMINISTRATOR}/{}", expanded(&alias, &name)?));
    }
    if links.is_empty() && also.is_empty() {
        let what = format!("the unit `{name}` cannot be enabled: its file has no [Install] section");
        return Err(
            Error::new(Kind::Document, what).hint("it starts by itself when something needs it: take it out of `units.enable`")
        );
    }
    for link in links.into_iter().filter(|link| *link != path) {
        composer.put_link(link.as_bytes(), format!("/{path}").as_bytes())?;
    }
    Ok(also)
}

/// The specifiers that `[Install]` can hold before anything runs.
fn expanded(word: &str, unit: &str) -> Result<String> {
    let (stem, _) = unit.rsplit_once('.').unwrap_or((unit, ""));
    let (prefix, instance) = stem.split_once('@').unwrap_or((stem, ""));
    let mut out = String::new();
    let mut rest = word.chars();
    while let Some(c) = rest.next() {
        match (c, if c == '%' { rest.next() } else { None }) {
            ('%', Some('i' | 'I')) => out.push_str(instance),
            ('%', Some('p' | 'P')) => out.push_str(prefix),
            ('%', Some('n')) => out.push_str(unit),
            ('%', Some('N')) => out.push_str(stem),
            ('%', Some('%')) => out.push('%'),
            ('%', other) => {
                let what = format!("the [Install] section of `{unit}` has the specifier `%{}`", other.unwrap_or(' '));
                return Err(Error::new(Kind::Failed, what + ", which has no value before the machine runs"));
            }
            (c, _) => out.push(c),
        }
    }
    if out.contains('/') || out.is_empty() {
        return Err(Error::new(Kind::Failed, format!("the [Install] section of `{unit}` names `{out}`, expected a unit name")));
    }
    Ok(out)
}

/// All that is enabled in the tree, and nothing else.
fn preset(tree: &Tree) -> String {
    let prefix = format!("{ADMINISTRATOR}/").into_bytes();
    let mut names: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (path, entry) in tree.entries.range(prefix.clone()..).take_while(|(path, _)| path.starts_with(&prefix)) {
        let Node::Link(target) = &entry.node else { continue };
        let (folder, name) = split(path);
        let dependency = DEPENDENCIES.iter().any(|(_, suffix)| folder.ends_with(suffix.as_bytes()));
        let name = if dependency { name } else { split(target).1 };
        let Ok(name) = std::str::from_utf8(name) else { continue };
        if target == b"/dev/null" || path.ends_with(b"/default.target") {
            continue;
        }
        match instance(name) {
            Some((template, instance)) if !instance.is_empty() => {
                names.entry(template).or_default().insert(instance.to_owned());
            }
            _ => drop(names.entry(name.to_owned()).or_default()),
        }
    }
    let mut out = String::from("# What is enabled in this image and nothing else, made by ingot.\n");
    for (name, instances) in names {
        let _ = writeln!(out, "enable {}", std::iter::once(name).chain(instances).collect::<Vec<_>>().join(" "));
    }
    out + "disable *\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn install_sections_are_read_as_systemd_does() {
        let text = "[Unit]\nWantedBy=no\n[Install]\n# x\nWantedBy=a.target \\\n b.target\nAlias=x.service\nAlias=\nRequiredBy = c.target\n";
        let found = install(text);
        assert_eq!(found["wantedby"], ["a.target", "b.target"]);
        assert_eq!(found["requiredby"], ["c.target"]);
        assert!(found["alias"].is_empty());
    }

    #[test]
    fn specifiers_have_their_values() {
        assert_eq!(expanded("%p-%i-%n-%N%%", "a@b.service").unwrap(), "a-b-a@b.service-a@b%");
        assert!(expanded("%H.target", "a.service").is_err());
        assert!(expanded("../x", "a.service").is_err());
        assert_eq!(instance("a@b.c.service"), Some(("a@.service".to_owned(), "b.c")));
    }
}
