//! Extended attributes: own ones behind the inode, those that several inodes have in a shared area.

use std::collections::BTreeMap;

use zerocopy::IntoBytes;
use zerocopy::little_endian::U16;

use super::inodes::Inode;
use super::layout::{XattrEntry, XattrHeader};
use crate::error::{Error, Kind, Result};

/// Prefixes and their numbers (`EROFS_XATTR_INDEX_*`). The access control lists are whole names.
pub(super) const PREFIXES: [(u8, &[u8]); 5] =
    [(1, b"user."), (2, b"system.posix_acl_access"), (3, b"system.posix_acl_default"), (4, b"trusted."), (6, b"security.")];

/// Attributes beyond this many bytes are in the shared area even when only one inode has them: the
/// inode's inline tail must fit beside its attributes.
const LARGE: usize = 256;

/// The encoded attributes of all inodes.
#[derive(Debug, Default)]
pub(super) struct Xattrs {
    /// Of each inode: header, shared ids, own entries; empty where there are none.
    pub own: Vec<Vec<u8>>,
    /// The shared area; ids count 4 bytes from its first block.
    pub shared: Vec<u8>,
}

/// Encodes the attributes of `inodes`.
///
/// # Errors
/// Names the path whose attribute the format cannot hold.
pub(super) fn encode(inodes: &[Inode<'_>]) -> Result<Xattrs> {
    let mut uses: BTreeMap<Vec<u8>, usize> = BTreeMap::new();
    let mut lists = Vec::with_capacity(inodes.len());
    for inode in inodes {
        let mut list = Vec::new();
        for (name, value) in &inode.entry.xattrs {
            let bytes = entry(name, value).ok_or_else(|| {
                let (path, name) = (String::from_utf8_lossy(inode.path), String::from_utf8_lossy(name));
                Error::new(
                    Kind::Failed,
                    format!(
                        "the tree cannot be sealed: /{path}: the attribute {name} ({} bytes) is not one that erofs holds",
                        value.len()
                    ),
                )
            })?;
            *uses.entry(bytes.clone()).or_default() += 1;
            list.push(bytes);
        }
        lists.push(list);
    }
    let mut shared = Vec::new();
    let mut ids: BTreeMap<Vec<u8>, u32> = BTreeMap::new();
    for (bytes, _) in uses.into_iter().filter(|(bytes, count)| *count > 1 || bytes.len() > LARGE) {
        let id =
            u32::try_from(shared.len() / 4).map_err(|e| Error::new(Kind::Failed, format!("sealing shared attributes: {e}")))?;
        shared.extend_from_slice(&bytes);
        ids.insert(bytes, id);
    }
    Ok(Xattrs { own: lists.iter().map(|list| body(list, &ids)).collect(), shared })
}

fn body(list: &[Vec<u8>], ids: &BTreeMap<Vec<u8>, u32>) -> Vec<u8> {
    if list.is_empty() {
        return Vec::new();
    }
    // The header counts shared ones in one byte.
    let shared: Vec<u32> = list.iter().filter_map(|bytes| ids.get(bytes).copied()).take(255).collect();
    let header = XattrHeader { filter: 0.into(), shared: shared.len() as u8, reserved: [0; 7] };
    let mut body = header.as_bytes().to_vec();
    shared.iter().for_each(|id| body.extend_from_slice(&id.to_le_bytes()));
    let mut left = shared.len();
    for bytes in list {
        if left > 0 && ids.contains_key(bytes) {
            left -= 1;
        } else {
            body.extend_from_slice(bytes);
        }
    }
    body
}

fn entry(name: &[u8], value: &[u8]) -> Option<Vec<u8>> {
    let (prefix, rest) = PREFIXES.iter().find_map(|(number, prefix)| Some((*number, name.strip_prefix(*prefix)?)))?;
    // Whole names have no rest, prefixes have one.
    if rest.is_empty() != matches!(prefix, 2 | 3) {
        return None;
    }
    let head = XattrEntry {
        name_length: u8::try_from(rest.len()).ok()?,
        prefix,
        value_length: U16::new(u16::try_from(value.len()).ok()?),
    };
    let mut bytes = head.as_bytes().to_vec();
    bytes.extend_from_slice(rest);
    bytes.extend_from_slice(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    Some(bytes)
}
