//! dpkg's database as it stands after unpacking: all packages `install ok unpacked`, so that
//! `dpkg --configure` goes on from there (dpkg(1); the layout is that of `/var/lib/dpkg`, format 1).

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use crate::error::{Error, Kind, Result};
use crate::tree::staging::Staging;
use crate::tree::unpack::Package;

/// Where dpkg keeps its database.
pub const FOLDER: &str = "var/lib/dpkg";

/// Adds `packages` to the database, which is made where there is none.
///
/// # Errors
/// When a package's triggers are malformed, or the disk refuses.
pub fn write(staging: &Staging, packages: &[Package]) -> Result<()> {
    for folder in ["alternatives", "info", "parts", "triggers", "updates"] {
        staging.folder(format!("{FOLDER}/{folder}").as_bytes())?;
    }
    let add = |name: &str, bytes: &[u8]| {
        let path = format!("{FOLDER}/{name}").into_bytes();
        let before = staging.read(&path)?.unwrap_or_default();
        staging.write(&path, &[&before, bytes].concat(), 0o644).map(drop)
    };
    for package in packages {
        info(staging, package)?;
    }
    for (name, text) in triggers(packages)? {
        add(&format!("triggers/{name}"), text.as_bytes())?;
    }
    staging.write(format!("{FOLDER}/info/format").as_bytes(), b"1\n", 0o644)?;
    for made in ["available", "diversions", "statoverride"] {
        add(made, b"")?;
    }
    add("status", status(packages).as_bytes())
}

/// File triggers of the database that the files of further packages set off (deb-triggers(5)).
///
/// # Errors
/// When the disk refuses.
pub fn set_off(staging: &Staging, packages: &[Package]) -> Result<Vec<String>> {
    let file = staging.read(format!("{FOLDER}/triggers/File").as_bytes())?.unwrap_or_default();
    let text = String::from_utf8_lossy(&file);
    let wanted: BTreeSet<&str> = text.lines().filter_map(|line| Some(line.split_once(' ')?.0)).collect();
    let below = |path: &[u8], wanted: &str| {
        let rest = wanted.as_bytes().strip_prefix(b"/").and_then(|wanted| path.strip_prefix(wanted));
        rest.is_some_and(|rest| rest.first().is_none_or(|b| *b == b'/'))
    };
    let comes = |wanted: &&str| packages.iter().flat_map(|package| &package.list).any(|path| below(path, wanted));
    Ok(wanted.into_iter().filter(comes).map(str::to_owned).collect())
}

/// Whether the database says of a path of these packages that it goes elsewhere, or has another owner or mode.
///
/// # Errors
/// When the disk refuses.
pub fn redirects(staging: &Staging, packages: &[Package]) -> Result<bool> {
    let read = |name: &str| Ok::<_, Error>(staging.read(format!("{FOLDER}/{name}").as_bytes())?.unwrap_or_default());
    let (diversions, overrides) = (read("diversions")?, read("statoverride")?);
    // Three lines each: from, to, package. Four words each: owner, group, mode, path.
    let lines = |bytes: &[u8]| bytes.split(|b| *b == b'\n').map(<[u8]>::to_vec).collect::<Vec<_>>();
    let mut paths: BTreeSet<Vec<u8>> = lines(&diversions).into_iter().step_by(3).collect();
    let path = |line: Vec<u8>| line.splitn(4, |b| *b == b' ').nth(3).map(<[u8]>::to_vec);
    paths.extend(lines(&overrides).into_iter().filter_map(path));
    let absolute = |path: &Vec<u8>| [b"/", path.as_slice()].concat();
    Ok(packages.iter().flat_map(|package| &package.list).any(|path| paths.contains(&absolute(path))))
}

/// `info/NAME.*`: the list of paths and the control part's files.
fn info(staging: &Staging, package: &Package) -> Result<()> {
    let name = package.control.info_name();
    let path = |suffix: &str| format!("{FOLDER}/info/{name}.{suffix}").into_bytes();
    let mut list = Vec::new();
    for entry in &package.list {
        list.push(b'/');
        list.extend_from_slice(if entry.is_empty() { b"." } else { entry });
        list.push(b'\n');
    }
    staging.write(&path("list"), &list, 0o644)?;
    for (suffix, file) in &package.control.files {
        staging.write(&path(suffix), &file.bytes, file.mode)?;
    }
    Ok(())
}

/// Who waits for what: `triggers/File` for paths, one file per name for explicit triggers
/// (deb-triggers(5)). Nothing is pending: every script that configures finds all files in place.
fn triggers(packages: &[Package]) -> Result<BTreeMap<String, String>> {
    let mut files: BTreeMap<String, String> = BTreeMap::new();
    for package in packages {
        let Some(file) = package.control.files.get("triggers") else { continue };
        let name = package.control.info_name();
        for line in String::from_utf8_lossy(&file.bytes).lines() {
            let line = line.split('#').next().unwrap_or_default();
            let mut words = line.split_ascii_whitespace();
            let (Some(verb), Some(trigger)) = (words.next(), words.next()) else { continue };
            let suffix = match verb {
                "interest" | "interest-await" => "",
                "interest-noawait" => "/noawait",
                _ => continue,
            };
            if trigger.starts_with('/') {
                let _ = writeln!(files.entry("File".to_owned()).or_default(), "{trigger} {name}{suffix}");
            } else if trigger.chars().all(|c| c.is_ascii_alphanumeric() || "+-._:".contains(c)) && !trigger.starts_with('.') {
                let _ = writeln!(files.entry(trigger.to_owned()).or_default(), "{name}{suffix}");
            } else {
                return Err(Error::new(Kind::Failed, format!("the package `{name}` has the malformed trigger `{trigger}`")));
            }
        }
    }
    Ok(files)
}

/// `status`: the control text of each package with its state and the digests of its conffiles.
fn status(packages: &[Package]) -> String {
    let mut out = String::new();
    for package in packages {
        let (first, rest) = package.control.text.split_once('\n').unwrap_or_default();
        let _ = write!(out, "{first}\nStatus: install ok unpacked\n{rest}");
        if !package.conffiles.is_empty() {
            out.push_str("Conffiles:\n");
            for (path, digest) in &package.conffiles {
                let _ = writeln!(out, " /{} {digest}", String::from_utf8_lossy(path));
            }
        }
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::deb::{Control, ControlFile};

    fn package(extra: &str, triggers: &str) -> Package {
        let text = format!("Package: a\nVersion: 1\nArchitecture: amd64\n{extra}Description: x\n");
        let file = ControlFile { bytes: triggers.as_bytes().into(), mode: 0o644 };
        let control = Control::parse(&text, [("triggers".to_owned(), file)].into()).unwrap();
        let conffiles = [(b"etc/a".to_vec(), "0123".to_owned())].into();
        Package { control, list: vec![b"".to_vec(), b"etc".to_vec(), b"etc/a".to_vec()], conffiles }
    }

    #[test]
    fn the_database_is_as_dpkg_writes_it() {
        let root = tempfile::tempdir().unwrap();
        let staging = Staging::open(root.path()).unwrap();
        let text = "# comment\ninterest /usr/lib/x\ninterest-noawait name\nactivate other\ninterest-await /y\n";
        write(&staging, &[package("Multi-Arch: same\n", text)]).unwrap();
        let read = |name: &str| String::from_utf8(staging.read(format!("{FOLDER}/{name}").as_bytes()).unwrap().unwrap()).unwrap();
        assert_eq!(read("info/a:amd64.list"), "/.\n/etc\n/etc/a\n");
        assert_eq!(read("triggers/File"), "/usr/lib/x a:amd64\n/y a:amd64\n");
        assert_eq!(read("triggers/name"), "a:amd64/noawait\n");
        assert_eq!(
            read("status"),
            "Package: a\nStatus: install ok unpacked\nVersion: 1\nArchitecture: amd64\nMulti-Arch: same\nDescription: x\nConffiles:\n /etc/a 0123\n\n"
        );
        assert!(triggers(&[package("", "interest ../x\n")]).is_err());
        assert!(triggers(&[package("", "interest a/b\n")]).is_err());
    }
}
