//! Parsing what lies inside of inodes: folder blocks and extended attributes.

use std::collections::BTreeMap;

use zerocopy::FromBytes;

use super::layout::{Dirent, XattrEntry};
use super::read::{Inode, Name};
use super::xattrs::PREFIXES;
use crate::error::Result;

/// The names of one block of a folder, `.` and `..` among them.
pub(super) fn folder_block(inode: &Inode, block: &[u8], names: &mut Vec<Name>) -> Result<()> {
    let broken = |what: String| inode.refuse(format!("its entries are broken: {what}"));
    let size = size_of::<Dirent>();
    let (first, _) = Dirent::ref_from_prefix(block).map_err(|_| broken(format!("a block of {} bytes", block.len())))?;
    let start = usize::from(first.name_offset.get());
    if start % size != 0 || start == 0 || start > block.len() {
        return Err(broken(format!("the first name is at {start}")));
    }
    let (table, _) = block.split_at(start);
    let entries: Vec<&Dirent> = table.chunks_exact(size).filter_map(|bytes| Dirent::ref_from_bytes(bytes).ok()).collect();
    for (at, entry) in entries.iter().enumerate() {
        let from = usize::from(entry.name_offset.get());
        let to = entries.get(at + 1).map_or(block.len(), |next| usize::from(next.name_offset.get()));
        let name = block.get(from..to).filter(|_| from >= start);
        let name = name.ok_or_else(|| broken(format!("a name reaches from {from} to {to}")))?;
        // The last name of a block ends with its first NUL.
        let name = name.split(|byte| *byte == 0).next().unwrap_or_default();
        if name.is_empty() || name.contains(&b'/') || name.len() > 255 {
            return Err(broken(format!("a name is `{}`", String::from_utf8_lossy(name))));
        }
        names.push(Name { name: name.to_vec(), nid: entry.nid.get() });
    }
    Ok(())
}

/// Takes one attribute from the front; gives its bytes before padding.
pub(super) fn take_xattr(inode: &Inode, bytes: &[u8], found: &mut BTreeMap<Vec<u8>, Vec<u8>>) -> Result<usize> {
    let broken = || inode.refuse("its attributes are cut short");
    let (entry, rest) = XattrEntry::ref_from_prefix(bytes).map_err(|_| broken())?;
    let (name, value) = (usize::from(entry.name_length), usize::from(entry.value_length.get()));
    let prefix = PREFIXES.iter().find(|(number, _)| *number == entry.prefix);
    let (_, prefix) = prefix.ok_or_else(|| inode.refuse(format!("an attribute has prefix number {}", entry.prefix)))?;
    let full = [*prefix, rest.get(..name).ok_or_else(broken)?].concat();
    found.insert(full, rest.get(name..name + value).ok_or_else(broken)?.to_vec());
    Ok(size_of::<XattrEntry>() + name + value)
}
