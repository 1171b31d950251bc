//! The on-disk structures of erofs, little-endian, with their names in the format's own description
//! (Linux `Documentation/filesystems/erofs.rst` and `fs/erofs/erofs_fs.h`). Units are in the names.

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Block size in bytes; also the size of a logical cluster.
pub const BLOCK: usize = 4096;
/// log2 of [`BLOCK`].
pub const BLOCK_BITS: u8 = 12;
/// Inodes lie at multiples of this many bytes; an inode's number (nid) counts them.
pub const SLOT: usize = 32;

/// `EROFS_SUPER_OFFSET`: the superblock's place in bytes.
pub const SUPER_OFFSET: usize = 1024;
/// `EROFS_SUPER_MAGIC_V1`.
pub const SUPER_MAGIC: u32 = 0xe0f5_e1e2;
/// Superblock extension slots are this many bytes each.
pub const SUPER_EXTENSION: usize = 16;

/// `EROFS_FEATURE_COMPAT_SB_CHKSUM`: the superblock's checksum is set.
pub const COMPAT_CHECKSUM: u32 = 0x1;
/// `EROFS_FEATURE_COMPAT_MTIME`: inodes hold modification times.
pub const COMPAT_MTIME: u32 = 0x2;

/// `EROFS_FEATURE_INCOMPAT_LZ4_0PADDING`: compressed data end where their cluster ends.
pub const INCOMPAT_ZERO_PADDING: u32 = 0x1;
/// `EROFS_FEATURE_INCOMPAT_COMPR_CFGS` and `…_BIG_PCLUSTER`, which share a bit.
pub const INCOMPAT_BIG_CLUSTERS: u32 = 0x2;
/// `EROFS_FEATURE_INCOMPAT_ZTAILPACKING`.
pub const INCOMPAT_INLINE_TAILS: u32 = 0x10;
/// `EROFS_FEATURE_INCOMPAT_FRAGMENTS`: a packed inode holds the tails of others.
pub const INCOMPAT_FRAGMENTS: u32 = 0x20;
/// What this reader understands.
pub const INCOMPAT_KNOWN: u32 = INCOMPAT_ZERO_PADDING | INCOMPAT_BIG_CLUSTERS | INCOMPAT_INLINE_TAILS | INCOMPAT_FRAGMENTS;

/// `Z_EROFS_COMPRESSION_ZSTD`: number of the algorithm, and of its bit in the superblock.
pub const ALGORITHM_ZSTD: u8 = 3;

/// `struct erofs_super_block`, 128 bytes.
#[derive(Debug, Clone, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct SuperBlock {
    /// [`SUPER_MAGIC`].
    pub magic: U32,
    /// CRC-32C, not inverted at the end, of the rest of the first block from here with this field 0.
    pub checksum: U32,
    /// `COMPAT_*`.
    pub feature_compat: U32,
    /// log2 of the block size.
    pub block_bits: u8,
    /// Superblock size is 128 bytes and this many [`SUPER_EXTENSION`]s.
    pub extension_slots: u8,
    /// Nid of the root folder.
    pub root_nid: U16,
    /// Number of inodes.
    pub inodes: U64,
    /// Modification time of compact inodes, seconds since 1970.
    pub epoch: U64,
    /// Its nanoseconds.
    pub epoch_nanoseconds: U32,
    /// Size of the file system in blocks.
    pub blocks: U32,
    /// First block of the inodes.
    pub meta_block: U32,
    /// First block of the shared extended attributes.
    pub xattr_block: U32,
    /// Volume UUID.
    pub uuid: [u8; 16],
    /// Volume label, padded with zeros.
    pub volume: [u8; 16],
    /// `INCOMPAT_*`.
    pub feature_incompat: U32,
    /// Bit per compression algorithm in use.
    pub algorithms: U16,
    /// 0: no further devices.
    pub extra_devices: U16,
    /// 0: no device table.
    pub device_slot: U16,
    /// 0: folders have blocks of the same size.
    pub folder_block_bits: u8,
    /// 0: no long prefixes.
    pub xattr_prefixes: u8,
    /// Unused without prefixes.
    pub xattr_prefix_start: U32,
    /// Nid of the packed inode, 0 for none.
    pub packed_nid: U64,
    /// Unused without the name filter.
    pub xattr_filter: u8,
    /// Zeros.
    pub reserved: [u8; 23],
}

/// The record of `z_erofs_zstd_cfgs` that follows the superblock, with its length in front: 8 bytes.
#[derive(Debug, Clone, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct ZstdConfig {
    /// Bytes that follow: 6.
    pub length: U16,
    /// 0.
    pub format: u8,
    /// log2 of the largest window, less 10.
    pub window_log: u8,
    /// Zeros.
    pub reserved: [u8; 4],
}

/// `EROFS_INODE_FLAT_PLAIN`: bytes in blocks.
pub const LAYOUT_PLAIN: u16 = 0;
/// `EROFS_INODE_COMPRESSED_FULL`: 8 bytes of index for each logical cluster.
pub const LAYOUT_COMPRESSED_FULL: u16 = 1;
/// `EROFS_INODE_FLAT_INLINE`: as plain, the last bytes behind the inode.
pub const LAYOUT_INLINE: u16 = 2;
/// `EROFS_INODE_COMPRESSED_COMPACT`: 2 to 4 bytes of index for each logical cluster.
pub const LAYOUT_COMPRESSED: u16 = 3;

/// Bit 0 of the inode format: 64 bytes and not 32.
pub const FORMAT_EXTENDED: u16 = 1;
/// The data layout begins at this bit of the inode format.
pub const FORMAT_LAYOUT_SHIFT: u16 = 1;

/// `struct erofs_inode_compact`, 32 bytes.
#[derive(Debug, Clone, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct CompactInode {
    /// Version and layout.
    pub format: U16,
    /// 0, or 1 + (bytes of inline attributes - 12) / 4.
    pub xattr_count: U16,
    /// File type and permissions.
    pub mode: U16,
    /// Hard links.
    pub links: U16,
    /// Bytes.
    pub size: U32,
    /// 0: seconds after the superblock's epoch where the kernel reads them at all.
    pub mtime: U32,
    /// Blocks, first block or device number.
    pub data: U32,
    /// Number shown where 32 bits are all there is.
    pub number: U32,
    /// Owner.
    pub uid: U16,
    /// Group.
    pub gid: U16,
    /// Zeros.
    pub reserved: U32,
}

/// `struct erofs_inode_extended`, 64 bytes.
#[derive(Debug, Clone, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct ExtendedInode {
    /// Version and layout.
    pub format: U16,
    /// As in [`CompactInode`].
    pub xattr_count: U16,
    /// File type and permissions.
    pub mode: U16,
    /// Zeros.
    pub reserved: U16,
    /// Bytes.
    pub size: U64,
    /// Blocks, first block or device number.
    pub data: U32,
    /// Number shown where 32 bits are all there is.
    pub number: U32,
    /// Owner.
    pub uid: U32,
    /// Group.
    pub gid: U32,
    /// Seconds since 1970.
    pub mtime: U64,
    /// Nanoseconds.
    pub mtime_nanoseconds: U32,
    /// Hard links.
    pub links: U32,
    /// Zeros.
    pub reserved2: [u8; 16],
}

/// `struct erofs_xattr_ibody_header`, 12 bytes; the ids of shared attributes follow, then own ones.
#[derive(Debug, Clone, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct XattrHeader {
    /// Unused without the name filter.
    pub filter: U32,
    /// How many ids of shared attributes follow.
    pub shared: u8,
    /// Zeros.
    pub reserved: [u8; 7],
}

/// `struct erofs_xattr_entry`, 4 bytes; name and value follow, padded to 4 bytes.
#[derive(Debug, Clone, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct XattrEntry {
    /// Bytes of the name without its prefix.
    pub name_length: u8,
    /// Which prefix: see `xattrs`.
    pub prefix: u8,
    /// Bytes of the value.
    pub value_length: U16,
}

/// `struct erofs_dirent`, 12 bytes.
#[derive(Debug, Clone, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct Dirent {
    /// Inode.
    pub nid: U64,
    /// Where in this block the name begins; that of the first tells how many there are.
    pub name_offset: U16,
    /// `EROFS_FT_*`.
    pub kind: u8,
    /// 0.
    pub reserved: u8,
}

/// `struct z_erofs_map_header`, 8 bytes, at the next multiple of 8 behind inode and attributes.
#[derive(Debug, Clone, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct MapHeader {
    /// Offset in the packed inode, or (upper half) size of the inline tail.
    pub fragment: U32,
    /// `ADVISE_*`.
    pub advise: U16,
    /// Algorithms of head 1 (low half) and head 2.
    pub algorithms: u8,
    /// log2 of the logical cluster, less that of the block; bit 7: [`WHOLE_FRAGMENT`].
    pub cluster_bits: u8,
}

/// `Z_EROFS_ADVISE_COMPACTED_2B`: the index has stretches of 2 bytes for each logical cluster.
pub const ADVISE_TWO_BYTES: u16 = 0x1;
/// `Z_EROFS_ADVISE_BIG_PCLUSTER_1` and `_2`, which go together.
pub const ADVISE_BIG_CLUSTERS: u16 = 0x6;
/// `Z_EROFS_ADVISE_INLINE_PCLUSTER`.
pub const ADVISE_INLINE_TAIL: u16 = 0x8;
/// `Z_EROFS_ADVISE_INTERLACED_PCLUSTER`: plain clusters keep their offset within the block.
pub const ADVISE_INTERLACED: u16 = 0x10;
/// `Z_EROFS_ADVISE_FRAGMENT_PCLUSTER`: the last extent is in the packed inode.
pub const ADVISE_FRAGMENT: u16 = 0x20;
/// Bit 63 of the whole map header (`Z_EROFS_FRAGMENT_INODE_BIT`): the file is in the packed inode,
/// at the offset in the other 63 bits.
pub const WHOLE_FRAGMENT: u64 = 1 << 63;

/// `Z_EROFS_LCLUSTER_TYPE_PLAIN`: an extent begins here, stored as it is.
pub const CLUSTER_PLAIN: u32 = 0;
/// `Z_EROFS_LCLUSTER_TYPE_HEAD1`: an extent begins here, compressed.
pub const CLUSTER_HEAD: u32 = 1;
/// `Z_EROFS_LCLUSTER_TYPE_NONHEAD`: an extent goes on.
pub const CLUSTER_NEXT: u32 = 2;
/// `Z_EROFS_LI_D0_CBLKCNT`: the first cluster after a head holds the extent's size in blocks.
pub const BLOCK_COUNT_FLAG: u16 = 1 << 11;

/// `S_IFMT` and its values (`stat.h`).
pub mod kind {
    /// Mask of the type.
    pub const MASK: u16 = 0o170_000;
    /// FIFO.
    pub const FIFO: u16 = 0o010_000;
    /// Character device.
    pub const CHARACTER: u16 = 0o020_000;
    /// Folder.
    pub const FOLDER: u16 = 0o040_000;
    /// Block device.
    pub const BLOCK: u16 = 0o060_000;
    /// Regular file.
    pub const FILE: u16 = 0o100_000;
    /// Symbolic link.
    pub const LINK: u16 = 0o120_000;
}

/// `EROFS_FT_*` of a mode.
pub fn dirent_kind(mode: u16) -> u8 {
    match mode & kind::MASK {
        kind::FILE => 1,
        kind::FOLDER => 2,
        kind::CHARACTER => 3,
        kind::BLOCK => 4,
        kind::FIFO => 5,
        kind::LINK => 7,
        _ => 0,
    }
}

/// A device number as Linux writes it on disk (`new_encode_dev`).
pub fn device_number(major: u32, minor: u32) -> u32 {
    (minor & 0xff) | (major & 0xfff) << 8 | (minor & 0xf_ff00) << 12
}

/// Major and minor of [`device_number`].
pub fn device_parts(number: u32) -> (u32, u32) {
    (number >> 8 & 0xfff, number & 0xff | number >> 12 & 0xf_ff00)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn structures_have_the_sizes_of_the_format() {
        assert_eq!(size_of::<SuperBlock>(), 128);
        assert_eq!((size_of::<CompactInode>(), size_of::<ExtendedInode>()), (32, 64));
        assert_eq!((size_of::<XattrHeader>(), size_of::<XattrEntry>()), (12, 4));
        assert_eq!((size_of::<Dirent>(), size_of::<MapHeader>(), size_of::<ZstdConfig>()), (12, 8, 8));
    }

    #[test]
    fn device_numbers_go_both_ways() {
        for (major, minor) in [(1, 3), (5, 1), (254, 255), (4095, 0xf_ffff), (8, 256)] {
            assert_eq!(device_parts(device_number(major, minor)), (major, minor));
        }
    }
}
