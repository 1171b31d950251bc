//! `/var` belongs to the machine and is empty in the image, but for `/var/tmp`. What packages put there is made
//! again by systemd-tmpfiles (tmpfiles.d(5)): folders and links by lines of our own, files as
//! copies from `usr/share/factory/var`. Lines that a package brings itself come first.

use std::collections::BTreeSet;
use std::fmt::Write;

use crate::error::Result;
use crate::tree::compose::{Composer, SYSIMAGE};
use crate::tree::staging::split;
use crate::tree::{Entry, Node};

/// Read last among all, so that the packages' own lines win.
const LINES: &[u8] = b"usr/lib/tmpfiles.d/zz-ingot-var.conf";
/// Where tmpfiles.d(5) looks for the source of a copy.
const FACTORY: &[u8] = b"usr/share/factory/";
/// Notes that package management keeps for itself: without meaning on an image.
const DROPPED: [&[u8]; 10] = [
    b"var/cache/apt",
    b"var/cache/debconf",
    b"var/cache/ldconfig",
    b"var/lib/apt",
    b"var/lib/dpkg",
    b"var/lib/initramfs-tools",
    b"var/lib/pam",
    b"var/lib/systemd/deb-systemd-helper-enabled",
    b"var/lib/systemd/deb-systemd-user-helper-enabled",
    b"var/lib/ucf",
];

/// Empties `/var` and writes down how it is filled.
pub(crate) fn settle(composer: &mut Composer<'_>) -> Result<()> {
    let known = known(composer)?;
    let mut lines = String::from("# What packages have in /var, made by ingot.\n");
    let paths: Vec<Vec<u8>> = composer.below(b"var").cloned().collect();
    for path in paths {
        let Some(entry) = composer.tree.entries.remove(&path) else { continue };
        if DROPPED.iter().any(|dropped| path.strip_prefix(*dropped).is_some_and(|rest| rest.is_empty() || rest[0] == b'/')) {
            continue;
        }
        let absolute = [b"/", path.as_slice()].concat();
        if !known.contains(&absolute) {
            let _ = writeln!(lines, "{}", line(&absolute, &entry));
        }
        if matches!(entry.node, Node::File { .. }) {
            let copy = [FACTORY, &path].concat();
            composer.put(split(&copy).0, 0o755, Node::Folder)?;
            composer.tree.entries.insert(copy, entry);
        }
    }
    if composer.tree.resolve(SYSIMAGE.as_bytes()).is_some() {
        let _ = writeln!(lines, "L /var/lib/dpkg - - - - /{SYSIMAGE}");
    }
    // Services that start before /var is mounted (systemd-resolved) want this one for their private /tmp.
    composer.put(b"var/tmp", 0o1777, Node::Folder)?;
    composer.put_file(LINES, lines.as_bytes(), 0o644)
}

/// Paths for which the tree's own tmpfiles.d has lines.
fn known(composer: &Composer<'_>) -> Result<BTreeSet<Vec<u8>>> {
    let mut known = BTreeSet::new();
    let files: Vec<Vec<u8>> = composer.below(b"usr/lib/tmpfiles.d").filter(|p| p.ends_with(b".conf")).cloned().collect();
    for file in files {
        let Some(bytes) = composer.read(&file)? else { continue };
        for line in String::from_utf8_lossy(&bytes).lines() {
            let mut words = line.split_ascii_whitespace();
            if let (Some(kind), Some(path)) = (words.next(), words.next()) {
                // Only kinds that make something say that it will be there.
                if kind.starts_with(['d', 'D', 'v', 'q', 'Q', 'L', 'C', 'f', 'F', 'p']) {
                    known.insert(path.trim_end_matches('/').as_bytes().to_vec());
                }
            }
        }
    }
    Ok(known)
}

fn line(path: &[u8], entry: &Entry) -> String {
    let (shown, mode) = (quoted(path), format!("{:04o} {} {}", entry.mode, entry.uid, entry.gid));
    match &entry.node {
        Node::Folder => format!("d {shown} {mode} -"),
        Node::Link(target) => format!("L {shown} - - - - {}", quoted(target)),
        Node::File { .. } => format!("C {shown} {mode} -"),
        Node::Fifo => format!("p {shown} {mode} -"),
        Node::Character(major, minor) => format!("c {shown} {mode} - {major}:{minor}"),
        Node::Block(major, minor) => format!("b {shown} {mode} - {major}:{minor}"),
    }
}

/// A word of a tmpfiles.d line: `%` doubled, anything unusual escaped within quotes.
fn quoted(word: &[u8]) -> String {
    let plain = |b: &u8| b.is_ascii_alphanumeric() || b"/._-+:@,=~".contains(b);
    if word.iter().all(plain) {
        return String::from_utf8_lossy(word).into_owned();
    }
    let escape = |b: &u8| match b {
        b'%' => "%%".to_owned(),
        b if plain(b) => char::from(*b).to_string(),
        b => format!("\\x{b:02x}"),
    };
    format!("\"{}\"", word.iter().map(escape).collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_quoted_where_they_must_be() {
        for (word, shown) in [("/var/a-b", "/var/a-b"), ("/var/a b%", "\"/var/a\\x20b%%\""), ("\"\\", "\"\\x22\\x5c\"")] {
            assert_eq!(quoted(word.as_bytes()), shown);
        }
    }
}
