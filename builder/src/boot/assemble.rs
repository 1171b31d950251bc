//! The files that the firmware starts: the UKI with the root hash on its command line, and the loader.

use trust::Sha256Digest;

use crate::boot::authenticode;
use crate::boot::initrd::Initrd;
use crate::boot::uki::{Section, uki};
use crate::definition::Kernel;
use crate::error::{Context, Error, Kind, Result};
use crate::keys::secure_boot::Signer;
use crate::tree::{Contents, Node, Tree};

/// systemd's UKI stub (package systemd-boot-efi).
const STUB: &str = "usr/lib/systemd/boot/efi/linuxx64.efi.stub";
/// systemd's boot loader (same package).
const LOADER: &str = "usr/lib/systemd/boot/efi/systemd-bootx64.efi";

/// What the firmware starts, signed.
#[derive(Debug, Clone)]
pub struct BootFiles {
    /// The unified kernel image (UAPI.5).
    pub uki: Vec<u8>,
    /// systemd-boot.
    pub loader: Vec<u8>,
    /// The command line inside the UKI.
    pub command_line: String,
}

/// Where the parts come from.
#[derive(Clone, Copy)]
#[allow(missing_debug_implementations, reason = "references only")]
pub struct Parts<'a> {
    /// The base tree, which still has what is left out of the root: kernel, stub and loader.
    pub tree: &'a Tree,
    /// Its bytes.
    pub contents: &'a dyn Contents,
    /// os-release(5) of the sealed root: what boot menus show.
    pub os_release: &'a [u8],
    /// The definition's words on the kernel.
    pub kernel: &'a Kernel,
    /// The initrd.
    pub initrd: &'a Initrd,
}

/// Puts the UKI together for the root with this hash, and signs it and the loader.
///
/// # Errors
/// [`Kind::Document`] naming the package to install when kernel, stub or loader are not in the tree.
pub fn assemble(parts: Parts<'_>, root_hash: &Sha256Digest, signer: &Signer) -> Result<BootFiles> {
    let release = &parts.initrd.release;
    let kernel = read(&parts, &format!("boot/vmlinuz-{release}"), "a linux-image package")?;
    let stub = read(&parts, STUB, "systemd-boot-efi")?;
    let mut words: Vec<&str> = parts.kernel.command_line.iter().map(String::as_str).collect();
    let hash = format!("roothash={root_hash}");
    words.push(&hash);
    let command_line = words.join(" ");
    let sections = [
        Section { name: ".osrel", data: parts.os_release },
        Section { name: ".cmdline", data: command_line.as_bytes() },
        Section { name: ".uname", data: release.as_bytes() },
        Section { name: ".initrd", data: &parts.initrd.bytes },
        Section { name: ".linux", data: &kernel },
    ];
    let uki = uki(&stub, &sections).context("putting the UKI together")?;
    let uki = authenticode::sign(&uki, signer).context("signing the UKI")?;
    let loader = read(&parts, LOADER, "systemd-boot-efi")?;
    let loader = authenticode::sign(&loader, signer).context("signing the boot loader")?;
    Ok(BootFiles { uki, loader, command_line })
}

fn read(parts: &Parts<'_>, path: &str, package: &str) -> Result<std::sync::Arc<[u8]>> {
    match parts.tree.entries.get(path.as_bytes()).map(|entry| &entry.node) {
        Some(Node::File { content, .. }) => parts.contents.read(content),
        _ => Err(Error::new(Kind::Document, format!("there is no file {path} in the tree"))
            .hint(format!("add {package} to [packages] install"))),
    }
}
