//! The release folder appears in one step: everything is written beside it into
//! `.NAME.partial-XXXXXX`, then the two change names. A build that dies leaves only a partial
//! folder without a lock, which the next build removes.

use std::fs::{self, File, TryLockError};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;
use tempfile::TempDir;

use crate::error::{Error, Kind, Result};
use crate::files;
use crate::interrupt::Temporary;

/// A file by which a folder is known to be a release, so that nothing else is ever replaced.
const MARK: &str = "manifest.json";

/// A release folder in the making; dropped before [`Partial::publish`] it leaves nothing.
#[derive(Debug)]
pub struct Partial {
    folder: TempDir,
    target: PathBuf,
    /// Held as long as the folder is partial: that is how others know that somebody works on it.
    _lock: File,
    /// Ctrl-C removes it too.
    _temporary: Temporary,
}

impl Partial {
    /// Begins a release that shall appear as `target` (`out/load-balancer`), and removes what dead
    /// builds of it have left.
    ///
    /// # Errors
    /// [`Kind::Usage`] when something is in the place that is no release.
    pub fn begin(target: &Path) -> Result<Self> {
        let name = target.file_name().and_then(|name| name.to_str()).ok_or_else(|| {
            Error::new(
                Kind::Usage,
                format!("expected a folder's name at the end of the output path, found `{}`", target.display()),
            )
        })?;
        refuse_what_is_no_release(target)?;
        let parent = target.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        files::make_folder(parent)?;
        let prefix = format!(".{name}.partial-");
        remove_stale(parent, &prefix)?;
        loop {
            let folder = tempfile::Builder::new().prefix(&prefix).tempdir_in(parent);
            let folder = folder.map_err(|e| Error::io("making a folder in", parent, &e))?;
            // Between making and locking another build may take it for stale and remove it: then again.
            if let Some(lock) = lock(folder.path())? {
                let temporary = Temporary::new(folder.path());
                return Ok(Self { folder, target: target.to_owned(), _lock: lock, _temporary: temporary });
            }
        }
    }

    /// Where to write.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Takes the place of the release that was there, if any. From here on it is whole or absent.
    /// Images are not flushed to the medium: a killed build cannot harm them, and after a power cut
    /// their digests tell.
    ///
    /// # Errors
    /// [`Kind::Usage`] when something else has come into the place; failures of the file system.
    pub fn publish(self) -> Result<PathBuf> {
        let partial = self.folder.path();
        set_modes(partial)?;
        refuse_what_is_no_release(&self.target)?;
        let renamed = match renameat_with(CWD, partial, CWD, &self.target, RenameFlags::NOREPLACE) {
            Err(Errno::EXIST) => renameat_with(CWD, partial, CWD, &self.target, RenameFlags::EXCHANGE),
            other => other,
        };
        match renamed {
            Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => replace_in_two_steps(partial, &self.target)?,
            other => other.map_err(|e| Error::io("renaming to", &self.target, &e.into()))?,
        }
        // What now has the partial name, if anything, is the release before: it goes with `self`.
        if let Some(parent) = self.target.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            files::open(parent)?.sync_all().map_err(|e| Error::io("flushing", parent, &e))?;
        }
        Ok(self.target.clone())
    }
}

/// For file systems that cannot exchange two names (NFS, 9p): there is a moment without a release.
fn replace_in_two_steps(partial: &Path, target: &Path) -> Result<()> {
    let old = partial.with_added_extension("old");
    let replaces = target.exists();
    if replaces {
        files::rename(target, &old)?;
    }
    if let Err(error) = files::rename(partial, target) {
        if replaces {
            files::rename(&old, target)?;
        }
        return Err(error);
    }
    files::remove(&old)
}

/// All regular files below `folder`, by path relative to it, sorted.
pub(super) fn list(folder: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    walk(folder, "", &mut |name, folder| {
        if !folder {
            names.push(name.to_owned());
        }
        Ok(())
    })?;
    names.sort();
    Ok(names)
}

/// Files 0644, folders 0755, whatever the umask was.
fn set_modes(partial: &Path) -> Result<()> {
    let set = |path: &Path, mode| {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).map_err(|e| Error::io("setting the mode of", path, &e))
    };
    walk(partial, "", &mut |name, folder| set(&partial.join(name), if folder { 0o755 } else { 0o644 }))?;
    set(partial, 0o755)
}

/// Calls `visit` with the relative path of each entry and whether it is a folder.
fn walk(top: &Path, below: &str, visit: &mut dyn FnMut(&str, bool) -> Result<()>) -> Result<()> {
    let folder = top.join(below);
    for entry in fs::read_dir(&folder).map_err(|e| Error::io("reading the folder", &folder, &e))? {
        let entry = entry.map_err(|e| Error::io("reading the folder", &folder, &e))?;
        let name = entry.file_name().into_string().map_err(|name| {
            Error::new(Kind::Failed, format!("expected names in UTF-8 in {}, found {}", folder.display(), name.display()))
        })?;
        let path = if below.is_empty() { name } else { format!("{below}/{name}") };
        let kind = entry.file_type().map_err(|e| Error::io("reading", &entry.path(), &e))?;
        if !kind.is_dir() && !kind.is_file() {
            return Err(Error::new(
                Kind::Failed,
                format!("expected only files and folders in a release, found {}", entry.path().display()),
            ));
        }
        visit(&path, kind.is_dir())?;
        if kind.is_dir() {
            walk(top, &path, visit)?;
        }
    }
    Ok(())
}

fn refuse_what_is_no_release(target: &Path) -> Result<()> {
    let found = match fs::symlink_metadata(target) {
        Ok(found) => found,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(Error::io("reading", target, &e)),
    };
    let empty = || {
        fs::read_dir(target).map(|mut entries| entries.next().is_none()).map_err(|e| Error::io("reading the folder", target, &e))
    };
    if found.is_dir() && (target.join(MARK).is_file() || empty()?) {
        return Ok(());
    }
    Err(Error::new(Kind::Usage, format!("expected an earlier release or nothing at {}, found something else", target.display()))
        .hint("a release replaces the whole folder: choose another one, or move away what is there"))
}

/// Removes partial folders that no living build holds.
fn remove_stale(parent: &Path, prefix: &str) -> Result<()> {
    let entries = fs::read_dir(parent).map_err(|e| Error::io("reading the folder", parent, &e))?;
    for entry in entries {
        let entry = entry.map_err(|e| Error::io("reading the folder", parent, &e))?;
        if !entry.file_name().to_string_lossy().starts_with(prefix) {
            continue;
        }
        if let Some(_lock) = lock(&entry.path())? {
            tracing::debug!("removing {}, which an earlier build has left", entry.path().display());
            files::remove(&entry.path())?;
        }
    }
    Ok(())
}

/// Locks a folder; `None` where another holds the lock or the folder is gone.
fn lock(folder: &Path) -> Result<Option<File>> {
    let file = match File::open(folder) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(Error::io("opening", folder, &e)),
    };
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Ok(None),
        Err(TryLockError::Error(e)) => return Err(Error::io("locking", folder, &e)),
    }
    let open = file.metadata().map_err(|e| Error::io("reading", folder, &e))?;
    let same = fs::metadata(folder).is_ok_and(|named| (named.dev(), named.ino()) == (open.dev(), open.ino()));
    Ok(same.then_some(file))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_steps_replace_too() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        for content in ["one", "two"] {
            fs::create_dir(path("partial")).unwrap();
            fs::write(path("partial/x"), content).unwrap();
            replace_in_two_steps(&path("partial"), &path("target")).unwrap();
            assert_eq!(fs::read_to_string(path("target/x")).unwrap(), content);
        }
        assert!(replace_in_two_steps(&path("absent"), &path("target")).is_err());
        assert_eq!(fs::read_to_string(path("target/x")).unwrap(), "two");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
