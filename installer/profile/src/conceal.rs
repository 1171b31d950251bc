//! A profile for other eyes: its text without secrets, and the secrets, so that they can be looked for elsewhere.

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

/// Takes the secrets out of a profile: whatever the schema calls one, now or later. Those of its encrypted part, where that
/// is open, are known too; the text stays as it is there.
pub fn conceal(bytes: &[u8], opened: Option<&Secret>) -> Concealed {
    let nothing = Concealed { text: String::new(), secrets: Vec::new() };
    let (texts, reading) = Written::read("profile", bytes, opened);
    let (Some(mut places), Ok(text)) = (reading.secrets, std::str::from_utf8(bytes)) else { return nothing };
    places.sort_by_key(|place| (place.document(), place.range().start, std::cmp::Reverse(place.range().end)));
    let mut out = String::new();
    let mut secrets = Vec::new();
    let mut at = 0;
    for place in places {
        let Some(written) = texts.at(place) else { return nothing };
        secrets.extend(value(written));
        let range = place.range();
        // A name of a credential is none itself, but nothing is lost without it.
        if texts.shows(place) && range.start >= at {
            out += text.get(at..range.start).unwrap_or_default();
            out += "\"***\"";
            at = range.end;
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
        let concealed = conceal(PROFILE.as_bytes(), None);
        let known: Vec<&str> = concealed.secrets.iter().map(Secret::expose).collect();
        assert_eq!(known, ["abcdef.0123456789abcdef", "two\nlines", "quo\"te"]);
        for secret in ["0123456789abcdef", "two", "quo"] {
            assert!(!concealed.text.contains(secret), "{}", concealed.text);
        }
        assert!(concealed.text.contains("token = \"***\"\ncertificate_key = \"***\"\n"), "{}", concealed.text);
        // A key that stands twice: nobody knows what the second is.
        assert_eq!(conceal(b"schema = 1\n[report]\ntoken = 'a'\ntoken = 'b'\n", None).text, "");
        assert_eq!(conceal(b"\xff", None).text, "");
    }

    #[test]
    fn those_of_the_encrypted_part_are_known() {
        let over = Secret::new("[cluster.join]\nca_key = 'inner'\n".to_owned());
        let concealed = conceal(PROFILE.as_bytes(), Some(&over));
        assert_eq!(concealed.text, conceal(PROFILE.as_bytes(), None).text);
        assert_eq!(concealed.secrets.last().map(Secret::expose), Some("inner"));
        // Without any outside of it.
        let bare = "schema = 1\n[node]\nname = 'a'\nrole = 'load-balancer'\n";
        let concealed = conceal(bare.as_bytes(), Some(&Secret::new("[report]\ntoken = 'inner'\n".to_owned())));
        assert_eq!((concealed.text.as_str(), concealed.secrets.len()), (bare, 1));
    }
}
