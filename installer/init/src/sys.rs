//! The only unsafe code of this program: two ioctls that rustix has no function for.
#![allow(unsafe_code)]

use std::ffi::{c_int, c_void};
use std::fs::File;
use std::marker::PhantomData;

use rustix::io;
use rustix::ioctl::{Direction, Ioctl, IoctlOutput, Opcode, ioctl, opcode};

/// `sizeof(struct dm_ioctl)`, linux/dm-ioctl.h.
pub const DM_HEADER: usize = 312;
/// `DM_IOCTL`.
const DM_GROUP: u8 = 0xfd;
/// Offset of `data_size`.
const DM_DATA_SIZE: usize = 12;

/// `BLKPG`, linux/blkpg.h.
const BLKPG: Opcode = opcode::none(0x12, 105);
/// `BLKPG_ADD_PARTITION`.
const ADD_PARTITION: c_int = 1;

/// An ioctl whose argument points at memory borrowed for `'a`.
struct Call<'a> {
    opcode: Opcode,
    argument: *mut c_void,
    borrowed: PhantomData<&'a mut [u8]>,
}

// SAFETY: `argument` comes from a mutable borrow that lives as long as the value, and each caller
// below states why the kernel stays inside of it. Nothing is read back through the output pointer.
unsafe impl Ioctl for Call<'_> {
    type Output = ();
    const IS_MUTATING: bool = true;

    fn opcode(&self) -> Opcode {
        self.opcode
    }

    fn as_ptr(&mut self) -> *mut c_void {
        self.argument
    }

    unsafe fn output_from_ptr(_: IoctlOutput, _: *mut c_void) -> io::Result<()> {
        Ok(())
    }
}

/// Sends `request` (a `struct dm_ioctl` and what follows it) as device-mapper command `number`; the
/// answer replaces it.
///
/// # Errors
/// `INVAL` where the request is shorter than its header; the kernel's reason.
pub fn device_mapper(control: &File, number: u8, request: &mut [u8]) -> io::Result<()> {
    let size = u32::try_from(request.len()).map_err(|_| io::Errno::INVAL)?;
    if request.len() < DM_HEADER {
        return Err(io::Errno::INVAL);
    }
    // Written here, as the safety of the call rests on it.
    request.get_mut(DM_DATA_SIZE..DM_DATA_SIZE + 4).ok_or(io::Errno::INVAL)?.copy_from_slice(&size.to_le_bytes());
    let opcode = opcode::from_components(Direction::ReadWrite, DM_GROUP, number, DM_HEADER);
    let call = Call { opcode, argument: request.as_mut_ptr().cast(), borrowed: PhantomData };
    // SAFETY: device-mapper reads and writes at most `data_size` bytes, which is the length of the
    // borrowed slice, and at least DM_HEADER bytes, which the slice has.
    unsafe { ioctl(control, call) }
}

/// `struct blkpg_partition`.
#[repr(C)]
struct BlkpgPartition {
    start: i64,
    length: i64,
    number: c_int,
    unused_names: [u8; 128],
}

/// `struct blkpg_ioctl_arg`.
#[repr(C)]
struct BlkpgArgument {
    operation: c_int,
    flags: c_int,
    length: c_int,
    data: *mut c_void,
}

/// Makes the kernel know a partition of `disk`: `start` and `length` in bytes.
///
/// # Errors
/// `INVAL` where a number is too large; the kernel's reason.
pub fn add_partition(disk: &File, number: u32, start: u64, length: u64) -> io::Result<()> {
    let mut partition = BlkpgPartition {
        start: start.try_into().map_err(|_| io::Errno::INVAL)?,
        length: length.try_into().map_err(|_| io::Errno::INVAL)?,
        number: number.try_into().map_err(|_| io::Errno::INVAL)?,
        unused_names: [0; 128],
    };
    let length = c_int::try_from(size_of::<BlkpgPartition>()).map_err(|_| io::Errno::INVAL)?;
    let data = (&raw mut partition).cast();
    let mut argument = BlkpgArgument { operation: ADD_PARTITION, flags: 0, length, data };
    let call = Call { opcode: BLKPG, argument: (&raw mut argument).cast(), borrowed: PhantomData };
    // SAFETY: BLKPG reads one blkpg_ioctl_arg and, through its pointer, one blkpg_partition; both
    // are whole local values of the layout of linux/blkpg.h that outlive the call.
    unsafe { ioctl(disk, call) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layouts_are_those_of_the_kernel_headers() {
        assert_eq!(size_of::<BlkpgPartition>(), 152);
        assert_eq!(size_of::<BlkpgArgument>(), 24);
        assert_eq!(BLKPG, 0x1269);
        assert_eq!(opcode::from_components(Direction::ReadWrite, DM_GROUP, 0, DM_HEADER), 0xc138_fd00);
    }

    #[test]
    fn what_is_no_device_is_refused() {
        let file = tempfile::tempfile().unwrap();
        assert_eq!(device_mapper(&file, 0, &mut [0; 10]), Err(io::Errno::INVAL));
        assert_eq!(device_mapper(&file, 0, &mut [0; 400]), Err(io::Errno::NOTTY));
        assert_eq!(add_partition(&file, 1, 0, 512), Err(io::Errno::NOTTY));
        assert_eq!(add_partition(&file, 1, u64::MAX, 512), Err(io::Errno::INVAL));
    }
}
