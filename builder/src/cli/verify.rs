//! `ingot verify`

use std::path::Path;

use der::DecodePem;
use trust::AllowedSigners;
use x509_cert::Certificate;

use crate::cli::arguments::Verify;
use crate::cli::output;
use crate::cli::reporter::Reporter;
use crate::cli::settings::Settings;
use crate::error::{Error, Kind, Result};
use crate::files;
use crate::verify::release::{self, Trust};
use crate::verify::{render, to_json, verdict};

pub(super) fn run(settings: &Settings, typed: &Verify, reporter: &Reporter) -> Result<()> {
    let keys = settings.keys_folder(typed.keys.as_ref());
    let path = typed.signers.clone().unwrap_or_else(|| keys.join("allowed_signers"));
    let text = key(&path, "the file of allowed signers", "--signers")?;
    let signers = AllowedSigners::parse(&String::from_utf8_lossy(&text))
        .map_err(|e| Error::new(Kind::Document, format!("{}: {e}", path.display())))?;
    let path = typed.certificate.clone().unwrap_or_else(|| keys.join("db.crt"));
    let pem = key(&path, "the certificate for boot files", "--certificate")?;
    let certificate = Certificate::from_pem(pem)
        .map_err(|e| Error::new(Kind::Document, format!("{}: expected an X.509 certificate in PEM: {e}", path.display())))?;
    let trust = Trust { signers: &signers, certificate: &certificate, at: settings.environment.now.0 };
    let checks = release::release(&typed.release, &trust, reporter)?;
    match settings.json {
        true => output::text(&(to_json(&checks)? + "\n"))?,
        false => output::text(&render(&checks, output::style()))?,
    }
    verdict(&checks)
}

/// A file without which nothing can be believed.
fn key(path: &Path, what: &str, flag: &str) -> Result<Vec<u8>> {
    files::read_if_there(path)?.ok_or_else(|| {
        Error::new(Kind::Missing, format!("{what} {} is not there", path.display()))
            .hint(format!("name the one you were given with {flag} FILE, or the folder of your keys with --keys FOLDER"))
    })
}
