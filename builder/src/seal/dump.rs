//! An erofs image as text for people and for snapshots: superblock, then each inode with its extents.

use std::fmt::Write;

use super::layout::{BLOCK, kind};
use super::read::{ExtentPlace, Image, Inode};
use crate::error::Result;

/// The whole image as text, one line for the superblock's parts, each name and each extent.
///
/// # Errors
/// When the image is wrong.
pub fn dump(image: &Image<'_>) -> Result<String> {
    let mut text = String::new();
    let found = image.super_block();
    let volume = String::from_utf8_lossy(&found.volume);
    line(&mut text, 0, format_args!("erofs `{}` {}", volume.trim_end_matches('\0'), uuid::Uuid::from_bytes(found.uuid)));
    let (blocks, inodes, epoch) = (found.blocks.get(), found.inodes.get(), found.epoch.get());
    line(
        &mut text,
        0,
        format_args!("{blocks} blocks of {BLOCK}, {inodes} inodes, mtime {epoch}, checksum {:08x}", found.checksum),
    );
    let (compat, incompat) = (found.feature_compat.get(), found.feature_incompat.get());
    line(&mut text, 0, format_args!("features {compat:#x} {incompat:#x}, shared attributes in block {}", found.xattr_block));
    if let Some(packed) = image.packed() {
        describe(&mut text, image, "(packed)", packed)?;
    }
    image.walk(&mut |path, inode| describe(&mut text, image, &format!("/{}", path.escape_ascii()), inode))?;
    Ok(text)
}

fn describe(text: &mut String, image: &Image<'_>, name: &str, inode: &Inode) -> Result<()> {
    let layout = ["plain", "full index", "inline", "compact index"].get(usize::from(inode.layout)).copied().unwrap_or("unknown");
    let size = if inode.extended { 64 } else { 32 };
    let Inode { nid, mode, uid, gid, mtime, links, .. } = inode;
    line(
        text,
        0,
        format_args!("{name}: nid {nid} ({size}) {mode:o} {uid}:{gid} mtime {mtime} links {links} {layout} {} bytes", inode.size),
    );
    for (name, value) in image.xattrs(inode)? {
        line(text, 1, format_args!("{} = {}", name.escape_ascii(), value.escape_ascii()));
    }
    match inode.kind() {
        kind::LINK => line(text, 1, format_args!("-> {}", image.read(inode, BLOCK as u64)?.escape_ascii())),
        kind::CHARACTER | kind::BLOCK => line(text, 1, format_args!("device {:#x}", inode.data)),
        _ => {
            for extent in image.extents(inode)? {
                let place = match extent.place {
                    ExtentPlace::Plain(at) => format!("as they are at {at}"),
                    ExtentPlace::Interlaced(at) => format!("turned at {at}"),
                    ExtentPlace::Zstd(at, stored) => format!("zstd in {stored} at {at}"),
                    ExtentPlace::Packed(at) => format!("packed at {at}"),
                };
                line(text, 1, format_args!("{}+{} {place}", extent.start, extent.length));
            }
        }
    }
    Ok(())
}

fn line(text: &mut String, depth: usize, what: std::fmt::Arguments<'_>) {
    // Writing to a string cannot fail.
    let _ = writeln!(text, "{:indent$}{what}", "", indent = 2 * depth);
}
