//! edk2's variable store with authenticated variables, as OVMF keeps it in its second flash device.
//!
//! Layout: PI specification 1.8, volume 3, section 3.2.1 (firmware volume header); edk2
//! `MdeModulePkg/Include/Guid/VariableFormat.h` and `SystemNvDataGuid.h` (store, variables, working block).

use uuid::{Uuid, uuid};

use crate::boot::variables::utf16;
use crate::error::{Error, Kind, Result};

/// `gEfiSystemNvDataFvGuid`.
const VOLUME: Uuid = uuid!("fff12b8d-7696-4c8b-a985-2747075b4f50");
/// `gEfiAuthenticatedVariableGuid`.
const STORE: Uuid = uuid!("aaf32c78-947b-439a-a180-2e144ec37792");
/// `gEdkiiWorkingBlockSignatureGuid`.
const WORKING_BLOCK: Uuid = uuid!("9e58292b-7c68-497d-a0ce-6500fd9f1b95");
/// `gEfiSecureBootEnableDisableGuid`.
const SECURE_BOOT_ENABLE: Uuid = uuid!("f0a30bc7-af08-4556-99c4-001009c93a44");

/// Flash blocks in bytes.
const BLOCK: u32 = 0x1000;
/// Firmware volume header with a block map of one entry and its end.
const VOLUME_HEADER: usize = 0x48;
/// `EFI_FVB_ATTRIBUTES_2` as OVMF's build sets them: readable, writable, sticky, erased to ones, aligned to 16.
const VOLUME_ATTRIBUTES: u32 = 0x0004_feff;
/// `VARIABLE_STORE_HEADER`: GUID, size, format, state, two reserved fields.
const STORE_HEADER: usize = 28;
/// `VARIABLE_STORE_FORMATTED` and `VARIABLE_STORE_HEALTHY`.
const FORMATTED_AND_HEALTHY: [u8; 2] = [0x5a, 0xfe];
/// `VARIABLE_DATA`, `VAR_ADDED`, reserved.
const VARIABLE_START: [u8; 4] = [0xaa, 0x55, 0x3f, 0x00];
/// `AUTHENTICATED_VARIABLE_HEADER`.
const VARIABLE_HEADER: usize = 60;
/// Each variable starts at a multiple of this.
const VARIABLE_ALIGNMENT: usize = 4;
/// Header of the fault-tolerant working block.
const WORKING_HEADER: usize = 32;
/// NON_VOLATILE and BOOTSERVICE_ACCESS.
const BOOT_SERVICES: u32 = 0x3;

/// Makes the firmware check signatures once PK is set.
pub const SECURE_BOOT_ON: Entry<'static> =
    Entry { name: "SecureBootEnable", vendor: SECURE_BOOT_ENABLE, attributes: BOOT_SERVICES, data: &[1] };

/// One variable.
#[derive(Debug, Clone, Copy)]
pub struct Entry<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its vendor GUID.
    pub vendor: Uuid,
    /// `EFI_VARIABLE_*`.
    pub attributes: u32,
    /// Its value.
    pub data: &'a [u8],
}

/// Bytes for variables in a store of `size` bytes: OVMF's builds of 4 MiB and of 2 MiB. The rest is an event
/// log (a block, unused), the working block and the spare area.
fn variables_size(size: u64) -> Option<usize> {
    match size {
        0x8_4000 => Some(0x4_0000),
        0x2_0000 => Some(0xe000),
        _ => None,
    }
}

/// Whether OVMF has a build with a store of `size` bytes.
pub fn is_size(size: u64) -> bool {
    variables_size(size).is_some()
}

/// A store of `size` bytes with these variables, in this order.
///
/// # Errors
/// [`Kind::Failed`] where they do not fit, or no OVMF has a store of this size.
pub fn write(size: u64, variables: &[Entry<'_>]) -> Result<Vec<u8>> {
    let failed = |text: String| Error::new(Kind::Failed, text);
    let room = variables_size(size).ok_or_else(|| failed(format!("no OVMF has a variable store of {size:#x} bytes")))?;
    let whole = u32::try_from(size).map_err(|_| failed(format!("a variable store of {size:#x} bytes is too big")))?;
    let mut store = volume_header(whole);
    let store_size = (room - VOLUME_HEADER) as u32;
    store.extend(STORE.to_bytes_le());
    store.extend(store_size.to_le_bytes());
    store.extend(FORMATTED_AND_HEALTHY);
    store.extend([0; 6]);
    debug_assert_eq!(store.len(), VOLUME_HEADER + STORE_HEADER);
    for variable in variables {
        append(&mut store, variable)?;
        if store.len() > room {
            let (name, need) = (variable.name, store.len());
            return Err(failed(format!("the firmware's variable store has {room} bytes; `{name}` would need {need}")));
        }
    }
    // Erased flash is all ones. The event log's block stays so.
    store.resize(room + BLOCK as usize, 0xff);
    store.extend(working_block());
    store.resize(whole as usize, 0xff);
    Ok(store)
}

/// `EFI_FIRMWARE_VOLUME_HEADER` with its checksum.
fn volume_header(size: u32) -> Vec<u8> {
    let mut header = vec![0; 16];
    header.extend(VOLUME.to_bytes_le());
    header.extend(u64::from(size).to_le_bytes());
    header.extend(b"_FVH");
    header.extend(VOLUME_ATTRIBUTES.to_le_bytes());
    header.extend((VOLUME_HEADER as u16).to_le_bytes());
    let checksum = header.len();
    header.extend([0, 0, 0, 0, 0, 2]); // checksum, no extended header, reserved, revision 2
    for value in [size / BLOCK, BLOCK, 0, 0] {
        header.extend(value.to_le_bytes());
    }
    let sum = header.chunks_exact(2).fold(0_u16, |sum, pair| match pair {
        [low, high] => sum.wrapping_add(u16::from_le_bytes([*low, *high])),
        _ => sum,
    });
    header.splice(checksum..checksum + 2, sum.wrapping_neg().to_le_bytes());
    header
}

fn append(store: &mut Vec<u8>, variable: &Entry<'_>) -> Result<()> {
    let name: Vec<u8> = utf16(variable.name).into_iter().chain([0, 0]).collect();
    let size = |bytes: &[u8]| {
        u32::try_from(bytes.len())
            .map(u32::to_le_bytes)
            .map_err(|_| Error::new(Kind::Failed, "a firmware variable is beyond 4 GiB"))
    };
    store.resize(store.len().next_multiple_of(VARIABLE_ALIGNMENT), 0xff);
    let start = store.len();
    store.extend(VARIABLE_START);
    store.extend(variable.attributes.to_le_bytes());
    store.extend([0; 8]); // monotonic count
    store.extend([0; 16]); // time: before any update's, so that each update is taken
    store.extend([0; 4]); // public key index
    store.extend(size(&name)?);
    store.extend(size(variable.data)?);
    store.extend(variable.vendor.to_bytes_le());
    debug_assert_eq!(store.len(), start + VARIABLE_HEADER);
    store.extend(name);
    store.extend_from_slice(variable.data);
    Ok(())
}

/// `EFI_FAULT_TOLERANT_WORKING_BLOCK_HEADER`: valid, with an empty write queue over the rest of the block.
fn working_block() -> Vec<u8> {
    let header = |checksum: u32, state: u8| {
        let mut header = WORKING_BLOCK.to_bytes_le().to_vec();
        header.extend(checksum.to_le_bytes());
        header.extend([state, 0xff, 0xff, 0xff]);
        header.extend((u64::from(BLOCK) - WORKING_HEADER as u64).to_le_bytes());
        header
    };
    // The checksum is over the header as erased flash would have it: itself and the state all ones.
    let checksum = crc32(&header(u32::MAX, 0xff));
    header(checksum, 0xfe)
}

/// CRC-32 (IEEE 802.3).
fn crc32(bytes: &[u8]) -> u32 {
    let mut crc = flate2::Crc::new();
    crc.update(bytes);
    crc.sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::boot::oracle::Trixie;
    use crate::keys::secure_boot::tests::keys;
    use crate::machine::{EnrolledKeys, Firmware};

    /// OVMF's own empty stores, byte for byte.
    #[test]
    fn an_empty_store_is_ovmfs() {
        for (path, size) in [("/usr/share/OVMF/OVMF_VARS_4M.fd", 0x8_4000), ("/usr/share/OVMF/OVMF_VARS.fd", 0x2_0000)] {
            let theirs = std::fs::read(path).unwrap_or_else(|e| panic!("{path}: {e} (apt install ovmf)"));
            let ours = write(size, &[]).unwrap();
            let differing: Vec<_> =
                (0..ours.len().max(theirs.len())).filter(|i| ours.get(*i) != theirs.get(*i)).take(20).collect();
            assert_eq!(differing, [0; 0], "{path}");
        }
    }

    #[test]
    fn virt_fw_vars_reads_the_keys() {
        let trixie = Trixie::new();
        for store_size in [0x8_4000, 0x2_0000] {
            let store = Firmware { code: "x".into(), store_size }.store(Some(&EnrolledKeys::of(keys()).unwrap())).unwrap();
            let path = trixie.put("vars.fd", &store);
            let said = trixie.run(&["virt-fw-vars", "--input", &path, "--print", "--verbose"]).unwrap();
            for expected in [
                "name=PK guid=guid:EfiGlobalVariable size=831",
                "name=KEK guid=guid:EfiGlobalVariable size=839",
                "name=db guid=guid:EfiImageSecurityDatabase size=863",
                "name=SecureBootEnable guid=guid:EfiSecureBootEnableDisable size=1\n  bool: ON",
                "subject CN=Ingot Test Platform Key",
                "subject CN=Ingot Test Key Exchange Key",
                "subject CN=Ingot Test Boot Signing Key",
            ] {
                assert!(said.contains(expected), "{expected:?} is not in {said}");
            }
        }
    }

    #[test]
    fn too_much_is_refused() {
        let big = vec![0; 0xe000];
        let entry = Entry { name: "dbx", vendor: STORE, attributes: 3, data: &big };
        assert!(write(0x2_0000, &[entry]).unwrap_err().to_string().contains("`dbx` would need"));
        assert!(write(0x8_4000, &[entry, entry]).is_ok());
        assert!(write(0x8_4001, &[]).is_err());
    }
}
