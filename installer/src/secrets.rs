//! The secrets of a profile: those that stand in it, and those it names as systemd credentials.

use std::collections::BTreeMap;

use profile::Profile;
use profile::files::Content;
use profile::sealed::{self, Closed, Identity};
use profile::secret::{Secret, SecretSource};

use crate::failure::{Failure, Result};
use crate::find;
use crate::machine::Machine;
use crate::machine::reader::Local;
use crate::report::codes;

/// Where the service manager puts credentials: those of the unit, then those of the system.
pub(crate) const FOLDERS: [&str; 2] = ["/run/credentials/ingot-installer.service", "/run/credentials/@system"];

/// Credentials by name.
#[derive(Debug, Default)]
pub struct Secrets(BTreeMap<String, Secret>);

impl Secrets {
    /// The text of a secret.
    ///
    /// # Errors
    /// [`codes::SECRET_MISSING`].
    pub fn get<'s>(&'s self, source: &'s SecretSource) -> Result<&'s Secret> {
        match source {
            SecretSource::Inline(secret) => Ok(secret),
            SecretSource::Credential(name) => self.0.get(name).ok_or_else(|| missing(name)),
        }
    }
}

fn missing(name: &str) -> Failure {
    let places = format!("{}, SMBIOS type 11, fw_cfg, or credentials/{name} on a disk labelled INGOT", FOLDERS.join(", "));
    Failure::new(&codes::SECRET_MISSING, format!("there is no credential `{name}` in {places}"))
}

/// Longest credential that is read, in bytes.
const LONGEST: usize = 1 << 20;

/// A credential, where this machine was given it. Nothing of what it holds is ever told.
///
/// # Errors
/// It is there, but cannot be used.
fn credential(machine: &dyn Machine, name: &str) -> Result<Option<Secret>> {
    let mut folders = FOLDERS.map(str::to_owned).to_vec();
    folders.extend(machine.credentials().filter(|folder| !FOLDERS.contains(&folder.as_str())));
    let wrong = |reason: &str| Failure::new(&codes::SECRET_MISSING, format!("the credential `{name}`: {reason}"));
    let bytes = find::named(&Local(machine), &folders, name, LONGEST).map_err(|reason| wrong(&reason))?;
    let text = bytes.map(String::from_utf8).transpose().map_err(|error| {
        drop(zeroize::Zeroizing::new(error.into_bytes()));
        wrong("it is no text")
    })?;
    // Editors end a file with a line end; no password has one.
    Ok(text.map(|text| Secret::new(text.strip_suffix('\n').unwrap_or(&text).to_owned())))
}

/// Reads the credentials that the profile names, where the steps here need them.
///
/// # Errors
/// [`codes::SECRET_MISSING`].
pub fn secrets(machine: &dyn Machine, profile: &Profile) -> Result<Secrets> {
    let mut secrets = Secrets::default();
    for source in named(profile) {
        let SecretSource::Credential(name) = source else { continue };
        let secret = credential(machine, name)?.ok_or_else(|| missing(name))?;
        secrets.0.insert(name.clone(), secret);
    }
    Ok(secrets)
}

/// Those of the credentials that the profile names which are there: for who only looks or tells.
pub(crate) fn present(machine: &dyn Machine, profile: &Profile) -> Secrets {
    let mut secrets = Secrets::default();
    for source in named(profile) {
        let SecretSource::Credential(name) = source else { continue };
        if let Ok(Some(secret)) = credential(machine, name) {
            secrets.0.insert(name.clone(), secret);
        }
    }
    secrets
}

/// The keys of this machine, as they are written.
pub(crate) fn keys(machine: &dyn Machine) -> Option<Secret> {
    credential(machine, sealed::CREDENTIAL).ok().flatten()
}

/// Opens the encrypted part of a profile with the keys of this machine.
///
/// # Errors
/// [`codes::SECRET_MISSING`], [`codes::SEALED`].
pub(crate) fn open(machine: &dyn Machine, armored: &str) -> Result<Secret> {
    const PART: &str = "the encrypted part of the profile";
    let name = sealed::CREDENTIAL;
    let keys = credential(machine, name)?.ok_or_else(|| missing(name).context(PART))?;
    let keys: Identity = keys
        .expose()
        .parse()
        .map_err(|error| Failure::new(&codes::SECRET_MISSING, format!("the credential `{name}`: {error}")).context(PART))?;
    sealed::open(armored, &keys).map_err(|closed| {
        let own = keys.recipients().iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        let whose = if closed == Closed::OtherKeys { format!(" than this machine's, {own}") } else { String::new() };
        Failure::new(&codes::SEALED, format!("{closed}{whose}")).context(PART)
    })
}

/// Every secret of a profile that a step or a report needs.
pub(crate) fn named(profile: &Profile) -> Vec<&SecretSource> {
    let hashes = profile.access.users.iter().filter_map(|user| user.password_hash.as_ref());
    let registries = profile.registries.iter().filter_map(|registry| registry.login.as_ref()).map(|(_, secret)| secret);
    let proxy = profile.proxy.iter().filter_map(|proxy| proxy.login.as_ref()).map(|(_, secret)| secret);
    let files = profile.files.iter().filter_map(|file| match &file.content {
        Content::Secret(secret) => Some(secret),
        Content::Text(_) => None,
    });
    let vrrp = profile.load_balancer.iter().filter_map(|balancer| balancer.vrrp.as_ref()?.password.as_ref());
    let report = profile.report.token.iter();
    let cluster = profile.cluster.iter().flat_map(|cluster| [&cluster.encryption_key, &cluster.load_balancer_token]);
    let registers = profile.cluster.iter().flat_map(|cluster| {
        let registrar = cluster.registrar.iter().map(|registrar| &registrar.token);
        cluster.management.iter().map(|management| &management.token).chain(registrar)
    });
    let join = profile.cluster.iter().filter_map(|cluster| cluster.join.as_ref());
    let join = join.flat_map(|join| [&join.token, &join.certificate_key, &join.ca_key]);
    let cluster = cluster.chain(join).flatten().chain(registers);
    hashes.chain(cluster).chain(vrrp).chain(registries).chain(proxy).chain(files).chain(report).collect()
}
