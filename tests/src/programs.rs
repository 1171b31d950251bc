//! Running `ingot` and the reference tools.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// The top folder of the project.
pub fn top() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ has a parent").to_owned()
}

/// The folder that holds what tests keep between runs.
pub fn cache() -> PathBuf {
    let folder = std::env::var_os("INGOT_CI_CACHE")
        .map(PathBuf::from)
        .unwrap_or_else(|| PathBuf::from(std::env::var_os("HOME").expect("HOME is set")).join(".cache/ingot-ci"));
    std::fs::create_dir_all(&folder).expect("the test cache can be made");
    folder
}

/// The release program `ingot`.
///
/// # Panics
/// When `ci/compile` has not run.
pub fn ingot_path() -> PathBuf {
    let path = std::env::var_os("INGOT_TEST_PROGRAM").map_or_else(|| top().join("target/release/ingot"), PathBuf::from);
    assert!(path.is_file(), "{} is missing: run ci/compile first", path.display());
    path
}

/// `ingot` with the test's own store and caches, standard input empty, keys of the test cache.
pub fn ingot<I: IntoIterator<Item = S>, S: AsRef<OsStr>>(arguments: I) -> Command {
    let mut command = Command::new(ingot_path());
    command.args(arguments).stdin(Stdio::null()).current_dir(top());
    command.env("INGOT_CACHE", cache().join("ingot")).env("INGOT_KEYS", cache().join("keys"));
    command
}

/// What a finished process said, for assertions.
#[derive(Debug)]
pub struct Said {
    /// Exit code; -1 where a signal ended it.
    pub code: i32,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

/// Runs to the end.
pub fn said(command: &mut Command) -> Said {
    let Output { status, stdout, stderr } = command.output().unwrap_or_else(|e| panic!("starting {command:?}: {e}"));
    Said {
        code: status.code().unwrap_or(-1),
        out: String::from_utf8_lossy(&stdout).into_owned(),
        err: String::from_utf8_lossy(&stderr).into_owned(),
    }
}

/// Runs to the end and wants success; gives standard output and error together.
///
/// # Panics
/// With everything it said, when it fails.
pub fn must(command: &mut Command) -> String {
    let said = said(command);
    assert!(said.code == 0, "{command:?} ended with {}:\n{}{}", said.code, said.out, said.err);
    said.out + &said.err
}

/// A tool of this machine.
pub fn tool<I: IntoIterator<Item = S>, S: AsRef<OsStr>>(name: &str, arguments: I) -> Command {
    let mut command = Command::new(name);
    command.args(arguments).stdin(Stdio::null()).env("LC_ALL", "C.UTF-8");
    command
}

/// The oracle root: `INGOT_ORACLE_ROOT`, else in [`cache`].
///
/// # Panics
/// When `ci/oracle-root` has not made it.
pub fn oracle_root() -> PathBuf {
    let root = std::env::var_os("INGOT_ORACLE_ROOT").map_or_else(|| cache().join("oracle-root"), PathBuf::from);
    assert!(root.join("usr/bin/mkfs.erofs").exists(), "{} is no oracle root: run ci/oracle-root first", root.display());
    root
}

/// A tool of the oracle root (Debian trixie), with `folder` of this machine at `/mnt` there. The
/// mounts live in a namespace of their own and end with the tool.
pub fn oracle(folder: &Path, script: &str) -> Command {
    let root = oracle_root();
    let enter = r#"mount --bind "$1" "$1" && cd "$1" && mount -t proc proc proc && mount --rbind /dev dev && mount --rbind /sys sys \
        && mount -t tmpfs tmpfs run && mount -t tmpfs tmpfs tmp && mount --bind "$2" mnt && exec chroot . /bin/bash -euc "$3""#;
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private", "bash", "-euc", enter, "oracle"]).arg(root).arg(folder).arg(script);
    command.stdin(Stdio::null()).env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").env("LC_ALL", "C.UTF-8");
    command
}
