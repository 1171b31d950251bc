//! The first mounts, and the last step: the root becomes `/` and systemd becomes process 1.

use std::convert::Infallible;
use std::fs;
use std::os::unix::process::CommandExt;
use std::path::Path;

use rustix::mount::{MountFlags, mount, mount_move};
use rustix::process::{chdir, chroot};

use crate::cmdline::CommandLine;
use crate::console::Console;
use crate::failure::Failure;
use crate::root::{self, ROOT};

/// What comes after this program unless `init=` says otherwise.
const SYSTEMD: &str = "/usr/lib/systemd/systemd";

/// File systems of the kernel: type, place, options; they move along into the root. The options
/// are systemd's own for the same mounts.
const KERNEL: [(&str, &str, MountFlags, &std::ffi::CStr); 4] = [
    ("proc", "/proc", MountFlags::NOSUID.union(MountFlags::NODEV).union(MountFlags::NOEXEC), c""),
    ("sysfs", "/sys", MountFlags::NOSUID.union(MountFlags::NODEV).union(MountFlags::NOEXEC), c""),
    ("devtmpfs", "/dev", MountFlags::NOSUID.union(MountFlags::NOEXEC), c"mode=0755"),
    ("tmpfs", "/run", MountFlags::NOSUID.union(MountFlags::NODEV), c"mode=0755,size=20%"),
];

/// Mounts the kernel's file systems.
///
/// # Errors
/// The first that cannot be mounted.
pub fn mount_kernel() -> Result<(), Failure> {
    for (kind, place, flags, options) in KERNEL {
        let mounted = root::folder(place, 0o755).map_err(|e| e.to_string()).and_then(|()| {
            match mount(kind, place, kind, flags, Some(options)) {
                // devtmpfs may be there already (CONFIG_DEVTMPFS_MOUNT).
                Ok(()) | Err(rustix::io::Errno::BUSY) => Ok(()),
                Err(e) => Err(e.to_string()),
            }
        });
        mounted.map_err(|e| {
            Failure::new(format!("mounting {kind} on {place}"), e).next("use the kernel this initrd was made for")
        })?;
    }
    Ok(())
}

/// Hands over; comes back only on failure.
///
/// # Errors
/// When a folder of the root is missing, or the program cannot be started.
pub fn hand_over(command_line: &CommandLine, console: &mut Console) -> Result<Infallible, Failure> {
    let init = command_line.init().unwrap_or(SYSTEMD);
    for (kind, place, ..) in KERNEL {
        mount_move(place, format!("{ROOT}{place}")).map_err(|e| {
            Failure::new(format!("moving {kind} to {ROOT}{place}"), e.to_string())
                .expected(format!("a folder {place} in the root"))
                .next("rebuild the image with this folder")
        })?;
    }
    // Memory that nothing needs any more. Only what the builder put there, by name: nothing of a mount.
    for path in ["/modules", "/init"].map(Path::new) {
        let _ = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    }
    let enter = || {
        chdir(ROOT)?;
        mount_move(".", "/")?;
        chroot(".")?;
        chdir("/")
    };
    enter().map_err(|e: rustix::io::Errno| Failure::new("making the verified root the root", e.to_string()))?;
    console.step("switch");
    console.say(&format!("handing over to {init}"));
    console.close();
    Err(Failure::new(format!("starting {init}"), exec(init).to_string())
        .expected("a program in the root")
        .next("rebuild the image with systemd, or correct init= on the command line"))
}

/// Replaces this program; the words the kernel did not know go along, as it would have done itself.
#[allow(clippy::disallowed_methods, reason = "not a child: the program that takes over as process 1")]
fn exec(init: &str) -> std::io::Error {
    std::process::Command::new(init).args(std::env::args_os().skip(1)).exec()
}
