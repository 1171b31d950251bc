//! Who may sign: OpenSSH's `allowed_signers` (ssh-keygen(1), ALLOWED SIGNERS) and lists of revoked keys.

use std::collections::BTreeSet;

use ssh_key::{HashAlg, PublicKey, public::KeyData};

/// Longest file that is read, in bytes.
pub const LIMIT: usize = 1 << 20;

/// Keys that may sign, in the order of the file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AllowedSigners {
    pub(crate) entries: Vec<Allowed>,
}

/// One line of `allowed_signers`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Allowed {
    /// Patterns as written; they name the signer and decide nothing here.
    pub principals: Vec<String>,
    pub limits: Limits,
    pub key: KeyData,
    pub comment: String,
    pub line: usize,
}

/// The options of a line.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Limits {
    /// Patterns of namespaces; `None` is every one.
    pub namespaces: Option<Vec<String>>,
    /// Valid from this second on.
    pub after: Option<u64>,
    /// Valid up to this second.
    pub before: Option<u64>,
}

/// What is wrong in a list of keys.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotAKeyList {
    /// A line cannot be used.
    #[error("line {line}: {problem}")]
    Line {
        /// Counted from 1.
        line: usize,
        /// Expected and found.
        problem: String,
    },
    /// The file is longer than [`LIMIT`].
    #[error("expected {LIMIT} bytes at most, found {0}")]
    TooLong(usize),
    /// No key at all: nothing could ever be trusted.
    #[error("expected at least one key, found none")]
    Empty,
}

impl AllowedSigners {
    /// Reads the text of an `allowed_signers` file. Times without `Z` are UTC, as a machine at first
    /// boot knows no time zone.
    ///
    /// # Errors
    /// The first line that cannot be used; certificate authorities and unknown options are refused
    /// rather than ignored.
    pub fn parse(text: &str) -> Result<Self, NotAKeyList> {
        let entries: Vec<_> = lines(text)?
            .map(|(line, text)| allowed(line, text).map_err(|problem| NotAKeyList::Line { line, problem }))
            .collect::<Result<_, _>>()?;
        if entries.is_empty() { Err(NotAKeyList::Empty) } else { Ok(Self { entries }) }
    }

    /// How many lines hold a key.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is none, which only [`Default`] can make.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

/// Keys that are trusted no longer, whatever `allowed_signers` says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RevokedKeys {
    fingerprints: BTreeSet<String>,
}

impl RevokedKeys {
    /// Reads one public key or `SHA256:` fingerprint per line, with comments. OpenSSH's binary KRL is refused.
    ///
    /// # Errors
    /// The first line that cannot be used.
    pub fn parse(text: &str) -> Result<Self, NotAKeyList> {
        let fingerprint = |(line, text): (usize, &str)| {
            let word = text.split_whitespace().next().unwrap_or_default();
            if word.starts_with("SHA256:") && word.len() == 50 {
                return Ok(word.to_owned());
            }
            let problem = |e| format!("expected a public key or a SHA256: fingerprint: {e}");
            let key = PublicKey::from_openssh(text).map_err(|e| NotAKeyList::Line { line, problem: problem(e) })?;
            Ok(key.fingerprint(HashAlg::Sha256).to_string())
        };
        Ok(Self { fingerprints: lines(text)?.map(fingerprint).collect::<Result<_, _>>()? })
    }

    pub(crate) fn contains(&self, fingerprint: &str) -> bool {
        self.fingerprints.contains(fingerprint)
    }
}

/// Lines that say something, with their numbers.
fn lines(text: &str) -> Result<impl Iterator<Item = (usize, &str)>, NotAKeyList> {
    if text.len() > LIMIT {
        return Err(NotAKeyList::TooLong(text.len()));
    }
    let numbered = text.lines().enumerate().map(|(number, line)| (number.saturating_add(1), line.trim()));
    Ok(numbered.filter(|(_, line)| !line.is_empty() && !line.starts_with('#')))
}

fn allowed(line: usize, text: &str) -> Result<Allowed, String> {
    let (principals, rest) = field(text)?;
    let principals: Vec<_> = principals.trim_matches('"').split(',').map(str::to_owned).collect();
    if principals.iter().any(String::is_empty) {
        return Err("expected principals separated by commas, found an empty one".to_owned());
    }
    // Options are there unless a key type follows the principals.
    let (word, after) = field(rest)?;
    let (limits, key) = if is_key_type(word) { (Limits::default(), rest) } else { (options(word)?, after) };
    let key = PublicKey::from_openssh(key).map_err(|e| format!("expected a key type and a base64 key: {e}"))?;
    Ok(Allowed { principals, limits, key: key.key_data().clone(), comment: key.comment().trim().to_owned(), line })
}

fn is_key_type(word: &str) -> bool {
    ["ssh-", "ecdsa-", "sk-"].iter().any(|start| word.starts_with(start)) && !word.contains('=')
}

/// The text up to the next blank outside quotes, and what follows.
fn field(text: &str) -> Result<(&str, &str), String> {
    let mut quoted = false;
    let end = text.char_indices().find(|(_, c)| {
        quoted ^= *c == '"';
        !quoted && matches!(c, ' ' | '\t')
    });
    let (word, rest) = text.split_at(end.map_or(text.len(), |(at, _)| at));
    match (word, quoted) {
        (_, true) => Err("expected a closing quote, found the end of the line".to_owned()),
        ("", _) => Err("expected principals, options, key type and key, found less".to_owned()),
        _ => Ok((word, rest.trim_start())),
    }
}

fn options(text: &str) -> Result<Limits, String> {
    let mut limits = Limits::default();
    let mut rest = text;
    while !rest.is_empty() {
        let mut quoted = false;
        let end = rest.char_indices().find(|(_, c)| {
            quoted ^= *c == '"';
            !quoted && *c == ','
        });
        let (option, next) = rest.split_at(end.map_or(rest.len(), |(at, _)| at));
        rest = next.strip_prefix(',').unwrap_or(next);
        let (name, value) = option.split_once('=').map_or((option, None), |(name, value)| (name, Some(value.trim_matches('"'))));
        match (name.to_ascii_lowercase().as_str(), value) {
            ("namespaces", Some(list)) if limits.namespaces.is_none() && !list.is_empty() => {
                limits.namespaces = Some(list.split(',').map(|pattern| pattern.trim().to_owned()).collect());
            }
            ("valid-after", Some(time)) if limits.after.is_none() => limits.after = Some(timestamp(time)?),
            ("valid-before", Some(time)) if limits.before.is_none() => limits.before = Some(timestamp(time)?),
            ("cert-authority", None) => {
                return Err("`cert-authority` is not supported: list the signing keys themselves".to_owned());
            }
            ("namespaces" | "valid-after" | "valid-before", _) => {
                return Err(format!("expected `{name}=VALUE` once, found `{option}`"));
            }
            _ => return Err(format!("expected namespaces=, valid-after= or valid-before=, found `{}`", option.escape_debug())),
        }
    }
    match (limits.after, limits.before) {
        (Some(after), Some(before)) if after > before => {
            Err("valid-after lies behind valid-before: the key is never valid".to_owned())
        }
        _ => Ok(limits),
    }
}

/// `YYYYMMDD`, `YYYYMMDDHHMM` or `YYYYMMDDHHMMSS`, with or without `Z`, as seconds since 1970.
fn timestamp(text: &str) -> Result<u64, String> {
    let refuse = || format!("expected a time as YYYYMMDD[HHMM[SS]][Z], found `{}`", text.escape_debug());
    let digits = text.strip_suffix(['Z', 'z']).unwrap_or(text);
    if !matches!(digits.len(), 8 | 12 | 14) || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(refuse());
    }
    let part = |from: usize, to: usize| digits.get(from..to).map_or(Ok(0), |part| part.parse::<i16>().map_err(|_| refuse()));
    let small = |from: usize| part(from, from + 2).and_then(|value| i8::try_from(value).map_err(|_| refuse()));
    let time = jiff::civil::DateTime::new(part(0, 4)?, small(4)?, small(6)?, small(8)?, small(10)?, small(12)?, 0);
    let zoned = time.and_then(|time| time.to_zoned(jiff::tz::TimeZone::UTC)).map_err(|_| refuse())?;
    u64::try_from(zoned.timestamp().as_second()).map_err(|_| refuse())
}

/// OpenSSH's pattern list: `*` and `?`, and a leading `!` that forbids.
pub(crate) fn listed(patterns: &[String], word: &str) -> bool {
    let forbidden = patterns.iter().filter_map(|pattern| pattern.strip_prefix('!')).any(|pattern| matches(pattern, word));
    !forbidden && patterns.iter().filter(|pattern| !pattern.starts_with('!')).any(|pattern| matches(pattern, word))
}

/// Glob matching in linear memory and at most quadratic time.
fn matches(pattern: &str, word: &str) -> bool {
    let (pattern, word) = (pattern.as_bytes(), word.as_bytes());
    let (mut p, mut w) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while w < word.len() {
        match (pattern.get(p), star) {
            (Some(b'*'), _) => {
                star = Some((p, w));
                p += 1;
            }
            (Some(b'?'), _) => (p, w) = (p + 1, w + 1),
            (Some(byte), _) if word.get(w) == Some(byte) => (p, w) = (p + 1, w + 1),
            (_, Some((at, from))) => {
                (p, w) = (at + 1, from + 1);
                star = Some((at, from + 1));
            }
            _ => return false,
        }
    }
    pattern.get(p..).unwrap_or_default().iter().all(|byte| *byte == b'*')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAILM+rvN+ot98qgEN796jTiQfZfG1KaT0PtFDJ/XFSqti";

    #[test]
    fn lines_of_every_form_are_read() {
        let text = format!(
            "# comment\n\n  a@x,b {KEY}  the release key\n\"c d\" namespaces=\"ingot-*,!ingot-media\",valid-after=20240101,valid-before=\"20250102030405Z\" {KEY}\r\n"
        );
        let signers = AllowedSigners::parse(&text).unwrap();
        let [first, second] = signers.entries.as_slice() else { panic!("{signers:?}") };
        assert_eq!((first.principals.join("+"), first.comment.as_str(), first.line), ("a@x+b".into(), "the release key", 3));
        assert_eq!((&first.limits.namespaces, first.limits.after, first.limits.before), (&None, None, None));
        assert_eq!(second.principals, ["c d"]);
        assert_eq!((second.limits.after, second.limits.before), (Some(1_704_067_200), Some(1_735_787_045)));
        let namespaces = second.limits.namespaces.as_deref().unwrap();
        assert!(listed(namespaces, "ingot-release") && !listed(namespaces, "ingot-media") && !listed(namespaces, "file"));
    }

    #[test]
    fn lines_that_cannot_be_used_are_named() {
        for (line, expected) in [
            ("a".to_owned(), "found less"),
            (format!("a cert-authority {KEY}"), "not supported"),
            (format!("a Cert-Authority,namespaces=\"x\" {KEY}"), "not supported"),
            (format!("a no-touch {KEY}"), "found `no-touch`"),
            (format!("a namespaces {KEY}"), "expected `namespaces=VALUE` once"),
            (format!("a namespaces=\"\" {KEY}"), "once"),
            (format!("a namespaces=\"x\",namespaces=\"y\" {KEY}"), "once"),
            (format!("a namespaces=\"x {KEY}"), "closing quote"),
            (format!("a valid-after=2024 {KEY}"), "found `2024`"),
            (format!("a valid-after=20241301 {KEY}"), "found `20241301`"),
            (format!("a valid-after=19001301 {KEY}"), "expected a time"),
            (format!("a valid-after=20250101,valid-before=20240101 {KEY}"), "never valid"),
            (format!("a,,b {KEY}"), "empty one"),
            ("a ssh-ed25519 AAAA".to_owned(), "base64 key"),
            ("a ssh-ed25519".to_owned(), "base64 key"),
            (KEY.to_owned(), "found"),
        ] {
            let error = AllowedSigners::parse(&format!("# one\n{line}\n")).unwrap_err().to_string();
            assert!(error.starts_with("line 2: ") && error.contains(expected), "{line}: {error}");
        }
        assert_eq!(AllowedSigners::parse("# nothing\n"), Err(NotAKeyList::Empty));
        assert!(matches!(AllowedSigners::parse(&" ".repeat(LIMIT + 1)), Err(NotAKeyList::TooLong(_))));
    }

    #[test]
    fn revoked_keys_are_keys_or_fingerprints() {
        let fingerprint = PublicKey::from_openssh(KEY).unwrap().fingerprint(HashAlg::Sha256).to_string();
        for text in [KEY.to_owned(), format!("{KEY} gone\n"), format!("# x\n{fingerprint} lost laptop")] {
            assert!(RevokedKeys::parse(&text).unwrap().contains(&fingerprint), "{text}");
        }
        assert_eq!(RevokedKeys::parse(""), Ok(RevokedKeys::default()));
        assert!(RevokedKeys::parse("SSHKRL\n\0").is_err());
    }

    #[test]
    fn patterns_match_as_in_openssh() {
        for (pattern, word, expected) in [
            ("*", "", true),
            ("a*c", "abbc", true),
            ("a?c", "ac", false),
            ("a*b*c", "axbyc", true),
            ("a*b", "abx", false),
            ("", "", true),
        ] {
            assert_eq!(matches(pattern, word), expected, "{pattern} {word}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_the_parser_panic(text in "(?s).{0,200}", options in "[a-z=\",!-]{0,40}") {
            let _ = AllowedSigners::parse(&text);
            let _ = AllowedSigners::parse(&format!("p {options} {KEY}"));
            let _ = RevokedKeys::parse(&text);
        }
    }
}
