//! The device-mapper device of the root: created, given its table, set live (linux/dm-ioctl.h).

use std::fs::File;

use crate::failure::Failure;
use crate::sys;

const CONTROL: &str = "/dev/mapper/control";

/// Name of the device; systemd's own verity units expect it for the root.
pub const NAME: &str = "root";

/// Numbers of the commands.
const VERSION: u8 = 0;
const DEV_CREATE: u8 = 3;
const DEV_SUSPEND: u8 = 6;
const TABLE_LOAD: u8 = 9;

/// Flags.
const READ_ONLY: u32 = 1;
/// The file system above needs no freezing: it cannot write.
const SKIP_LOCKFS: u32 = 1 << 10;

/// Offsets in `struct dm_ioctl`, in bytes.
const DATA_START: usize = 16;
const TARGET_COUNT: usize = 20;
const FLAGS: usize = 28;
const DEVICE: usize = 40;
const DEVICE_NAME: usize = 48;
const DEVICE_UUID: usize = 176;
/// Longest name and UUID, with the NUL.
const NAME_BYTES: usize = 128;
const UUID_BYTES: usize = 129;

/// `struct dm_target_spec`: start, length, status, next, type.
const SPEC: usize = 40;

/// One device, addressed by [`NAME`].
#[derive(Debug)]
pub struct Mapper {
    control: File,
}

impl Mapper {
    /// Opens the control device.
    ///
    /// # Errors
    /// When the kernel has no device-mapper.
    pub fn open() -> Result<Self, Failure> {
        let refuse = |found: String| {
            Failure::new("opening the device-mapper", found)
                .expected(format!("{CONTROL} (module dm_mod)"))
                .next("see the messages on modules above; rebuild the image with dm_verity in kernel.initrd_modules")
        };
        let control = File::options().read(true).write(true).open(CONTROL).map_err(|e| refuse(e.to_string()))?;
        let mapper = Self { control };
        mapper.command(VERSION, request("", "", 0, None)).map_err(|e| refuse(format!("command DM_VERSION: {e}")))?;
        Ok(mapper)
    }

    /// Makes the device, still without a table, and gives the path of its node.
    ///
    /// # Errors
    /// The kernel's reason.
    pub fn create(&self, uuid: &str) -> Result<String, Failure> {
        let answer = self.command(DEV_CREATE, request(NAME, uuid, READ_ONLY, None)).map_err(|e| refuse("creating", &e))?;
        Ok(format!("/dev/dm-{}", minor(crate::gpt::u64_at(&answer, DEVICE))))
    }

    /// Loads a read-only `verity` table and sets it live, replacing one that is there.
    ///
    /// # Errors
    /// The kernel's reason; dm-verity's own words are in the kernel's log.
    pub fn activate(&self, sectors: u64, parameters: &str) -> Result<(), Failure> {
        let load = request(NAME, "", READ_ONLY, Some((sectors, parameters)));
        self.command(TABLE_LOAD, load).map_err(|e| refuse("loading the verity table of", &e))?;
        self.command(DEV_SUSPEND, request(NAME, "", SKIP_LOCKFS, None)).map_err(|e| refuse("activating", &e))?;
        Ok(())
    }

    fn command(&self, number: u8, mut request: Vec<u8>) -> rustix::io::Result<Vec<u8>> {
        sys::device_mapper(&self.control, number, &mut request)?;
        Ok(request)
    }
}

fn refuse(doing: &str, error: &rustix::io::Errno) -> Failure {
    Failure::new(format!("{doing} the device-mapper device `{NAME}`"), error.to_string())
        .next("read the kernel's lines that begin with `device-mapper:` above")
}

/// The bytes of a command; the target is (length in sectors, parameters) of a `verity` target.
fn request(name: &str, uuid: &str, flags: u32, target: Option<(u64, &str)>) -> Vec<u8> {
    let mut bytes = vec![0; sys::DM_HEADER];
    let mut put = |offset: usize, value: &[u8]| {
        bytes.iter_mut().skip(offset).zip(value).for_each(|(to, from)| *to = *from);
    };
    // The lowest interface that has all these commands: 4.0.0.
    put(0, &4u32.to_le_bytes());
    put(DATA_START, &u32::try_from(sys::DM_HEADER).unwrap_or_default().to_le_bytes());
    put(TARGET_COUNT, &u32::from(target.is_some()).to_le_bytes());
    put(FLAGS, &flags.to_le_bytes());
    put(DEVICE_NAME, name.as_bytes().get(..name.len().min(NAME_BYTES - 1)).unwrap_or_default());
    put(DEVICE_UUID, uuid.as_bytes().get(..uuid.len().min(UUID_BYTES - 1)).unwrap_or_default());
    if let Some((sectors, parameters)) = target {
        bytes.extend(0u64.to_le_bytes());
        bytes.extend(sectors.to_le_bytes());
        bytes.extend([0; 4]);
        let length = (SPEC + parameters.len() + 1).next_multiple_of(8);
        bytes.extend(u32::try_from(length).unwrap_or_default().to_le_bytes());
        bytes.extend(b"verity\0\0\0\0\0\0\0\0\0\0");
        bytes.extend(parameters.as_bytes());
        bytes.resize(sys::DM_HEADER + length, 0);
    }
    bytes
}

/// The minor number in the kernel's 64-bit form (`huge_encode_dev`).
fn minor(device: u64) -> u64 {
    device & 0xff | device >> 12 & 0xf_ff00
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpt::{u32_at, u64_at};

    #[test]
    fn a_request_has_the_layout_of_the_kernel() {
        let bytes = request("root", "CRYPT-VERITY-1-root", READ_ONLY, Some((2400, "1 /dev/a /dev/b")));
        assert_eq!((u32_at(&bytes, 0), u32_at(&bytes, DATA_START), u32_at(&bytes, TARGET_COUNT)), (4, 312, 1));
        assert_eq!(u32_at(&bytes, FLAGS), READ_ONLY);
        assert_eq!(&bytes[48..53], b"root\0");
        assert_eq!(&bytes[176..196], b"CRYPT-VERITY-1-root\0");
        let target = &bytes[312..];
        assert_eq!((u64_at(target, 0), u64_at(target, 8), u32_at(target, 20)), (0, 2400, 56));
        assert_eq!(&target[24..31], b"verity\0");
        assert_eq!(&target[40..], b"1 /dev/a /dev/b\0");
        assert_eq!(request("x", "", 0, None).len(), 312);
    }

    #[test]
    fn long_names_keep_their_end_mark() {
        let bytes = request(&"n".repeat(500), &"u".repeat(500), 0, None);
        assert_eq!((bytes[DEVICE_NAME + 127], bytes[DEVICE_UUID + 128]), (0, 0));
        assert_eq!(bytes[DEVICE_UUID + 127], b'u');
    }

    #[test]
    fn minor_numbers_beyond_a_byte() {
        assert_eq!(minor(0xfe02), 2);
        assert_eq!(minor(0x0010_fe34), 0x134);
    }
}
