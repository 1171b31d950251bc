//! A Debian binary package: an ar archive of `debian-binary`, `control.tar.*`, `data.tar.*` (deb(5)).
//!
//! Nothing in it is trusted: lengths are checked against the file, and what comes out of the
//! decompressor is limited.

use std::collections::BTreeMap;
use std::io::{BufReader, Read};
use std::path::Path;
use std::sync::Arc;

use crate::blob::{Blob, BlobReader};
use crate::error::{Context, Error, Kind, Result};
use crate::files;
use crate::tree::archive::{Archive, What};

/// ar(5): the magic in front of the first member.
const AR_MAGIC: &[u8; 8] = b"!<arch>\n";
/// ar(5): bytes of a member header.
const AR_HEADER: u64 = 60;
/// Most that `control.tar` may unpack to, in bytes.
const CONTROL_LIMIT: u64 = 64 << 20;
/// Most that `data.tar` may unpack to, in bytes.
const DATA_LIMIT: u64 = 16 << 30;
/// Read buffer in front of a decompressor, in bytes.
const BUFFER: usize = 64 << 10;

/// An opened package file.
#[derive(Debug)]
pub struct Deb {
    control: Part,
    data: Part,
}

/// The files of a package on their way.
pub type FilesPart<'a> = Archive<Box<dyn Read + 'a>>;

/// One compressed tar inside the package.
#[derive(Debug)]
struct Part {
    name: String,
    blob: Blob,
}

/// `control.tar` of a package.
#[derive(Debug, Clone)]
pub struct Control {
    /// The text of `control`, one paragraph, without empty lines.
    pub text: String,
    /// Its fields by name; continuation lines are kept with their line breaks.
    pub fields: BTreeMap<String, String>,
    /// All other files: maintainer scripts, conffiles, triggers, md5sums.
    pub files: BTreeMap<String, ControlFile>,
}

/// One file of `control.tar`.
#[derive(Debug, Clone)]
pub struct ControlFile {
    /// Its bytes.
    pub bytes: Arc<[u8]>,
    /// Permission bits.
    pub mode: u32,
}

impl Deb {
    /// Opens a package file and finds its parts.
    ///
    /// # Errors
    /// When the file cannot be read or is no Debian package of format 2.
    pub fn open(path: &Path) -> Result<Self> {
        let file = files::open(path)?;
        let length = file.metadata().map_err(|e| Error::io("reading the size of", path, &e))?.len();
        Self::read(Blob::file(Arc::new(file), 0, length)).context(format!("reading the package {}", path.display()))
    }

    /// Finds the parts of a package that is already at hand.
    ///
    /// # Errors
    /// When it is no Debian package of format 2.
    pub fn read(blob: Blob) -> Result<Self> {
        let mut magic = [0; 8];
        if blob.read_exact_at(&mut magic, 0).is_err() || &magic != AR_MAGIC {
            return Err(bad("expected an ar archive, found something else"));
        }
        let (mut offset, mut control, mut data) = (AR_MAGIC.len() as u64, None, None);
        let mut first = true;
        while offset < blob.len() {
            let (name, size) = member(&blob, offset)?;
            let part = blob.slice(offset + AR_HEADER, size);
            if first && (name != "debian-binary" || !part.to_vec().is_ok_and(|v| v.starts_with(b"2."))) {
                return Err(bad(format!("expected `debian-binary` of format 2 as first member, found `{name}`")));
            }
            first = false;
            let slot = match name.split_once(".tar") {
                Some(("control", _)) => &mut control,
                Some(("data", _)) => &mut data,
                // deb(5): members whose name begins with an underscore are ignored, as are signatures.
                _ => &mut None,
            };
            if slot.is_none() {
                *slot = Some(Part { name, blob: part });
            }
            offset += AR_HEADER + size + (size & 1);
        }
        match (control, data) {
            (Some(control), Some(data)) => Ok(Self { control, data }),
            (None, _) => Err(bad("there is no `control.tar` in it")),
            (_, None) => Err(bad("there is no `data.tar` in it")),
        }
    }

    /// Compressed size of the files in bytes: how much work unpacking is.
    pub fn weight(&self) -> u64 {
        self.data.blob.len()
    }

    /// Reads the control part.
    ///
    /// # Errors
    /// When it is broken, or has no usable `control`.
    pub fn control(&self) -> Result<Control> {
        self.read_control().context(format!("reading `{}`", self.control.name))
    }

    /// The files part, from its start.
    ///
    /// # Errors
    /// When its compression is not known.
    pub fn data(&self) -> Result<FilesPart<'_>> {
        self.data_through(Ok)
    }

    /// The files part, decompressed and read through `wrap`.
    ///
    /// # Errors
    /// When its compression is not known, and those of `wrap`.
    pub fn data_through<'a>(
        &'a self,
        wrap: impl FnOnce(Box<dyn Read + 'a>) -> Result<Box<dyn Read + 'a>>,
    ) -> Result<FilesPart<'a>> {
        Ok(Archive::new(wrap(self.data.open()?)?, DATA_LIMIT))
    }

    /// A files part that is decompressed already.
    pub fn plain<'a>(reader: Box<dyn Read + 'a>) -> FilesPart<'a> {
        Archive::new(reader, DATA_LIMIT)
    }

    fn read_control(&self) -> Result<Control> {
        let mut archive = Archive::new(self.control.open()?, CONTROL_LIMIT);
        let mut text = None;
        let mut found = BTreeMap::new();
        while let Some(member) = archive.next()? {
            let name = String::from_utf8(member.path).map_err(|_| bad("a file name in it is not UTF-8"))?;
            match member.what {
                What::Folder if name.is_empty() => continue,
                What::File(_) if !name.contains('/') => {}
                _ => return Err(bad(format!("expected plain files only, found `{name}`"))),
            }
            let bytes = archive.content()?;
            if name == "control" {
                text = Some(String::from_utf8(bytes.to_vec()).map_err(|_| bad("`control` is not UTF-8"))?);
            } else {
                found.insert(name, ControlFile { bytes, mode: member.mode });
            }
        }
        let text = text.ok_or_else(|| bad("there is no file `control` in it"))?;
        Control::parse(&text, found)
    }
}

impl Control {
    /// Takes the text of `control` apart.
    ///
    /// # Errors
    /// When a line is no field, or `Package`, `Version` or `Architecture` is missing or malformed.
    pub fn parse(text: &str, files: BTreeMap<String, ControlFile>) -> Result<Self> {
        let mut fields: BTreeMap<String, String> = BTreeMap::new();
        let mut last = String::new();
        let mut kept = String::with_capacity(text.len());
        for line in text.lines().filter(|line| !line.trim().is_empty()) {
            kept.push_str(line);
            kept.push('\n');
            if line.starts_with([' ', '\t']) {
                let value = fields.get_mut(&last).ok_or_else(|| bad("`control` begins with a continuation line"))?;
                value.push('\n');
                value.push_str(line);
            } else {
                let (name, value) =
                    line.split_once(':').ok_or_else(|| bad(format!("expected `Field: value` in `control`, found `{line}`")))?;
                last = name.to_ascii_lowercase();
                fields.insert(last.clone(), value.trim().to_owned());
            }
        }
        let control = Self { text: kept, fields, files };
        for (field, allowed) in [("package", "+-."), ("architecture", "-"), ("version", "+-.:~")] {
            let value = control.field(field);
            let fits = |c: char| c.is_ascii_alphanumeric() || allowed.contains(c);
            if !value.starts_with(|c: char| c.is_ascii_alphanumeric()) || !value.chars().all(fits) {
                return Err(bad(format!("`{field}` in `control` is missing or malformed: `{value}`")));
            }
        }
        Ok(control)
    }

    /// A field by its lower-case name; empty where there is none.
    pub fn field(&self, name: &str) -> &str {
        self.fields.get(name).map_or("", String::as_str)
    }

    /// `Package`.
    pub fn name(&self) -> &str {
        self.field("package")
    }

    /// The name under which dpkg keeps the package's files in `info/`: with the architecture
    /// where several may be installed side by side.
    pub fn info_name(&self) -> String {
        match self.field("multi-arch") {
            "same" => format!("{}:{}", self.name(), self.field("architecture")),
            _ => self.name().to_owned(),
        }
    }

    /// Names a relation field speaks of, versions and alternatives left out of account.
    pub fn relations(&self, field: &str) -> Vec<&str> {
        let name = |relation: &str| -> usize {
            relation.find(|c: char| !(c.is_ascii_alphanumeric() || "+-.".contains(c))).unwrap_or(relation.len())
        };
        self.field(field).split([',', '|']).map(str::trim).map(|r| &r[..name(r)]).filter(|r| !r.is_empty()).collect()
    }
}

impl Part {
    fn open(&self) -> Result<Box<dyn Read + '_>> {
        let raw: BufReader<BlobReader<'_>> = BufReader::with_capacity(BUFFER, self.blob.reader());
        let (_, suffix) = self.name.split_once(".tar").unwrap_or_default();
        Ok(match suffix {
            "" => Box::new(raw),
            ".gz" => Box::new(flate2::bufread::GzDecoder::new(raw)),
            ".xz" => Box::new(liblzma::bufread::XzDecoder::new(raw)),
            ".zst" => Box::new(zstd::stream::read::Decoder::with_buffer(raw).map_err(|e| bad(format!("starting zstd: {e}")))?),
            other => return Err(bad(format!("the compression `{other}` of `{}` is not one of gz, xz, zst", self.name))),
        })
    }
}

/// Name and size of the member whose header is at `offset`; the member lies within the file.
fn member(blob: &Blob, offset: u64) -> Result<(String, u64)> {
    let mut header = [0; AR_HEADER as usize];
    blob.read_exact_at(&mut header, offset).map_err(|_| bad(format!("it ends within the header at {offset}")))?;
    let text = |range: std::ops::Range<usize>| String::from_utf8_lossy(&header[range]).trim_end().to_owned();
    if &header[58..60] != b"`\n" {
        return Err(bad(format!("expected the end of a member header at {}, found other bytes", offset + 58)));
    }
    let (name, digits) = (text(0..16), text(48..58));
    let name = name.strip_suffix('/').unwrap_or(&name).to_owned();
    let size = Some(&digits).filter(|d| d.bytes().all(|b| b.is_ascii_digit())).and_then(|d| d.parse::<u64>().ok());
    let size = size.ok_or_else(|| bad(format!("expected the size of `{name}` in digits, found `{digits}`")))?;
    let room = blob.len() - offset - AR_HEADER;
    if size > room {
        return Err(bad(format!("`{name}` shall have {size} bytes, but only {room} follow: the file is cut off")));
    }
    Ok((name, size))
}

fn bad(message: impl Into<String>) -> Error {
    Error::new(Kind::Failed, message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ar(members: &[(&str, &[u8])]) -> Vec<u8> {
        let mut out = AR_MAGIC.to_vec();
        for (name, bytes) in members {
            out.extend(format!("{name:<16}{:<12}{:<6}{:<6}{:<8}{:<10}`\n", 0, 0, 0, 100644, bytes.len()).bytes());
            out.extend_from_slice(bytes);
            out.resize(out.len() + bytes.len() % 2, b'\n');
        }
        out
    }

    fn control_tar(text: &str) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_size(text.len() as u64);
        header.set_mode(0o644);
        builder.append_data(&mut header, "./control", text.as_bytes()).unwrap();
        builder.into_inner().unwrap()
    }

    const GOOD: &str = "Package: a\nVersion: 1:2~b-3\nArchitecture: amd64\nMulti-Arch: same\nDepends: b (>= 2) | c:any, d\nDescription: x\n more\n .\n";

    #[test]
    fn a_package_in_every_compression_gives_its_control() {
        let plain = control_tar(GOOD);
        let gz = {
            let mut e = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            std::io::Write::write_all(&mut e, &plain).unwrap();
            e.finish().unwrap()
        };
        let mut xz = Vec::new();
        liblzma::read::XzEncoder::new(plain.as_slice(), 1).read_to_end(&mut xz).unwrap();
        let zst = zstd::encode_all(plain.as_slice(), 1).unwrap();
        for (name, bytes) in
            [("control.tar", &plain), ("control.tar.gz", &gz), ("control.tar.xz", &xz), ("control.tar.zst/", &zst)]
        {
            let deb = ar(&[("debian-binary", b"2.0\n"), (name, bytes), ("data.tar", &[0; 1024])]);
            let deb = Deb::read(Blob::memory(deb)).unwrap();
            let control = deb.control().unwrap();
            assert_eq!(control.info_name(), "a:amd64", "{name}");
            assert_eq!(control.relations("depends"), ["b", "c", "d"]);
            assert_eq!(control.field("description"), "x\n more\n .");
            assert!(deb.data().unwrap().next().unwrap().is_none());
        }
    }

    #[test]
    fn what_is_no_package_is_refused_in_words() {
        let long = ar(&[("debian-binary", b"2.0\n"), ("data.tar", b"")]);
        let mut cut = ar(&[("debian-binary", b"2.0\n"), ("control.tar", &[0; 100])]);
        cut.truncate(cut.len() - 10);
        let mut digits = ar(&[("debian-binary", b"2.0\n")]);
        digits[56] = b'-';
        for (bytes, said) in [
            (b"no ar".to_vec(), "expected an ar archive"),
            (ar(&[("control.tar", b"x")]), "expected `debian-binary`"),
            (ar(&[("debian-binary", b"3.0\n")]), "expected `debian-binary` of format 2"),
            (long, "no `control.tar`"),
            (ar(&[("debian-binary", b"2.0\n"), ("control.tar", b"")]), "no `data.tar`"),
            (cut, "cut off"),
            (digits, "in digits"),
        ] {
            let error = Deb::read(Blob::memory(bytes)).unwrap_err().to_string();
            assert!(error.contains(said), "{error} does not say {said}");
        }
        for (text, said) in [
            (" continuation\n", "begins with a continuation"),
            ("Package: a\nnonsense\n", "expected `Field: value`"),
            ("Package: ../a\nVersion: 1\nArchitecture: all\n", "`package`"),
            ("Package: a\nVersion: 1 2\nArchitecture: all\n", "`version`"),
            ("Package: a\nVersion: 1\n", "`architecture`"),
        ] {
            let error = Control::parse(text, BTreeMap::new()).unwrap_err().to_string();
            assert!(error.contains(said), "{error} does not say {said}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..300), good in any::<bool>()) {
            if good {
                bytes = ar(&[("debian-binary", b"2.0\n"), ("control.tar", &bytes), ("data.tar.xz", &bytes)]);
            }
            if let Ok(deb) = Deb::read(Blob::memory(bytes)) {
                let _ = deb.control();
                let _ = deb.data().and_then(|mut data| data.next().map(|_| ()));
            }
        }

        #[test]
        fn one_changed_byte_makes_no_panic(at in 0usize..4000, value in any::<u8>()) {
            let mut deb = ar(&[("debian-binary", b"2.0\n"), ("control.tar", &control_tar(GOOD)), ("data.tar", &[0; 512])]);
            let at = at % deb.len();
            deb[at] = value;
            if let Ok(deb) = Deb::read(Blob::memory(deb)) {
                let _ = deb.control();
            }
        }
    }
}
