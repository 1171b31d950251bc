//! `ingot keys`

use std::path::Path;

use profile::sealed::Identity;
use serde::Serialize;
use trust::Sha256Digest;

use crate::cli::arguments::{Keys as Typed, KeysVerb};
use crate::cli::output;
use crate::cli::settings::Settings;
use crate::error::{Error, Kind, Result};
use crate::keys::{KeySet, ProfileSigner};

/// What is shown of a key: never a secret.
#[derive(Serialize)]
struct Shown {
    folder: std::path::PathBuf,
    development: bool,
    release: String,
    platform: Sha256Digest,
    exchange: Sha256Digest,
    boot: Sha256Digest,
}

pub(super) fn run(settings: &Settings, typed: &Typed) -> Result<()> {
    let keys = match &typed.verb {
        KeysVerb::Machine { file } => return machine(settings, file),
        KeysVerb::New { folder, owner, profile_signer } => {
            let signers = profile_signer.iter().map(|text| ProfileSigner::read(text)).collect::<Result<Vec<_>>>()?;
            KeySet::create(folder, owner, &signers)?
        }
        KeysVerb::Show { folder } => {
            let folder = settings.keys_folder(folder.as_ref());
            if !folder.is_dir() {
                return Err(Error::new(Kind::Missing, format!("there are no keys in {}", folder.display()))
                    .hint(format!("`ingot keys new {}` makes some; a first build makes development keys", folder.display())));
            }
            KeySet::load(&folder, settings.environment.agent.as_deref())?
        }
    };
    let shown = Shown {
        folder: keys.folder.clone(),
        development: keys.development,
        release: keys.release.public_line()?.trim().to_owned(),
        platform: Sha256Digest::of(keys.secure_boot.pk.certificate_der()),
        exchange: Sha256Digest::of(keys.secure_boot.kek.certificate_der()),
        boot: Sha256Digest::of(keys.secure_boot.db.certificate_der()),
    };
    if settings.json {
        return output::json(&shown);
    }
    let kind = if shown.development { "DEVELOPMENT keys" } else { "keys" };
    output::text(&format!(
        "{kind} in {}\nrelease  {}\nPK       SHA-256 {}\nKEK      SHA-256 {}\ndb       SHA-256 {}\n",
        shown.folder.display(),
        shown.release,
        shown.platform,
        shown.exchange,
        shown.boot
    ))
}

/// A machine's key for the encrypted part of its profile. Only its public half is shown.
fn machine(settings: &Settings, file: &Path) -> Result<()> {
    let identity = Identity::generate();
    crate::keys::write_new(file, identity.file().expose().as_bytes(), 0o600)?;
    let public: Vec<String> = identity.recipients().iter().map(ToString::to_string).collect();
    match settings.json {
        true => output::json(&serde_json::json!({ "schema": 1, "file": file, "public": public })),
        false => output::text(&format!("{}\n", public.join("\n"))),
    }
}
