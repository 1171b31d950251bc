//! What a machine becomes: the steps of each role.

pub mod kubernetes;
pub mod load_balancer;

use profile::Profile;
use profile::node::Role;

use crate::facts::Facts;
use crate::failure::Result;
use crate::plan::Input;
use crate::secrets::Secrets;
use crate::steps::Step;

/// The steps of the profile's role: its local ones come before the network, the others after the gateway and
/// the clock, and all of them before the profile is kept as the good one.
///
/// # Errors
/// Profile and machine do not fit.
pub fn steps(input: Input<'_>) -> Result<Vec<Step>> {
    match input.profile.node.role {
        Role::LoadBalancer => load_balancer::steps(input),
        Role::ControlPlane | Role::LinuxWorker => kubernetes::steps(input),
        Role::WindowsWorker => Ok(Vec::new()),
    }
}

/// The steps that are carried out again and again once the machine is made.
///
/// # Errors
/// Profile and machine do not fit.
pub fn upkeep(profile: &Profile, facts: &Facts, secrets: &Secrets) -> Result<Vec<Step>> {
    match profile.node.role {
        Role::ControlPlane => kubernetes::upkeep(profile, facts, secrets),
        Role::LoadBalancer | Role::LinuxWorker | Role::WindowsWorker => Ok(Vec::new()),
    }
}
