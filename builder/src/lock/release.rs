//! The text of a Release file: which suite, made when, valid until when, and the digests of its
//! indexes.

use std::collections::BTreeMap;

use jiff::civil;
use trust::Sha256Digest;

use crate::epoch::Epoch;
use crate::error::{Error, Kind, Result};

/// How far ahead of this machine's clock a `Date` may lie, in seconds.
const CLOCK_TOLERANCE: u64 = 10 * 60;

/// What is read of a Release file. Make it from signed text only.
#[derive(Debug, Clone)]
pub struct Release {
    /// `Suite`: `stable`.
    pub suite: String,
    /// `Codename`: `trixie`.
    pub codename: String,
    /// `Date`.
    pub date: Epoch,
    /// `Valid-Until`, where it says one.
    pub valid_until: Option<Epoch>,
    /// `Acquire-By-Hash: yes`.
    pub by_hash: bool,
    /// `NotAutomatic: yes`: priority 1 rather than 500.
    pub not_automatic: bool,
    /// `ButAutomaticUpgrades: yes`: then 100.
    pub but_automatic_upgrades: bool,
    /// `Architecture: all` packages are in an index of their own.
    pub separate_all: bool,
    /// `Architectures`.
    pub architectures: Vec<String>,
    /// The `SHA256` section: size in bytes and digest by path below the release.
    pub files: BTreeMap<String, (u64, Sha256Digest)>,
}

impl Release {
    /// Reads the signed text of a Release file.
    ///
    /// # Errors
    /// The field that is missing or cannot be read ([`Kind::Document`]).
    pub fn parse(text: &str) -> Result<Self> {
        let mut fields = BTreeMap::new();
        let mut files = BTreeMap::new();
        let mut section = "";
        for line in text.lines() {
            if line.starts_with([' ', '\t']) {
                if section == "SHA256" {
                    let (path, size, digest) = entry(line).map_err(|why| wrong(format!("SHA256 `{}`: {why}", line.trim())))?;
                    files.insert(path, (size, digest));
                }
            } else if let Some((name, value)) = line.split_once(':') {
                section = name;
                if fields.insert(name, value.trim()).is_some() {
                    return Err(wrong(format!("the field {name} is there twice")));
                }
            } else if !line.is_empty() {
                return Err(wrong(format!("expected `Field: value`, found `{line}`")));
            }
        }
        if !fields.contains_key("SHA256") {
            return Err(wrong("there is no SHA256 section".to_owned()).hint("weaker digests are not accepted"));
        }
        let text = |name: &str| fields.get(name).copied().unwrap_or_default();
        let yes = |name: &str| text(name).eq_ignore_ascii_case("yes");
        let time = |name: &str| parse_date(text(name)).ok_or_else(|| wrong(format!("{name}: `{}` is no date", text(name))));
        let architectures: Vec<String> = text("Architectures").split_whitespace().map(str::to_owned).collect();
        // As apt reads it: `all` must be listed, and must not be taken back for Packages.
        let taken_back = text("No-Support-for-Architecture-all").split_whitespace().any(|what| what == "Packages");
        Ok(Self {
            suite: text("Suite").to_owned(),
            codename: text("Codename").to_owned(),
            date: time("Date")?,
            valid_until: fields.contains_key("Valid-Until").then(|| time("Valid-Until")).transpose()?,
            by_hash: yes("Acquire-By-Hash"),
            not_automatic: yes("NotAutomatic"),
            but_automatic_upgrades: yes("ButAutomaticUpgrades"),
            separate_all: !taken_back && architectures.iter().any(|name| name == "all"),
            architectures,
            files,
        })
    }

    /// Checks that this is the release asked for and that `now` lies in the time it is good for.
    ///
    /// # Errors
    /// [`Kind::Untrusted`], with the next action.
    pub fn check(&self, suite: &str, now: Epoch) -> Result<()> {
        // A flat repository has no suite that could be asked for.
        if !suite.ends_with('/') && self.suite != suite && self.codename != suite {
            let found = format!("Suite `{}`, Codename `{}`", self.suite, self.codename);
            return Err(Error::new(Kind::Untrusted, format!("asked for the suite `{suite}`, the signed release is {found}"))
                .hint("write the suite as the release names itself"));
        }
        if self.date.0 > now.0.saturating_add(CLOCK_TOLERANCE) {
            return Err(Error::new(Kind::Untrusted, format!("the release is of {}, later than now ({now})", self.date))
                .hint("check the clock of this machine"));
        }
        match self.valid_until {
            Some(end) if end < now => {
                Err(Error::new(Kind::Untrusted, format!("the release of {} was valid until {end}, now is {now}", self.date))
                    .hint("the mirror is out of date or held back: use another one, or check the clock of this machine"))
            }
            _ => Ok(()),
        }
    }
}

fn wrong(what: String) -> Error {
    Error::new(Kind::Document, format!("the release file: {what}"))
}

fn entry(line: &str) -> Result<(String, u64, Sha256Digest), String> {
    let mut words = line.split_whitespace();
    let (Some(digest), Some(size), Some(path), None) = (words.next(), words.next(), words.next(), words.next()) else {
        return Err("expected digest, size and path".to_owned());
    };
    let size = size.parse().map_err(|_| format!("`{size}` is no size"))?;
    Ok((path.to_owned(), size, digest.parse().map_err(|e| format!("{e}"))?))
}

/// `Sat, 12 Sep 2026 07:55:41 UTC`; the day of the week is not looked at, the zone must be UTC.
fn parse_date(text: &str) -> Option<Epoch> {
    const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let rest = text.split_once(',').map_or(text, |(_, rest)| rest);
    let mut words = rest.split_whitespace();
    let day = words.next()?.parse().ok()?;
    let month = words.next()?;
    let month = i8::try_from(MONTHS.iter().position(|name| *name == month)?).ok()?.checked_add(1)?;
    let year = words.next()?.parse().ok()?;
    let clock: Vec<i8> = words.next()?.split(':').map(|part| part.parse().ok()).collect::<Option<_>>()?;
    let zone = words.next()?;
    if !matches!(zone, "UTC" | "GMT" | "Z" | "+0000" | "-0000") || words.next().is_some() {
        return None;
    }
    let &[hour, minute, second] = clock.as_slice() else { return None };
    let time = civil::DateTime::new(year, month, day, hour, minute, second, 0).ok()?;
    let seconds = time.to_zoned(jiff::tz::TimeZone::UTC).ok()?.timestamp().as_second();
    u64::try_from(seconds).ok().map(Epoch)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "Suite: stable\nCodename: trixie\nDate: Sat, 12 Sep 2026 07:55:41 UTC\n\
        Valid-Until: Sat, 19 Sep 2026 07:55:41 UTC\nAcquire-By-Hash: yes\nArchitectures: all amd64\n\
        No-Support-for-Architecture-all: Packages\nMD5Sum:\n 00 1 main/x\nSHA256:\n \
        ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad 12 main/binary-amd64/Packages.xz\n";

    #[test]
    fn a_release_is_read() {
        let release = Release::parse(TEXT).unwrap();
        assert_eq!(release.date.to_string(), "2026-09-12T07:55:41Z");
        assert_eq!(release.files["main/binary-amd64/Packages.xz"].0, 12);
        assert!(release.by_hash && !release.separate_all && !release.not_automatic);
        assert!(Release::parse(&TEXT.replace("No-Support-for-Architecture-all: Packages\n", "")).unwrap().separate_all);
    }

    #[test]
    fn time_and_suite_are_held_to() {
        let release = Release::parse(TEXT).unwrap();
        let date = release.date.0;
        for (suite, now, good) in [
            ("trixie", date, true),
            ("stable", date + 6 * 86_400, true),
            ("./", date, true),
            ("bookworm", date, false),
            ("", date, false),
            ("trixie", date - 3_600, false),
            ("trixie", date + 8 * 86_400, false),
        ] {
            let checked = release.check(suite, Epoch(now));
            assert_eq!(checked.is_ok(), good, "{suite} {now}");
            if let Err(error) = checked {
                assert!(error.kind() == Kind::Untrusted && !error.hints().is_empty());
            }
        }
        let open = Release::parse(&TEXT.replace("Valid-Until: Sat, 19 Sep 2026 07:55:41 UTC\n", "")).unwrap();
        assert!(open.check("trixie", Epoch(u64::MAX)).is_ok());
    }

    #[test]
    fn wrong_releases_are_refused() {
        for (from, to) in [
            ("SHA256:", "SHA1:"),
            ("Date: Sat", "Data: Sat"),
            ("12 Sep", "42 Sep"),
            ("12 Sep", "12 Sept"),
            ("41 UTC\nValid", "41 CET\nValid"),
            ("07:55:41 UTC\nV", "07:55 UTC\nV"),
            ("Suite: stable", "Suite: stable\nSuite: oldstable"),
            (" 12 main", " -12 main"),
            (" 12 main", " 12 more main"),
            ("ba7816", "zz7816"),
            ("Suite: stable", "nonsense"),
            ("2026", "99999999"),
        ] {
            assert_eq!(Release::parse(&TEXT.replace(from, to)).unwrap_err().kind(), Kind::Document, "{to}");
        }
    }
}
