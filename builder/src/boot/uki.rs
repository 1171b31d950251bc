//! A unified kernel image: kernel, initrd and command line as sections of systemd's stub (UAPI.5).

use super::pe::{self, Pe, SECTION_HEADER, coff, optional};
use crate::error::{Context, Error, Kind, Result};

/// `IMAGE_SCN_CNT_CODE | IMAGE_SCN_MEM_READ`.
const CODE: u32 = 0x4000_0020;
/// `IMAGE_SCN_CNT_INITIALIZED_DATA | IMAGE_SCN_MEM_READ`.
const DATA: u32 = 0x4000_0040;
/// The first line of every SBAT text: the version of the format itself.
const SBAT_HEADER: &str = "sbat,1,SBAT Version,sbat,1,https://github.com/rhboot/shim/blob/main/SBAT.md\n";

/// One section to be put into the stub.
#[derive(Debug, Clone, Copy)]
pub struct Section<'a> {
    /// `.linux`, `.osrel`, `.cmdline`, `.initrd`, `.uname` ...: 1 to 8 bytes.
    pub name: &'a str,
    /// What it holds. `.sbat` holds further lines, put after those of the stub and of the kernel.
    pub data: &'a [u8],
}

/// Puts `sections` into `stub` (`linuxx64.efi.stub`), in the order given, and gives the unsigned UKI.
/// `.sbat` is merged with the stub's and the kernel's, as revocation must reach any of the three.
/// The same input gives the same bytes.
///
/// # Errors
/// [`Kind::Document`] when the stub is no usable PE file, has no room for more section headers, or a
/// section is named twice or does not fit.
pub fn uki(stub: &[u8], sections: &[Section<'_>]) -> Result<Vec<u8>> {
    let kernel = sections.iter().find(|section| section.name == ".linux");
    let kernel = kernel.ok_or_else(|| Error::new(Kind::Document, "the UKI has no `.linux` section, so there is no kernel"))?;
    check_names(sections)?;
    let stub = Pe::parse(stub).context("reading the UKI stub")?;
    // Not every kernel is a PE file for sure (tests, other architectures); what it cannot say it does not say.
    let kernel = Pe::parse(kernel.data).ok();
    let mut image = Image::new(&stub)?;
    let extra = sections.iter().find(|section| section.name == ".sbat").map(|section| section.data);
    if let Some(text) = merge_sbat(&[stub.section(".sbat"), kernel.as_ref().and_then(|kernel| kernel.section(".sbat")), extra])? {
        image.put(".sbat", text.as_bytes())?;
    }
    for section in sections.iter().filter(|section| section.name != ".sbat") {
        image.put(section.name, section.data)?;
    }
    let executable_only = stub.dll_characteristics()?;
    if let Some(kernel) = kernel
        && kernel.dll_characteristics()? & optional::NX_COMPAT == 0
    {
        // A kernel that writes to its code must not run under a header that forbids it.
        let flags = executable_only & !optional::NX_COMPAT;
        pe::put(&mut image.bytes, stub.optional + optional::DLL_CHARACTERISTICS, &flags.to_le_bytes())?;
    }
    image.finish()
}

fn check_names(sections: &[Section<'_>]) -> Result<()> {
    for (index, section) in sections.iter().enumerate() {
        let name = section.name;
        if name.is_empty() || name.len() > 8 || !name.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(Error::new(Kind::Document, format!("`{name}` is no section name: 1 to 8 printable ASCII characters")));
        }
        if sections.iter().take(index).any(|other| other.name == name) {
            return Err(Error::new(Kind::Document, format!("the UKI section `{name}` is given twice")));
        }
    }
    Ok(())
}

/// The lines of all `parts` under one header; `None` where no part has any.
fn merge_sbat(parts: &[Option<&[u8]>]) -> Result<Option<String>> {
    let mut lines = String::new();
    for part in parts.iter().flatten() {
        let text =
            std::str::from_utf8(part).map_err(|e| Error::new(Kind::Document, format!("a `.sbat` section is no text: {e}")))?;
        for line in text.trim_end_matches('\0').lines().filter(|line| !line.is_empty() && !line.starts_with("sbat,")) {
            lines.push_str(line);
            lines.push('\n');
        }
    }
    Ok((!lines.is_empty()).then(|| format!("{SBAT_HEADER}{lines}\0")))
}

/// The file that grows section by section.
struct Image<'a> {
    stub: &'a Pe<'a>,
    bytes: Vec<u8>,
    count: u16,
    /// Address of the first free byte in memory.
    memory: u32,
    initialized: u32,
}

impl<'a> Image<'a> {
    /// The stub without symbol table and signature: both are after the last section, where the
    /// new ones go, and a gap there would be covered by no signature.
    fn new(stub: &'a Pe<'a>) -> Result<Self> {
        let mut bytes = stub.bytes().get(..stub.sections_end()?).unwrap_or_default().to_vec();
        pe::put(&mut bytes, stub.coff + coff::SYMBOL_TABLE, &[0; 4])?;
        pe::put(&mut bytes, stub.coff + coff::SYMBOL_COUNT, &[0; 4])?;
        pe::put(&mut bytes, stub.optional + optional::CHECKSUM, &[0; 4])?;
        pe::put(&mut bytes, stub.optional + optional::SECURITY_DIRECTORY, &[0; 8])?;
        let count = pe::u16_at(&bytes, stub.coff + coff::SECTIONS)?;
        let initialized = pe::u32_at(&bytes, stub.optional + optional::INITIALIZED_DATA)?;
        Ok(Self { stub, bytes, count, memory: stub.memory_end(), initialized })
    }

    fn put(&mut self, name: &str, data: &[u8]) -> Result<()> {
        match self.stub.sections().iter().enumerate().find(|(_, section)| section.name == name) {
            Some((index, section)) => self.replace(index, section, data),
            None => self.append(name, data),
        }
    }

    /// Puts `data` in place of what the stub's `section`, its `index`th, holds.
    fn replace(&mut self, index: usize, section: &pe::Section, data: &[u8]) -> Result<()> {
        let (start, room) = (section.raw_offset as usize, section.raw_size as usize);
        let Some(place) = self.bytes.get_mut(start..start + room).filter(|_| data.len() <= room) else {
            let found = data.len();
            return Err(Error::new(
                Kind::Document,
                format!("the stub's section `{}` has room for {room} bytes, not for {found}", section.name),
            ));
        };
        place.fill(0);
        pe::put(place, 0, data)?;
        // The room is what the file holds, at most a page more in memory than before; the next section's place shows it.
        let next = self.stub.sections().get(index + 1).map_or(u32::MAX, |next| next.virtual_address);
        let size = u32::try_from(data.len()).map_err(|_| too_big(&section.name, data))?;
        if section.virtual_address.checked_add(size).is_none_or(|end| end > next) {
            return Err(too_big(&section.name, data));
        }
        pe::put(&mut self.bytes, self.stub.table + index * SECTION_HEADER + 8, &size.to_le_bytes())
    }

    fn append(&mut self, name: &str, data: &[u8]) -> Result<()> {
        let header = self.stub.table + usize::from(self.count) * SECTION_HEADER;
        let headers = self.stub.headers_size()?;
        if header + SECTION_HEADER > headers {
            let room = (headers - self.stub.table) / SECTION_HEADER;
            return Err(Error::new(
                Kind::Document,
                format!("the UKI stub has headers for {room} sections; `{name}` is one more"),
            )
            .hint("use the linuxx64.efi.stub of systemd 253 or later, or fewer sections"));
        }
        let size = u32::try_from(data.len()).map_err(|_| too_big(name, data))?;
        let alignment = self.stub.file_alignment()?;
        let address = self.memory.checked_next_multiple_of(self.stub.section_alignment()?).ok_or_else(|| too_big(name, data))?;
        let raw_size = size.checked_next_multiple_of(alignment).ok_or_else(|| too_big(name, data))?;
        let offset = u32::try_from(self.bytes.len().next_multiple_of(alignment as usize)).map_err(|_| too_big(name, data))?;
        let end = offset.checked_add(raw_size).ok_or_else(|| too_big(name, data))?;

        self.bytes.reserve_exact(end as usize - self.bytes.len());
        self.bytes.resize(offset as usize, 0);
        self.bytes.extend_from_slice(data);
        self.bytes.resize(end as usize, 0);
        let mut entry = [0; SECTION_HEADER];
        pe::put(&mut entry, 0, name.as_bytes())?;
        let flags = if name == ".linux" { CODE } else { DATA };
        for (at, value) in [(8, size), (12, address), (16, raw_size), (20, offset), (36, flags)] {
            pe::put(&mut entry, at, &value.to_le_bytes())?;
        }
        pe::put(&mut self.bytes, header, &entry)?;
        self.count = self.count.checked_add(1).ok_or_else(|| too_big(name, data))?;
        self.memory = address.checked_add(size).ok_or_else(|| too_big(name, data))?;
        self.initialized = self.initialized.wrapping_add(size);
        Ok(())
    }

    fn finish(mut self) -> Result<Vec<u8>> {
        let (coff, optional) = (self.stub.coff, self.stub.optional);
        let size = self.memory.checked_next_multiple_of(self.stub.section_alignment()?);
        let size = size.ok_or_else(|| Error::new(Kind::Document, "the UKI is beyond 4 GiB in memory"))?;
        pe::put(&mut self.bytes, coff + coff::SECTIONS, &self.count.to_le_bytes())?;
        pe::put(&mut self.bytes, optional + optional::IMAGE_SIZE, &size.to_le_bytes())?;
        pe::put(&mut self.bytes, optional + optional::INITIALIZED_DATA, &self.initialized.to_le_bytes())?;
        Pe::parse(&self.bytes).context("reading the finished UKI again")?;
        Ok(self.bytes)
    }
}

fn too_big(name: &str, data: &[u8]) -> Error {
    Error::new(Kind::Document, format!("the UKI section `{name}` of {} bytes does not fit below 4 GiB", data.len()))
}

#[cfg(test)]
mod tests {
    use super::super::oracle::{Trixie, efi};
    use super::super::pe::tests::sample;
    use super::*;
    use proptest::prelude::*;

    fn section<'a>(name: &'a str, data: &'a [u8]) -> Section<'a> {
        Section { name, data }
    }

    #[test]
    fn sections_follow_the_stub_and_nothing_is_between() {
        let stub = sample();
        let kernel = vec![7; 1000];
        let file = uki(&stub, &[section(".cmdline", b"quiet"), section(".linux", &kernel)]).unwrap();
        let pe = Pe::parse(&file).unwrap();
        let shown: Vec<_> = pe
            .sections()
            .iter()
            .map(|s| {
                format!(
                    "{} {:#x}+{:#x} {:#x}+{:#x} {:#x}",
                    s.name, s.raw_offset, s.raw_size, s.virtual_address, s.virtual_size, s.characteristics
                )
            })
            .collect();
        insta::assert_snapshot!(shown.join("\n"), @r"
        .text 0x400+0x200 0x1000+0x123 0x40000040
        .data 0x600+0x200 0x2000+0x123 0x40000040
        .cmdline 0x800+0x200 0x3000+0x5 0x40000040
        .linux 0xa00+0x400 0x4000+0x3e8 0x40000020
        ");
        assert_eq!(file.len(), 0xe00);
        assert_eq!(pe.section(".linux"), Some(kernel.as_slice()));
        assert_eq!(pe::u32_at(&file, pe.optional + optional::IMAGE_SIZE).unwrap(), 0x5000);
        assert_eq!(file[pe.coff + coff::SYMBOL_TABLE..][..8], [0; 8]);
        assert_eq!(file, uki(&stub, &[section(".cmdline", b"quiet"), section(".linux", &kernel)]).unwrap());
    }

    #[test]
    fn what_cannot_be_a_uki_is_refused_in_words() {
        let many: Vec<String> = (0..40).map(|i| format!(".s{i}")).collect();
        let mut full: Vec<_> = many.iter().map(|name| section(name, b"x")).collect();
        full.push(section(".linux", b"k"));
        let cases: &[(&[Section<'_>], &str)] = &[
            (&[section(".osrel", b"x")], "no `.linux` section"),
            (&[section(".linux", b"k"), section(".linux", b"k")], "`.linux` is given twice"),
            (&[section(".linux", b"k"), section(".much-too-long", b"k")], "no section name"),
            (&[section(".linux", b"k"), section("", b"k")], "no section name"),
            (&[section(".linux", b"k"), section(".sbat", b"\xff")], "is no text"),
            (&[section(".linux", b"k"), section(".data", &[1; 0x201])], "has room for 512 bytes, not for 513"),
            (&full, "has headers for 15 sections"),
        ];
        for (sections, expected) in cases {
            let said = uki(&sample(), sections).unwrap_err().to_string();
            assert!(said.contains(expected), "{said:?} does not say {expected:?}");
        }
        assert!(uki(b"MZ", &[section(".linux", b"k")]).unwrap_err().to_string().starts_with("reading the UKI stub: "));
    }

    #[test]
    fn sbat_lines_of_all_parts_stand_under_one_header() {
        let extra = format!("{SBAT_HEADER}ingot,1,Ingot,ingot,1,https://example.org\n");
        let file = uki(&efi("linuxx64.efi.stub"), &[section(".linux", b"k"), section(".sbat", extra.as_bytes())]).unwrap();
        let pe = Pe::parse(&file).unwrap();
        let text = String::from_utf8(pe.section(".sbat").unwrap().to_vec()).unwrap();
        assert_eq!(text.matches("sbat,1").count(), 2, "{text}"); // twice in one line
        assert!(text.starts_with(SBAT_HEADER) && text.contains("\nsystemd-stub") && text.ends_with("example.org\n\0"), "{text}");
        assert_eq!(pe.sections().iter().filter(|s| s.name == ".sbat").count(), 1);
    }

    #[test]
    fn a_kernel_that_writes_to_its_code_takes_the_flag_away() {
        let flags = |kernel: &[u8]| {
            Pe::parse(&uki(&sample(), &[section(".linux", kernel)]).unwrap()).unwrap().dll_characteristics().unwrap()
        };
        let mut old = sample();
        assert_eq!(flags(&old), 0x160);
        pe::put(&mut old, 0x98 + optional::DLL_CHARACTERISTICS, &[0x60, 0]).unwrap();
        assert_eq!(flags(&old), 0x60);
    }

    /// Same stub, same sections, same order: `ukify` writes the same bytes.
    #[test]
    fn ukify_writes_and_reads_the_same() {
        let trixie = Trixie::new();
        let stub = efi("linuxx64.efi.stub");
        let initrd: Vec<u8> = (0..1_000_003_u32).map(|i| (i >> 5) as u8).collect();
        let kernel = sample();
        let (osrel, cmdline) = (b"ID=ingot\nVERSION_ID=1\n", b"roothash=0123 quiet");
        let ours = uki(
            &stub,
            &[
                section(".osrel", osrel),
                section(".cmdline", cmdline),
                section(".uname", b"6.12.1"),
                section(".linux", &kernel),
                section(".initrd", &initrd),
            ],
        )
        .unwrap();
        let (linux, initrd, osrel) = (trixie.put("linux", &kernel), trixie.put("initrd", &initrd), trixie.put("osrel", osrel));
        let output = trixie.inside("theirs.efi");
        trixie
            .run(&[
                "ukify",
                "build",
                "--stub=/usr/lib/systemd/boot/efi/linuxx64.efi.stub",
                &format!("--linux={linux}"),
                &format!("--initrd={initrd}"),
                &format!("--os-release=@{osrel}"),
                "--cmdline=roothash=0123 quiet",
                "--uname=6.12.1",
                "--sbat=sbat,1,SBAT Version,sbat,1,https://github.com/rhboot/shim/blob/main/SBAT.md\n",
                &format!("--output={output}"),
            ])
            .unwrap();
        let theirs = std::fs::read(trixie.outside("theirs.efi")).unwrap();
        let differing: Vec<_> = (0..ours.len().max(theirs.len())).filter(|i| ours.get(*i) != theirs.get(*i)).take(20).collect();
        assert_eq!(differing, [0; 0], "of {} and {} bytes", ours.len(), theirs.len());

        let path = trixie.put("ours.efi", &ours);
        let shown = trixie.run(&["ukify", "inspect", &path, "--json=short", "--all"]).unwrap();
        let shown: serde_json::Value = serde_json::from_str(shown.lines().next().unwrap()).unwrap();
        for section in Pe::parse(&ours).unwrap().sections() {
            use sha2::Digest;
            let content = Pe::parse(&ours).unwrap().section(&section.name).unwrap().to_vec();
            let digest: String = sha2::Sha256::digest(&content).iter().map(|byte| format!("{byte:02x}")).collect();
            assert_eq!(shown[&section.name]["sha256"], digest, "{} in {shown}", section.name);
            assert_eq!(shown[&section.name]["size"], content.len());
        }
    }

    proptest! {
        #[test]
        fn what_goes_in_comes_out(linux in proptest::collection::vec(any::<u8>(), 0..3000), more in proptest::collection::vec(any::<u8>(), 0..3000)) {
            let file = uki(&sample(), &[section(".initrd", &more), section(".linux", &linux)]).unwrap();
            let pe = Pe::parse(&file).unwrap();
            prop_assert_eq!(pe.section(".linux"), Some(linux.as_slice()));
            prop_assert_eq!(pe.section(".initrd"), Some(more.as_slice()));
        }
    }
}
