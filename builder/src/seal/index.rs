//! The compact index of a compressed inode: which blocks hold which stretch of the file
//! (`z_erofs_map_header`, "compacted" form of `z_erofs_lcluster_index`).
//!
//! One entry for each 4096-byte logical cluster. Entries come in packs: 2 in 8 bytes up to the next
//! multiple of 32 bytes, then 16 in 32 bytes as long as whole packs are needed, then 2 in 8 bytes.
//! A pack ends with one block number; the others follow by counting.

use super::compress::Cluster;
use super::layout::{BLOCK, BLOCK_COUNT_FLAG, CLUSTER_HEAD, CLUSTER_NEXT, CLUSTER_PLAIN};

/// One logical cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Slot {
    /// An extent begins `offset` bytes into this cluster, at `block`.
    Head { plain: bool, offset: u16, block: u32 },
    /// The extent goes on: distance to its head (or its blocks with [`BLOCK_COUNT_FLAG`]) and to the next head.
    Next { back: u16, ahead: u16 },
}

/// The slots of a file of `size` bytes: its clusters from `first_block` on, then `tail` bytes in
/// the packed inode.
pub(super) fn slots(clusters: &[Cluster], first_block: u32, tail: usize, size: u64) -> Vec<Slot> {
    let mut slots = Vec::new();
    let mut block = first_block;
    let rest = u16::try_from(size % BLOCK as u64).unwrap_or(0);
    for (at, cluster) in clusters.iter().enumerate() {
        if cluster.plain {
            for _ in 0..cluster.length {
                slots.push(Slot::Head { plain: true, offset: 0, block });
                block = block.saturating_add(1);
            }
            continue;
        }
        let ends_file = tail == 0 && at + 1 == clusters.len();
        stretch(&mut slots, block, (cluster.blocks, cluster.length), if ends_file { rest } else { 0 });
        block = block.saturating_add(u32::from(cluster.blocks));
    }
    if tail > 0 {
        let length = u16::try_from(tail.div_ceil(BLOCK)).unwrap_or(u16::MAX);
        stretch(&mut slots, block, (0, length), rest);
    }
    slots
}

/// One extent of `length` logical clusters in `blocks` blocks. Where the file ends within the last
/// cluster, a head of a next extent that never comes marks the end.
fn stretch(slots: &mut Vec<Slot>, block: u32, (blocks, length): (u16, u16), rest: u16) {
    slots.push(Slot::Head { plain: false, offset: 0, block });
    let full = if rest > 0 && length > 1 { length - 1 } else { length };
    for distance in 1..full {
        let back = if distance == 1 { BLOCK_COUNT_FLAG | blocks } else { distance };
        slots.push(Slot::Next { back, ahead: full - distance });
    }
    if full < length {
        slots.push(Slot::Head { plain: true, offset: rest, block: 0 });
    }
}

/// How many entries are in packs of 2 before and how many in packs of 16, for an index that begins at `start`.
pub(super) fn stretches(start: u64, total: u64, two_bytes: bool) -> (u64, u64) {
    let before = (32 - start % 32) / 4 % 8;
    let short = if two_bytes && before < total { (total - before) / 16 * 16 } else { 0 };
    (before, short)
}

/// Bytes of the index of `total` slots that begins at `start`.
pub(super) fn size(start: u64, total: u64) -> u64 {
    let (_, short) = stretches(start, total, true);
    short * 2 + (total - short).div_ceil(2) * 8
}

/// The bytes of the index that begins at `start` (only its place within 32 bytes matters).
pub(super) fn encode(slots: &[Slot], start: u64) -> Vec<u8> {
    let (before, short) = stretches(start, slots.len() as u64, true);
    let before = (before as usize).min(slots.len());
    let (first, rest) = slots.split_at(before);
    let (middle, last) = rest.split_at(short as usize);
    let mut bytes = Vec::new();
    first.chunks(2).for_each(|pack| encode_pack(pack, 2, &mut bytes));
    middle.chunks(16).for_each(|pack| encode_pack(pack, 16, &mut bytes));
    last.chunks(2).for_each(|pack| encode_pack(pack, 2, &mut bytes));
    bytes
}

fn encode_pack(pack: &[Slot], count: usize, bytes: &mut Vec<u8>) {
    let (size, bits) = if count == 16 { (32, 14) } else { (8, 16) };
    let mut field = [0_u8; 32];
    let mut base = None;
    let mut counted = 0;
    for (at, slot) in pack.iter().enumerate() {
        let value = match *slot {
            Slot::Head { plain, offset, block } => {
                base.get_or_insert(block.wrapping_sub(counted));
                u32::from(offset) | if plain { CLUSTER_PLAIN } else { CLUSTER_HEAD } << 12
            }
            Slot::Next { back, ahead } => {
                let counts = back & BLOCK_COUNT_FLAG != 0;
                if counts {
                    counted = u32::from(back & !BLOCK_COUNT_FLAG);
                }
                // The last of a pack looks ahead, the others look back.
                u32::from(if at + 1 == count && !counts { ahead } else { back }) | CLUSTER_NEXT << 12
            }
        };
        let position = at * bits;
        let spread = value << (position % 8);
        for (byte, part) in field.iter_mut().skip(position / 8).zip(spread.to_le_bytes()) {
            *byte |= part;
        }
    }
    let end = size - 4;
    bytes.extend_from_slice(&field[..end]);
    bytes.extend_from_slice(&base.unwrap_or(0).to_le_bytes());
}

/// The slots of `total` entries out of an index that begins at `start`; `None` where bytes are missing.
pub(super) fn decode(bytes: &[u8], start: u64, total: u64, form: Form) -> Option<Vec<Slot>> {
    let (before, short) = stretches(start, total, form.two_bytes);
    let (before, total, short) = (usize::try_from(before).ok()?, usize::try_from(total).ok()?, usize::try_from(short).ok()?);
    let mut slots = Vec::new();
    let mut position = 0_usize;
    while slots.len() < total {
        let (size, count) = if slots.len() >= before && slots.len() < before + short { (32, 16) } else { (8, 2) };
        let pack = bytes.get(position..position.checked_add(size)?)?;
        decode_pack(pack, count, form.big_clusters, &mut slots)?;
        position += size;
    }
    slots.truncate(total);
    Some(slots)
}

/// What an index looks like.
#[derive(Debug, Clone, Copy)]
pub(super) struct Form {
    pub two_bytes: bool,
    pub big_clusters: bool,
}

fn decode_pack(pack: &[u8], count: usize, big_clusters: bool, slots: &mut Vec<Slot>) -> Option<()> {
    let bits = if count == 16 { 14 } else { 16 };
    let (fields, base) = pack.split_last_chunk::<4>()?;
    let base = u32::from_le_bytes(*base);
    let (mut counted, mut pending) = (u32::from(!big_clusters), 0_u32);
    for at in 0..count {
        let position = at * bits;
        let value = (0..3)
            .fold(0_u32, |value, byte| value | u32::from(fields.get(position / 8 + byte).copied().unwrap_or(0)) << (8 * byte))
            >> (position % 8);
        let (low, kind) = (value as u16 & 0xfff, value >> 12 & 3);
        if kind == CLUSTER_NEXT {
            if low & BLOCK_COUNT_FLAG != 0 {
                counted = counted.wrapping_add(u32::from(low & !BLOCK_COUNT_FLAG));
                pending = 0;
            }
            slots.push(Slot::Next { back: low, ahead: 0 });
        } else if kind == CLUSTER_PLAIN || kind == CLUSTER_HEAD {
            counted = counted.wrapping_add(pending);
            pending = 1;
            slots.push(Slot::Head { plain: kind == CLUSTER_PLAIN, offset: low, block: base.wrapping_add(counted) });
        } else {
            return None;
        }
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const FORM: Form = Form { two_bytes: true, big_clusters: true };

    fn cluster() -> impl Strategy<Value = Cluster> {
        (3..=32_u16, any::<bool>(), any::<prop::sample::Index>()).prop_map(|(length, plain, index)| Cluster {
            length,
            plain,
            blocks: if plain { length } else { 1 + index.index(usize::from(length) - 1) as u16 },
        })
    }

    proptest! {
        #[test]
        fn what_was_encoded_is_decoded(clusters in prop::collection::vec(cluster(), 1..40), first in 0..1_000_000_u32,
                tail in 0..9_usize, rest in 0..4096_u64, start in 0..4_u64) {
            let tail = tail * BLOCK;
            let whole: u64 = clusters.iter().map(|c| u64::from(c.length)).sum::<u64>() * BLOCK as u64 + tail as u64;
            let length = whole - rest;
            let slots = slots(&clusters, first, tail.saturating_sub(rest as usize), length);
            prop_assert_eq!(slots.len() as u64, length.div_ceil(BLOCK as u64));
            let start = start * 8;
            let bytes = encode(&slots, start);
            prop_assert_eq!(bytes.len() as u64, size(start, slots.len() as u64));
            let found = decode(&bytes, start, slots.len() as u64, FORM).unwrap();
            for (wanted, found) in slots.iter().zip(&found) {
                match (wanted, found) {
                    (Slot::Head { plain: true, offset, .. }, Slot::Head { plain: true, offset: o, .. }) if *offset > 0 => {
                        prop_assert_eq!(offset, o);
                    }
                    (Slot::Head { .. }, _) => prop_assert_eq!(wanted, found),
                    (Slot::Next { back, .. }, Slot::Next { back: b, .. }) if back & BLOCK_COUNT_FLAG != 0 => prop_assert_eq!(back, b),
                    (Slot::Next { .. }, found) => prop_assert!(matches!(found, Slot::Next { .. }), "a head"),
                }
            }
        }

        #[test]
        fn any_bytes_are_decoded_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..300), total in 0..300_u64, start in 0..40_u64) {
            decode(&bytes, start, total, FORM);
        }
    }
}
