//! The program's own user and mount namespace, which is how a tree with many owners is made
//! without being root (user_namespaces(7), subuid(5)).
//!
//! The only module here that needs `unsafe`: unsharing can pull file descriptors away from under
//! other threads, so the system call is marked that way.

#![allow(unsafe_code)]

use std::io::{Read, Write};
use std::path::Path;
use std::process::Stdio;

use rustix::mount::{MountPropagationFlags, mount_change};
use rustix::process::{geteuid, getuid};
use rustix::thread::UnshareFlags;

use crate::error::{Error, Kind, Result};
use crate::files;
use crate::run::Program;

/// Debian uses ids up to 65534 (nobody), so a map must reach that far.
const HIGHEST_ID: u32 = 65_534;
/// Where the ranges of ordinary users are written down.
const RANGES: [(&str, &str); 2] = [("/etc/subuid", "newuidmap"), ("/etc/subgid", "newgidmap")];

/// Puts the whole program into a private mount namespace and, unless it is root already, into a
/// user namespace in which it is root over a range of subordinate ids. To be called once, before
/// any thread is started.
///
/// # Errors
/// [`Kind::Missing`] with the next action when the kernel, `newuidmap` or the range is not there.
pub fn enter() -> Result<()> {
    if geteuid().is_root() {
        check_map("/proc/self/uid_map")?;
        check_map("/proc/self/gid_map")?;
    } else {
        become_root_over_range()?;
    }
    unshare(UnshareFlags::NEWNS).map_err(|e| refused("making a mount namespace", e))?;
    keep_mounts_private()
}

/// Leaves the mount, process, network, IPC and host name namespaces; the next child is process 1
/// of the new ones.
///
/// # Errors
/// [`Kind::Missing`] when the kernel refuses.
pub fn isolate() -> Result<()> {
    let flags = UnshareFlags::NEWNS
        | UnshareFlags::NEWPID
        | UnshareFlags::NEWNET
        | UnshareFlags::NEWIPC
        | UnshareFlags::NEWUTS
        | UnshareFlags::NEWCGROUP;
    unshare(flags).map_err(|e| refused("making namespaces for maintainer scripts", e))?;
    keep_mounts_private()
}

fn unshare(flags: UnshareFlags) -> rustix::io::Result<()> {
    // SAFETY: without CLONE_FILES no descriptor table is unshared, so that no thread can see
    // descriptors that are not its own; none of the callers passes that flag.
    unsafe { rustix::thread::unshare_unsafe(flags.difference(UnshareFlags::FILES)) }
}

fn keep_mounts_private() -> Result<()> {
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
        .map_err(|e| refused("making the mounts private", e))
}

fn refused(doing: &str, error: rustix::io::Errno) -> Error {
    Error::new(Kind::Missing, format!("{doing}: {error}")).hint(
        "unprivileged user namespaces must be allowed: see the sysctls user.max_user_namespaces, \
         kernel.unprivileged_userns_clone (Debian) and kernel.apparmor_restrict_unprivileged_userns (Ubuntu); \
         in a container, allow them or run it privileged",
    )
}

/// In a container whose root has few ids, files could not be given to their owners.
fn check_map(path: &str) -> Result<()> {
    let map = files::read_text(Path::new(path))?;
    let ranges = map.lines().filter_map(|line| {
        let mut words = line.split_ascii_whitespace().map(str::parse::<u64>);
        let (first, _, count) = (words.next()?.ok()?, words.next()?, words.next()?.ok()?);
        Some((first, count))
    });
    let mut reached = 0;
    for (first, count) in ranges {
        if first <= reached {
            reached = reached.max(first.saturating_add(count));
        }
    }
    if reached > u64::from(HIGHEST_ID) {
        return Ok(());
    }
    Err(Error::new(Kind::Missing, format!("{path} maps the ids 0 to {reached} only, expected 0 to {HIGHEST_ID}"))
        .hint("give the container a full range of ids, or run as an ordinary user with a range in /etc/subuid"))
}

fn become_root_over_range() -> Result<()> {
    let uid = getuid().as_raw();
    let gid = rustix::process::getgid().as_raw();
    let passwd = files::read_if_there(Path::new("/etc/passwd"))?.unwrap_or_default();
    let name = user_name(&String::from_utf8_lossy(&passwd), uid);
    let mut lines = Vec::new();
    for ((path, tool), own) in RANGES.into_iter().zip([uid, gid]) {
        let text = files::read_if_there(Path::new(path))?.unwrap_or_default();
        let (start, count) = range(&String::from_utf8_lossy(&text), name.as_deref(), uid).ok_or_else(|| {
            let who = name.clone().unwrap_or_else(|| uid.to_string());
            Error::new(Kind::Missing, format!("{path} gives the user `{who}` no range of at least {HIGHEST_ID} ids"))
                .hint(format!("let root add one: usermod --add-subuids 200000-265535 --add-subgids 200000-265535 {who}"))
                .hint("or build as root")
        })?;
        let tool = Program::find(tool, "install the package `uidmap`, or build as root")?;
        lines.push(format!("{tool} {} 0 {own} 1 1 {start} {count}", std::process::id()));
    }
    map_from_outside(&lines.join(" && "))
}

/// The maps can only be written by set-uid helpers that stayed outside: a shell that waits.
fn map_from_outside(script: &str) -> Result<()> {
    let shell = Program::find("sh", "a POSIX shell is part of every system")?.arg("-c").arg(format!("read go && {script}"));
    let starting = |e: std::io::Error| Error::new(Kind::Failed, format!("running `{shell}`: {e}"));
    let mut helper = shell.command().stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().map_err(starting)?;
    let unshared = unshare(UnshareFlags::NEWUSER).map_err(|e| refused("making a user namespace", e));
    if let Some(mut pipe) = helper.stdin.take().filter(|_| unshared.is_ok()) {
        pipe.write_all(b"go\n").map_err(starting)?;
    }
    let mut said = String::new();
    if let Some(mut pipe) = helper.stderr.take() {
        pipe.read_to_string(&mut said).map_err(starting)?;
    }
    let status = helper.wait().map_err(starting)?;
    unshared?;
    if !status.success() {
        return Err(Error::new(Kind::Missing, format!("mapping the subordinate ids with `{script}`: {}", said.trim()))
            .hint("check the user's lines in /etc/subuid and /etc/subgid, and that newuidmap is set-uid root"));
    }
    // The caller's further groups have no meaning inside.
    rustix::thread::set_thread_groups(&[]).map_err(|e| refused("leaving the supplementary groups", e))
}

/// The login name of a uid in the text of passwd(5).
fn user_name(passwd: &str, uid: u32) -> Option<String> {
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(uid)).then(|| name.to_owned())
    })
}

/// Start and length of the user's first range that is long enough (subuid(5): name or uid first).
fn range(text: &str, name: Option<&str>, uid: u32) -> Option<(u32, u32)> {
    text.lines().find_map(|line| {
        let mut fields = line.trim().split(':');
        let (owner, start, count) = (fields.next()?, fields.next()?.parse::<u32>().ok()?, fields.next()?.parse::<u32>().ok()?);
        let own = Some(owner) == name || owner.parse() == Ok(uid);
        start.checked_add(count)?;
        (own && count >= HIGHEST_ID).then_some((start, count.min(HIGHEST_ID + 1)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_found_by_name_or_number() {
        let passwd = "root:x:0:0::/root:/bin/sh\nci:x:1000:1000::/home/ci:/bin/sh\nbroken\n";
        assert_eq!(user_name(passwd, 1000).as_deref(), Some("ci"));
        assert_eq!(user_name(passwd, 1001), None);
        for (text, found) in [
            ("ci:100000:65536\n", Some((100_000, 65_535))),
            ("other:1:65536\nci:5:10\n1000:200000:70000\n", Some((200_000, 65_535))),
            ("ci:100000:65534", Some((100_000, 65_534))),
            ("ci:100000:65533", None),
            ("ci:4294967295:65536", None),
            ("ci:x:y\nci\n:::\n", None),
        ] {
            assert_eq!(range(text, Some("ci"), 1000), found, "{text}");
        }
    }
}
