//! The initrd: `ingot-init`, the modules it loads, and nothing else; a zstd-packed cpio archive.

use std::io::Write;

use crate::boot::cpio::Archive;
use crate::boot::modules::{self, Index};
use crate::definition::Kernel;
use crate::epoch::Epoch;
use crate::error::{Context, Error, Kind, Result};
use crate::tree::{Contents, Tree};

/// What every root of ours needs: dm-verity, erofs, the /etc overlay.
pub const ROOT_MODULES: [&str; 3] = ["dm_verity", "erofs", "overlay"];

/// Fast SHA-256 and CRC-32C of the processor, where the kernel has them as modules (from 6.16 on it
/// has them built in). The init loads them before dm-verity chooses a hash.
pub const PROCESSOR_MODULES: [&str; 2] = ["sha256_ssse3", "crc32c_intel"];

/// Disks of the usual hypervisors, taken where the definition names no modules: KVM and Proxmox
/// (virtio), Hyper-V and Azure Local (vmbus), vSphere (pvscsi, AHCI, NVMe), Xen.
pub const VIRTUAL_MACHINES: [&str; 9] =
    ["virtio_pci", "virtio_blk", "virtio_scsi", "sd_mod", "hv_storvsc", "vmw_pvscsi", "ahci", "nvme", "xen_blkfront"];

/// zstd level. The 5.4 MB archive of trixie's cloud kernel takes 0.02 s and 1434 KB at level 3,
/// 0.13 s and 1259 KB at 9, 0.76 s and 1252 KB at 15, 2.0 s and 1120 KB at 19 (CPU time): beside a
/// kernel of 12 MB the last 0.14 MB are not worth a seventh of the whole build.
const LEVEL: i32 = 9;

/// Folders of the initrd: where `ingot-init` mounts, and /modules.
const FOLDERS: [&str; 6] = ["dev", "modules", "proc", "run", "sys", "sysroot"];

/// A made initrd.
#[derive(Debug, Clone)]
pub struct Initrd {
    /// The file: for the UKI's `.initrd` section.
    pub bytes: Vec<u8>,
    /// Size of the archive when unpacked, in bytes.
    pub unpacked: u64,
    /// The kernel's release: for the UKI's `.uname` section.
    pub release: String,
    /// Names of the modules inside, in byte order.
    pub modules: Vec<String>,
}

/// Makes the initrd for the kernel of `tree`. `init` is the static program `ingot-init`.
///
/// # Errors
/// A module that the kernel has not (with a suggestion), a damaged module, an `init` that cannot run alone.
pub fn initrd(tree: &Tree, contents: &dyn Contents, kernel: &Kernel, init: &[u8], epoch: Epoch) -> Result<Initrd> {
    check_program(init)?;
    let index = Index::read(tree, contents)?;
    let selection = index.select(&wanted(&index, kernel)).context("choosing the modules of the initrd")?;
    let archive = archive(tree, contents, (&selection, init), epoch).context("making the initrd")?;
    let bytes = pack(&archive, LEVEL).map_err(|e| Error::new(Kind::Failed, format!("packing the initrd: {e}")))?;
    let modules = selection.files.into_keys().collect();
    Ok(Initrd { bytes, unpacked: archive.len() as u64, release: index.release().to_owned(), modules })
}

fn wanted(index: &Index, kernel: &Kernel) -> Vec<String> {
    let processor = PROCESSOR_MODULES.iter().filter(|name| index.knows(name));
    let root = ROOT_MODULES.iter().chain(processor).map(|&name| name.to_owned());
    if kernel.initrd_modules.is_empty() {
        root.chain(VIRTUAL_MACHINES.iter().map(|&name| name.to_owned())).collect()
    } else {
        root.chain(kernel.initrd_modules.iter().cloned()).collect()
    }
}

fn archive(tree: &Tree, contents: &dyn Contents, parts: (&modules::Selection, &[u8]), epoch: Epoch) -> Result<Vec<u8>> {
    let (selection, init) = parts;
    let mut archive = Archive::new(Vec::new(), epoch)?;
    FOLDERS.iter().try_for_each(|folder| archive.folder(folder, 0o755))?;
    // Until devtmpfs is mounted this is the only place for words.
    archive.character("dev/console", 0o600, (5, 1))?;
    archive.file("init", 0o755, init)?;
    archive.file("modules/list", 0o644, selection.list.as_bytes())?;
    for (name, path) in &selection.files {
        archive.file(&format!("modules/{name}.ko"), 0o644, &modules::load(tree, contents, path)?)?;
    }
    archive.finish()
}

/// One frame with its size and without a checksum: the UKI's signature covers it. One thread, so
/// that the bytes do not depend on the machine.
fn pack(archive: &[u8], level: i32) -> std::io::Result<Vec<u8>> {
    let mut encoder = zstd::stream::Encoder::new(Vec::new(), level)?;
    encoder.set_pledged_src_size(Some(archive.len() as u64))?;
    encoder.include_checksum(false)?;
    encoder.write_all(archive)?;
    encoder.finish()
}

/// ELF header and program headers (System V ABI, chapter 5): offsets in bytes.
mod elf {
    pub const IDENT: &[u8] = b"\x7fELF\x02\x01";
    pub const PROGRAM_HEADERS: usize = 32;
    pub const ENTRY_SIZE: usize = 54;
    pub const ENTRY_COUNT: usize = 56;
    /// `PT_INTERP`: the program wants a dynamic linker.
    pub const INTERPRETER: u32 = 3;
}

/// An /init that is not static would only be noticed by a kernel panic.
fn check_program(init: &[u8]) -> Result<()> {
    let refuse = |what: &str| {
        Err(Error::new(Kind::Failed, format!("the initrd's program ingot-init {what}, expected a static 64-bit ELF program"))
            .hint("build it with `cargo build --release --target x86_64-unknown-linux-musl -p ingot-init`"))
    };
    let number = |offset: usize, length: usize| -> Option<u64> {
        let bytes = init.get(offset..offset.checked_add(length)?)?;
        Some(bytes.iter().rev().fold(0, |sum, byte| sum << 8 | u64::from(*byte)))
    };
    if !init.starts_with(elf::IDENT) {
        return refuse("is no such file");
    }
    let header = || Some((number(elf::PROGRAM_HEADERS, 8)?, number(elf::ENTRY_SIZE, 2)?, number(elf::ENTRY_COUNT, 2)?));
    let Some((start, size, count)) = header() else { return refuse("is cut short") };
    for entry in 0..count {
        let offset = entry.checked_mul(size).and_then(|o| o.checked_add(start)).and_then(|o| usize::try_from(o).ok());
        match offset.and_then(|offset| number(offset, 4)) {
            Some(kind) if kind == u64::from(elf::INTERPRETER) => return refuse("is dynamically linked"),
            Some(_) => {}
            None => return refuse("is cut short"),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::boot::modules::tests::tree;

    /// A static ELF program as far as the check looks: two program headers, none an interpreter.
    fn program(kind: u32) -> Vec<u8> {
        let mut bytes = vec![0; 64 + 2 * 56];
        bytes[..6].copy_from_slice(elf::IDENT);
        bytes[elf::PROGRAM_HEADERS] = 64;
        bytes[elf::ENTRY_SIZE] = 56;
        bytes[elf::ENTRY_COUNT] = 2;
        bytes[64] = 1;
        bytes[64 + 56..64 + 60].copy_from_slice(&kind.to_le_bytes());
        bytes
    }

    fn kernel(names: &[&str]) -> Kernel {
        Kernel { initrd_modules: names.iter().map(|&name| name.to_owned()).collect(), ..Kernel::default() }
    }

    fn sample() -> (Tree, modules::tests::Memory) {
        let names = || ROOT_MODULES.iter().chain(&["sha256_ssse3", "sd_mod"]);
        let dep: String = names().map(|name| format!("kernel/{name}.ko:\n")).collect();
        let paths: Vec<String> = names().map(|n| format!("usr/lib/modules/6/kernel/{n}.ko")).collect();
        let mut files: Vec<(&str, &[u8])> = paths.iter().map(|path| (path.as_str(), &b"\x7fELF"[..])).collect();
        files.push(("usr/lib/modules/6/modules.dep", dep.as_bytes()));
        files.push(("usr/lib/modules/6/modules.alias", b"alias scsi:t-0x00* sd_mod\n"));
        tree(&files)
    }

    #[test]
    fn holds_the_program_and_the_modules() {
        let (tree, contents) = sample();
        let made = initrd(&tree, &contents, &kernel(&["sd_mod"]), &program(2), Epoch(1)).unwrap();
        assert_eq!(made.modules, ["dm_verity", "erofs", "overlay", "sd_mod", "sha256_ssse3"]);
        assert_eq!(made.release, "6");
        let archive = zstd::decode_all(&made.bytes[..]).unwrap();
        assert_eq!(archive.len() as u64, made.unpacked);
        let text = String::from_utf8_lossy(&archive);
        for part in [
            "init\0",
            "dev/console\0",
            "modules/erofs.ko\0",
            "always dm_verity\n",
            "module sd_mod\n",
            "alias scsi:t-0x00* sd_mod\n",
        ] {
            assert!(text.contains(part), "{part:?}");
        }
        let again = initrd(&tree, &contents, &kernel(&["sd_mod"]), &program(2), Epoch(1)).unwrap();
        assert_eq!(again.bytes, made.bytes);
    }

    #[test]
    fn the_default_list_is_for_virtual_machines() {
        let (tree, contents) = sample();
        let refused = initrd(&tree, &contents, &Kernel::default(), &program(2), Epoch(1)).unwrap_err();
        assert!(refused.to_string().contains("no module `virtio_pci`"), "{refused}");
    }

    #[test]
    fn programs_that_cannot_run_alone_are_refused() {
        for (bytes, words) in [
            (b"#!/bin/sh".to_vec(), "is no such file"),
            (program(elf::INTERPRETER), "dynamically linked"),
            (program(2)[..100].to_vec(), "cut short"),
            (program(2)[..50].to_vec(), "cut short"),
        ] {
            let refused = check_program(&bytes).unwrap_err().to_string();
            assert!(refused.contains(words), "{refused}");
        }
        let mut far = program(2);
        far[elf::PROGRAM_HEADERS..elf::PROGRAM_HEADERS + 8].fill(0xff);
        assert!(check_program(&far).unwrap_err().to_string().contains("cut short"));
    }
}
