//! The step `state`: that the state partition is one, and as the profile says.

use profile::machine::{Encryption, State};

use super::{disk, make, volatile};
use crate::failure::{Failure, Result};
use crate::machine::{Command, Machine, run};
use crate::report::codes;
use crate::steps::{Verdict, Work, World};

/// The state partition of a profile.
#[derive(Debug)]
pub struct Partition(pub State);

impl Partition {
    fn encrypted(&self) -> bool {
        self.0.encryption == Encryption::Tpm2
    }
}

impl Work for Partition {
    fn lines(&self) -> Vec<String> {
        make::definition(&self.0).lines().skip(2).map(str::to_owned).collect()
    }

    fn input(&self) -> Vec<u8> {
        // What it was made with is decided once: only what `check` looks at counts.
        vec![u8::from(self.encrypted())]
    }

    fn check(&self, machine: &dyn Machine) -> Result<Verdict> {
        if let Some(failure) = volatile(machine)? {
            return Ok(Verdict::Differs(format!("/state is in memory only: {failure}")));
        }
        // A folder that stands for a machine, or a container, has no disk to look at.
        let Ok(disk) = disk::find(machine) else { return Ok(Verdict::Holds) };
        match disk::encrypted(machine, &disk)? {
            Some(found) if found != self.encrypted() => {
                let is = |encrypted| if encrypted { "encrypted" } else { "not encrypted" };
                let message = format!(
                    "the state partition of this machine is {}, the profile wants it {}",
                    is(found),
                    is(self.encrypted())
                );
                Err(Failure::new(&codes::STATE_OTHER, message))
            }
            _ => Ok(Verdict::Holds),
        }
    }

    /// Makes it, and starts the machine again: /var and the journal lie in memory until then.
    fn apply(&self, world: World<'_>) -> Result<()> {
        let machine = world.machine;
        let disk = disk::find(machine)?;
        if disk.state.is_some() {
            // It was there and could not be opened: why is known.
            return Err(volatile(machine)?.unwrap_or_else(|| Failure::new(&codes::STATE_DAMAGED, "it could not be opened")));
        }
        make::make(world, &disk, &self.0)?;
        run(machine, &Command::new("/usr/bin/systemctl", &["reboot", "--no-block"]))?;
        Err(Failure::new(&codes::STARTING_AGAIN, "the state partition was made after the start"))
    }
}
