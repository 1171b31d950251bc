//! One profile and many: all faults at once, signatures, and what only files together or an image can tell.

use std::path::{Path, PathBuf};
use std::thread;

use profile::document::{Fault, Located, Place, Style, Texts};
use profile::profile::Written;
use profile::sealed::{self, Identity};
use profile::secret::Secret;
use profile::{Profile, Refused};
use serde::Serialize;
use trust::{AllowedSigners, Namespace, Policy, RevokedKeys, Sha256Digest};

use super::{ImageFacts, fit, sign, together};
use crate::error::Result;
use crate::files;

/// Who may sign profiles.
#[derive(Debug, Clone)]
pub struct Believed {
    /// Who may.
    pub signers: AllowedSigners,
    /// Who may no longer.
    pub revoked: RevokedKeys,
    /// Where that stands, for people.
    pub from: String,
}

/// What profiles are checked against.
#[derive(Debug, Clone, Copy, Default)]
pub struct Against<'a> {
    /// The image they are for.
    pub image: Option<&'a ImageFacts>,
    /// Who may sign where no image says it.
    pub believed: Option<&'a Believed>,
    /// Opens encrypted parts.
    pub identity: Option<&'a Identity>,
    /// Seconds since 1970 now.
    pub at: u64,
}

/// What became of an encrypted part.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Encrypted {
    /// There is none.
    None,
    /// There is one, and no key to open it with: the rest was checked without it.
    NotChecked,
    /// It was opened, and both were checked as one.
    Checked,
}

/// What became of a signature.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "state", content = "detail")]
pub enum Signature {
    /// There is none beside the profile.
    None,
    /// There is one, and nobody to believe.
    NotChecked,
    /// It holds: fingerprint of the signer.
    Holds(String),
    /// It does not, for this reason.
    Broken(String),
}

/// A profile that was looked at.
#[derive(Debug)]
pub struct Checked {
    /// Its file, as it was named.
    pub path: PathBuf,
    /// All faults, by place.
    pub faults: Vec<Fault>,
    /// The profile where it has no faults of its own.
    pub profile: Option<Profile>,
    /// Its signature.
    pub signature: Signature,
    /// Its encrypted part.
    pub encrypted: Encrypted,
    /// SHA-256 of its bytes.
    pub sha256: Sha256Digest,
    /// Smallest disk in bytes on which this image and this state partition fit.
    pub least_disk: Option<u64>,
    pub(super) written: Option<Written>,
    pub(super) texts: Texts,
}

impl Checked {
    /// Whether a machine would take it, as far as can be told here.
    pub fn good(&self) -> bool {
        self.faults.is_empty() && !matches!(self.signature, Signature::Broken(_))
    }

    /// The faults with the lines they speak of, secrets blotted out.
    pub fn render(&self, style: Style) -> String {
        self.texts.render(&self.faults, style)
    }
}

/// Checks profiles, those of a whole site at once. The order is that of `paths`.
///
/// # Errors
/// A file cannot be read; faults are in what comes back.
pub fn check(paths: &[PathBuf], against: &Against<'_>) -> Result<Vec<Checked>> {
    let threads = thread::available_parallelism().map_or(1, usize::from).min(paths.len()).max(1);
    let share = paths.len().div_ceil(threads).max(1);
    let shares: Vec<Result<Vec<Checked>>> = thread::scope(|scope| {
        let running: Vec<_> = paths
            .chunks(share)
            .map(|share| scope.spawn(move || share.iter().map(|path| one(path, against)).collect::<Result<Vec<_>>>()))
            .collect();
        running.into_iter().map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))).collect()
    });
    let mut all = Vec::with_capacity(paths.len());
    for share in shares {
        all.extend(share?);
    }
    together::check(&mut all);
    for checked in &mut all {
        checked.faults.sort_by(|a, b| (a.span.start, &a.message).cmp(&(b.span.start, &b.message)));
    }
    Ok(all)
}

fn one(path: &Path, against: &Against<'_>) -> Result<Checked> {
    let bytes = files::read(path)?;
    let name = path.display().to_string();
    let signature = signature(path, &bytes, against)?;
    let sha256 = Sha256Digest::of(&bytes);
    let (profile, opened) = whole(&name, &bytes, against.identity);
    // Read once more for the places of what other files and the image say of it.
    let (texts, reading) = Written::read(&name, &bytes, opened.as_ref());
    let (profile, faults) = match profile {
        Ok(profile) => (Some(profile), Vec::new()),
        Err(Wrong::Refused(faults)) => (None, faults),
        Err(Wrong::Closed(closed)) => {
            let place = reading.value.as_ref().and_then(|written| written.encrypted.as_ref()).map(Located::place);
            let fault = texts.fault(place.unwrap_or(Place::HOLE), format!("the encrypted part cannot be opened: {closed}"));
            (None, vec![fault.hint("give the key that it is for, or encrypt it again for the machine's")])
        }
    };
    let encrypted = match (&profile, &opened) {
        (_, Some(_)) => Encrypted::Checked,
        (Some(profile), None) if profile.encrypted.is_some() => Encrypted::NotChecked,
        _ => Encrypted::None,
    };
    let written = reading.value;
    let mut checked =
        Checked { path: path.to_owned(), faults, profile, signature, encrypted, sha256, least_disk: None, written, texts };
    if let Some(image) = against.image {
        fit::check(&mut checked, image);
    }
    Ok(checked)
}

/// Why there is no profile.
enum Wrong {
    Refused(Vec<Fault>),
    Closed(sealed::Closed),
}

/// The profile, with its encrypted part where there is a key for it; and the text of that part.
fn whole(name: &str, bytes: &[u8], identity: Option<&Identity>) -> (Result<Profile, Wrong>, Option<Secret>) {
    let wrong = |refused: Box<Refused>| Wrong::Refused(refused.faults().to_vec());
    let outer = match Profile::parse(name, bytes) {
        Ok(outer) => outer,
        Err(refused) => return (Err(wrong(refused)), None),
    };
    match (&outer.encrypted, identity) {
        (Some(armored), Some(identity)) => match sealed::open(armored, identity) {
            Ok(opened) => (Profile::parse_opened(name, bytes, &opened).map_err(wrong), Some(opened)),
            Err(closed) => (Err(Wrong::Closed(closed)), None),
        },
        _ => (Ok(outer), None),
    }
}

fn signature(path: &Path, bytes: &[u8], against: &Against<'_>) -> Result<Signature> {
    let Some(text) = files::read_if_there(&sign::beside(path))? else { return Ok(Signature::None) };
    let (signers, revoked) = match (against.image, against.believed) {
        (Some(image), _) => (&image.signers, &image.revoked),
        (None, Some(believed)) => (&believed.signers, &believed.revoked),
        (None, None) => return Ok(Signature::NotChecked),
    };
    let policy = Policy { signers, revoked, namespace: Namespace::Profile, at: against.at };
    Ok(match trust::verify(bytes, &String::from_utf8_lossy(&text), &policy) {
        Ok(verified) => Signature::Holds(verified.signer().fingerprint.clone()),
        Err(reason) => Signature::Broken(reason.to_string()),
    })
}
