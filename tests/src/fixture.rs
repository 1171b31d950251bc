//! Releases that are built once and shared between test processes.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use crate::programs::{cache, ingot, must, tool, top};

/// The shipped definitions with those of the tests beside them: a definition extends only what lies
/// in its own folder.
pub fn definitions() -> PathBuf {
    let folder = cache().join("definitions");
    let lock = File::create(cache().join("definitions.busy")).unwrap();
    lock.lock().unwrap();
    fs::create_dir_all(&folder).unwrap();
    for source in [top().join("images"), top().join("tests/images")] {
        for path in must(tool("find", [".", "-type", "f"]).current_dir(&source)).lines() {
            renew(&source.join(path), &folder.join(path));
        }
    }
    folder
}

/// Copies what differs, whole: another test may be building from it.
fn renew(from: &Path, to: &Path) {
    let wanted = fs::read(from).unwrap();
    if fs::read(to).is_ok_and(|found| found == wanted) {
        return;
    }
    fs::create_dir_all(to.parent().expect("a folder")).unwrap();
    let part = to.with_added_extension("part");
    must(tool("cp", ["--preserve=mode"]).arg(from).arg(&part));
    fs::rename(&part, to).unwrap();
}

/// The release folder of a definition in [`definitions`], built by the first test that asks; the
/// build itself finds out when nothing changed.
pub fn release(name: &str) -> PathBuf {
    let definition = definitions().join(format!("{name}.toml"));
    let folder = cache().join("releases").join(name);
    fs::create_dir_all(cache().join("releases")).unwrap();
    let lock = File::create(cache().join("releases").join(format!("{name}.busy"))).unwrap();
    lock.lock().unwrap();
    must(ingot(["build", "--quiet"]).arg(definition).arg("--output").arg(&folder));
    folder
}

/// The load balancer as shipped.
pub fn load_balancer() -> PathBuf {
    release("load-balancer")
}

/// The load balancer with a unit that reports the machine's state on the serial console and powers
/// off: the shipped image lets nobody in, neither does this one.
pub fn load_balancer_that_reports() -> PathBuf {
    release("load-balancer-report")
}

/// A folder of its own for one test, gone afterwards.
pub fn scratch() -> tempfile::TempDir {
    let base = cache().join("scratch");
    fs::create_dir_all(&base).unwrap();
    tempfile::tempdir_in(base).unwrap()
}

/// Copies a file keeping its holes.
pub fn copy_sparse(from: &Path, to: &Path) {
    must(crate::programs::tool("cp", ["--sparse=always"]).arg(from).arg(to));
}
