//! Files that are as the profile says, and those of ours that it no longer says.

use profile::secret::Secret;
use trust::Sha256Digest;

use super::{UnitAction, Verdict, Work, World};
use crate::failure::{Failure, Result};
use crate::machine::{Attributes, Machine, Ownership, parent, read_text, replace};

/// A file as it shall be. Its content never prints.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// Absolute path.
    pub path: String,
    /// Its text.
    pub content: Secret,
    /// Owner and bits.
    pub attributes: Attributes,
}

impl Wanted {
    /// A file everybody may read.
    pub fn public(path: impl Into<String>, content: impl Into<String>) -> Self {
        Self { path: path.into(), content: Secret::new(content.into()), attributes: Attributes::root(0o644) }
    }

    /// A file only root may read.
    pub fn private(path: impl Into<String>, content: impl Into<String>) -> Self {
        Self { attributes: Attributes::root(0o600), ..Self::public(path, content) }
    }
}

/// Our files in a folder: those whose names begin so, and nothing else, are removed when they are no longer wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sweep {
    /// The folder.
    pub folder: String,
    /// How the names of ours begin.
    pub prefix: &'static str,
}

/// A set of files, and who reads them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Files {
    /// As they shall be.
    pub files: Vec<Wanted>,
    /// Where former ones are removed.
    pub sweeps: Vec<Sweep>,
    /// A list of paths kept in this file: what it names, and is not wanted any more, is removed.
    pub list: Option<&'static str>,
    /// Who is told of a change.
    pub units: Vec<UnitAction>,
}

impl Files {
    /// Adds a folder to sweep.
    #[must_use]
    pub fn sweep(mut self, folder: &str, prefix: &'static str) -> Self {
        self.sweeps.push(Sweep { folder: folder.to_owned(), prefix });
        self
    }

    /// Adds a unit to tell.
    #[must_use]
    pub fn tell(mut self, action: UnitAction) -> Self {
        self.units.push(action);
        self
    }

    /// These files.
    pub fn of(files: Vec<Wanted>) -> Self {
        Self { files, ..Self::default() }
    }

    fn wants(&self, path: &str) -> bool {
        self.files.iter().any(|file| file.path == path)
    }

    /// Paths that are there and no longer wanted.
    fn former(&self, machine: &dyn Machine) -> Result<Vec<String>> {
        let mut former = Vec::new();
        for Sweep { folder, prefix } in &self.sweeps {
            let names = machine.list(folder).map_err(|e| Failure::io("reading", folder, &e))?;
            former.extend(names.iter().filter(|name| name.starts_with(prefix)).map(|name| format!("{folder}/{name}")));
        }
        if let Some(list) = self.list {
            let listed = read_text(machine, list)?.unwrap_or_default();
            for path in listed.lines() {
                let there = machine.attributes(path).map_err(|e| Failure::io("reading", path, &e))?;
                former.extend(there.map(|_| path.to_owned()));
            }
        }
        former.retain(|path| !self.wants(path));
        Ok(former)
    }

    fn listing(&self) -> String {
        self.files.iter().map(|file| format!("{}\n", file.path)).collect()
    }
}

fn remember(machine: &dyn Machine, list: &str, text: &str) -> Result<()> {
    if read_text(machine, list)?.as_deref() == Some(text) {
        return Ok(());
    }
    replace(machine, list, text.as_bytes(), Attributes::root(0o600))
}

/// How a file differs from what is wanted.
fn differs(machine: &dyn Machine, file: &Wanted) -> Result<Option<&'static str>> {
    let reading = |e| Failure::io("reading", &file.path, &e);
    // A link at this place would be followed by the readers: it is none of ours.
    if machine.link(&file.path).map_err(reading)?.is_some() {
        return Ok(Some("is a link"));
    }
    Ok(match machine.read(&file.path).map_err(reading)? {
        None => Some("is not there"),
        Some(bytes) if bytes != file.content.expose().as_bytes() => Some("has another content"),
        Some(_) if !same(machine, machine.attributes(&file.path).map_err(reading)?, file.attributes) => {
            Some("has another owner or mode")
        }
        Some(_) => None,
    })
}

fn same(machine: &dyn Machine, found: Option<Attributes>, wanted: Attributes) -> bool {
    match machine.ownership() {
        Ownership::Kept => found == Some(wanted),
        Ownership::Ignored => found.is_some_and(|found| found.mode == wanted.mode),
    }
}

impl Work for Files {
    fn lines(&self) -> Vec<String> {
        let line = |file: &Wanted| {
            let Attributes { mode, uid, gid } = file.attributes;
            format!("{} {mode:04o} {uid}:{gid}, {} bytes", file.path, file.content.expose().len())
        };
        self.files.iter().map(line).collect()
    }

    fn input(&self) -> Vec<u8> {
        let mut text = String::new();
        for file in &self.files {
            let Attributes { mode, uid, gid } = file.attributes;
            text += &format!("{} {mode:o} {uid} {gid} {}\n", file.path, Sha256Digest::of(file.content.expose().as_bytes()));
        }
        text.into_bytes()
    }

    fn check(&self, machine: &dyn Machine) -> Result<Verdict> {
        for file in &self.files {
            if let Some(how) = differs(machine, file)? {
                return Ok(Verdict::Differs(format!("{} {how}", file.path)));
            }
        }
        let former = self.former(machine)?;
        Ok(former.first().map_or(Verdict::Holds, |path| Verdict::Differs(format!("{path} is no longer wanted"))))
    }

    fn apply(&self, world: World<'_>) -> Result<()> {
        let machine = world.machine;
        let former = self.former(machine)?;
        if let Some(list) = self.list {
            // The union first: whatever happens next, nothing that was written is forgotten.
            let union = former.iter().fold(self.listing(), |text, path| text + path + "\n");
            remember(machine, list, &union)?;
        }
        for file in &self.files {
            if differs(machine, file)?.is_none() {
                continue;
            }
            let folder = parent(&file.path);
            if machine.attributes(folder).map_err(|e| Failure::io("reading", folder, &e))?.is_none() {
                machine.make_folder(folder, Attributes::root(0o755)).map_err(|e| Failure::io("making", folder, &e))?;
            }
            replace(machine, &file.path, file.content.expose().as_bytes(), file.attributes)?;
        }
        for path in former {
            machine.remove(&path).map_err(|e| Failure::io("removing", &path, &e))?;
        }
        if let Some(list) = self.list {
            remember(machine, list, &self.listing())?;
        }
        Ok(())
    }

    fn units(&self) -> Vec<UnitAction> {
        self.units.clone()
    }
}
