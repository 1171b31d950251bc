//! Names in a FAT folder: the 8.3 alias and the long-name entries (Microsoft FAT specification,
//! section 7).

use std::collections::BTreeSet;

use crate::error::{Error, Kind, Result};

/// Bytes of a folder entry.
pub(super) const ENTRY: usize = 32;
/// UTF-16 units in one long-name entry.
const UNITS_PER_ENTRY: usize = 13;
/// Longest name in UTF-16 units.
const LONGEST: usize = 255;
/// Attribute byte of a long-name entry.
const LONG_NAME: u8 = 0x0f;
/// Marks the long-name entry that holds the end of the name (and stands first).
const LAST_LONG: u8 = 0x40;

/// The 8.3 name, padded with spaces.
pub(super) type ShortName = [u8; 11];

/// Refuses what a FAT long name may not hold.
pub(super) fn check(name: &str, path: &str) -> Result<()> {
    let bad = name.chars().find(|c| c.is_control() || "\"*/:<>?\\|".contains(*c));
    let why = match bad {
        Some(c) => format!("holds {c:?}"),
        None if name.is_empty() || name == "." || name == ".." => "has a part that is no name".to_owned(),
        None if name.ends_with(['.', ' ']) => "has a part that ends in a dot or a space".to_owned(),
        None if name.encode_utf16().count() > LONGEST => format!("has a part longer than {LONGEST} UTF-16 units"),
        None => return Ok(()),
    };
    Err(Error::new(Kind::Document, format!("the path `{path}` {why}, which FAT cannot hold")))
}

/// The alias of `name` that no other in `taken` has, and whether it stands for the name exactly.
pub(super) fn choose(name: &str, taken: &BTreeSet<ShortName>) -> Result<(ShortName, bool)> {
    let (stem, extension) = match name.rsplit_once('.') {
        Some((stem, extension)) if !stem.is_empty() => (stem, extension),
        _ => (name, ""),
    };
    let (stem, extension) = (plain(stem), plain(extension));
    let exact = padded(&stem, &extension);
    let spelled = if extension.is_empty() { stem.clone() } else { format!("{stem}.{extension}") };
    if spelled == name && stem.len() <= 8 && extension.len() <= 3 && !taken.contains(&exact) {
        return Ok((exact, true));
    }
    for number in 1..1_000_000_u32 {
        let tail = format!("~{number}");
        let kept: String = stem.chars().take(8 - tail.len()).collect();
        let alias = padded(&(kept + &tail), &extension);
        if !taken.contains(&alias) {
            return Ok((alias, false));
        }
    }
    Err(Error::new(Kind::Document, format!("no short name is left for `{name}`: too many names in one folder begin alike")))
}

/// Upper case with what 8.3 allows; dots and spaces vanish, the rest becomes `_`.
fn plain(part: &str) -> String {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "$%'-_@~`!(){}^#&".contains(c);
    let kept = part.chars().filter(|c| !matches!(c, '.' | ' '));
    kept.map(|c| if allowed(c) { c.to_ascii_uppercase() } else { '_' }).collect()
}

fn padded(stem: &str, extension: &str) -> ShortName {
    let mut name = [b' '; 11];
    name[..8].iter_mut().zip(stem.bytes()).for_each(|(slot, byte)| *slot = byte);
    name[8..].iter_mut().zip(extension.bytes()).for_each(|(slot, byte)| *slot = byte);
    name
}

/// The entries that hold the long name, in the order in which they stand before the short one.
pub(super) fn long_entries(name: &str, alias: &ShortName) -> Vec<[u8; ENTRY]> {
    let checksum = alias.iter().fold(0u8, |sum, byte| sum.rotate_right(1).wrapping_add(*byte));
    let units: Vec<u16> = name.encode_utf16().collect();
    let mut entries: Vec<[u8; ENTRY]> = Vec::new();
    for (index, chunk) in units.chunks(UNITS_PER_ENTRY).enumerate() {
        let mut entry = [0u8; ENTRY];
        entry[0] = index as u8 + 1;
        entry[11] = LONG_NAME;
        entry[13] = checksum;
        // After the name: one zero unit, then 0xffff.
        let filled = chunk.iter().copied().chain([0]).chain(std::iter::repeat(0xffff));
        let places = (1..11).step_by(2).chain((14..26).step_by(2)).chain((28..32).step_by(2));
        for (place, unit) in places.zip(filled) {
            entry[place..place + 2].copy_from_slice(&unit.to_le_bytes());
        }
        entries.push(entry);
    }
    if let Some(last) = entries.last_mut() {
        last[0] |= LAST_LONG;
    }
    entries.reverse();
    entries
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn aliases() {
        let mut taken = BTreeSet::new();
        let table = [
            ("BOOTX64.EFI", "BOOTX64 EFI", true),
            ("EFI", "EFI        ", true),
            ("loader", "LOADER~1   ", false),
            ("loader.conf", "LOADER~1CON", false),
            ("load-balancer_1.efi", "LOAD-B~1EFI", false),
            ("load-balancer_2.efi", "LOAD-B~2EFI", false),
            ("a+b;c.d e", "A_B_C~1 DE ", false),
            (".hidden", "HIDDEN~1   ", false),
            ("grün.efi", "GR_N~1  EFI", false),
            ("A.B.C", "AB~1    C  ", false),
        ];
        for (name, alias, exact) in table {
            let (chosen, is_exact) = choose(name, &taken).unwrap();
            assert_eq!((std::str::from_utf8(&chosen).unwrap(), is_exact), (alias, exact), "{name}");
            taken.insert(chosen);
        }
        for number in 1..=12 {
            let (alias, _) = choose("samesame.txt", &taken).unwrap();
            assert!(std::str::from_utf8(&alias).unwrap().contains(&format!("~{number}")));
            taken.insert(alias);
        }
    }

    #[test]
    fn names_that_cannot_be() {
        for name in ["", ".", "..", "a:b", "a\u{1}", "end.", "end ", "a\\b", &"x".repeat(256)] {
            assert!(check(name, name).is_err(), "{name}");
        }
        assert!(check(&"x".repeat(255), "").is_ok());
    }
}
