//! Kernel modules kept in the root: those the definition names, and all they need. The lists
//! beside them (modules.dep(5) and its relatives, text and binary) are cut to the same set.

use std::collections::{BTreeMap, BTreeSet};

use crate::error::{Error, Kind, Result};
use crate::tree::compose::Composer;
use crate::tree::glob::Pattern;
use crate::tree::kmod_index;
use crate::tree::staging::split;

/// Where each kernel has its modules.
const FOLDER: &[u8] = b"usr/lib/modules/";

/// One kernel's `modules.dep`.
#[derive(Debug, Default)]
struct Dependencies {
    /// Module name to its path below the kernel's folder and the paths it needs.
    modules: BTreeMap<String, (String, Vec<String>)>,
}

/// Leaves only modules that `wanted` names (by name, by a pattern of names, or by a pattern of
/// paths below `kernel/`) and their dependencies; all where nothing is wanted.
pub(crate) fn keep(composer: &mut Composer<'_>, wanted: &[String]) -> Result<()> {
    if wanted.is_empty() {
        return Ok(());
    }
    let below = composer.below(b"usr/lib/modules").filter_map(|path| path.get(FOLDER.len()..));
    let kernels: BTreeSet<Vec<u8>> = below.map(|rest| rest.split(|b| *b == b'/').next().unwrap_or_default().to_vec()).collect();
    let mut missing: BTreeSet<&String> = wanted.iter().collect();
    let mut known = BTreeSet::new();
    for kernel in kernels {
        let folder = [FOLDER, &kernel].concat();
        let read = |name: &str| composer.read(&[&folder, b"/".as_slice(), name.as_bytes()].concat());
        let Some(text) = read("modules.dep")? else { continue };
        let dependencies = Dependencies::parse(&String::from_utf8_lossy(&text));
        let builtin = read("modules.builtin")?.unwrap_or_else(|| [].into());
        let builtin: BTreeSet<String> = String::from_utf8_lossy(&builtin).lines().map(module_name).collect();
        let mut kept = BTreeSet::new();
        for pattern in wanted {
            let found = dependencies.matching(pattern);
            if !found.is_empty() || builtin.contains(&module_name(pattern)) {
                missing.remove(pattern);
            }
            kept.extend(found);
        }
        dependencies.close(&mut kept);
        known.extend(dependencies.modules.keys().cloned());
        cut(composer, &folder, &dependencies, &kept)?;
    }
    let Some(name) = missing.first() else { return Ok(()) };
    let near = known.iter().max_by(|a, b| strsim::jaro_winkler(a, name).total_cmp(&strsim::jaro_winkler(b, name)));
    let error = Error::new(Kind::Document, format!("`kernel.keep_modules` names `{name}`, but no kernel of the image has it"));
    Err(match near {
        Some(near) => error.hint(format!("did you mean `{near}`?")),
        None => error.hint("is there a kernel package in `packages.install`?"),
    })
}

/// The name of a module by its path or as written: without folders and suffixes, `-` as `_`.
fn module_name(path: &str) -> String {
    let file = path.rsplit('/').next().unwrap_or_default();
    file.split(".ko").next().unwrap_or_default().replace('-', "_")
}

impl Dependencies {
    fn parse(text: &str) -> Self {
        let line = |line: &str| {
            let (path, needs) = line.split_once(':')?;
            let needs = needs.split_ascii_whitespace().map(str::to_owned).collect();
            Some((module_name(path), (path.to_owned(), needs)))
        };
        Self { modules: text.lines().filter_map(line).collect() }
    }

    fn matching(&self, pattern: &str) -> Vec<String> {
        let by_path = pattern.contains('/');
        let glob = if by_path { Pattern::new(&format!("kernel/{pattern}")) } else { Pattern::new(&pattern.replace('-', "_")) };
        let bare = |path: &str| path.rsplit_once(".ko").map_or(path, |(stem, _)| stem).to_owned();
        let matches = |name: &str, path: &str| match by_path {
            true => glob.covers(path.as_bytes()) || glob.covers(bare(path).as_bytes()),
            false => glob.matches(name.as_bytes()),
        };
        self.modules.iter().filter(|(name, (path, _))| matches(name, path)).map(|(name, _)| name.clone()).collect()
    }

    fn close(&self, kept: &mut BTreeSet<String>) {
        let mut todo: Vec<String> = kept.iter().cloned().collect();
        while let Some(name) = todo.pop() {
            let needs = self.modules.get(&name).map(|(_, needs)| needs.as_slice()).unwrap_or_default();
            todo.extend(needs.iter().map(|path| module_name(path)).filter(|need| kept.insert(need.clone())));
        }
    }
}

/// Removes the other modules and cuts the lists.
fn cut(composer: &mut Composer<'_>, folder: &[u8], all: &Dependencies, kept: &BTreeSet<String>) -> Result<()> {
    for (path, _) in all.modules.iter().filter(|(name, _)| !kept.contains(*name)).map(|(_, module)| module) {
        composer.tree.entries.remove(&[folder, b"/", path.as_bytes()].concat());
    }
    remove_empty_folders(composer, &[folder, b"/kernel"].concat());
    let keeps = |name: &str| kept.contains(&module_name(name));
    // Which word of a line is the module.
    let lists: [(&str, usize); 6] = [
        ("modules.dep", 0),
        ("modules.alias", 2),
        ("modules.symbols", 2),
        ("modules.softdep", 1),
        ("modules.order", 0),
        ("modules.devname", 0),
    ];
    for (name, word) in lists {
        let path = [folder, b"/", name.as_bytes()].concat();
        let Some(text) = composer.read(&path)? else { continue };
        let text = String::from_utf8_lossy(&text);
        let stays = |line: &&str| {
            let module = line.split_ascii_whitespace().nth(word).map(|w| w.trim_end_matches(':'));
            line.starts_with('#') || module.is_some_and(keeps)
        };
        let left: String = text.lines().filter(stays).flat_map(|line| [line, "\n"]).collect();
        composer.rewrite(&path, left.as_bytes())?;
    }
    for name in ["modules.dep.bin", "modules.alias.bin", "modules.symbols.bin"] {
        let path = [folder, b"/", name.as_bytes()].concat();
        let Some(bytes) = composer.read(&path)? else { continue };
        let mut index = kmod_index::read(&bytes)?;
        index.retain(|_, values| {
            // A dependency's value is its line of modules.dep, all others are names.
            values.retain(|(_, value)| keeps(String::from_utf8_lossy(value).split(':').next().unwrap_or_default()));
            !values.is_empty()
        });
        composer.rewrite(&path, &kmod_index::write(&index)?)?;
    }
    Ok(())
}

fn remove_empty_folders(composer: &mut Composer<'_>, folder: &[u8]) {
    let mut used: BTreeSet<Vec<u8>> = BTreeSet::new();
    let paths: Vec<Vec<u8>> = composer.below(folder).cloned().collect();
    for path in paths.iter().rev() {
        let is_folder = composer.tree.entries.get(path).is_some_and(|entry| entry.node == crate::tree::Node::Folder);
        if is_folder && !used.contains(path) {
            composer.tree.entries.remove(path);
        } else {
            used.insert(split(path).0.to_vec());
        }
    }
}
