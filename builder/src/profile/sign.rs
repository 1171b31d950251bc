//! Signing: exactly the bytes of the file, in the namespace `ingot-profile`, and only what a machine would take.

use std::path::{Path, PathBuf};

use profile::Profile;
use trust::{AllowedSigners, Namespace, Policy, RevokedKeys};

use crate::error::{Error, Kind, Result};
use crate::files;
use crate::keys::SigningKey;

/// What signs, and who is believed.
#[derive(Debug, Clone, Copy)]
pub struct Signing<'a> {
    /// The key.
    pub key: &'a SigningKey,
    /// Text of `allowed_signers` as images of these keys carry it; without it only the signature itself is checked.
    pub allowed: Option<&'a str>,
    /// Seconds since 1970 now: signers may have their time.
    pub at: u64,
}

/// Where the signature of a profile lies: `FILE.sig`.
pub fn beside(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".sig");
    name.into()
}

/// Signs the profile at `path` into `FILE.sig`, and gives the name of that.
///
/// # Errors
/// [`Kind::Document`] for a profile with faults, [`Kind::Untrusted`] where machines would not believe the key.
pub fn sign(path: &Path, signing: &Signing<'_>) -> Result<PathBuf> {
    let bytes = files::read(path)?;
    Profile::parse(&path.display().to_string(), &bytes).map_err(|refused| {
        Error::new(Kind::Document, format!("{} is not signed: it has faults", path.display())).details(refused.to_string())
    })?;
    let signature = signing.key.sign(Namespace::Profile, &bytes)?;
    if let Some(allowed) = signing.allowed {
        let signers = AllowedSigners::parse(allowed).map_err(|e| Error::new(Kind::Document, format!("allowed_signers: {e}")))?;
        let revoked = RevokedKeys::default();
        let policy = Policy { signers: &signers, revoked: &revoked, namespace: Namespace::Profile, at: signing.at };
        trust::verify(&bytes, &signature, &policy).map_err(|e| {
            Error::new(Kind::Untrusted, format!("images built with these keys would refuse the signature: {e}"))
                .hint("sign with a key that their allowed_signers lets sign `ingot-profile` now (`--key FILE`)")
        })?;
    }
    let target = beside(path);
    files::write_atomic(&target, signature.as_bytes())?;
    Ok(target)
}
