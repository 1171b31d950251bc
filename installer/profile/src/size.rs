//! Sizes in bytes as people write them: `64 MiB`, or a number of bytes.

use std::fmt;

use serde::de::{self, Deserialize, Deserializer, Visitor};

/// A size in bytes. Written as a number (of bytes), or as a text with a binary unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Size(pub u64);

/// Why a text is no size.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotASize {
    /// Neither digits nor a unit that is known.
    #[error("expected a size such as \"64 MiB\" (B, KiB, MiB, GiB or TiB), found \"{}\"", printable(.0))]
    Form(String),
    /// A decimal unit.
    #[error("\"{}\" uses a decimal unit; sizes are written in powers of 1024\nhint: write `{}iB`", printable(.0), .1)]
    Decimal(String, char),
    /// More than 2^64 - 1 bytes.
    #[error("\"{}\" is more than 2^64 bytes", printable(.0))]
    TooLarge(String),
}

const UNITS: [(&str, u32); 5] = [("B", 0), ("KiB", 10), ("MiB", 20), ("GiB", 30), ("TiB", 40)];

impl std::str::FromStr for Size {
    type Err = NotASize;

    fn from_str(text: &str) -> Result<Self, NotASize> {
        let form = || NotASize::Form(text.to_owned());
        let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let (number, unit) = text.split_at_checked(digits).ok_or_else(form)?;
        let unit = unit.strip_prefix(' ').unwrap_or(unit);
        if number.is_empty() {
            return Err(form());
        }
        let shift = match (UNITS.iter().find(|(name, _)| *name == unit), unit) {
            (Some((_, shift)), _) => *shift,
            (None, "kB" | "KB" | "MB" | "GB" | "TB" | "k" | "K" | "M" | "G" | "T") => {
                let letter = unit.chars().next().map_or('M', |c| c.to_ascii_uppercase());
                return Err(NotASize::Decimal(text.to_owned(), letter));
            }
            _ => return Err(form()),
        };
        let too_large = || NotASize::TooLarge(text.to_owned());
        let number: u64 = number.parse().map_err(|_| too_large())?;
        number.checked_mul(1 << shift).map(Size).ok_or_else(too_large)
    }
}

impl fmt::Display for Size {
    /// The largest unit that divides it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fitting = UNITS.iter().rev().find(|(_, shift)| self.0 != 0 && self.0.is_multiple_of(1 << shift));
        let (unit, shift) = fitting.copied().unwrap_or(("B", 0));
        write!(f, "{} {unit}", self.0 >> shift)
    }
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(SizeVisitor)
    }
}

impl serde::Serialize for Size {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

struct SizeVisitor;

impl Visitor<'_> for SizeVisitor {
    type Value = Size;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a size such as \"64 MiB\", or a number of bytes")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Size, E> {
        text.parse().map_err(E::custom)
    }

    fn visit_u64<E: de::Error>(self, bytes: u64) -> Result<Size, E> {
        Ok(Size(bytes))
    }

    fn visit_i64<E: de::Error>(self, bytes: i64) -> Result<Size, E> {
        u64::try_from(bytes).map(Size).map_err(|_| E::invalid_value(de::Unexpected::Signed(bytes), &self))
    }

    /// A hole that an earlier fault left (see [`crate::document`]).
    fn visit_unit<E: de::Error>(self) -> Result<Size, E> {
        Ok(Size(0))
    }
}

/// A short text without control characters.
fn printable(text: &str) -> String {
    text.chars().take(40).map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_as_written() {
        for (text, bytes) in [("0 B", 0), ("1 B", 1), ("64 MiB", 64 << 20), ("64MiB", 64 << 20), ("3 TiB", 3 << 40)] {
            assert_eq!(text.parse(), Ok(Size(bytes)), "{text}");
        }
        for text in ["", " ", "4096", "MiB", "-1", "1.5 GiB", "64  MiB", "64 mib", "64 MiB ", "0x10", "٣ MiB", "1\0"] {
            assert!(matches!(text.parse::<Size>(), Err(NotASize::Form(_))), "{text}");
        }
        assert!(matches!("64 MB".parse::<Size>(), Err(NotASize::Decimal(_, 'M'))));
        for text in ["18446744073709551616 B", "16777216 TiB"] {
            assert!(matches!(text.parse::<Size>(), Err(NotASize::TooLarge(_))), "{text}");
        }
    }

    proptest::proptest! {
        #[test]
        fn shown_sizes_are_read_back(bytes: u64) {
            proptest::prop_assert_eq!(Size(bytes).to_string().parse(), Ok(Size(bytes)));
        }
    }
}
