//! The binary indexes beside kernel modules (`modules.dep.bin`, `modules.alias.bin`,
//! `modules.symbols.bin`): a trie in big-endian numbers, as libkmod reads it. The text files
//! beside them are not read by it, so that leaving modules out means writing these anew.
//!
//! Layout: magic, version and the root's offset (u32 each); a node is, as the flags in the top
//! bits of its offset say, a prefix ended by NUL, then first and last child byte with the
//! children's offsets (0: none), then the count of values, each a priority and a text ended by NUL.

use std::collections::BTreeMap;

use crate::error::{Error, Kind, Result};

const MAGIC: u32 = 0xb007_f457;
/// Major 2, minor 1.
const VERSION: u32 = 0x0002_0001;
const HAS_PREFIX: u32 = 0x8000_0000;
const HAS_VALUES: u32 = 0x4000_0000;
const HAS_CHILDREN: u32 = 0x2000_0000;
const OFFSET: u32 = 0x0fff_ffff;
/// Deepest nesting of nodes; keys are shorter.
const DEPTH: usize = 1024;
/// Most nodes of one index: a damaged one could refer to itself over and over.
const NODES: usize = 1 << 20;

/// Keys with their values: (priority, text) in their order.
pub type Index = BTreeMap<Vec<u8>, Vec<(u32, Vec<u8>)>>;
/// What is left of a key, and its values.
type Rest<'a> = (&'a [u8], &'a [(u32, Vec<u8>)]);

/// Reads an index.
///
/// # Errors
/// When it is not one, or damaged.
pub fn read(file: &[u8]) -> Result<Index> {
    let mut reader = Reader { file, nodes: 0, index: Index::new() };
    let header = || Some((number(file, 0)?, number(file, 4)?, number(file, 8)?));
    match header() {
        Some((MAGIC, VERSION, root)) => {
            reader.node(root, &mut Vec::new(), 0).ok_or_else(|| bad("it is damaged"))?;
            Ok(reader.index)
        }
        _ => Err(bad("expected the magic and version of a kmod index, found other bytes")),
    }
}

fn bad(what: &str) -> Error {
    Error::new(Kind::Failed, format!("reading a kernel module index: {what}"))
}

fn number(file: &[u8], at: usize) -> Option<u32> {
    file.get(at..at.checked_add(4)?)?.first_chunk::<4>().map(|bytes| u32::from_be_bytes(*bytes))
}

struct Reader<'a> {
    file: &'a [u8],
    nodes: usize,
    index: Index,
}

impl Reader<'_> {
    fn text(&self, at: &mut usize) -> Option<Vec<u8>> {
        let rest = self.file.get(*at..)?;
        let length = rest.iter().position(|b| *b == 0)?;
        *at += length + 1;
        Some(rest[..length].to_vec())
    }

    fn node(&mut self, offset: u32, key: &mut Vec<u8>, depth: usize) -> Option<()> {
        self.nodes += 1;
        if depth > DEPTH || self.nodes > NODES {
            return None;
        }
        let mut at = (offset & OFFSET) as usize;
        let length = key.len();
        if offset & HAS_PREFIX != 0 {
            key.extend(self.text(&mut at)?);
        }
        let mut children = Vec::new();
        if offset & HAS_CHILDREN != 0 {
            let (first, last) = (*self.file.get(at)?, *self.file.get(at + 1)?);
            at += 2;
            for byte in first..=last {
                children.push((byte, number(self.file, at)?));
                at += 4;
            }
        }
        if offset & HAS_VALUES != 0 {
            let count = number(self.file, at)?;
            at += 4;
            let mut values = Vec::new();
            for _ in 0..count {
                let priority = number(self.file, at)?;
                at += 4;
                values.push((priority, self.text(&mut at)?));
            }
            self.index.insert(key.clone(), values);
        }
        for (byte, child) in children.into_iter().filter(|(_, child)| *child != 0) {
            key.push(byte);
            self.node(child, key, depth + 1)?;
            key.pop();
        }
        key.truncate(length);
        Some(())
    }
}

/// Writes an index, byte for byte as the depmod(8) of kmod 34 does.
///
/// # Errors
/// When a key is no plain ASCII text, or the file would be too large for its offsets.
pub fn write(index: &Index) -> Result<Vec<u8>> {
    let plain = |text: &[u8]| text.iter().all(|b| (1..0x80).contains(b));
    if !index.iter().all(|(key, values)| plain(key) && values.iter().all(|(_, value)| !value.contains(&0))) {
        return Err(Error::new(Kind::Failed, "writing a kernel module index: a key or value is no plain text"));
    }
    let entries: Vec<Rest<'_>> = index.iter().map(|(k, v)| (k.as_slice(), v.as_slice())).collect();
    let mut out = Vec::new();
    out.extend_from_slice(&MAGIC.to_be_bytes());
    out.extend_from_slice(&VERSION.to_be_bytes());
    out.extend_from_slice(&[0; 4]);
    let root = node(&mut out, &entries, 0)
        .ok_or_else(|| Error::new(Kind::Failed, "writing a kernel module index: it is larger than 256 MiB"))?;
    out[8..12].copy_from_slice(&root.to_be_bytes());
    Ok(out)
}

/// Writes the node for sorted `entries` and its children behind it; gives its offset with flags.
/// Its prefix has at most `longest` bytes: the root never has one.
fn node(out: &mut Vec<u8>, entries: &[Rest<'_>], longest: usize) -> Option<u32> {
    let start = u32::try_from(out.len()).ok().filter(|at| at & !OFFSET == 0)?;
    let (Some((first, _)), Some((last, _))) = (entries.first(), entries.last()) else { return Some(start) };
    let shared = first.iter().zip(last.iter()).take_while(|(a, b)| a == b).count().min(longest);
    let (values, rest) = match entries.split_first() {
        Some(((key, values), rest)) if key.len() == shared => (*values, rest),
        _ => (&[][..], entries),
    };
    let inner: Vec<(u8, Rest<'_>)> =
        rest.iter().filter_map(|(key, values)| Some((*key.get(shared)?, (key.get(shared + 1..)?, *values)))).collect();
    let mut flags = 0;
    if shared > 0 {
        flags |= HAS_PREFIX;
        out.extend_from_slice(&first[..shared]);
        out.push(0);
    }
    let mut slots = out.len();
    let low = inner.first().map_or(0, |(byte, _)| *byte);
    if let Some((high, _)) = inner.last() {
        flags |= HAS_CHILDREN;
        out.extend_from_slice(&[low, *high]);
        slots = out.len();
        out.resize(slots + 4 * (usize::from(*high - low) + 1), 0);
    }
    if !values.is_empty() {
        flags |= HAS_VALUES;
        out.extend_from_slice(&u32::try_from(values.len()).ok()?.to_be_bytes());
        for (priority, value) in values {
            out.extend_from_slice(&priority.to_be_bytes());
            out.extend_from_slice(value);
            out.push(0);
        }
    }
    for group in inner.chunk_by(|a, b| a.0 == b.0) {
        let below: Vec<_> = group.iter().map(|(_, rest)| *rest).collect();
        let child = node(out, &below, usize::MAX)?;
        let slot = slots + 4 * usize::from(group.first()?.0 - low);
        out.get_mut(slot..slot + 4)?.copy_from_slice(&child.to_be_bytes());
    }
    Some(start | flags)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_written_is_read(index in proptest::collection::btree_map(
            "[a-c:*]{0,6}".prop_map(String::into_bytes),
            proptest::collection::vec((any::<u32>(), "[a-z/: ]{0,9}".prop_map(String::into_bytes)), 1..3), 0..30)) {
            prop_assert_eq!(read(&write(&index).unwrap()).unwrap(), index);
        }

        #[test]
        fn no_bytes_make_it_panic(root in any::<u32>(), rest in proptest::collection::vec(0u8..4, 0..200)) {
            let file = [&MAGIC.to_be_bytes(), &VERSION.to_be_bytes(), &(root & 0xe000_00ff).to_be_bytes(), rest.as_slice()].concat();
            let _ = read(&file);
        }
    }

    #[test]
    fn a_small_index_has_the_documented_layout() {
        let index: Index = [(b"axb".to_vec(), vec![(7, b"x".to_vec())]), (b"axc".to_vec(), vec![(0, b"y".to_vec())])].into();
        let file = write(&index).unwrap();
        let expected = [
            &MAGIC.to_be_bytes()[..],
            &VERSION.to_be_bytes(),
            &(12_u32 | HAS_CHILDREN).to_be_bytes(),
            b"aa",
            &(18_u32 | HAS_PREFIX | HAS_CHILDREN).to_be_bytes(),
            b"x\0bc",
            &(30_u32 | HAS_VALUES).to_be_bytes(),
            &(40_u32 | HAS_VALUES).to_be_bytes(),
            b"\0\0\0\x01\0\0\0\x07x\0",
            b"\0\0\0\x01\0\0\0\0y\0",
        ]
        .concat();
        assert_eq!(file, expected);
    }
}
