//! The proofs of the image as a whole: reference tools, round trips, pinned bytes, hostile input, cache.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use proptest::prelude::*;

use super::compress::CLUSTER;
use super::compress::tests::noise;
use super::read::{Image, ReadAt};
use super::*;
use crate::boot::oracle::root;
use crate::progress::Silent;
use crate::run::Program;
use crate::tree::{ContentSink, Entry};

const INPUT: SealInput = SealInput { epoch: Epoch(1_700_000_000), volume: String::new() };

/// Contents in memory; counts what was read.
#[derive(Default)]
struct Memory(BTreeMap<ContentId, Arc<[u8]>>);

impl Contents for Memory {
    fn read(&self, id: &ContentId) -> Result<Arc<[u8]>> {
        self.0.get(id).cloned().ok_or_else(|| Error::new(Kind::Failed, format!("content {id:?} is gone")))
    }
}

/// A tree with its contents.
#[derive(Default)]
struct World {
    tree: Tree,
    contents: Memory,
}

impl World {
    fn new() -> Self {
        let mut world = Self::default();
        world.add("", 0o755, Node::Folder);
        world
    }

    fn add(&mut self, path: &str, mode: u32, node: Node) -> &mut Entry {
        let entry = Entry { mode, uid: 0, gid: 0, mtime: 1_600_000_000, xattrs: BTreeMap::new(), node };
        self.tree.entries.insert(path.as_bytes().to_vec(), entry);
        self.tree.entries.get_mut(path.as_bytes()).unwrap()
    }

    fn file(&mut self, path: &str, bytes: &[u8], link: Option<u64>) -> &mut Entry {
        let content = ContentId::of(bytes);
        self.contents.0.insert(content, bytes.into());
        self.add(path, 0o644, Node::File { size: bytes.len() as u64, content, link })
    }

    fn seal(&self, cache: &ClusterCache) -> Sealed {
        seal(&self.tree, &self.contents, &INPUT, cache, &Silent).unwrap()
    }

    fn seal_fresh(&self) -> (Sealed, Vec<u8>) {
        let folder = tempfile::tempdir().unwrap();
        let sealed = self.seal(&ClusterCache::open(folder.path(), 0).unwrap());
        let bytes = all(&sealed.root);
        (sealed, bytes)
    }
}

fn all(source: &dyn ReadAt) -> Vec<u8> {
    let mut bytes = vec![0; source.size() as usize];
    source.read_exact_at(&mut bytes, 0).unwrap();
    bytes
}

fn text(seed: u64, length: usize) -> Vec<u8> {
    let noise = noise(seed, 4096);
    noise
        .iter()
        .cycle()
        .enumerate()
        .map(|(at, byte)| b"the quick brown fox "[(usize::from(*byte % 7) + at / 5) % 20])
        .take(length)
        .collect()
}

/// One of everything that has a form of its own.
fn zoo() -> World {
    let mut world = World::new();
    for folder in ["dev", "empty", "etc", "many", "usr", "usr/bin"] {
        world.add(folder, 0o755, Node::Folder);
    }
    world.add("tmp", 0o1777, Node::Folder).mtime = 1_650_000_000;
    world.add("dev/null", 0o666, Node::Character(1, 3));
    world.add("dev/vda", 0o660, Node::Block(253, 1 << 18)).gid = 6;
    world.add("dev/initctl", 0o600, Node::Fifo);
    world.add("usr/short", 0o777, Node::Link(b"bin/a".to_vec()));
    world.add("usr/long", 0o777, Node::Link(vec![b'x'; 4095]));
    world.file("etc/empty", b"", None);
    world.file("etc/one", b"1", None);
    world.file("etc/future", b"later", None).mtime = 4_000_000_000;
    world.file("etc/past", b"before", None).mtime = -5;
    world.file("etc/big-owner", b"1", None).uid = 70_000;
    let capability = b"\x01\0\0\x02\0\x20\0\0\0\0\0\0\0\0\0\0\0\0\0\0".to_vec();
    for name in ["usr/bin/ping", "usr/bin/ping6"] {
        let entry = world.file(name, &text(9, 50_000), None);
        entry.mode = 0o4755;
        entry.xattrs.insert(b"security.capability".to_vec(), capability.clone());
    }
    let entry = world.file("usr/bin/marked", &noise(8, 50_000), None);
    entry.xattrs.insert(b"user.one".to_vec(), b"1".to_vec());
    entry.xattrs.insert(b"user.large".to_vec(), vec![b'v'; 2000]);
    entry.xattrs.insert(b"trusted.overlay.opaque".to_vec(), b"y".to_vec());
    for size in [4095, 4096, 4097, 32_768, 32_769, CLUSTER - 1, CLUSTER, CLUSTER + 1, CLUSTER + 40_000, 3 * CLUSTER + 33_000] {
        world.file(&format!("usr/text-{size}"), &text(size as u64, size), None);
        world.file(&format!("usr/noise-{size}"), &noise(size as u64, size), None);
    }
    let mixed = [text(1, CLUSTER), noise(2, CLUSTER + 5000), text(3, CLUSTER), noise(4, 70_001)].concat();
    world.file("usr/mixed", &mixed, None);
    world.file("usr/copy", &mixed, None);
    world.file("usr/zeros", &vec![0; 10 * CLUSTER + 7], None);
    for name in ["usr/hard-1", "usr/hard-2", "etc/hard-3"] {
        world.file(name, b"linked", Some(1));
    }
    for number in 0..700 {
        world.file(&format!("many/file-{number:04}.service"), format!("[Unit]\nDescription=number {number}\n").as_bytes(), None);
    }
    world.file("many/\u{1}odd name\n", b"odd", None);
    world.file(&format!("many/{}", "n".repeat(255)), b"long name", None);
    world
}

/// What the reader shall find: times clamped, links numbered alike on both sides.
fn comparable(tree: &Tree) -> BTreeMap<Vec<u8>, Entry> {
    let mut first: BTreeMap<u64, u64> = BTreeMap::new();
    let mut uses: BTreeMap<u64, usize> = BTreeMap::new();
    for entry in tree.entries.values() {
        if let Node::File { link: Some(link), .. } = entry.node {
            *uses.entry(link).or_default() += 1;
        }
    }
    tree.entries
        .iter()
        .map(|(path, entry)| {
            let mut entry = entry.clone();
            entry.mtime = entry.mtime.min(1_700_000_000);
            if let Node::File { link, .. } = &mut entry.node {
                let count = first.len() as u64;
                *link = link.filter(|link| uses[link] > 1).map(|link| *first.entry(link).or_insert(count));
            }
            (path.clone(), entry)
        })
        .collect()
}

fn assert_same(found: &Tree, wanted: &Tree, name: &str) {
    let (found, wanted) = (comparable(found), comparable(wanted));
    for (path, entry) in &wanted {
        assert!(
            found.get(path) == Some(entry),
            "{name}: /{} is {:.300?}, expected {entry:.300?}",
            path.escape_ascii(),
            found.get(path)
        );
    }
    assert_eq!(found.len(), wanted.len(), "{name}");
}

#[test]
fn own_reader_finds_the_tree_again() {
    let world = zoo();
    let (sealed, bytes) = world.seal_fresh();
    let image = Image::open(&bytes).unwrap();
    assert_same(&image.tree().unwrap(), &world.tree, "own image");
    verity::check(&bytes, &sealed.verity, &sealed.root_hash, 2).unwrap();
    assert_eq!(sealed.data_blocks * 4096, bytes.len() as u64);
    assert!(image.lookup(b"usr/bin/ping").unwrap().is_some_and(|inode| inode.mode == 0o104_755));
    assert!(image.lookup(b"/usr/bin/none").unwrap().is_none() && image.lookup(b"etc/one/x").unwrap().is_none());
    let (copy, mixed) = (image.lookup(b"usr/copy").unwrap().unwrap(), image.lookup(b"usr/mixed").unwrap().unwrap());
    assert_eq!(image.extents(&copy).unwrap(), image.extents(&mixed).unwrap(), "equal contents are stored once");
}

/// Folder for files that a program of the trixie root, or of this machine, shall see.
struct Reference {
    folder: tempfile::TempDir,
    chroot: bool,
}

impl Reference {
    fn new(program: &str) -> Self {
        let chroot = Program::find(program, "").is_err();
        let base = if chroot { format!("{}/tmp", root()) } else { "/tmp".to_owned() };
        assert!(
            Path::new(&base).is_dir(),
            "neither {program} nor {} is on this machine: run ci/setup (erofs-utils >= 1.8 is needed)",
            root()
        );
        Self { folder: tempfile::tempdir_in(base).unwrap(), chroot }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The path as the program sees it.
    fn inside(&self, name: &str) -> PathBuf {
        let path = self.path(name);
        if self.chroot { Path::new("/").join(path.strip_prefix(root()).unwrap()) } else { path }
    }

    fn run(&self, program: &str, arguments: &[String]) -> String {
        let hint = "run ci/setup";
        let mut command = if self.chroot {
            Program::find("chroot", hint).unwrap().arg(root()).arg(program)
        } else {
            Program::find(program, hint).unwrap()
        };
        for argument in arguments {
            command = command.arg(argument);
        }
        String::from_utf8(command.output().unwrap()).unwrap()
    }
}

/// Compares what a tool or the kernel shows below `root` with the tree: types, modes, owners, times,
/// contents, links; attributes where the file system under `root` can hold them.
fn compare_with_folder(world: &World, root: &Path, xattrs: bool) {
    use std::os::unix::fs::{FileTypeExt, MetadataExt};
    for (path, entry) in &world.tree.entries {
        use std::os::unix::ffi::OsStrExt;
        let at = root.join(std::ffi::OsStr::from_bytes(path));
        let found = std::fs::symlink_metadata(&at).unwrap_or_else(|e| panic!("{}: {e}", at.display()));
        let kind = found.file_type();
        match &entry.node {
            Node::Folder => assert!(kind.is_dir(), "{at:?}"),
            Node::File { size, content, .. } => {
                assert!(kind.is_file() && found.len() == *size, "{at:?}");
                assert!(std::fs::read(&at).unwrap() == *world.contents.0[content], "{at:?} has other bytes");
            }
            Node::Link(target) => assert_eq!(std::fs::read_link(&at).unwrap().as_os_str().as_bytes(), target, "{at:?}"),
            Node::Character(major, minor) | Node::Block(major, minor) => {
                assert!(kind.is_char_device() || kind.is_block_device(), "{at:?}");
                let device = found.rdev();
                assert_eq!((rustix::fs::major(device), rustix::fs::minor(device)), (*major, *minor), "{at:?}");
            }
            Node::Fifo => assert!(kind.is_fifo(), "{at:?}"),
        }
        assert_eq!((found.uid(), found.gid()), (entry.uid, entry.gid), "{at:?}");
        if !matches!(entry.node, Node::Link(_)) {
            assert_eq!(found.mode() & 0o7777, entry.mode, "{at:?}");
            assert_eq!(found.mtime(), entry.mtime.min(1_700_000_000), "{at:?}");
        }
        if xattrs {
            for (name, value) in &entry.xattrs {
                assert_eq!(xattr::get(&at, std::ffi::OsStr::from_bytes(name)).unwrap().as_ref(), Some(value), "{at:?}");
            }
        }
    }
}

#[test]
fn fsck_erofs_accepts_and_extracts_it() {
    let world = zoo();
    let (_, bytes) = world.seal_fresh();
    let reference = Reference::new("fsck.erofs");
    std::fs::write(reference.path("image"), &bytes).unwrap();
    let arguments = |extract: String| {
        vec![extract, "--preserve".into(), "--no-xattrs".into(), reference.inside("image").display().to_string()]
    };
    let said = reference.run("fsck.erofs", &arguments(format!("--extract={}", reference.inside("out").display())));
    assert!(!said.to_lowercase().contains("error"), "{said}");
    compare_with_folder(&world, &reference.path("out"), false);
}

/// Runs a shell script in a mount namespace of its own, which ends with it and its mounts.
fn in_namespace(script: &str, arguments: &[&Path]) -> String {
    let mut command = Program::find("unshare", "apt install util-linux").unwrap();
    for argument in ["--mount", "--propagation=private", "sh", "-euc", script, "sh"] {
        command = command.arg(argument);
    }
    for argument in arguments {
        command = command.arg(*argument);
    }
    String::from_utf8(command.output().expect("this test mounts, so it must run as root")).unwrap()
}

#[test]
fn the_kernel_mounts_it_and_reads_the_same() {
    let world = zoo();
    let (_, bytes) = world.seal_fresh();
    let folder = tempfile::tempdir().unwrap();
    let (image, mount, copy) = (folder.path().join("image"), folder.path().join("mount"), folder.path().join("copy"));
    std::fs::write(&image, &bytes).unwrap();
    std::fs::create_dir(&mount).unwrap();
    in_namespace(
        "mount -t erofs -o ro,loop $1 $2; cp -a $2 $3; echo 3 > /proc/sys/vm/drop_caches; cat $2/usr/mixed | cmp - $3/usr/copy",
        &[&image, &mount, &copy],
    );
    compare_with_folder(&world, &copy, true);
    use std::os::unix::fs::MetadataExt;
    let inode = |name: &str| std::fs::metadata(copy.join(name)).unwrap().ino();
    assert_eq!(inode("usr/hard-1"), inode("etc/hard-3"), "hard links stay links");
}

#[test]
fn own_reader_reads_what_mkfs_erofs_writes() {
    let world = zoo();
    let (_, bytes) = world.seal_fresh();
    let reference = Reference::new("mkfs.erofs");
    std::fs::write(reference.path("image"), &bytes).unwrap();
    std::fs::create_dir(reference.path("mount")).unwrap();
    in_namespace("mount -t erofs -o ro,loop $1/image $1/mount; cp -a $1/mount $1/tree", &[reference.folder.path()]);
    for options in [
        "-zzstd,3",
        "-zzstd,3 -C65536",
        "-zzstd,5 -C65536 -Eztailpacking",
        "-zzstd,3 -C131072 -Eall-fragments",
        "-zzstd,3 -C65536 -Elegacy-compress",
        "-zzstd,3 -C65536 -Efragments,ztailpacking",
    ] {
        let mut arguments: Vec<String> = options.split(' ').map(str::to_owned).collect();
        arguments.extend(["--quiet".into(), "-T1700000000".into(), "--mkfs-time".into(), "--preserve-mtime".into()]);
        arguments.extend(["other", "tree"].map(|name| reference.inside(name).display().to_string()));
        reference.run("mkfs.erofs", &arguments);
        let other = std::fs::read(reference.path("other")).unwrap();
        let found = Image::open(&other).unwrap().tree().unwrap_or_else(|e| panic!("{options}: {e}"));
        assert_same(&found, &world.tree, options);
    }
}

/// A small tree whose dump and digests are pinned.
fn small() -> World {
    let mut world = World::new();
    world.add("dev", 0o755, Node::Folder);
    world.add("dev/null", 0o666, Node::Character(1, 3));
    world.add("bin", 0o777, Node::Link(b"usr/bin".to_vec()));
    world.add("usr", 0o755, Node::Folder);
    world.file("usr/small", b"a small file\n", None).mtime = 1_500_000_000;
    world.file("usr/other", b"another small file\n", Some(3));
    world.file("usr/other-link", b"another small file\n", Some(3));
    world.file("usr/large", &text(5, 2 * CLUSTER + 9000), None);
    let entry = world.file("usr/noise", &noise(6, 40_000), None);
    entry.xattrs.insert(b"security.capability".to_vec(), b"\x01\0\0\x02".to_vec());
    world
}

#[test]
fn dump_of_a_small_image() {
    let (_, bytes) = small().seal_fresh();
    insta::assert_snapshot!(dump::dump(&Image::open(&bytes).unwrap()).unwrap());
}

/// A change here changes every image: say why in the commit.
#[test]
fn digests_of_a_small_image_are_pinned() {
    let (sealed, bytes) = small().seal_fresh();
    let digests =
        [Sha256Digest::of(&bytes).to_string(), sealed.root_hash.to_string(), Sha256Digest::of(&all(&sealed.verity)).to_string()];
    insta::assert_snapshot!(digests.join("\n"));
}

#[test]
fn the_cache_changes_no_byte() {
    let world = zoo();
    let (fresh, wanted) = world.seal_fresh();
    let folder = tempfile::tempdir().unwrap();
    let check = |cache: &ClusterCache, name: &str| {
        let sealed = world.seal(cache);
        assert!(all(&sealed.root) == wanted && sealed.root_hash == fresh.root_hash, "{name}");
        sealed.statistics.compressed
    };
    let cold = ClusterCache::open(folder.path(), 2).unwrap();
    for bytes in world.contents.0.values() {
        cold.offer(ContentId::of(bytes), bytes);
    }
    check(&cold, "offered");
    assert_eq!(check(&cold, "again with the same cache"), 0);
    drop(cold);
    let packs = || std::fs::read_dir(folder.path()).unwrap().map(|e| e.unwrap().path()).collect::<Vec<_>>();
    assert_eq!(packs().len(), 1);
    assert_eq!(check(&ClusterCache::open(folder.path(), 1).unwrap(), "warm"), 0);

    let pack = packs().remove(0);
    let good = std::fs::read(&pack).unwrap();
    let mut damaged = good.clone();
    damaged[5000] ^= 1;
    std::fs::write(&pack, &damaged).unwrap();
    assert_eq!(check(&ClusterCache::open(folder.path(), 1).unwrap(), "damaged record"), 1);
    assert_eq!(check(&ClusterCache::open(folder.path(), 1).unwrap(), "mended"), 0);
    for (name, bytes) in
        [("cut", &good[..good.len() - 1]), ("empty", &[][..]), ("index", &[&good[..good.len() - 200], &[0; 200]].concat())]
    {
        packs().iter().for_each(|path| std::fs::remove_file(path).unwrap());
        std::fs::write(&pack, bytes).unwrap();
        assert!(check(&ClusterCache::open(folder.path(), 0).unwrap(), name) > 0, "{name}");
    }
}

#[test]
fn many_builds_keep_few_packs_and_abandoned_files_go() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join(".writing-killed.part"), b"half").unwrap();
    let busy = ClusterCache::open(folder.path(), 0).unwrap();
    for number in 0..20 {
        let mut world = World::new();
        world.file("f", &text(number, 40_000), None);
        let cache = ClusterCache::open(folder.path(), 0).unwrap();
        assert_eq!(
            world.seal(&cache).statistics.compressed,
            2 - u64::from(world.contents.0.values().all(|b| b.len() % CLUSTER > 32 << 10))
        );
        assert_eq!(world.seal(&cache).statistics.compressed, 0);
    }
    let names: Vec<_> =
        std::fs::read_dir(folder.path()).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    assert!(names.len() <= 9 && names.iter().all(|name| name.ends_with(".pack")), "{names:?}");
    let mut world = World::new();
    world.file("f", &text(3, 40_000), None);
    assert_eq!(world.seal(&ClusterCache::open(folder.path(), 0).unwrap()).statistics.compressed, 0, "merged packs still serve");
    world.seal(&busy);
}

#[test]
fn offers_beyond_the_queue_are_dropped_and_nothing_hangs() {
    let folder = tempfile::tempdir().unwrap();
    let cache = ClusterCache::open(folder.path(), 1).unwrap();
    let mut world = World::new();
    for number in 0..24 {
        let bytes: Arc<[u8]> = noise(number, 3 << 20).into();
        cache.offer(ContentId::of(&bytes[..]), &bytes);
        if number % 8 == 0 {
            world.file(&format!("f{number}"), &bytes, None);
        }
    }
    assert_eq!(world.seal(&cache).root_hash, world.seal_fresh().0.root_hash);
}

#[test]
fn what_cannot_be_sealed_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let cache = ClusterCache::open(folder.path(), 0).unwrap();
    let attempt =
        |world: &World, input: &SealInput| seal(&world.tree, &world.contents, input, &cache, &Silent).unwrap_err().to_string();
    let mut gone = World::new();
    gone.file("f", b"bytes", None);
    gone.contents.0.clear();
    assert!(attempt(&gone, &INPUT).contains("is gone"));
    let mut wrong = World::new();
    wrong.file("f", b"bytes", None).node = Node::File { size: 6, content: ContentId::of(b"bytes"), link: None };
    assert!(attempt(&wrong, &INPUT).contains("it has 5 bytes, the tree says 6"));
    let mut attribute = World::new();
    attribute.file("f", b"", None).xattrs.insert(b"btrfs.x".to_vec(), vec![]);
    assert!(attempt(&attribute, &INPUT).contains("/f: the attribute btrfs.x"));
    let label = SealInput { volume: "sixteen letters!".into(), ..INPUT };
    assert!(attempt(&World::new(), &label).contains("at most 15 fit"));
}

/// Reads everything there is; only for its not panicking and its coming to an end.
fn read_all(bytes: &Vec<u8>) {
    if let Ok(image) = Image::open(bytes) {
        let _ = image.tree();
        let _ = dump::dump(&image);
    }
}

/// `bytes` with the superblock's checksum made right, so that the rest is reached.
fn resealed(mut bytes: Vec<u8>) -> Vec<u8> {
    if bytes.len() >= 4096 {
        bytes[1028..1032].fill(0);
        let sum = write::checksum(&bytes[1024..4096]);
        bytes[1028..1032].copy_from_slice(&sum.to_le_bytes());
    }
    bytes
}

#[test]
fn hostile_images_are_refused_in_words() {
    let (_, good) = small().seal_fresh();
    let change = |at: usize, value: &[u8]| {
        let mut bytes = good.clone();
        bytes[at..at + value.len()].copy_from_slice(value);
        resealed(bytes)
    };
    let root = 37 * 32;
    let cases: [(&str, Vec<u8>); 9] = [
        ("magic number", change(1024, b"none")),
        ("unexpected end of file", good[..4095].to_vec()),
        ("there are 4096", good[..4096].to_vec()),
        ("features 0x80", change(1024 + 80, &[0x80])),
        ("blocks of 2^13", change(1024 + 12, &[13])),
        ("the checksum is", {
            let mut bytes = good.clone();
            bytes[1100] ^= 1;
            bytes
        }),
        ("leads out of the image", change(1024 + 96, &[0xff; 8])),
        ("data layout is 5", change(root, &[5 << 1])),
        ("not within the image", change(root + 2, &[0xff, 0xff])),
    ];
    for (text, bytes) in cases {
        let error = Image::open(&bytes).and_then(|image| image.tree()).unwrap_err().to_string();
        assert!(error.contains(text), "expected `{text}`: {error}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(400) })]
    #[test]
    fn damaged_images_never_panic_the_reader(changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6), cut in any::<Option<prop::sample::Index>>()) {
        static GOOD: std::sync::LazyLock<Vec<u8>> = std::sync::LazyLock::new(|| small().seal_fresh().1);
        let mut bytes = GOOD.clone();
        for (at, value) in changes {
            // Inodes and maps are in the first blocks: hit those.
            bytes[1024 + at.index(3072)] = value;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(GOOD.len()));
        }
        read_all(&resealed(bytes));
    }

    #[test]
    fn any_bytes_never_panic_the_reader(bytes in prop::collection::vec(any::<u8>(), 0..5000)) {
        read_all(&bytes);
    }
}

fn any_entry() -> impl Strategy<Value = (Vec<u8>, u16, u8, Option<u8>)> {
    let length = prop_oneof![4 => 0..300_u32, 3 => 0..70_000_u32, 1 => 0..400_000_u32];
    let bytes = (length, any::<u8>(), any::<bool>()).prop_map(|(length, seed, noisy)| {
        if noisy { noise(seed.into(), length as usize) } else { text(seed.into(), length as usize) }
    });
    (bytes, any::<u16>(), 0..12_u8, prop::option::of(0..3_u8))
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(60) })]
    #[test]
    fn random_trees_come_back(entries in prop::collection::vec(any_entry(), 0..60)) {
        let mut world = World::new();
        let mut folders = vec![String::new()];
        for (number, (bytes, name, kind, xattr)) in entries.into_iter().enumerate() {
            let folder = &folders[usize::from(name) % folders.len()];
            let long = "x".repeat(usize::from(name % 200));
            let path = if folder.is_empty() { format!("{number}{long}") } else { format!("{folder}/{number}{long}") };
            let entry = match kind {
                0..3 => { folders.push(path.clone()); world.add(&path, 0o755, Node::Folder) }
                3 => world.add(&path, 0o777, Node::Link(vec![b'l'; 1 + usize::from(name % 4095)])),
                4 => world.add(&path, 0o600, Node::Block(name.into(), name.into()) ),
                5 => world.file(&path, b"linked content", Some(7)),
                _ => world.file(&path, &bytes, None),
            };
            if kind == 4 { entry.node = Node::Block(u32::from(name) & 0xfff, name.into()); }
            if kind != 5 {
                entry.mtime = 1_600_000_000 + i64::from(name % 3);
                entry.uid = u32::from(name % 4) * 30_000;
                if let Some(xattr) = xattr {
                    entry.xattrs.insert(format!("user.x{xattr}").into_bytes(), vec![xattr; usize::from(xattr) * 500]);
                }
            }
        }
        let (sealed, bytes) = world.seal_fresh();
        assert_same(&Image::open(&bytes).unwrap().tree().unwrap(), &world.tree, "random");
        verity::check(&bytes, &sealed.verity, &sealed.root_hash, 1).unwrap();
    }
}
