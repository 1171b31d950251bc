//! Encrypting: the part of a profile that only its machine reads.

use std::path::Path;

use profile::Profile;
use profile::document::{Located, Style};
use profile::profile::Written;
use profile::sealed::{self, Recipient};
use profile::secret::Secret;

use crate::error::{Error, Kind, Result};
use crate::files;

/// The key `encrypted` of a profile with `part` in it, for these machines; its own line end included.
///
/// # Errors
/// There is nobody to encrypt it for.
pub fn seal(part: &Secret, recipients: &[Recipient]) -> Result<String> {
    let armored = sealed::seal(part, recipients);
    let armored = armored.map_err(|_| Error::new(Kind::Usage, "nobody to encrypt it for: expected `--to age1...`"))?;
    Ok(format!("encrypted = '''\n{}\n'''\n", armored.trim_end()))
}

/// Puts the part into the profile at `path`, in place of the one that is there; both are checked as one before anything is
/// written.
///
/// # Errors
/// [`Kind::Document`] with the faults of both: those of the part name their places only.
pub fn into(path: &Path, part: &Secret, recipients: &[Recipient]) -> Result<()> {
    let text = files::read_text(path)?;
    let name = path.display().to_string();
    let faulty = |told: String| Error::new(Kind::Document, format!("{name} is not changed: it would have faults")).details(told);
    let (texts, reading) = Written::read(&name, text.as_bytes(), None);
    let written = reading.value.filter(|_| reading.faults.is_empty());
    let written = written.ok_or_else(|| faulty(texts.render(&reading.faults, Style::Plain)))?;
    let key = seal(part, recipients)?;
    let bytes = match written.encrypted.as_ref().map(Located::place) {
        Some(place) => {
            let value = key.split_once(" = ").map_or("", |(_, value)| value.trim_end());
            spliced(&text, place.range(), value)
        }
        // A key of the whole profile stands before any table: `schema` does.
        None => {
            let end = written.schema.place().range().end;
            let line = text.get(end..).and_then(|rest| rest.find('\n')).map(|length| end + length + 1);
            match line {
                Some(at) => spliced(&text, at..at, &key),
                None => format!("{text}\n{key}"),
            }
        }
    };
    Profile::parse(&name, bytes.as_bytes()).map_err(|refused| faulty(refused.to_string()))?;
    Profile::parse_opened(&name, bytes.as_bytes(), part).map_err(|refused| faulty(refused.to_string()))?;
    files::write_atomic(path, bytes.as_bytes())
}

fn spliced(text: &str, range: std::ops::Range<usize>, put: &str) -> String {
    let before = text.get(..range.start).unwrap_or_default();
    let after = text.get(range.end..).unwrap_or_default();
    format!("{before}{put}{after}")
}
