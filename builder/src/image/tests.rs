use proptest::prelude::*;
use trust::Sha256Digest;

use super::*;
use crate::blob::Extents;
use crate::definition::DiskShape;
use crate::disk::{DiskInput, EspFile, PartitionType, lay_out};
use crate::epoch::Epoch;
use crate::export::{ExportInput, export};
use crate::progress::Silent;
use crate::run::Program;

const MIB: u64 = 1 << 20;

fn files() -> Vec<EspFile> {
    let file = |path: &str, content: Vec<u8>| EspFile { path: path.to_owned(), content: Blob::memory(content) };
    vec![
        file("EFI/BOOT/BOOTX64.EFI", b"loader ".repeat(30_000)),
        file("EFI/Linux/load-balancer_1.efi", b"kernel ".repeat(90_000)),
        file("empty", Vec::new()),
        file("loader/loader.conf", b"timeout 0\n".to_vec()),
    ]
}

fn disk() -> crate::disk::Disk {
    let mut root = Extents::new(0);
    root.push(0, Blob::memory(b"root!".repeat(100_000)));
    let files = files();
    let shape = DiskShape { esp: 34 * MIB, slot: 2 * MIB, verity: MIB };
    let input = DiskInput {
        name: "a",
        version: "1",
        root: &root,
        verity: &root,
        root_hash: Sha256Digest::of(b"root"),
        files: &files,
        shape: &shape,
        room: 0,
        epoch: Epoch(1_700_000_000),
    };
    lay_out(&input).unwrap()
}

fn whole(source: &dyn ReadAt) -> Vec<u8> {
    let mut bytes = vec![0; source.size() as usize];
    // In pieces that fit no boundary.
    for (start, piece) in (0..).step_by(777_777).zip(bytes.chunks_mut(777_777)) {
        source.read_exact_at(piece, start).unwrap();
    }
    bytes
}

#[test]
fn every_format_is_read_back_down_to_the_files() {
    let folder = tempfile::tempdir().unwrap();
    let disk = disk();
    let input = ExportInput { disk: &disk.extents, identity: [5; 32], formats: &Format::ALL, folder: folder.path(), name: "a" };
    let mut dumps = String::new();
    for artifact in export(&input, &Silent).unwrap() {
        let image = Image::open(&artifact.path).unwrap();
        assert_eq!(image.format(), artifact.format);
        assert!(whole(&image) == whole(&disk.extents), "{:?}", artifact.format);
        assert!(image.read_exact_at(&mut [0; 2], image.size() - 1).is_err());
        let table = gpt::read(&image).unwrap();
        assert_eq!(table.faults, [""; 0]);
        assert_eq!(table.guid, disk.guid);
        let told: Vec<_> = table.entries.iter().map(|e| (e.number, e.kind, e.uuid, e.start, e.size, e.label.clone())).collect();
        let made: Vec<_> =
            disk.partitions.iter().map(|p| (p.number, p.kind.guid(), p.uuid, p.start, p.size, p.label.clone())).collect();
        assert_eq!(told, made);
        let esp = table.find(PartitionType::Esp.guid()).unwrap();
        let window = Window::new(&image, esp.start, esp.size).unwrap();
        let fat = fat::Fat::open(&window).unwrap();
        let found = fat.files().unwrap();
        assert_eq!(found.len(), files().len());
        for (file, made) in found.iter().zip(files()) {
            assert_eq!(file.path, made.path);
            assert!(fat.read(file, MIB).unwrap() == made.content.to_vec().unwrap(), "{}", file.path);
        }
        assert!(fat.read(&found[0], 10).is_err());
        let checks = crate::verify::partitions("a", &table, &Sha256Digest::of(b"root"));
        crate::verify::verdict(&checks).unwrap();
        let report = crate::inspect::look(&image).unwrap();
        assert_eq!((report.partitions.len(), report.boot_files.len()), (3, files().len()));
        assert_eq!(report.partitions[1].attributes, ["read-only"]);
        dumps += &image.dump().unwrap();
    }
    insta::assert_snapshot!(dumps);
}

#[test]
fn images_of_qemu_are_read_as_well() {
    let folder = tempfile::tempdir().unwrap();
    let disk = disk();
    let raw = folder.path().join("a.raw");
    let input = ExportInput { disk: &disk.extents, identity: [5; 32], formats: &[Format::Raw], folder: folder.path(), name: "a" };
    export(&input, &Silent).unwrap();
    let table: [(&str, &[&str]); 7] = [
        ("qcow2", &[]),
        ("qcow2", &["-c"]),
        ("qcow2", &["-c", "-o", "cluster_size=4096"]),
        ("qcow2", &["-o", "compat=0.10,cluster_size=2M"]),
        ("vhdx", &[]),
        ("vhdx", &["-o", "block_size=1M"]),
        ("vhdx", &["-o", "subformat=fixed"]),
    ];
    for (format, options) in table {
        let path = folder.path().join("b");
        let program = Program::find("qemu-img", "apt install qemu-utils").unwrap().arg("convert").arg("-O").arg(format);
        let program = options.iter().fold(program, |program, option| program.arg(*option));
        program.arg(&raw).arg(&path).output().unwrap();
        let image = Image::open(&path).unwrap();
        // qemu-img rounds some sizes up.
        assert!(whole(&image)[..disk.extents.size() as usize] == whole(&disk.extents), "{format} {options:?}");
    }
}

#[test]
fn broken_tables_are_told() {
    let disk = disk();
    let bytes = whole(&disk.extents);
    let changed = |at: usize| {
        let mut bytes = bytes.clone();
        bytes[at] ^= 1;
        gpt::read(&Blob::memory(bytes))
    };
    let last = bytes.len() - 512;
    let table = [
        (512 + 60, "the primary table: the header's checksum is wrong"),
        (1024 + 5, "the primary table: the checksum of the entries is wrong"),
        (512, "the primary table: no header in block 1"),
        (last + 60, "the backup table: the header's checksum is wrong"),
        (last, "the backup table: no header"),
    ];
    for (at, fault) in table {
        let table = changed(at).unwrap();
        assert_eq!(table.entries.len(), 3);
        assert!(table.faults[0].starts_with(fault), "{:?}", table.faults);
    }
    assert!(gpt::read(&Blob::memory(vec![0; 4096])).is_err());
    assert!(gpt::read(&Blob::memory(vec![])).is_err());
    // A whole disk cut short: the primary table still stands, a partition does not.
    let cut = gpt::read(&Blob::memory(bytes[..36 * MIB as usize].to_vec())).unwrap();
    assert!(cut.faults.iter().any(|fault| fault.contains("not on the disk")), "{:?}", cut.faults);
}

#[test]
fn wrong_headers_say_why() {
    let folder = tempfile::tempdir().unwrap();
    let disk = Extents::new(MIB);
    let formats = [Format::Qcow2, Format::Vhdx];
    let input = ExportInput { disk: &disk, identity: [5; 32], formats: &formats, folder: folder.path(), name: "a" };
    let made: Vec<Vec<u8>> = export(&input, &Silent).unwrap().iter().map(|a| crate::files::read(&a.path).unwrap()).collect();
    let open = |which: usize, at: usize, value: &[u8]| {
        let mut bytes = made[which].clone();
        bytes[at..at + value.len()].copy_from_slice(value);
        format!("{:?}", Image::of(Blob::memory(bytes)).unwrap_err())
    };
    assert!(open(0, 7, &[9]).contains("version 9"));
    assert!(open(0, 15, &[9]).contains("backing file"));
    assert!(open(0, 23, &[63]).contains("2^63"));
    assert!(open(0, 24, &[0xff]).contains("its table covers"));
    assert!(open(0, 79, &[8]).contains("incompatible features 0x8"));
    assert!(open(0, 35, &[1]).contains("encrypted"));
    // One header may be broken, not both.
    let mut bytes = made[1].clone();
    bytes[65536 + 9] ^= 1;
    assert!(Image::of(Blob::memory(bytes.clone())).is_ok());
    bytes[2 * 65536 + 9] ^= 1;
    assert!(Image::of(Blob::memory(bytes)).unwrap_err().to_string().contains("neither has a right checksum"));
    let metadata = 2 * MIB as usize;
    assert!(open(1, metadata, b"x").contains("no table"));
    assert!(open(1, metadata + 65536, &[1]).contains("blocks of"));
    assert!(open(1, metadata + 65536 + 4, &[2]).contains("parent"));
    assert!(open(1, metadata + 65536 + 15, &[0xff]).contains("at most 64 TiB"));
}

#[test]
fn a_folder_in_itself_ends() {
    let files = [EspFile { path: "A/B".to_owned(), content: Blob::memory(*b"x") }];
    let volume = crate::disk::fat::Volume { size: 34 * MIB, serial: 1, label: *b"X          ", epoch: Epoch(0) };
    let made = crate::disk::fat::build(&volume, &files).unwrap();
    let mut bytes = whole(&made);
    // Root holds its label and `A`: let `A` begin where the root does.
    let root = bytes.windows(11).position(|name| name == b"A          ").unwrap();
    bytes[root + 26] = 2;
    let blob = Blob::memory(bytes.clone());
    assert!(fat::Fat::open(&blob).unwrap().files().unwrap_err().to_string().contains("contains itself"));
    // A chain in a circle: cluster 2 follows cluster 2.
    let table = usize::from(bytes[14]) * 512 + usize::from(bytes[15]) * 256 * 512;
    bytes[table + 8..table + 12].copy_from_slice(&2u32.to_le_bytes());
    let blob = Blob::memory(bytes);
    assert!(fat::Fat::open(&blob).unwrap().files().is_err());
}

/// A disk and its exports, small, with holes: what the readers see is changed at random.
fn victims() -> Vec<Vec<u8>> {
    let folder = tempfile::tempdir().unwrap();
    let mut disk = Extents::new(2 * MIB);
    disk.push(0, Blob::memory(b"abcdefgh".repeat(10_000)));
    let input = ExportInput { disk: &disk, identity: [5; 32], formats: &Format::ALL[1..], folder: folder.path(), name: "a" };
    export(&input, &Silent).unwrap().iter().map(|a| crate::files::read(&a.path).unwrap()).collect()
}

/// Reads everything there is to read; whatever comes, no panic.
fn use_up(bytes: Vec<u8>) {
    let blob = Blob::memory(bytes);
    let mut buffer = vec![0; 100_000];
    if let Ok(image) = Image::of(blob.clone()) {
        for position in [0, 65_000, image.size() / 2, image.size().saturating_sub(100_000), u64::MAX] {
            let _ = image.read_exact_at(&mut buffer, position);
        }
        let _ = gpt::read(&image);
    }
    if let Ok(fat) = fat::Fat::open(&blob) {
        for file in fat.files().unwrap_or_default() {
            let _ = fat.read(&file, MIB);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, ..ProptestConfig::default() })]
    #[test]
    fn hostile_images_do_not_panic(which in 0usize..2, changes in proptest::collection::vec((any::<u32>(), any::<u8>(), any::<bool>()), 1..12)) {
        static VICTIMS: std::sync::LazyLock<Vec<Vec<u8>>> = std::sync::LazyLock::new(victims);
        let mut bytes = VICTIMS[which].clone();
        // Half of the changes hit places where tables are.
        let tables = [0, 72, 65_536, 131_072, 4 << 16, 5 << 16, 2 << 20, (2 << 20) + 65_536, 3 << 20];
        for (at, value, table) in changes {
            let at = if table { tables[at as usize % tables.len()] + (at as usize >> 8) % 128 } else { at as usize };
            let at = at % bytes.len();
            bytes[at] = value;
        }
        use_up(bytes);
    }

    #[test]
    fn hostile_partition_tables_and_fats_do_not_panic(changes in proptest::collection::vec((0usize..200, any::<u8>()), 1..12)) {
        static SMALL: std::sync::LazyLock<Vec<u8>> = std::sync::LazyLock::new(|| {
            let disk = disk();
            let mut bytes = vec![0; 40_000];
            disk.extents.read_exact_at(&mut bytes, MIB).unwrap();
            bytes
        });
        let mut bytes = SMALL.clone();
        for (at, value) in &changes {
            bytes[*at] = *value;
        }
        use_up(bytes.clone());
        // A header whose checksum is right, whatever it says.
        let mut header = bytes[..512].to_vec();
        header[..8].copy_from_slice(b"EFI PART");
        header[12..16].copy_from_slice(&92u32.to_le_bytes());
        header[16..20].fill(0);
        header[24..32].copy_from_slice(&1u64.to_le_bytes());
        let mut crc = flate2::Crc::new();
        crc.update(&header[..92]);
        header[16..20].copy_from_slice(&crc.sum().to_le_bytes());
        let mut disk = vec![0; 512];
        disk.extend(header);
        disk.resize(20_000, 0);
        use_up(disk);
    }
}
