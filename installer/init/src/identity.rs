//! The machine-id: the same on every boot, though /etc forgets. Derived from the identity the
//! firmware gives the machine (SMBIOS type 1 UUID, which every hypervisor keeps with the VM):
//!
//! `SHA-256("ingot machine-id v1\n" + the 16 bytes of the UUID in text order)`, its first 16 bytes,
//! with the version and variant bits of a random UUID (RFC 9562, as machine-id(5) asks).
//!
//! The hash keeps the firmware's UUID, which some licences and clouds treat as a secret, out of a
//! world-readable file. A UUID that several machines share would give them one identity, so the
//! known placeholders are refused; the file then says `uninitialized`, and systemd makes a
//! machine-id for this boot.

use std::fmt::Write;

use ring::digest::{Context, SHA256};

/// Where the kernel shows the UUID; root may read it.
pub const PRODUCT_UUID: &str = "/sys/class/dmi/id/product_uuid";

/// What /etc/machine-id holds when there is no identity (machine-id(5)).
pub const UNINITIALIZED: &str = "uninitialized";

const PURPOSE: &[u8] = b"ingot machine-id v1\n";

/// Placeholders of firmware makers, in text order and with the first three fields swapped.
const PLACEHOLDERS: [u128; 5] = [
    0x03000200_0400_0500_0006_000700080009,
    0x00020003_0004_0005_0006_000700080009,
    0x12345678_1234_5678_90ab_cddeefaabbcc,
    0x78563412_3412_7856_90ab_cddeefaabbcc,
    0x01234567_89ab_cdef_0123_456789abcdef,
];

/// The machine-id (32 lower-case digits) for a firmware UUID in its usual text form.
///
/// # Errors
/// Why this UUID identifies nothing.
pub fn machine_id(product_uuid: &str) -> Result<String, String> {
    let text = product_uuid.trim();
    let uuid = parse(text).ok_or_else(|| format!("`{}` is not a UUID", text.escape_debug()))?;
    let bytes = uuid.to_be_bytes();
    if bytes.iter().all(|byte| bytes.first() == Some(byte)) || PLACEHOLDERS.contains(&uuid) {
        return Err(format!("{text} is a placeholder that other machines have too"));
    }
    let mut context = Context::new(&SHA256);
    context.update(PURPOSE);
    context.update(&bytes);
    let digest = context.finish();
    let mut id = String::new();
    for (index, byte) in digest.as_ref().iter().take(16).enumerate() {
        let byte = match index {
            6 => byte & 0x0f | 0x40,
            8 => byte & 0x3f | 0x80,
            _ => *byte,
        };
        let _ = write!(id, "{byte:02x}");
    }
    Ok(id)
}

/// 8-4-4-4-12 hexadecimal digits.
fn parse(text: &str) -> Option<u128> {
    let groups: Vec<&str> = text.split('-').collect();
    let right = groups.iter().map(|group| group.len()).eq([8, 4, 4, 4, 12]);
    let digits = groups.concat();
    (right && digits.bytes().all(|c| c.is_ascii_hexdigit())).then(|| u128::from_str_radix(&digits, 16).ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_derivation_is_pinned() {
        // printf 'ingot machine-id v1\n\x55\x0e...' | sha256sum, first 16 bytes, version and variant bits set.
        let id = machine_id("550e8400-e29b-41d4-a716-446655440000\n").unwrap();
        assert_eq!(id, "081b22a5451b49198320a0716e274f92");
        assert_eq!(machine_id("550E8400-E29B-41D4-A716-446655440000").unwrap(), id, "letter case does not matter");
        assert_ne!(machine_id("550e8400-e29b-41d4-a716-446655440001").unwrap(), id);
    }

    #[test]
    fn placeholders_and_rubbish_identify_nothing() {
        let wrong = [
            "00000000-0000-0000-0000-000000000000",
            "FFFFFFFF-FFFF-FFFF-FFFF-FFFFFFFFFFFF",
            "03000200-0400-0500-0006-000700080009",
            "12345678-1234-5678-90AB-CDDEEFAABBCC",
            "",
            "Not Settable",
            "550e8400e29b41d4a716446655440000",
            "550e8400-e29b-41d4-a716-44665544000",
            "550e8400-e29b-41d4-a716-44665544000g",
            "+50e8400-e29b-41d4-a716-446655440000",
            "550e8400-e29b-41d4-a716-4466554400é",
        ];
        for text in wrong {
            assert!(machine_id(text).is_err(), "{text}");
        }
    }
}
