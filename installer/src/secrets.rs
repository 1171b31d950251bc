//! The secrets of a profile: those that stand in it, and those it names as systemd credentials.

use std::collections::BTreeMap;

use profile::Profile;
use profile::files::Content;
use profile::secret::{Secret, SecretSource};

use crate::failure::{Failure, Result};
use crate::machine::Machine;
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
    Failure::new(&codes::SECRET_MISSING, format!("there is no credential `{name}` in {}", FOLDERS.join(" or ")))
}

/// Reads the credentials that the profile names, where the steps here need them.
///
/// # Errors
/// [`codes::SECRET_MISSING`].
pub fn secrets(machine: &dyn Machine, profile: &Profile) -> Result<Secrets> {
    let mut secrets = Secrets::default();
    for source in named(profile) {
        let SecretSource::Credential(name) = source else { continue };
        let mut text = None;
        for folder in FOLDERS {
            let path = format!("{folder}/{name}");
            if text.is_none() {
                text = machine.read(&path).map_err(|e| Failure::io("reading", &path, &e))?;
            }
        }
        let text = String::from_utf8(text.ok_or_else(|| missing(name))?)
            .map_err(|_| Failure::new(&codes::SECRET_MISSING, format!("the credential `{name}` is no text")))?;
        // Editors end a file with a line end; no password has one. Files keep theirs.
        secrets.0.insert(name.clone(), Secret::new(text.strip_suffix('\n').unwrap_or(&text).to_owned()));
    }
    Ok(secrets)
}

/// Those of the credentials that the profile names which are there: for who only looks or tells.
pub(crate) fn present(machine: &dyn Machine, profile: &Profile) -> Secrets {
    let mut secrets = Secrets::default();
    for source in named(profile) {
        let SecretSource::Credential(name) = source else { continue };
        let text = FOLDERS.iter().find_map(|folder| machine.read(&format!("{folder}/{name}")).ok().flatten());
        if let Some(text) = text.and_then(|bytes| String::from_utf8(bytes).ok()) {
            secrets.0.insert(name.clone(), Secret::new(text.strip_suffix('\n').unwrap_or(&text).to_owned()));
        }
    }
    secrets
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
    let join = profile.cluster.iter().filter_map(|cluster| cluster.join.as_ref());
    let join = join.flat_map(|join| [&join.token, &join.certificate_key, &join.ca_key]);
    hashes.chain(cluster.chain(join).flatten()).chain(vrrp).chain(registries).chain(proxy).chain(files).chain(report).collect()
}
