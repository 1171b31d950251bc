//! Tests of the reader against tables that sgdisk wrote, and against damage.

use std::path::Path;

use proptest::prelude::*;

use super::*;

struct Memory(Vec<u8>);

impl ReadAt for Memory {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let start = usize::try_from(offset).map_err(|_| io::ErrorKind::UnexpectedEof)?;
        let end = start.checked_add(buffer.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        buffer.copy_from_slice(self.0.get(start..end).ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }
}

const ROOT: &str = "00112233-4455-6677-8899-aabbccddeeff";

/// A 4 MiB disk as sgdisk makes it (once: it syncs the file), with 512-byte sectors.
fn by_sgdisk() -> Vec<u8> {
    static DISK: std::sync::LazyLock<Vec<u8>> = std::sync::LazyLock::new(make_by_sgdisk);
    DISK.clone()
}

fn make_by_sgdisk() -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("disk");
    std::fs::File::create(&path).unwrap().set_len(4 << 20).unwrap();
    run_sgdisk(&path, &["-n1:2048:4095", "-n3:4096:+8K", &format!("-u1:{ROOT}"), "-u3:fedcba98-7654-3210-0123-456789abcdef"]);
    std::fs::read(&path).unwrap()
}

#[allow(clippy::disallowed_methods, reason = "a test of the reference tool")]
fn run_sgdisk(path: &Path, arguments: &[&str]) {
    let output = std::process::Command::new("/usr/sbin/sgdisk").args(arguments).arg(path).output();
    let output = output.expect("this test needs /usr/sbin/sgdisk: apt install gdisk");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// The same layout with 4096-byte sectors: sgdisk writes these only for real disks, so it is made here.
fn of_4096() -> Vec<u8> {
    let mut disk = vec![0; 1 << 20];
    let sectors = disk.len() as u64 / 4096;
    let mut entries = vec![0; 128 * 128];
    entries[..16].fill(7);
    entries[16..32].copy_from_slice(&(0..16).collect::<Vec<u8>>());
    entries[32..40].copy_from_slice(&10u64.to_le_bytes());
    entries[40..48].copy_from_slice(&11u64.to_le_bytes());
    for (lba, table) in [(1, 2), (sectors - 1, sectors - 5)] {
        let mut bytes = vec![0; 92];
        bytes[..8].copy_from_slice(header::SIGNATURE);
        bytes[12..16].copy_from_slice(&92u32.to_le_bytes());
        bytes[24..32].copy_from_slice(&lba.to_le_bytes());
        bytes[72..80].copy_from_slice(&table.to_le_bytes());
        bytes[80..84].copy_from_slice(&128u32.to_le_bytes());
        bytes[84..88].copy_from_slice(&128u32.to_le_bytes());
        bytes[88..92].copy_from_slice(&crc32(&entries).to_le_bytes());
        let checksum = crc32(&bytes).to_le_bytes();
        bytes[16..20].copy_from_slice(&checksum);
        disk[lba as usize * 4096..][..92].copy_from_slice(&bytes);
        disk[table as usize * 4096..][..entries.len()].copy_from_slice(&entries);
    }
    disk
}

fn read(disk: Vec<u8>, sector: u32) -> Result<Table, Unusable> {
    let size = disk.len() as u64;
    Table::read(&Memory(disk), sector, size)
}

#[test]
fn checksum_is_the_common_one() {
    assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
}

#[test]
fn reads_what_sgdisk_wrote() {
    let table = read(by_sgdisk(), 512).unwrap();
    assert!(!table.from_backup);
    let [first, third] = table.partitions[..] else { panic!("{table:?}") };
    assert_eq!((first.number, first.start, first.length), (1, 1 << 20, 1 << 20));
    assert_eq!(first.unique.to_string(), ROOT);
    assert_eq!((third.number, third.start, third.length), (3, 2 << 20, 8 << 10));
    assert_eq!(third.unique.to_string(), "fedcba98-7654-3210-0123-456789abcdef");
}

#[test]
fn reads_4096_byte_sectors_and_only_with_the_right_size() {
    let table = read(of_4096(), 4096).unwrap();
    assert_eq!((table.partitions[0].start, table.partitions[0].length), (40960, 8192));
    assert_eq!(table.partitions[0].unique.to_string(), "03020100-0504-0706-0809-0a0b0c0d0e0f");
    assert!(matches!(read(of_4096(), 512), Err(Unusable::NoTable)));
    assert!(matches!(read(of_4096(), 500), Err(Unusable::Broken(_))));
}

#[test]
fn the_backup_serves_where_the_primary_is_damaged() {
    let whole = read(by_sgdisk(), 512).unwrap().partitions;
    // In the header, its checksum, the entries, and the whole first MiB gone.
    for damage in [512 + 60..512 + 61, 512 + 16..512 + 17, 1024 + 20..1024 + 21, 0..1 << 20] {
        let mut disk = by_sgdisk();
        disk[damage.clone()].iter_mut().for_each(|byte| *byte = !*byte);
        let table = read(disk, 512).unwrap();
        assert!(table.from_backup, "{damage:?}");
        assert_eq!(table.partitions, whole, "{damage:?}");
    }
}

/// Puts a number into the header and makes its checksum right again.
fn with_field(offset: usize, value: &[u8]) -> Vec<u8> {
    let mut disk = by_sgdisk();
    let size = disk.len();
    disk[size - 512..].fill(0);
    let header = &mut disk[512..604];
    header[offset..offset + value.len()].copy_from_slice(value);
    header[16..20].fill(0);
    let checksum = crc32(header).to_le_bytes();
    header[16..20].copy_from_slice(&checksum);
    disk
}

#[test]
fn hostile_headers_are_refused_in_words() {
    let cases: [(usize, &[u8], &str); 7] = [
        (header::SIZE, &u32::MAX.to_le_bytes(), "says it has 4294967295 bytes"),
        (header::SIZE, &8u32.to_le_bytes(), "says it has 8 bytes"),
        (header::OWN_LBA, &9u64.to_le_bytes(), "says it is in sector 9"),
        (header::ENTRIES_LBA, &u64::MAX.to_le_bytes(), "beyond any disk"),
        (header::ENTRY_COUNT, &u32::MAX.to_le_bytes(), "4294967295 entries of 128 bytes"),
        (header::ENTRY_SIZE, &0u32.to_le_bytes(), "entries of 0 bytes"),
        (header::ENTRY_COUNT, &64u32.to_le_bytes(), "checksum of its entries"),
    ];
    for (offset, value, words) in cases {
        let refused = read(with_field(offset, value), 512).unwrap_err().to_string();
        assert!(refused.contains(words), "{refused} should say {words}");
    }
    for size in [0, 511, 512, 1024, 1535, 4096] {
        assert!(read(by_sgdisk()[..size].to_vec(), 512).is_err(), "{size} bytes");
    }
}

#[test]
fn a_partition_beyond_the_disk_is_refused() {
    let mut disk = by_sgdisk();
    disk[1024 + entry::LAST_LBA..][..8].copy_from_slice(&u64::MAX.to_le_bytes());
    let entries = crc32(&disk[1024..1024 + 128 * 128]).to_le_bytes();
    disk[512 + header::ENTRIES_CHECKSUM..][..4].copy_from_slice(&entries);
    let mut header = disk[512..604].to_vec();
    header[16..20].fill(0);
    disk[528..532].copy_from_slice(&crc32(&header).to_le_bytes());
    let size = disk.len();
    disk[size - 512..].fill(0);
    assert!(read(disk, 512).unwrap_err().to_string().contains("partition 1 is not on the disk"));
}

proptest! {
    #[test]
    fn any_bytes_are_read_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..6000), signed in any::<bool>()) {
        let mut bytes = bytes;
        if signed && bytes.len() > 520 {
            bytes[512..520].copy_from_slice(header::SIGNATURE);
        }
        let _ = read(bytes, 512);
    }

    #[test]
    fn guids_round_trip(bytes in any::<[u8; 16]>()) {
        prop_assert_eq!(Guid::from_disk(Guid::from_disk(bytes).0).0, bytes);
    }
}
