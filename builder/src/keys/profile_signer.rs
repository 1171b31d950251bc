//! Keys that sign profiles beside the release key: a line each of `allowed_signers`, with its time.

use std::path::Path;

use ssh_key::PublicKey;
use trust::AllowedSigners;

use crate::error::{Error, Kind, Result};
use crate::files;

/// A public key that may sign profiles.
#[derive(Debug, Clone)]
pub struct ProfileSigner {
    key: PublicKey,
    /// `YYYYMMDD`, UTC.
    from: Option<String>,
    /// `YYYYMMDD`, UTC; the day itself is the first without.
    until: Option<String>,
}

impl ProfileSigner {
    /// Reads `FILE.pub[,from=YYYYMMDD][,until=YYYYMMDD]`, as it is typed.
    ///
    /// # Errors
    /// [`Kind::Usage`] for a text of another form, [`Kind::Document`] for a file that is no public key.
    pub fn read(text: &str) -> Result<Self> {
        let mut parts = text.split(',');
        let path = Path::new(parts.next().unwrap_or_default());
        let (mut from, mut until) = (None, None);
        for part in parts {
            let usage = || {
                let message =
                    format!("expected `from=YYYYMMDD` or `until=YYYYMMDD` once after the file, found `{}`", part.escape_debug());
                Error::new(Kind::Usage, message)
            };
            let (name, day) = part.split_once('=').ok_or_else(usage)?;
            let place = match name {
                "from" => &mut from,
                "until" => &mut until,
                _ => return Err(usage()),
            };
            if place.is_some() || day.len() != 8 || !day.bytes().all(|byte| byte.is_ascii_digit()) {
                return Err(usage());
            }
            *place = Some(day.to_owned());
        }
        let line = files::read_text(path)?;
        let key = PublicKey::from_openssh(line.trim()).map_err(|e| {
            Error::new(Kind::Document, format!("{}: expected an OpenSSH public key: {e}", path.display()))
                .hint("name the file that ends in .pub")
        })?;
        let signer = Self { key, from, until };
        // What a machine would refuse is refused now: a day that is none, a time that never comes.
        AllowedSigners::parse(&signer.line("signer")?).map_err(|e| Error::new(Kind::Usage, format!("`{text}`: {e}")))?;
        Ok(signer)
    }

    /// Its line of `allowed_signers`.
    ///
    /// # Errors
    /// When the key cannot be encoded.
    pub(super) fn line(&self, principal: &str) -> Result<String> {
        let public = self.key.to_openssh().map_err(|e| Error::new(Kind::Document, format!("encoding the public key: {e}")))?;
        let from = self.from.iter().map(|day| format!(",valid-after=\"{day}Z\"")).collect::<String>();
        let until = self.until.iter().map(|day| format!(",valid-before=\"{day}Z\"")).collect::<String>();
        Ok(format!("{principal} namespaces=\"ingot-profile\"{from}{until} {public}\n"))
    }
}
