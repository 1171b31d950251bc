//! First pass: how each inode is stored and where. Nothing is written yet.

use std::collections::BTreeMap;

use super::contents::Stored;
use super::index;
use super::inodes::Inode;
use super::layout::{
    BLOCK, CompactInode, ExtendedInode, LAYOUT_COMPRESSED, LAYOUT_INLINE, LAYOUT_PLAIN, MapHeader, SLOT, SUPER_OFFSET,
    SuperBlock, ZstdConfig, device_number,
};
use super::pack::Record;
use super::xattrs::Xattrs;
use crate::error::{Error, Kind, Result};
use crate::tree::{ContentId, Node};

/// How many unfilled block ends are remembered.
const MAX_GAPS: usize = 64;

/// What follows an inode and its attributes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Behind {
    Nothing,
    /// This many bytes of data, in the same block.
    Tail(usize),
    /// Map header and index of this many logical clusters.
    Index(u64),
    /// A map header that tells the offset in the packed inode.
    Whole(u64),
}

/// What an inode's blocks hold.
#[derive(Debug, Clone, Copy)]
pub(super) enum Blocks<'a> {
    /// None: empty, or all of it behind the inode, or a device number.
    Device(u32),
    /// Folder entries or a link's target.
    Own(u64),
    /// A content from the cache.
    Content(ContentId, &'a Record),
    /// All groups.
    Packed,
}

/// One inode's place.
#[derive(Debug, Clone)]
pub(super) struct Place<'a> {
    /// Byte offset; a multiple of [`SLOT`].
    pub offset: u64,
    pub extended: bool,
    pub size: u64,
    pub blocks: Blocks<'a>,
    pub behind: Behind,
    /// First block of [`Blocks::Own`], from the first block behind the inodes and shared attributes on.
    pub own_block: u64,
}

impl Place<'_> {
    /// Number of the inode.
    pub fn nid(&self) -> u64 {
        self.offset / SLOT as u64
    }

    /// Bytes of the inode itself.
    pub fn head(&self) -> usize {
        if self.extended { size_of::<ExtendedInode>() } else { size_of::<CompactInode>() }
    }

    /// Number of the data layout.
    pub fn layout(&self) -> u16 {
        match self.behind {
            Behind::Nothing => LAYOUT_PLAIN,
            Behind::Tail(_) => LAYOUT_INLINE,
            Behind::Index(_) | Behind::Whole(_) => LAYOUT_COMPRESSED,
        }
    }
}

/// All places.
#[derive(Debug)]
pub(super) struct Plan<'a> {
    /// In the order of the inodes.
    pub places: Vec<Place<'a>>,
    /// The packed inode, where there is one.
    pub packed: Option<Place<'a>>,
    /// Modification time of inodes that do not tell their own.
    pub mtime: i64,
    /// Blocks that hold inodes.
    pub inode_blocks: u64,
    /// Blocks of folders and long links.
    pub own_blocks: u64,
}

/// Finds a place for every inode. `latest` bounds modification times.
///
/// # Errors
/// When an inode with its attributes does not fit into the format.
pub(super) fn place<'a>(inodes: &[Inode<'a>], xattrs: &Xattrs, stored: &'a Stored, latest: i64) -> Result<Plan<'a>> {
    let mtime = most_common_time(inodes, latest);
    let mut room = Room::new();
    let mut own_blocks = 0;
    let mut places = Vec::with_capacity(inodes.len());
    for (inode, own) in inodes.iter().zip(&xattrs.own) {
        let mut place = describe(inode, stored)?;
        place.extended = place.size > u64::from(u32::MAX)
            || inode.entry.uid > u32::from(u16::MAX)
            || inode.entry.gid > u32::from(u16::MAX)
            || inode.links > u32::from(u16::MAX)
            || inode.entry.mtime.min(latest) != mtime;
        keep_in_block(&mut place, own.len(), inode)?;
        place.offset = room.take(total(&place, own.len()), unbroken(&place, own.len()));
        if let Blocks::Own(blocks) = place.blocks {
            place.own_block = own_blocks;
            own_blocks += blocks;
        }
        places.push(place);
    }
    let packed = (stored.packed_size > 0).then(|| {
        let mut place = Place {
            offset: 0,
            extended: stored.packed_size > u64::from(u32::MAX),
            size: stored.packed_size,
            blocks: Blocks::Packed,
            behind: Behind::Index(stored.packed_size.div_ceil(BLOCK as u64)),
            own_block: 0,
        };
        place.offset = room.take(total(&place, 0), unbroken(&place, 0));
        place
    });
    Ok(Plan { places, packed, mtime, inode_blocks: room.end.div_ceil(BLOCK as u64), own_blocks })
}

/// The time that most inodes have: those need 32 bytes each, the others 64.
fn most_common_time(inodes: &[Inode<'_>], latest: i64) -> i64 {
    let mut counts: BTreeMap<i64, usize> = BTreeMap::new();
    for inode in inodes {
        *counts.entry(inode.entry.mtime.min(latest)).or_default() += 1;
    }
    counts.into_iter().filter(|(time, _)| *time >= 0).max_by_key(|(_, count)| *count).map_or(0, |(time, _)| time)
}

fn describe<'a>(inode: &Inode<'a>, stored: &'a Stored) -> Result<Place<'a>> {
    let (size, blocks, behind) = match &inode.entry.node {
        Node::Folder => {
            let size = folder_size(&inode.children);
            (size, Blocks::Own(size / BLOCK as u64), Behind::Tail((size % BLOCK as u64) as usize))
        }
        Node::Link(target) => (target.len() as u64, Blocks::Own(0), Behind::Tail(target.len())),
        Node::Character(major, minor) | Node::Block(major, minor) => {
            (0, Blocks::Device(device_number(*major, *minor)), Behind::Nothing)
        }
        Node::Fifo => (0, Blocks::Device(0), Behind::Nothing),
        Node::File { size: 0, .. } => (0, Blocks::Own(0), Behind::Nothing),
        Node::File { size, content, .. } => content_place(*content, *size, stored)
            .ok_or_else(|| Error::new(Kind::Failed, format!("sealing content {content:?}: it was not stored")))?,
    };
    Ok(Place { offset: 0, extended: false, size, blocks, behind, own_block: 0 })
}

fn content_place(content: ContentId, size: u64, stored: &Stored) -> Option<(u64, Blocks<'_>, Behind)> {
    let Some(record) = stored.large.get(&content) else {
        return Some((size, Blocks::Own(0), Behind::Whole(*stored.packed.get(&content)?)));
    };
    let behind = match (record.shape.is_flat(), record.shape.tail) {
        (true, 0) => Behind::Nothing,
        (true, tail) => Behind::Tail(tail),
        (false, _) => Behind::Index(size.div_ceil(BLOCK as u64)),
    };
    Some((size, Blocks::Content(content, record), behind))
}

/// Moves the tail of a folder or link to a block of its own where it does not fit behind the inode.
fn keep_in_block(place: &mut Place<'_>, own: usize, inode: &Inode<'_>) -> Result<()> {
    let Behind::Tail(tail) = place.behind else { return Ok(()) };
    if tail == 0 {
        place.behind = Behind::Nothing;
    } else if place.head() + own + tail > BLOCK {
        let Blocks::Own(blocks) = place.blocks else {
            let path = String::from_utf8_lossy(inode.path);
            return Err(Error::new(
                Kind::Failed,
                format!("the tree cannot be sealed: /{path}: its attributes take {own} bytes beside a tail of {tail}"),
            ));
        };
        place.blocks = Blocks::Own(blocks + 1);
        place.behind = Behind::Nothing;
    }
    Ok(())
}

/// Where the map header is, counted from the inode.
pub(super) fn map_header(head: usize, own: usize) -> usize {
    (head + own).next_multiple_of(8)
}

/// Bytes of the inode with all that follows it.
fn total(place: &Place<'_>, own: usize) -> usize {
    let header = map_header(place.head(), own) + size_of::<MapHeader>();
    match place.behind {
        Behind::Nothing => place.head() + own,
        Behind::Tail(tail) => place.head() + own + tail,
        Behind::Whole(_) => header,
        Behind::Index(slots) => header + index::size(header as u64, slots) as usize,
    }
}

/// How many of them must be in one block.
fn unbroken(place: &Place<'_>, own: usize) -> usize {
    match place.behind {
        Behind::Tail(tail) => place.head() + own + tail,
        _ => place.head(),
    }
}

/// Bytes of a folder's data: each block's entries and names, all but the last block full.
fn folder_size(children: &[(&[u8], usize)]) -> u64 {
    let blocks = folder_blocks(children);
    let last = blocks.last().map_or(0, |last| last.iter().map(|(name, _)| 12 + name.len()).sum::<usize>());
    (blocks.len().saturating_sub(1) * BLOCK + last) as u64
}

/// The entries of each block of a folder.
pub(super) fn folder_blocks<'c, 'a>(children: &'c [(&'a [u8], usize)]) -> Vec<&'c [(&'a [u8], usize)]> {
    let mut blocks = Vec::new();
    let (mut start, mut used) = (0, 0);
    for (at, (name, _)) in children.iter().enumerate() {
        let size = 12 + name.len();
        if used + size > BLOCK {
            blocks.extend(children.get(start..at));
            (start, used) = (at, 0);
        }
        used += size;
    }
    blocks.extend(children.get(start..).filter(|rest| !rest.is_empty()));
    blocks
}

/// Hands out places for inodes: one after the other, and in what earlier ones left at the end of
/// their block.
struct Room {
    end: u64,
    gaps: Vec<(u64, usize)>,
}

impl Room {
    fn new() -> Self {
        let taken = SUPER_OFFSET + size_of::<SuperBlock>() + size_of::<ZstdConfig>();
        Self { end: taken.next_multiple_of(SLOT) as u64, gaps: Vec::new() }
    }

    /// A place for `total` bytes of which the first `unbroken` must not cross a block.
    fn take(&mut self, total: usize, unbroken: usize) -> u64 {
        let total = total.next_multiple_of(SLOT);
        if let Some(at) = self.gaps.iter().position(|(_, length)| *length >= total) {
            let (offset, length) = self.gaps.remove(at);
            if length > total {
                self.gaps.insert(at, (offset + total as u64, length - total));
            }
            return offset;
        }
        let left = BLOCK - (self.end % BLOCK as u64) as usize;
        if unbroken > left {
            if self.gaps.len() == MAX_GAPS {
                self.gaps.remove(0);
            }
            self.gaps.push((self.end, left));
            self.end += left as u64;
        }
        let offset = self.end;
        self.end += total as u64;
        offset
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_fills_gaps_and_never_breaks_what_must_hold_together() {
        let mut room = Room::new();
        let first = room.take(64, 64);
        assert_eq!(first, 1184);
        let tail = room.take(3000, 3000);
        assert_eq!(tail, 4096);
        assert_eq!(room.take(64, 64), 1248, "the gap is used");
        let index = room.take(9000, 64);
        assert_eq!(index, 4096 + 3008, "an index may cross blocks");
    }

    #[test]
    fn folders_split_where_a_block_is_full() {
        let names: Vec<Vec<u8>> = (0..400).map(|number| format!("name-{number:03}").into_bytes()).collect();
        let children: Vec<(&[u8], usize)> = names.iter().map(|name| (name.as_slice(), 0)).collect();
        let blocks = folder_blocks(&children);
        assert_eq!(blocks.iter().map(|block| block.len()).collect::<Vec<_>>(), [204, 196]);
        assert_eq!(folder_size(&children), (4096 + 196 * 20) as u64);
        assert_eq!(folder_size(&[]), 0);
    }
}
