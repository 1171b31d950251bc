//! Finding QEMU, and what it can do here.

use std::fs::OpenOptions;
use std::path::{Path, PathBuf};

use crate::error::{Context, Error, Kind, Result};
use crate::run::Program;

/// The first version whose emulation runs Debian trixie's C library with all of the processor's features.
const GOOD_VERSION: (u32, u32) = (8, 0);

/// A QEMU that emulates x86-64.
#[derive(Debug, Clone)]
pub struct Qemu {
    /// The program.
    pub path: PathBuf,
    /// Its version: major, minor.
    pub version: (u32, u32),
    /// How it runs the machine's code.
    pub accelerator: Accelerator,
}

/// How the machine's code is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accelerator {
    /// By the processor, or by emulation where KVM refuses in the end.
    KvmOrTcg,
    /// By emulation: 10 to 30 times slower.
    Tcg,
}

impl Accelerator {
    /// What this host has: KVM where the processor says it virtualises and this user may open it. (Some
    /// hosts without virtualisation have a `/dev/kvm` that opens and then fails.)
    pub fn of_this_host() -> Self {
        let flags = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let virtualises = flags
            .lines()
            .filter(|line| line.starts_with("flags"))
            .any(|line| line.split_ascii_whitespace().any(|flag| flag == "vmx" || flag == "svm"));
        if virtualises && OpenOptions::new().read(true).write(true).open("/dev/kvm").is_ok() {
            Accelerator::KvmOrTcg
        } else {
            Accelerator::Tcg
        }
    }

    pub(super) fn names(self) -> &'static [&'static str] {
        match self {
            Accelerator::KvmOrTcg => &["kvm", "tcg"],
            Accelerator::Tcg => &["tcg"],
        }
    }
}

impl Qemu {
    /// The program at `path`, or `qemu-system-x86_64` of this host.
    ///
    /// # Errors
    /// [`Kind::Missing`] where there is none, or it does not say its version.
    pub fn find(path: Option<&Path>) -> Result<Self> {
        let program = match path {
            Some(path) => Program::at(path),
            None => Program::find(
                "qemu-system-x86_64",
                "apt install qemu-system-x86 ovmf (Fedora: dnf install qemu-system-x86 edk2-ovmf)",
            )?,
        };
        let said = program.clone().arg("--version").output().context("asking QEMU for its version")?;
        let version = version(&String::from_utf8_lossy(&said)).ok_or_else(|| {
            Error::new(Kind::Missing, format!("`{program} --version` does not name a QEMU version"))
                .hint("name another with --qemu")
        })?;
        let found = Self { path: program.path().to_owned(), version, accelerator: Accelerator::of_this_host() };
        if version < GOOD_VERSION && found.accelerator == Accelerator::Tcg {
            let (major, minor) = version;
            tracing::warn!(
                "QEMU {major}.{minor} miscomputes new code when it emulates; taking an older processor. QEMU 8 or later is faster: bookworm-backports has it"
            );
        }
        Ok(found)
    }

    /// The processor: all that is there, without AMD's virtualisation, which emulation offers and which makes
    /// the machine load KVM modules for nothing.
    pub(super) fn cpu(&self) -> &'static str {
        if self.version < GOOD_VERSION && self.accelerator == Accelerator::Tcg { "Nehalem" } else { "max,-svm" }
    }
}

/// Major and minor of `QEMU emulator version 10.0.2 (...)`.
fn version(said: &str) -> Option<(u32, u32)> {
    let mut numbers = said.lines().next()?.strip_prefix("QEMU emulator version ")?.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read() {
        for (said, expected) in [
            ("QEMU emulator version 10.0.2 (Debian 1:10.0.2+ds-2)\nCopyright", Some((10, 0))),
            ("QEMU emulator version 7.2.22", Some((7, 2))),
            ("QEMU emulator version 11.1-rc3", Some((11, 1))),
            ("QEMU emulator version x", None),
            ("bash 5.2", None),
            ("", None),
        ] {
            assert_eq!(version(said), expected, "{said:?}");
        }
    }

    #[test]
    fn emulation_by_an_old_qemu_takes_an_old_processor() {
        let qemu = |version, accelerator| Qemu { path: "q".into(), version, accelerator };
        assert_eq!(qemu((7, 2), Accelerator::Tcg).cpu(), "Nehalem");
        assert_eq!(qemu((8, 0), Accelerator::Tcg).cpu(), "max,-svm");
        assert_eq!(qemu((7, 2), Accelerator::KvmOrTcg).cpu(), "max,-svm");
    }

    #[test]
    fn a_program_that_is_no_qemu_is_refused() {
        assert!(Qemu::find(Some(Path::new("/bin/true"))).unwrap_err().to_string().contains("does not name a QEMU version"));
        assert_eq!(Qemu::find(Some(Path::new("/nonexistent/qemu"))).unwrap_err().kind(), Kind::Missing);
    }
}
