//! What an image must not hold although the scripts made it: identities, secrets, logs, caches,
//! backups and locks. What is left does not depend on when, where or in which order it was made.

use std::collections::BTreeSet;

use rustix::fs::{AtFlags, FileType, OFlags, statat};

use crate::epoch::Epoch;
use crate::error::Result;
use crate::tree::accounts::{Accounts, Renumbering};
use crate::tree::staging::{Staging, split};

/// Single paths that go.
const REMOVED: [&str; 26] = [
    "etc/.pwd.lock",
    "etc/group-",
    "etc/gshadow-",
    "etc/hostname",
    "etc/machine-id",
    "etc/passwd-",
    "etc/shadow-",
    "etc/subgid-",
    "etc/subuid-",
    "boot/initrd.img",
    "boot/initrd.img.old",
    "initrd.img",
    "initrd.img.old",
    "usr/sbin/policy-rc.d",
    "var/lib/apt/extended_states",
    "var/lib/dbus/machine-id",
    "var/lib/dpkg/available-old",
    "var/lib/dpkg/diversions-old",
    "var/lib/dpkg/lock",
    "var/lib/dpkg/lock-frontend",
    "var/lib/dpkg/status-old",
    "var/lib/dpkg/statoverride-old",
    "var/lib/dpkg/triggers/Lock",
    "var/lib/systemd/catalog/database",
    "var/lib/systemd/credential.secret",
    "var/lib/systemd/random-seed",
];

/// Folders of which all content goes, folders included.
const EMPTIED: [&str; 8] = ["dev", "proc", "run", "sys", "tmp", "var/tmp", "var/backups", "lost+found"];

/// Folders of which all files go, while their folders stay with owner and mode.
const WITHOUT_FILES: [&str; 3] = ["var/cache", "var/lib/apt/lists", "var/log"];

/// Cleans the tree and settles its numbers, which the index then applies to owners.
///
/// # Errors
/// When the disk refuses, or two users would have one number.
pub fn normalise(staging: &Staging, pins: &[(String, u32)], epoch: Epoch) -> Result<Renumbering> {
    for path in REMOVED {
        staging.remove(path.as_bytes())?;
    }
    for folder in EMPTIED {
        for name in staging.names(folder.as_bytes())? {
            staging.remove(&[folder.as_bytes(), b"/", &name].concat())?;
        }
    }
    for folder in WITHOUT_FILES {
        remove_files(staging, folder.as_bytes())?;
    }
    for name in staging.names(b"etc/ssh")?.iter().filter(|name| name.starts_with(b"ssh_host_")) {
        staging.remove(&[b"etc/ssh/", name.as_slice()].concat())?;
    }
    // A link into /run is the tree's own wish; a file is what some script found.
    if is(staging, b"etc/resolv.conf", FileType::RegularFile) {
        staging.remove(b"etc/resolv.conf")?;
    }
    accounts(staging, pins, epoch)
}

fn is(staging: &Staging, path: &[u8], wanted: FileType) -> bool {
    let (parent, name) = split(path);
    staging
        .open_at(parent, OFlags::PATH | OFlags::DIRECTORY)
        .and_then(|folder| statat(&folder, name, AtFlags::SYMLINK_NOFOLLOW))
        .is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == wanted)
}

fn remove_files(staging: &Staging, folder: &[u8]) -> Result<()> {
    if !is(staging, folder, FileType::Directory) {
        return Ok(());
    }
    for name in staging.names(folder)? {
        let path = [folder, b"/", &name].concat();
        if is(staging, &path, FileType::Directory) { remove_files(staging, &path)? } else { staging.remove(&path)? }
    }
    Ok(())
}

fn accounts(staging: &Staging, pins: &[(String, u32)], epoch: Epoch) -> Result<Renumbering> {
    let read = |path: &str| Ok(staging.read(path.as_bytes())?.unwrap_or_default());
    let mut accounts = Accounts::parse(&read("etc/passwd")?, &read("etc/group")?, &read("etc/shadow")?, &read("etc/gshadow")?);
    let mut fixed = BTreeSet::new();
    for master in ["passwd", "group"] {
        let text = read(&format!("usr/share/base-passwd/{master}.master"))?;
        fixed.extend(String::from_utf8_lossy(&text).lines().filter_map(|l| Some(l.split_once(':')?.0.to_owned())));
    }
    let numbers = accounts.renumbering(pins, &fixed)?;
    accounts.renumber(&numbers, epoch);
    for (path, bytes) in accounts.files() {
        if staging.read(path.as_bytes())?.is_some_and(|old| old != bytes) {
            staging.rewrite(path.as_bytes(), &bytes)?;
        }
    }
    Ok(numbers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_differs_between_builds_is_gone_and_the_rest_stays() {
        let root = tempfile::tempdir().unwrap();
        let staging = Staging::open(root.path()).unwrap();
        let gone = [
            "etc/machine-id",
            "etc/ssh/ssh_host_rsa_key",
            "etc/resolv.conf",
            "var/log/apt/term.log",
            "var/cache/ldconfig/aux-cache",
            "tmp/x/y",
            "var/lib/dpkg/status-old",
        ];
        let stay = ["etc/ssh/sshd_config", "var/lib/dpkg/status", "usr/bin/x"];
        for path in gone.iter().chain(&stay) {
            staging.write(path.as_bytes(), b"x", 0o644).unwrap();
        }
        staging.write(b"etc/passwd", b"root:x:0:0::/root:/bin/sh\na:x:999:999::/:/x\n", 0o600).unwrap();
        staging.write(b"etc/group", b"root:x:0:\na:x:999:\n", 0o644).unwrap();
        let numbers = normalise(&staging, &[("a".to_owned(), 150)], Epoch(0)).unwrap();
        assert_eq!((numbers.uid(999), numbers.gid(999), numbers.uid(0)), (150, 150, 0));
        for path in gone {
            assert!(staging.read(path.as_bytes()).unwrap().is_none(), "{path} is still there");
        }
        for path in stay {
            assert!(staging.read(path.as_bytes()).unwrap().is_some(), "{path} is gone");
        }
        assert!(is(&staging, b"var/log/apt", FileType::Directory) && is(&staging, b"var/cache/ldconfig", FileType::Directory));
        let passwd = staging.read(b"etc/passwd").unwrap().unwrap();
        assert!(passwd.ends_with(b"a:x:150:150::/:/x\n"));
    }
}
