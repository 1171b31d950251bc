//! Source 4: key-value pairs of Hyper-V. The guest's daemon (hv_kvp_daemon) keeps each pool as a file
//! of fixed records: 512 bytes of key, 2048 of value, both filled up with NULs. Pool 0 is what the
//! host's tools set for the guest, pool 3 what the host says by itself.
//!
//! A value holds about 1000 characters, so a profile goes into `ingot.profile.0`, `.1` and so on;
//! likewise `ingot.profile.sig`. As tools of the host may change line ends, `ingot.profile.binary`
//! takes the same bytes in base64.

use std::collections::BTreeMap;

use base64::{Engine, engine::general_purpose::STANDARD};

use super::{Found, Held, Reader, optional};

const KEY: usize = 512;
const VALUE: usize = 2048;
/// Longest pool that is read, in bytes: 2048 records.
const LIMIT: usize = 2048 * (KEY + VALUE);
const POOLS: [u8; 2] = [0, 3];
/// The host's own statements are in pool 3.
const OF_HOST: u8 = 3;
const NAME: &str = "ingot.profile";

type Pairs = BTreeMap<String, Vec<u8>>;

/// Reads both pools.
pub(super) fn look(reader: &dyn Reader, found: &mut Found) {
    for pool in POOLS {
        let source = format!("Hyper-V key-value pool {pool}");
        match pairs(reader, pool).and_then(|pairs| pairs.map_or(Ok(None), |pairs| held(&pairs))) {
            Ok(Some(held)) => found.take(source, held),
            Ok(None) => found.skip(source, "not there"),
            Err(reason) => found.skip(source, reason),
        }
    }
}

/// What the host calls this machine, where it says so.
pub(super) fn name(reader: &dyn Reader) -> Option<String> {
    of_host(reader, "VirtualMachineName")
}

/// The identifier the host gave this machine, in lower-case letters.
pub(crate) fn identifier(reader: &dyn Reader) -> Option<String> {
    of_host(reader, "VirtualMachineId").map(|id| id.trim().to_ascii_lowercase()).filter(|id| !id.is_empty())
}

fn of_host(reader: &dyn Reader, key: &str) -> Option<String> {
    let mut pairs = pairs(reader, OF_HOST).ok().flatten()?;
    String::from_utf8(pairs.remove(key)?).ok()
}

fn pairs(reader: &dyn Reader, pool: u8) -> Result<Option<Pairs>, String> {
    let path = format!("/var/lib/hyperv/.kvp_pool_{pool}");
    let Some(bytes) = optional(reader, &path, LIMIT)? else { return Ok(None) };
    parse(&bytes).map(Some).map_err(|e| format!("broken: {path}: {e}"))
}

pub(super) fn parse(bytes: &[u8]) -> Result<Pairs, String> {
    let mut pairs = Pairs::new();
    let records = bytes.chunks_exact(KEY + VALUE);
    let over = records.remainder().len();
    if over != 0 {
        return Err(format!("expected records of {} bytes, found {over} bytes at the end", KEY + VALUE));
    }
    for (number, record) in records.enumerate() {
        let (key, value) = record.split_at_checked(KEY).unwrap_or_default();
        // Keys of others may be what they like.
        let Ok(key) = std::str::from_utf8(text(key)) else { continue };
        let before = pairs.insert(key.to_owned(), text(value).to_vec());
        if key.starts_with(NAME) && before.is_some() {
            return Err(format!("expected `{}` once, found it again in record {number}", key.escape_debug()));
        }
    }
    Ok(pairs)
}

/// Up to the first NUL.
fn text(field: &[u8]) -> &[u8] {
    field.split(|byte| *byte == 0).next().unwrap_or_default()
}

fn held(pairs: &Pairs) -> Result<Option<Held>, String> {
    let profile = match (joined(pairs, NAME)?, joined(pairs, "ingot.profile.binary")?) {
        (Some(_), Some(_)) => {
            return Err("broken: expected `ingot.profile` or `ingot.profile.binary`, found both".to_owned());
        }
        (Some(text), None) => text,
        (None, Some(text)) => {
            let packed: Vec<u8> = text.into_iter().filter(|byte| !byte.is_ascii_whitespace()).collect();
            STANDARD.decode(packed).map_err(|e| format!("broken: expected base64 in `ingot.profile.binary`: {e}"))?
        }
        (None, None) => return Ok(None),
    };
    Ok(Some(Held { profile, signature: joined(pairs, "ingot.profile.sig")? }))
}

/// The value of `name`, or of `name.0`, `name.1` and so on put together.
fn joined(pairs: &Pairs, name: &str) -> Result<Option<Vec<u8>>, String> {
    let part = |number: usize| format!("{name}.{number}");
    let number = |key: &str| key.strip_prefix(name)?.strip_prefix('.')?.parse::<usize>().ok();
    let last = pairs.keys().filter_map(|key| number(key)).max();
    match (pairs.get(name), last) {
        (Some(_), Some(last)) => Err(format!("broken: expected `{name}` or its parts, found both `{name}` and `{}`", part(last))),
        (whole, None) => Ok(whole.cloned()),
        (None, Some(last)) if last >= pairs.len() => {
            Err(format!("broken: expected all parts of `{name}` up to `{}`, found {} pairs in all", part(last), pairs.len()))
        }
        (None, Some(last)) => (0..=last)
            .map(|number| pairs.get(&part(number)).map(Vec::as_slice).ok_or_else(|| part(number)))
            .collect::<Result<Vec<_>, _>>()
            .map(|parts| Some(parts.concat()))
            .map_err(|missing| format!("broken: expected all parts up to `{}`, found no `{missing}`", part(last))),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::find::fixture::{Files, pool};

    type Read = (Vec<u8>, Option<Vec<u8>>);

    fn read(records: Files<'_>) -> Result<Option<Read>, String> {
        let held = held(&parse(&pool(records))?)?;
        Ok(held.map(|held| (held.profile, held.signature)))
    }

    #[test]
    fn whole_values_parts_and_base64_are_read() {
        let expected = Some((b"abc".to_vec(), Some(b"sig".to_vec())));
        assert_eq!(read(&[("ingot.profile", b"abc"), ("ingot.profile.sig", b"sig"), ("x", b"y")]), Ok(expected.clone()));
        let parts: [(&str, &[u8]); 5] = [
            ("ingot.profile.1", b"b"),
            ("ingot.profile.0", b"a"),
            ("ingot.profile.2", b"c"),
            ("ingot.profile.sig.1", b"g"),
            ("ingot.profile.sig.0", b"si"),
        ];
        assert_eq!(read(&parts), Ok(expected));
        let packed: [(&str, &[u8]); 2] = [("ingot.profile.binary.0", b"YW"), ("ingot.profile.binary.1", b"Jj\n")];
        assert_eq!(read(&packed), Ok(Some((b"abc".to_vec(), None))));
        assert_eq!(read(&[("HostName", b"h")]), Ok(None));
        assert_eq!(read(&[]), Ok(None));
        // Eleven parts: by number, not by name.
        let names: Vec<String> = (0..11).map(|number| format!("ingot.profile.{number}")).collect();
        let values: Vec<[u8; 1]> = (b'a'..=b'k').map(|byte| [byte]).collect();
        let many: Vec<(&str, &[u8])> = names.iter().zip(&values).map(|(name, value)| (name.as_str(), value.as_slice())).collect();
        assert_eq!(read(&many), Ok(Some((b"abcdefghijk".to_vec(), None))));
    }

    #[test]
    fn what_is_missing_or_double_is_named() {
        let cases: [(Files<'_>, &str); 6] = [
            (&[("ingot.profile.0", b"a"), ("ingot.profile.2", b"c"), ("x", b"")], "no `ingot.profile.1`"),
            (&[("ingot.profile.1", b"a"), ("x", b"")], "no `ingot.profile.0`"),
            (&[("ingot.profile.18446744073709551615", b"a")], "found 1 pairs in all"),
            (&[("ingot.profile", b"a"), ("ingot.profile.0", b"a")], "found both"),
            (&[("ingot.profile", b"a"), ("ingot.profile", b"b")], "found it again in record 1"),
            (&[("ingot.profile.binary", b"?")], "expected base64"),
        ];
        for (records, expected) in cases {
            let error = read(records).unwrap_err();
            assert!(error.contains(expected), "{records:?}: {error}");
        }
        assert!(parse(&[0; KEY + VALUE + 1]).unwrap_err().contains("found 1 bytes at the end"));
    }

    proptest! {
        #[test]
        fn no_pool_makes_it_panic(keys in proptest::collection::vec("(ingot\\.profile)?(\\.sig|\\.binary)?\\.?[0-9]{0,20}", 0..6), cut in 0usize..3000) {
            let records: Vec<(&str, &[u8])> = keys.iter().map(|key| (key.as_str(), b"v".as_slice())).collect();
            let mut bytes = pool(&records);
            bytes.truncate(bytes.len().saturating_sub(cut));
            let _ = parse(&bytes).map(|pairs| held(&pairs));
        }
    }
}
