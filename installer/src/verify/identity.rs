//! Which machine this is. A copy of a node that was made would join its cluster a second time under
//! the same name, so the node notes what the hypervisor says of it and compares at every boot.
//!
//! | what | where from | changes with |
//! |---|---|---|
//! | UUID of the machine | SMBIOS type 1 (`/sys/class/dmi/id/product_uuid`) | a copy, an import as a new machine |
//! | generation | VMGenID: QEMU's fw_cfg file `etc/vmgenid_guid` | a copy, a restored snapshot or backup |
//! | identifier by the host | Hyper-V pool 3, `VirtualMachineId` | a copy, an import as a new machine |
//!
//! Linux keeps the VMGenID of ACPI to itself (it only mixes it into its random numbers), so on
//! Hyper-V the host's identifier stands for it; a snapshot put back there is not noticed by it.
//! What a machine does not tell is not compared, and noted once it does.

use serde::{Deserialize, Serialize};

use super::Refusal;
use super::former::{note, rendered};
use crate::find::{self, Reader};

/// The note.
pub const IDENTITY: &str = "/state/ingot/identity.json";
/// The file of QEMU's vmgenid device, and where in it the identifier lies (QEMU, docs/specs/vmgenid).
const GENERATION: &str = "/sys/firmware/qemu_fw_cfg/by_name/etc/vmgenid_guid/raw";
const GENERATION_OFFSET: usize = 40;
const GENERATION_LIMIT: usize = 64 << 10;

/// What the hypervisor says of this machine.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Identity {
    /// UUID of the machine by its firmware.
    pub uuid: Option<String>,
    /// VMGenID, in hexadecimal digits as it lies in memory.
    pub generation: Option<String>,
    /// Identifier by a Hyper-V host.
    pub host: Option<String>,
}

impl Identity {
    /// Asks the machine.
    pub fn of(reader: &dyn Reader) -> Self {
        let generation = reader.read(GENERATION, GENERATION_LIMIT).ok().and_then(|bytes| {
            let id: [u8; 16] = bytes.get(GENERATION_OFFSET..)?.first_chunk().copied()?;
            // Not set by the hypervisor.
            (id != [0; 16]).then(|| id.iter().map(|byte| format!("{byte:02x}")).collect())
        });
        Self { uuid: find::product_uuid(reader), generation, host: find::hyperv_identifier(reader) }
    }

    /// Reads the note; `None` on a machine that was not made yet.
    ///
    /// # Errors
    /// [`Refusal::State`].
    pub fn noted(reader: &dyn Reader) -> Result<Option<Self>, Refusal> {
        note(reader, IDENTITY)
    }

    /// The text of the note.
    pub fn render(&self) -> String {
        rendered(self)
    }
}

/// Whether the machine is the one that was noted; what is to be noted from now on.
///
/// # Errors
/// [`Refusal::OtherMachine`].
pub fn check(noted: Option<Identity>, now: Identity) -> Result<Identity, Refusal> {
    let Some(noted) = noted else { return Ok(now) };
    let same = |what: &'static str, before: Option<String>, now: Option<String>| match (before, now) {
        (Some(before), Some(now)) if before != now => Err(Refusal::OtherMachine { what, before, now }),
        (before, now) => Ok(now.or(before)),
    };
    Ok(Identity {
        uuid: same("its UUID", noted.uuid, now.uuid)?,
        generation: same("its generation (VMGenID)", noted.generation, now.generation)?,
        host: same("its identifier on the host", noted.host, now.host)?,
    })
}
