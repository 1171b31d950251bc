//! A [`Tree`] as a file: a checksum, then all entries in order. Read in a few milliseconds, and
//! refused when a single bit of it is not what was written.

use std::collections::BTreeMap;

use crate::tree::{ContentId, Entry, Node, Tree};

/// First bytes of the file; the digit is the version of the layout.
const MAGIC: &[u8; 8] = b"ingotix1";
/// Magic and BLAKE3 of all that follows.
const HEADER: usize = 8 + 32;

/// The bytes of an index file.
pub fn write(tree: &Tree) -> Vec<u8> {
    let mut out = vec![0; HEADER];
    put(&mut out, tree.entries.len() as u64);
    for (path, entry) in &tree.entries {
        bytes(&mut out, path);
        for value in [u64::from(entry.mode), u64::from(entry.uid), u64::from(entry.gid), entry.mtime.cast_unsigned()] {
            put(&mut out, value);
        }
        put(&mut out, entry.xattrs.len() as u64);
        for (name, value) in &entry.xattrs {
            bytes(&mut out, name);
            bytes(&mut out, value);
        }
        node(&mut out, &entry.node);
    }
    let digest = ContentId::of(&out[HEADER..]);
    out[..8].copy_from_slice(MAGIC);
    out[8..HEADER].copy_from_slice(&digest.0);
    out
}

/// The tree in an index file; `None` where the file is not exactly what [`write()`] made.
pub fn read(file: &[u8]) -> Option<Tree> {
    let (magic, rest) = file.split_first_chunk::<8>()?;
    let (digest, payload) = rest.split_first_chunk::<32>()?;
    if magic != MAGIC || ContentId::of(payload).0 != *digest {
        return None;
    }
    let mut cursor = Cursor(payload);
    let count = cursor.number()?;
    let mut entries = Vec::new();
    for _ in 0..count {
        entries.push(cursor.entry()?);
    }
    // Sorted input lets the map be built in one go.
    cursor.0.is_empty().then(|| Tree { entries: entries.into_iter().collect() })
}

fn put(out: &mut Vec<u8>, mut value: u64) {
    // LEB128: seven bits a byte, the top bit says that more follow.
    while value >= 0x80 {
        out.push((value as u8) | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn bytes(out: &mut Vec<u8>, value: &[u8]) {
    put(out, value.len() as u64);
    out.extend_from_slice(value);
}

fn node(out: &mut Vec<u8>, node: &Node) {
    match node {
        Node::Folder => out.push(b'd'),
        Node::Fifo => out.push(b'p'),
        Node::Link(target) => {
            out.push(b'l');
            bytes(out, target);
        }
        Node::File { size, content, link } => {
            out.push(b'f');
            put(out, *size);
            out.extend_from_slice(&content.0);
            put(out, link.map_or(0, |group| group.saturating_add(1)));
        }
        Node::Character(major, minor) | Node::Block(major, minor) => {
            out.push(if matches!(node, Node::Block(..)) { b'b' } else { b'c' });
            put(out, u64::from(*major));
            put(out, u64::from(*minor));
        }
    }
}

/// What is left to read.
struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    fn number(&mut self) -> Option<u64> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f).checked_shl(shift)?;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }

    fn small(&mut self) -> Option<u32> {
        u32::try_from(self.number()?).ok()
    }

    fn bytes(&mut self) -> Option<&'a [u8]> {
        let length = usize::try_from(self.number()?).ok()?;
        let (value, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(value)
    }

    fn entry(&mut self) -> Option<(Vec<u8>, Entry)> {
        let path = self.bytes()?.to_vec();
        let (mode, uid, gid, mtime) = (self.small()?, self.small()?, self.small()?, self.number()?.cast_signed());
        let mut xattrs = BTreeMap::new();
        for _ in 0..self.number()? {
            xattrs.insert(self.bytes()?.to_vec(), self.bytes()?.to_vec());
        }
        Some((path, Entry { mode, uid, gid, mtime, xattrs, node: self.node()? }))
    }

    fn node(&mut self) -> Option<Node> {
        Some(match self.byte()? {
            b'd' => Node::Folder,
            b'p' => Node::Fifo,
            b'l' => Node::Link(self.bytes()?.to_vec()),
            b'f' => {
                let size = self.number()?;
                let (content, rest) = self.0.split_first_chunk::<32>()?;
                self.0 = rest;
                Node::File { size, content: ContentId(*content), link: self.number()?.checked_sub(1) }
            }
            b'c' => Node::Character(self.small()?, self.small()?),
            b'b' => Node::Block(self.small()?, self.small()?),
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn nodes() -> impl Strategy<Value = Node> {
        prop_oneof![
            Just(Node::Folder),
            Just(Node::Fifo),
            any::<Vec<u8>>().prop_map(Node::Link),
            (any::<u64>(), any::<[u8; 32]>(), proptest::option::of(0..u64::MAX)).prop_map(|(size, id, link)| Node::File {
                size,
                content: ContentId(id),
                link
            }),
            any::<(u32, u32)>().prop_map(|(a, b)| Node::Character(a, b)),
            any::<(u32, u32)>().prop_map(|(a, b)| Node::Block(a, b)),
        ]
    }

    fn trees() -> impl Strategy<Value = Tree> {
        let attributes = proptest::collection::btree_map(any::<Vec<u8>>(), any::<Vec<u8>>(), 0..3);
        let entry = (any::<(u32, u32, u32, i64)>(), attributes, nodes())
            .prop_map(|((mode, uid, gid, mtime), xattrs, node)| Entry { mode, uid, gid, mtime, xattrs, node });
        proptest::collection::btree_map(any::<Vec<u8>>(), entry, 0..8).prop_map(|entries| Tree { entries })
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_and_nothing_else(tree in trees(), at in any::<usize>(), flip in 1u8..) {
            let mut file = write(&tree);
            prop_assert_eq!(read(&file), Some(tree));
            let at = at % file.len();
            file[at] ^= flip;
            prop_assert_eq!(read(&file), None);
        }

        #[test]
        fn no_payload_makes_it_panic(payload in any::<Vec<u8>>()) {
            let mut file = [MAGIC.as_slice(), &ContentId::of(&payload).0].concat();
            file.extend(payload);
            let _ = read(&file);
        }
    }
}
