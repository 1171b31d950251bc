//! A profile for other eyes: its text without secrets, and the secrets, so that they can be looked for elsewhere.

use crate::document::Texts;
use crate::profile::Written;
use crate::secret::Secret;

/// A profile without its secrets.
#[derive(Debug, Clone)]
pub struct Concealed {
    /// The text, each secret replaced by `*`; empty where it cannot be known where they stand.
    pub text: String,
    /// Every secret that stands in the text.
    pub secrets: Vec<Secret>,
}

/// Takes the secrets out of a profile: whatever the schema calls one, now or later.
pub fn conceal(bytes: &[u8]) -> Concealed {
    let mut texts = Texts::default();
    let document = texts.add_private("profile", bytes.to_vec());
    let nothing = Concealed { text: String::new(), secrets: Vec::new() };
    let (Some(mut places), Ok(text)) = (texts.read::<Written>(document).secrets, std::str::from_utf8(bytes)) else {
        return nothing;
    };
    places.sort_by_key(|place| (place.start, std::cmp::Reverse(place.end)));
    let mut out = String::new();
    let mut secrets = Vec::new();
    let mut at = 0;
    for place in places {
        let Some(written) = text.get(place.clone()) else { return nothing };
        secrets.extend(value(written));
        // A name of a credential is none itself, but nothing is lost without it.
        if place.start >= at {
            out += text.get(at..place.start).unwrap_or_default();
            out += "\"***\"";
            at = place.end;
        }
    }
    out += text.get(at..).unwrap_or_default();
    Concealed { text: out, secrets }
}

/// The text that TOML means by this.
fn value(written: &str) -> Option<Secret> {
    let table: toml::Table = format!("v = {written}").parse().ok()?;
    match table.get("v")? {
        toml::Value::String(text) => Some(Secret::new(text.clone())),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROFILE: &str = r#"schema = 1
[node]
name = "cp-1"
role = "control-plane"
[cluster]
name = "c"
kind = "workload"
endpoint = "10.0.0.10:6443"
[cluster.join]
token = "abcdef.0123456789abcdef"
certificate_key = { credential = "key" }
[[file]]
path = "/etc/x"
secret = """
two
lines"""
[report]
url = "https://a/b"
token = 'quo"te'
"#;

    #[test]
    fn secrets_are_taken_out_and_known() {
        let concealed = conceal(PROFILE.as_bytes());
        let known: Vec<&str> = concealed.secrets.iter().map(Secret::expose).collect();
        assert_eq!(known, ["abcdef.0123456789abcdef", "two\nlines", "quo\"te"]);
        for secret in ["0123456789abcdef", "two", "quo"] {
            assert!(!concealed.text.contains(secret), "{}", concealed.text);
        }
        assert!(concealed.text.contains("token = \"***\"\ncertificate_key = \"***\"\n"), "{}", concealed.text);
        // A key that stands twice: nobody knows what the second is.
        assert_eq!(conceal(b"schema = 1\n[report]\ntoken = 'a'\ntoken = 'b'\n").text, "");
        assert_eq!(conceal(b"\xff").text, "");
    }
}
