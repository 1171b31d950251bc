//! ISO 9660 (ECMA-119), with the names of Rock Ridge (IEEE P1282 over SUSP P1281) or Joliet.

use super::Device;
use super::volume::{Entry, FOLDER_LIMIT, Volume, bytes, bytes_if_there, field, le16, le32};

/// Bytes of a logical sector, and of the logical blocks that are read here.
const SECTOR: usize = 2048;
/// First volume descriptor, in sectors (ECMA-119, 6.2.1), and how many are looked at.
const DESCRIPTORS: u64 = 16;
const DESCRIPTORS_LIMIT: u64 = 32;
const PRIMARY: u8 = 1;
const SUPPLEMENTARY: u8 = 2;
const TERMINATOR: u8 = 255;
/// Escape sequences of UCS-2 levels 1 to 3 (Joliet specification, section "Escape sequences").
const JOLIET: [&[u8]; 3] = [b"%/@", b"%/C", b"%/E"];
/// Flags of a directory record (9.1.6).
const FLAG_FOLDER: u8 = 0x02;
const FLAG_MULTI_EXTENT: u8 = 0x80;
/// Continuation areas of one record, and bytes of a name, that are followed.
const CONTINUATIONS: usize = 8;
const NAME_LIMIT: usize = 1024;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Names {
    Plain,
    Joliet,
    /// With so many bytes before the fields of each record (SUSP, 5.3).
    RockRidge(usize),
}

/// The volume as its descriptors tell.
#[derive(Debug)]
pub(super) struct Layout {
    label: String,
    primary: Extent,
    joliet: Option<Extent>,
}

#[derive(Debug, Clone, Copy)]
struct Extent {
    start: u32,
    size: u32,
}

/// An ISO 9660 file system.
pub(super) struct Iso {
    device: Box<dyn Device>,
    label: String,
    root: Extent,
    names: Names,
}

impl Iso {
    /// Whether there is one, and what its descriptors say (8.4, 8.5).
    pub(super) fn probe(device: &mut dyn Device) -> Result<Option<Layout>, String> {
        let mut found: Option<(String, Extent)> = None;
        let mut joliet = None;
        for sector in (DESCRIPTORS..).take(usize::try_from(DESCRIPTORS_LIMIT).unwrap_or_default()) {
            let Some(descriptor) = bytes_if_there(device, sector.saturating_mul(SECTOR as u64), SECTOR)? else { break };
            if field(&descriptor, 1) != Some(*b"CD001") {
                break;
            }
            match descriptor.first().copied() {
                Some(PRIMARY) if found.is_none() => {
                    let label = field::<32>(&descriptor, 40).unwrap_or([0; 32]);
                    let label = String::from_utf8_lossy(&label).trim_end_matches([' ', '\0']).to_owned();
                    found = Some((label, root(&descriptor)?));
                }
                Some(SUPPLEMENTARY) if JOLIET.iter().any(|escape| descriptor.get(88..91) == Some(escape)) => {
                    joliet = Some(root(&descriptor)?);
                }
                Some(TERMINATOR) => break,
                _ => {}
            }
        }
        Ok(found.map(|(label, primary)| Layout { label, primary, joliet }))
    }

    /// Rock Ridge where the first record of the root folder says so, else Joliet, else plain names.
    pub(super) fn new(device: Box<dyn Device>, layout: Layout) -> Result<Self, String> {
        let Layout { label, primary, joliet } = layout;
        let mut iso = Self { device, label, root: primary, names: Names::Plain };
        let root = iso.extent(primary, SECTOR).map_err(|e| format!("broken: the root folder: {e}"))?;
        let first = records(&root).next();
        if let Some(skip) = first.and_then(|record| marked(record.system_use)) {
            iso.names = Names::RockRidge(skip);
        } else if let Some(root) = joliet {
            (iso.root, iso.names) = (root, Names::Joliet);
        }
        Ok(iso)
    }

    /// The first `limit` bytes of an extent.
    fn extent(&mut self, extent: Extent, limit: usize) -> Result<Vec<u8>, String> {
        let length = usize::try_from(extent.size).unwrap_or(usize::MAX).min(limit);
        let offset = u64::from(extent.start).saturating_mul(SECTOR as u64);
        bytes(&mut *self.device, offset, length).map_err(|e| format!("reading {length} bytes of block {}: {e}", extent.start))
    }

    fn name(&mut self, record: &Record<'_>) -> Result<String, String> {
        match self.names {
            Names::Plain => Ok(without_version(&String::from_utf8_lossy(record.name))),
            Names::Joliet => {
                let units: Vec<u16> =
                    record.name.chunks_exact(2).filter_map(|pair| field(pair, 0)).map(u16::from_be_bytes).collect();
                Ok(without_version(&String::from_utf16_lossy(&units)))
            }
            Names::RockRidge(skip) => {
                let long = self.alternate(record.system_use.get(skip..).unwrap_or_default())?;
                Ok(long.unwrap_or_else(|| without_version(&String::from_utf8_lossy(record.name))))
            }
        }
    }

    /// The name in the NM fields (P1282, 4.1.4) of a record and of the areas it continues in.
    fn alternate(&mut self, fields: &[u8]) -> Result<Option<String>, String> {
        let mut name: Option<Vec<u8>> = None;
        let mut area = fields.to_vec();
        for _ in 0..CONTINUATIONS {
            let mut next = None;
            for (signature, data) in Fields(&area) {
                match (&signature, data.split_first()) {
                    // Flags 2 and 4 are the folder itself and the one above.
                    (b"NM", Some((flags, part))) if flags & 0x06 == 0 => name.get_or_insert_default().extend_from_slice(part),
                    (b"CE", _) => next = continuation(data),
                    (b"ST", _) => break,
                    _ => {}
                }
            }
            if name.as_ref().is_some_and(|name| name.len() > NAME_LIMIT) {
                return Err(format!("broken: a name is longer than {NAME_LIMIT} bytes"));
            }
            let Some((block, offset, length)) = next else {
                return Ok(name.map(|name| String::from_utf8_lossy(&name).into_owned()));
            };
            let at = u64::from(block).saturating_mul(SECTOR as u64).saturating_add(u64::from(offset));
            area = bytes(&mut *self.device, at, length).map_err(|e| format!("broken: reading a continued record: {e}"))?;
        }
        Err(format!("broken: a record continues in more than {CONTINUATIONS} areas"))
    }
}

impl Volume for Iso {
    fn label(&self) -> &str {
        &self.label
    }

    fn root(&self) -> Entry {
        Entry { name: String::new(), folder: true, start: self.root.start, size: self.root.size }
    }

    fn entries(&mut self, folder: &Entry) -> Result<Vec<Entry>, String> {
        if usize::try_from(folder.size).is_ok_and(|size| size > FOLDER_LIMIT) {
            return Err(format!("broken: expected a folder of {FOLDER_LIMIT} bytes at most, found {}", folder.size));
        }
        let extent = Extent { start: folder.start, size: folder.size };
        let bytes = self.extent(extent, FOLDER_LIMIT).map_err(|e| format!("broken: a folder: {e}"))?;
        let mut entries = Vec::new();
        // Names 0 and 1 are the folder itself and the one above (6.8.2.2).
        for record in records(&bytes).filter(|record| !matches!(record.name, [0 | 1])) {
            let name = self.name(&record)?;
            if record.flags & FLAG_MULTI_EXTENT != 0 || record.interleaved {
                return Err(format!("broken: `{}` lies in several pieces", name.escape_debug()));
            }
            let folder = record.flags & FLAG_FOLDER != 0;
            entries.push(Entry { name, folder, start: record.extent.start, size: record.extent.size });
        }
        Ok(entries)
    }

    fn content(&mut self, file: &Entry, limit: usize) -> Result<Vec<u8>, String> {
        self.extent(Extent { start: file.start, size: file.size }, limit)
    }
}

/// The root folder of a descriptor, whose blocks have the usual size.
fn root(descriptor: &[u8]) -> Result<Extent, String> {
    match le16(descriptor, 128) {
        Some(size) if usize::from(size) == SECTOR => {}
        other => return Err(format!("broken: expected blocks of {SECTOR} bytes, found {}", other.unwrap_or_default())),
    }
    let start = le32(descriptor, 156 + 2).zip(le32(descriptor, 156 + 10));
    start.map(|(start, size)| Extent { start, size }).ok_or_else(|| "broken: a short volume descriptor".to_owned())
}

/// A directory record (9.1).
struct Record<'a> {
    extent: Extent,
    flags: u8,
    interleaved: bool,
    name: &'a [u8],
    system_use: &'a [u8],
}

/// The records of a folder. None crosses a sector's end; a zero says that the rest of one is empty.
fn records(folder: &[u8]) -> impl Iterator<Item = Record<'_>> {
    folder.chunks(SECTOR).flat_map(|sector| {
        let mut rest = sector;
        std::iter::from_fn(move || {
            let length = usize::from(*rest.first()?);
            let (record, after) = rest.split_at_checked(length).filter(|(record, _)| !record.is_empty())?;
            rest = after;
            self::record(record)
        })
    })
}

fn record(record: &[u8]) -> Option<Record<'_>> {
    let length = usize::from(*record.get(32)?);
    let (name, after) = record.get(33..)?.split_at_checked(length)?;
    // A name of even length is followed by one byte of filling (9.1.12).
    let filling = usize::from(length.is_multiple_of(2));
    Some(Record {
        extent: Extent { start: le32(record, 2)?, size: le32(record, 10)? },
        flags: *record.get(25)?,
        interleaved: *record.get(26)? != 0 || *record.get(27)? != 0,
        name,
        system_use: after.get(filling..).unwrap_or_default(),
    })
}

/// `NAME.EXT;1` without the version, and without the dot of a missing extension.
fn without_version(name: &str) -> String {
    let name = name.split_once(';').map_or(name, |(name, _)| name);
    name.strip_suffix('.').unwrap_or(name).to_owned()
}

/// The bytes to skip, if the system use area of the root's first record says SUSP (5.3).
fn marked(system_use: &[u8]) -> Option<usize> {
    let (signature, data) = Fields(system_use).next()?;
    match (&signature, data) {
        (b"SP", [0xbe, 0xef, skip, ..]) => Some(usize::from(*skip)),
        _ => None,
    }
}

/// Block, offset in it and length of a continuation area, which lies within one block (SUSP, 5.1).
fn continuation(data: &[u8]) -> Option<(u32, u32, usize)> {
    let length = usize::try_from(le32(data, 16)?).ok().filter(|length| *length <= SECTOR)?;
    Some((le32(data, 0)?, le32(data, 8)?, length))
}

/// System use fields (SUSP, section 4): two letters, length, version, data.
struct Fields<'a>(&'a [u8]);

impl<'a> Iterator for Fields<'a> {
    type Item = ([u8; 2], &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let signature = field(self.0, 0)?;
        let (entry, rest) = self.0.split_at_checked(usize::from(*self.0.get(2)?))?;
        self.0 = rest;
        Some((signature, entry.get(4..)?))
    }
}
