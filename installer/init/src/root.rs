//! The root of the system: verified, mounted read-only, with an /etc that can be written and forgets.

use std::fs::{self, DirBuilder, File};
use std::io::Read;
use std::os::unix::fs::{DirBuilderExt, FileExt};
use std::path::Path;

use rustix::mount::{MountFlags, mount};

use crate::cmdline::RootHash;
use crate::console::Console;
use crate::disks::Found;
use crate::failure::Failure;
use crate::identity;
use crate::mapper::{Mapper, NAME};
use crate::verity::{self, OnCorruption, Superblock};

/// Where the root is mounted until the switch.
pub const ROOT: &str = "/sysroot";

/// What changed in /etc since the start lies here (`upper`), for whoever wants to look.
const ETC_LAYER: &str = "/run/ingot/etc";

/// Verifies and mounts the root.
///
/// # Errors
/// When its blocks do not have the hashes that `hash` vouches for, or it is no erofs.
pub fn mount_verified(found: &Found, hash: &RootHash, console: &mut Console) -> Result<(), Failure> {
    let superblock = superblock(found)?;
    check_top(found, &superblock, hash)?;
    console.step("verity superblock");
    let mapper = Mapper::open()?;
    let device = mapper.create(&superblock.device_uuid(NAME))?;
    let parameters = |on| superblock.parameters(&found.root.path, &found.verity.path, hash, on);
    // Until the mount a bad block is only refused, so that this program can say what it means.
    mapper.activate(superblock.sectors(), &parameters(OnCorruption::Refuse))?;
    console.step("dm-verity");
    let refuse = |doing: &str, error: &dyn std::fmt::Display| {
        Failure::new(format!("{doing} {device}, the verified root on {}", found.root.path), error.to_string())
            .expected(format!("an erofs whose blocks have the hashes of root hash {hash}"))
            .next("see `device-mapper: verity` above: a block was changed or the disk is failing; write the image again, or boot the other slot")
    };
    File::open(&device).and_then(|mut file| file.read_exact(&mut [0; 4096])).map_err(|e| refuse("reading the start of", &e))?;
    let flags = MountFlags::RDONLY | MountFlags::NOATIME | MountFlags::NODEV;
    mount(&device, ROOT, "erofs", flags, None).map_err(|e| refuse("mounting", &e))?;
    mapper.activate(superblock.sectors(), &parameters(OnCorruption::Panic))?;
    console.say(&format!("root {} is verified by {hash}", found.root.path));
    console.step("root");
    Ok(())
}

fn superblock(found: &Found) -> Result<Superblock, Failure> {
    let refuse = |what: String| {
        Failure::new(format!("reading the verity partition {}", found.verity.path), what)
            .expected(format!("the hash tree of {}", found.root.path))
            .next("write the disk image again")
    };
    let mut bytes = [0; verity::LENGTH];
    File::open(&found.verity.path).and_then(|file| file.read_exact_at(&mut bytes, 0)).map_err(|e| refuse(e.to_string()))?;
    Superblock::parse(&bytes, found.root.size, found.verity.size).map_err(refuse)
}

/// The kernel would refuse a wrong tree too, but as an I/O error of some later read.
fn check_top(found: &Found, superblock: &Superblock, hash: &RootHash) -> Result<(), Failure> {
    let Some((start, length)) = superblock.top() else { return Ok(()) };
    let refuse = |what: String| {
        Failure::new(format!("verifying the hash tree on {}", found.verity.path), what)
            .expected(format!("root hash {hash}, as the command line says"))
            .next("the disk is not the one this UKI was signed for, or was changed: write the image again")
    };
    let mut block = vec![0; length];
    let file = File::open(&found.verity.path).map_err(|e| refuse(e.to_string()))?;
    file.read_exact_at(&mut block, start).map_err(|e| refuse(e.to_string()))?;
    let is = superblock.hash_of(&block);
    if is == *hash { Ok(()) } else { Err(refuse(format!("root hash {is}"))) }
}

/// Puts a writable layer in memory over /etc. What is written there is gone at the next start.
///
/// # Errors
/// When the root has no /etc, or the kernel no overlayfs.
pub fn mount_etc() -> Result<(), Failure> {
    let refuse = |error: &dyn std::fmt::Display| {
        Failure::new("laying a writable layer over /etc", error.to_string())
            .expected("a folder /etc in the root, and overlayfs (module overlay)")
            .next("rebuild the image with overlay in kernel.initrd_modules")
    };
    let (upper, work, etc) = (format!("{ETC_LAYER}/upper"), format!("{ETC_LAYER}/work"), format!("{ROOT}/etc"));
    folder(ETC_LAYER, 0o755).map_err(|e| refuse(&e))?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV;
    mount("ingot-etc", ETC_LAYER, "tmpfs", flags, Some(c"mode=0700,size=25%")).map_err(|e| refuse(&e))?;
    folder(&upper, 0o755).and_then(|()| folder(&work, 0o755)).map_err(|e| refuse(&e))?;
    let options = std::ffi::CString::new(format!("lowerdir={etc},upperdir={upper},workdir={work}")).map_err(|e| refuse(&e))?;
    mount("etc", &etc, "overlay", flags, Some(options.as_c_str())).map_err(|e| refuse(&e))
}

/// Writes /etc/machine-id; see [`identity`].
///
/// # Errors
/// When it cannot be written.
pub fn write_machine_id(console: &mut Console) -> Result<(), Failure> {
    let uuid = fs::read_to_string(identity::PRODUCT_UUID).map_err(|e| format!("{}: {e}", identity::PRODUCT_UUID));
    let id = uuid.and_then(|uuid| identity::machine_id(&uuid)).unwrap_or_else(|why| {
        console.warn(&format!("machine-id: the firmware gives no identity: {why}; this start gets one of its own"));
        identity::UNINITIALIZED.to_owned()
    });
    let path = format!("{ROOT}/etc/machine-id");
    fs::write(&path, format!("{id}\n"))
        .map_err(|e| Failure::new(format!("writing {path}"), e.to_string()).next("look for messages of overlay above"))
}

/// Makes a folder and its parents, all with this mode; one that is there stays as it is.
pub fn folder(path: impl AsRef<Path>, mode: u32) -> std::io::Result<()> {
    DirBuilder::new().recursive(true).mode(mode).create(path)
}
