//! What the builder itself puts into every image: who is trusted, how the disk is divided at first
//! boot, and what is inside.

use crate::definition::{Definition, DiskShape, FileContent, FileEntry};

/// Files that follow from the definition, the keys and the lock.
#[derive(Debug)]
pub struct Furnishing<'a> {
    /// Text of the `allowed_signers` file: whose profiles, releases and media the machine believes.
    pub allowed_signers: &'a str,
    /// The SPDX document.
    pub spdx: Vec<u8>,
    /// Programs of ours: path, bytes.
    pub programs: Vec<(&'static str, Vec<u8>)>,
}

/// The entries to add to the definition's own.
pub fn furnish(definition: &Definition, furnishing: Furnishing<'_>) -> Vec<FileEntry> {
    let mut files = vec![
        file("/usr/share/ingot/trust/allowed_signers", furnishing.allowed_signers.as_bytes().to_vec()),
        file(&format!("/usr/share/ingot/sbom/{}.spdx.json", definition.name), furnishing.spdx),
        // The name of an image may say something else.
        file("/usr/share/ingot/role", format!("{}\n", definition.role.as_str()).into_bytes()),
    ];
    files.extend(
        partitions(&definition.disk)
            .into_iter()
            .map(|(name, text)| file(&format!("/usr/lib/repart.d/{name}.conf"), text.into_bytes())),
    );
    files.extend(furnishing.programs.into_iter().map(|(path, bytes)| FileEntry { mode: 0o755, ..file(path, bytes) }));
    files
}

fn file(path: &str, bytes: Vec<u8>) -> FileEntry {
    FileEntry {
        path: path.to_owned(),
        content: FileContent::Bytes(bytes),
        mode: 0o644,
        owner: "root".to_owned(),
        group: "root".to_owned(),
    }
}

/// repart.d(5) files. The first of each type meets the partition of the shipped image; both slots
/// end at the size the definition reserves, so that any later version that fits one fits the other.
fn partitions(disk: &DiskShape) -> Vec<(&'static str, String)> {
    let slot = |kind: &str, label: &str, size: u64| {
        format!("[Partition]\nType={kind}\n{label}SizeMinBytes={size}\nSizeMaxBytes={size}\n")
    };
    vec![
        ("10-esp", "[Partition]\nType=esp\n".to_owned()),
        ("20-verity-a", slot("root-verity", "", disk.verity)),
        ("21-root-a", slot("root", "", disk.slot)),
        ("30-verity-b", slot("root-verity", "Label=_empty\n", disk.verity)),
        ("31-root-b", slot("root", "Label=_empty\n", disk.slot)),
        (
            "50-state",
            "[Partition]\nType=linux-generic\nLabel=state\nFormat=ext4\nSizeMinBytes=256M\nFactoryReset=yes\n".to_owned(),
        ),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_slots_get_the_same_room() {
        let shape = DiskShape { esp: 1, slot: 512 << 20, verity: 16 << 20 };
        let files = partitions(&shape);
        let of =
            |end: &str| files.iter().filter(|(name, _)| name.ends_with(end)).map(|(_, text)| text.clone()).collect::<Vec<_>>();
        for text in [of("root-a"), of("root-b")].concat() {
            assert!(text.contains("SizeMinBytes=536870912\nSizeMaxBytes=536870912\n"), "{text}");
        }
        assert!(of("verity-b")[0].contains("Label=_empty"));
    }
}
