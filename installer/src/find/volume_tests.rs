//! Disks of others: what their tools wrote is read, and what an attacker wrote ends in a reason.

use std::io::{Cursor, Write};
use std::sync::LazyLock;

use proptest::prelude::*;

use super::fixture::{fat, iso};
use super::volume::{Entry, Volume, entry, file, probe};

fn open(bytes: &[u8]) -> Result<Option<Box<dyn Volume>>, String> {
    probe(Box::new(Cursor::new(bytes.to_vec())))
}

const LONG: &str = "A name that is much longer than thirteen letters - äöü.toml";

fn files() -> Vec<(&'static str, Vec<u8>)> {
    let big: Vec<u8> = (0u32..5000).flat_map(u32::to_le_bytes).collect();
    vec![("profile.toml", b"a = 1\n".to_vec()), ("folder/inner/BIG.BIN", big), (LONG, b"long".to_vec()), ("empty", Vec::new())]
}

static DISKS: LazyLock<Vec<Vec<u8>>> = LazyLock::new(|| {
    let files = files();
    let files: Vec<(&str, &[u8])> = files.iter().map(|(name, bytes)| (*name, bytes.as_slice())).collect();
    vec![
        fat("INGOT", 12, &files),
        fat("INGOT", 16, &files),
        fat("INGOT", 32, &files),
        iso("INGOT", "genisoimage -R -input-charset utf-8", &files),
        iso("INGOT", "genisoimage -J -input-charset utf-8", &files),
        iso("INGOT", "xorriso -as mkisofs -J", &files),
    ]
});

#[test]
fn disks_of_other_tools_are_read() {
    for (number, disk) in DISKS.iter().enumerate() {
        let mut volume = open(disk).unwrap().unwrap();
        assert_eq!(volume.label(), "INGOT", "{number}");
        for (path, bytes) in files() {
            // mtools writes letters beyond ASCII by the locale.
            if number < 3 && !path.is_ascii() {
                let names: Vec<String> = volume.entries(&volume.root()).unwrap().into_iter().map(|entry| entry.name).collect();
                assert!(
                    names.iter().any(|name| name.starts_with("A name that is much longer than thirteen letters - ")),
                    "{names:?}"
                );
                continue;
            }
            let read = file(&mut *volume, path, 1 << 20);
            assert_eq!(read.unwrap_or_else(|e| panic!("disk {number}, {path}: {e}")), Some(bytes), "disk {number}, {path}");
        }
        assert_eq!(file(&mut *volume, "folder/none", 10), Ok(None));
        assert_eq!(file(&mut *volume, "profile.toml/none", 10), Ok(None));
        assert!(
            file(&mut *volume, "profile.toml", 5).unwrap_err().contains("expected 5 bytes at most in `profile.toml`, found 6")
        );
        assert!(entry(&mut *volume, "FOLDER/Inner").unwrap().unwrap().folder);
    }
}

#[test]
fn what_is_no_such_disk_is_passed_over() {
    for bytes in [Vec::new(), vec![0; 511], vec![0; 1 << 16], vec![0xff; 1 << 16], b"LUKS\xba\xbe".repeat(20_000)] {
        assert!(open(&bytes).unwrap().is_none());
    }
}

#[test]
fn names_that_rock_ridge_spreads_over_areas_are_read() {
    let name = format!("{}.toml", "long-".repeat(40));
    let disk = iso("INGOT", "xorriso -as mkisofs", &[(&name, b"x")]);
    assert_eq!(file(&mut *open(&disk).unwrap().unwrap(), &name, 10), Ok(Some(b"x".to_vec())));
}

#[test]
fn a_record_that_continues_in_itself_ends() {
    let name = format!("{}.toml", "long-".repeat(40));
    let disk = iso("INGOT", "xorriso -as mkisofs", &[(&name, b"x")]);
    // SUSP, 5.1: CE, 28 bytes, version 1, then block, offset and length, each in both byte orders.
    // The first is the root folder's own.
    let at = disk.windows(4).enumerate().filter(|(_, bytes)| bytes == b"CE\x1c\x01").nth(1).unwrap().0;
    let number = |at: usize| u32::from_le_bytes(disk[at..at + 4].try_into().unwrap()) as usize;
    let area = number(at + 4) * 2048 + number(at + 12);
    let mut looped = disk[at..at + 28].to_vec();
    looped[20..24].copy_from_slice(&28u32.to_le_bytes());
    let mut disk = patched(&disk, area, &looped);
    disk[at + 20..at + 24].copy_from_slice(&28u32.to_le_bytes());
    let error = file(&mut *open(&disk).unwrap().unwrap(), &name, 10).unwrap_err();
    assert!(error.contains("continues in more than 8 areas"), "{error}");
}

/// The disk with `bytes` at `at`.
fn patched(disk: &[u8], at: usize, bytes: &[u8]) -> Vec<u8> {
    let mut disk = disk.to_vec();
    disk[at..at + bytes.len()].copy_from_slice(bytes);
    disk
}

#[test]
fn hostile_fat_ends_in_a_reason() {
    // FAT16, 512-byte sectors and clusters, 4 reserved or 1: found by its own numbers.
    let disk = &DISKS[1];
    let number = |at: usize| usize::from(u16::from_le_bytes([disk[at], disk[at + 1]]));
    let (reserved, table, records) = (number(14), number(22), number(17));
    let root = (reserved + usize::from(disk[16]) * table) * 512;
    assert!(records > 0);
    let record = |name: &[u8]| root + disk[root..].chunks(32).position(|record| record.starts_with(name)).unwrap() * 32;
    let folder = record(b"FOLDER");
    let profile = record(b"PROFIL");
    let cluster = u16::from_le_bytes([disk[folder + 26], disk[folder + 27]]);
    let looped = [0u16, 0, cluster].map(u16::to_le_bytes)[2];
    for (at, bytes, path, expected) in [
        (profile + 26, [1u8, 0], "profile.toml", "expected a cluster from 2"),
        (profile + 26, [0xf0, 0xff], "profile.toml", "expected a cluster from 2"),
        (profile + 28, [0xff, 0xff], "profile.toml", "before the chain's end"),
        (folder + 26, [1, 0], "folder/inner/BIG.BIN", "expected a cluster from 2"),
        // The folder's chain leads to its own beginning.
        (reserved * 512 + usize::from(cluster) * 2, looped, "folder/none", ""),
    ] {
        let read = file(&mut *open(&patched(disk, at, &bytes)).unwrap().unwrap(), path, 1 << 20);
        match read {
            Err(error) => assert!(!expected.is_empty() && error.contains(expected), "{path}: {error}"),
            Ok(found) => assert!(expected.is_empty() && found.is_none(), "{path}: {found:?}"),
        }
    }
    // A long name whose short name was changed since is not its name any more.
    let mut volume = open(&patched(disk, profile, b"X")).unwrap().unwrap();
    assert!(entry(&mut *volume, "profile.toml").unwrap().is_none());
    assert!(volume.entries(&volume.root()).unwrap().iter().any(|entry| entry.name.starts_with("XROFIL")));
    // Numbers of the boot sector that do not go together: not FAT at all.
    for (at, bytes) in [(11, [0, 0]), (11, [1, 2]), (13, [0, 1]), (14, [0, 0]), (16, [0, 0]), (22, [0xff, 0xff]), (510, [0, 0])] {
        assert!(open(&patched(disk, at, &bytes)).unwrap().is_none(), "{at}");
    }
    // Cut in the middle.
    let error = file(&mut *open(&disk[..root + 40]).unwrap().unwrap(), "profile.toml", 10).unwrap_err();
    assert!(error.contains("reading the root folder"), "{error}");
}

#[test]
fn hostile_iso_ends_in_a_reason() {
    const PRIMARY: usize = 16 * 2048;
    let disk = &DISKS[3];
    for (at, bytes, expected) in [
        (PRIMARY + 128, vec![0, 2], "expected blocks of 2048 bytes, found 512"),
        (PRIMARY + 158, vec![0xff; 4], "the root folder"),
    ] {
        let error = open(&patched(disk, at, &bytes)).err().unwrap();
        assert!(error.contains(expected), "{error}");
    }
    let mut volume = open(&patched(disk, PRIMARY + 166, &[0xff; 4])).unwrap().unwrap();
    let error = volume.entries(&volume.root()).unwrap_err();
    assert!(error.contains("expected a folder of 2097152 bytes at most, found 4294967295"), "{error}");
    let mut volume = open(disk).unwrap().unwrap();
    let far = Entry { name: String::new(), folder: false, start: u32::MAX, size: u32::MAX };
    assert!(volume.content(&far, 100).unwrap_err().contains("reading 100 bytes of block 4294967295"));
}

/// Everything that a look at a disk may do.
fn walk(bytes: &[u8]) {
    let Ok(Some(mut volume)) = open(bytes) else { return };
    let _ = volume.label().len();
    for path in ["profile.toml", "folder/inner/BIG.BIN", LONG, "empty"] {
        let _ = file(&mut *volume, path, 1 << 16);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Bytes changed where the structures are: boot sectors, tables, folders, descriptors.
    #[test]
    fn no_changed_disk_makes_it_panic(
        number in 0usize..6,
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..40),
    ) {
        let mut disk = DISKS[number].clone();
        let used: Vec<usize> = (0..disk.len()).step_by(32).filter(|at| disk[*at..*at + 32].iter().any(|byte| *byte != 0)).collect();
        for (index, value) in changes {
            let at = used[index.index(used.len())] + usize::from(value) % 32;
            disk[at] = value.wrapping_mul(37);
        }
        walk(&disk);
        walk(&disk[..disk.len() / 3]);
    }

    #[test]
    fn no_boot_sector_makes_it_panic(sector in proptest::collection::vec(any::<u8>(), 512), sane in any::<bool>()) {
        let mut disk = sector;
        disk[0] = 0xeb;
        disk[510..512].copy_from_slice(&[0x55, 0xaa]);
        if sane {
            disk[11..17].copy_from_slice(&[0, 2, 1, 1, 0, 2]);
        }
        disk.resize(1 << 14, 0x41);
        walk(&disk);
    }

    #[test]
    fn no_descriptor_makes_it_panic(descriptor in proptest::collection::vec(any::<u8>(), 2048), root in proptest::collection::vec(any::<u8>(), 2048)) {
        let mut disk = vec![0; 20 * 2048];
        disk[16 * 2048..17 * 2048].copy_from_slice(&descriptor);
        disk[16 * 2048..16 * 2048 + 6].copy_from_slice(b"\x01CD001");
        disk[16 * 2048 + 128..16 * 2048 + 130].copy_from_slice(&2048u16.to_le_bytes());
        disk[16 * 2048 + 158..16 * 2048 + 162].copy_from_slice(&18u32.to_le_bytes());
        disk[16 * 2048 + 166..16 * 2048 + 170].copy_from_slice(&4096u32.to_le_bytes());
        disk[18 * 2048..19 * 2048].copy_from_slice(&root);
        disk[18 * 2048] = 40 + root[0] % 200;
        walk(&disk);
    }

    /// What `fatfs` writes comes back.
    #[test]
    fn files_of_another_writer_come_back(
        names in proptest::collection::btree_set("[a-z][a-zA-Z0-9 äß_-]{0,40}x\\.[a-z]{1,8}", 1..8),
        size in 0usize..20_000,
    ) {
        let mut image = Cursor::new(vec![0; 1 << 20]);
        fatfs::format_volume(&mut image, fatfs::FormatVolumeOptions::new().volume_label(*b"CIDATA     ")).unwrap();
        let bytes: Vec<u8> = (0..size).map(|at| (at % 251) as u8).collect();
        let mut written = Vec::new();
        {
            let volume = fatfs::FileSystem::new(&mut image, fatfs::FsOptions::new()).unwrap();
            let root = volume.root_dir();
            for name in &names {
                // Names that differ in letter case alone are one there.
                if root.open_file(name).is_err() {
                    root.create_file(name).unwrap().write_all(&bytes).unwrap();
                    written.push(name);
                }
            }
        }
        let mut volume = open(image.get_ref()).unwrap().unwrap();
        prop_assert_eq!(volume.label(), "CIDATA");
        for name in written {
            let read = file(&mut *volume, name, 1 << 20).unwrap();
            prop_assert_eq!(read.as_deref(), Some(bytes.as_slice()), "{}", name);
        }
    }
}
