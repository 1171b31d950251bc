//! Tests of the choice of modules on a small kernel of known shape.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::*;
use crate::tree::{ContentId, Entry};

/// Contents in memory.
#[derive(Debug, Default)]
pub struct Memory(pub BTreeMap<ContentId, Arc<[u8]>>);

impl Contents for Memory {
    fn read(&self, id: &ContentId) -> Result<Arc<[u8]>> {
        self.0.get(id).cloned().ok_or_else(|| Error::new(Kind::Failed, format!("no content {id:?}")))
    }
}

/// A tree of files with their parent folders.
pub fn tree(files: &[(&str, &[u8])]) -> (Tree, Memory) {
    let (mut tree, mut memory) = (Tree::default(), Memory::default());
    let entry = |node| Entry { mode: 0o644, uid: 0, gid: 0, mtime: 0, xattrs: BTreeMap::new(), node };
    for (path, bytes) in files {
        let content = ContentId::of(bytes);
        memory.0.insert(content, Arc::from(*bytes));
        path.match_indices('/').for_each(|(end, _)| {
            tree.entries.insert(path.as_bytes()[..end].to_vec(), entry(Node::Folder));
        });
        tree.entries.insert(path.as_bytes().to_vec(), entry(Node::File { size: bytes.len() as u64, content, link: None }));
    }
    (tree, memory)
}

const DEP: &str = "kernel/drivers/sd_mod.ko.xz: kernel/drivers/scsi_mod.ko.xz kernel/drivers/scsi-common.ko.xz
kernel/drivers/scsi_mod.ko.xz: kernel/drivers/scsi-common.ko.xz
kernel/drivers/scsi-common.ko.xz:
kernel/fs/erofs.ko.xz: kernel/lib/libcrc32c.ko.xz
kernel/lib/libcrc32c.ko.xz:
kernel/crypto/crc32c-intel.ko.xz:
kernel/fs/overlay.ko.xz:
kernel/net/late.ko.xz:
kernel/hv/storvsc.ko.xz: kernel/drivers/scsi-common.ko.xz kernel/hv/vmbus.ko.xz
kernel/hv/vmbus.ko.xz:
";
const ALIAS: &str = "# made by hand
alias scsi:t-0x00* sd_mod
alias block-major-8-* sd_mod
alias crc32c crc32c_intel
alias cpu:type:x86,feature:*0094* crc32c_intel
alias fs-erofs erofs
alias acpi*:VMBUS:* vmbus
alias vmbus:4acc9b storvsc
alias devname:mapper/control dm_mod
";
const SOFT: &str = "softdep libcrc32c pre: crc32c\nsoftdep overlay gcm post: late nothing\n";

fn index() -> Index {
    let folder = "usr/lib/modules/6.12";
    let (tree, contents) = tree(&[
        (&format!("{folder}/modules.dep"), DEP.as_bytes()),
        (&format!("{folder}/modules.alias"), ALIAS.as_bytes()),
        (&format!("{folder}/modules.softdep"), SOFT.as_bytes()),
        (&format!("{folder}/modules.builtin"), b"kernel/drivers/nvme.ko\nkernel/fs/ext4.ko\n"),
    ]);
    Index::read(&tree, &contents).unwrap()
}

fn select(names: &[&str]) -> Result<Selection> {
    index().select(&names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>())
}

#[test]
fn dependencies_come_first_and_devices_ask() {
    let selection = select(&["erofs", "sd-mod", "overlay", "nvme", "erofs"]).unwrap();
    assert_eq!(
        selection.list,
        "always libcrc32c\nalways erofs\nalways overlay\nalways late\nmodule crc32c_intel\nmodule sd_mod scsi_common scsi_mod\n\
         alias cpu:type:x86,feature:*0094* crc32c_intel\nalias scsi:t-0x00* sd_mod\n"
    );
    let names: Vec<&str> = selection.files.keys().map(String::as_str).collect();
    assert_eq!(names, ["crc32c_intel", "erofs", "late", "libcrc32c", "overlay", "scsi_common", "scsi_mod", "sd_mod"]);
    assert_eq!(selection.files["scsi_common"], "usr/lib/modules/6.12/kernel/drivers/scsi-common.ko.xz");
}

#[test]
fn a_bus_asks_before_what_is_behind_it() {
    assert_eq!(
        select(&["storvsc"]).unwrap().list,
        "module storvsc vmbus scsi_common\nmodule vmbus\nalias vmbus:4acc9b storvsc\nalias acpi*:VMBUS:* vmbus\n"
    );
}

#[test]
fn unknown_names_are_told_all_at_once_with_suggestions() {
    let refused = select(&["erofs", "overlya", "sd_mud", "zzz"]).unwrap_err();
    assert_eq!(refused.kind(), Kind::Document);
    assert_eq!(
        refused.to_string(),
        "kernel 6.12 has no module `overlya` (did you mean `overlay`?), nor `sd_mud` (did you mean `sd_mod`?), nor `zzz`"
    );
    assert!(!refused.hints().is_empty());
}

#[test]
fn damaged_indexes_are_refused() {
    for (text, words) in [
        ("no colon", "line 1 has no colon"),
        ("kernel/a.ko:\nkernel/../b.ko:", "line 2 names no module"),
        (".ko:", "line 1 names no module"),
        ("a\u{0}.ko:", "names no module"),
    ] {
        let refused = Index::default().read_dependencies(text).unwrap_err().to_string();
        assert!(refused.contains(words), "{refused} should say {words}");
    }
    let mut missing = Index::default();
    missing.read_dependencies("a.ko: b.ko").unwrap();
    assert!(missing.select(&["a".to_owned()]).unwrap_err().to_string().contains("needs `b`"));
}

#[test]
fn circles_end_and_endless_chains_are_refused() {
    let mut circle = Index::default();
    circle.read_dependencies("a.ko: b.ko\nb.ko: a.ko").unwrap();
    assert_eq!(circle.select(&["a".to_owned()]).unwrap().list, "always b\nalways a\n");
    let mut chain = Index::default();
    let text: String = (0..5000).map(|i| format!("m{i}.ko: m{}.ko\n", i + 1)).collect();
    chain.read_dependencies(&text).unwrap();
    assert!(chain.select(&["m0".to_owned()]).unwrap_err().to_string().contains("deeper than 64"));
}

#[test]
fn there_must_be_one_kernel() {
    let (none, _) = tree(&[("usr/lib/other", b"")]);
    assert!(release(&none).unwrap_err().to_string().contains("no kernel modules"));
    let (two, _) = tree(&[("usr/lib/modules/1/a/b", b""), ("usr/lib/modules/2/a", b"")]);
    assert!(release(&two).unwrap_err().to_string().contains("1, 2"));
    let (other, contents) = tree(&[("usr/lib/modules/1/a", b""), ("usr/lib/modules-load.d/x", b"")]);
    assert_eq!(release(&other).unwrap(), "1");
    assert!(Index::read(&other, &contents).unwrap_err().to_string().contains("no modules.dep"));
}

#[test]
fn modules_are_unpacked_and_must_be_elf() {
    let elf = b"\x7fELF and more".to_vec();
    let mut xz = Vec::new();
    liblzma::read::XzEncoder::new(&elf[..], 1).read_to_end(&mut xz).unwrap();
    let zst = zstd::encode_all(&elf[..], 1).unwrap();
    let mut cut = xz.clone();
    cut.truncate(xz.len() - 9);
    let (tree, contents) =
        tree(&[("a.ko.xz", &xz), ("b.ko.zst", &zst), ("c.ko", &elf), ("d.ko.xz", &cut), ("e.ko", b"text"), ("f.ko.xz", b"")]);
    for good in ["a.ko.xz", "b.ko.zst", "c.ko"] {
        assert_eq!(load(&tree, &contents, good).unwrap(), elf, "{good}");
    }
    for bad in ["d.ko.xz", "e.ko", "f.ko.xz", "g.ko"] {
        let refused = load(&tree, &contents, bad).unwrap_err().to_string();
        assert!(refused.contains(bad), "{refused}");
    }
}
