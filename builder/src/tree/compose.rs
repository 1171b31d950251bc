//! From a base tree to the tree that is sealed: what the definition leaves out, puts over, adds
//! and enables. Pure: nothing is written, new bytes stay in memory beside the base's.
//!
//! Fixed decisions, the same for every image:
//! - dpkg's database moves from `var/lib/dpkg` to `usr/lib/sysimage/dpkg`, since `/var` is the machine's.
//! - `etc/machine-id` is `uninitialized`: the initrd puts the machine's own over it.
//! - the rest of `/var` becomes tmpfiles.d lines and factory files.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::blob::Blob;
use crate::definition::{Definition, FileContent, FileEntry};
use crate::epoch::Epoch;
use crate::error::{Context, Error, Kind, Result};
use crate::tree::accounts::Accounts;
use crate::tree::glob::Filter;
use crate::tree::staging::split;
use crate::tree::{ContentId, Contents, Entry, Node, Tree, database, modules, units, var};

/// Where dpkg's database lies in a sealed root.
pub const SYSIMAGE: &str = "usr/lib/sysimage/dpkg";

/// A tree and the bytes that its base does not have.
#[derive(Debug, Clone)]
pub struct Composed {
    /// What shall be sealed.
    pub tree: Tree,
    /// New bytes.
    pub added: BTreeMap<ContentId, Arc<[u8]>>,
    /// New bytes that are too many to be held in memory: read from where they lie when they are asked for.
    pub joined: BTreeMap<ContentId, Vec<Blob>>,
}

/// Contents of a composed tree: new bytes first, then the base's.
#[derive(Clone, Copy)]
pub struct Layered<'a> {
    added: &'a BTreeMap<ContentId, Arc<[u8]>>,
    joined: &'a BTreeMap<ContentId, Vec<Blob>>,
    base: &'a dyn Contents,
}

impl std::fmt::Debug for Layered<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Layered").field("added", &self.added.len()).finish_non_exhaustive()
    }
}

impl Composed {
    /// The bytes of the file at `path` (without leading `/`, no links followed).
    ///
    /// # Errors
    /// [`Kind::Document`] when there is no such file; what reading the base gives.
    pub fn read(&self, base: &dyn Contents, path: &str) -> Result<Arc<[u8]>> {
        match self.tree.entries.get(path.as_bytes()).map(|entry| &entry.node) {
            Some(Node::File { content, .. }) => self.contents(base).read(content),
            _ => Err(Error::new(Kind::Document, format!("there is no file /{path} in the image"))),
        }
    }

    /// All contents of the tree, given those of its base.
    pub fn contents<'a>(&'a self, base: &'a dyn Contents) -> Layered<'a> {
        Layered { added: &self.added, joined: &self.joined, base }
    }
}

impl Contents for Layered<'_> {
    fn read(&self, id: &ContentId) -> Result<Arc<[u8]>> {
        match (self.added.get(id), self.joined.get(id)) {
            (Some(bytes), _) => Ok(bytes.clone()),
            (None, Some(blobs)) => whole(blobs, id),
            (None, None) => self.base.read(id),
        }
    }
}

/// Chunk in which joined files are read, in bytes.
const CHUNK: u64 = 1 << 20;

/// Gives the bytes of `blobs` to `take`, chunk by chunk.
fn each(blobs: &[Blob], mut take: impl FnMut(&[u8])) -> Result<()> {
    let mut buffer = Vec::new();
    for blob in blobs {
        let mut done = 0;
        while done < blob.len() {
            buffer.resize(CHUNK.min(blob.len() - done) as usize, 0);
            let read = blob.read_exact_at(&mut buffer, done);
            read.map_err(|e| Error::new(Kind::Failed, format!("reading what a large file is made of: {e}")))?;
            take(&buffer);
            done += buffer.len() as u64;
        }
    }
    Ok(())
}

fn whole(blobs: &[Blob], id: &ContentId) -> Result<Arc<[u8]>> {
    let mut bytes = Vec::with_capacity(blobs.iter().map(Blob::len).sum::<u64>() as usize);
    each(blobs, |chunk| bytes.extend_from_slice(chunk))?;
    match ContentId::of(&bytes) == *id {
        true => Ok(bytes.into()),
        false => Err(Error::new(Kind::Failed, "a file in the store was changed while the build ran").hint("run it again")),
    }
}

/// Makes the tree of `definition` out of `base`, whose bytes are in `contents`.
///
/// # Errors
/// [`Kind::Document`] where the definition asks for what cannot be (an unknown unit, owner or
/// module, a file in the place of a folder); what reading the base gives.
pub fn compose(base: &Tree, contents: &dyn Contents, definition: &Definition, epoch: Epoch) -> Result<Composed> {
    let mut composer = Composer::new(filtered(base, definition), contents, epoch);
    composer.move_all(database::FOLDER.as_bytes(), SYSIMAGE.as_bytes());
    modules::keep(&mut composer, &definition.kernel.keep_modules).context("choosing kernel modules")?;
    accounts(&mut composer, definition)?;
    release(&mut composer, definition)?;
    composer.put_file(b"etc/machine-id", b"uninitialized\n", 0o444)?;
    units::forget(&mut composer.tree);
    files(&mut composer, &definition.files)?;
    units::settle(&mut composer, &definition.units).context("enabling units")?;
    var::settle(&mut composer)?;
    composer.tree.settle_links();
    Ok(Composed { tree: composer.tree, added: composer.added, joined: composer.joined })
}

/// A tree being changed.
pub(crate) struct Composer<'a> {
    /// As it stands.
    pub(crate) tree: Tree,
    added: BTreeMap<ContentId, Arc<[u8]>>,
    joined: BTreeMap<ContentId, Vec<Blob>>,
    contents: &'a dyn Contents,
    epoch: Epoch,
}

impl<'a> Composer<'a> {
    pub(crate) fn new(tree: Tree, contents: &'a dyn Contents, epoch: Epoch) -> Self {
        Self { tree, added: BTreeMap::new(), joined: BTreeMap::new(), contents, epoch }
    }

    /// The bytes of the file at `path`, links followed; `None` where there is no file.
    pub(crate) fn read(&self, path: &[u8]) -> Result<Option<Arc<[u8]>>> {
        match self.tree.resolve(path) {
            Some((_, Entry { node: Node::File { content, .. }, .. })) => {
                Layered { added: &self.added, joined: &self.joined, base: self.contents }.read(content).map(Some)
            }
            _ => Ok(None),
        }
    }

    /// Puts a file owned by root.
    pub(crate) fn put_file(&mut self, path: &[u8], bytes: &[u8], mode: u32) -> Result<()> {
        let content = ContentId::of(bytes);
        self.added.insert(content, bytes.into());
        self.put(path, mode, Node::File { size: bytes.len() as u64, content, link: None })
    }

    /// Puts a file owned by root whose bytes stay where they are.
    fn put_joined(&mut self, path: &[u8], blobs: &[Blob], mode: u32) -> Result<()> {
        let mut hasher = blake3::Hasher::new();
        each(blobs, |chunk| {
            hasher.update(chunk);
        })?;
        let content = ContentId(*hasher.finalize().as_bytes());
        self.joined.insert(content, blobs.to_vec());
        self.put(path, mode, Node::File { size: blobs.iter().map(Blob::len).sum(), content, link: None })
    }

    /// Replaces the bytes of a file that is there, keeping its owner and mode.
    pub(crate) fn rewrite(&mut self, path: &[u8], bytes: &[u8]) -> Result<()> {
        let Some((real, old)) = self.tree.resolve(path).map(|(real, entry)| (real, entry.clone())) else {
            return self.put_file(path, bytes, 0o644);
        };
        self.put_file(&real, bytes, old.mode)?;
        if let Some(entry) = self.tree.entries.get_mut(&real) {
            (entry.uid, entry.gid) = (old.uid, old.gid);
        }
        Ok(())
    }

    /// Puts a symbolic link in the place of whatever is there (no folder).
    pub(crate) fn put_link(&mut self, path: &[u8], target: &[u8]) -> Result<()> {
        self.put(path, 0o777, Node::Link(target.to_vec()))
    }

    /// Puts an entry owned by root, and the folders above it where they are missing.
    pub(crate) fn put(&mut self, path: &[u8], mode: u32, node: Node) -> Result<()> {
        let shown = || String::from_utf8_lossy(path).into_owned();
        let wrong = |what: &str| Error::new(Kind::Document, format!("putting /{}: {what}", shown()));
        let real = self.tree.real_path(path, false).ok_or_else(|| wrong("the links on the way go round in a circle"))?;
        let mut parent = split(&real).0;
        while !parent.is_empty() {
            match self.tree.entries.get(parent).map(|entry| &entry.node) {
                Some(Node::Folder) => break,
                Some(_) => return Err(wrong(&format!("/{} is no folder", String::from_utf8_lossy(parent)))),
                None => self.insert(parent.to_vec(), 0o755, Node::Folder),
            }
            parent = split(parent).0;
        }
        let was_folder = matches!(self.tree.entries.get(&real).map(|entry| &entry.node), Some(Node::Folder));
        if was_folder && node != Node::Folder && self.below(&real).next().is_some() {
            return Err(wrong("there is a folder with content in this place"));
        }
        self.insert(real, mode, node);
        Ok(())
    }

    fn insert(&mut self, path: Vec<u8>, mode: u32, node: Node) {
        let mtime = i64::try_from(self.epoch.0).unwrap_or(i64::MAX);
        self.tree.entries.insert(path, Entry { mode, uid: 0, gid: 0, mtime, xattrs: BTreeMap::new(), node });
    }

    /// Paths below a folder, itself left out.
    pub(crate) fn below(&self, folder: &[u8]) -> impl Iterator<Item = &Vec<u8>> {
        let prefix = [folder, b"/"].concat();
        self.tree.entries.range(prefix.clone()..).map(|(path, _)| path).take_while(move |path| path.starts_with(&prefix))
    }

    /// Moves a folder with all that is in it; nothing where it is not there.
    pub(crate) fn move_all(&mut self, from: &[u8], to: &[u8]) {
        let paths: Vec<Vec<u8>> = self.below(from).cloned().chain([from.to_vec()]).collect();
        for path in paths {
            if let Some(entry) = self.tree.entries.remove(&path) {
                let rest = path.get(from.len()..).unwrap_or_default();
                self.tree.entries.insert([to, rest].concat(), entry);
            }
        }
        let mut parent = split(to).0;
        while self.tree.entries.contains_key(to) && !parent.is_empty() && !self.tree.entries.contains_key(parent) {
            self.insert(parent.to_vec(), 0o755, Node::Folder);
            parent = split(parent).0;
        }
    }
}

/// What the patterns leave, with the folders above what is kept.
fn filtered(base: &Tree, definition: &Definition) -> Tree {
    let filter = Filter::new(&definition.exclude, &definition.keep);
    let mut left: BTreeSet<&[u8]> = BTreeSet::new();
    for path in base.entries.keys().filter(|path| !filter.excludes(path)) {
        let mut path = path.as_slice();
        while left.insert(path) && !path.is_empty() {
            path = split(path).0;
        }
    }
    let entries = base.entries.iter().filter(|(path, _)| left.contains(path.as_slice()));
    Tree { entries: entries.map(|(path, entry)| (path.clone(), entry.clone())).collect() }
}

fn read_accounts(composer: &Composer<'_>) -> Result<Accounts> {
    let read = |path: &str| Ok(composer.read(path.as_bytes())?.unwrap_or_else(|| Arc::from([])));
    Ok(Accounts::parse(&read("etc/passwd")?, &read("etc/group")?, &read("etc/shadow")?, &read("etc/gshadow")?))
}

/// Users of the definition, with their home folders.
fn accounts(composer: &mut Composer<'_>, definition: &Definition) -> Result<()> {
    if definition.users.is_empty() {
        return Ok(());
    }
    let mut accounts = read_accounts(composer)?;
    for user in &definition.users {
        accounts.add(user, composer.epoch)?;
        let home = user.home.trim_matches('/').as_bytes();
        if !home.is_empty() && composer.tree.resolve(home).is_none() {
            composer.put(home, 0o700, Node::Folder)?;
            let real = composer.tree.real_path(home, false).unwrap_or_default();
            if let Some(entry) = composer.tree.entries.get_mut(&real) {
                (entry.uid, entry.gid) = (user.uid, user.uid);
            }
        }
    }
    for (path, bytes) in accounts.files() {
        if composer.tree.resolve(path.as_bytes()).is_some() || !path.ends_with("shadow") {
            composer.rewrite(path.as_bytes(), &bytes)?;
        } else {
            composer.put_file(path.as_bytes(), &bytes, 0o600)?;
        }
    }
    Ok(())
}

/// `IMAGE_ID` and `IMAGE_VERSION` of os-release(5).
fn release(composer: &mut Composer<'_>, definition: &Definition) -> Result<()> {
    let old = composer.read(b"usr/lib/os-release")?.unwrap_or_else(|| Arc::from([]));
    let mut text = String::new();
    for line in String::from_utf8_lossy(&old).lines() {
        if !line.starts_with("IMAGE_ID=") && !line.starts_with("IMAGE_VERSION=") {
            text.push_str(line);
            text.push('\n');
        }
    }
    text.push_str(&format!("IMAGE_ID=\"{}\"\nIMAGE_VERSION=\"{}\"\n", definition.name, definition.version));
    composer.rewrite(b"usr/lib/os-release", text.as_bytes())
}

/// The definition's own files, links and folders.
fn files(composer: &mut Composer<'_>, files: &[FileEntry]) -> Result<()> {
    let accounts = read_accounts(composer)?;
    for file in files {
        let path = file.path.trim_matches('/').as_bytes();
        if path.is_empty() {
            return Err(Error::new(Kind::Document, "a file entry is for the root folder itself"));
        }
        let unknown = |what: &str, name: &str| {
            Error::new(Kind::Document, format!("putting {}: there is no {what} `{name}` in the image", file.path))
                .hint("use a number, or a name that a package or `[[user]]` brings")
        };
        let uid = file.owner.parse().ok().or_else(|| accounts.uid(&file.owner));
        let gid = file.group.parse().ok().or_else(|| accounts.gid(&file.group));
        let uid = uid.ok_or_else(|| unknown("user", &file.owner))?;
        let gid = gid.ok_or_else(|| unknown("group", &file.group))?;
        match &file.content {
            FileContent::Bytes(bytes) => composer.put_file(path, bytes, file.mode)?,
            FileContent::Joined(blobs) => composer.put_joined(path, blobs, file.mode)?,
            FileContent::Link(target) => composer.put_link(path, target.as_bytes())?,
            FileContent::Folder => composer.put(path, file.mode, Node::Folder)?,
        }
        let real = composer.tree.real_path(path, false).unwrap_or_default();
        if let Some(entry) = composer.tree.entries.get_mut(&real) {
            (entry.uid, entry.gid) = (uid, gid);
        }
    }
    Ok(())
}

#[cfg(test)]
#[path = "compose_tests.rs"]
mod tests;
