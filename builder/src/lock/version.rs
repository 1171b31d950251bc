//! Debian versions (Debian Policy 5.6.12), compared as dpkg does, without allocating.

use std::cmp::Ordering;

/// Compares two versions: epoch, then upstream version, then revision.
pub fn compare(left: &str, right: &str) -> Ordering {
    let (left_epoch, left) = left.split_once(':').unwrap_or(("", left));
    let (right_epoch, right) = right.split_once(':').unwrap_or(("", right));
    let (left_upstream, left_revision) = left.rsplit_once('-').unwrap_or((left, ""));
    let (right_upstream, right_revision) = right.rsplit_once('-').unwrap_or((right, ""));
    numbers(left_epoch.as_bytes(), right_epoch.as_bytes())
        .then_with(|| parts(left_upstream.as_bytes(), right_upstream.as_bytes()))
        .then_with(|| parts(left_revision.as_bytes(), right_revision.as_bytes()))
}

/// Whether `text` has the form of a version: characters of the Policy, a digit first, a number as
/// epoch, no empty revision. A letter at the start passes, as dpkg lets it pass.
pub fn is_valid(text: &str) -> bool {
    let (epoch, rest) = text.split_once(':').unwrap_or(("0", text));
    !epoch.is_empty()
        && epoch.len() < 10
        && epoch.bytes().all(|c| c.is_ascii_digit())
        && rest.starts_with(|c: char| c.is_ascii_alphanumeric())
        && !rest.ends_with('-')
        && rest.bytes().all(|c| c.is_ascii_alphanumeric() || b".+-~:".contains(&c))
}

/// Text and numbers in turn: `~` before the end, the end before letters, letters before the rest.
fn parts(mut left: &[u8], mut right: &[u8]) -> Ordering {
    loop {
        if left.is_empty() && right.is_empty() {
            return Ordering::Equal;
        }
        let (left_text, left_rest) = split(left, |c| !c.is_ascii_digit());
        let (right_text, right_rest) = split(right, |c| !c.is_ascii_digit());
        let length = left_text.len().max(right_text.len());
        let order = (0..length)
            .map(|at| weight(left_text.get(at)).cmp(&weight(right_text.get(at))))
            .find(|order| order.is_ne())
            .unwrap_or(Ordering::Equal);
        let (left_number, left_rest) = split(left_rest, |c| c.is_ascii_digit());
        let (right_number, right_rest) = split(right_rest, |c| c.is_ascii_digit());
        let order = order.then_with(|| numbers(left_number, right_number));
        if order.is_ne() {
            return order;
        }
        (left, right) = (left_rest, right_rest);
    }
}

/// Compares runs of digits of any length as numbers; no digits are zero.
fn numbers(left: &[u8], right: &[u8]) -> Ordering {
    let (_, left) = split(left, |c| c == b'0');
    let (_, right) = split(right, |c| c == b'0');
    left.len().cmp(&right.len()).then_with(|| left.cmp(right))
}

fn split(text: &[u8], belongs: impl Fn(u8) -> bool) -> (&[u8], &[u8]) {
    text.split_at(text.iter().position(|c| !belongs(*c)).unwrap_or(text.len()))
}

fn weight(character: Option<&u8>) -> u32 {
    match character {
        Some(b'~') => 0,
        None => 1,
        Some(c) if c.is_ascii_alphabetic() => 2 + u32::from(*c),
        Some(c) => 300 + u32::from(*c),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::Program;

    #[test]
    fn known_orders_hold() {
        for (left, right, order) in [
            ("1.0", "1.0", Ordering::Equal),
            ("0:1.0", "1.0", Ordering::Equal),
            ("1.0-0", "1.0", Ordering::Equal),
            ("1.00", "1.0", Ordering::Equal),
            ("1.0~rc1", "1.0", Ordering::Less),
            ("1.0~~", "1.0~", Ordering::Less),
            ("1.0a", "1.0", Ordering::Greater),
            ("1.0+b1", "1.0a", Ordering::Greater),
            ("1:0", "9", Ordering::Greater),
            ("1.10", "1.9", Ordering::Greater),
            ("1-2-3", "1-2-10", Ordering::Less),
            ("99999999999999999999999", "100000000000000000000000", Ordering::Less),
        ] {
            assert_eq!(compare(left, right), order, "{left} {right}");
            assert_eq!(compare(right, left), order.reverse(), "{right} {left}");
        }
        for wrong in ["", ":1", "a:1", "1 2", "-1", "1-", "1_2", "99999999999:1", "1\n"] {
            assert!(!is_valid(wrong), "{wrong}");
        }
    }

    /// A few thousand pairs built from the pieces that matter, asked of dpkg in one shell.
    #[test]
    fn dpkg_orders_the_same() {
        let pieces = ["0", "1", "09", "10", "a", "z", "~", "+", ".", "-", "rc", "deb13u1", "2.0"];
        let mut seed = 7_u64;
        let mut next = |limit: usize| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (seed >> 33) as usize % limit
        };
        let mut version = || loop {
            let epoch = ["", "", "", "1:", "0:"][next(5)];
            let text = (0..next(5)).fold(format!("{epoch}1"), |text, _| text + pieces[next(pieces.len())]);
            if is_valid(&text) {
                return text;
            }
        };
        let pairs: Vec<_> = (0..2500).map(|_| (version(), version())).collect();
        let script: String = pairs
            .iter()
            .map(|(left, right)| {
                format!(
                    "if dpkg --compare-versions '{left}' lt '{right}'; then echo L; elif dpkg --compare-versions '{left}' eq '{right}'; then echo E; else echo G; fi\n"
                )
            })
            .collect();
        let file = tempfile::NamedTempFile::new().unwrap();
        crate::files::write_atomic(file.path(), script.as_bytes()).unwrap();
        let said = Program::find("sh", "").unwrap().arg(file.path()).output();
        let said = String::from_utf8(said.expect("dpkg must be there: see ci/setup")).unwrap();
        assert_eq!(said.lines().count(), pairs.len());
        for ((left, right), line) in pairs.iter().zip(said.lines()) {
            let order = match line {
                "L" => Ordering::Less,
                "E" => Ordering::Equal,
                _ => Ordering::Greater,
            };
            assert_eq!(compare(left, right), order, "{left} {right}");
        }
    }
}
