//! Every file of a release against the signed lists, and nothing beside them.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use trust::Sha256;

use super::release::{MANIFEST, SUMS, Wanted};
use super::{Check, Outcome};
use crate::error::{Error, Kind, Result};
use crate::files::open;
use crate::progress::{Progress, Task, Unit};

/// Threads that hash.
const HASHERS: usize = 2;
/// Bytes that are read at a time.
const PIECE: usize = 1 << 20;
/// Folders in folders of a release; ours have one.
const DEEPEST: usize = 8;
/// Files that belong to every release though no list can name them all.
const OWN: [&str; 4] = [MANIFEST, "manifest.json.sig", SUMS, "SHA256SUMS.sig"];

/// A regular file and its size; links are not followed.
///
/// # Errors
/// [`Kind::Untrusted`] when it is not there or something else.
fn regular(path: &Path) -> Result<(File, u64)> {
    let untrusted = |why: &str| Error::new(Kind::Untrusted, why.to_owned());
    let found = match fs::symlink_metadata(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Err(untrusted("the file is not there")),
        other => other.map_err(|e| Error::io("reading", path, &e))?,
    };
    if !found.is_file() {
        return Err(untrusted("expected a regular file, found something else"));
    }
    Ok((open(path)?, found.len()))
}

/// The bytes of a file that has `limit` of them at most.
///
/// # Errors
/// [`Kind::Untrusted`] when it has more, or is no regular file.
pub(super) fn small(path: &Path, limit: u64) -> Result<Vec<u8>> {
    let (file, _) = regular(path)?;
    let mut bytes = Vec::new();
    file.take(limit.saturating_add(1)).read_to_end(&mut bytes).map_err(|e| Error::io("reading", path, &e))?;
    if bytes.len() as u64 > limit {
        return Err(Error::new(Kind::Untrusted, format!("expected {limit} bytes at most, found more")));
    }
    Ok(bytes)
}

/// Checks digests of all `wanted` files in two threads, and that there are no others.
pub(super) fn check(folder: &Path, wanted: &BTreeMap<String, Wanted>, progress: &dyn Progress, checks: &mut Vec<Check>) {
    // Largest first, so that both threads end at about the same time.
    let sizes = |name: &String| fs::symlink_metadata(folder.join(name)).map_or(0, |found| found.len());
    let mut jobs: Vec<(u64, &String, &Wanted)> = wanted.iter().map(|(name, wanted)| (sizes(name), name, wanted)).collect();
    jobs.sort_by(|a, b| b.0.cmp(&a.0).then(a.1.cmp(b.1)));
    let task = progress.begin("checking digests", jobs.iter().fold(0, |sum, job| job.0.saturating_add(sum)), Unit::Bytes);
    let next = AtomicUsize::new(0);
    let results: Mutex<BTreeMap<&String, Result<()>>> = Mutex::default();
    let work = || {
        while let Some((_, name, wanted)) = jobs.get(next.fetch_add(1, Ordering::Relaxed)) {
            let result = digest(&folder.join(name), wanted, &*task);
            results.lock().unwrap_or_else(std::sync::PoisonError::into_inner).insert(name, result);
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..HASHERS {
            scope.spawn(work);
        }
        work();
    });
    let results = results.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    for name in wanted.keys() {
        let missed = Err(Error::new(Kind::Failed, "nobody has looked at it"));
        checks.push(Check::of(name, "size and SHA-256 are the signed ones", results.get(name).unwrap_or(&missed)));
    }
    others(folder, wanted, checks);
}

fn digest(path: &Path, wanted: &Wanted, task: &dyn Task) -> Result<()> {
    let untrusted = |what: &str, found: &dyn std::fmt::Display, expected: &dyn std::fmt::Display| {
        Error::new(Kind::Untrusted, format!("its {what} is {found}, expected {expected}"))
    };
    let (mut file, size) = regular(path)?;
    if let Some(expected) = wanted.size.filter(|expected| *expected != size) {
        return Err(untrusted("size", &size, &expected));
    }
    let (mut hasher, mut buffer) = (Sha256::new(), vec![0; PIECE]);
    loop {
        let amount = match file.read(&mut buffer) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            other => other.map_err(|e| Error::io("reading", path, &e))?,
        };
        if amount == 0 {
            break;
        }
        hasher.update(buffer.get(..amount).unwrap_or_default());
        task.advance(amount as u64);
    }
    match hasher.finish() {
        found if found == wanted.sha256 => Ok(()),
        found => Err(untrusted("SHA-256", &found, &wanted.sha256)),
    }
}

/// Whatever lies in the folder and is on no signed list.
fn others(folder: &Path, wanted: &BTreeMap<String, Wanted>, checks: &mut Vec<Check>) {
    let mut odd = Vec::new();
    let result = walk(folder, "", 0, &mut |name, plain| {
        if !plain || !(wanted.contains_key(name) || OWN.contains(&name)) {
            odd.push(name.to_owned());
        }
    });
    odd.sort();
    for name in odd {
        checks.push(Check {
            subject: name,
            claim: "it belongs to the release".to_owned(),
            outcome: Outcome::Fails("found it in the folder, but on no signed list".to_owned()),
        });
    }
    checks.push(Check::of("the folder", "every name in it was looked at", &result));
}

/// Calls `visit` with the path of everything but folders, and whether it is a regular file.
fn walk(top: &Path, below: &str, depth: usize, visit: &mut dyn FnMut(&str, bool)) -> Result<()> {
    let folder = top.join(below);
    if depth > DEEPEST {
        return Err(Error::new(Kind::Untrusted, format!("expected {DEEPEST} folders in each other at most, found `{below}`")));
    }
    for entry in fs::read_dir(&folder).map_err(|e| Error::io("reading the folder", &folder, &e))? {
        let entry = entry.map_err(|e| Error::io("reading the folder", &folder, &e))?;
        let kind = entry.file_type().map_err(|e| Error::io("reading", &entry.path(), &e))?;
        // A name that is no UTF-8 is on no list, so its lossy form only has to be shown.
        let (name, sound) = match entry.file_name().into_string() {
            Ok(name) => (name, true),
            Err(name) => (name.to_string_lossy().into_owned(), false),
        };
        let path = if below.is_empty() { name } else { format!("{below}/{name}") };
        match kind.is_dir() && sound {
            true => walk(top, &path, depth + 1, visit)?,
            false => visit(&path, kind.is_file() && sound),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use trust::Sha256Digest;

    use super::*;
    use crate::progress::Silent;

    fn failed(folder: &Path, wanted: &BTreeMap<String, Wanted>) -> Vec<(String, String)> {
        let mut checks = Vec::new();
        check(folder, wanted, &Silent, &mut checks);
        checks
            .into_iter()
            .filter_map(|check| match check.outcome {
                Outcome::Fails(why) => Some((check.subject, why)),
                _ => None,
            })
            .collect()
    }

    #[test]
    fn every_change_of_the_folder_is_named() {
        type Damage = fn(&Path);
        let cases: [(&str, &str, Damage); 7] = [
            ("a", "SHA-256", |f| fs::write(f.join("a"), b"A").unwrap()),
            ("a", "its size is 2, expected 1", |f| fs::write(f.join("a"), b"aa").unwrap()),
            ("s/b", "is not there", |f| fs::remove_file(f.join("s/b")).unwrap()),
            ("new", "on no signed list", |f| fs::write(f.join("new"), b"").unwrap()),
            ("s/new", "on no signed list", |f| fs::write(f.join("s/new"), b"").unwrap()),
            ("link", "on no signed list", |f| std::os::unix::fs::symlink("a", f.join("link")).unwrap()),
            ("a", "something else", |f| {
                fs::rename(f.join("a"), f.join("manifest.json")).unwrap();
                std::os::unix::fs::symlink("manifest.json", f.join("a")).unwrap();
            }),
        ];
        let one = |text: &str| Wanted { size: Some(1), sha256: Sha256Digest::of(text.as_bytes()) };
        let wanted = BTreeMap::from([("a".to_owned(), one("a")), ("s/b".to_owned(), one("b"))]);
        for (subject, why, damage) in cases {
            let folder = tempfile::tempdir().unwrap();
            fs::create_dir(folder.path().join("s")).unwrap();
            fs::write(folder.path().join("a"), b"a").unwrap();
            fs::write(folder.path().join("s/b"), b"b").unwrap();
            assert_eq!(failed(folder.path(), &wanted), []);
            damage(folder.path());
            let found = failed(folder.path(), &wanted);
            assert!(found.iter().any(|(s, w)| s == subject && w.contains(why)), "{subject} {why}: {found:?}");
        }
    }

    #[test]
    fn only_small_regular_files_are_read_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x");
        assert_eq!(small(&path, 3).unwrap_err().kind(), Kind::Untrusted);
        fs::write(&path, b"abc").unwrap();
        assert_eq!(small(&path, 3).unwrap(), b"abc");
        assert_eq!(small(&path, 2).unwrap_err().kind(), Kind::Untrusted);
        assert_eq!(small(folder.path(), 2).unwrap_err().kind(), Kind::Untrusted);
    }
}
