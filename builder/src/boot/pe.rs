//! Reading PE32+ files: what the firmware loads (UKI, systemd-boot) and what a UKI is made from.
//!
//! The reader is stricter than the firmware: overlapping or unordered sections, sections outside the
//! file and signatures that are not the end of the file are refused, so that whoever works with a
//! [`Pe`] may rely on them. Offsets are from "PE Format" (Microsoft), sections 2 to 4 and 5.9.

use crate::error::{Error, Kind, Result};

/// Offset of the offset of the PE signature in the MS-DOS header.
const DOS_PE_OFFSET: usize = 0x3c;
/// `PE\0\0`.
const SIGNATURE: &[u8] = b"PE\0\0";
/// Signature and COFF header, before the optional header (3.3).
const COFF_SIZE: usize = 24;
/// PE32+ (3.4).
const MAGIC_PE32_PLUS: u16 = 0x20b;
/// One section header (4).
pub(super) const SECTION_HEADER: usize = 40;
/// Firmware has room for few; the PE format itself stops at 65535.
const MAX_SECTIONS: usize = 96;

/// Where the COFF header's fields are, from the PE signature on.
pub(super) mod coff {
    pub const SECTIONS: usize = 6;
    pub const SYMBOL_TABLE: usize = 12;
    pub const SYMBOL_COUNT: usize = 16;
    pub const OPTIONAL_SIZE: usize = 20;
}

/// Where the optional header's fields are, from its start on (3.4, PE32+).
pub(super) mod optional {
    pub const INITIALIZED_DATA: usize = 8;
    pub const SECTION_ALIGNMENT: usize = 32;
    pub const FILE_ALIGNMENT: usize = 36;
    pub const IMAGE_SIZE: usize = 56;
    pub const HEADERS_SIZE: usize = 60;
    pub const CHECKSUM: usize = 64;
    pub const DLL_CHARACTERISTICS: usize = 70;
    pub const DIRECTORY_COUNT: usize = 108;
    pub const SECURITY_DIRECTORY: usize = 112 + 4 * 8;
    /// `IMAGE_DLLCHARACTERISTICS_NX_COMPAT`.
    pub const NX_COMPAT: u16 = 0x100;
}

/// One section of a PE file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Section {
    /// Name, at most 8 bytes, without the padding.
    pub name: String,
    /// Bytes in memory.
    pub virtual_size: u32,
    /// Address in memory, from the image base on.
    pub virtual_address: u32,
    /// Bytes in the file, a multiple of the file alignment.
    pub raw_size: u32,
    /// Offset in the file.
    pub raw_offset: u32,
    /// `IMAGE_SCN_*` flags.
    pub characteristics: u32,
}

/// A PE32+ file whose offsets have all been checked.
#[derive(Debug, Clone)]
pub struct Pe<'a> {
    bytes: &'a [u8],
    pub(super) coff: usize,
    pub(super) optional: usize,
    pub(super) table: usize,
    sections: Vec<Section>,
    certificates: Option<(usize, usize)>,
}

impl<'a> Pe<'a> {
    /// Checks the headers of `bytes` and keeps where things are.
    ///
    /// # Errors
    /// [`Kind::Document`] with the field, what it holds and what it may hold.
    pub fn parse(bytes: &'a [u8]) -> Result<Self> {
        if bytes.get(..2) != Some(b"MZ") {
            return Err(wrong("it does not begin with `MZ`"));
        }
        let coff = u32_at(bytes, DOS_PE_OFFSET)? as usize;
        if bytes.get(coff..).and_then(|rest| rest.get(..4)) != Some(SIGNATURE) {
            return Err(wrong(format!("there is no PE signature at offset {coff:#x}")));
        }
        let optional = coff + COFF_SIZE;
        match u16_at(bytes, optional)? {
            MAGIC_PE32_PLUS => {}
            other => return Err(wrong(format!("the optional header's magic is {other:#x}, not 0x20b (PE32+, 64 bit)"))),
        }
        let optional_size = usize::from(u16_at(bytes, coff + coff::OPTIONAL_SIZE)?);
        let directories = u32_at(bytes, optional + optional::DIRECTORY_COUNT)?;
        if directories < 5 || optional_size < optional::SECURITY_DIRECTORY + 8 {
            return Err(wrong(format!("it has {directories} data directories, and no place for a signature (the fifth)")));
        }
        let table = optional + optional_size;
        let mut pe = Self { bytes, coff, optional, table, sections: Vec::new(), certificates: None };
        pe.check_alignments()?;
        pe.read_sections()?;
        pe.read_certificates()?;
        Ok(pe)
    }

    fn check_alignments(&self) -> Result<()> {
        for (name, value) in [("section", self.section_alignment()?), ("file", self.file_alignment()?)] {
            if !value.is_power_of_two() || value > 1 << 21 {
                return Err(wrong(format!("the {name} alignment is {value:#x}, not a power of two up to 2 MiB")));
            }
        }
        let headers = self.headers_size()?;
        if headers < self.table || headers > self.bytes.len() {
            let length = self.bytes.len();
            return Err(wrong(format!(
                "the headers' size is {headers:#x}, beyond the file ({length:#x}) or before the section table"
            )));
        }
        Ok(())
    }

    fn read_sections(&mut self) -> Result<()> {
        let count = usize::from(u16_at(self.bytes, self.coff + coff::SECTIONS)?);
        if count == 0 || count > MAX_SECTIONS {
            return Err(wrong(format!("it has {count} sections, not 1 to {MAX_SECTIONS}")));
        }
        let headers = self.headers_size()?;
        if self.table + count * SECTION_HEADER > headers {
            return Err(wrong(format!("its {count} section headers do not fit in the headers' {headers:#x} bytes")));
        }
        let (mut file_end, mut memory_end) = (headers as u64, 0);
        for index in 0..count {
            let section = self.read_section(self.table + index * SECTION_HEADER)?;
            let raw_end = u64::from(section.raw_offset) + u64::from(section.raw_size);
            if section.raw_size > 0 {
                if u64::from(section.raw_offset) < file_end || raw_end > self.bytes.len() as u64 {
                    let (from, length) = (section.raw_offset, self.bytes.len());
                    return Err(wrong(format!(
                        "section `{}` is at {from:#x} to {raw_end:#x}; the place for it is {file_end:#x} to {length:#x}",
                        section.name
                    )));
                }
                file_end = raw_end;
            }
            if u64::from(section.virtual_address) < memory_end {
                return Err(wrong(format!("section `{}` overlaps the one before it in memory", section.name)));
            }
            memory_end = u64::from(section.virtual_address) + u64::from(section.virtual_size);
            self.sections.push(section);
        }
        if memory_end > u64::from(u32::MAX) {
            return Err(wrong(format!("its sections end at {memory_end:#x} in memory, beyond 4 GiB")));
        }
        Ok(())
    }

    fn read_section(&self, at: usize) -> Result<Section> {
        let name = self.bytes.get(at..at + 8).ok_or_else(|| short(at))?;
        let name = name.split(|byte| *byte == 0).next().unwrap_or_default();
        Ok(Section {
            name: String::from_utf8(name.to_vec()).map_err(|_| wrong(format!("the section name at {at:#x} is not text")))?,
            virtual_size: u32_at(self.bytes, at + 8)?,
            virtual_address: u32_at(self.bytes, at + 12)?,
            raw_size: u32_at(self.bytes, at + 16)?,
            raw_offset: u32_at(self.bytes, at + 20)?,
            characteristics: u32_at(self.bytes, at + 36)?,
        })
    }

    fn read_certificates(&mut self) -> Result<()> {
        let directory = self.optional + optional::SECURITY_DIRECTORY;
        let (offset, size) = (u32_at(self.bytes, directory)? as usize, u32_at(self.bytes, directory + 4)? as usize);
        if (offset, size) == (0, 0) {
            return Ok(());
        }
        let length = self.bytes.len();
        if offset % 8 != 0 || offset < self.sections_end()? || offset.checked_add(size) != Some(length) || size == 0 {
            return Err(wrong(format!(
                "its signatures are at {offset:#x} with {size:#x} bytes, not aligned to 8, after the sections and \
                 up to the end of the file ({length:#x})"
            )));
        }
        self.certificates = Some((offset, size));
        Ok(())
    }

    /// The whole file.
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// The sections, in the file's order.
    pub fn sections(&self) -> &[Section] {
        &self.sections
    }

    /// What the first section of this name holds, without the padding.
    pub fn section(&self, name: &str) -> Option<&'a [u8]> {
        self.sections.iter().find(|section| section.name == name).and_then(|section| self.content(section))
    }

    /// What `section`, one of this file's, holds, without the padding.
    pub fn content(&self, section: &Section) -> Option<&'a [u8]> {
        let start = usize::try_from(section.raw_offset).ok()?;
        let length = usize::try_from(section.raw_size.min(section.virtual_size)).ok()?;
        if length == 0 { Some(&[]) } else { self.bytes.get(start..start.checked_add(length)?) }
    }

    /// The attribute certificate table (5.9), where the file is signed.
    pub fn certificates(&self) -> Option<&'a [u8]> {
        let (offset, size) = self.certificates?;
        self.bytes.get(offset..offset + size)
    }

    /// Offset of the first byte after the last section, which is never beyond the file's end.
    pub(super) fn sections_end(&self) -> Result<usize> {
        let last = self.sections.iter().rfind(|section| section.raw_size > 0);
        last.map_or_else(|| self.headers_size(), |section| Ok(section.raw_offset as usize + section.raw_size as usize))
    }

    /// Address of the first byte after the last section in memory.
    pub(super) fn memory_end(&self) -> u32 {
        // Checked in `read_sections`.
        self.sections.last().map_or(0, |section| section.virtual_address.saturating_add(section.virtual_size))
    }

    /// `IMAGE_DLLCHARACTERISTICS_*`.
    pub(super) fn dll_characteristics(&self) -> Result<u16> {
        u16_at(self.bytes, self.optional + optional::DLL_CHARACTERISTICS)
    }

    pub(super) fn headers_size(&self) -> Result<usize> {
        Ok(u32_at(self.bytes, self.optional + optional::HEADERS_SIZE)? as usize)
    }

    pub(super) fn section_alignment(&self) -> Result<u32> {
        u32_at(self.bytes, self.optional + optional::SECTION_ALIGNMENT)
    }

    pub(super) fn file_alignment(&self) -> Result<u32> {
        u32_at(self.bytes, self.optional + optional::FILE_ALIGNMENT)
    }
}

/// The little-endian number at `at`.
pub(super) fn u16_at(bytes: &[u8], at: usize) -> Result<u16> {
    bytes.get(at..).and_then(|rest| rest.first_chunk()).map(|chunk| u16::from_le_bytes(*chunk)).ok_or_else(|| short(at))
}

/// The little-endian number at `at`.
pub(super) fn u32_at(bytes: &[u8], at: usize) -> Result<u32> {
    bytes.get(at..).and_then(|rest| rest.first_chunk()).map(|chunk| u32::from_le_bytes(*chunk)).ok_or_else(|| short(at))
}

/// Writes `value` over what is at `at`.
pub(super) fn put(bytes: &mut [u8], at: usize, value: &[u8]) -> Result<()> {
    let place = bytes.get_mut(at..).and_then(|rest| rest.get_mut(..value.len())).ok_or_else(|| short(at))?;
    place.copy_from_slice(value);
    Ok(())
}

fn short(at: usize) -> Error {
    wrong(format!("it ends before offset {at:#x}, where a header field should be"))
}

fn wrong(message: impl std::fmt::Display) -> Error {
    Error::new(Kind::Document, format!("this is no usable PE file: {message}"))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A small PE32+ file with a `.text` and a `.data` section, room for more headers, and a symbol table.
    pub fn sample() -> Vec<u8> {
        let mut bytes = vec![0; 0x400];
        bytes[..2].copy_from_slice(b"MZ");
        put(&mut bytes, DOS_PE_OFFSET, &0x80_u32.to_le_bytes()).unwrap();
        let (coff, optional) = (0x80, 0x98);
        put(&mut bytes, coff, SIGNATURE).unwrap();
        put(&mut bytes, coff + coff::SECTIONS, &2_u16.to_le_bytes()).unwrap();
        put(&mut bytes, coff + coff::SYMBOL_TABLE, &0x800_u32.to_le_bytes()).unwrap();
        put(&mut bytes, coff + coff::SYMBOL_COUNT, &3_u32.to_le_bytes()).unwrap();
        put(&mut bytes, coff + coff::OPTIONAL_SIZE, &240_u16.to_le_bytes()).unwrap();
        put(&mut bytes, optional, &MAGIC_PE32_PLUS.to_le_bytes()).unwrap();
        for (at, value) in [
            (optional::SECTION_ALIGNMENT, 0x1000_u32),
            (optional::FILE_ALIGNMENT, 0x200),
            (optional::IMAGE_SIZE, 0x3000),
            (optional::HEADERS_SIZE, 0x400),
            (optional::DIRECTORY_COUNT, 16),
        ] {
            put(&mut bytes, optional + at, &value.to_le_bytes()).unwrap();
        }
        put(&mut bytes, optional + optional::DLL_CHARACTERISTICS, &0x160_u16.to_le_bytes()).unwrap();
        let table = optional + 240;
        for (index, (name, raw)) in [(b".text\0\0\0", 0x400_u32), (b".data\0\0\0", 0x600)].into_iter().enumerate() {
            let at = table + index * SECTION_HEADER;
            put(&mut bytes, at, name).unwrap();
            for (field, value) in [(8, 0x123), (12, 0x1000 * (index as u32 + 1)), (16, 0x200), (20, raw), (36, 0x4000_0040)] {
                put(&mut bytes, at + field, &u32::to_le_bytes(value)).unwrap();
            }
            bytes.extend((0..0x200).map(|i| if i < 0x123 { i as u8 } else { 0 }));
        }
        bytes.extend([0xcc; 54]);
        bytes
    }

    #[test]
    fn a_sample_is_read() {
        let bytes = sample();
        let pe = Pe::parse(&bytes).unwrap();
        let names: Vec<_> = pe.sections().iter().map(|section| section.name.as_str()).collect();
        assert_eq!(names, [".text", ".data"]);
        assert_eq!(pe.section(".data").unwrap().len(), 0x123);
        assert_eq!(pe.section(".none"), None);
        assert_eq!((pe.sections_end().unwrap(), pe.memory_end()), (0x800, 0x2123));
        assert!(pe.certificates().is_none());
    }

    #[test]
    fn hostile_headers_are_named() {
        let (coff, optional, table) = (0x80, 0x98, 0x98 + 240);
        let second = table + SECTION_HEADER;
        let cases: &[(usize, &[u8], &str)] = &[
            (0, b"ZM", "does not begin with `MZ`"),
            (DOS_PE_OFFSET, &[0xff; 4], "no PE signature at offset 0xffffffff"),
            (coff, b"NE", "no PE signature at offset 0x80"),
            (optional, &[0x0b, 1], "magic is 0x10b"),
            (coff + coff::OPTIONAL_SIZE, &[100, 0], "no place for a signature"),
            (coff + coff::OPTIONAL_SIZE, &[0xff, 0xff], "before the section table"),
            (optional + optional::DIRECTORY_COUNT, &[4], "4 data directories"),
            (optional + optional::FILE_ALIGNMENT, &[0, 0, 0, 0], "file alignment is 0x0"),
            (optional + optional::SECTION_ALIGNMENT, &[1, 1, 0, 0], "section alignment is 0x101"),
            (optional + optional::HEADERS_SIZE, &[0xff; 4], "headers' size is 0xffffffff"),
            (coff + coff::SECTIONS, &[0, 0], "0 sections"),
            (coff + coff::SECTIONS, &[90, 0], "90 section headers do not fit"),
            (coff + coff::SECTIONS, &[0xff, 0xff], "65535 sections"),
            (table, &[0xff, 0xfe], "is not text"),
            (second + 20, &[0, 4, 0, 0], "section `.data` is at 0x400"),
            (second + 16, &[0xff; 4], "section `.data` is at 0x600"),
            (second + 12, &[0, 0x10, 0, 0], "overlaps the one before it"),
            (second + 8, &[0xff; 4], "beyond 4 GiB"),
            (optional + optional::SECURITY_DIRECTORY, &[0, 8, 0, 0, 8, 0, 0, 0], "signatures are at 0x800"),
            (optional + optional::SECURITY_DIRECTORY, &[0xff; 8], "signatures are at 0xffffffff"),
        ];
        for (at, value, expected) in cases {
            let mut bytes = sample();
            put(&mut bytes, *at, value).unwrap();
            let said = Pe::parse(&bytes).unwrap_err().to_string();
            assert!(said.contains(expected), "{said:?} does not say {expected:?}");
        }
        for length in [0, 1, 2, 0x3e, 0x83, 0x97, 0x99, 0x120, 0x3ff, 0x400, 0x7ff] {
            assert!(Pe::parse(&sample()[..length]).is_err(), "{length} bytes");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(
            changes in proptest::collection::vec((0_usize..0x200, any::<u8>()), 1..12), length in 0_usize..0x900,
        ) {
            let mut bytes = sample();
            for (at, value) in changes {
                bytes[at] = value;
            }
            bytes.truncate(length.max(0x180));
            if let Ok(pe) = Pe::parse(&bytes) {
                for section in pe.sections() {
                    prop_assert!(pe.content(section).is_some());
                }
                prop_assert!(pe.sections_end().unwrap() <= bytes.len());
            }
        }
    }
}
