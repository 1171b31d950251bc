//! Sizes and bars as text.

/// How a text may look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Look {
    /// No escape sequences and no block characters, for files and pipes.
    Plain,
    /// Block characters and colours, for a terminal.
    Terminal,
}

/// Look and width of a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Style {
    /// How it may look.
    pub look: Look,
    /// Columns; lines keep within, but for names that do not.
    pub width: usize,
}

impl Style {
    /// Plain, 80 columns.
    pub const PLAIN: Style = Style { look: Look::Plain, width: 80 };

    /// `text` in a colour of the terminal (SGR code, as `32`), or as it is.
    pub fn paint(self, code: &str, text: &str) -> String {
        match self.look {
            Look::Plain => text.to_owned(),
            Look::Terminal => format!("\x1b[{code}m{text}\x1b[0m"),
        }
    }

    /// A bar of `columns`, filled by `part` of `whole`. Something shows as at least a sliver.
    pub fn bar(self, part: u64, whole: u64, columns: usize) -> String {
        let part = part.min(whole);
        let eighths = (u128::from(part) * columns as u128 * 8).checked_div(u128::from(whole)).unwrap_or(0);
        let eighths = usize::try_from(eighths).unwrap_or(0).max(usize::from(part > 0 && columns > 0));
        let (full, rest) = (eighths / 8, eighths % 8);
        match self.look {
            Look::Plain => {
                let full = full + usize::from(rest >= 4 || (full == 0 && rest > 0));
                format!("{}{}", "#".repeat(full), ".".repeat(columns.saturating_sub(full)))
            }
            Look::Terminal => {
                let sliver = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"].get(rest).copied().unwrap_or("");
                let empty = columns.saturating_sub(full + usize::from(rest > 0));
                format!("{}{sliver}{}", "█".repeat(full), "░".repeat(empty))
            }
        }
    }
}

/// A size for people, in three or four digits: `1.50 GiB`, `104 MiB`, `12 B`.
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 7] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let mut unit = 0;
    let mut value = bytes as f64;
    while value >= 1023.5 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    let decimals = match value {
        _ if unit == 0 => 0,
        v if v < 9.995 => 2,
        v if v < 99.95 => 1,
        _ => 0,
    };
    format!("{value:.decimals$} {}", UNITS[unit])
}

/// A difference of sizes with its sign: `+1.50 MiB`, `-12 B`, `0 B`.
pub fn signed_size(before: u64, after: u64) -> String {
    let sign = match after.cmp(&before) {
        std::cmp::Ordering::Greater => "+",
        std::cmp::Ordering::Less => "-",
        std::cmp::Ordering::Equal => "",
    };
    format!("{sign}{}", size(after.abs_diff(before)))
}

/// A sum that stays at the largest number: sizes come from files nobody vouches for.
pub fn total(sizes: impl Iterator<Item = u64>) -> u64 {
    sizes.fold(0, u64::saturating_add)
}

/// Control characters made visible: names come from files nobody vouches for.
pub fn harmless(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        let table = [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.00 KiB"),
            (1_048_575, "1.00 MiB"),
            (110_100_480, "105 MiB"),
            (11_010_048, "10.5 MiB"),
            (u64::MAX, "16.0 EiB"),
        ];
        for (bytes, text) in table {
            assert_eq!(size(bytes), text, "{bytes}");
        }
        assert_eq!(
            [signed_size(1, 4), signed_size(2048, 1024), signed_size(5, 5)],
            ["+3 B", "-1.00 KiB", "0 B"].map(str::to_owned)
        );
    }

    #[test]
    fn bars_fill_their_columns() {
        let terminal = Style { look: Look::Terminal, width: 80 };
        for (part, whole) in [(0, 10), (1, 1_000_000), (3, 10), (5, 10), (10, 10), (11, 10), (0, 0), (u64::MAX, u64::MAX)] {
            for style in [Style::PLAIN, terminal] {
                assert_eq!(style.bar(part, whole, 10).chars().count(), 10, "{part} of {whole}");
            }
        }
        assert_eq!(Style::PLAIN.bar(3, 10, 10), "###.......");
        assert_eq!(terminal.bar(1, 1000, 4), "▏░░░");
    }
}
