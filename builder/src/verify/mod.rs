//! What holds and what does not, named one by one. The checks of signatures and trees belong to
//! their own stages; here are the list, its text, and the checks of the partition table.
//!
//! | module | what it checks |
//! |---|---|
//! | [`release`](mod@release) | signatures, then all of a release |
//! | `files` | every file, and no other |
//! | `images` | what is inside images, UKI and signature lists |

mod files;
mod images;
pub mod release;

use std::fmt::Write as _;

use serde::Serialize;
use trust::Sha256Digest;
use uuid::Uuid;

use crate::disk::{ALIGNMENT, PartitionType};
use crate::error::{Error, Kind, Result};
use crate::image::gpt::Table;
use crate::inspect::bars::{Style, harmless};

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Check {
    /// What was looked at: `load-balancer.qcow2`.
    pub subject: String,
    /// What should hold: `the digest is the one of the manifest`.
    pub claim: String,
    /// What came out.
    pub outcome: Outcome,
}

/// What came out of a check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "outcome", content = "detail")]
pub enum Outcome {
    /// It holds.
    Holds,
    /// It does not: what was found and what was expected.
    Fails(String),
    /// It could not be looked at, and why. Counts as not verified.
    Unknown(String),
}

impl Check {
    /// A check with the result of looking: an error of kind [`Kind::Missing`] is unknown, any other a failure.
    pub fn of(subject: impl Into<String>, claim: impl Into<String>, result: &Result<()>) -> Self {
        let outcome = match result {
            Ok(()) => Outcome::Holds,
            Err(error) if error.kind() == Kind::Missing => Outcome::Unknown(error.to_string()),
            Err(error) => Outcome::Fails(error.to_string()),
        };
        Self { subject: subject.into(), claim: claim.into(), outcome }
    }

    /// A check that `found` is what was `expected`.
    pub fn equal(subject: &str, claim: &str, found: &str, expected: &str) -> Self {
        let outcome = match found == expected {
            true => Outcome::Holds,
            false => Outcome::Fails(format!("found {found}, expected {expected}")),
        };
        Self { subject: subject.to_owned(), claim: claim.to_owned(), outcome }
    }

    /// The same check, with other words for its failure.
    #[must_use]
    pub fn worded(mut self, words: impl FnOnce() -> String) -> Self {
        if let Outcome::Fails(why) = &mut self.outcome {
            *why = words();
        }
        self
    }
}

/// Checks the partition table of an image against the root hash it promises.
pub fn partitions(subject: &str, table: &Table, root_hash: &Sha256Digest) -> Vec<Check> {
    let (data, verity) = root_hash.as_bytes().split_at(16);
    let mut checks = vec![
        Check::equal(subject, "the partition table and its backup are whole", &table.faults.join("; "), "")
            .worded(|| table.faults.join("; ")),
    ];
    let wanted = [
        (PartitionType::Esp, "EFI system", None),
        (PartitionType::Root, "root", Some(data)),
        (PartitionType::RootVerity, "verity", Some(verity)),
    ];
    for (kind, name, half) in wanted {
        let mut check = |claim: String, found: &str, expected: &str| checks.push(Check::equal(subject, &claim, found, expected));
        let Some(entry) = table.find(kind.guid()) else {
            check(format!("there is a {name} partition"), "none", "one");
            continue;
        };
        let count = table.entries.iter().filter(|entry| entry.kind == kind.guid()).count();
        check(format!("there is one {name} partition"), &count.to_string(), "1");
        check(format!("the {name} partition begins at a whole MiB"), &(entry.start % ALIGNMENT).to_string(), "0");
        check(
            format!("the {name} partition has its attributes"),
            &format!("{:#x}", entry.attributes),
            &format!("{:#x}", kind.attributes()),
        );
        if let Some(uuid) = half.and_then(|half| Uuid::from_slice(half).ok()) {
            check(
                format!("the UUID of the {name} partition is its half of the root hash"),
                &entry.uuid.to_string(),
                &uuid.to_string(),
            );
        }
    }
    checks
}

/// Whether everything holds.
///
/// # Errors
/// [`Kind::Untrusted`] with the number of failures, [`Kind::Missing`] where something could not be looked at.
pub fn verdict(checks: &[Check]) -> Result<()> {
    let failed = checks.iter().filter(|check| matches!(check.outcome, Outcome::Fails(_))).count();
    let unknown = checks.iter().filter(|check| matches!(check.outcome, Outcome::Unknown(_))).count();
    match (failed, unknown, checks.len()) {
        (_, _, 0) => Err(Error::new(Kind::Untrusted, "nothing was checked, so nothing is verified")),
        (0, 0, _) => Ok(()),
        (0, unknown, all) => Err(Error::new(Kind::Missing, format!("{unknown} of {all} checks could not be made"))),
        (failed, _, all) => Err(Error::new(Kind::Untrusted, format!("{failed} of {all} checks failed"))
            .hint("do not use this release: fetch it again, and compare the key with the one you were given")),
    }
}

/// The checks as JSON, one array.
///
/// # Errors
/// Never in practice: all fields are plain.
pub fn to_json(checks: &[Check]) -> Result<String> {
    serde_json::to_string_pretty(checks).map_err(|e| Error::new(Kind::Failed, format!("writing the checks as JSON: {e}")))
}

/// The checks as text, in their order, by subject.
pub fn render(checks: &[Check], style: Style) -> String {
    let mut text = String::new();
    let mut subject = None;
    for check in checks {
        if subject != Some(&check.subject) {
            let _ = writeln!(text, "{}", style.paint("1", &harmless(&check.subject)));
            subject = Some(&check.subject);
        }
        let (code, word, detail) = match &check.outcome {
            Outcome::Holds => ("32", "ok", None),
            Outcome::Fails(why) => ("31", "FAILED", Some(why)),
            Outcome::Unknown(why) => ("33", "unknown", Some(why)),
        };
        let _ = writeln!(text, "  {} {}", style.paint(code, &format!("{word:<7}")), harmless(&check.claim));
        if let Some(why) = detail {
            let _ = writeln!(text, "          {}", harmless(why));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::gpt::Entry;

    fn table() -> (Table, Sha256Digest) {
        let hash = Sha256Digest::of(b"root");
        let uuid = |half: usize| Uuid::from_slice(&hash.as_bytes()[half * 16..][..16]).unwrap();
        let entry = |number: u32, kind: PartitionType, uuid| Entry {
            number,
            kind: kind.guid(),
            uuid,
            start: u64::from(number) << 20,
            size: 1 << 20,
            attributes: kind.attributes(),
            label: String::new(),
        };
        let entries = vec![
            entry(1, PartitionType::Esp, Uuid::nil()),
            entry(2, PartitionType::Root, uuid(0)),
            entry(3, PartitionType::RootVerity, uuid(1)),
        ];
        (Table { guid: Uuid::nil(), sector: 512, entries, faults: Vec::new() }, hash)
    }

    #[test]
    fn a_right_table_holds() {
        let (table, hash) = table();
        let checks = partitions("a.raw", &table, &hash);
        assert_eq!(checks.len(), 12);
        verdict(&checks).unwrap();
    }

    #[test]
    fn each_wrong_thing_is_named() {
        type Change = fn(&mut Table);
        let changes: [(&str, Change); 6] = [
            ("backup are whole", |t| t.faults.push("x".to_owned())),
            ("there is a verity partition", |t| drop(t.entries.pop())),
            ("one root partition", |t| t.entries[0].kind = PartitionType::Root.guid()),
            ("root partition begins", |t| t.entries[1].start += 512),
            ("verity partition has its attributes", |t| t.entries[2].attributes = 0),
            ("UUID of the root partition", |t| t.entries[1].uuid = Uuid::max()),
        ];
        for (claim, change) in changes {
            let (mut table, hash) = table();
            change(&mut table);
            let checks = partitions("a.raw", &table, &hash);
            let failed = checks.iter().any(|c| c.claim.contains(claim) && matches!(c.outcome, Outcome::Fails(_)));
            assert!(failed, "{claim}: {}", render(&checks, Style::PLAIN));
            assert_eq!(verdict(&checks).unwrap_err().kind(), Kind::Untrusted);
        }
    }

    #[test]
    fn nothing_and_unknown_do_not_verify() {
        assert_eq!(verdict(&[]).unwrap_err().kind(), Kind::Untrusted);
        let unknown = Check::of("a", "b", &Err(Error::new(Kind::Missing, "no tool")));
        assert_eq!(verdict(std::slice::from_ref(&unknown)).unwrap_err().kind(), Kind::Missing);
        let failed = Check::of("a", "c", &Err(Error::new(Kind::Untrusted, "found 1, expected 2\x1b[2J")));
        let holds = Check::of("d", "e", &Ok(()));
        insta::assert_snapshot!(render(&[unknown, failed, holds], Style::PLAIN));
    }
}
