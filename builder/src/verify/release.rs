//! A whole release: signatures first, then every file that the signed lists name, then what is in
//! the images. A failure is written down and the next thing is looked at.

use std::collections::BTreeMap;
use std::path::{Component, Path};

use trust::{AllowedSigners, Manifest, Namespace, Policy, RevokedKeys, Sha256Digest, Verified};
use x509_cert::Certificate;

use super::{Check, Outcome, files, images};
use crate::error::{Error, Kind, Result};
use crate::progress::Progress;

/// The list of all that is known.
pub const MANIFEST: &str = "manifest.json";
/// The list for `sha256sum`.
pub const SUMS: &str = "SHA256SUMS";
/// Longest signature that is read, in bytes.
const LONGEST_SIGNATURE: u64 = 1 << 16;

/// Whom to believe.
#[derive(Debug, Clone, Copy)]
pub struct Trust<'a> {
    /// Who may sign releases.
    pub signers: &'a AllowedSigners,
    /// Who must have signed what boots.
    pub certificate: &'a Certificate,
    /// The time at which a key must be valid: seconds since 1970.
    pub at: u64,
}

/// A file as a signed list has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Wanted {
    /// Bytes, where the list says so.
    pub size: Option<u64>,
    /// Digest.
    pub sha256: Sha256Digest,
}

/// Checks the release in `folder`; the checks of one file stand together.
///
/// # Errors
/// [`Kind::Usage`] when there is no such folder. Whatever does not hold is in the checks.
pub fn release(folder: &Path, trust: &Trust<'_>, progress: &dyn Progress) -> Result<Vec<Check>> {
    if !folder.is_dir() {
        return Err(Error::new(Kind::Usage, format!("there is no release folder {}", folder.display()))
            .hint("`ingot build` makes releases, in out/NAME"));
    }
    let mut checks = Vec::new();
    let manifest =
        taken(MANIFEST, signed(folder, MANIFEST, trust, |bytes| Manifest::parse(bytes).map_err(|e| e.to_string())), &mut checks);
    let sums = taken(SUMS, signed(folder, SUMS, trust, parse_sums), &mut checks);
    let wanted = wanted(manifest.as_ref(), sums.as_ref(), &mut checks);
    match wanted.is_empty() {
        true => checks.push(Check {
            subject: "the files".to_owned(),
            claim: "they are those of the release".to_owned(),
            outcome: Outcome::Unknown("no list of them is trusted".to_owned()),
        }),
        false => files::check(folder, &wanted, progress, &mut checks),
    }
    match &manifest {
        Some(manifest) => images::check(folder, manifest, trust, progress, &mut checks),
        None => checks.push(Check {
            subject: "the images".to_owned(),
            claim: "they hold what the manifest says".to_owned(),
            outcome: Outcome::Unknown(format!("{MANIFEST} is not trusted, so nothing says what they should hold")),
        }),
    }
    Ok(together(checks))
}

/// A document whose signature holds, as `parse` reads it: nothing is read before that.
fn signed<T>(
    folder: &Path,
    name: &str,
    trust: &Trust<'_>,
    parse: impl FnOnce(&[u8]) -> Result<T, String>,
) -> Result<Verified<T>> {
    let bytes = files::small(&folder.join(name), trust::manifest::LIMIT as u64)?;
    let signature = files::small(&folder.join(format!("{name}.sig")), LONGEST_SIGNATURE)?;
    let policy = Policy { signers: trust.signers, revoked: &RevokedKeys::default(), namespace: Namespace::Release, at: trust.at };
    let untrusted = |why: String| Error::new(Kind::Untrusted, why);
    let verified = trust::verify(&bytes, &String::from_utf8_lossy(&signature), &policy).map_err(|e| untrusted(e.to_string()))?;
    verified.try_map(parse).map_err(|why| untrusted(format!("it is signed, but cannot be read: {why}")))
}

/// Writes down who signed, or why nobody is believed.
fn taken<T>(name: &str, document: Result<Verified<T>>, checks: &mut Vec<Check>) -> Option<T> {
    let claim = match &document {
        Ok(verified) => format!("it is signed by {} ({})", verified.signer().principals.join(","), verified.signer().fingerprint),
        Err(_) => "it is signed by an allowed signer".to_owned(),
    };
    let (document, result) = match document {
        Ok(verified) => (Some(verified.into_inner()), Ok(())),
        Err(error) => (None, Err(error)),
    };
    checks.push(Check::of(name, claim, &result));
    document
}

/// The lines of `SHA256SUMS`, by name.
fn parse_sums(bytes: &[u8]) -> Result<BTreeMap<String, Sha256Digest>, String> {
    let text = std::str::from_utf8(bytes).map_err(|e| format!("it is no text: {e}"))?;
    let mut sums = BTreeMap::new();
    for (number, line) in (1..).zip(text.lines()) {
        let (digest, name) =
            line.split_once("  ").ok_or_else(|| format!("line {number}: expected a digest, two spaces and a name"))?;
        let digest = digest.parse().map_err(|e| format!("line {number}: {e}"))?;
        let plain = !name.is_empty() && Path::new(name).components().all(|part| matches!(part, Component::Normal(_)));
        if !plain || sums.insert(name.to_owned(), digest).is_some() {
            return Err(format!("line {number}: expected each path below the folder once, found `{name}`"));
        }
    }
    Ok(sums)
}

/// The files that the believed lists name. Both must name the same ones.
fn wanted(
    manifest: Option<&Manifest>,
    sums: Option<&BTreeMap<String, Sha256Digest>>,
    checks: &mut Vec<Check>,
) -> BTreeMap<String, Wanted> {
    let mut wanted: BTreeMap<String, Wanted> = BTreeMap::new();
    for (name, sha256) in sums.into_iter().flatten() {
        wanted.insert(name.clone(), Wanted { size: None, sha256: *sha256 });
    }
    let Some(manifest) = manifest else { return wanted };
    let listed: BTreeMap<String, Sha256Digest> = manifest.files.iter().map(|file| (file.name.clone(), file.sha256)).collect();
    if let Some(sums) = sums {
        let mut rest = sums.clone();
        rest.remove(MANIFEST);
        let differs = |name: &&String| listed.get(*name) != rest.get(*name);
        let odd: Vec<&str> = listed
            .keys()
            .chain(rest.keys().filter(|name| !listed.contains_key(*name)))
            .filter(differs)
            .map(String::as_str)
            .collect();
        checks.push(
            Check::equal(SUMS, "it says the same of every file as the manifest", &odd.join(", "), "")
                .worded(|| format!("they do not agree on {}", odd.join(", "))),
        );
    }
    for file in &manifest.files {
        wanted.insert(file.name.clone(), Wanted { size: Some(file.size), sha256: file.sha256 });
    }
    wanted
}

/// The same checks, those of one subject behind its first one.
fn together(checks: Vec<Check>) -> Vec<Check> {
    let mut places: BTreeMap<String, usize> = BTreeMap::new();
    let mut groups: Vec<Vec<Check>> = Vec::new();
    for check in checks {
        let place = *places.entry(check.subject.clone()).or_insert(groups.len());
        match groups.get_mut(place) {
            Some(group) => group.push(check),
            None => groups.push(vec![check]),
        }
    }
    groups.into_iter().flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_are_read_strictly() {
        let digest = "ab".repeat(32);
        assert_eq!(parse_sums(format!("{digest}  a/b\n{digest}  c\n").as_bytes()).unwrap().len(), 2);
        for (text, why) in [
            (format!("{digest} a"), "line 1: expected a digest"),
            ("abc  a".to_owned(), "line 1: expected 64"),
            (format!("{digest}  a\n{digest}  a"), "line 2: expected each path"),
            (format!("{digest}  ../a"), "found `../a`"),
            (format!("{digest}  /a"), "found `/a`"),
            (format!("{digest}  "), "found ``"),
        ] {
            let error = parse_sums(text.as_bytes()).unwrap_err();
            assert!(error.contains(why), "{error}");
        }
        assert!(parse_sums(&[0xff]).is_err());
    }

    #[test]
    fn checks_of_one_file_stand_together() {
        let check = |subject: &str, claim: &str| Check::of(subject, claim, &Ok(()));
        let sorted = together(vec![check("b", "1"), check("a", "2"), check("b", "3")]);
        assert_eq!(sorted.iter().map(|c| c.claim.as_str()).collect::<Vec<_>>(), ["1", "3", "2"]);
    }
}
