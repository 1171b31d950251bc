//! SMBIOS structures (DSP0134, section 6.1): a formatted area, then strings that end in NUL, then
//! one more NUL. Of type 11, OEM strings (section 7.12).

const OEM_STRINGS: u8 = 11;
const END_OF_TABLE: u8 = 127;
/// Type, length and handle of every structure.
const HEADER: usize = 4;

/// All strings of the type 11 structures in a table, or in one structure.
///
/// # Errors
/// What does not fit together.
pub(super) fn oem_strings(table: &[u8]) -> Result<Vec<Vec<u8>>, String> {
    let mut found = Vec::new();
    let mut rest = table;
    while let [kind, length, ..] = *rest {
        let at = table.len().saturating_sub(rest.len());
        let length = usize::from(length);
        let formatted = rest.split_at_checked(length).filter(|_| length >= HEADER);
        let (formatted, after) =
            formatted.ok_or_else(|| format!("the structure at byte {at} says {length} bytes, {} are there", rest.len()))?;
        let (strings, after) = strings(after).ok_or_else(|| format!("the strings of the structure at byte {at} have no end"))?;
        if kind == OEM_STRINGS {
            let count = formatted.get(HEADER).copied().map_or(0, usize::from);
            if count != strings.len() {
                return Err(format!("the structure at byte {at} says {count} strings, {} are there", strings.len()));
            }
            found.extend(strings.into_iter().map(<[u8]>::to_vec));
        }
        if kind == END_OF_TABLE {
            break;
        }
        rest = after;
    }
    Ok(found)
}

/// The strings at the front, and what follows their end.
fn strings(bytes: &[u8]) -> Option<(Vec<&[u8]>, &[u8])> {
    // No strings at all are two NULs.
    if let Some(after) = bytes.strip_prefix(&[0, 0]) {
        return Some((Vec::new(), after));
    }
    let mut found = Vec::new();
    let mut rest = bytes;
    loop {
        let end = rest.iter().position(|byte| *byte == 0)?;
        let (string, after) = rest.split_at_checked(end)?;
        rest = after.get(1..)?;
        if string.is_empty() {
            return Some((found, rest));
        }
        found.push(string);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::find::fixture::structure;

    #[test]
    fn strings_of_type_11_are_found_among_others() {
        let table = [
            structure(1, &[1; 20], &["Maker"]),
            structure(11, &[2], &["one", "two"]),
            structure(2, &[], &[]),
            structure(11, &[1], &["three"]),
            structure(11, &[0], &[]),
            structure(127, &[], &[]),
            vec![0; 7],
        ]
        .concat();
        assert_eq!(oem_strings(&table).unwrap(), [b"one".to_vec(), b"two".to_vec(), b"three".to_vec()]);
        assert_eq!(oem_strings(&[]).unwrap(), Vec::<Vec<u8>>::new());
    }

    #[test]
    fn what_does_not_fit_together_is_named() {
        for (table, expected) in [
            (vec![11, 3, 0, 0, 0, 0], "says 3 bytes"),
            (vec![11, 0, 0, 0], "says 0 bytes"),
            (vec![11, 200, 0, 0, 1], "says 200 bytes, 5 are there"),
            (vec![11, 5, 0, 0, 1, b'a', 0], "have no end"),
            (vec![11, 5, 0, 0, 1, b'a'], "have no end"),
            (vec![11, 5, 0, 0, 1], "have no end"),
            (structure(11, &[2], &["one"]), "says 2 strings, 1 are there"),
        ] {
            let error = oem_strings(&table).unwrap_err();
            assert!(error.contains(expected), "{table:?}: {error}");
        }
    }

    proptest! {
        #[test]
        fn no_table_makes_it_panic(bytes in proptest::collection::vec(0u8..13, 0..200)) {
            let _ = oem_strings(&bytes);
        }

        #[test]
        fn strings_round_trip(strings in proptest::collection::vec("[a-zA-Z0-9=:. ]{1,40}", 1..20)) {
            let count = u8::try_from(strings.len()).unwrap();
            let texts: Vec<&str> = strings.iter().map(String::as_str).collect();
            let read = oem_strings(&structure(11, &[count], &texts)).unwrap();
            let expected: Vec<Vec<u8>> = strings.iter().map(|string| string.clone().into_bytes()).collect();
            prop_assert_eq!(read, expected);
        }
    }
}
