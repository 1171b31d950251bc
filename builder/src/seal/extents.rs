//! Where the bytes of one inode are, read from its map; and the bytes.

use super::index::{self, Form, Slot};
use super::layout::{
    ADVISE_BIG_CLUSTERS, ADVISE_FRAGMENT, ADVISE_INLINE_TAIL, ADVISE_INTERLACED, ADVISE_TWO_BYTES, ALGORITHM_ZSTD, BLOCK,
    BLOCK_COUNT_FLAG, CLUSTER_HEAD, CLUSTER_NEXT, CLUSTER_PLAIN, LAYOUT_COMPRESSED, LAYOUT_COMPRESSED_FULL, LAYOUT_INLINE,
    LAYOUT_PLAIN, MapHeader, WHOLE_FRAGMENT,
};
use super::read::{Image, Inode};
use crate::error::Result;

/// Longest stored extent (`Z_EROFS_PCLUSTER_MAX_SIZE`).
const MAX_STORED: u64 = 1 << 20;
/// Longest extent when unpacked (`Z_EROFS_PCLUSTER_MAX_DSIZE`).
const MAX_UNPACKED: u64 = 12 << 20;
/// Largest index that is read: 8 bytes for each block of 32 GiB.
const MAX_INDEX: u64 = 64 << 20;
const BLOCK_BYTES: u64 = BLOCK as u64;

/// A stretch of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// Where in the file it begins, in bytes.
    pub start: u64,
    /// Its bytes.
    pub length: u64,
    /// Where they are.
    pub place: Place,
}

/// Where the bytes of an extent are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// In the image, as they are: offset of the first.
    Plain(u64),
    /// In the image, as they are, the first behind the last of the block: offset of the block.
    Interlaced(u64),
    /// In the image, compressed: offset and stored length.
    Zstd(u64, u64),
    /// In the packed inode, from this offset on.
    Packed(u64),
}

/// The extents of `inode`, in order and without holes.
///
/// # Errors
/// When the map contradicts itself, leads out of the image or uses what this reader does not know.
pub(super) fn extents(image: &Image<'_>, inode: &Inode) -> Result<Vec<Extent>> {
    if inode.size == 0 {
        return Ok(Vec::new());
    }
    match inode.layout {
        LAYOUT_PLAIN => Ok(vec![flat(image, inode, 0, inode.size)?]),
        LAYOUT_INLINE => {
            let tail = match inode.size % BLOCK_BYTES {
                0 => BLOCK_BYTES,
                rest => rest,
            };
            let full = inode.size - tail;
            let at = inode.behind;
            if at / BLOCK_BYTES != (at + tail - 1) / BLOCK_BYTES {
                return Err(inode.refuse(format!("its inline tail of {tail} bytes at {at} crosses a block")));
            }
            let inline = Extent { start: full, length: tail, place: Place::Plain(image.within(at, tail, inode)?) };
            let first = if full > 0 { Some(flat(image, inode, 0, full)?) } else { None };
            Ok(first.into_iter().chain([inline]).collect())
        }
        LAYOUT_COMPRESSED | LAYOUT_COMPRESSED_FULL => compressed(image, inode),
        other => Err(inode.refuse(format!("its data layout is {other}, expected 0 to 3"))),
    }
}

fn flat(image: &Image<'_>, inode: &Inode, start: u64, length: u64) -> Result<Extent> {
    let offset = image.within(u64::from(inode.data) * BLOCK_BYTES, length, inode)?;
    Ok(Extent { start, length, place: Place::Plain(offset) })
}

fn compressed(image: &Image<'_>, inode: &Inode) -> Result<Vec<Extent>> {
    let header_at = inode.behind.next_multiple_of(8);
    let header: MapHeader = image.structure(header_at, "map header", inode)?;
    let whole = image.structure::<zerocopy::little_endian::U64>(header_at, "map header", inode)?.get();
    if whole & WHOLE_FRAGMENT != 0 {
        let place = Place::Packed(image.in_packed(whole ^ WHOLE_FRAGMENT, inode.size, inode)?);
        return Ok(vec![Extent { start: 0, length: inode.size, place }]);
    }
    let advise = header.advise.get();
    if header.cluster_bits != 0 || header.algorithms & 15 != ALGORITHM_ZSTD {
        let (bits, algorithm) = (header.cluster_bits, header.algorithms & 15);
        return Err(inode.refuse(format!("algorithm {algorithm} with cluster bits {bits}, expected {ALGORITHM_ZSTD} and 0")));
    }
    let total = inode.size.div_ceil(BLOCK_BYTES);
    let (slots, end) = if inode.layout == LAYOUT_COMPRESSED {
        let form = Form { two_bytes: advise & ADVISE_TWO_BYTES != 0, big_clusters: advise & ADVISE_BIG_CLUSTERS != 0 };
        compact_slots(image, inode, header_at + 8, (total, form))?
    } else {
        if advise & 1 != 0 {
            return Err(inode.refuse("its map is a list of extents, which this reader does not know"));
        }
        full_slots(image, inode, header_at + 16, total)?
    };
    let heads = heads(inode, &slots)?;
    let tail_size = header.fragment.get() >> 16;
    let mut extents = Vec::with_capacity(heads.len());
    for (at, head) in heads.iter().enumerate() {
        let stop = heads.get(at + 1).map_or(inode.size, |next| next.start);
        let length = stop.checked_sub(head.start).filter(|length| *length > 0);
        let length = length.ok_or_else(|| inode.refuse(format!("an extent reaches from {} to {stop}", head.start)))?;
        let last = at + 1 == heads.len();
        let place = if last && advise & ADVISE_FRAGMENT != 0 {
            let high = if inode.layout == LAYOUT_COMPRESSED_FULL { u64::from(head.block) << 32 } else { 0 };
            Place::Packed(image.in_packed(high | u64::from(header.fragment.get()), length, inode)?)
        } else if last && advise & ADVISE_INLINE_TAIL != 0 && tail_size > 0 {
            stored(image, inode, head, (end, tail_size.into(), length, advise))?
        } else {
            let blocks = u64::from(head.blocks) * BLOCK_BYTES;
            stored(image, inode, head, (u64::from(head.block) * BLOCK_BYTES, blocks, length, advise))?
        };
        extents.push(Extent { start: head.start, length, place });
    }
    Ok(extents)
}

fn stored(image: &Image<'_>, inode: &Inode, head: &Head, (at, stored, length, advise): (u64, u64, u64, u16)) -> Result<Place> {
    if stored == 0 || stored > MAX_STORED {
        return Err(inode.refuse(format!("an extent at {} is stored in {stored} bytes, expected 1 to {MAX_STORED}", head.start)));
    }
    let at = image.within(at, stored, inode)?;
    if !head.plain {
        if length > MAX_UNPACKED {
            return Err(
                inode.refuse(format!("an extent at {} has {length} bytes, at most {MAX_UNPACKED} are allowed", head.start))
            );
        }
        return Ok(Place::Zstd(at, stored));
    }
    if length > stored {
        return Err(inode.refuse(format!("a plain extent at {} has {length} bytes in {stored}", head.start)));
    }
    let turned = advise & ADVISE_INTERLACED != 0 && !head.start.is_multiple_of(BLOCK_BYTES);
    Ok(if turned && stored == BLOCK_BYTES { Place::Interlaced(at) } else { Place::Plain(at) })
}

fn compact_slots(image: &Image<'_>, inode: &Inode, start: u64, (total, form): (u64, Form)) -> Result<(Vec<Slot>, u64)> {
    let (_, short) = index::stretches(start, total, form.two_bytes);
    let size = short * 2 + (total - short).div_ceil(2) * 8;
    let bytes = index_bytes(image, inode, start, size)?;
    let slots =
        index::decode(&bytes, start, total, form).ok_or_else(|| inode.refuse("its index has an entry of an unknown kind"))?;
    Ok((slots, start + size))
}

fn full_slots(image: &Image<'_>, inode: &Inode, start: u64, total: u64) -> Result<(Vec<Slot>, u64)> {
    let size = total.checked_mul(8).ok_or_else(|| inode.refuse("its size overflows"))?;
    let bytes = index_bytes(image, inode, start, size)?;
    let mut slots = Vec::with_capacity(bytes.len() / 8);
    for entry in bytes.as_chunks::<8>().0 {
        let [a, b, c, d, e, f, g, h] = *entry;
        let kind = u32::from(u16::from_le_bytes([a, b]) & 3);
        slots.push(match kind {
            CLUSTER_NEXT => Slot::Next { back: u16::from_le_bytes([e, f]), ahead: u16::from_le_bytes([g, h]) },
            CLUSTER_PLAIN | CLUSTER_HEAD => Slot::Head {
                plain: kind == CLUSTER_PLAIN,
                offset: u16::from_le_bytes([c, d]),
                block: u32::from_le_bytes([e, f, g, h]),
            },
            _ => return Err(inode.refuse("its index has an entry of an unknown kind")),
        });
    }
    Ok((slots, start + size))
}

fn index_bytes(image: &Image<'_>, inode: &Inode, start: u64, size: u64) -> Result<Vec<u8>> {
    if size > MAX_INDEX {
        return Err(inode.refuse(format!("its size of {} bytes needs an index of {size}", inode.size)));
    }
    image.bytes(start, size as usize, "index", inode)
}

/// Where an extent begins, in file and image.
struct Head {
    start: u64,
    plain: bool,
    block: u32,
    blocks: u32,
}

fn heads(inode: &Inode, slots: &[Slot]) -> Result<Vec<Head>> {
    let mut heads: Vec<Head> = Vec::new();
    for (at, slot) in slots.iter().enumerate() {
        match *slot {
            Slot::Head { plain, offset, block } => {
                let start = at as u64 * BLOCK_BYTES + u64::from(offset);
                // A head at the end only says where the last extent ends.
                if start < inode.size {
                    heads.push(Head { start, plain, block, blocks: 1 });
                }
            }
            Slot::Next { back, .. } if back & BLOCK_COUNT_FLAG != 0 => match heads.last_mut() {
                Some(head) => head.blocks = u32::from(back & !BLOCK_COUNT_FLAG),
                None => return Err(inode.refuse("its index begins in the middle of an extent")),
            },
            Slot::Next { .. } => {}
        }
    }
    if heads.first().is_none_or(|head| head.start != 0) {
        return Err(inode.refuse("its index begins in the middle of an extent"));
    }
    Ok(heads)
}

/// The bytes of one extent, which is not in the packed inode.
///
/// # Errors
/// When reading or unpacking fails, or gives another length than the map says.
pub(super) fn unpack(image: &Image<'_>, inode: &Inode, extent: &Extent) -> Result<Vec<u8>> {
    let length = extent.length as usize;
    match extent.place {
        Place::Plain(offset) => image.bytes(offset, length, "data", inode),
        Place::Interlaced(offset) => {
            let mut block = image.bytes(offset, BLOCK, "data", inode)?;
            block.rotate_left((extent.start % BLOCK_BYTES) as usize);
            block.truncate(length);
            Ok(block)
        }
        Place::Zstd(offset, stored) => {
            let bytes = image.bytes(offset, stored as usize, "data", inode)?;
            let padding = bytes.iter().position(|byte| *byte != 0).unwrap_or(bytes.len());
            let frame = bytes.get(padding..).unwrap_or_default();
            let unpacked = zstd::bulk::decompress(frame, length)
                .map_err(|e| inode.refuse(format!("unpacking {length} bytes from {offset}: {e}")))?;
            if unpacked.len() != length {
                return Err(inode.refuse(format!("{} bytes at {offset}, expected {length}", unpacked.len())));
            }
            Ok(unpacked)
        }
        Place::Packed(_) => Err(inode.refuse("the packed inode has a part in the packed inode")),
    }
}
