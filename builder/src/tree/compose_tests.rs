//! Small trees in memory, composed.

use super::*;
use crate::definition::{Budgets, DiskShape, Kernel, Role, Units, User};
use crate::tree::kmod_index;
use trust::Sha256Digest;

#[derive(Default)]
struct World {
    tree: Tree,
    bytes: BTreeMap<ContentId, Arc<[u8]>>,
}

impl Contents for World {
    fn read(&self, id: &ContentId) -> Result<Arc<[u8]>> {
        self.bytes.get(id).cloned().ok_or_else(|| Error::new(Kind::Failed, "gone"))
    }
}

impl World {
    fn node(&mut self, path: &str, mode: u32, node: Node) {
        let mut parent = split(path.as_bytes()).0;
        let entry = |mode, node| Entry { mode, uid: 0, gid: 0, mtime: 5, xattrs: BTreeMap::new(), node };
        loop {
            self.tree.entries.entry(parent.to_vec()).or_insert_with(|| entry(0o755, Node::Folder));
            if parent.is_empty() {
                break;
            }
            parent = split(parent).0;
        }
        self.tree.entries.insert(path.as_bytes().to_vec(), entry(mode, node));
    }

    fn file(&mut self, path: &str, text: impl AsRef<[u8]>) {
        let bytes: Arc<[u8]> = text.as_ref().into();
        let content = ContentId::of(&bytes);
        self.node(path, 0o644, Node::File { size: bytes.len() as u64, content, link: None });
        self.bytes.insert(content, bytes);
    }

    fn debian() -> Self {
        let mut world = Self::default();
        world.node("bin", 0o777, Node::Link(b"usr/bin".to_vec()));
        world.node("lib", 0o777, Node::Link(b"usr/lib".to_vec()));
        world.node("etc/os-release", 0o777, Node::Link(b"../usr/lib/os-release".to_vec()));
        world.file("usr/lib/os-release", "ID=debian\nIMAGE_ID=old\n");
        world.file("etc/passwd", "root:x:0:0::/root:/bin/sh\nlb:x:450:451::/:/bin/false\n");
        world.file("etc/group", "root:x:0:\nadm:x:4:\nlb:x:451:\n");
        world.file("etc/shadow", "root:*:1::::::\n");
        world.file("var/lib/dpkg/status", "Package: a\n");
        world.file("var/lib/keep/file one", "state");
        world.node("var/lib/keep", 0o750, Node::Folder);
        world.node("var/lib/pam/seen", 0o755, Node::Folder);
        world.node("var/run", 0o777, Node::Link(b"/run".to_vec()));
        world.file("usr/lib/tmpfiles.d/var.conf", "L /var/run - - - - ../run\nd /var/log 0755 - - -\n");
        world.node("var/log", 0o755, Node::Folder);
        world.file("usr/share/doc/a/README", "x");
        world.file("usr/share/doc/a/copyright", "c");
        let system = "usr/lib/systemd/system";
        world.file(&format!("{system}/multi-user.target"), "[Unit]\n");
        world.file(
            &format!("{system}/lb.service"),
            "[Install]\nWantedBy=multi-user.target\nAlias=balancer.service\nAlso=lb.socket\n",
        );
        world.file(&format!("{system}/lb.socket"), "[Install]\nWantedBy=sockets.target\n");
        world.file(&format!("{system}/getty@.service"), "[Install]\nWantedBy=getty.target\nDefaultInstance=tty1\n");
        world.file(&format!("{system}/static.service"), "[Service]\n");
        world
    }

    fn modules(&mut self) {
        let root = "usr/lib/modules/6.12";
        for module in ["net/virtio_net", "net/net-failover", "fs/ext4", "fs/jbd2"] {
            self.file(&format!("{root}/kernel/{module}.ko.xz"), module);
        }
        let dep = "kernel/net/virtio_net.ko.xz: kernel/net/net-failover.ko.xz\nkernel/net/net-failover.ko.xz:\n\
                   kernel/fs/ext4.ko.xz: kernel/fs/jbd2.ko.xz\nkernel/fs/jbd2.ko.xz:\n";
        self.file(&format!("{root}/modules.dep"), dep);
        self.file(&format!("{root}/modules.alias"), "# head\nalias virtio:d1 virtio_net\nalias fs-ext4 ext4\n");
        self.file(&format!("{root}/modules.builtin"), "kernel/block/nvme.ko\n");
        let index: kmod_index::Index = [
            (b"virtio_net".to_vec(), vec![(0, b"kernel/net/virtio_net.ko.xz: kernel/net/net-failover.ko.xz".to_vec())]),
            (b"ext4".to_vec(), vec![(1, b"kernel/fs/ext4.ko.xz: kernel/fs/jbd2.ko.xz".to_vec())]),
        ]
        .into();
        self.file(&format!("{root}/modules.dep.bin"), kmod_index::write(&index).unwrap());
    }
}

fn definition() -> Definition {
    Definition {
        description: None,
        name: "test".to_owned(),
        version: "1.2".to_owned(),
        role: Role::LoadBalancer,
        architecture: "amd64".to_owned(),
        repositories: Vec::new(),
        install: Vec::new(),
        without: Vec::new(),
        pins: Vec::new(),
        ids: Vec::new(),
        kubernetes: None,
        containers: Vec::new(),
        files: Vec::new(),
        exclude: Vec::new(),
        keep: Vec::new(),
        users: Vec::new(),
        units: Units::default(),
        kernel: Kernel::default(),
        disk: DiskShape { esp: 0, slot: 0, verity: 0 },
        budgets: Budgets::default(),
        sources: Vec::new(),
        resolution: Sha256Digest([0; 32]),
        digest: Sha256Digest([0; 32]),
    }
}

fn text(world: &World, composed: &Composed, path: &str) -> String {
    let (_, entry) = composed.tree.resolve(path.as_bytes()).unwrap_or_else(|| panic!("{path} is not there"));
    let Node::File { content, .. } = &entry.node else { panic!("{path} is no file") };
    String::from_utf8(composed.contents(world).read(content).unwrap().to_vec()).unwrap()
}

fn link(composed: &Composed, path: &str) -> String {
    match composed.tree.entries.get(path.as_bytes()).map(|entry| &entry.node) {
        Some(Node::Link(target)) => String::from_utf8_lossy(target).into_owned(),
        other => format!("{other:?}"),
    }
}

#[test]
fn a_definition_becomes_a_tree() {
    let world = World::debian();
    let mut wanted = definition();
    wanted.exclude = vec!["usr/share/doc".to_owned()];
    wanted.keep = vec!["usr/share/doc/*/copyright".to_owned()];
    let file = |path: &str, content, owner: &str, group: &str| FileEntry {
        path: path.to_owned(),
        content,
        mode: 0o600,
        owner: owner.to_owned(),
        group: group.to_owned(),
    };
    wanted.files = vec![
        file("/lib/new/deep/file", FileContent::Bytes(b"hello".to_vec()), "lb", "4"),
        file("/etc/link", FileContent::Link("/run/x".to_owned()), "root", "root"),
        file("/var/lib/state", FileContent::Folder, "op", "op"),
    ];
    wanted.users = vec![User {
        name: "op".to_owned(),
        uid: 1000,
        groups: vec!["adm".to_owned()],
        home: "/var/home/op".to_owned(),
        shell: "/bin/sh".to_owned(),
    }];
    wanted.units = Units {
        enable: vec!["lb.service".to_owned(), "getty@.service".to_owned()],
        mask: vec!["unwanted.service".to_owned()],
        default_target: "multi-user.target".to_owned(),
    };
    let made = compose(&world.tree, &world, &wanted, Epoch(1000)).unwrap();
    let entry = |path: &str| made.tree.entries.get(path.as_bytes()).unwrap_or_else(|| panic!("{path} is not there"));

    let deep = entry("usr/lib/new/deep/file");
    assert_eq!((deep.mode, deep.uid, deep.gid, deep.mtime), (0o600, 450, 4, 1000));
    assert!(made.tree.entries.contains_key(b"usr/share/doc/a/copyright".as_slice()));
    assert!(!made.tree.entries.contains_key(b"usr/share/doc/a/README".as_slice()));
    assert_eq!(text(&world, &made, "etc/os-release"), "ID=debian\nIMAGE_ID=\"test\"\nIMAGE_VERSION=\"1.2\"\n");
    assert_eq!(text(&world, &made, "etc/machine-id"), "uninitialized\n");
    assert_eq!(text(&world, &made, "usr/lib/sysimage/dpkg/status"), "Package: a\n");
    assert!(text(&world, &made, "etc/passwd").ends_with("op:x:1000:1000::/var/home/op:/bin/sh\n"));
    assert!(text(&world, &made, "etc/shadow").contains("op:!*:0:"));
    assert!(text(&world, &made, "etc/group").contains("adm:x:4:op\n"));

    let system = "etc/systemd/system";
    for (path, target) in [
        ("multi-user.target.wants/lb.service", "/usr/lib/systemd/system/lb.service"),
        ("balancer.service", "/usr/lib/systemd/system/lb.service"),
        ("sockets.target.wants/lb.socket", "/usr/lib/systemd/system/lb.socket"),
        ("getty.target.wants/getty@tty1.service", "/usr/lib/systemd/system/getty@.service"),
        ("unwanted.service", "/dev/null"),
        ("default.target", "/usr/lib/systemd/system/multi-user.target"),
    ] {
        assert_eq!(link(&made, &format!("{system}/{path}")), target, "{path}");
    }
    let preset = text(&world, &made, "usr/lib/systemd/system-preset/00-ingot.preset");
    let lines: Vec<&str> = preset.lines().skip(1).collect();
    assert_eq!(lines, ["enable getty@.service tty1", "enable lb.service", "enable lb.socket", "disable *"]);

    let var: Vec<_> = made.tree.entries.range(b"var/".to_vec()..b"var0".to_vec()).map(|(path, _)| path.as_slice()).collect();
    assert_eq!(var, [b"var/tmp"], "/var is empty but for what early services need");
    assert_eq!(entry("var").node, Node::Folder);
    let lines = text(&world, &made, "usr/lib/tmpfiles.d/zz-ingot-var.conf");
    for line in [
        "d /var/lib/keep 0750 0 0 -",
        "C \"/var/lib/keep/file\\x20one\" 0644 0 0 -",
        "d /var/home/op 0700 1000 1000 -",
        "d /var/lib/state 0600 1000 1000 -",
        "L /var/lib/dpkg - - - - /usr/lib/sysimage/dpkg",
    ] {
        assert!(lines.lines().any(|l| l == line), "{line} is not in\n{lines}");
    }
    assert!(!lines.contains("/var/run") && !lines.contains("/var/log") && !lines.contains("pam"), "{lines}");
    assert_eq!(text(&world, &made, "usr/share/factory/var/lib/keep/file one"), "state");
}

#[test]
fn what_cannot_be_is_refused_in_words() {
    let world = World::debian();
    let folder_in_the_way = FileEntry {
        path: "/usr/lib".to_owned(),
        content: FileContent::Bytes(Vec::new()),
        mode: 0o644,
        owner: "root".to_owned(),
        group: "root".to_owned(),
    };
    let below_a_file = FileEntry { path: "/etc/passwd/x".to_owned(), ..folder_in_the_way.clone() };
    let unknown_owner = FileEntry { path: "/x".to_owned(), owner: "nobody-here".to_owned(), ..folder_in_the_way.clone() };
    type Change = Box<dyn Fn(&mut Definition)>;
    let cases: Vec<(&str, Change)> = vec![
        ("there is a folder with content", Box::new(move |d| d.files = vec![folder_in_the_way.clone()])),
        ("etc/passwd is no folder", Box::new(move |d| d.files = vec![below_a_file.clone()])),
        ("no user `nobody-here`", Box::new(move |d| d.files = vec![unknown_owner.clone()])),
        ("no unit `lb.servce`", Box::new(|d| d.units.enable = vec!["lb.servce".to_owned()])),
        ("no [Install] section", Box::new(|d| d.units.enable = vec!["static.service".to_owned()])),
        (
            "enabled and masked",
            Box::new(|d| (d.units.enable, d.units.mask) = (vec!["lb.service".into()], vec!["lb.service".into()])),
        ),
        ("no unit `x.target`", Box::new(|d| d.units.default_target = "x.target".to_owned())),
        ("names `ext5`", Box::new(|d| d.kernel.keep_modules = vec!["ext4".to_owned(), "ext5".to_owned()])),
    ];
    for (said, change) in cases {
        let mut world = World { tree: world.tree.clone(), bytes: world.bytes.clone() };
        world.modules();
        let mut wanted = definition();
        change(&mut wanted);
        let error = compose(&world.tree, &world, &wanted, Epoch(0)).unwrap_err();
        assert!(error.to_string().contains(said) && error.kind() == Kind::Document, "{error} does not say {said}");
        if said.contains("servce") {
            assert_eq!(error.hints(), ["did you mean `lb.service`?"]);
        }
    }
}

#[test]
fn modules_are_kept_with_what_they_need() {
    let mut world = World::debian();
    world.modules();
    for (wanted, kept) in [
        (vec!["virtio-net", "nvme"], vec!["net/net-failover.ko.xz", "net/virtio_net.ko.xz"]),
        (vec!["fs/**"], vec!["fs/ext4.ko.xz", "fs/jbd2.ko.xz"]),
        (vec!["jbd*"], vec!["fs/jbd2.ko.xz"]),
    ] {
        let mut definition = definition();
        definition.kernel.keep_modules = wanted.iter().map(|w| (*w).to_owned()).collect();
        let made = compose(&world.tree, &world, &definition, Epoch(0)).unwrap();
        let root = "usr/lib/modules/6.12/kernel/";
        let paths = made.tree.entries.keys().map(|path| String::from_utf8_lossy(path).into_owned());
        let files: Vec<String> = paths.filter(|p| p.ends_with(".ko.xz")).map(|p| p.replace(root, "")).collect();
        assert_eq!(files, kept);
        let dep = text(&world, &made, "usr/lib/modules/6.12/modules.dep");
        assert_eq!(dep.lines().count(), kept.len(), "{dep}");
        if wanted[0] == "virtio-net" {
            assert_eq!(text(&world, &made, "usr/lib/modules/6.12/modules.alias"), "# head\nalias virtio:d1 virtio_net\n");
            assert!(!made.tree.entries.contains_key(b"usr/lib/modules/6.12/kernel/fs".as_slice()));
            let bin = made.tree.resolve(b"usr/lib/modules/6.12/modules.dep.bin").unwrap().1.node.clone();
            let Node::File { content, .. } = bin else { panic!() };
            let index = kmod_index::read(&made.contents(&world).read(&content).unwrap()).unwrap();
            assert_eq!(index.keys().collect::<Vec<_>>(), [b"virtio_net"]);
        }
    }
}

#[test]
fn composing_twice_is_the_same_and_links_in_a_circle_end() {
    let mut world = World::debian();
    world.node("loop", 0o777, Node::Link(b"loop/x".to_vec()));
    assert_eq!(world.tree.real_path(b"loop/y", true), None);
    assert_eq!(world.tree.real_path(b"bin/../../lib/./x", true), Some(b"usr/lib/x".to_vec()));
    let one = compose(&world.tree, &world, &definition(), Epoch(7)).unwrap();
    let two = compose(&world.tree, &world, &definition(), Epoch(7)).unwrap();
    assert_eq!((&one.tree, &one.added), (&two.tree, &two.added));
}
