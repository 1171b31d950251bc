//! Who is told, by the profile.

use profile::Profile;
use profile::access::Console;
use profile::secret::Secret;

use super::events::Sender;
use crate::blot::Blot;
use crate::diagnose;
use crate::facts::Facts;
use crate::find::https::{ROOTS, SYSTEM_ROOTS};
use crate::machine::net::{Ask, Whom};
use crate::machine::reader::Local;
use crate::machine::{Machine, read_text};
use crate::{secrets, verify};

/// Who is told. Before there is a profile: the consoles and the host.
#[derive(Debug, Clone)]
pub struct Targets {
    /// The host, by key-value pairs of Hyper-V.
    pub hyper_v: bool,
    /// Screens.
    pub screens: bool,
    /// Serial consoles.
    pub serial: bool,
    /// Where events are posted.
    pub post: Option<Ask>,
    /// Who sends them.
    pub sender: Sender,
    /// Hides the profile's secrets.
    pub blot: Blot,
}

impl Default for Targets {
    fn default() -> Self {
        Self { hyper_v: true, screens: true, serial: true, post: None, sender: Sender::default(), blot: Blot::default() }
    }
}

impl Targets {
    /// Those of a profile, in which these secrets stand.
    pub fn of(machine: &dyn Machine, profile: &Profile, facts: &Facts, inline: &[Secret]) -> Self {
        let found = secrets::present(machine, profile);
        let mut known = inline.to_vec();
        known.extend(secrets::named(profile).into_iter().filter_map(|source| found.get(source).ok().cloned()));
        let report = &profile.report;
        let post = report.url.as_ref().map(|url| {
            let file = |path: &str| read_text(machine, path).ok().flatten();
            let roots = report.ca.clone().or_else(|| file(ROOTS)).or_else(|| file(SYSTEM_ROOTS)).unwrap_or_default();
            let at = verify::Time::of(&Local(machine)).map_or_else(|_| machine.now(), verify::Time::not_before);
            let token = report.token.as_ref().and_then(|token| found.get(token).ok());
            let authorization = token.map(|token| Secret::new(format!("Bearer {}", token.expose())));
            let ask = Ask::get(url.as_str(), Whom::Roots(roots.into_bytes()), at);
            Ask { authorization, via: diagnose::via(profile, &found), ..ask }
        });
        let sender = Sender {
            name: profile.node.name.clone(),
            uuid: facts.product_uuid.clone(),
            image: facts.image.id.clone(),
            version: facts.image.version.clone(),
        };
        let speaks = profile.access.console != Console::Off;
        let serial = speaks && report.serial;
        Self { hyper_v: report.hyper_v, screens: speaks, serial, post, sender, blot: Blot::of(&known) }
    }
}
