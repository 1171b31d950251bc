use std::io::{Cursor, Read};
use std::path::Path;

use proptest::prelude::*;

use super::*;
use crate::run::Program;

const MIB: u64 = 1 << 20;

/// Runs a checker; its output.
fn tool(name: &str, package: &str, arguments: &[&str]) -> String {
    let program = Program::find(name, &format!("apt install {package}")).unwrap();
    let program = arguments.iter().fold(program, |program, argument| program.arg(*argument));
    String::from_utf8(program.output().unwrap_or_else(|e| panic!("{e}"))).unwrap()
}

fn save(path: &Path, extents: &Extents) {
    use std::os::unix::fs::FileExt;
    let file = crate::files::create(path).unwrap();
    file.set_len(extents.size()).unwrap();
    for (offset, blob) in extents.parts() {
        file.write_all_at(&blob.to_vec().unwrap(), *offset).unwrap();
    }
}

fn noise(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed | 1;
    let mut step = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    (0..length).map(|_| step()).collect()
}

fn shape() -> DiskShape {
    DiskShape { esp: 64 * MIB, slot: 20 * MIB, verity: 2 * MIB }
}

fn range(bytes: Vec<u8>) -> Extents {
    let mut extents = Extents::new(0);
    extents.push(0, Blob::memory(bytes));
    extents
}

fn files() -> Vec<EspFile> {
    let loader = Blob::memory(noise(100_000, 3));
    let mut files =
        boot_files("load-balancer", "2026.11.21", &loader, &Blob::memory(noise(3_000_001, 4)), "timeout 0\neditor no\n");
    files.push(EspFile { path: "empty".to_owned(), content: Blob::memory([]) });
    files.push(EspFile {
        path: "tief/er/und noch tiefer/Ünïcode-Name mit 40 Zeichen ….txt".to_owned(),
        content: Blob::memory(*b"x"),
    });
    files
}

fn sample() -> Disk {
    let (root, verity) = (range(noise(5_000_000, 1)), range(noise(50_000, 2)));
    let files = files();
    let input = DiskInput {
        name: "load-balancer",
        version: "2026.11.21",
        root: &root,
        verity: &verity,
        root_hash: Sha256Digest::of(b"root"),
        files: &files,
        shape: &shape(),
        room: 0,
        epoch: Epoch(1_763_700_001),
    };
    lay_out(&input).unwrap()
}

#[test]
fn the_whole_disk_satisfies_the_reference_tools() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("disk.raw");
    let disk = sample();
    save(&path, &disk.extents);
    let path = path.to_str().unwrap();
    let verdict = tool("sgdisk", "gdisk", &["-v", path]);
    assert!(verdict.contains("No problems found"), "{verdict}");
    assert!(!verdict.contains("Caution"), "{verdict}");
    let root = tool("sgdisk", "gdisk", &["-i", "3", path]);
    let hash = Sha256Digest::of(b"root").to_string().to_uppercase();
    assert!(root.replace('-', "").contains(&hash[..32]), "{root}");
    assert!(root.contains("4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709"), "{root}");
    assert!(root.contains("Attribute flags: 1000000000000000"), "{root}");
    assert!(root.contains("'load-balancer_2026.11.21'"), "{root}");
    let verity = tool("sgdisk", "gdisk", &["-i", "2", path]);
    assert!(verity.replace('-', "").contains(&hash[32..]), "{verity}");

    let esp = folder.path().join("esp");
    save(&esp, &disk.extents.slice(MIB, 64 * MIB));
    let said = tool("fsck.fat", "dosfstools", &["-n", "-v", esp.to_str().unwrap()]);
    let last = said.lines().last().unwrap();
    // Any complaint makes it end with code 1, or adds a line before the summary.
    assert!(!said.to_lowercase().contains("differences"), "{said}");
    assert!(last.contains("files") && last.contains("clusters"), "{said}");
    let listed = tool("mdir", "mtools", &["-i", esp.to_str().unwrap(), "-/", "-b", "::"]);
    for file in files() {
        assert!(file.path.contains("Ünï") || listed.contains(&file.path), "{} is not in\n{listed}", file.path);
    }
    let got = folder.path().join("got.efi");
    let source = "::EFI/Linux/load-balancer_2026.11.21.efi";
    tool("mcopy", "mtools", &["-i", esp.to_str().unwrap(), source, got.to_str().unwrap()]);
    assert!(crate::files::read(&got).unwrap() == noise(3_000_001, 4));
    // The time is the epoch's, in UTC.
    let dated = tool("mdir", "mtools", &["-i", esp.to_str().unwrap(), "::loader"]);
    assert!(dated.contains("2025-11-21") && dated.contains("4:40"), "{dated}");
}

#[test]
fn the_disk_is_pinned() {
    let disk = sample();
    let digest = |extents: &Extents| {
        let mut hash = Sha256::new();
        let mut buffer = vec![0; 1 << 20];
        for start in (0..extents.size()).step_by(1 << 20) {
            extents.read_exact_at(&mut buffer, start).unwrap();
            hash.update(&buffer);
        }
        hash.finish().to_string()
    };
    let table: Vec<String> = disk
        .partitions
        .iter()
        .map(|p| {
            format!(
                "{} {:?} {} {} at {} MiB, {} MiB, used {}",
                p.number,
                p.kind,
                p.label,
                p.uuid,
                p.start / MIB,
                p.size / MIB,
                p.used
            )
        })
        .collect();
    insta::assert_snapshot!(format!(
        "{}\n{} {}\n{}",
        table.join("\n"),
        disk.extents.size() / MIB,
        disk.guid,
        digest(&disk.extents)
    ));
}

#[test]
fn room_behind_moves_only_the_backup_table() {
    let (root, files) = (range(noise(5000, 1)), files());
    let mut input = DiskInput {
        name: "a",
        version: "1",
        root: &root,
        verity: &root,
        root_hash: Sha256Digest::of(b"root"),
        files: &files,
        shape: &shape(),
        room: 0,
        epoch: Epoch(0),
    };
    let small = lay_out(&input).unwrap();
    input.room = 3 * MIB + 5;
    let big = lay_out(&input).unwrap();
    assert_eq!(small.partitions, big.partitions);
    assert_eq!(big.extents.size(), small.extents.size() + 4 * MIB);
    assert_eq!(big.extents.allocated(), small.extents.allocated());
}

#[test]
fn what_does_not_fit_says_by_how_much() {
    let (root, tiny) = (range(noise(5000, 1)), range(vec![1]));
    let files = files();
    let long = "a-name-that-is-rather-long".to_owned();
    let input = |shape: &'static DiskShape, name: &'static str| {
        let (root, tiny, files) = (root.clone(), tiny.clone(), files.clone());
        let input = DiskInput {
            name,
            version: "2026",
            root: &root,
            verity: &tiny,
            root_hash: Sha256Digest::of(b""),
            files: &files,
            shape,
            room: 0,
            epoch: Epoch(0),
        };
        format!("{:?}", lay_out(&input).unwrap_err())
    };
    static SLOT: DiskShape = DiskShape { esp: 64 * MIB, slot: 4096, verity: MIB };
    static NO_ESP: DiskShape = DiskShape { esp: MIB, slot: MIB, verity: MIB };
    static HUGE: DiskShape = DiskShape { esp: 64 * MIB, slot: MIB, verity: u64::MAX };
    assert!(input(&SLOT, "a").contains("the sealed root has 5000 bytes, but `disk.slot` reserves 4096"));
    assert!(input(&NO_ESP, "a").contains("34 MiB or more"));
    assert!(input(&HUGE, "a").contains("64 bits"));
    let text = input(Box::leak(Box::new(shape())), Box::leak(long.into_boxed_str()));
    assert!(text.contains("38 UTF-16 units, a GPT holds 36"), "{text}");
}

fn fat(files: &[EspFile], size: u64) -> Result<Extents> {
    fat::build(&fat::Volume { size, serial: 0x1234_5678, label: *b"ESP        ", epoch: Epoch(1_700_000_000) }, files)
}

#[test]
fn files_that_do_not_fit_are_refused() {
    let big = EspFile { path: "EFI/big".to_owned(), content: Blob::memory(noise(40_000_000, 1)) };
    let error = format!("{:?}", fat(&[big], 36 * MIB).unwrap_err());
    assert!(error.contains("bytes more than the EFI system partition has") && error.contains("disk.esp"), "{error}");
    let file = |path: &str| EspFile { path: path.to_owned(), content: Blob::memory(*b"x") };
    for paths in [["a", "a"], ["a", "A"], ["a", "a/b"], ["a/b", "a"], ["x//y", "z"], ["../y", "z"], ["y/", "z"], ["a:b", "z"]] {
        assert!(fat(&paths.map(file), 64 * MIB).is_err(), "{paths:?}");
    }
}

#[test]
fn a_folder_longer_than_a_cluster_passes_fsck() {
    let files: Vec<EspFile> = (0..300)
        .map(|n| EspFile { path: format!("many/a rather long name {n}"), content: Blob::memory(vec![n as u8; n * 11]) })
        .collect();
    for size in [34, 256, 600] {
        let extents = fat(&files, size * MIB).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("esp");
        save(&path, &extents);
        tool("fsck.fat", "dosfstools", &["-n", path.to_str().unwrap()]);
        assert!(extents.allocated() < 3 * MIB, "{}", extents.allocated());
    }
}

/// Reads everything back by the `fatfs` crate.
fn read_back(extents: &Extents) -> std::collections::BTreeMap<String, Vec<u8>> {
    let mut bytes = vec![0; extents.size() as usize];
    extents.read_exact_at(&mut bytes, 0).unwrap();
    let volume = fatfs::FileSystem::new(Cursor::new(&mut bytes[..]), fatfs::FsOptions::new()).unwrap();
    assert_eq!(volume.fat_type(), fatfs::FatType::Fat32);
    let stats = volume.stats().unwrap();
    assert!(stats.free_clusters() < stats.total_clusters());
    let mut found = std::collections::BTreeMap::new();
    let mut folders = vec![(String::new(), volume.root_dir())];
    while let Some((path, folder)) = folders.pop() {
        for entry in folder.iter().map(|entry| entry.unwrap()) {
            let name = entry.file_name();
            if name == "." || name == ".." {
                continue;
            }
            let full = format!("{path}{name}");
            if entry.is_dir() {
                folders.push((format!("{full}/"), entry.to_dir()));
            } else {
                let mut content = Vec::new();
                entry.to_file().read_to_end(&mut content).unwrap();
                found.insert(full, content);
            }
        }
    }
    found
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 6, ..ProptestConfig::default() })]
    #[test]
    fn fatfs_reads_what_was_written(files in proptest::collection::btree_map("([a-cX]{1,3}/){0,3}[a-z0-9][-A-Za-z0-9_+.~]{0,30}[a-z]", proptest::collection::vec(any::<u8>(), 0..9000), 0..20)) {
        let input: Vec<EspFile> = files.iter().map(|(path, content)| EspFile { path: path.clone(), content: Blob::memory(content.clone()) }).collect();
        if let Ok(extents) = fat(&input, 34 * MIB) {
            prop_assert_eq!(read_back(&extents), files);
            let mut turned = input.clone();
            turned.reverse();
            let again = fat(&turned, 34 * MIB).unwrap();
            prop_assert_eq!(again.parts().len(), extents.parts().len());
        }
    }
}
