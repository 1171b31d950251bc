//! The dm-verity superblock (cryptsetup's on-disk format, version 1) and the table line the kernel
//! takes (Documentation/admin-guide/device-mapper/verity.rst).

use std::fmt;

use ring::digest::{Context, SHA256};

use crate::cmdline::RootHash;
use crate::gpt::{array_at, u32_at, u64_at};

/// Bytes of the superblock.
pub const LENGTH: usize = 512;

const SIGNATURE: &[u8] = b"verity\0\0";
/// Offsets in bytes.
const VERSION: usize = 8;
const HASH_TYPE: usize = 12;
const UUID: usize = 16;
const ALGORITHM: usize = 32;
const DATA_BLOCK: usize = 64;
const HASH_BLOCK: usize = 68;
const DATA_BLOCKS: usize = 72;
const SALT_SIZE: usize = 80;
const SALT: usize = 88;
const SALT_MOST: usize = 256;

/// A superblock whose numbers fit its two partitions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Superblock {
    uuid: [u8; 16],
    data_block: u32,
    hash_block: u32,
    data_blocks: u64,
    salt: Vec<u8>,
}

/// What the kernel does when a block does not have its hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnCorruption {
    /// The read fails: this program is there to say so in words.
    Refuse,
    /// The kernel says which block and panics. Chosen over a restart, as it leaves the words on the
    /// console for kernel.panic seconds and tells the hypervisor (pvpanic, Hyper-V's crash report);
    /// over a failing read, as a service that reads half of its files may fail open.
    Panic,
}

impl Superblock {
    /// Reads `bytes`, the start of a verity partition of `hash_size` bytes, beside a root partition of `data_size`.
    ///
    /// # Errors
    /// What is wrong, as found against expected.
    pub fn parse(bytes: &[u8], data_size: u64, hash_size: u64) -> Result<Self, String> {
        let expect = |what: &str, found: String, wanted: &str| Err(format!("{what} is {found}, expected {wanted}"));
        if bytes.len() < LENGTH || !bytes.starts_with(SIGNATURE) {
            return Err("no dm-verity superblock at its start".to_owned());
        }
        let (version, hash_type) = (u32_at(bytes, VERSION), u32_at(bytes, HASH_TYPE));
        if (version, hash_type) != (1, 1) {
            return expect("the superblock's version and hash type", format!("{version} and {hash_type}"), "1 and 1");
        }
        let algorithm: [u8; 32] = array_at(bytes, ALGORITHM);
        if !algorithm.starts_with(b"sha256\0") {
            return expect("the hash algorithm", format!("`{}`", algorithm.escape_ascii()), "`sha256`");
        }
        let (data_block, hash_block) = (u32_at(bytes, DATA_BLOCK), u32_at(bytes, HASH_BLOCK));
        for size in [data_block, hash_block] {
            if !(512..=4096).contains(&size) || !size.is_power_of_two() {
                return expect("a block size", size.to_string(), "512 to 4096");
            }
        }
        let data_blocks = u64_at(bytes, DATA_BLOCKS);
        if data_blocks == 0 || data_blocks.checked_mul(u64::from(data_block)).is_none_or(|size| size > data_size) {
            return expect(
                "the data",
                format!("{data_blocks} blocks of {data_block} bytes"),
                &format!("at most {data_size} bytes"),
            );
        }
        let tree = hash_blocks(data_blocks, hash_block).saturating_add(1).saturating_mul(u64::from(hash_block));
        if tree > hash_size {
            return expect("the hash tree", format!("{tree} bytes"), &format!("at most {hash_size} bytes"));
        }
        let salt_size = usize::from(u16::from_le_bytes(array_at(bytes, SALT_SIZE)));
        if salt_size > SALT_MOST {
            return expect("the salt", format!("{salt_size} bytes"), "at most 256");
        }
        let salt = bytes.get(SALT..SALT + salt_size).unwrap_or_default().to_vec();
        Ok(Self { uuid: array_at(bytes, UUID), data_block, hash_block, data_blocks, salt })
    }

    /// Length of the device in 512-byte sectors.
    pub fn sectors(&self) -> u64 {
        self.data_blocks.saturating_mul(u64::from(self.data_block / 512))
    }

    /// Where the topmost hash block lies in the verity partition and how long it is, in bytes;
    /// `None` for a single data block, which has no tree.
    pub fn top(&self) -> Option<(u64, usize)> {
        (self.data_blocks > 1).then_some((u64::from(self.hash_block), self.hash_block as usize))
    }

    /// The root hash a topmost hash block has: SHA-256 of salt and block (hash type 1).
    pub fn hash_of(&self, block: &[u8]) -> RootHash {
        let mut context = Context::new(&SHA256);
        context.update(&self.salt);
        context.update(block);
        let mut value = [0; 32];
        value.iter_mut().zip(context.finish().as_ref()).for_each(|(to, from)| *to = *from);
        RootHash(value)
    }

    /// The name by which cryptsetup and systemd know a verity device of this superblock.
    pub fn device_uuid(&self, name: &str) -> String {
        format!("CRYPT-VERITY-{}-{name}", Hex(&self.uuid))
    }

    /// The table's parameters for the partitions `data` and `hash` (paths of devices).
    pub fn parameters(&self, data: &str, hash: &str, root: &RootHash, on_corruption: OnCorruption) -> String {
        let Self { data_block, hash_block, data_blocks, salt, .. } = self;
        let salt = if salt.is_empty() { "-".to_owned() } else { Hex(salt).to_string() };
        let options = match on_corruption {
            OnCorruption::Refuse => "",
            OnCorruption::Panic => " 1 panic_on_corruption",
        };
        format!("1 {data} {hash} {data_block} {hash_block} {data_blocks} 1 sha256 {root} {salt}{options}")
    }
}

/// Blocks of the whole tree without the superblock.
fn hash_blocks(data_blocks: u64, hash_block: u32) -> u64 {
    let per_block = u64::from(hash_block / 32).max(2);
    let (mut level, mut sum) = (data_blocks, 0u64);
    while level > 1 {
        level = level.div_ceil(per_block);
        sum = sum.saturating_add(level);
    }
    sum
}

struct Hex<'a>(&'a [u8]);

impl fmt::Display for Hex<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cmdline::CommandLine;
    use proptest::prelude::*;

    const SALT_TEXT: &str = "00000000000000000000000000000000000000000000000000000000000000aa";

    /// 300 blocks of data, their hash partition and root hash as veritysetup makes them.
    #[allow(clippy::disallowed_methods, reason = "a test of the reference tool")]
    fn by_veritysetup() -> (Vec<u8>, RootHash) {
        let folder = tempfile::tempdir().unwrap();
        let (data, hash) = (folder.path().join("data"), folder.path().join("hash"));
        std::fs::write(&data, (0..300u32 * 4096).map(|i| (i / 999) as u8).collect::<Vec<_>>()).unwrap();
        let output = std::process::Command::new("/usr/sbin/veritysetup")
            .args(["format", "--uuid", "11111111-2222-3333-4444-555555555555", "--salt", SALT_TEXT])
            .args([&data, &hash])
            .output()
            .expect("this test needs /usr/sbin/veritysetup: apt install cryptsetup-bin");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let root = text.lines().find_map(|line| line.strip_prefix("Root hash:")).unwrap_or_else(|| panic!("{output:?}"));
        let root = CommandLine::parse(&format!("roothash={}", root.trim())).root_hash().unwrap();
        (std::fs::read(&hash).unwrap(), root)
    }

    #[test]
    fn agrees_with_veritysetup() {
        let (bytes, root) = by_veritysetup();
        let superblock = Superblock::parse(&bytes, 300 * 4096, bytes.len() as u64).unwrap();
        assert_eq!(superblock.sectors(), 2400);
        assert_eq!(hash_blocks(300, 4096) * 4096 + 4096, bytes.len() as u64);
        let (start, length) = superblock.top().unwrap();
        assert_eq!(superblock.hash_of(&bytes[start as usize..][..length]), root);
        assert_eq!(superblock.device_uuid("root"), "CRYPT-VERITY-11111111222233334444555555555555-root");
        let line = superblock.parameters("/dev/a", "/dev/b", &root, OnCorruption::Panic);
        assert_eq!(line, format!("1 /dev/a /dev/b 4096 4096 300 1 sha256 {root} {SALT_TEXT} 1 panic_on_corruption"));
        assert!(superblock.parameters("/dev/a", "/dev/b", &root, OnCorruption::Refuse).ends_with("aa"));
    }

    #[test]
    fn hostile_superblocks_are_refused_in_words() {
        let (bytes, _) = by_veritysetup();
        let cases: [(usize, &[u8], &str); 9] = [
            (0, b"V", "no dm-verity superblock"),
            (VERSION, &[2], "2 and 1, expected 1 and 1"),
            (HASH_TYPE, &[0], "1 and 0, expected 1 and 1"),
            (ALGORITHM, b"sha1\0", "expected `sha256`"),
            (DATA_BLOCK, &[0; 4], "a block size is 0"),
            (HASH_BLOCK, &[0xff; 4], "a block size is 4294967295"),
            (DATA_BLOCKS, &[0xff; 8], "at most 1228800 bytes"),
            (DATA_BLOCKS, &[0; 8], "0 blocks"),
            (SALT_SIZE, &[1, 1], "the salt is 257 bytes"),
        ];
        for (offset, value, words) in cases {
            let mut wrong = bytes.clone();
            wrong[offset..offset + value.len()].copy_from_slice(value);
            let refused = Superblock::parse(&wrong, 300 * 4096, wrong.len() as u64).unwrap_err();
            assert!(refused.contains(words), "{refused} should say {words}");
        }
        assert!(Superblock::parse(&bytes, 300 * 4096, 8192).unwrap_err().contains("the hash tree is 20480 bytes"));
        assert!(Superblock::parse(&bytes[..511], 1 << 30, 1 << 30).is_err());
    }

    #[test]
    fn one_block_has_no_tree() {
        let (mut bytes, _) = by_veritysetup();
        bytes[DATA_BLOCKS..DATA_BLOCKS + 8].copy_from_slice(&1u64.to_le_bytes());
        assert_eq!(Superblock::parse(&bytes, 4096, 4096).unwrap().top(), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..600), data in any::<u64>(), hash in any::<u64>()) {
            let mut bytes = bytes;
            bytes.splice(0..bytes.len().min(64), [SIGNATURE, &[1, 0, 0, 0, 1, 0, 0, 0], &[0; 16], b"sha256", &[0; 26]].concat());
            let _ = Superblock::parse(&bytes, data, hash).map(|s| (s.sectors(), s.top()));
        }
    }
}
