//! The last line of defence: whatever leaves the machine (events, key-value pairs, support bundles) is searched for
//! every secret that is known, in the forms in which files and programs write them, and for what looks like one.

use std::collections::BTreeSet;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use profile::secret::Secret;
use zeroize::Zeroizing;

/// What stands in the place of a secret.
pub const BLOT: &str = "[hidden]";

/// Shorter ones are not looked for by themselves: they would make holes in everything. They stand behind a word that
/// says what they are (`auth_pass`), and go with it.
const SHORTEST: usize = 4;

/// Looks for secrets.
#[derive(Clone, Default)]
pub struct Blot {
    /// Longest first.
    needles: Vec<Zeroizing<String>>,
}

impl std::fmt::Debug for Blot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Blot(..)")
    }
}

impl Blot {
    /// For these secrets.
    pub fn of<'s>(secrets: impl IntoIterator<Item = &'s Secret>) -> Self {
        let mut forms = BTreeSet::new();
        for secret in secrets {
            let text = secret.expose();
            add(&mut forms, text.trim());
            // A key of many lines may be indented, or told line by line.
            text.lines().map(str::trim).filter(|line| line.len() >= 16 && !line.starts_with("-----")).for_each(|line| {
                add(&mut forms, line);
            });
            // A token's id is no secret; its second part is.
            if let Some((_, second)) = text.split_once('.').filter(|(id, second)| id.len() == 6 && second.len() == 16) {
                add(&mut forms, second);
            }
        }
        let mut needles: Vec<Zeroizing<String>> = forms.into_iter().map(Zeroizing::new).collect();
        needles.sort_by(|a, b| b.len().cmp(&a.len()).then(a.cmp(b)));
        Self { needles }
    }

    /// Which of the forms of its secrets stands in the text.
    #[cfg(test)]
    pub fn found(&self, text: &str) -> Option<&str> {
        self.needles.iter().map(|needle| needle.as_str()).find(|needle| text.contains(needle))
    }

    /// The text without secrets.
    pub fn text(&self, text: &str) -> String {
        let mut out = text.to_owned();
        for needle in &self.needles {
            if out.contains(needle.as_str()) {
                out = out.replace(needle.as_str(), BLOT);
            }
        }
        looks_like(&out)
    }
}

/// All forms of one secret.
fn add(forms: &mut BTreeSet<String>, text: &str) {
    if text.len() < SHORTEST {
        return;
    }
    // Some writers keep `-_.~` as they are, some nothing but letters and digits.
    let percent = |upper: bool, kept: &[u8]| {
        text.bytes().fold(String::new(), |out, byte| match byte {
            _ if byte.is_ascii_alphanumeric() || kept.contains(&byte) => out + &char::from(byte).to_string(),
            _ if upper => out + &format!("%{byte:02X}"),
            _ => out + &format!("%{byte:02x}"),
        })
    };
    let hex: String = text.bytes().map(|byte| format!("{byte:02x}")).collect();
    let json = serde_json::to_string(text).unwrap_or_default();
    let slashes = text.replace('\\', "\\\\").replace('"', "\\\"");
    // systemd doubles `%` in unit files.
    let coded = [true, false].into_iter().flat_map(|upper| [percent(upper, b"-_.~"), percent(upper, b"")]);
    let plain: Vec<String> = coded.chain([text.to_owned(), slashes]).collect();
    forms.extend(plain.iter().map(|form| form.replace('%', "%%")));
    forms.extend(plain.into_iter().chain([hex.to_uppercase(), hex]));
    forms.insert(json.trim_matches('"').to_owned());
    for shift in 0..3 {
        forms.extend([STANDARD_NO_PAD, URL_SAFE_NO_PAD].iter().filter_map(|engine| core(engine, text.as_bytes(), shift)));
    }
}

/// What base64 makes of the bytes wherever they stand in a longer text: `shift` bytes modulo 3 are before them. Letters
/// that also depend on their neighbours are left out.
fn core(engine: &impl Engine, bytes: &[u8], shift: usize) -> Option<String> {
    let padded: Vec<u8> = std::iter::repeat_n(0, shift).chain(bytes.iter().copied()).collect();
    let coded = engine.encode(&padded);
    let (from, to) = ((shift * 8).div_ceil(6), padded.len() * 8 / 6);
    coded.get(from..to).filter(|core| core.len() >= SHORTEST).map(str::to_owned)
}

/// Words after which a secret stands.
const WORDS: [&str; 9] =
    ["auth_pass", "authorization", "client-key-data", "password", "passphrase", "passwd", "secret", "token", "certificate-key"];

fn looks_like(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut in_key = false;
    for line in text.split_inclusive('\n') {
        let begins = line.contains("-----BEGIN ") && line.contains("PRIVATE KEY-----");
        if begins || in_key {
            in_key = !(line.contains("-----END ") && line.contains("PRIVATE KEY-----"));
            if begins {
                out += BLOT;
                out.push('\n');
            }
            continue;
        }
        match value_of(line) {
            Some(at) => {
                out += line.get(..at).unwrap_or_default();
                out += BLOT;
                out += if line.ends_with('\n') { "\n" } else { "" };
            }
            None => {
                line.split_inclusive(|c: char| c.is_whitespace() || ":,\"'".contains(c)).for_each(|word| out += &one_word(word))
            }
        }
    }
    out
}

/// Where the value of a word of [`WORDS`] begins in a line.
fn value_of(line: &str) -> Option<usize> {
    let lower = line.to_ascii_lowercase();
    WORDS.iter().find_map(|word| {
        let end = lower.find(word)? + word.len();
        let rest = lower.get(end..)?;
        let plain = rest.trim_start_matches(['"', '\'', ' ', '\t']);
        let value = match plain.strip_prefix([':', '=']) {
            Some(value) => value.trim_start(),
            None if *word == "auth_pass" => plain,
            None => return None,
        };
        let nothing = value.trim().is_empty()
            || ["[hidden]", "***", "\"***\"", "{", "[", "|", "null"].iter().any(|none| value.trim_end() == *none);
        (!nothing).then(|| line.len() - value.len())
    })
}

/// Keys of age, password hashes of crypt(5) and the second half of bootstrap tokens.
fn one_word(word: &str) -> String {
    let bare = word.trim_end_matches(|c: char| c.is_whitespace() || ":,\"'".contains(c));
    let rest = word.get(bare.len()..).unwrap_or_default();
    if bare.to_ascii_uppercase().starts_with("AGE-SECRET-KEY-") {
        return format!("{BLOT}{rest}");
    }
    let hash = bare.strip_prefix('$').and_then(|bare| bare.split_once('$'));
    if hash.is_some_and(|(kind, rest)| (1..=8).contains(&kind.len()) && rest.len() >= 8) {
        return format!("{BLOT}{rest}");
    }
    let small = |text: &str| text.bytes().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
    match bare.split_once('.') {
        Some((id, second)) if id.len() == 6 && second.len() == 16 && small(id) && small(second) => format!("{id}.{BLOT}{rest}"),
        _ => word.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use base64::engine::general_purpose::{STANDARD, URL_SAFE};
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_looks_like_a_secret_goes() {
        let blot = Blot::default();
        for (text, expected) in [
            ("    auth_pass abc\n", "    auth_pass [hidden]\n"),
            ("    client-key-data: TFMwdEx\nnext: 1\n", "    client-key-data: [hidden]\nnext: 1\n"),
            ("Authorization = [\"Basic eDp5\"]", "Authorization = [hidden]"),
            ("root:$6$abcdefgh$0123456789:1:", "root:[hidden]:1:"),
            ("the token abcdef.0123456789abcdef is old", "the token abcdef.[hidden] is old"),
            ("the token expired", "the token expired"),
            ("key AGE-SECRET-KEY-1QQ, and", "key [hidden], and"),
            ("a\n-----BEGIN EC PRIVATE KEY-----\nMHc\n-----END EC PRIVATE KEY-----\nb\n", "a\n[hidden]\nb\n"),
            ("token:\n  - x\n", "token:\n  - x\n"),
        ] {
            assert_eq!(blot.text(text), expected);
        }
    }

    proptest! {
        #[test]
        fn no_form_of_a_secret_stays(secret in "[ -~]{6,40}", before in "[a-z]{0,7}", after in "[a-z]{0,7}") {
            prop_assume!(secret.trim() == secret);
            let blot = Blot::of([&Secret::new(secret.clone())]);
            let around = format!("{before}{secret}{after}");
            for coded in [STANDARD.encode(&around), URL_SAFE.encode(&around), around.clone(), serde_json::to_string(&around).unwrap()] {
                let text = blot.text(&coded);
                prop_assert!(text.contains(BLOT), "{} {}", coded, text);
                prop_assert!(!text.contains(&secret) || BLOT.contains(&secret));
                let decoded = STANDARD.decode(&text).or_else(|_| URL_SAFE.decode(&text)).unwrap_or_default();
                prop_assert!(!String::from_utf8_lossy(&decoded).contains(&secret));
            }
        }
    }
}
