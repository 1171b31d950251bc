//! From the tree to a list of inodes: hard links become one, folders get their children.

use std::collections::BTreeMap;

use super::layout::{BLOCK, kind};
use crate::error::{Error, Kind, Result};
use crate::tree::{Entry, Node, Tree};

/// One inode to be written.
#[derive(Debug)]
pub(super) struct Inode<'a> {
    /// The first of its names; empty for the root.
    pub path: &'a [u8],
    pub entry: &'a Entry,
    pub links: u32,
    /// Of a folder: what it holds, in the order of the format, with `.` and `..`.
    pub children: Vec<(&'a [u8], usize)>,
}

impl Inode<'_> {
    /// Type and permissions.
    pub fn mode(&self) -> u16 {
        let kind = match self.entry.node {
            Node::Folder => kind::FOLDER,
            Node::File { .. } => kind::FILE,
            Node::Link(_) => kind::LINK,
            Node::Character(..) => kind::CHARACTER,
            Node::Block(..) => kind::BLOCK,
            Node::Fifo => kind::FIFO,
        };
        kind | (self.entry.mode & 0o7777) as u16
    }
}

/// The inodes of `tree` in the order of their first names; the root is number 0.
///
/// # Errors
/// Names the path that a file system cannot hold: no parent folder, a bad name, links that differ.
pub(super) fn list(tree: &Tree) -> Result<Vec<Inode<'_>>> {
    let mut inodes: Vec<Inode<'_>> = Vec::with_capacity(tree.entries.len());
    let mut folders: BTreeMap<&[u8], usize> = BTreeMap::new();
    let mut linked: BTreeMap<u64, usize> = BTreeMap::new();
    for (path, entry) in &tree.entries {
        check(path, entry)?;
        let same = match entry.node {
            Node::File { link: Some(link), .. } => linked.get(&link).copied().map(|first| (link, first)),
            _ => None,
        };
        let number = match same {
            Some((link, first)) => {
                join(&mut inodes, first, (path, entry), link)?;
                first
            }
            None => {
                let links = if matches!(entry.node, Node::Folder) { 2 } else { 1 };
                inodes.push(Inode { path, entry, links, children: Vec::new() });
                inodes.len() - 1
            }
        };
        if let Node::File { link: Some(link), .. } = entry.node {
            linked.entry(link).or_insert(number);
        }
        let parent = match parent(path) {
            _ if path.is_empty() => number,
            None => folder(&folders, path, b"")?,
            Some(parent) => folder(&folders, path, parent)?,
        };
        if matches!(entry.node, Node::Folder) {
            folders.insert(path, number);
            let own: [(&[u8], usize); 2] = [(b".", number), (b"..", parent)];
            if let Some(inode) = inodes.get_mut(number) {
                inode.children.extend(own);
            }
        }
        if !path.is_empty() {
            let is_folder = matches!(entry.node, Node::Folder);
            if let Some(inode) = inodes.get_mut(parent) {
                inode.children.push((name(path), number));
                inode.links = inode.links.saturating_add(u32::from(is_folder));
            }
        }
    }
    if inodes.first().is_none_or(|root| !root.path.is_empty()) {
        return Err(Error::new(Kind::Failed, "the tree has no root folder"));
    }
    inodes.iter_mut().for_each(|inode| inode.children.sort_unstable());
    Ok(inodes)
}

fn parent(path: &[u8]) -> Option<&[u8]> {
    path.iter().rposition(|byte| *byte == b'/').map(|at| &path[..at])
}

fn name(path: &[u8]) -> &[u8] {
    path.rsplit(|byte| *byte == b'/').next().unwrap_or(path)
}

fn folder(folders: &BTreeMap<&[u8], usize>, path: &[u8], parent: &[u8]) -> Result<usize> {
    folders.get(parent).copied().ok_or_else(|| refuse(path, "the folder that holds it is not in the tree, or is no folder"))
}

fn refuse(path: &[u8], why: impl std::fmt::Display) -> Error {
    Error::new(Kind::Failed, format!("the tree cannot be sealed: /{}: {why}", String::from_utf8_lossy(path)))
}

fn check(path: &[u8], entry: &Entry) -> Result<()> {
    let name = name(path);
    if path.is_empty() && !matches!(entry.node, Node::Folder) {
        return Err(refuse(path, "the root is no folder"));
    }
    if !path.is_empty() && (name.is_empty() || name == b"." || name == b".." || name.contains(&0)) {
        return Err(refuse(path, "not a name that a file can have"));
    }
    if name.len() > 255 {
        return Err(refuse(path, format!("the name has {} bytes, at most 255 fit", name.len())));
    }
    match &entry.node {
        Node::Link(target) if target.is_empty() || target.len() >= BLOCK || target.contains(&0) => {
            Err(refuse(path, format!("the link has a target of {} bytes, expected 1 to {} without NUL", target.len(), BLOCK - 1)))
        }
        Node::Character(major, minor) | Node::Block(major, minor) if *major > 0xfff || *minor > 0xf_ffff => {
            Err(refuse(path, format!("device {major}:{minor} is beyond 4095:1048575")))
        }
        _ if entry.mode & !0o7777 != 0 => Err(refuse(path, format!("mode {:o} is beyond 7777", entry.mode))),
        _ => Ok(()),
    }
}

/// Adds a name to an inode whose content and metadata must be the same.
fn join(inodes: &mut [Inode<'_>], first: usize, (path, entry): (&[u8], &Entry), link: u64) -> Result<()> {
    let Some(inode) = inodes.get_mut(first) else { return Ok(()) };
    if inode.entry != entry {
        let other = String::from_utf8_lossy(inode.path);
        return Err(refuse(path, format!("it is link {link} as /{other} is, but its metadata or content differ")));
    }
    inode.links = inode.links.saturating_add(1);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::ContentId;

    fn entry(node: Node) -> Entry {
        Entry { mode: 0o755, uid: 0, gid: 0, mtime: 0, xattrs: BTreeMap::new(), node }
    }

    fn file(content: &[u8], link: Option<u64>) -> Node {
        Node::File { size: content.len() as u64, content: ContentId::of(content), link }
    }

    #[test]
    fn what_no_file_system_can_hold_is_refused_by_name() {
        let long = [b'n'; 256];
        type Names<'a> = Vec<(&'a [u8], Node)>;
        let cases: [(&str, Names<'_>); 9] = [
            ("no root folder", vec![]),
            ("the root is no folder", vec![(b"", Node::Fifo)]),
            ("/a/b: the folder that holds it", vec![(b"", Node::Folder), (b"a/b", Node::Fifo)]),
            ("/a/b: the folder that holds it", vec![(b"", Node::Folder), (b"a", Node::Fifo), (b"a/b", Node::Fifo)]),
            ("not a name", vec![(b"", Node::Folder), (b"..", Node::Folder)]),
            ("has 256 bytes", vec![(b"", Node::Folder), (&long, Node::Fifo)]),
            ("target of 0 bytes", vec![(b"", Node::Folder), (b"a", Node::Link(vec![]))]),
            ("4096:0", vec![(b"", Node::Folder), (b"a", Node::Block(4096, 0))]),
            ("/b: it is link 1 as /a is", vec![(b"", Node::Folder), (b"a", file(b"1", Some(1))), (b"b", file(b"2", Some(1)))]),
        ];
        for (text, entries) in cases {
            let tree = Tree { entries: entries.into_iter().map(|(path, node)| (path.to_vec(), entry(node))).collect() };
            let error = list(&tree).unwrap_err().to_string();
            assert!(error.contains(text), "{error}");
        }
    }
}
