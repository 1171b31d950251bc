//! Who this machine is: its host name, and that it still is the machine its disk belongs to.

use profile::node::Node;

use super::files::{Files, Wanted};
use super::{Verdict, Work, World};
use crate::failure::{Failure, Result};
use crate::machine::{Attributes, Machine, read_text, replace};
use crate::report::codes;

const KERNEL: &str = "/proc/sys/kernel/hostname";

/// The host name: `/etc/hostname`, `/etc/hosts`, and the kernel's.
#[derive(Debug)]
pub struct Hostname {
    name: String,
    files: Files,
}

impl Hostname {
    /// That of the profile.
    pub fn of(node: &Node) -> Self {
        let names = node.domain.as_ref().map_or_else(|| node.name.clone(), |domain| format!("{0}.{domain} {0}", node.name));
        let hosts = format!("127.0.0.1 localhost\n127.0.1.1 {names}\n::1 localhost ip6-localhost ip6-loopback\n");
        let files = vec![Wanted::public("/etc/hostname", format!("{}\n", node.name)), Wanted::public("/etc/hosts", hosts)];
        Self { name: node.name.clone(), files: Files::of(files) }
    }
}

impl Work for Hostname {
    fn lines(&self) -> Vec<String> {
        let mut lines = vec![format!("host name {}", self.name)];
        lines.extend(self.files.lines());
        lines
    }

    fn input(&self) -> Vec<u8> {
        self.files.input()
    }

    fn check(&self, machine: &dyn Machine) -> Result<Verdict> {
        let now = read_text(machine, KERNEL)?;
        match now.as_deref().map(str::trim) {
            Some(now) if now != self.name && machine.live() => {
                Ok(Verdict::Differs(format!("the host name is `{now}`, not `{}`", self.name)))
            }
            _ => self.files.check(machine),
        }
    }

    fn apply(&self, world: World<'_>) -> Result<()> {
        self.files.apply(world)?;
        if world.machine.live() {
            let written = world.machine.write_kernel(KERNEL, self.name.as_bytes());
            written.map_err(|e| Failure::io("writing", KERNEL, &e))?;
        }
        Ok(())
    }
}

const MACHINE_ID: &str = "/etc/machine-id";

/// The machine-id this disk was first used with.
const RECORD: &str = "/state/ingot/machine-id";

/// That the state partition belongs to this machine.
#[derive(Debug)]
pub struct MachineId {
    /// Whether the firmware gives the machine an identity; without it the machine-id is a new one at every boot.
    pub lasting: bool,
}

fn id(machine: &dyn Machine) -> Result<String> {
    let text = read_text(machine, MACHINE_ID)?.unwrap_or_default();
    let id = text.trim();
    if id.len() == 32 && id.bytes().all(|c| matches!(c, b'0'..=b'9' | b'a'..=b'f')) && id.bytes().any(|c| c != b'0') {
        return Ok(id.to_owned());
    }
    let found: String = id.chars().take(40).flat_map(char::escape_debug).collect();
    Err(Failure::new(&codes::NO_IDENTITY, format!("{MACHINE_ID}: expected 32 hexadecimal digits, found `{found}`")))
}

impl Work for MachineId {
    fn lines(&self) -> Vec<String> {
        vec![format!("{MACHINE_ID} is the one recorded in {RECORD}")]
    }

    fn input(&self) -> Vec<u8> {
        vec![u8::from(self.lasting)]
    }

    fn check(&self, machine: &dyn Machine) -> Result<Verdict> {
        let id = id(machine)?;
        let record = read_text(machine, RECORD)?.map(|text| text.trim().to_owned()).filter(|text| !text.is_empty());
        match record {
            None => Ok(Verdict::Differs("the machine is not recorded on its state partition yet".to_owned())),
            Some(record) if record == id || !self.lasting => Ok(Verdict::Holds),
            Some(record) => {
                let message = format!("the state partition was made by the machine {record}, but this is {id}");
                Err(Failure::new(&codes::OTHER_MACHINE, message))
            }
        }
    }

    fn apply(&self, world: World<'_>) -> Result<()> {
        let id = id(world.machine)?;
        world
            .machine
            .make_folder("/state/ingot", Attributes::root(0o700))
            .map_err(|e| Failure::io("making", "/state/ingot", &e))?;
        replace(world.machine, RECORD, format!("{id}\n").as_bytes(), Attributes::root(0o600))
    }

    fn keeps_only(&self) -> bool {
        true
    }
}
