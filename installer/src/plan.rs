//! From a profile and facts to ordered steps. Pure: the same input gives the same steps.

use profile::Profile;

use crate::facts::{Facts, Image};
use crate::failure::{Failure, Result};
use crate::report::codes;
use crate::roles;
use crate::secrets::Secrets;
use crate::state::Partition;
use crate::steps::{Phase, Step, access, accounts, confirm, identity, kernel, network, outside, time};

/// What a plan is made from.
#[derive(Debug, Clone, Copy)]
pub struct Input<'a> {
    /// The profile, validated.
    pub profile: &'a Profile,
    /// What is kept of it for later boots.
    pub keep: &'a outside::Keep,
    /// This machine.
    pub facts: &'a Facts,
    /// Secrets the profile names.
    pub secrets: &'a Secrets,
}

/// The steps, in the order in which they are carried out.
///
/// # Errors
/// Profile and machine do not fit: [`codes::WRONG_ROLE`], [`codes::NO_SUCH_CARD`], [`codes::SECRET_MISSING`],
/// [`codes::NO_SUCH_ACCOUNT`].
pub fn plan(input: Input<'_>) -> Result<Vec<Step>> {
    let Input { profile, facts, secrets, keep } = input;
    fits(profile, &facts.image)?;
    let cards = network::cards(&profile.network, facts)?;
    let files = network::files(&profile.network, &cards);
    let further = outside::further(&profile.files, secrets, (&facts.accounts, &outside::users(profile)))?;
    let mut steps = vec![
        Step::local("state", Partition(profile.state.clone())),
        Step::local("machine-id", identity::MachineId { lasting: facts.product_uuid.is_some() }),
        Step::local("hostname", identity::Hostname::of(&profile.node)),
        Step::local("modules", kernel::Modules(profile.kernel.modules.clone())),
        Step::local("sysctls", kernel::Sysctls::of(&profile.kernel.sysctls)),
        Step::local("users", accounts::Users::of(&profile.access, secrets, &facts.accounts)?),
        Step::local("card-names", network::Names(cards)),
        Step::local("network", confirm::Rendered(files.clone())),
        Step::local("dns", outside::dns(&profile.network)),
        Step::local("time", time::servers(&profile.time.servers)),
        Step::local("registries", outside::registries(&profile.registries, secrets)?),
        Step::local("proxy", outside::proxy(profile, secrets)?),
        Step::local("files", further),
    ];
    if profile.access.ssh {
        steps.push(Step::local("ssh-host-keys", access::HostKeys));
    }
    steps.push(Step::local("ssh", access::sshd(&profile.access)));
    steps.push(Step::local("console", access::console(&profile.access, &facts.consoles)));
    steps.push(Step::network("gateway", confirm::Confirm::of(&profile.network, files)));
    steps.push(Step::network("clock", time::Clock { wait_secs: profile.time.wait_secs }));
    // Before the profile is kept as the good one.
    steps.extend(roles::steps(input)?);
    steps.push(Step::network("keep-profile", keep.files()));
    Ok(steps)
}

/// Whether the profile is for the role of the image.
pub(crate) fn fits(profile: &Profile, image: &Image) -> Result<()> {
    let wanted = profile.node.role.name();
    match image.role.as_deref() {
        Some(role) if role != wanted => {
            let id = image.id.as_deref().unwrap_or("this image");
            Err(Failure::new(&codes::WRONG_ROLE, format!("the profile is for a {wanted}, but {id} is made for a {role}")))
        }
        _ => Ok(()),
    }
}

/// The plan as text for people.
pub fn show(steps: &[Step]) -> String {
    let mut text = String::new();
    for step in steps {
        let network = if step.phase == Phase::Network { " (with the network)" } else { "" };
        let once = if matches!(step.task, crate::steps::Task::Irreversible(_)) { " (cannot be undone)" } else { "" };
        text += &format!("{}{network}{once}\n", step.name);
        step.task.work().lines().iter().for_each(|line| text += &format!("    {line}\n"));
    }
    text
}
