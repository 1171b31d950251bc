//! Writing a cpio archive in the `newc` form, the one the kernel unpacks as its initrd
//! (Documentation/driver-api/early-userspace/buffer-format.rst). Deterministic: owner root, one
//! time, inode numbers counted from 1.

use std::collections::BTreeSet;
use std::io::{self, Write};
use std::path::Path;

use crate::epoch::Epoch;
use crate::error::{Error, Kind, Result};

/// Magic of `newc` without checksums.
const MAGIC: &str = "070701";
/// Name of the entry that ends an archive.
const TRAILER: &str = "TRAILER!!!";
/// Every header and every body begins at a multiple of this.
const ALIGNMENT: u64 = 4;
/// Longest path the kernel takes without the NUL; it leaves out others without a word.
const LONGEST_PATH: usize = 4095;

/// File type bits of the mode.
const FOLDER: u32 = 0o040_000;
const FILE: u32 = 0o100_000;
const LINK: u32 = 0o120_000;
const CHARACTER: u32 = 0o020_000;

/// Writes one archive, entry by entry.
#[derive(Debug)]
pub struct Archive<W: Write> {
    output: W,
    position: u64,
    inode: u32,
    mtime: u32,
    folders: BTreeSet<String>,
    names: BTreeSet<String>,
}

impl<W: Write> Archive<W> {
    /// An empty archive whose files all have the time `epoch`.
    ///
    /// # Errors
    /// When the epoch does not fit into the format's 32 bits (the year 2106).
    pub fn new(output: W, epoch: Epoch) -> Result<Self> {
        let mtime = u32::try_from(epoch.0).map_err(|_| {
            Error::new(Kind::Usage, format!("the epoch {} does not fit into a cpio archive, which ends in 2106", epoch.0))
        })?;
        Ok(Self { output, position: 0, inode: 0, mtime, folders: BTreeSet::new(), names: BTreeSet::new() })
    }

    /// Adds a folder; its parent must be there.
    ///
    /// # Errors
    /// A path that is not relative and plain, is there already or has no parent; the output's error.
    /// Likewise for the other entries.
    pub fn folder(&mut self, path: &str, permissions: u32) -> Result<()> {
        self.entry(path, Entry { mode: FOLDER | permissions & 0o7777, device: (0, 0), body: b"" })?;
        self.folders.insert(path.to_owned());
        Ok(())
    }

    /// Adds a regular file.
    ///
    /// # Errors
    /// See [`Archive::folder`].
    pub fn file(&mut self, path: &str, permissions: u32, bytes: &[u8]) -> Result<()> {
        self.entry(path, Entry { mode: FILE | permissions & 0o7777, device: (0, 0), body: bytes })
    }

    /// Adds a symbolic link.
    ///
    /// # Errors
    /// See [`Archive::folder`].
    pub fn link(&mut self, path: &str, target: &str) -> Result<()> {
        self.entry(path, Entry { mode: LINK | 0o777, device: (0, 0), body: target.as_bytes() })
    }

    /// Adds a character device.
    ///
    /// # Errors
    /// See [`Archive::folder`].
    pub fn character(&mut self, path: &str, permissions: u32, device: (u32, u32)) -> Result<()> {
        self.entry(path, Entry { mode: CHARACTER | permissions & 0o7777, device, body: b"" })
    }

    /// Ends the archive and gives the output back.
    ///
    /// # Errors
    /// The output's error.
    pub fn finish(mut self) -> Result<W> {
        self.inode = 0;
        self.mtime = 0;
        self.write(TRAILER, &Entry { mode: 0, device: (0, 0), body: b"" })
            .map_err(|e| Error::io("writing", Path::new(TRAILER), &e))?;
        Ok(self.output)
    }

    fn entry(&mut self, path: &str, entry: Entry<'_>) -> Result<()> {
        let refuse = |why: &str| Err(Error::new(Kind::Failed, format!("putting `{path}` into the initrd: {why}")));
        let plain = |part: &str| !part.is_empty() && part != "." && part != "..";
        if path.contains('\0') || path.len() > LONGEST_PATH || !path.split('/').all(plain) {
            return refuse("not a plain relative path of at most 4095 bytes");
        }
        if path.rsplit_once('/').is_some_and(|(parent, _)| !self.folders.contains(parent)) {
            return refuse("its folder is not there; the kernel does not make it");
        }
        if !self.names.insert(path.to_owned()) {
            return refuse("it is there already");
        }
        if u32::try_from(entry.body.len()).is_err() {
            return refuse("it has 4 GiB or more");
        }
        self.inode += 1;
        self.write(path, &entry).map_err(|e| Error::io("writing the initrd's", Path::new(path), &e))
    }

    fn write(&mut self, path: &str, entry: &Entry<'_>) -> io::Result<()> {
        let links = if entry.mode & FOLDER != 0 && entry.mode & FILE == 0 { 2 } else { 1 };
        let sizes = (entry.body.len(), path.len() + 1);
        let mut header = MAGIC.to_owned();
        let (major, minor) = entry.device;
        // ino, mode, uid, gid, nlink, mtime, filesize, dev major and minor, rdev major and minor, namesize, check.
        let fields = [self.inode, entry.mode, 0, 0, links, self.mtime];
        fields.iter().for_each(|value| header.push_str(&format!("{value:08x}")));
        header.push_str(&format!("{:08x}{:08x}{:08x}{major:08x}{minor:08x}{:08x}{:08x}", sizes.0, 0, 0, sizes.1, 0));
        self.aligned(&[header.as_bytes(), path.as_bytes(), b"\0"].concat())?;
        self.aligned(entry.body)
    }

    /// Writes `bytes` and zeros up to the next boundary.
    fn aligned(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.output.write_all(bytes)?;
        let end = self.position + bytes.len() as u64;
        self.position = end.next_multiple_of(ALIGNMENT);
        let padding = usize::try_from(self.position - end).unwrap_or(0);
        self.output.write_all([0; ALIGNMENT as usize].get(..padding).unwrap_or_default())
    }
}

struct Entry<'a> {
    mode: u32,
    device: (u32, u32),
    body: &'a [u8],
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::Program;
    use std::process::Stdio;

    fn sample() -> Vec<u8> {
        let mut archive = Archive::new(Vec::new(), Epoch(1_700_000_000)).unwrap();
        archive.folder("dev", 0o755).unwrap();
        archive.character("dev/console", 0o600, (5, 1)).unwrap();
        archive.file("init", 0o755, b"hello").unwrap();
        archive.link("bin", "usr/bin").unwrap();
        archive.finish().unwrap()
    }

    #[test]
    fn the_first_header_is_as_the_format_says() {
        let bytes = sample();
        let header = concat!(
            "070701", "00000001", "000041ed", "00000000", "00000000", "00000002", "6553f100", "00000000", "00000000", "00000000",
            "00000000", "00000000", "00000004", "00000000", "dev\0"
        );
        assert_eq!(std::str::from_utf8(&bytes[..header.len()]).unwrap(), header);
        assert_eq!(bytes.len() % 4, 0);
        assert_eq!(sample(), bytes, "same input, same bytes");
    }

    #[test]
    fn cpio_lists_what_was_written() {
        use crate::boot::oracle::root;
        // From the trixie root of the tests where this machine has none itself.
        let inside = || Program::find("chroot", "apt install coreutils").map(|chroot| chroot.arg(root()).arg("cpio"));
        let mut child = Program::find("cpio", "apt install cpio")
            .or_else(|missing| if std::path::Path::new(root()).join("usr/bin/cpio").exists() { inside() } else { Err(missing) })
            .unwrap()
            .arg("-tvn")
            .command()
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(&sample()).unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success());
        let text = String::from_utf8(output.stdout).unwrap();
        let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
        let facts: Vec<(&str, &str)> = lines.iter().map(|words| (words[0], *words.last().unwrap())).collect();
        assert_eq!(
            facts,
            [("drwxr-xr-x", "dev"), ("crw-------", "dev/console"), ("-rwxr-xr-x", "init"), ("lrwxrwxrwx", "usr/bin")]
        );
        assert!(lines[2].contains(&"5") && lines[1].contains(&"5,"), "{text}");
    }

    /// Name, mode and body of each entry, read as the format's description says.
    fn read_back(mut bytes: &[u8]) -> Vec<(String, u32, Vec<u8>)> {
        let mut entries = Vec::new();
        loop {
            let field = |n: usize| u32::from_str_radix(std::str::from_utf8(&bytes[6 + n * 8..14 + n * 8]).unwrap(), 16).unwrap();
            assert_eq!(&bytes[..6], MAGIC.as_bytes());
            let (mode, size, name) = (field(1), field(6) as usize, field(11) as usize);
            let body = (110 + name).next_multiple_of(4);
            let path = String::from_utf8(bytes[110..110 + name - 1].to_vec()).unwrap();
            if path == TRAILER {
                return entries;
            }
            entries.push((path, mode, bytes[body..body + size].to_vec()));
            bytes = &bytes[body + size.next_multiple_of(4)..];
        }
    }

    proptest::proptest! {
        #[test]
        fn what_was_written_is_read_back(files in proptest::collection::btree_map("[a-z.]{3,9}", proptest::collection::vec(proptest::num::u8::ANY, 0..50), 0..8)) {
            let mut archive = Archive::new(Vec::new(), Epoch(7)).unwrap();
            archive.folder("f", 0o700).unwrap();
            let mut wanted = vec![("f".to_owned(), FOLDER | 0o700, Vec::new())];
            for (name, bytes) in &files {
                archive.file(&format!("f/{name}"), 0o640, bytes).unwrap();
                wanted.push((format!("f/{name}"), FILE | 0o640, bytes.clone()));
            }
            proptest::prop_assert_eq!(read_back(&archive.finish().unwrap()), wanted);
        }
    }

    #[test]
    fn paths_the_kernel_would_drop_are_refused() {
        let mut archive = Archive::new(Vec::new(), Epoch(0)).unwrap();
        archive.file("a", 0o644, b"").unwrap();
        for (path, words) in [
            ("", "plain"),
            ("/a", "plain"),
            ("x/../y", "plain"),
            ("a\0b", "plain"),
            (&"n".repeat(4096), "plain"),
            ("folder/file", "folder is not there"),
            ("a/b", "folder is not there"),
            ("a", "there already"),
        ] {
            let refused = archive.file(path, 0o644, b"").unwrap_err().to_string();
            assert!(refused.contains(words), "{refused} should say {words}");
        }
        assert!(Archive::new(Vec::new(), Epoch(1 << 32)).unwrap_err().to_string().contains("2106"));
    }
}
