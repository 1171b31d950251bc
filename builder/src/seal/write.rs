//! Second pass: the bytes. Inodes, attributes and folders are built in memory (a few MiB), file
//! data stay where the cache has them.

use std::collections::BTreeMap;

use zerocopy::IntoBytes;
use zerocopy::little_endian::{U16, U32, U64};

use super::compress::{Cluster, WINDOW_LOG, hash_blocks};
use super::contents::Stored;
use super::index;
use super::inodes::Inode;
use super::layout::{
    ADVISE_BIG_CLUSTERS, ADVISE_FRAGMENT, ADVISE_TWO_BYTES, ALGORITHM_ZSTD, BLOCK, BLOCK_BITS, COMPAT_CHECKSUM, COMPAT_MTIME,
    CompactInode, Dirent, ExtendedInode, FORMAT_EXTENDED, FORMAT_LAYOUT_SHIFT, INCOMPAT_BIG_CLUSTERS, INCOMPAT_FRAGMENTS,
    INCOMPAT_ZERO_PADDING, MapHeader, SUPER_MAGIC, SUPER_OFFSET, SuperBlock, WHOLE_FRAGMENT, ZstdConfig, dirent_kind, kind,
};
use super::pack::Record;
use super::place::{Behind, Blocks, Place, Plan, folder_blocks, map_header};
use super::verity::BlockHash;
use super::xattrs::Xattrs;
use crate::blob::{Blob, Extents};
use crate::error::{Error, Kind, Result};
use crate::tree::{ContentId, Node};

/// The finished file system.
#[derive(Debug)]
pub(super) struct Written {
    pub root: Extents,
    /// verity's hash of each block.
    pub leaves: Vec<BlockHash>,
    pub uuid: [u8; 16],
    /// Bytes of the part that was built in memory.
    pub metadata: u64,
}

/// What is to be written.
pub(super) struct Parts<'a> {
    pub inodes: &'a [Inode<'a>],
    pub xattrs: &'a Xattrs,
    pub stored: &'a Stored,
    pub plan: &'a Plan<'a>,
    pub volume: [u8; 16],
    pub latest: i64,
}

/// Where blocks begin.
struct Layout {
    xattr_block: u32,
    own_block: u32,
    contents: BTreeMap<ContentId, u32>,
    packed: u32,
    end: u32,
}

/// Writes everything.
///
/// # Errors
/// When the image would have more blocks than 32 bits count.
pub(super) fn write(parts: &Parts<'_>) -> Result<Written> {
    let mut root = Extents::default();
    let mut hashes = Vec::new();
    let layout = lay_out(parts, &mut root, &mut hashes)?;
    let mut head = vec![0; layout.own_block as usize * BLOCK + usize::try_from(parts.plan.own_blocks).unwrap_or(0) * BLOCK];
    let size = u64::from(layout.end) * BLOCK as u64;
    put(&mut head, layout.xattr_block as usize * BLOCK, &parts.xattrs.shared);
    for (number, ((inode, place), own)) in parts.inodes.iter().zip(&parts.plan.places).zip(&parts.xattrs.own).enumerate() {
        put_inode(&mut head, parts, &layout, (number, inode, place, own))?;
    }
    if let Some(place) = &parts.plan.packed {
        put_packed(&mut head, parts, &layout, place);
    }
    let mut super_block = super_block(parts, &layout);
    super_block.uuid = name_by(&head, &super_block, &hashes);
    put(&mut head, SUPER_OFFSET, super_block.as_bytes());
    let config = ZstdConfig { length: U16::new(6), format: 0, window_log: WINDOW_LOG - 10, reserved: [0; 4] };
    put(&mut head, SUPER_OFFSET + size_of::<SuperBlock>(), config.as_bytes());
    super_block.checksum = U32::new(checksum(head.get(SUPER_OFFSET..BLOCK).unwrap_or_default()));
    put(&mut head, SUPER_OFFSET, super_block.as_bytes());

    let mut leaves = hash_blocks(&head);
    leaves.append(&mut hashes);
    let mut image = Extents::new(size);
    let metadata = head.len() as u64;
    image.push(0, Blob::memory(head));
    for (offset, blob) in root.parts() {
        image.push(*offset, blob.clone());
    }
    Ok(Written { root: image, leaves, uuid: super_block.uuid, metadata })
}

/// CRC-32C without the final inversion, as the kernel computes it.
pub(super) fn checksum(bytes: &[u8]) -> u32 {
    !crc32c::crc32c(bytes)
}

/// A UUID that stands for the whole content.
fn name_by(head: &[u8], super_block: &SuperBlock, hashes: &[BlockHash]) -> [u8; 16] {
    let mut hasher = blake3::Hasher::new_derive_key("ingot erofs volume uuid 1");
    hasher.update(head).update(super_block.as_bytes()).update(hashes.as_flattened());
    let mut bytes = [0; 16];
    hasher.finalize_xof().fill(&mut bytes);
    uuid::Builder::from_custom_bytes(bytes).into_uuid().into_bytes()
}

fn lay_out(parts: &Parts<'_>, root: &mut Extents, hashes: &mut Vec<BlockHash>) -> Result<Layout> {
    let shared = parts.xattrs.shared.len().div_ceil(BLOCK) as u64;
    let own = parts.plan.inode_blocks + shared;
    let mut next = own + parts.plan.own_blocks;
    let number = |block: u64| {
        u32::try_from(block)
            .map_err(|_| Error::new(Kind::Failed, format!("sealing the root: {block} blocks are more than erofs counts")))
    };
    let mut take = |record: &Record, next: &mut u64| -> Result<u32> {
        let first = number(*next)?;
        root.push(*next * BLOCK as u64, record.blocks());
        hashes.extend_from_slice(&record.shape.hashes);
        *next += record.shape.hashes.len() as u64;
        Ok(first)
    };
    let mut contents = BTreeMap::new();
    for place in &parts.plan.places {
        if let Blocks::Content(id, record) = place.blocks
            && !contents.contains_key(&id)
        {
            contents.insert(id, take(record, &mut next)?);
        }
    }
    let packed = number(next)?;
    for group in &parts.stored.groups {
        take(&group.record, &mut next)?;
    }
    Ok(Layout { xattr_block: number(parts.plan.inode_blocks)?, own_block: number(own)?, contents, packed, end: number(next)? })
}

fn super_block(parts: &Parts<'_>, layout: &Layout) -> SuperBlock {
    let fragments = if parts.plan.packed.is_some() { INCOMPAT_FRAGMENTS } else { 0 };
    SuperBlock {
        magic: U32::new(SUPER_MAGIC),
        checksum: U32::ZERO,
        feature_compat: U32::new(COMPAT_CHECKSUM | COMPAT_MTIME),
        block_bits: BLOCK_BITS,
        extension_slots: 0,
        // The root is the first inode, so its number is small.
        root_nid: U16::new(parts.plan.places.first().map_or(0, Place::nid) as u16),
        inodes: U64::new(parts.inodes.len() as u64 + u64::from(parts.plan.packed.is_some())),
        epoch: U64::new(parts.plan.mtime.max(0).unsigned_abs()),
        epoch_nanoseconds: U32::ZERO,
        blocks: U32::new(layout.end),
        meta_block: U32::ZERO,
        xattr_block: U32::new(if parts.xattrs.shared.is_empty() { 0 } else { layout.xattr_block }),
        uuid: [0; 16],
        volume: parts.volume,
        feature_incompat: U32::new(INCOMPAT_ZERO_PADDING | INCOMPAT_BIG_CLUSTERS | fragments),
        algorithms: U16::new(1 << ALGORITHM_ZSTD),
        extra_devices: U16::ZERO,
        device_slot: U16::ZERO,
        folder_block_bits: 0,
        xattr_prefixes: 0,
        xattr_prefix_start: U32::ZERO,
        packed_nid: U64::new(parts.plan.packed.as_ref().map_or(0, Place::nid)),
        xattr_filter: 0,
        reserved: [0; 23],
    }
}

/// The fields that both forms of an inode have.
struct Fields {
    mode: u16,
    xattr_count: u16,
    links: u32,
    data: u32,
    number: u32,
    uid: u32,
    gid: u32,
    mtime: i64,
}

fn put_inode(
    head: &mut [u8],
    parts: &Parts<'_>,
    layout: &Layout,
    (number, inode, place, own): (usize, &Inode<'_>, &Place<'_>, &[u8]),
) -> Result<()> {
    let own_block = layout.own_block.saturating_add(place.own_block as u32);
    let data = match place.blocks {
        Blocks::Device(number) => number,
        Blocks::Own(0) | Blocks::Packed => 0,
        Blocks::Own(_) => own_block,
        Blocks::Content(id, record) => match place.behind {
            Behind::Index(_) => record.shape.hashes.len() as u32,
            _ if record.shape.hashes.is_empty() => 0,
            _ => layout.contents.get(&id).copied().unwrap_or(0),
        },
    };
    let fields = Fields {
        mode: inode.mode(),
        xattr_count: if own.is_empty() { 0 } else { 1 + (own.len() as u16 - 12) / 4 },
        links: inode.links,
        data,
        number: number as u32 + 1,
        uid: inode.entry.uid,
        gid: inode.entry.gid,
        mtime: inode.entry.mtime.min(parts.latest),
    };
    put_head(head, place, &fields);
    let behind = place.offset as usize + place.head();
    put(head, behind, own);
    match (place.behind, place.blocks) {
        (Behind::Whole(offset), _) => {
            let at = place.offset as usize + map_header(place.head(), own.len());
            put(head, at, &(WHOLE_FRAGMENT | offset).to_le_bytes());
        }
        (Behind::Index(_), Blocks::Content(id, record)) => {
            let first = layout.contents.get(&id).copied().unwrap_or(0);
            let fragment = if record.shape.tail > 0 { parts.stored.packed.get(&id).copied() } else { None };
            let slots = index::slots(&record.shape.clusters, first, record.shape.tail, place.size);
            put_index(head, place.offset as usize + map_header(place.head(), own.len()), &slots, fragment);
        }
        (Behind::Tail(length), Blocks::Content(_, record)) => {
            let tail = record.tail().filter(|tail| tail.len() == length).ok_or_else(|| {
                let path = String::from_utf8_lossy(inode.path);
                Error::new(Kind::Failed, format!("sealing /{path}: its record in the cluster cache changed while it was read"))
                    .hint("build again: the damaged record will be noticed and made anew")
            })?;
            put(head, behind + own.len(), &tail);
        }
        _ => {
            let bytes = own_bytes(inode, parts);
            let tail = if let Behind::Tail(tail) = place.behind { tail } else { 0 };
            let (blocks, tail) = bytes.split_at(bytes.len() - tail.min(bytes.len()));
            put(head, own_block as usize * BLOCK, blocks);
            put(head, behind + own.len(), tail);
        }
    }
    Ok(())
}

/// The data of a folder or a link.
fn own_bytes(inode: &Inode<'_>, parts: &Parts<'_>) -> Vec<u8> {
    match &inode.entry.node {
        Node::Link(target) => target.clone(),
        Node::Folder => {
            let mut bytes = Vec::new();
            for block in folder_blocks(&inode.children) {
                bytes.resize(bytes.len().next_multiple_of(BLOCK), 0);
                put_folder_block(&mut bytes, block, parts);
            }
            bytes
        }
        _ => Vec::new(),
    }
}

fn put_folder_block(bytes: &mut Vec<u8>, block: &[(&[u8], usize)], parts: &Parts<'_>) {
    let mut name_offset = block.len() * size_of::<Dirent>();
    for (name, number) in block {
        let mode = parts.inodes.get(*number).map_or(0, Inode::mode);
        let dirent = Dirent {
            nid: U64::new(parts.plan.places.get(*number).map_or(0, Place::nid)),
            name_offset: U16::new(name_offset as u16),
            kind: dirent_kind(mode),
            reserved: 0,
        };
        bytes.extend_from_slice(dirent.as_bytes());
        name_offset += name.len();
    }
    block.iter().for_each(|(name, _)| bytes.extend_from_slice(name));
}

fn put_packed(head: &mut [u8], parts: &Parts<'_>, layout: &Layout, place: &Place<'_>) {
    let records = || parts.stored.groups.iter().map(|group| &group.record.shape);
    let clusters: Vec<Cluster> = records().flat_map(|shape| shape.clusters.iter().copied()).collect();
    let blocks: usize = records().map(|shape| shape.hashes.len()).sum();
    let fields = Fields {
        mode: kind::FILE | 0o600,
        xattr_count: 0,
        links: 1,
        data: blocks as u32,
        number: parts.inodes.len() as u32 + 1,
        uid: 0,
        gid: 0,
        mtime: parts.plan.mtime,
    };
    put_head(head, place, &fields);
    let slots = index::slots(&clusters, layout.packed, 0, place.size);
    put_index(head, place.offset as usize + map_header(place.head(), 0), &slots, None);
}

fn put_head(head: &mut [u8], place: &Place<'_>, fields: &Fields) {
    let version = if place.extended { FORMAT_EXTENDED } else { 0 };
    let format = U16::new(place.layout() << FORMAT_LAYOUT_SHIFT | version);
    let (xattr_count, mode) = (U16::new(fields.xattr_count), U16::new(fields.mode));
    let (data, number) = (U32::new(fields.data), U32::new(fields.number));
    let at = place.offset as usize;
    if place.extended {
        let inode = ExtendedInode {
            format,
            xattr_count,
            mode,
            reserved: U16::ZERO,
            size: U64::new(place.size),
            data,
            number,
            uid: U32::new(fields.uid),
            gid: U32::new(fields.gid),
            mtime: U64::new(fields.mtime as u64),
            mtime_nanoseconds: U32::ZERO,
            links: U32::new(fields.links),
            reserved2: [0; 16],
        };
        put(head, at, inode.as_bytes());
    } else {
        let inode = CompactInode {
            format,
            xattr_count,
            mode,
            links: U16::new(fields.links as u16),
            size: U32::new(place.size as u32),
            mtime: U32::ZERO,
            data,
            number,
            uid: U16::new(fields.uid as u16),
            gid: U16::new(fields.gid as u16),
            reserved: U32::ZERO,
        };
        put(head, at, inode.as_bytes());
    }
}

fn put_index(head: &mut [u8], at: usize, slots: &[index::Slot], fragment: Option<u64>) {
    let advise = ADVISE_TWO_BYTES | ADVISE_BIG_CLUSTERS | if fragment.is_some() { ADVISE_FRAGMENT } else { 0 };
    let header = MapHeader {
        fragment: U32::new(fragment.unwrap_or(0) as u32),
        advise: U16::new(advise),
        algorithms: ALGORITHM_ZSTD,
        cluster_bits: 0,
    };
    put(head, at, header.as_bytes());
    let start = at + size_of::<MapHeader>();
    put(head, start, &index::encode(slots, start as u64));
}

/// Places come from the first pass, which counted the same bytes: nothing lies beyond the end.
fn put(head: &mut [u8], at: usize, bytes: &[u8]) {
    debug_assert!(at + bytes.len() <= head.len(), "{at} + {} > {}", bytes.len(), head.len());
    if let Some(place) = head.get_mut(at..at.saturating_add(bytes.len())) {
        place.copy_from_slice(bytes);
    }
}
