//! What an image is, for people and for programs: facts in ([`Report`]), text or JSON out.

pub mod bars;
pub mod opened;
pub mod treemap;

use std::fmt::Write as _;

use serde::Serialize;

use crate::disk::PartitionType;
use crate::error::{Context, Error, Kind, Result};
use crate::image::{Image, ReadAt, Window, fat, gpt};
use bars::{Style, harmless, size, total};

/// Read-only, no-auto and grow: the attribute bits of UAPI.2.
const ATTRIBUTES: [(u32, &str); 3] = [(60, "read-only"), (63, "no-auto"), (59, "grow")];

/// Everything we know about an image.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Report {
    /// What it calls itself: `load-balancer 2026.11.21`; empty where unknown.
    pub title: String,
    /// Single facts, in order: format, size, root hash, kernel command line.
    pub facts: Vec<(String, String)>,
    /// The partitions.
    pub partitions: Vec<PartitionFact>,
    /// The chain of trust from the firmware to the root, link by link.
    pub trust: Vec<Link>,
    /// Files of the EFI system partition.
    pub boot_files: Vec<Sized>,
    /// Sections of the UKI.
    pub sections: Vec<Sized>,
    /// Packages with their installed size.
    pub packages: Vec<Sized>,
    /// Container images that the image brings along, with all their parts.
    pub containers: Vec<Sized>,
    /// Files of the root.
    pub files: Vec<Sized>,
}

/// A partition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PartitionFact {
    /// Number in the table.
    pub number: u32,
    /// Label.
    pub label: String,
    /// `esp`, `root`, `root-verity`, or the type GUID.
    pub kind: String,
    /// Its UUID.
    pub uuid: String,
    /// First byte.
    pub start: u64,
    /// Reserved bytes.
    pub size: u64,
    /// Used bytes, where known.
    pub used: Option<u64>,
    /// Attribute bits in words.
    pub attributes: Vec<String>,
}

/// One link of the chain of trust.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Link {
    /// What trusts: `firmware db`, `UKI`, `command line`.
    pub what: String,
    /// What it vouches for, by name or digest.
    pub vouches_for: String,
    /// Whether it holds; `None` where nobody looked.
    pub holds: Option<bool>,
}

/// Something with a size.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Sized {
    /// Its name or path.
    pub name: String,
    /// Bytes.
    pub size: u64,
}

/// What the image file itself tells: format, partitions, files of the EFI system partition. The
/// caller adds what it knows of root and signatures.
///
/// # Errors
/// When there is no partition table, or the EFI system partition cannot be read.
pub fn look(image: &Image) -> Result<Report> {
    let table = gpt::read(image)?;
    let mut report = Report::default();
    let mut fact = |name: &str, value: String| report.facts.push((name.to_owned(), value));
    fact("format", image.format().extension().to_owned());
    fact("disk size", size(image.size()));
    fact("disk GUID", table.guid.to_string());
    table.faults.iter().for_each(|fault| fact("fault", fault.clone()));
    report.partitions = table.entries.iter().map(partition).collect();
    if let Some(esp) = table.find(PartitionType::Esp.guid()) {
        let window = Window::new(image, esp.start, esp.size)?;
        let files = fat::Fat::open(&window).and_then(|fat| fat.files()).context("looking into the EFI system partition")?;
        report.boot_files = files.into_iter().map(|file| Sized { name: file.path, size: u64::from(file.size) }).collect();
        let used = total(report.boot_files.iter().map(|file| file.size));
        report.partitions.iter_mut().filter(|p| p.number == esp.number).for_each(|p| p.used = Some(used));
    }
    Ok(report)
}

fn partition(entry: &gpt::Entry) -> PartitionFact {
    let known = PartitionType::ALL.into_iter().find(|kind| kind.guid() == entry.kind);
    let kind = match known {
        Some(PartitionType::Esp) => "esp".to_owned(),
        Some(PartitionType::Root) => "root".to_owned(),
        Some(PartitionType::RootVerity) => "root-verity".to_owned(),
        None => entry.kind.to_string(),
    };
    let set = |bit: &u32| entry.attributes >> bit & 1 == 1;
    PartitionFact {
        number: entry.number,
        label: entry.label.clone(),
        kind,
        uuid: entry.uuid.to_string(),
        start: entry.start,
        size: entry.size,
        used: None,
        attributes: ATTRIBUTES.iter().filter(|(bit, _)| set(bit)).map(|(_, word)| (*word).to_owned()).collect(),
    }
}

/// The report as JSON, one object.
///
/// # Errors
/// Never in practice: all fields are plain.
pub fn to_json(report: &Report) -> Result<String> {
    serde_json::to_string_pretty(report).map_err(|e| Error::new(Kind::Failed, format!("writing the report as JSON: {e}")))
}

/// The report as text.
pub fn render(report: &Report, style: Style) -> String {
    let mut text = String::new();
    if !report.title.is_empty() {
        let _ = writeln!(text, "{}", style.paint("1", &harmless(&report.title)));
    }
    for (name, value) in &report.facts {
        let _ = writeln!(text, "{name:<14} {}", harmless(value));
    }
    partitions(&report.partitions, style, &mut text);
    links(&report.trust, style, &mut text);
    list("EFI system partition", &report.boot_files, style, &mut text);
    list("UKI sections", &report.sections, style, &mut text);
    largest(&report.packages, style, &mut text);
    list("Container images", &report.containers, style, &mut text);
    if !report.files.is_empty() {
        heading("Files of the root", style, &mut text);
        text += &treemap::render(report.files.iter().map(|file| (file.name.as_str(), file.size)), style);
    }
    text
}

fn heading(title: &str, style: Style, text: &mut String) {
    let _ = writeln!(text, "\n{}", style.paint("1", title));
}

fn partitions(partitions: &[PartitionFact], style: Style, text: &mut String) {
    if partitions.is_empty() {
        return;
    }
    heading("Partitions", style, text);
    let columns = (style.width / 4).clamp(5, 40);
    for p in partitions {
        let used = p.used.map_or_else(|| "?".to_owned(), size);
        let bar = style.paint("32", &style.bar(p.used.unwrap_or(0), p.size, columns));
        let (kind, whole) = (harmless(&p.kind), size(p.size));
        let _ = writeln!(text, "{:>2} {kind:<12} {bar} {used:>9} of {whole:>9}  {}", p.number, harmless(&p.label));
        let attributes = p.attributes.iter().map(|word| format!(", {word}")).collect::<String>();
        let _ = writeln!(text, "   {}{attributes}, at {}", p.uuid, size(p.start));
    }
}

fn links(links: &[Link], style: Style, text: &mut String) {
    if links.is_empty() {
        return;
    }
    heading("Chain of trust", style, text);
    for link in links {
        let (code, word) = match link.holds {
            Some(true) => ("32", "holds"),
            Some(false) => ("31", "BROKEN"),
            None => ("33", "not checked"),
        };
        let word = style.paint(code, &format!("{word:<11}"));
        let _ = writeln!(text, "{word} {} -> {}", harmless(&link.what), harmless(&link.vouches_for));
    }
}

fn list(title: &str, things: &[Sized], style: Style, text: &mut String) {
    if things.is_empty() {
        return;
    }
    heading(title, style, text);
    for thing in things {
        let _ = writeln!(text, "{:>9}  {}", size(thing.size), harmless(&thing.name));
    }
}

/// The largest packages with bars against the largest one, and how many there are.
fn largest(packages: &[Sized], style: Style, text: &mut String) {
    const SHOWN: usize = 15;
    let whole = total(packages.iter().map(|package| package.size));
    let mut sorted: Vec<&Sized> = packages.iter().collect();
    sorted.sort_by(|a, b| b.size.cmp(&a.size).then(a.name.cmp(&b.name)));
    let Some(first) = sorted.first() else { return };
    heading(&format!("Packages: {}, {}", packages.len(), size(whole)), style, text);
    let columns = (style.width / 4).clamp(5, 40);
    for package in sorted.iter().take(SHOWN) {
        let bar = style.paint("36", &style.bar(package.size, first.size, columns));
        let _ = writeln!(text, "{bar} {:>9}  {}", size(package.size), harmless(&package.name));
    }
    if sorted.len() > SHOWN {
        let rest = total(sorted.iter().skip(SHOWN).map(|package| package.size));
        let _ = writeln!(text, "{} {:>9}  {} smaller", " ".repeat(columns), size(rest), sorted.len() - SHOWN);
    }
}

/// All packages, by name.
pub fn packages(report: &Report, style: Style) -> String {
    let mut text = String::new();
    list("All packages", &report.packages, style, &mut text);
    text
}

#[cfg(test)]
mod tests {
    use super::bars::Look;
    use super::*;

    fn sized(name: &str, size: u64) -> Sized {
        Sized { name: name.to_owned(), size }
    }

    fn sample() -> Report {
        let part = |number, label: &str, kind: &str, start, size, used| PartitionFact {
            number,
            label: label.to_owned(),
            kind: kind.to_owned(),
            uuid: format!("0000000{number}-0000-0000-0000-000000000000"),
            start,
            size,
            used,
            attributes: if number > 1 { vec!["read-only".to_owned()] } else { Vec::new() },
        };
        let link =
            |what: &str, vouches_for: &str, holds| Link { what: what.to_owned(), vouches_for: vouches_for.to_owned(), holds };
        Report {
            title: "load-balancer 2026.11.21".to_owned(),
            facts: vec![("format".to_owned(), "qcow2".to_owned()), ("evil".to_owned(), "a\x1b[2Jb".to_owned())],
            partitions: vec![
                part(1, "esp", "esp", 1 << 20, 256 << 20, Some(17 << 20)),
                part(2, "load-balancer_2026.11.21", "root", 257 << 20, 1 << 30, Some(105 << 20)),
                part(3, "load-balancer_2026.11.21_verity", "root-verity", 1281 << 20, 16 << 20, None),
            ],
            trust: vec![
                link("firmware db", "UKI, signed by CN=dev", Some(true)),
                link("command line", "root hash 48134...", Some(false)),
                link("root", "allowed_signers", None),
            ],
            boot_files: vec![sized("EFI/BOOT/BOOTX64.EFI", 120_000)],
            sections: vec![sized(".linux", 12 << 20), sized(".initrd", 4 << 20)],
            containers: vec![sized("registry.k8s.io/pause:3.10", 318_000)],
            packages: (0..20).map(|n| sized(&format!("package-{n}"), (n + 1) * 1_000_000)).collect(),
            files: vec![
                sized("usr/lib/modules/6.12/kernel/a.ko", 30_000_000),
                sized("usr/lib/modules/6.12/kernel/b.ko", 400_000),
                sized("usr/lib/x86_64-linux-gnu/libc.so", 20_000_000),
                sized("usr/bin/bash", 9_000_000),
                sized("usr/bin/true", 1000),
                sized("etc/passwd", 1000),
            ],
        }
    }

    #[test]
    fn the_report_as_text() {
        insta::assert_snapshot!(render(&sample(), Style::PLAIN));
    }

    #[test]
    fn colours_and_blocks_only_on_a_terminal() {
        let plain = render(&sample(), Style::PLAIN);
        assert!(!plain.contains('\x1b') && !plain.contains('█'));
        let pretty = render(&sample(), Style { look: Look::Terminal, width: 120 });
        assert!(pretty.contains("█") && pretty.contains("\x1b[1m") && !pretty.contains("\x1b[2J"));
        for width in [0, 1, 20, 1000] {
            render(&sample(), Style { look: Look::Terminal, width });
        }
        assert_eq!(render(&Report::default(), Style::PLAIN), "");
    }

    #[test]
    fn json_holds_everything() {
        let json: serde_json::Value = serde_json::from_str(&to_json(&sample()).unwrap()).unwrap();
        assert_eq!(json["partitions"][1]["used"], 105 << 20);
        assert_eq!(json["trust"][1]["holds"], false);
        assert_eq!(json["packages"].as_array().unwrap().len(), 20);
    }
}
