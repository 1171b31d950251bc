//! The whole sequence against a folder and scripted programs.

mod balancer;
pub(crate) mod cluster;
mod faults;
mod golden;
mod hostile;
mod leaks;
mod nodes;
mod server;
pub(crate) mod state;
mod texts;
mod upkeep;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use crate::machine::scripted::{Faults, Scripted};
use crate::sequence::{Source, run};

/// Where the golden folders are.
fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden")
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        let kind = entry.file_type().unwrap();
        if kind.is_dir() {
            copy(&entry.path(), &target);
        } else if kind.is_symlink() {
            let _ = fs::remove_file(&target);
            symlink(fs::read_link(entry.path()).unwrap(), target).unwrap();
        } else {
            fs::copy(entry.path(), &target).unwrap();
            // Whatever the umask of who cloned this.
            fs::set_permissions(&target, fs::Permissions::from_mode(0o644)).unwrap();
        }
    }
}

/// A machine of a golden folder: the base root, its own root over it, its profile on the medium.
fn machine_of(case: &str) -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    let root = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() }.unwrap();
    copy(&golden().join("base/root"), root.path());
    let own = golden().join(case).join("root");
    if own.is_dir() {
        copy(&own, root.path());
    }
    fs::create_dir_all(root.path().join("state")).unwrap();
    fs::copy(golden().join(case).join("profile.toml"), root.path().join("profile.toml")).unwrap();
    root
}

fn profile() -> Source {
    Source::File("/profile.toml".to_owned())
}

/// Every file below a root with its mode; links as where they lead.
fn tree(root: &Path) -> BTreeMap<String, (u32, String)> {
    fn walk(root: &Path, folder: &Path, found: &mut BTreeMap<String, (u32, String)>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let meta = fs::symlink_metadata(&path).unwrap();
            let name = format!("/{}", path.strip_prefix(root).unwrap().display());
            if meta.is_dir() {
                walk(root, &path, found);
            } else if meta.is_symlink() {
                found.insert(name, (0, format!("-> {}", fs::read_link(&path).unwrap().display())));
            } else {
                let text = String::from_utf8_lossy(&fs::read(&path).unwrap()).into_owned();
                found.insert(name, (meta.permissions().mode() & 0o7777, text));
            }
        }
    }
    let mut found = BTreeMap::new();
    walk(root, root, &mut found);
    found
}

/// What a reboot forgets: /etc is the image's again, /run is empty, the kernel has its own names and values.
fn reboot(root: &Path, case: &str) {
    for folder in ["etc", "run", "proc", "sys"] {
        let _ = fs::remove_dir_all(root.join(folder));
    }
    let fresh = machine_of(case);
    for folder in ["etc", "run", "proc", "sys"] {
        if fresh.path().join(folder).is_dir() {
            copy(&fresh.path().join(folder), &root.join(folder));
        }
    }
}

fn undisturbed(root: &Path) -> Scripted {
    let machine = Scripted::new(root, Faults::default());
    run(&machine, &profile()).unwrap();
    machine
}
