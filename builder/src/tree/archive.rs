//! A tar stream read front to back: ustar, GNU long names, PAX records (POSIX.1-2017 pax,
//! "ustar Interchange Format"). Every name that comes out is relative, clean and without `..`.

use std::collections::BTreeMap;
use std::io::Read;
use std::sync::Arc;

use crate::error::{Error, Kind, Result};

/// A tar record, in bytes.
const RECORD: usize = 512;
/// Longest path or link target, in bytes (PATH_MAX of Linux).
const PATH_LIMIT: usize = 4096;
/// Most bytes of a PAX or GNU long-name record.
const EXTENSION_LIMIT: u64 = 1 << 20;
/// Most members of one archive.
const MEMBER_LIMIT: u64 = 1_000_000;
/// Largest single file, in bytes.
const FILE_LIMIT: u64 = 2 << 30;
/// Up to this many bytes a file's buffer is made at once; beyond, it grows with what really comes.
const AT_ONCE: u64 = 32 << 20;

/// Reads the members of a tar stream.
pub struct Archive<R> {
    reader: R,
    /// Bytes of the current member that were not read yet, and the padding behind them.
    left: u64,
    padding: u64,
    /// Bytes that may still be read from the stream, over all members.
    budget: u64,
    members: u64,
}

/// One member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Path without leading `./` and trailing `/`; empty for the root itself.
    pub path: Vec<u8>,
    /// Permission bits.
    pub mode: u32,
    /// Owner by number.
    pub uid: u32,
    /// Group by number.
    pub gid: u32,
    /// Modification time in seconds since 1970.
    pub mtime: i64,
    /// Extended attributes (`SCHILY.xattr.` records), by full name.
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    /// What it is.
    pub what: What,
}

/// What a member is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    /// A folder.
    Folder,
    /// A regular file of this many bytes, to be had by [`Archive::content`].
    File(u64),
    /// A symbolic link to this target, which may be anything.
    Link(Vec<u8>),
    /// Another name of a member that came before, as clean as [`Member::path`].
    HardLink(Vec<u8>),
    /// A FIFO.
    Fifo,
}

/// What extension records say about the next member.
#[derive(Default)]
struct Extension {
    path: Option<Vec<u8>>,
    target: Option<Vec<u8>>,
    size: Option<u64>,
    uid: Option<u64>,
    gid: Option<u64>,
    mtime: Option<i64>,
    xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
}

impl<R> std::fmt::Debug for Archive<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Archive").field("members", &self.members).field("left", &self.left).finish_non_exhaustive()
    }
}

impl<R: Read> Archive<R> {
    /// A reader of `reader`, which may give at most `limit` bytes.
    pub fn new(reader: R, limit: u64) -> Self {
        Self { reader, left: 0, padding: 0, budget: limit, members: 0 }
    }

    /// The next member; what was not read of the one before is skipped.
    ///
    /// # Errors
    /// When the stream is broken, cut off, too large, or holds a name or kind that no package may hold.
    #[allow(clippy::should_implement_trait, reason = "members borrow nothing, but contents are read between calls")]
    pub fn next(&mut self) -> Result<Option<Member>> {
        let mut extension = Extension::default();
        loop {
            self.skip()?;
            let Some(header) = self.header()? else { return Ok(None) };
            let size =
                extension.size.filter(|_| !b"xgLK".contains(&header[156])).map_or_else(|| number(&header, 124..136), Ok)?;
            let has_bytes = !matches!(header[156], b'1'..=b'6');
            self.left = if has_bytes { size } else { 0 };
            self.padding = self.left.next_multiple_of(RECORD as u64) - self.left;
            match header[156] {
                b'x' => self.pax(&mut extension)?,
                b'L' => extension.path = Some(self.long_name()?),
                b'K' => extension.target = Some(self.long_name()?),
                b'g' => {}
                _ => return member(&header, extension, size).map(Some),
            }
        }
    }

    /// The bytes of the member that [`Archive::next`] gave last, once.
    ///
    /// # Errors
    /// When the stream ends early or the file is larger than any in a package may be.
    pub fn content(&mut self) -> Result<Arc<[u8]>> {
        let size = self.left;
        if size > FILE_LIMIT {
            return Err(bad(format!("a file of {size} bytes is larger than the {FILE_LIMIT} that are allowed")));
        }
        self.spend(size)?;
        self.left = 0;
        if size <= AT_ONCE {
            let mut bytes: Arc<[u8]> = std::iter::repeat_n(0, size as usize).collect();
            if let Some(buffer) = Arc::get_mut(&mut bytes) {
                self.reader.read_exact(buffer).map_err(cut_off)?;
            }
            return Ok(bytes);
        }
        let mut bytes = Vec::new();
        (&mut self.reader).take(size).read_to_end(&mut bytes).map_err(cut_off)?;
        if bytes.len() as u64 != size {
            return Err(cut_off(std::io::ErrorKind::UnexpectedEof.into()));
        }
        Ok(bytes.into())
    }

    fn spend(&mut self, amount: u64) -> Result<()> {
        self.budget = self.budget.checked_sub(amount).ok_or_else(|| bad("it unpacks to more than any package may"))?;
        Ok(())
    }

    fn skip(&mut self) -> Result<()> {
        let rest = self.left.checked_add(self.padding).ok_or_else(|| bad("a member's size is beyond all bounds"))?;
        self.spend(rest)?;
        (self.left, self.padding) = (0, 0);
        let skipped = std::io::copy(&mut (&mut self.reader).take(rest), &mut std::io::sink()).map_err(cut_off)?;
        if skipped == rest { Ok(()) } else { Err(cut_off(std::io::ErrorKind::UnexpectedEof.into())) }
    }

    /// The next header that is not zeros; `None` at the end mark or at the end of the stream.
    fn header(&mut self) -> Result<Option<[u8; RECORD]>> {
        let mut header = [0; RECORD];
        let mut filled = 0;
        while filled < RECORD {
            match self.reader.read(&mut header[filled..]) {
                Ok(0) if filled == 0 => return Ok(None),
                Ok(0) => return Err(cut_off(std::io::ErrorKind::UnexpectedEof.into())),
                Ok(amount) => filled += amount,
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                Err(e) => return Err(cut_off(e)),
            }
        }
        self.spend(RECORD as u64)?;
        if header.iter().all(|byte| *byte == 0) {
            return Ok(None);
        }
        self.members += 1;
        if self.members > MEMBER_LIMIT {
            return Err(bad(format!("it has more than {MEMBER_LIMIT} members")));
        }
        let sum: u64 = header.iter().enumerate().map(|(i, b)| if (148..156).contains(&i) { 32 } else { u64::from(*b) }).sum();
        let said = number(&header, 148..156)?;
        if said != sum {
            return Err(bad(format!("the checksum of a member is {sum}, expected {said}")));
        }
        Ok(Some(header))
    }

    fn extension(&mut self) -> Result<Vec<u8>> {
        if self.left > EXTENSION_LIMIT {
            return Err(bad(format!("an extension record of {} bytes is larger than {EXTENSION_LIMIT}", self.left)));
        }
        Ok(self.content()?.to_vec())
    }

    fn long_name(&mut self) -> Result<Vec<u8>> {
        let mut name = self.extension()?;
        name.truncate(name.iter().position(|b| *b == 0).unwrap_or(name.len()));
        Ok(name)
    }

    /// PAX records: `length key=value\n`, the length counting itself.
    fn pax(&mut self, extension: &mut Extension) -> Result<()> {
        let bytes = self.extension()?;
        let mut rest = bytes.as_slice();
        let broken = || bad("a PAX record is malformed");
        while !rest.is_empty() {
            let space = rest.iter().position(|b| *b == b' ').filter(|at| *at < 20).ok_or_else(broken)?;
            let length: usize = std::str::from_utf8(&rest[..space]).ok().and_then(|d| d.parse().ok()).ok_or_else(broken)?;
            let record = rest.get(space + 1..length).and_then(|r| r.strip_suffix(b"\n")).ok_or_else(broken)?;
            rest = rest.get(length..).ok_or_else(broken)?;
            let equals = record.iter().position(|b| *b == b'=').ok_or_else(broken)?;
            let (key, value) = (&record[..equals], &record[equals + 1..]);
            let digits = || std::str::from_utf8(value).ok().and_then(|d| d.parse::<u64>().ok()).ok_or_else(broken);
            match key {
                b"path" => extension.path = Some(value.to_vec()),
                b"linkpath" => extension.target = Some(value.to_vec()),
                b"size" => extension.size = Some(digits()?),
                b"uid" => extension.uid = Some(digits()?),
                b"gid" => extension.gid = Some(digits()?),
                b"mtime" => extension.mtime = Some(seconds(value).ok_or_else(broken)?),
                _ => {
                    if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                        extension.xattrs.insert(name.to_vec(), value.to_vec());
                    }
                }
            }
        }
        Ok(())
    }
}

/// Whole seconds of a PAX time; the fraction is cut off.
fn seconds(value: &[u8]) -> Option<i64> {
    let text = std::str::from_utf8(value).ok()?;
    text.split_once('.').map_or(text, |(whole, _)| whole).parse().ok()
}

fn member(header: &[u8; RECORD], extension: Extension, size: u64) -> Result<Member> {
    let raw = extension.path.unwrap_or_else(|| plain_name(header));
    let path = clean(&raw)?;
    let shown = || String::from_utf8_lossy(&raw).into_owned();
    let target = extension.target.unwrap_or_else(|| text(&header[157..257]).to_vec());
    let what = match header[156] {
        b'0' | b'7' | 0 => What::File(size),
        b'5' => What::Folder,
        b'1' => What::HardLink(clean(&target)?),
        b'2' if target.is_empty() || target.len() > PATH_LIMIT || target.contains(&0) => {
            return Err(bad(format!("the link `{}` has no usable target", shown())));
        }
        b'2' => What::Link(target),
        b'6' => What::Fifo,
        other => {
            let kind = if other == b'3' || other == b'4' { "a device node".to_owned() } else { format!("of kind {other}") };
            return Err(bad(format!("`{}` is {kind}, which no package may hold", shown())));
        }
    };
    if path.is_empty() && what != What::Folder {
        return Err(bad("the root itself shall be something else than a folder"));
    }
    let id = |given: Option<u64>, range| -> Result<u32> {
        let value = given.map_or_else(|| number(header, range), Ok)?;
        u32::try_from(value).ok().filter(|v| *v != u32::MAX).ok_or_else(|| bad(format!("`{}` has the owner {value}", shown())))
    };
    let mtime = match extension.mtime {
        Some(mtime) => mtime,
        None => i64::try_from(number(header, 136..148)?).map_err(|_| bad(format!("`{}` is from beyond all times", shown())))?,
    };
    let mode = (number(header, 100..108)? & 0o7777) as u32;
    let (uid, gid) = (id(extension.uid, 108..116)?, id(extension.gid, 116..124)?);
    Ok(Member { path, mode, uid, gid, mtime, xattrs: extension.xattrs, what })
}

fn text(field: &[u8]) -> &[u8] {
    &field[..field.iter().position(|b| *b == 0).unwrap_or(field.len())]
}

/// Name and, in POSIX ustar, the prefix before it.
fn plain_name(header: &[u8; RECORD]) -> Vec<u8> {
    let (name, prefix) = (text(&header[0..100]), text(&header[345..500]));
    if &header[257..263] == b"ustar\0" && !prefix.is_empty() { [prefix, b"/", name].concat() } else { name.to_vec() }
}

/// An octal number with blanks around it, or GNU's base-256 form.
fn number(header: &[u8; RECORD], range: std::ops::Range<usize>) -> Result<u64> {
    let field = &header[range.clone()];
    let wrong = || bad(format!("expected a number at byte {} of a member header, found other bytes", range.start));
    if field.first().is_some_and(|first| first & 0x80 != 0) {
        let (head, tail) = field.split_at(field.len() - 8);
        let plain = head.iter().enumerate().all(|(i, b)| *b == if i == 0 { 0x80 } else { 0 });
        let value = tail.iter().fold(0_u64, |value, byte| value << 8 | u64::from(*byte));
        // In an 8-byte field the mark is the top bit of the number itself.
        return match head.is_empty() {
            true => Ok(value & !(1 << 63)),
            false if plain => Ok(value),
            false => Err(wrong()),
        };
    }
    let digits = field.iter().copied().skip_while(|b| *b == b' ').take_while(|b| *b != 0 && *b != b' ');
    digits.into_iter().try_fold(0_u64, |value, digit| match digit {
        b'0'..=b'7' => value.checked_mul(8).map(|v| v + u64::from(digit - b'0')).ok_or_else(wrong),
        _ => Err(wrong()),
    })
}

/// A path of a package, made relative and clean.
fn clean(raw: &[u8]) -> Result<Vec<u8>> {
    let shown = || String::from_utf8_lossy(&raw[..raw.len().min(120)]).into_owned();
    let why = if raw.len() > PATH_LIMIT {
        "is too long"
    } else if raw.contains(&0) {
        "holds a NUL byte"
    } else if raw.first() == Some(&b'/') {
        "is absolute"
    } else if raw.split(|b| *b == b'/').any(|part| part == b"..") {
        "climbs out with `..`"
    } else if raw.is_empty() {
        "is empty"
    } else if raw.split(|b| *b == b'/').any(|part| part.len() > 255) {
        "has a part longer than 255 bytes"
    } else {
        let parts: Vec<&[u8]> = raw.split(|b| *b == b'/').filter(|part| !part.is_empty() && *part != b".").collect();
        return Ok(parts.join(&b'/'));
    };
    Err(bad(format!("the path `{}` {why}", shown())))
}

fn cut_off(error: std::io::Error) -> Error {
    match error.kind() {
        std::io::ErrorKind::UnexpectedEof => bad("it is cut off"),
        _ => bad(format!("decompressing: {error}")),
    }
}

fn bad(message: impl Into<String>) -> Error {
    Error::new(Kind::Failed, message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn header(path: &[u8], kind: u8, size: u64) -> tar::Header {
        let mut header = tar::Header::new_gnu();
        header.as_old_mut().name[..path.len()].copy_from_slice(path);
        header.set_entry_type(tar::EntryType::new(kind));
        header.set_size(size);
        header.set_mode(0o4755);
        header.set_uid(0);
        header.set_gid(42);
        header.set_mtime(1_000);
        header.set_cksum();
        header
    }

    fn record(path: &[u8], kind: u8, bytes: &[u8]) -> Vec<u8> {
        let mut out = header(path, kind, bytes.len() as u64).as_bytes().to_vec();
        out.extend_from_slice(bytes);
        out.resize(out.len().next_multiple_of(RECORD), 0);
        out
    }

    fn all(bytes: &[u8]) -> Result<Vec<(Member, Vec<u8>)>> {
        let mut archive = Archive::new(bytes, 1 << 20);
        let mut out = Vec::new();
        while let Some(member) = archive.next()? {
            let content = if matches!(member.what, What::File(_)) { archive.content()?.to_vec() } else { Vec::new() };
            out.push((member, content));
        }
        Ok(out)
    }

    #[test]
    fn members_come_out_clean_with_long_names_and_attributes() {
        let long = format!("usr/{}", "x/".repeat(150));
        let pax = |key: &str, value: &str| {
            let body = format!(" {key}={value}\n");
            let length = (1..).find(|n: &usize| n.to_string().len() + body.len() == *n).unwrap();
            format!("{length}{body}")
        };
        let records = pax("path", "./usr/ü") + &pax("mtime", "77.5") + &pax("SCHILY.xattr.user.a", "b=\nc") + &pax("uid", "3");
        let bytes = [
            record(b"./", b'5', b""),
            record(b"././@LongLink", b'L', format!("./{long}\0").as_bytes()),
            record(b"short", b'5', b""),
            record(b"pax", b'x', records.as_bytes()),
            record(b"short", b'0', b"hello"),
            record(b"./b", b'1', b""),
            record(b"./c", b'6', b""),
        ]
        .concat();
        // The hard link needs a target: put one into its header.
        let mut bytes = bytes;
        let at = bytes.len() - 2 * RECORD;
        bytes[at + 157..at + 160].copy_from_slice(b"./a");
        let mut h = tar::Header::new_gnu();
        h.as_mut_bytes().copy_from_slice(&bytes[at..at + RECORD]);
        h.set_cksum();
        bytes[at..at + RECORD].copy_from_slice(h.as_bytes());
        let found = all(&bytes).unwrap();
        let paths: Vec<String> = found.iter().map(|(m, _)| String::from_utf8(m.path.clone()).unwrap()).collect();
        assert_eq!(paths, ["", long.trim_end_matches('/'), "usr/ü", "b", "c"]);
        let (file, content) = &found[2];
        assert_eq!((file.uid, file.gid, file.mtime, file.mode, content.as_slice()), (3, 42, 77, 0o4755, b"hello".as_slice()));
        assert_eq!(file.xattrs.get(b"user.a".as_slice()).map(Vec::as_slice), Some(b"b=\nc".as_slice()));
        assert_eq!(found[3].0.what, What::HardLink(b"a".to_vec()));
    }

    #[test]
    fn hostile_members_are_refused_in_words() {
        let mut sum = record(b"a", b'0', b"");
        sum[0] = b'b';
        let mut huge = header(b"a", b'0', 0);
        huge.as_old_mut().size = [0x80, 0, 0, 0, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff];
        huge.set_cksum();
        for (bytes, said) in [
            (record(b"/etc/passwd", b'0', b""), "is absolute"),
            (record(b"./a/../../b", b'0', b""), "climbs out"),
            (record(b"x", b'L', b"../b\0"), "it is"),
            ([record(b"x", b'L', b"../b\0"), record(b"x", b'0', b"")].concat(), "climbs out"),
            ([record(b"x", b'x', b"11 path=a\0\n"), record(b"x", b'0', b"")].concat(), "NUL"),
            (record(b"x", b'x', b"99 path=a\n"), "PAX record"),
            (record(b"x", b'x', b"5 path\n"), "PAX record"),
            (record(b"dev", b'3', b""), "a device node"),
            (record(b"odd", b'Z', b""), "of kind 90"),
            (record(b"./", b'0', b""), "root itself"),
            (record(b"l", b'2', b""), "no usable target"),
            (sum, "checksum"),
            (huge.as_bytes().to_vec(), "larger than"),
            (record(b"a", b'0', b"hello")[..520].to_vec(), "cut off"),
            (record(b"a", b'0', b"")[..100].to_vec(), "cut off"),
            (record(b"a", b'0', &vec![0; 2 << 20]), "more than any package"),
        ] {
            let found = all(&bytes);
            match found {
                Err(error) => assert!(error.to_string().contains(said), "{error} does not say {said}"),
                // A name for a member that never comes is harmless.
                Ok(members) => assert!(said == "it is" && members.is_empty(), "{members:?} for {said}"),
            }
        }
    }

    proptest! {
        #[test]
        fn what_tar_writes_is_read_back(names in proptest::collection::btree_set("[a-zé]{1,80}(/[a-z.]{1,90}q){0,3}", 1..8)) {
            let mut builder = tar::Builder::new(Vec::new());
            for name in &names {
                let mut h = tar::Header::new_gnu();
                h.set_size(name.len() as u64);
                h.set_mode(0o600);
                builder.append_data(&mut h, name, name.as_bytes()).unwrap();
            }
            let found = all(&builder.into_inner().unwrap()).unwrap();
            prop_assert_eq!(found.len(), names.len());
            for ((member, content), name) in found.iter().zip(&names) {
                prop_assert_eq!(&member.path, name.as_bytes());
                prop_assert_eq!(content, name.as_bytes());
            }
        }

        #[test]
        fn a_changed_byte_makes_no_panic(at in 0usize..1536, value in any::<u8>()) {
            let mut bytes = [record(b"x", b'x', b"10 path=a\n"), record(b"x", b'0', b"hello")].concat();
            let at = at % bytes.len();
            bytes[at] = value;
            if at < RECORD {
                let mut h = tar::Header::new_gnu();
                h.as_mut_bytes().copy_from_slice(&bytes[..RECORD]);
                h.set_cksum();
                bytes[..RECORD].copy_from_slice(h.as_bytes());
            }
            let _ = all(&bytes);
        }
    }
}
