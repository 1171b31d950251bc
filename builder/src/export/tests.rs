use std::path::Path;

use proptest::prelude::*;
use trust::Sha256;

use super::*;
use crate::blob::Blob;
use crate::progress::Silent;
use crate::run::Program;

const MIB: u64 = 1 << 20;

fn qemu_img(arguments: &[&str]) -> String {
    let program = Program::find("qemu-img", "apt install qemu-utils").unwrap();
    let program = arguments.iter().fold(program, |program, argument| program.arg(*argument));
    String::from_utf8(program.output().unwrap_or_else(|e| panic!("{e}"))).unwrap()
}

/// Writes without hashing the gigabytes between.
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

fn export_all(disk: &Extents, folder: &Path) -> Vec<Artifact> {
    let input = ExportInput { disk, identity: [7; 32], formats: &Format::ALL, folder, name: "image" };
    export(&input, &Silent).unwrap()
}

/// Zeros at every place where a format could go wrong, text, noise, and odd boundaries.
fn sample() -> Extents {
    let mut disk = Extents::new(514 * MIB);
    disk.push(0, Blob::memory(vec![0; 8192]));
    disk.push(20_000, Blob::memory(noise(300_000, 1)));
    disk.push(MIB, Blob::memory(b"text that packs well, ".repeat(20_000)));
    disk.push(5 * MIB + 4096, Blob::memory(vec![0; 3 * MIB as usize]));
    disk.push(9 * MIB - 1, Blob::memory(noise(2, 5)));
    disk.push(512 * MIB, Blob::memory(noise(100_000, 2)));
    disk.push(514 * MIB - 512, Blob::memory(noise(512, 3)));
    disk
}

#[test]
fn qemu_reads_the_same_disk_from_every_format() {
    let folder = tempfile::tempdir().unwrap();
    let artifacts = export_all(&sample(), folder.path());
    let raw = artifacts[0].path.to_str().unwrap();
    for artifact in &artifacts {
        let bytes = crate::files::read(&artifact.path).unwrap();
        assert_eq!(bytes.len() as u64, artifact.size);
        assert_eq!(Sha256Digest::of(&bytes), artifact.sha256, "{:?}", artifact.format);
        let path = artifact.path.to_str().unwrap();
        let name = artifact.format.extension();
        if artifact.format != Format::Raw {
            let said = qemu_img(&["check", "-f", name, path]);
            assert!(said.contains("No errors were found"), "{said}");
        }
        let said = qemu_img(&["compare", "-f", "raw", "-F", name, raw, path]);
        assert!(said.contains("identical"), "{said}");
    }
    // Only what is not zero is kept: 400 KiB of noise, 440 KB of text, 3 pages at the edges.
    assert!(artifacts[0].allocated < 900_000, "{}", artifacts[0].allocated);
    assert!(artifacts[1].size < 1_300_000, "{}", artifacts[1].size);
    let file = crate::files::open(&artifacts[0].path).unwrap();
    for (start, blob) in sample().parts() {
        assert!(
            Blob::file(std::sync::Arc::new(file.try_clone().unwrap()), *start, blob.len()).to_vec().unwrap()
                == blob.to_vec().unwrap()
        );
    }
}

#[test]
fn the_files_are_pinned() {
    let folder = tempfile::tempdir().unwrap();
    let told: Vec<String> = export_all(&sample(), folder.path())
        .iter()
        .map(|a| format!("{} {} {} {}", a.format.extension(), a.size, a.allocated, a.sha256))
        .collect();
    insta::assert_snapshot!(told.join("\n"));
}

#[test]
fn blocks_of_the_vhdx_may_be_bigger_and_chunks_many() {
    let folder = tempfile::tempdir().unwrap();
    // More than one chunk of 4096 blocks: the bitmap entries between them must be skipped.
    let mut disk = Extents::new(4200 * MIB);
    for start in [0, 4095, 4096, 4097, 4199] {
        disk.push(start * MIB, Blob::memory(noise(5000, start)));
    }
    let raw = export(&ExportInput { disk: &disk, identity: [1; 32], formats: &[], folder: folder.path(), name: "x" }, &Silent);
    assert_eq!(raw.unwrap(), []);
    let survey = Survey::of(&disk, None, &Silent).unwrap();
    for block in [1, 32, 256] {
        let (path, back) = (folder.path().join("x.vhdx"), folder.path().join("x.raw"));
        save(&path, &vhdx::lay_out(&survey, &[1; 32], block * MIB).unwrap());
        let said = qemu_img(&["info", path.to_str().unwrap()]);
        assert!(said.contains("4.1 GiB"), "{said}");
        qemu_img(&["check", "-f", "vhdx", path.to_str().unwrap()]);
        // qemu reads every zero of a VHDX: only the places that matter.
        for (start, length) in [(0, 2), (4090, 12), (4190, 10)] {
            let file = format!(r#""file":{{"driver":"vhdx","file":{{"driver":"file","filename":"{}"}}}}"#, path.display());
            let window = format!(r#"json:{{"driver":"raw","offset":{},"size":{},{file}}}"#, start * MIB, length * MIB);
            qemu_img(&["convert", "-O", "raw", &window, back.to_str().unwrap()]);
            let mut expected = vec![0; (length * MIB) as usize];
            disk.read_exact_at(&mut expected, start * MIB).unwrap();
            assert!(crate::files::read(&back).unwrap() == expected, "blocks of {block} MiB, at {start} MiB");
        }
    }
    for block in [0, 1, 3 * MIB, 512 * MIB] {
        assert!(vhdx::lay_out(&survey, &[1; 32], block).is_err());
    }
}

#[test]
fn odd_disks_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    for size in [0, 1000, 65 << 40] {
        let survey = Survey::of(&Extents::new(size), Some(folder.path()), &Silent).unwrap();
        assert!(qcow2::lay_out(&survey).is_err(), "{size}");
        assert!(vhdx::lay_out(&survey, &[0; 32], MIB).is_err(), "{size}");
    }
}

#[test]
fn a_folder_that_is_not_there_is_named() {
    let disk = Extents::new(MIB);
    let input =
        ExportInput { disk: &disk, identity: [0; 32], formats: &Format::ALL, folder: Path::new("/nonexistent/x"), name: "a" };
    let error = export(&input, &Silent).unwrap_err();
    assert!(error.to_string().contains("/nonexistent/x"), "{error}");
}

#[test]
fn a_blob_that_ends_early_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let file = std::sync::Arc::new(tempfile::tempfile().unwrap());
    let mut disk = Extents::new(MIB);
    disk.push(0, Blob::file(file, 0, 5000));
    let input = ExportInput { disk: &disk, identity: [0; 32], formats: &Format::ALL, folder: folder.path(), name: "a" };
    assert!(export(&input, &Silent).unwrap_err().to_string().contains("reading the disk"));
}

/// A disk of random pieces: (gap, length, kind).
fn random_disk(pieces: &[(u32, u32, u8)]) -> Extents {
    let mut disk = Extents::new(512);
    let mut end = 0;
    for (gap, length, kind) in pieces {
        let bytes = match kind % 3 {
            0 => noise(*length as usize, u64::from(*gap)),
            1 => b"abcdefgh".iter().copied().cycle().take(*length as usize).collect(),
            _ => vec![0; *length as usize],
        };
        let start = end + u64::from(*gap);
        disk.push(start, Blob::memory(bytes));
        end = start + u64::from(*length);
    }
    disk.grow(disk.size().next_multiple_of(512));
    disk
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 6, ..ProptestConfig::default() })]
    #[test]
    fn any_disk_survives_every_format(pieces in proptest::collection::vec((0u32..1_500_000, 0u32..300_000, any::<u8>()), 0..12)) {
        let folder = tempfile::tempdir().unwrap();
        let disk = random_disk(&pieces);
        let mut expected = vec![0; disk.size() as usize];
        disk.read_exact_at(&mut expected, 0).unwrap();
        let mut hash = Sha256::new();
        hash.update(&expected);
        let artifacts = export_all(&disk, folder.path());
        prop_assert_eq!(hash.finish(), artifacts[0].sha256);
        for artifact in &artifacts[1..] {
            let back = folder.path().join("back");
            let path = artifact.path.to_str().unwrap();
            qemu_img(&["check", "-f", artifact.format.extension(), path]);
            qemu_img(&["convert", "-O", "raw", "-f", artifact.format.extension(), path, back.to_str().unwrap()]);
            prop_assert!(crate::files::read(&back).unwrap() == expected);
        }
    }
}
