//! Which kernel modules the initrd holds, in which order they are loaded, and for which devices:
//! read from what depmod left in the tree (modules.dep(5) and its neighbours).

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::path::Path;

use crate::error::{Context, Error, Kind, Result};
use crate::tree::{Contents, Node, Tree};

/// Where Debian's merged /usr has modules.
const FOLDER: &str = "usr/lib/modules";
/// Largest module taken, unpacked; the largest of Debian's kernels has 9 MB.
const LARGEST: u64 = 64 << 20;
/// Longest chain of dependencies followed; real ones have fewer than ten.
const DEEPEST: usize = 64;
/// How alike a name must be to be suggested, from 0 to 1.
const ALIKE: f64 = 0.8;

/// The modules of one kernel.
#[derive(Debug, Clone, Default)]
pub struct Index {
    release: String,
    /// Module name to its file below the folder of the release, and the names it needs, in depmod's order.
    files: BTreeMap<String, (String, Vec<String>)>,
    aliases: Vec<(String, String)>,
    soft: BTreeMap<String, Soft>,
    builtin: BTreeSet<String>,
}

/// Soft dependencies: what is loaded before and after, where it exists.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Soft {
    before: Vec<String>,
    after: Vec<String>,
}

/// The chosen modules.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Selection {
    /// The list `ingot-init` reads: `always`, `module` and `alias` lines.
    pub list: String,
    /// Name and path in the tree of each module, by name.
    pub files: BTreeMap<String, String>,
}

/// The release of the tree's kernel: the one folder of modules.
///
/// # Errors
/// When there is none, or more than one.
pub fn release(tree: &Tree) -> Result<String> {
    let inside = |path: &Vec<u8>| {
        let name = path.strip_prefix(FOLDER.as_bytes())?.strip_prefix(b"/")?;
        (!name.contains(&b'/')).then(|| String::from_utf8_lossy(name).into_owned())
    };
    let is_folder = |entry: &crate::tree::Entry| entry.node == Node::Folder;
    let start = FOLDER.as_bytes().to_vec();
    let below = tree.entries.range(start..).take_while(|(path, _)| path.starts_with(FOLDER.as_bytes()));
    let found: Vec<String> = below.filter(|(_, entry)| is_folder(entry)).filter_map(|(path, _)| inside(path)).collect();
    match &found[..] {
        [one] => Ok(one.clone()),
        [] => Err(Error::new(Kind::Document, format!("the tree has no kernel modules: no folder in /{FOLDER}"))
            .hint("install a kernel package, for instance linux-image-cloud-amd64")),
        many => {
            Err(Error::new(Kind::Document, format!("the tree has {} kernels, expected one: {}", many.len(), many.join(", ")))
                .hint("install one kernel package only"))
        }
    }
}

impl Index {
    /// Reads what depmod left for the tree's kernel.
    ///
    /// # Errors
    /// When there is not exactly one kernel, depmod did not run, or its files are not understood.
    pub fn read(tree: &Tree, contents: &dyn Contents) -> Result<Self> {
        let release = release(tree)?;
        let text = |name: &str| -> Result<Option<String>> {
            let path = format!("{FOLDER}/{release}/{name}");
            Ok(file(tree, contents, &path)?.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()))
        };
        let dependencies = text("modules.dep")?.ok_or_else(|| {
            Error::new(Kind::Failed, format!("/{FOLDER}/{release} has no modules.dep"))
                .hint("depmod did not run in the tree: install kmod beside the kernel")
        })?;
        let mut index = Self { release: release.clone(), ..Self::default() };
        index.read_dependencies(&dependencies).context(format!("reading modules.dep of kernel {release}"))?;
        index.read_aliases(&text("modules.alias")?.unwrap_or_default());
        index.read_soft(&text("modules.softdep")?.unwrap_or_default());
        index.builtin = text("modules.builtin")?.unwrap_or_default().lines().map(name_of).collect();
        Ok(index)
    }

    /// The kernel's release: `6.12.107+deb13-cloud-amd64`.
    pub fn release(&self) -> &str {
        &self.release
    }

    fn read_dependencies(&mut self, text: &str) -> Result<()> {
        for (line, number) in text.lines().zip(1..) {
            let refuse = |what: &str| Error::new(Kind::Failed, format!("line {number} {what}: `{}`", line.escape_debug()));
            let (path, needs) = line.split_once(':').ok_or_else(|| refuse("has no colon"))?;
            let name = name_of(path);
            if !is_name(&name) || path.split('/').any(|part| part == "..") {
                return Err(refuse("names no module"));
            }
            self.files.insert(name, (path.to_owned(), needs.split_whitespace().map(name_of).collect()));
        }
        Ok(())
    }

    fn read_aliases(&mut self, text: &str) {
        let parse = |line: &str| match line.split(' ').collect::<Vec<_>>()[..] {
            ["alias", pattern, module] => Some((pattern.to_owned(), underscored(module))),
            _ => None,
        };
        self.aliases = text.lines().filter_map(parse).collect();
    }

    fn read_soft(&mut self, text: &str) {
        for line in text.lines() {
            let mut words = line.split_whitespace();
            let (Some("softdep"), Some(module)) = (words.next(), words.next()) else { continue };
            let soft = self.soft.entry(underscored(module)).or_default();
            // Names before the first keyword say nothing, as in kmod.
            let mut into: Option<&mut Vec<String>> = None;
            for word in words {
                match (word, &mut into) {
                    ("pre:", _) => into = Some(&mut soft.before),
                    ("post:", _) => into = Some(&mut soft.after),
                    (name, Some(list)) => list.push(underscored(name)),
                    (_, None) => {}
                }
            }
        }
    }

    /// The named modules with all they need. Names built into the kernel are skipped.
    ///
    /// # Errors
    /// All names there are no modules of, each with the most alike one.
    pub fn select(&self, names: &[String]) -> Result<Selection> {
        let unknown: Vec<String> =
            names.iter().filter(|name| !self.knows(name)).map(|name| self.describe_unknown(name)).collect();
        if !unknown.is_empty() {
            return Err(Error::new(Kind::Document, format!("kernel {} has no module {}", self.release, unknown.join(", nor ")))
                .hint("correct kernel.initrd_modules, or install the kernel package that has it"));
        }
        let mut choice = Choice { index: self, order: Vec::new(), chosen: BTreeSet::new(), by_device: BTreeSet::new() };
        for name in names.iter().map(|name| underscored(name)).filter(|name| self.files.contains_key(name)) {
            choice.want(&name)?;
        }
        Ok(choice.finish())
    }

    /// Whether the kernel has this module, as a file or built in.
    pub fn knows(&self, name: &str) -> bool {
        let name = underscored(name);
        self.files.contains_key(&name) || self.builtin.contains(&name)
    }

    fn describe_unknown(&self, name: &str) -> String {
        let name = underscored(name);
        let measure = |known: &'_ String| (strsim::jaro_winkler(&name, known), known.clone());
        let best = self.files.keys().chain(&self.builtin).map(measure).max_by(|a, b| a.0.total_cmp(&b.0).then(b.1.cmp(&a.1)));
        match best.filter(|(alike, _)| *alike >= ALIKE) {
            Some((_, known)) => format!("`{name}` (did you mean `{known}`?)"),
            None => format!("`{name}`"),
        }
    }

    /// Aliases of a module that a device's modalias can match; others are for modprobe's callers.
    fn device_aliases(&self, name: &str) -> impl Iterator<Item = &(String, String)> {
        let for_devices =
            |pattern: &str| pattern.contains(':') && !pattern.starts_with("devname:") && !pattern.starts_with("of:");
        self.aliases.iter().filter(move |(pattern, module)| module == name && for_devices(pattern))
    }

    fn is_by_device(&self, name: &str) -> bool {
        self.device_aliases(name).next().is_some()
    }

    /// What a soft dependency stands for: a module, or all that have the name as an alias (`crc32c`).
    fn resolve_soft(&self, name: &str) -> Vec<String> {
        if self.files.contains_key(name) {
            return vec![name.to_owned()];
        }
        let same = |pattern: &str| underscored(pattern) == name;
        let found: BTreeSet<&String> =
            self.aliases.iter().filter(|(pattern, _)| same(pattern)).map(|(_, module)| module).collect();
        found.into_iter().filter(|module| self.files.contains_key(*module)).cloned().collect()
    }

    /// Puts `name` after everything it needs into `order`; soft dependencies that a device (the
    /// processor, mostly) asks for are given back, as they are not for every machine.
    fn place(&self, name: &str, depth: usize, placing: &mut Placing) -> Result<()> {
        if depth > DEEPEST {
            return Err(Error::new(Kind::Failed, format!("the dependencies of module `{name}` are deeper than {DEEPEST}")));
        }
        let Some((_, needs)) = self.files.get(name) else {
            if self.builtin.contains(name) {
                return Ok(());
            }
            return Err(Error::new(Kind::Failed, format!("modules.dep needs `{name}`, which kernel {} has not", self.release)));
        };
        if !placing.seen.insert(name.to_owned()) {
            return Ok(());
        }
        let (now, by_device) = self.soft_of(name, |soft| &soft.before);
        placing.by_device.extend(by_device);
        // depmod lists the last to be loaded first.
        for other in now.iter().chain(needs.iter().rev()) {
            self.place(other, depth + 1, placing)?;
        }
        placing.order.push(name.to_owned());
        let (later, by_device) = self.soft_of(name, |soft| &soft.after);
        placing.by_device.extend(by_device);
        later.iter().try_for_each(|other| self.place(other, depth + 1, placing))
    }

    /// Soft dependencies of one side: those loaded with the module, and those that a device asks for.
    fn soft_of(&self, name: &str, side: impl Fn(&Soft) -> &Vec<String>) -> (Vec<String>, Vec<String>) {
        let names = self.soft.get(name).map(side).into_iter().flatten();
        let (by_device, now) = names.flat_map(|soft| self.resolve_soft(soft)).partition(|module| self.is_by_device(module));
        (now, by_device)
    }
}

#[derive(Default)]
struct Placing {
    order: Vec<String>,
    seen: BTreeSet<String>,
    by_device: BTreeSet<String>,
}

/// A selection under way.
struct Choice<'a> {
    index: &'a Index,
    /// Each wanted module with what is loaded before and after it, it included.
    order: Vec<(String, Vec<String>)>,
    chosen: BTreeSet<String>,
    by_device: BTreeSet<String>,
}

impl Choice<'_> {
    fn want(&mut self, name: &str) -> Result<()> {
        if !self.chosen.insert(name.to_owned()) {
            return Ok(());
        }
        if self.index.is_by_device(name) {
            self.by_device.insert(name.to_owned());
        }
        let mut placing = Placing::default();
        self.index.place(name, 0, &mut placing)?;
        // A dependency may have devices too, behind which others appear: hv_vmbus before hv_storvsc.
        let with_devices = placing.order.iter().filter(|module| self.index.is_by_device(module)).cloned();
        placing.by_device.extend(with_devices);
        self.order.push((name.to_owned(), placing.order));
        placing.by_device.iter().try_for_each(|module| self.want(module))
    }

    fn finish(self) -> Selection {
        let (mut always, mut modules, mut aliases) = (Vec::new(), String::new(), String::new());
        for (name, order) in &self.order {
            if self.by_device.contains(name) {
                let others: Vec<&str> = order.iter().filter(|other| *other != name).map(String::as_str).collect();
                modules.push_str(&[&["module", name][..], &others].concat().join(" "));
                modules.push('\n');
                let lines = self.index.device_aliases(name).filter(|(pattern, _)| !pattern.contains(char::is_whitespace));
                aliases.extend(lines.map(|(pattern, name)| format!("alias {pattern} {name}\n")));
            } else {
                always.extend(order);
            }
        }
        let mut written = BTreeSet::new();
        let always: String =
            always.into_iter().filter(|name| written.insert(*name)).map(|name| format!("always {name}\n")).collect();
        let path = |name: &String| self.index.files.get(name).map(|(path, _)| format!("{FOLDER}/{}/{path}", self.index.release));
        let files = self.order.iter().flat_map(|(_, order)| order).filter_map(|name| Some((name.clone(), path(name)?))).collect();
        Selection { list: always + &modules + &aliases, files }
    }
}

/// The bytes of a module's file, unpacked. The signature inside stays, so lockdown accepts them.
///
/// # Errors
/// When it is missing, damaged, larger than 64 MiB, or no ELF file.
pub fn load(tree: &Tree, contents: &dyn Contents, path: &str) -> Result<Vec<u8>> {
    let packed = file(tree, contents, path)?.ok_or_else(|| {
        Error::new(Kind::Failed, format!("modules.dep names /{path}, which the tree has not"))
            .hint("run depmod after removing modules")
    })?;
    let mut bytes = Vec::new();
    let packed = &packed[..];
    let reader: Box<dyn Read + '_> = match Path::new(path).extension().and_then(|e| e.to_str()) {
        Some("xz") => {
            let stream = liblzma::stream::Stream::new_stream_decoder(LARGEST * 2, 0);
            let stream = stream.map_err(|e| Error::new(Kind::Failed, format!("unpacking /{path}: {e}")))?;
            Box::new(liblzma::read::XzDecoder::new_stream(packed, stream))
        }
        Some("zst") => {
            Box::new(zstd::stream::read::Decoder::new(packed).map_err(|e| Error::io("unpacking", Path::new(path), &e))?)
        }
        Some("gz") => Box::new(flate2::read::GzDecoder::new(packed)),
        _ => Box::new(packed),
    };
    reader.take(LARGEST + 1).read_to_end(&mut bytes).map_err(|e| Error::io("unpacking", Path::new(path), &e))?;
    match &bytes[..] {
        _ if bytes.len() as u64 > LARGEST => {
            Err(Error::new(Kind::Failed, format!("the module /{path} is larger than {LARGEST} bytes")))
        }
        [0x7f, b'E', b'L', b'F', ..] => Ok(bytes),
        _ => Err(Error::new(Kind::Failed, format!("the module /{path} is no ELF file"))),
    }
}

/// The bytes of a regular file of the tree; `None` where there is none.
fn file(tree: &Tree, contents: &dyn Contents, path: &str) -> Result<Option<std::sync::Arc<[u8]>>> {
    match tree.entries.get(path.as_bytes()).map(|entry| &entry.node) {
        Some(Node::File { content, .. }) => contents.read(content).context(format!("reading /{path}")).map(Some),
        _ => Ok(None),
    }
}

/// `kernel/fs/a-b.ko.xz` is the module `a_b`.
fn name_of(path: &str) -> String {
    let file = path.rsplit('/').next().unwrap_or(path);
    underscored(file.split_once(".ko").map_or(file, |(name, _)| name))
}

/// The kernel's own form of a name: `-` is `_`.
fn underscored(name: &str) -> String {
    name.replace('-', "_")
}

fn is_name(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'_')
}

#[cfg(test)]
#[path = "modules_tests.rs"]
pub mod tests;
