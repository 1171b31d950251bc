//! What others join with, kept alive by the first control plane at each of its boots: the bootstrap token of the profile
//! (a cluster forgets it after a day) and the control plane's certificates (after two hours).

use std::time::Duration;

use profile::address::Endpoint;
use profile::secret::Secret;

use super::api::{self, Answer, As, Patience};
use super::kubeadm;
use crate::failure::Result;
use crate::machine::Machine;
use crate::steps::{Verdict, Work, World};

/// How long the API may take to answer; the node was Ready a moment ago.
const WAIT: Duration = Duration::from_secs(120);

const CERTIFICATES: &str = "/api/v1/namespaces/kube-system/secrets/kubeadm-certs";

/// The step `join-material`.
#[derive(Debug)]
pub struct Material {
    /// Where the API is.
    pub endpoint: Endpoint,
    /// Bootstrap token.
    pub token: Option<Secret>,
    /// Whether certificates are kept.
    pub certificates: bool,
    /// kubeadm's configuration, which has both.
    pub config: Secret,
}

impl Material {
    /// Phases that make what is not there, each with the object it makes.
    fn phases(&self) -> Vec<(String, &'static [&'static str])> {
        let id = self.token.as_ref().and_then(|token| token.expose().split('.').next().map(str::to_owned));
        let token = id.map(|id| format!("/api/v1/namespaces/kube-system/secrets/bootstrap-token-{id}"));
        let token = token.map(|path| (path, &["bootstrap-token", "--skip-token-print"][..]));
        let upload = &["upload-certs", "--upload-certs", "--skip-certificate-key-print"][..];
        token.into_iter().chain(self.certificates.then(|| (CERTIFICATES.to_owned(), upload))).collect()
    }
}

impl Work for Material {
    fn lines(&self) -> Vec<String> {
        let token = self.token.as_ref().map(|_| "the bootstrap token of the profile".to_owned());
        let certificates = self.certificates.then(|| "the control plane's certificates, for others that join".to_owned());
        token.into_iter().chain(certificates).collect()
    }

    fn input(&self) -> Vec<u8> {
        self.lines().join("\n").into_bytes()
    }

    fn check(&self, machine: &dyn Machine) -> Result<Verdict> {
        for (path, _) in self.phases() {
            let name = path.rsplit('/').next().unwrap_or_default();
            match api::get(machine, &self.endpoint, As::Admin, &path)? {
                Answer::Object(_) => {}
                Answer::Missing => return Ok(Verdict::Differs(format!("the cluster has no {name} any more"))),
                Answer::Silent(reason) => return Ok(Verdict::Differs(format!("the API cannot be asked for {name}: {reason}"))),
            }
        }
        Ok(Verdict::Holds)
    }

    fn apply(&self, world: World<'_>) -> Result<()> {
        let machine = world.machine;
        if !machine.live() {
            return Ok(());
        }
        for (path, phase) in self.phases() {
            let patience = Patience { step: "join-material", what: "the API", most: WAIT };
            patience.until(world, || {
                Ok(Some(match api::get(machine, &self.endpoint, As::Admin, &path)? {
                    Answer::Object(_) => return Ok(None),
                    Answer::Missing => {
                        kubeadm::phase(machine, &self.config, phase)?;
                        format!("{path} is not there yet")
                    }
                    Answer::Silent(reason) => reason,
                }))
            })?;
        }
        Ok(())
    }
}
