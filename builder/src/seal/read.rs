//! An independent reader of erofs images, for images nobody vouches for: every offset is checked,
//! every size bounded, and a wrong image gives an error that names inode, found and expected.
//! It knows zstd, compact and full indexes, inline tails and the packed inode; not chunks, devices
//! or other algorithms.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::sync::{Mutex, PoisonError};

use zerocopy::{FromBytes, Immutable, KnownLayout};

use super::entries::{folder_block, take_xattr};
use super::extents::{self, Place};
pub use super::extents::{Extent, Place as ExtentPlace};
use super::layout::{
    BLOCK, BLOCK_BITS, COMPAT_CHECKSUM, CompactInode, ExtendedInode, FORMAT_EXTENDED, FORMAT_LAYOUT_SHIFT, INCOMPAT_KNOWN, SLOT,
    SUPER_MAGIC, SUPER_OFFSET, SuperBlock, XattrEntry, XattrHeader, device_parts, kind,
};
use super::write::checksum;
use crate::error::{Error, Kind, Result};
pub use crate::read_at::ReadAt;
use crate::tree::{ContentId, Entry, Node, Tree};

/// Largest folder that is read, in bytes.
const MAX_FOLDER: u64 = 64 << 20;
/// Most names in an image.
const MAX_NAMES: usize = 4 << 20;

/// An inode as it was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inode {
    /// Its number.
    pub nid: u64,
    /// Type and permissions.
    pub mode: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Modification time in seconds since 1970.
    pub mtime: i64,
    /// Hard links.
    pub links: u32,
    /// Bytes.
    pub size: u64,
    /// Number of the data layout (`LAYOUT_*`).
    pub layout: u16,
    /// Whether it takes 64 bytes.
    pub extended: bool,
    /// First block, blocks or device number.
    pub data: u32,
    /// Where its attributes are, and their bytes.
    xattrs: (u64, usize),
    /// What follows the attributes.
    pub(super) behind: u64,
}

impl Inode {
    /// Its type, one of [`kind`].
    pub fn kind(&self) -> u16 {
        self.mode & kind::MASK
    }

    pub(super) fn refuse(&self, what: impl std::fmt::Display) -> Error {
        Error::new(Kind::Failed, format!("reading erofs inode {}: {what}", self.nid))
    }
}

/// A name in a folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Name {
    /// The name.
    pub name: Vec<u8>,
    /// The inode.
    pub nid: u64,
}

/// An opened image.
pub struct Image<'a> {
    source: &'a dyn ReadAt,
    super_block: SuperBlock,
    /// Extents of the packed inode, and the one that was unpacked last.
    packed: Option<Packed>,
}

struct Packed {
    inode: Inode,
    extents: Vec<Extent>,
    last: Mutex<(usize, Vec<u8>)>,
}

impl std::fmt::Debug for Image<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Image").field("super_block", &self.super_block).finish_non_exhaustive()
    }
}

impl<'a> Image<'a> {
    /// Opens the image in `source`: checks the superblock and reads the map of the packed inode.
    ///
    /// # Errors
    /// When it is no erofs, is cut short, has a wrong checksum or needs features that are not known.
    pub fn open(source: &'a dyn ReadAt) -> Result<Self> {
        let refuse = |what: String| Error::new(Kind::Failed, format!("reading the erofs superblock: {what}"));
        let mut block = vec![0; BLOCK];
        source.read_exact_at(&mut block, 0).map_err(|e| refuse(e.to_string()))?;
        let area = block.get_mut(SUPER_OFFSET..).unwrap_or_default();
        let (super_block, _) = SuperBlock::read_from_prefix(area).map_err(|e| refuse(e.to_string()))?;
        let magic = super_block.magic.get();
        if magic != SUPER_MAGIC {
            return Err(refuse(format!("the magic number is {magic:08x}, expected {SUPER_MAGIC:08x}")));
        }
        if super_block.block_bits != BLOCK_BITS || super_block.folder_block_bits != 0 {
            return Err(refuse(format!("blocks of 2^{} bytes, expected 2^{BLOCK_BITS}", super_block.block_bits)));
        }
        let unknown = super_block.feature_incompat.get() & !INCOMPAT_KNOWN;
        if unknown != 0 || super_block.extra_devices.get() != 0 {
            return Err(refuse(format!("features {unknown:#x} and {} devices are not known", super_block.extra_devices)));
        }
        let size = u64::from(super_block.blocks.get()) * BLOCK as u64;
        if size > source.size() {
            return Err(refuse(format!("it tells of {size} bytes, there are {}", source.size())));
        }
        if super_block.feature_compat.get() & COMPAT_CHECKSUM != 0 {
            area.get_mut(4..8).unwrap_or_default().fill(0);
            let (found, wanted) = (super_block.checksum.get(), checksum(area));
            if found != wanted {
                return Err(refuse(format!("the checksum is {found:08x}, expected {wanted:08x}")));
            }
        }
        let mut image = Self { source, super_block, packed: None };
        let packed = image.super_block.packed_nid.get();
        if packed > 0 {
            let inode = image.inode(packed)?;
            let extents = extents::extents(&image, &inode)?;
            image.packed = Some(Packed { inode, extents, last: Mutex::new((usize::MAX, Vec::new())) });
        }
        Ok(image)
    }

    /// The superblock.
    pub fn super_block(&self) -> &SuperBlock {
        &self.super_block
    }

    /// Bytes of the file system.
    pub fn size(&self) -> u64 {
        u64::from(self.super_block.blocks.get()) * BLOCK as u64
    }

    /// The root folder.
    ///
    /// # Errors
    /// See [`Image::inode`].
    pub fn root(&self) -> Result<Inode> {
        self.inode(self.super_block.root_nid.get().into())
    }

    /// The packed inode, where there is one.
    pub fn packed(&self) -> Option<&Inode> {
        self.packed.as_ref().map(|packed| &packed.inode)
    }

    /// The inode of this number.
    ///
    /// # Errors
    /// When it lies outside of the image or is of an unknown form.
    pub fn inode(&self, nid: u64) -> Result<Inode> {
        let blank = Inode {
            nid,
            mode: 0,
            uid: 0,
            gid: 0,
            mtime: 0,
            links: 0,
            size: 0,
            layout: 0,
            extended: false,
            data: 0,
            xattrs: (0, 0),
            behind: 0,
        };
        let base = u64::from(self.super_block.meta_block.get()) * BLOCK as u64;
        let at = nid.checked_mul(SLOT as u64).and_then(|offset| offset.checked_add(base));
        let at = at.ok_or_else(|| blank.refuse("its number leads out of the image"))?;
        let compact: CompactInode = self.structure(at, "inode", &blank)?;
        let format = compact.format.get();
        let mut inode = Inode { layout: format >> FORMAT_LAYOUT_SHIFT & 7, mode: compact.mode.get(), ..blank };
        let (count, head) = if format & FORMAT_EXTENDED == 0 {
            inode.size = compact.size.get().into();
            (inode.uid, inode.gid, inode.links) =
                (compact.uid.get().into(), compact.gid.get().into(), compact.links.get().into());
            inode.mtime = self.super_block.epoch.get() as i64;
            inode.data = compact.data.get();
            (compact.xattr_count.get(), size_of::<CompactInode>())
        } else {
            let found: ExtendedInode = self.structure(at, "inode", &inode)?;
            inode.extended = true;
            inode.size = found.size.get();
            (inode.uid, inode.gid, inode.links) = (found.uid.get(), found.gid.get(), found.links.get());
            inode.mtime = found.mtime.get() as i64;
            inode.data = found.data.get();
            (found.xattr_count.get(), size_of::<ExtendedInode>())
        };
        if format >> 4 != 0 {
            return Err(inode.refuse(format!("its format is {format:#x}, expected at most 0xf")));
        }
        let own = if count == 0 { 0 } else { size_of::<XattrHeader>() + 4 * (usize::from(count) - 1) };
        inode.xattrs = (at + head as u64, own);
        inode.behind = at + (head + own) as u64;
        Ok(inode)
    }

    /// The extents of an inode's data.
    ///
    /// # Errors
    /// When its map contradicts itself or leads out of the image.
    pub fn extents(&self, inode: &Inode) -> Result<Vec<Extent>> {
        extents::extents(self, inode)
    }

    /// Writes the data of `inode` to `out`, extent by extent.
    ///
    /// # Errors
    /// When the image is wrong, or writing fails.
    pub fn copy(&self, inode: &Inode, out: &mut dyn Write) -> Result<()> {
        for extent in self.extents(inode)? {
            self.copy_extent(inode, &extent, out)?;
        }
        Ok(())
    }

    fn copy_extent(&self, inode: &Inode, extent: &Extent, out: &mut dyn Write) -> Result<()> {
        let mut put = |bytes: &[u8]| out.write_all(bytes).map_err(|e| inode.refuse(format!("writing its data: {e}")));
        match extent.place {
            Place::Packed(offset) => self.copy_packed(inode, (offset, extent.length), &mut put),
            Place::Plain(offset) => {
                let mut done = 0;
                while done < extent.length {
                    let part = (extent.length - done).min(1 << 20);
                    put(&self.bytes(offset + done, part as usize, "data", inode)?)?;
                    done += part;
                }
                Ok(())
            }
            Place::Zstd(..) | Place::Interlaced(_) => put(&extents::unpack(self, inode, extent)?),
        }
    }

    fn copy_packed(&self, inode: &Inode, (offset, length): (u64, u64), put: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
        let packed = self.packed.as_ref().ok_or_else(|| inode.refuse("there is no packed inode"))?;
        let (mut at, end) = (offset, offset.saturating_add(length));
        while at < end {
            let number = packed.extents.partition_point(|extent| extent.start <= at).saturating_sub(1);
            let extent = packed.extents.get(number).ok_or_else(|| inode.refuse("the packed inode is empty"))?;
            let mut last = packed.last.lock().unwrap_or_else(PoisonError::into_inner);
            if last.0 != number {
                *last = (usize::MAX, Vec::new());
                *last = (number, extents::unpack(self, &packed.inode, extent)?);
            }
            let from = (at - extent.start) as usize;
            let to = (end - extent.start).min(last.1.len() as u64) as usize;
            let part = last.1.get(from..to).filter(|part| !part.is_empty());
            put(part.ok_or_else(|| inode.refuse(format!("the packed inode ends before {end}")))?)?;
            at = extent.start + to as u64;
        }
        Ok(())
    }

    /// The data of `inode`, at most `limit` bytes.
    ///
    /// # Errors
    /// When there are more, or the image is wrong.
    pub fn read(&self, inode: &Inode, limit: u64) -> Result<Vec<u8>> {
        if inode.size > limit {
            return Err(inode.refuse(format!("it has {} bytes, at most {limit} are read", inode.size)));
        }
        let mut bytes = Vec::new();
        self.copy(inode, &mut bytes)?;
        Ok(bytes)
    }

    /// The names in a folder, without `.` and `..`, in their order.
    ///
    /// # Errors
    /// When it is no folder, or names are out of order, double or not within their block.
    pub fn folder(&self, inode: &Inode) -> Result<Vec<Name>> {
        if inode.kind() != kind::FOLDER {
            return Err(inode.refuse(format!("its mode is {:o}, no folder's", inode.mode)));
        }
        let bytes = self.read(inode, MAX_FOLDER)?;
        let mut names: Vec<Name> = Vec::new();
        for block in bytes.chunks(BLOCK) {
            folder_block(inode, block, &mut names)?;
        }
        if let Some([first, _]) = names.array_windows::<2>().find(|[first, second]| first.name >= second.name) {
            return Err(inode.refuse(format!("names out of order after `{}`", String::from_utf8_lossy(&first.name))));
        }
        names.retain(|name| name.name != b"." && name.name != b"..");
        Ok(names)
    }

    /// The inode at `path`, whose parts are separated by `/`; links are not followed.
    ///
    /// # Errors
    /// When the image is wrong. A name that is not there is `None`.
    pub fn lookup(&self, path: &[u8]) -> Result<Option<Inode>> {
        let mut inode = self.root()?;
        for part in path.split(|byte| *byte == b'/').filter(|part| !part.is_empty()) {
            if inode.kind() != kind::FOLDER {
                return Ok(None);
            }
            let names = self.folder(&inode)?;
            match names.binary_search_by(|name| name.name.as_slice().cmp(part)).ok().and_then(|at| names.get(at)) {
                Some(name) => inode = self.inode(name.nid)?,
                None => return Ok(None),
            }
        }
        Ok(Some(inode))
    }

    /// Calls `visit` with path (without leading `/`) and inode of everything, folders before what they hold.
    ///
    /// # Errors
    /// When the image is wrong (also: a folder that holds itself), or `visit` says so.
    pub fn walk(&self, visit: &mut dyn FnMut(&[u8], &Inode) -> Result<()>) -> Result<()> {
        let mut folders = BTreeSet::new();
        let mut seen = 0;
        let mut waiting = vec![(Vec::new(), self.root()?)];
        while let Some((path, inode)) = waiting.pop() {
            visit(&path, &inode)?;
            if inode.kind() != kind::FOLDER {
                continue;
            }
            if !folders.insert(inode.nid) {
                return Err(inode.refuse(format!("the folder /{} has two names", String::from_utf8_lossy(&path))));
            }
            let names = self.folder(&inode)?;
            seen += names.len();
            if seen > MAX_NAMES {
                return Err(inode.refuse(format!("there are more than {MAX_NAMES} names")));
            }
            for name in names.into_iter().rev() {
                let path = if path.is_empty() { name.name } else { [path.as_slice(), b"/", &name.name].concat() };
                waiting.push((path, self.inode(name.nid)?));
            }
        }
        Ok(())
    }

    /// The extended attributes of an inode by full name.
    ///
    /// # Errors
    /// When they are not within the inode, or have unknown prefixes.
    pub fn xattrs(&self, inode: &Inode) -> Result<BTreeMap<Vec<u8>, Vec<u8>>> {
        let mut found = BTreeMap::new();
        let (at, length) = inode.xattrs;
        if length == 0 {
            return Ok(found);
        }
        let bytes = self.bytes(at, length, "attributes", inode)?;
        let broken = || inode.refuse("its attributes are cut short");
        let (header, mut rest) = XattrHeader::ref_from_prefix(&bytes).map_err(|_| broken())?;
        let base = u64::from(self.super_block.xattr_block.get()) * BLOCK as u64;
        for _ in 0..header.shared {
            let (id, after) = rest.split_first_chunk::<4>().ok_or_else(broken)?;
            rest = after;
            let at = base + u64::from(u32::from_le_bytes(*id)) * 4;
            let entry: XattrEntry = self.structure(at, "shared attribute", inode)?;
            let length = size_of::<XattrEntry>() + usize::from(entry.name_length) + usize::from(entry.value_length.get());
            take_xattr(inode, &self.bytes(at, length, "shared attribute", inode)?, &mut found)?;
        }
        while !rest.is_empty() {
            let used = take_xattr(inode, rest, &mut found)?.next_multiple_of(4);
            rest = rest.get(used..).ok_or_else(broken)?;
        }
        Ok(found)
    }

    /// The whole image as a tree, with the digest of every file.
    ///
    /// # Errors
    /// When any part of the image is wrong.
    pub fn tree(&self) -> Result<Tree> {
        let mut tree = Tree::default();
        let mut contents: BTreeMap<u64, ContentId> = BTreeMap::new();
        self.walk(&mut |path, inode| {
            let node = match inode.kind() {
                kind::FOLDER => Node::Folder,
                kind::FILE => {
                    let content = match contents.get(&inode.nid) {
                        Some(content) => *content,
                        None => {
                            let mut hasher = blake3::Hasher::new();
                            self.copy(inode, &mut hasher)?;
                            ContentId(*hasher.finalize().as_bytes())
                        }
                    };
                    contents.insert(inode.nid, content);
                    Node::File { size: inode.size, content, link: (inode.links > 1).then_some(inode.nid) }
                }
                kind::LINK => Node::Link(self.read(inode, BLOCK as u64)?),
                kind::CHARACTER => {
                    let (major, minor) = device_parts(inode.data);
                    Node::Character(major, minor)
                }
                kind::BLOCK => {
                    let (major, minor) = device_parts(inode.data);
                    Node::Block(major, minor)
                }
                kind::FIFO => Node::Fifo,
                _ => return Err(inode.refuse(format!("its mode is {:o}", inode.mode))),
            };
            let entry = Entry {
                mode: u32::from(inode.mode & !kind::MASK),
                uid: inode.uid,
                gid: inode.gid,
                mtime: inode.mtime,
                xattrs: self.xattrs(inode)?,
                node,
            };
            tree.entries.insert(path.to_vec(), entry);
            Ok(())
        })?;
        Ok(tree)
    }

    /// `length` bytes of the image at `at`.
    pub(super) fn bytes(&self, at: u64, length: usize, what: &str, inode: &Inode) -> Result<Vec<u8>> {
        self.within(at, length as u64, inode)?;
        let mut bytes = vec![0; length];
        self.source.read_exact_at(&mut bytes, at).map_err(|e| inode.refuse(format!("reading its {what} at {at}: {e}")))?;
        Ok(bytes)
    }

    pub(super) fn structure<T: FromBytes + KnownLayout + Immutable>(&self, at: u64, what: &str, inode: &Inode) -> Result<T> {
        let bytes = self.bytes(at, size_of::<T>(), what, inode)?;
        T::read_from_bytes(&bytes).map_err(|e| inode.refuse(format!("reading its {what}: {e}")))
    }

    /// `at`, where `length` bytes from there on are within the image.
    pub(super) fn within(&self, at: u64, length: u64, inode: &Inode) -> Result<u64> {
        match at.checked_add(length) {
            Some(end) if end <= self.size() => Ok(at),
            _ => Err(inode.refuse(format!("{length} bytes at {at} are not within the image of {}", self.size()))),
        }
    }

    /// `at`, where `length` bytes from there on are within the packed inode.
    pub(super) fn in_packed(&self, at: u64, length: u64, inode: &Inode) -> Result<u64> {
        let size = self.packed.as_ref().map_or(0, |packed| packed.inode.size);
        match at.checked_add(length) {
            Some(end) if end <= size => Ok(at),
            _ => Err(inode.refuse(format!("{length} bytes at {at} are not within the packed inode of {size}"))),
        }
    }
}
