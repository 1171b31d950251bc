//! Files, links and folders put over the packages' own.

use std::collections::BTreeMap;

use profile::document::{Place, quoted};

use super::super::{FileContent, FileEntry, rules, schema};
use super::Check;

/// Folders in which a file of the image could not be seen: something is mounted over them.
const MOUNTED_OVER: [&str; 5] = ["dev", "proc", "run", "sys", "tmp"];

/// Names in the root that are links into /usr.
const MERGED: [&str; 4] = ["bin", "lib", "lib64", "sbin"];

/// Checks the entries and reads their sources; sorted by path.
pub(super) fn files(check: &mut Check<'_>, written: &[schema::File]) -> Vec<FileEntry> {
    let mut entries: Vec<FileEntry> = written.iter().filter_map(|file| one_file(check, file)).collect();
    parents(check, written, &entries);
    entries.sort_by(|a, b| a.path.cmp(&b.path));
    entries
}

fn one_file(check: &mut Check<'_>, file: &schema::File) -> Option<FileEntry> {
    path(check, &file.path);
    let content = content(check, file);
    let owner = check.or_default(file.owner.as_ref(), &rules::OWNER, "root");
    let group = check.or_default(file.group.as_ref(), &rules::OWNER, "root");
    let content = content?;
    let mode = mode(check, file, &content);
    Some(FileEntry { path: file.path.to_string(), content, mode, owner, group })
}

fn path(check: &mut Check<'_>, path: &schema::Text) {
    check.text(path, &rules::PATH);
    let first = path.split('/').nth(1).unwrap_or_default();
    if MOUNTED_OVER.contains(&first) {
        let message = format!("{} would not be seen: something is mounted over /{first} at boot", quoted(path));
        check.faults.add_with_hint(path.place(), message, "let tmpfiles.d make it: a file in /usr/lib/tmpfiles.d");
    }
    if MERGED.contains(&first) {
        let message = format!("{} goes through the link /{first}", quoted(path));
        check.faults.add_with_hint(path.place(), message, format!("write `/usr{}`", path.as_str()));
    }
}

fn content(check: &mut Check<'_>, file: &schema::File) -> Option<FileContent> {
    let folder = file.folder.as_ref().filter(|folder| ***folder);
    if let Some(folder) = file.folder.as_ref().filter(|folder| !***folder && !folder.place().is_hole()) {
        check.faults.add(folder.place(), "`folder` is only ever `true`: leave it out");
        return None;
    }
    let said: Vec<(&str, Place)> = [
        file.content.as_ref().map(|text| ("content", text.place())),
        file.source.as_ref().map(|text| ("source", text.place())),
        file.link.as_ref().map(|text| ("link", text.place())),
        folder.map(|folder| ("folder", folder.place())),
    ]
    .into_iter()
    .flatten()
    .collect();
    match said.as_slice() {
        [] => {
            let message = format!("nothing says what {} is", quoted(&file.path));
            // A misspelt key was told already.
            if check.whole {
                check.faults.add_with_hint(
                    file.path.place(),
                    message,
                    "give one of `content`, `source`, `link`, `folder = true`",
                );
            }
            return None;
        }
        [_] => {}
        [(first, _), .., (last, place)] => {
            check.faults.add(*place, format!("{} has both `{first}` and `{last}`: expected one", quoted(&file.path)));
            return None;
        }
    }
    if folder.is_some() {
        return Some(FileContent::Folder);
    }
    if let Some(target) = &file.link {
        return Some(FileContent::Link(check.text(target, &rules::LINK)));
    }
    match &file.source {
        Some(source) => check.beside(source, None).map(|(_, bytes)| FileContent::Bytes(bytes)),
        None => file.content.as_ref().map(|text| FileContent::Bytes(text.as_bytes().to_vec())),
    }
}

fn mode(check: &mut Check<'_>, file: &schema::File, content: &FileContent) -> u32 {
    let default = match content {
        FileContent::Bytes(_) | FileContent::Joined(_) => 0o644,
        FileContent::Folder => 0o755,
        FileContent::Link(_) => 0o777,
    };
    let Some(mode) = &file.mode else { return default };
    if matches!(content, FileContent::Link(_)) {
        check.faults.add(mode.place(), "a link has no mode of its own: leave `mode` out");
    }
    if !mode.place().is_hole() && !rules::MODE.holds(&mode.0) {
        check.faults.add(mode.place(), rules::MODE.told(&mode.0));
    }
    u32::from_str_radix(&mode.0, 8).unwrap_or(default)
}

/// What lies below an entry that is no folder.
fn parents(check: &mut Check<'_>, written: &[schema::File], entries: &[FileEntry]) {
    let blocking: BTreeMap<&str, &FileEntry> = entries
        .iter()
        .filter(|entry| !matches!(entry.content, FileContent::Folder))
        .map(|entry| (entry.path.as_str(), entry))
        .collect();
    for file in written {
        let above = file.path.match_indices('/').skip(1).filter_map(|(at, _)| file.path.get(..at));
        for parent in above {
            if blocking.contains_key(parent) {
                let message = format!("{} lies below {}, which is no folder", quoted(&file.path), quoted(parent));
                check.faults.add(file.path.place(), message);
            }
        }
    }
}
