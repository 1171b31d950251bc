//! Matching a device's modalias against the patterns drivers declare: `*`, `?` and `[a-z]` as in
//! fnmatch(3), without its other rules.

/// Whether `text` matches `pattern` as a whole. Takes time in the product of the lengths at most.
pub fn matches(pattern: &str, text: &str) -> bool {
    let (pattern, text) = (pattern.as_bytes(), text.as_bytes());
    let (mut p, mut t) = (0, 0);
    // Where the last `*` was, and the text it has swallowed so far.
    let mut retry: Option<(usize, usize)> = None;
    while let Some(&byte) = text.get(t) {
        if pattern.get(p) == Some(&b'*') {
            retry = Some((p + 1, t));
            p += 1;
        } else if let Some(length) = one(pattern.get(p..).unwrap_or_default(), byte) {
            p += length;
            t += 1;
        } else if let Some((after, swallowed)) = retry {
            retry = Some((after, swallowed + 1));
            (p, t) = (after, swallowed + 1);
        } else {
            return false;
        }
    }
    pattern.get(p..).unwrap_or_default().iter().all(|c| *c == b'*')
}

/// How many bytes of the pattern take this one byte; `None` where they do not.
fn one(pattern: &[u8], byte: u8) -> Option<usize> {
    match pattern {
        [b'?', ..] => Some(1),
        [b'[', inside @ ..] => {
            // A class without its end is an ordinary character.
            let Some(end) = inside.iter().position(|c| *c == b']') else { return (byte == b'[').then_some(1) };
            class(inside.get(..end)?, byte).then_some(end + 2)
        }
        [c, ..] => (*c == byte).then_some(1),
        [] => None,
    }
}

fn class(class: &[u8], byte: u8) -> bool {
    let (class, wanted) = match class {
        [b'!' | b'^', rest @ ..] => (rest, false),
        _ => (class, true),
    };
    let mut rest = class;
    let mut inside = false;
    loop {
        rest = match rest {
            [from, b'-', to, more @ ..] => {
                inside |= (*from..=*to).contains(&byte);
                more
            }
            [c, more @ ..] => {
                inside |= *c == byte;
                more
            }
            [] => return inside == wanted,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn patterns_of_real_drivers() {
        let pci = "pci:v00008086d00002922sv00001AF4sd00001100bc01sc06i01";
        let cases = [
            ("pci:v*d*sv*sd*bc01sc06i01*", pci, true),
            ("pci:v00008086d00002922sv*sd*bc*sc*i*", pci, true),
            ("pci:v00001AF4d*sv*sd*bc*sc*i*", pci, false),
            ("virtio:d00000002v*", "virtio:d00000002v00001AF4", true),
            ("virtio:d00000002v*", "virtio:d00000008v00001AF4", false),
            ("cpu:type:x86,ven*fam*mod*:feature:*0089*", "cpu:type:x86,ven0002fam000Fmod006B:feature:,0000,0089,0094", true),
            ("acpi*:VMBUS:*", "acpi:VMBUS:", true),
            ("usb:v046Dp*d01[0-9a-b]*", "usb:v046DpC52Bd011", true),
            ("a[!0-9]b", "axb", true),
            ("a[!0-9]b", "a5b", false),
            ("a[", "a[", true),
            ("a[]b", "ab", false),
            ("*", "", true),
            ("", "", true),
            ("", "a", false),
            ("?", "", false),
            ("a*b*c", "aXbXbXc", true),
            ("a*b*c", "aXbXbX", false),
        ];
        for (pattern, text, wanted) in cases {
            assert_eq!(matches(pattern, text), wanted, "{pattern} {text}");
        }
    }

    #[test]
    fn many_stars_take_bounded_time() {
        assert!(!matches(&"*a".repeat(300), &"b".repeat(5000)));
        assert!(!matches(&format!("{}c", "*a".repeat(100)), &"a".repeat(3000)));
    }

    proptest! {
        #[test]
        fn a_text_matches_itself_with_parts_replaced_by_stars(parts in prop::collection::vec("[a-z0-9:]{0,6}", 1..6)) {
            prop_assert!(matches(&parts.concat(), &parts.concat()));
            prop_assert!(matches(&parts.join("*"), &parts.join("??")));
        }

        #[test]
        fn nothing_panics(pattern in "\\PC{0,40}", text in "\\PC{0,40}") {
            matches(&pattern, &text);
        }
    }
}
