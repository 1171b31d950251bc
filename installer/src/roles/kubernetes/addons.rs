//! Manifests that are applied once the API is up: the rights of load balancers, registrars and managers, those of the image, those of the profile
//! (files of `[[file]]` below [`OWN`]). The first control plane does it, whenever one of them changed.

use std::time::Duration;

use profile::secret::Secret;
use trust::Sha256Digest;

use super::api::ADMIN;
use crate::failure::{Failure, Result};
use crate::machine::{Attributes, Command, Machine, read_text, replace, run};
use crate::report::codes;
use crate::steps::{Verdict, Work, World};

/// Those of the image.
const IMAGE: &str = "/usr/share/ingot/addons";
/// Those of the profile.
pub const OWN: &str = "/etc/add-ons";
/// Digest of what was applied last.
pub const DONE: &str = "/etc/kubernetes/ingot-addons";

/// An API that has just started refuses now and then.
const WAIT: Duration = Duration::from_secs(180);

/// The step `add-ons`.
#[derive(Debug)]
pub struct AddOns {
    /// Manifests made here.
    pub built_in: String,
}

impl AddOns {
    /// All of them as one text, in the order of their names.
    fn text(&self, machine: &dyn Machine) -> Result<String> {
        let mut text = self.built_in.clone();
        for folder in [IMAGE, OWN] {
            let mut names = machine.list(folder).map_err(|e| Failure::io("reading", folder, &e))?;
            names.retain(|name| [".yaml", ".yml", ".json"].iter().any(|end| name.ends_with(end)));
            names.sort();
            for name in names {
                let manifest = read_text(machine, &format!("{folder}/{name}"))?.unwrap_or_default();
                text += &format!("---\n# {folder}/{name}\n{}\n", manifest.trim_end());
            }
        }
        Ok(text)
    }
}

fn digest(text: &str) -> String {
    format!("{}\n", Sha256Digest::of(text.as_bytes()))
}

impl Work for AddOns {
    fn lines(&self) -> Vec<String> {
        let rights = (!self.built_in.is_empty()).then(|| "rights of load balancers, registrars and managers".to_owned());
        rights.into_iter().chain([format!("manifests of {IMAGE} and {OWN}")]).collect()
    }

    fn input(&self) -> Vec<u8> {
        self.built_in.clone().into_bytes()
    }

    fn check(&self, machine: &dyn Machine) -> Result<Verdict> {
        let text = self.text(machine)?;
        let done = text.is_empty() || read_text(machine, DONE)?.is_some_and(|done| done == digest(&text));
        Ok(if done { Verdict::Holds } else { Verdict::Differs("manifests are new or changed".to_owned()) })
    }

    fn apply(&self, world: World<'_>) -> Result<()> {
        let machine = world.machine;
        let text = self.text(machine)?;
        if !machine.live() || text.is_empty() {
            return Ok(());
        }
        let end = machine.uptime().saturating_add(WAIT);
        let kubeconfig = format!("--kubeconfig={ADMIN}");
        let mut command =
            Command::new("/usr/bin/kubectl", &[&kubeconfig, "apply", "--filename=-"]).within(Duration::from_secs(120));
        command.input = Some(Secret::new(text.clone()));
        while let Err(failure) = run(machine, &command) {
            if failure.code() != &codes::PROGRAM_FAILED {
                return Err(failure);
            }
            if machine.uptime() >= end {
                return Err(Failure::new(&codes::ADDON_REFUSED, failure.to_string()));
            }
            world.report.waiting("add-ons", "the API to take all manifests", WAIT);
            machine.sleep(Duration::from_secs(3));
        }
        replace(machine, DONE, digest(&text).as_bytes(), Attributes::root(0o600))
    }
}
