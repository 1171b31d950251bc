//! Reference tools for the tests: programs of a Debian trixie root, run on copies of the inputs.

use std::path::{Path, PathBuf};

use crate::run::Program;

/// Where `ci/oracle-root` makes the trixie root: `INGOT_ORACLE_ROOT`, else below the user's cache.
#[allow(clippy::disallowed_methods, reason = "tests are told by ci/test")]
pub fn root() -> &'static str {
    static ROOT: std::sync::OnceLock<String> = std::sync::OnceLock::new();
    ROOT.get_or_init(|| {
        let usual = || format!("{}/.cache/ingot-ci/oracle-root", std::env::var("HOME").unwrap_or_default());
        std::env::var("INGOT_ORACLE_ROOT").unwrap_or_else(|_| usual())
    })
}

/// A folder inside the trixie root, gone when dropped.
pub struct Trixie {
    folder: tempfile::TempDir,
}

impl Trixie {
    pub fn new() -> Self {
        let folder = tempfile::Builder::new().prefix("ingot-boot-").tempdir_in(format!("{}/tmp", root()));
        Self { folder: folder.unwrap_or_else(|e| panic!("no Debian trixie root at {} (ci/oracle-root makes it): {e}", root())) }
    }

    /// Puts a file in and gives its path as the tools see it.
    pub fn put(&self, name: &str, bytes: &[u8]) -> String {
        std::fs::write(self.folder.path().join(name), bytes).unwrap();
        self.inside(name)
    }

    pub fn inside(&self, name: &str) -> String {
        self.outside(name).strip_prefix(root()).map(|path| Path::new("/").join(path)).unwrap().display().to_string()
    }

    pub fn outside(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Runs a program of the root; its output, or what it said when it failed.
    pub fn run(&self, arguments: &[&str]) -> Result<String, String> {
        let program = Program::find("chroot", "it is part of coreutils").unwrap().arg(root());
        let program = arguments.iter().fold(program, |program, argument| program.arg(*argument));
        let output = program.command().current_dir(self.folder.path()).output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() != Some(127), "{} is not in {} (ci/oracle-root installs it): {said}", arguments[0], root());
        if output.status.success() { Ok(said) } else { Err(said) }
    }
}

/// A boot file of trixie's systemd-boot-efi.
pub fn efi(name: &str) -> Vec<u8> {
    let path = format!("{}/usr/lib/systemd/boot/efi/{name}", root());
    std::fs::read(&path).unwrap_or_else(|e| panic!("{path}: {e} (ci/oracle-root installs systemd-boot-efi)"))
}
