//! What tests of this crate read: a machine made of a map, SMBIOS structures, key-value pools, disks.

use std::collections::BTreeMap;
use std::io::{self, Cursor};
use std::path::Path;
use std::process::Command;

use super::https::{Answer, Request, Trouble};
use super::{Device, Reader};

/// Names and bytes.
pub(crate) type Files<'a> = &'a [(&'a str, &'a [u8])];

/// A machine of files, disks and servers that are said beforehand.
#[derive(Debug, Default)]
pub(crate) struct Fake {
    pub files: BTreeMap<String, Vec<u8>>,
    pub disks: BTreeMap<String, Vec<u8>>,
    pub web: BTreeMap<String, Result<Answer, Trouble>>,
    pub credentials: Option<String>,
    pub clock: u64,
    pub image: u64,
}

impl Fake {
    /// Files by path.
    pub fn new(files: Files<'_>) -> Self {
        let files = files.iter().map(|(path, bytes)| ((*path).to_owned(), bytes.to_vec())).collect();
        Self { files, clock: 2_000, image: 1_000, ..Self::default() }
    }

    /// With a disk at `/dev/NAME`.
    pub fn disk(mut self, name: &str, bytes: Vec<u8>) -> Self {
        self.disks.insert(name.to_owned(), bytes);
        self
    }

    /// With a file.
    pub fn file(mut self, path: &str, bytes: &[u8]) -> Self {
        self.files.insert(path.to_owned(), bytes.to_vec());
        self
    }
}

impl Reader for Fake {
    fn read(&self, path: &str, limit: usize) -> io::Result<Vec<u8>> {
        let bytes = self.files.get(path).ok_or(io::ErrorKind::NotFound)?;
        // A file of these bytes cannot be read.
        if bytes == b"EIO" {
            return Err(io::Error::other("input/output error"));
        }
        if bytes.len() > limit { Err(io::ErrorKind::FileTooLarge.into()) } else { Ok(bytes.clone()) }
    }

    fn list(&self, folder: &str) -> io::Result<Vec<String>> {
        if folder == "/sys/class/block" {
            return Ok(self.disks.keys().cloned().collect());
        }
        let inside = |path: &String| Some(path.strip_prefix(folder)?.strip_prefix('/')?.split('/').next()?.to_owned());
        let mut names: Vec<String> = self.files.keys().filter_map(inside).collect();
        names.dedup();
        if names.is_empty() { Err(io::ErrorKind::NotFound.into()) } else { Ok(names) }
    }

    fn modified(&self, path: &str) -> io::Result<u64> {
        self.files.get(path).map(|_| self.image).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn open(&self, device: &str) -> io::Result<Box<dyn Device>> {
        let bytes = device.strip_prefix("/dev/").and_then(|name| self.disks.get(name)).ok_or(io::ErrorKind::NotFound)?;
        if bytes.is_empty() {
            return Err(io::Error::other("no medium found"));
        }
        Ok(Box::new(Cursor::new(bytes.clone())))
    }

    fn credentials(&self) -> Option<String> {
        self.credentials.clone()
    }

    fn clock(&self) -> u64 {
        self.clock
    }

    fn get(&self, request: &Request) -> Result<Answer, Trouble> {
        self.web.get(&request.url).cloned().unwrap_or(Ok(Answer::Missing))
    }
}

/// An SMBIOS structure with these strings.
pub(crate) fn structure(kind: u8, formatted: &[u8], strings: &[&str]) -> Vec<u8> {
    let length = u8::try_from(formatted.len() + 4).unwrap();
    let mut bytes = [&[kind, length, 0, 0], formatted].concat();
    for string in strings {
        bytes.extend_from_slice(string.as_bytes());
        bytes.push(0);
    }
    bytes.extend_from_slice(if strings.is_empty() { &[0, 0] } else { &[0] });
    bytes
}

/// A Hyper-V key-value pool.
pub(crate) fn pool(records: Files<'_>) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (key, value) in records {
        let start = bytes.len();
        bytes.extend_from_slice(key.as_bytes());
        bytes.resize(start + 512, 0);
        bytes.extend_from_slice(value);
        bytes.resize(start + 512 + 2048, 0);
    }
    bytes
}

/// Runs a tool of the machine in `folder`. Words end at blanks; `''` is an empty one.
pub(crate) fn tool(folder: &Path, line: &str) {
    let words: Vec<&str> = line.split_whitespace().map(|word| if word == "''" { "" } else { word }).collect();
    run(folder, words[0], &words[1..]);
}

#[allow(clippy::disallowed_methods, reason = "tests make their disks, keys and certificates with the tools of others")]
fn run(folder: &Path, program: &str, arguments: &[&str]) {
    let output =
        Command::new(program).args(arguments).current_dir(folder).env("MTOOLS_SKIP_CHECK", "1").env("LC_ALL", "C.UTF-8").output();
    let output = output.unwrap_or_else(|e| panic!("this test needs `{program}` ({e}): ci/setup test installs it"));
    assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// A folder with these files.
pub(crate) fn folder(files: Files<'_>) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (path, bytes) in files {
        let path = folder.path().join("in").join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }
    folder
}

/// A FAT disk with these files, made by dosfstools and mtools. `width` is 12, 16 or 32.
pub(crate) fn fat(label: &str, width: u8, files: Files<'_>) -> Vec<u8> {
    let folder = folder(files);
    // As few clusters as make each kind what it is.
    let kib = [1024, 4096, 34 << 10][usize::from(width) / 16];
    tool(folder.path(), &format!("/usr/sbin/mkfs.vfat -C -n {label} -F {width} -s 1 disk {kib}"));
    let mut names: Vec<_> = std::fs::read_dir(folder.path().join("in")).unwrap().map(|entry| entry.unwrap().path()).collect();
    names.sort();
    for name in names {
        run(folder.path(), "mcopy", &["-s", "-i", "disk", name.to_str().unwrap(), "::"]);
    }
    // What is behind the last byte that is used does not matter to a reader.
    let mut disk = std::fs::read(folder.path().join("disk")).unwrap();
    let used = disk.iter().rposition(|byte| *byte != 0).unwrap();
    disk.truncate((used & !511) + (64 << 10));
    disk
}

/// An ISO 9660 disk with these files, made by `maker`: `genisoimage OPTIONS` or `xorriso -as mkisofs OPTIONS`.
pub(crate) fn iso(label: &str, maker: &str, files: Files<'_>) -> Vec<u8> {
    let folder = folder(files);
    tool(folder.path(), &format!("{maker} -quiet -V {label} -o disk in"));
    std::fs::read(folder.path().join("disk")).unwrap()
}
