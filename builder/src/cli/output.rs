//! Results on standard output.

use std::io::{IsTerminal, Write};

use crate::error::{Error, Kind, Result};
use crate::inspect::bars::{Look, Style};

/// How standard output wants its text: wide and coloured on a terminal, plain elsewhere.
pub fn style() -> Style {
    let out = std::io::stdout();
    if !out.is_terminal() {
        return Style::PLAIN;
    }
    let columns = rustix::termios::tcgetwinsize(&out).map_or(0, |size| usize::from(size.ws_col));
    Style { look: Look::Terminal, width: if columns == 0 { Style::PLAIN.width } else { columns.clamp(40, 160) } }
}

/// Prints text. A reader that went away (`ingot … | head`) is no error.
///
/// # Errors
/// When standard output cannot be written for another reason.
pub fn text(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Error::new(Kind::Failed, format!("writing to standard output: {e}")))
        }
        _ => Ok(()),
    }
}

/// Prints a value as indented JSON.
///
/// # Errors
/// As [`text`].
pub fn json(value: &impl serde::Serialize) -> Result<()> {
    let rendered = serde_json::to_string_pretty(value).map_err(|e| Error::new(Kind::Failed, format!("writing JSON: {e}")))?;
    text(&(rendered + "\n"))
}
