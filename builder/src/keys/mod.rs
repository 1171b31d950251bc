//! What signs: the release key and the Secure Boot keys, together in one folder.
//!
//! | file | what |
//! |---|---|
//! | `release`, `release.pub` | OpenSSH key pair; without `release` the ssh-agent holds the private half |
//! | `allowed_signers` | who may sign, as images carry it |
//! | `PK.key`, `PK.crt`, `KEK.*`, `db.*` | Secure Boot keys and certificates, PEM |

pub mod agent;
pub mod profile_signer;
pub mod release;
pub mod secure_boot;
#[cfg(test)]
mod tests;

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

pub use profile_signer::ProfileSigner;
pub use release::SigningKey;
pub use secure_boot::SecureBootKeys;
use trust::AllowedSigners;

use crate::error::{Error, Kind, Result};
use crate::files;
use crate::progress::Progress;

/// The word that marks keys nobody should trust, in comments and certificate subjects.
pub const DEVELOPMENT: &str = "DEVELOPMENT";
/// Owner of development keys.
const DEVELOPMENT_OWNER: &str = "ingot DEVELOPMENT keys - do not ship";

/// All keys of a folder.
#[derive(Debug)]
pub struct KeySet {
    /// Where they are.
    pub folder: PathBuf,
    /// Signs releases, profiles and media.
    pub release: SigningKey,
    /// Text of `allowed_signers`, checked.
    pub allowed_signers: String,
    /// Whether these keys say of themselves that nobody should trust them.
    pub development: bool,
    /// Sign what boots.
    pub secure_boot: SecureBootKeys,
}

impl KeySet {
    /// Reads the keys of `folder`. With `agent`, the socket of an ssh-agent, that holds the private
    /// half of the release key.
    ///
    /// # Errors
    /// What is missing or damaged, by its name.
    pub fn load(folder: &Path, agent: Option<&Path>) -> Result<Self> {
        if !folder.is_dir() {
            return Err(Error::new(Kind::Missing, format!("there is no folder of keys {}", folder.display()))
                .hint(format!("`ingot keys new {}` makes one", folder.display())));
        }
        let private = folder.join("release");
        let release =
            SigningKey::open(&if private.exists() && agent.is_none() { private } else { folder.join("release.pub") }, agent)?;
        let path = folder.join("allowed_signers");
        let allowed_signers = files::read_text(&path)?;
        AllowedSigners::parse(&allowed_signers).map_err(|e| Error::new(Kind::Document, format!("{}: {e}", path.display())))?;
        let development = release.public().comment().contains(DEVELOPMENT);
        Ok(Self { folder: folder.to_owned(), release, allowed_signers, development, secure_boot: secure_boot::load(folder)? })
    }

    /// Makes all keys for `owner` in `folder`, which must be empty or absent: all of them or none. Where there
    /// are `profile_signers`, they sign profiles and the release key does not.
    ///
    /// # Errors
    /// [`Kind::Usage`] when there is something in the folder, or the owner's name is unfit.
    pub fn create(folder: &Path, owner: &str, profile_signers: &[ProfileSigner]) -> Result<Self> {
        let principal = principal(owner)?;
        refuse_if_filled(folder)?;
        let parent = folder.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        files::make_folder(parent)?;
        let partial = tempfile::Builder::new().prefix(".keys.partial-").tempdir_in(parent);
        let partial = partial.map_err(|e| Error::io("making a folder in", parent, &e))?;
        let inside = partial.path().join("keys");
        fs::DirBuilder::new().mode(0o700).create(&inside).map_err(|e| Error::io("making the folder", &inside, &e))?;
        let release = SigningKey::generate(owner)?;
        let public = release.public_line()?;
        let own =
            if profile_signers.is_empty() { "ingot-release,ingot-profile,ingot-media" } else { "ingot-release,ingot-media" };
        let mut allowed_signers = format!("{principal} namespaces=\"{own}\" {public}");
        for signer in profile_signers {
            allowed_signers += &signer.line(&principal)?;
        }
        write_new(&inside.join("release"), release.private_text()?.as_bytes(), 0o600)?;
        write_new(&inside.join("release.pub"), public.as_bytes(), 0o644)?;
        write_new(&inside.join("allowed_signers"), allowed_signers.as_bytes(), 0o644)?;
        secure_boot::create(&inside, owner)?;
        // Renaming onto a folder that somebody has filled meanwhile fails, so nothing is ever replaced.
        if let Err(error) = fs::rename(&inside, folder) {
            refuse_if_filled(folder)?;
            return Err(Error::io("renaming to", folder, &error));
        }
        Self::load(folder, None)
    }

    /// The keys of `folder`; where it holds none, keys for trying things out are made, loudly marked.
    ///
    /// # Errors
    /// As [`KeySet::create`] and [`KeySet::load`].
    pub fn load_or_develop(folder: &Path, agent: Option<&Path>, progress: &dyn Progress) -> Result<Self> {
        let keys = match is_filled(folder)? {
            true => Self::load(folder, agent)?,
            // Another build may be faster: then its keys are there now.
            false => Self::create(folder, DEVELOPMENT_OWNER, &[]).or_else(|error| match is_filled(folder)? {
                true => Self::load(folder, agent),
                false => Err(error),
            })?,
        };
        if keys.development {
            progress.note(&format!(
                "signing with {DEVELOPMENT} keys from {}: fit for trying out, not for machines that matter (`ingot keys new` makes real ones)",
                folder.display()
            ));
        }
        Ok(keys)
    }

    /// What tells these keys from others, without any secret: `allowed_signers`, the release's public
    /// key and the Secure Boot certificates.
    ///
    /// # Errors
    /// When the public key cannot be written as text.
    pub fn public(&self) -> Result<Vec<u8>> {
        let mut bytes = self.allowed_signers.clone().into_bytes();
        bytes.extend(self.release.public_line()?.bytes());
        for signer in [&self.secure_boot.pk, &self.secure_boot.kek, &self.secure_boot.db] {
            bytes.extend(signer.certificate_der());
        }
        Ok(bytes)
    }
}

/// The owner's name as a principal of `allowed_signers`.
fn principal(owner: &str) -> Result<String> {
    let unfit = owner.trim() != owner || owner.chars().count() > 48 || owner.chars().any(char::is_control);
    let words: Vec<_> =
        owner.split(|c: char| !c.is_alphanumeric() && !"@._-".contains(c)).filter(|word| !word.is_empty()).collect();
    match unfit || words.is_empty() {
        true => Err(Error::new(
            Kind::Usage,
            format!("expected the owner's name in 1 to 48 characters, found `{}`", owner.escape_debug()),
        )),
        false => Ok(words.join("-")),
    }
}

fn is_filled(folder: &Path) -> Result<bool> {
    match fs::read_dir(folder) {
        Ok(mut entries) => Ok(entries.next().is_some()),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(false),
        Err(e) => Err(Error::io("reading the folder", folder, &e)),
    }
}

fn refuse_if_filled(folder: &Path) -> Result<()> {
    match is_filled(folder)? {
        false => Ok(()),
        true => Err(Error::new(
            Kind::Usage,
            format!("expected an empty or absent folder for new keys, found files in {}", folder.display()),
        )
        .hint("keys are never overwritten: choose another folder, or move the old keys away first")),
    }
}

/// Writes a file that must not be there yet, with exactly `mode` whatever the umask.
pub(crate) fn write_new(path: &Path, bytes: &[u8], mode: u32) -> Result<()> {
    let write = || {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
        file.write_all(bytes)?;
        file.set_permissions(fs::Permissions::from_mode(mode))?;
        file.sync_all()
    };
    write().map_err(|e| Error::io("writing", path, &e))
}
