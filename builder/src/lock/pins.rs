//! apt's priorities (apt_preferences(5)): which source of a package wins.

use super::obtain::Index;
use crate::definition::Pin;

/// The priority of `version` of `package` from `index`, and the pin that gave it.
///
/// Pins on single packages come before pins on `*`, and the first that matches wins, as with apt.
pub(super) fn priority<'a>(pins: &'a [Pin], package: &str, version: &str, index: &Index) -> (i32, Option<&'a Pin>) {
    let matches = |pin: &&Pin| {
        (pin.package == "*" || glob(&pin.package, package))
            && pin.version.as_ref().is_none_or(|pattern| glob(pattern, version))
            && pin.release.as_ref().is_none_or(|name| is_of(index, name))
    };
    let single = pins.iter().filter(|pin| pin.package != "*").find(matches);
    match single.or_else(|| pins.iter().filter(|pin| pin.package == "*").find(matches)) {
        Some(pin) => (pin.priority, Some(pin)),
        None => (index.priority, None),
    }
}

fn is_of(index: &Index, name: &str) -> bool {
    index.repository == name || index.suite == name || index.aliases.iter().any(|alias| alias == name)
}

/// Shell patterns with `*` and `?`, in time proportional to the product of the lengths.
fn glob(pattern: &str, text: &str) -> bool {
    let (pattern, text) = (pattern.as_bytes(), text.as_bytes());
    let (mut at, mut from, mut star) = (0, 0, None);
    while from < text.len() {
        match pattern.get(at) {
            Some(b'*') => {
                star = Some((at, from));
                at += 1;
            }
            Some(c) if *c == b'?' || Some(c) == text.get(from) => (at, from) = (at + 1, from + 1),
            _ => match star {
                // The last star takes one character more.
                Some((place, taken)) => {
                    star = Some((place, taken + 1));
                    (at, from) = (place + 1, taken + 1);
                }
                None => return false,
            },
        }
    }
    pattern.iter().skip(at).all(|c| *c == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_as_in_a_shell() {
        for (pattern, text, expected) in [
            ("3.0.*", "3.0.11-1", true),
            ("3.0.*", "3.1", false),
            ("*", "", true),
            ("*a*b", "xaxbxb", true),
            ("*a*b", "xaxbx", false),
            ("linux-?", "linux-x", true),
            ("linux-?", "linux-", false),
            ("", "a", false),
        ] {
            assert_eq!(glob(pattern, text), expected, "{pattern} {text}");
        }
    }

    #[test]
    fn single_packages_come_before_the_star_and_the_first_wins() {
        let index = Index {
            repository: "debian".to_owned(),
            suite: "trixie-backports".to_owned(),
            aliases: vec!["stable-backports".to_owned()],
            priority: 100,
            path: String::new(),
            text: String::new(),
        };
        let pin = |package: &str, release: Option<&str>, version: Option<&str>, priority| Pin {
            package: package.to_owned(),
            version: version.map(str::to_owned),
            release: release.map(str::to_owned),
            priority,
            origin: String::new(),
        };
        let pins = [
            pin("*", Some("stable-backports"), None, -1),
            pin("haproxy", Some("trixie"), None, 900),
            pin("haproxy", Some("trixie-backports"), Some("3.*"), 700),
            pin("haproxy", Some("debian"), None, 600),
        ];
        assert_eq!(priority(&pins, "haproxy", "3.1", &index).0, 700);
        assert_eq!(priority(&pins, "haproxy", "2.9", &index).0, 600);
        assert_eq!(priority(&pins, "other", "2.9", &index).0, -1);
        assert_eq!(priority(&pins[1..], "other", "2.9", &index).0, 100);
    }
}
