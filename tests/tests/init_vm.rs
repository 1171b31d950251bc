//! VM stories of the initrd: `ingot-init` under Debian's kernel in QEMU (TCG), with a small root
//! made by the reference tools (mkfs.erofs, veritysetup, sgdisk). It starts what is whole, from
//! every kind of disk, and refuses in words what is not.
//!
//! Needs root, QEMU, the musl target, and the oracle root (a Debian trixie root with erofs-utils,
//! cryptsetup-bin, gdisk, kmod). The kernel package is fetched once, into `target/test-kernel`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout, reason = "helpers of a test")]

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ingot::boot::initrd::{Initrd, initrd};
use ingot::definition::Kernel;
use ingot::epoch::Epoch;
use ingot::error::{Error, Kind, Result};
use ingot::run::Program;
use ingot::tree::{ContentId, Contents, Entry, Node, Tree};
use ingot_tests::programs::oracle_root;

const WORKSPACE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
const MUSL: &str = "x86_64-unknown-linux-musl";

/// Firmware UUID of the VMs, and the machine-id that must come of it (pinned in `identity.rs`).
const FIRMWARE: &str = "550e8400-e29b-41d4-a716-446655440000";
const MACHINE_ID: &str = "081b22a5451b49198320a0716e274f92";

/// A VM that has not ended by then is stopped, and its story fails.
const DEADLINE: Duration = Duration::from_secs(120);

const SECTOR: u64 = 512;
const ROOT_START: u64 = 2048;
/// Fills /usr/share/data, so that its blocks can be found in the image.
const DATA: &[u8; 16] = b"ingot-data-block";

/// The kinds of disk, each with the driver it proves.
const VIRTIO_BLK: &[&str] = &["virtio-blk-pci,drive=disk"];
const VIRTIO_SCSI: &[&str] = &["virtio-scsi-pci", "scsi-hd,drive=disk"];
const NVME: &[&str] = &["nvme,drive=disk,serial=1"];
const AHCI: &[&str] = &["ahci,id=ahci", "ide-hd,drive=disk,bus=ahci.0"];
const PVSCSI: &[&str] = &["pvscsi", "scsi-hd,drive=disk"];

/// One start of a VM.
struct Story {
    name: &'static str,
    disk: &'static [&'static str],
    /// What is done to the whole disk before.
    change: fn(&World, &Path),
    /// Further words of the command line; `HASH` becomes the root hash.
    line: &'static str,
    says: &'static [&'static str],
    never: &'static [&'static str],
}

const STORIES: [Story; 8] = [
    Story {
        name: "a whole root starts",
        disk: VIRTIO_BLK,
        change: |_, _| {},
        line: "roothash=HASH rd.ingot.debug",
        says: &[
            "is verified by",
            "handing over to /usr/lib/systemd/systemd",
            "FACT process 1",
            MACHINE_ID,
            "FACT etc of the image: hello",
            "FACT etc written: Ok(())",
            "FACT usr written: Err(ReadOnlyFilesystem)",
            "FACT initrd's files: false",
            "FACT dm name root",
            "FACT mount /dev/dm-0 / erofs ro,nodev,noatime",
            "FACT data intact: true",
        ],
        never: &["FAILED", "was not loaded", "Kernel panic"],
    },
    Story {
        name: "the backup table serves where the primary one is damaged",
        disk: VIRTIO_BLK,
        change: |_, disk| flip(disk, SECTOR + 60),
        line: "roothash=HASH",
        says: &["its backup is used", "FACT data intact: true", MACHINE_ID],
        never: &["FAILED"],
    },
    Story {
        name: "a root hash that no disk has is refused",
        disk: VIRTIO_SCSI,
        change: |_, _| {},
        line: "rd.ingot.timeout=2 roothash=00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff",
        says: &["FAILED: finding the root within 2 s", "sda: other partitions (of 2)", "next: attach the disk", "powering off"],
        never: &["FACT"],
    },
    Story {
        name: "partitions named after another root hash are refused",
        disk: NVME,
        change: |world, disk| {
            world.name_partitions(disk, "00112233445566778899aabbccddeeff0123456789abcdef0123456789abcdef");
        },
        line: "roothash=00112233445566778899aabbccddeeff0123456789abcdef0123456789abcdef",
        says: &[
            "FAILED: verifying the hash tree on /dev/nvme0n1p2",
            "expected: root hash 0011",
            "found: root hash ",
            "write the image again",
        ],
        never: &["FACT"],
    },
    Story {
        name: "a flipped bit in the superblock is refused, also when quiet",
        disk: AHCI,
        change: |_, disk| flip(disk, ROOT_START * SECTOR + 1024),
        line: "quiet roothash=HASH",
        says: &[
            "data block 0 is corrupted",
            "FAILED: reading the start of /dev/dm-0, the verified root on /dev/sda1",
            "next: see",
        ],
        never: &["FACT"],
    },
    Story {
        name: "a flipped bit in a block read later stops the machine",
        disk: PVSCSI,
        change: |_, disk| flip(disk, ROOT_START * SECTOR + find(disk, DATA) + 300_000),
        line: "quiet panic=1 roothash=HASH",
        says: &["FACT reading", "is corrupted", "Kernel panic - not syncing: dm-verity device corrupted"],
        never: &["FACT data intact"],
    },
    Story {
        name: "a missing verity partition is refused",
        disk: VIRTIO_BLK,
        change: |world, disk| world.sgdisk(disk, &["-d", "2"]),
        line: "rd.ingot.timeout=1 roothash=HASH",
        says: &[
            "FAILED: finding the root",
            "vda: the root partition, but not its verity partition (of 1)",
            "expected: partitions ",
        ],
        never: &["FACT"],
    },
    Story {
        name: "a command line without a root hash is refused",
        disk: VIRTIO_BLK,
        change: |_, _| {},
        line: "root=/dev/vda1",
        says: &["FAILED: reading the kernel's command line", "found: no roothash="],
        never: &["FACT"],
    },
];

#[test]
fn the_initrd_starts_what_is_whole_and_refuses_the_rest_in_words() {
    let world = World::make();
    let faults: Vec<String> = STORIES.iter().filter_map(|story| world.tell(story).err()).collect();
    assert!(faults.is_empty(), "{}", faults.join("\n\n"));
}

/// What all stories share.
struct World {
    /// Below the oracle root, so that its tools see it as `inside`.
    folder: tempfile::TempDir,
    kernel: PathBuf,
    root_hash: String,
}

impl World {
    fn make() -> Self {
        assert!(rustix::process::geteuid().is_root(), "this test uses the oracle root by chroot: run it as root");
        let folder = tempfile::Builder::new().prefix("init-vm-").tempdir_in(oracle_root().join("tmp")).unwrap();
        let kernel = test_kernel();
        let made = make_initrd(&kernel);
        assert!(made.bytes.len() < 5 << 20, "the initrd has {} bytes, expected at most 5 MiB", made.bytes.len());
        println!("initrd: {} bytes ({} unpacked), {} modules", made.bytes.len(), made.unpacked, made.modules.len());
        fs::write(folder.path().join("initrd"), &made.bytes).unwrap();
        let mut world = Self { folder, kernel, root_hash: String::new() };
        world.make_disk();
        world
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Runs a tool of the trixie root in the folder.
    fn inside(&self, script: &str) -> String {
        let folder = Path::new("/").join(self.folder.path().strip_prefix(oracle_root()).unwrap());
        in_trixie(&format!("cd {} && {script}", folder.display()))
    }

    fn sgdisk(&self, disk: &Path, arguments: &[&str]) {
        self.inside(&format!("sgdisk {} {}", arguments.join(" "), disk.file_name().unwrap().to_string_lossy()));
    }

    fn name_partitions(&self, disk: &Path, hash: &str) {
        self.sgdisk(disk, &["-u", &format!("1:{}", uuid(&hash[..32])), "-u", &format!("2:{}", uuid(&hash[32..]))]);
    }

    /// Root, hash tree and partition table, all by the reference tools.
    fn make_disk(&mut self) {
        for name in ["proc", "sys", "dev", "run", "etc", "usr/lib/systemd", "usr/share"] {
            fs::create_dir_all(self.path("root").join(name)).unwrap();
        }
        compile(&self.path("root/usr/lib/systemd/systemd"));
        fs::write(self.path("root/etc/hello"), "hello\n").unwrap();
        fs::write(self.path("root/usr/share/data"), DATA.repeat((1 << 20) / DATA.len())).unwrap();
        self.inside("mkfs.erofs -T1 -U 11111111-2222-3333-4444-555555555555 root.erofs root");
        let said = self.inside("veritysetup format --salt 5a --uuid 11111111-2222-3333-4444-666666666666 root.erofs verity");
        let hash = said.lines().find_map(|line| line.strip_prefix("Root hash:")).unwrap_or_else(|| panic!("{said}"));
        self.root_hash = hash.trim().to_owned();
        let (root, verity) = (fs::read(self.path("root.erofs")).unwrap(), fs::read(self.path("verity")).unwrap());
        let sectors = |bytes: &[u8]| (bytes.len() as u64).div_ceil(SECTOR).next_multiple_of(2048);
        let verity_start = ROOT_START + sectors(&root);
        let end = verity_start + sectors(&verity);
        let disk = fs::File::create(self.path("disk")).unwrap();
        disk.set_len((end + 2048) * SECTOR).unwrap();
        let parts = [format!("-n1:{ROOT_START}:{}", verity_start - 1), format!("-n2:{verity_start}:{}", end - 1)];
        self.sgdisk(&self.path("disk"), &parts.each_ref().map(String::as_str));
        self.name_partitions(&self.path("disk"), &self.root_hash);
        disk.write_all_at(&root, ROOT_START * SECTOR).unwrap();
        disk.write_all_at(&verity, verity_start * SECTOR).unwrap();
    }

    /// Runs one story; what went otherwise, with the end of the serial console.
    fn tell(&self, story: &Story) -> Result<(), String> {
        let disk = self.path("changed");
        fs::copy(self.path("disk"), &disk).unwrap();
        (story.change)(self, &disk);
        let start = Instant::now();
        let said = self.run(story, &disk)?;
        let end: Vec<&str> = said.lines().rev().take(40).collect();
        let end = end.into_iter().rev().collect::<Vec<_>>().join("\n");
        println!("{}: {:.1} s\n{}", story.name, start.elapsed().as_secs_f32(), ours(&said));
        let missing: Vec<&&str> = story.says.iter().filter(|words| !said.contains(**words)).collect();
        let unwanted: Vec<&&str> = story.never.iter().filter(|words| said.contains(**words)).collect();
        if missing.is_empty() && unwanted.is_empty() {
            return Ok(());
        }
        Err(format!("{}: not said: {missing:?}, said: {unwanted:?}\n{end}", story.name))
    }

    fn run(&self, story: &Story, disk: &Path) -> Result<String, String> {
        let (serial, initrd) = (self.path("serial"), self.path("initrd"));
        let line =
            format!("console=ttyS0 rd.ingot.wait=0 rd.ingot.fail=poweroff {}", story.line.replace("HASH", &self.root_hash));
        let drive = format!("if=none,id=disk,format=raw,file={}", disk.display());
        let serial_option = format!("file:{}", serial.display());
        let kernel = self.kernel.join("vmlinuz");
        let mut qemu = Program::find("qemu-system-x86_64", "apt install qemu-system-x86").unwrap();
        let shape = "-machine q35 -accel tcg,thread=multi -cpu max,-svm -smp 2 -m 512 -nodefaults -no-user-config -display none -no-reboot";
        for argument in shape.split(' ').chain(["-uuid", FIRMWARE, "-append", &line, "-drive", &drive, "-serial", &serial_option])
        {
            qemu = qemu.arg(argument);
        }
        qemu = qemu.arg("-kernel").arg(kernel).arg("-initrd").arg(initrd);
        for device in story.disk {
            qemu = qemu.arg("-device").arg(*device);
        }
        let mut child = qemu.command().spawn().map_err(|e| e.to_string())?;
        let start = Instant::now();
        while child.try_wait().map_err(|e| e.to_string())?.is_none() {
            if start.elapsed() > DEADLINE {
                child.kill().and_then(|()| child.wait()).map_err(|e| e.to_string())?;
                let said = String::from_utf8_lossy(&fs::read(&serial).unwrap_or_default()).into_owned();
                return Err(format!("{}: still running after {} s\n{said}", story.name, DEADLINE.as_secs()));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(String::from_utf8_lossy(&fs::read(&serial).map_err(|e| e.to_string())?).into_owned())
    }
}

/// The lines of the program under test.
fn ours(said: &str) -> String {
    said.lines().filter(|line| line.contains("ingot-init:")).collect::<Vec<_>>().join("\n")
}

fn in_trixie(script: &str) -> String {
    let program = Program::find("chroot", "apt install coreutils").unwrap().arg(oracle_root()).arg("sh").arg("-ec").arg(script);
    String::from_utf8(program.output().unwrap()).unwrap()
}

/// 32 hexadecimal digits with dashes.
fn uuid(digits: &str) -> String {
    format!("{}-{}-{}-{}-{}", &digits[..8], &digits[8..12], &digits[12..16], &digits[16..20], &digits[20..])
}

fn flip(disk: &Path, offset: u64) {
    let file = fs::File::options().read(true).write(true).open(disk).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset).unwrap();
    file.write_all_at(&[byte[0] ^ 1], offset).unwrap();
}

/// Where `wanted` first is in the root partition, in bytes.
fn find(disk: &Path, wanted: &[u8]) -> u64 {
    let bytes = fs::read(disk).unwrap();
    let start = usize::try_from(ROOT_START * SECTOR).unwrap();
    bytes[start..].windows(wanted.len()).position(|window| window == wanted).expect("the data is stored uncompressed") as u64
}

/// A folder with `vmlinuz` and `modules`, from Debian's package, its indexes made by depmod.
fn test_kernel() -> PathBuf {
    let kernel = Path::new(WORKSPACE).join("target/test-kernel");
    if !kernel.join("vmlinuz").exists() {
        let made = in_trixie(
            "apt-get -qq update >&2
             package=$(apt-cache depends linux-image-cloud-amd64 | sed -n 's/.*Depends: \\(linux-image-[0-9].*\\)/\\1/p')
             folder=$(mktemp -d /tmp/test-kernel-XXXXXX); chmod 777 $folder; cd $folder
             apt-get -qq download $package >&2
             dpkg-deb -x *.deb root; ln -s usr/lib root/lib; depmod -b root ${package#linux-image-}
             mv root/boot/vmlinuz-* vmlinuz; mv root/usr/lib/modules modules; rm -r root *.deb; echo $folder",
        );
        let made = oracle_root().join(made.trim().trim_start_matches('/'));
        fs::create_dir_all(kernel.parent().unwrap()).unwrap();
        // Other file systems are fine; the marker file comes last.
        let copy =
            Program::find("cp", "apt install coreutils").unwrap().arg("-a").arg(made.join("modules")).arg(made.join("vmlinuz"));
        fs::create_dir_all(&kernel).unwrap();
        copy.arg(&kernel).output().unwrap();
        fs::remove_dir_all(made).unwrap();
    }
    kernel
}

/// The kernel's modules as a tree, and the program under test, through the builder's own stage.
fn make_initrd(kernel: &Path) -> Initrd {
    let (mut tree, mut contents) = (Tree::default(), Memory::default());
    read_folder(&kernel.join("modules"), "usr/lib/modules", &mut tree, &mut contents);
    #[allow(clippy::disallowed_methods, reason = "cargo is not a program of the system")]
    let built = Command::new(env!("CARGO"))
        .args(["build", "--release", "--target", MUSL, "-p", "ingot-init"])
        .current_dir(WORKSPACE)
        .status()
        .unwrap();
    assert!(
        built.success(),
        "building ingot-init: install the target with `rustup target add {MUSL}` and apt install musl-tools"
    );
    let init = fs::read(Path::new(WORKSPACE).join("target").join(MUSL).join("release/ingot-init")).unwrap();
    assert!(init.len() < 700_000, "ingot-init has {} bytes, expected less than 700 000", init.len());
    let start = Instant::now();
    let made = initrd(&tree, &contents, &Kernel::default(), &init, Epoch(1_700_000_000)).unwrap();
    println!("initrd made in {:.2} s", start.elapsed().as_secs_f32());
    made
}

#[derive(Default)]
struct Memory(BTreeMap<ContentId, Arc<[u8]>>);

impl Contents for Memory {
    fn read(&self, id: &ContentId) -> Result<Arc<[u8]>> {
        self.0.get(id).cloned().ok_or_else(|| Error::new(Kind::Failed, format!("no content {id:?}")))
    }
}

fn read_folder(folder: &Path, name: &str, tree: &mut Tree, contents: &mut Memory) {
    let entry = |node| Entry { mode: 0o755, uid: 0, gid: 0, mtime: 0, xattrs: BTreeMap::new(), node };
    tree.entries.insert(name.as_bytes().to_vec(), entry(Node::Folder));
    for found in fs::read_dir(folder).unwrap() {
        let found = found.unwrap();
        let name = format!("{name}/{}", found.file_name().to_string_lossy());
        if found.file_type().unwrap().is_dir() {
            read_folder(&found.path(), &name, tree, contents);
        } else if found.file_type().unwrap().is_file() {
            let bytes: Arc<[u8]> = fs::read(found.path()).unwrap().into();
            let content = ContentId::of(&bytes);
            tree.entries.insert(name.into_bytes(), entry(Node::File { size: bytes.len() as u64, content, link: None }));
            contents.0.insert(content, bytes);
        }
    }
}

/// The program that stands in for systemd.
#[allow(clippy::disallowed_methods, reason = "rustc is not a program of the system")]
fn compile(output: &Path) {
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/init_vm/facts.rs");
    let rustc = Path::new(env!("CARGO")).with_file_name("rustc");
    let built = Command::new(rustc)
        .args(["--edition=2024", "--target", MUSL, "-Copt-level=s", "-Cstrip=symbols", "-Cpanic=abort", "-o"])
        .args([output, Path::new(source)])
        .status()
        .unwrap();
    assert!(built.success(), "compiling {source} for {MUSL}");
}
