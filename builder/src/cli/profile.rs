//! `ingot profile`

use std::path::{Path, PathBuf};

use profile::document::Style as Faults;
use profile::sealed::{Identity, Recipient};
use profile::secret::Secret;
use serde::Serialize;
use trust::{AllowedSigners, RevokedKeys, Sha256Digest};

use crate::cli::arguments::{Profile as Typed, ProfileVerb};
use crate::cli::output;
use crate::cli::reporter::Reporter;
use crate::cli::settings::Settings;
use crate::error::{Error, Kind, Result};
use crate::files;
use crate::keys::SigningKey;
use crate::profile::check::{Against, Believed};
use crate::profile::sign::{self, Signing};
use crate::profile::{Checked, Encrypted, ImageFacts, Signature, check, encrypt};
use crate::progress::Progress;

pub(super) fn run(settings: &Settings, typed: &Typed, reporter: &Reporter) -> Result<()> {
    let unwritten = |e: serde_json::Error| Error::new(Kind::Failed, format!("writing the schema: {e}"));
    match &typed.verb {
        ProfileVerb::Sign { files, keys, key, agent } => {
            sign_all(settings, files, Chosen { folder: keys.as_ref(), key: key.as_deref(), agent: *agent }, reporter)
        }
        ProfileVerb::Check { files, image, keys, identity } => {
            let identity = identity.as_deref().map(read_identity).transpose()?;
            let image = image.as_deref().map(ImageFacts::read).transpose()?;
            let believed = if image.is_some() { None } else { believed(settings, keys.as_ref())? };
            let at = settings.environment.now.0;
            check_all(
                settings,
                files,
                &Against { image: image.as_ref(), believed: believed.as_ref(), identity: identity.as_ref(), at },
                reporter,
            )
        }
        ProfileVerb::Encrypt { part, to, into } => encrypted(part, to, into.as_deref(), reporter),
        ProfileVerb::Schema => output::text(&profile::schema::text().map_err(unwritten)?),
        ProfileVerb::Page => output::text(&profile::schema::page::page().map_err(unwritten)?),
    }
}

/// The key that was asked for.
struct Chosen<'a> {
    folder: Option<&'a PathBuf>,
    key: Option<&'a Path>,
    agent: bool,
}

fn sign_all(settings: &Settings, paths: &[PathBuf], chosen: Chosen<'_>, reporter: &Reporter) -> Result<()> {
    let (key, allowed) = match chosen.key {
        None => {
            let keys = settings.keys(chosen.folder, chosen.agent, reporter)?;
            (keys.release, Some(keys.allowed_signers))
        }
        Some(path) => {
            let key = SigningKey::open(path, settings.environment.agent.as_deref())?;
            let folder = settings.keys_folder(chosen.folder);
            let allowed = files::read_if_there(&folder.join("allowed_signers"))?;
            (key, allowed.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()))
        }
    };
    let signing = Signing { key: &key, allowed: allowed.as_deref(), at: settings.environment.now.0 };
    let made = paths.iter().map(|path| sign::sign(path, &signing)).collect::<Result<Vec<_>>>()?;
    if settings.json {
        return output::json(&serde_json::json!({ "schema": 1, "signatures": made }));
    }
    made.iter().for_each(|path| reporter.note(&format!("signed: {}", path.display())));
    Ok(())
}

fn believed(settings: &Settings, keys: Option<&PathBuf>) -> Result<Option<Believed>> {
    let folder = settings.keys_folder(keys);
    let path = folder.join("allowed_signers");
    let Some(bytes) = files::read_if_there(&path)? else {
        return match keys {
            None => Ok(None),
            Some(folder) => Err(Error::new(Kind::Missing, format!("there is no allowed_signers in {}", folder.display()))),
        };
    };
    let wrong = |path: &Path, e: &dyn std::fmt::Display| Error::new(Kind::Document, format!("{}: {e}", path.display()));
    let signers = AllowedSigners::parse(&String::from_utf8_lossy(&bytes)).map_err(|e| wrong(&path, &e))?;
    let path = folder.join("revoked_keys");
    let revoked = files::read_if_there(&path)?.unwrap_or_default();
    let revoked = RevokedKeys::parse(&String::from_utf8_lossy(&revoked)).map_err(|e| wrong(&path, &e))?;
    Ok(Some(Believed { signers, revoked, from: folder.display().to_string() }))
}

fn read_identity(path: &Path) -> Result<Identity> {
    let text = Secret::new(files::read_text(path)?);
    text.expose().parse().map_err(|e| Error::new(Kind::Document, format!("{}: {e}", path.display())))
}

fn encrypted(part: &Path, to: &[String], into: Option<&Path>, reporter: &Reporter) -> Result<()> {
    let recipient = |text: &String| text.parse::<Recipient>().map_err(|e| Error::new(Kind::Usage, format!("`{text}`: {e}")));
    let recipients = to.iter().map(recipient).collect::<Result<Vec<_>>>()?;
    let text = Secret::new(files::read_text(part)?);
    match into {
        None => output::text(&encrypt::seal(&text, &recipients)?),
        Some(path) => {
            encrypt::into(path, &text, &recipients)?;
            reporter.note(&format!(
                "encrypted into {}; sign it (again): {} is not needed there any more",
                path.display(),
                part.display()
            ));
            Ok(())
        }
    }
}

fn check_all(settings: &Settings, paths: &[PathBuf], against: &Against<'_>, reporter: &Reporter) -> Result<()> {
    let all = check(paths, against)?;
    if settings.json {
        let shown: Vec<Shown> = all.iter().map(Shown::of).collect();
        output::json(&serde_json::json!({ "schema": 1, "profiles": shown }))?;
    } else {
        for checked in all.iter().filter(|checked| checked.good()) {
            reporter.note(&line(checked, against.image));
        }
    }
    verdict(&all, settings.json)
}

/// One line about a good profile.
fn line(checked: &Checked, image: Option<&ImageFacts>) -> String {
    let profile = checked.profile.as_ref();
    let what = profile.map_or_else(String::new, |profile| {
        format!("{} {}, serial {}", profile.node.role.name(), profile.node.name, profile.serial)
    });
    let signed = match &checked.signature {
        Signature::Holds(by) => format!("signed by {by}"),
        Signature::NotChecked => "signed, but there are no keys to check that with".to_owned(),
        _ if image.is_some_and(|image| !image.takes_unsigned) => {
            "not signed, and the image takes signed profiles only".to_owned()
        }
        _ => "not signed".to_owned(),
    };
    let disk = checked.least_disk.map(|bytes| format!(", disk from {} MiB", bytes.div_ceil(1 << 20))).unwrap_or_default();
    let encrypted = match checked.encrypted {
        Encrypted::None => "",
        Encrypted::Checked => ", with its encrypted part",
        Encrypted::NotChecked => "; its encrypted part was not checked, nor what that must complete: give --identity",
    };
    format!("good: {}: {what}, {signed}{disk}{encrypted}", checked.path.display())
}

fn verdict(all: &[Checked], json: bool) -> Result<()> {
    let bad: Vec<&Checked> = all.iter().filter(|checked| !checked.good()).collect();
    if bad.is_empty() {
        return Ok(());
    }
    let faults: usize = bad.iter().map(|checked| checked.faults.len()).sum();
    let mut told: Vec<String> = Vec::new();
    for checked in &bad {
        if !checked.faults.is_empty() {
            told.push(checked.render(Faults::Plain));
        }
        if let Signature::Broken(reason) = &checked.signature {
            told.push(format!("{}: {reason}", sign::beside(&checked.path).display()));
        }
    }
    // A document comes before its signature: once it is right, it has to be signed again anyway.
    let (kind, what) = match faults {
        0 => (Kind::Untrusted, "a signature that does not hold".to_owned()),
        1 => (Kind::Document, "a fault".to_owned()),
        _ => (Kind::Document, format!("{faults} faults")),
    };
    let who = match bad.as_slice() {
        [one] => format!("{} has", one.path.display()),
        _ => format!("{} of {} profiles have", bad.len(), all.len()),
    };
    let error = Error::new(kind, format!("{who} {what}"));
    Err(if json { error } else { error.details(told.join("\n\n")) })
}

/// A profile in JSON.
#[derive(Serialize)]
struct Shown<'a> {
    file: &'a Path,
    good: bool,
    name: Option<&'a str>,
    role: Option<&'static str>,
    serial: Option<u64>,
    sha256: Sha256Digest,
    signature: &'a Signature,
    encrypted: Encrypted,
    least_disk: Option<u64>,
    faults: Vec<ShownFault<'a>>,
}

#[derive(Serialize)]
struct ShownFault<'a> {
    line: usize,
    column: usize,
    message: &'a str,
    hint: Option<&'a str>,
}

impl<'a> Shown<'a> {
    fn of(checked: &'a Checked) -> Self {
        let profile = checked.profile.as_ref();
        let fault = |fault: &'a profile::document::Fault| ShownFault {
            line: fault.line,
            column: fault.column,
            message: &fault.message,
            hint: fault.hint.as_deref(),
        };
        Self {
            file: &checked.path,
            good: checked.good(),
            name: profile.map(|profile| profile.node.name.as_str()),
            role: profile.map(|profile| profile.node.role.name()),
            serial: profile.map(|profile| profile.serial),
            sha256: checked.sha256,
            signature: &checked.signature,
            encrypted: checked.encrypted,
            least_disk: checked.least_disk,
            faults: checked.faults.iter().map(fault).collect(),
        }
    }
}
