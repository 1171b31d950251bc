//! Finds documents and reads what they name. [`parse`] is pure but for its [`Folder`].

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use profile::document::{DocumentId, Fault, Place, Style, Texts, suggest};

use super::schema::Written;
use super::{Definition, Overrides, merge, rules, validate};
use crate::error::{Error, Kind, Result};

/// The folder in which names of images are looked up, below the working directory.
pub const IMAGES: &str = "images";

/// Longest chain of `extends`.
const DEEPEST: usize = 8;

/// Largest file a definition may bring, in bytes: it is held in memory.
const LARGEST_FILE: u64 = 64 << 20;

/// Where a definition and the files it names come from. Paths are relative, without `..`.
pub trait Folder {
    /// All bytes of a file.
    ///
    /// # Errors
    /// The system's reason; it is shown at the place that names the file.
    fn read(&self, path: &Path) -> io::Result<Vec<u8>>;

    /// The path as messages show it and as it can be opened.
    fn shown(&self, path: &Path) -> PathBuf;
}

/// A folder of the file system.
pub(super) struct Disk {
    /// As messages show it.
    shown: PathBuf,
    /// The same without symbolic links: nothing outside it is read.
    real: PathBuf,
}

impl Disk {
    /// The folder `root`, shown as `shown`.
    pub(super) fn open(root: &Path, shown: &Path) -> io::Result<Self> {
        let root = if root.as_os_str().is_empty() { Path::new(".") } else { root };
        Ok(Self { shown: shown.to_owned(), real: fs::canonicalize(root)? })
    }
}

impl Folder for Disk {
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        let real = fs::canonicalize(self.real.join(path))?;
        if !real.starts_with(&self.real) {
            return Err(io::Error::other("a symbolic link leads out of the folder of the definition"));
        }
        let found = fs::metadata(&real)?;
        if !found.is_file() {
            return Err(io::Error::other("it is not a regular file"));
        }
        if found.len() > LARGEST_FILE {
            return Err(io::Error::other(format!("it has {} bytes, at most {LARGEST_FILE} are read", found.len())));
        }
        fs::read(&real)
    }

    fn shown(&self, path: &Path) -> PathBuf {
        self.shown.join(path)
    }
}

/// The document for what a person wrote: a name (`load-balancer` is `images/load-balancer.toml`) or a path.
///
/// # Errors
/// `Usage` with the names there are, where there is no such image.
pub fn find(image: &str) -> Result<PathBuf> {
    find_in(Path::new(IMAGES), image)
}

/// As [`find`], with names looked up in `folder`.
///
/// # Errors
/// As [`find`].
pub fn find_in(folder: &Path, image: &str) -> Result<PathBuf> {
    if image.contains('/') || image.ends_with(".toml") {
        return match Path::new(image).is_file() {
            true => Ok(PathBuf::from(image)),
            false => Err(Error::new(Kind::Usage, format!("there is no definition {}", profile::document::quoted(image)))
                .hint("give the path of a TOML file, or the name of an image")),
        };
    }
    let path = folder.join(format!("{image}.toml"));
    if rules::NAME.holds(image) && path.is_file() {
        return Ok(path);
    }
    let names = names(folder)?;
    let error =
        Error::new(Kind::Usage, format!("there is no image {} in {}", profile::document::quoted(image), folder.display()));
    Err(match (suggest(image, names.iter().map(String::as_str)), names.is_empty()) {
        (Some(name), _) => error.hint(format!("did you mean `{name}`?")),
        (None, true) => error.hint(format!("{} holds no definitions; run ingot in the folder that has them", folder.display())),
        (None, false) => error.hint(format!("there are: {}", names.into_iter().collect::<Vec<_>>().join(", "))),
    })
}

/// Names of the images in a folder: what says a role; others are bases.
fn names(folder: &Path) -> Result<BTreeSet<String>> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeSet::new()),
        entries => entries.map_err(|error| Error::io("reading the folder", folder, &error))?,
    };
    let mut names = BTreeSet::new();
    for entry in entries {
        let path = entry.map_err(|error| Error::io("reading the folder", folder, &error))?.path();
        let (Some(name), Some("toml")) = (path.file_stem().and_then(|s| s.to_str()), path.extension().and_then(|s| s.to_str()))
        else {
            continue;
        };
        let mut texts = Texts::default();
        // A definition that cannot be read is still one: it is listed, and says its faults when it is built.
        let document = crate::files::read(&path).map(|bytes| texts.add_bytes(name, bytes));
        let written = document.ok().and_then(|document| texts.read::<Written>(document).value);
        if written.is_none_or(|written| written.role.is_some()) {
            names.insert(name.to_owned());
        }
    }
    Ok(names)
}

/// Reads, merges and validates a definition.
///
/// # Errors
/// `Document` with all faults rendered; `Usage` where there is no such file.
pub fn load(path: &Path) -> Result<Definition> {
    load_with(path, &Overrides::default())
}

/// As [`load`], with the command line's words in the place of the definition's.
///
/// # Errors
/// As [`load`]. [`Overrides::check`] finds words that are about nothing.
pub fn load_with(path: &Path, overrides: &Overrides) -> Result<Definition> {
    let root = path.parent().unwrap_or(Path::new(""));
    let (Some(name), Ok(folder)) = (path.file_name(), Disk::open(root, root)) else {
        return Err(Error::new(Kind::Usage, format!("there is no definition {}", path.display())));
    };
    read(Path::new(name), &folder, overrides)
}

/// Merges and validates the definition `name` of a folder.
///
/// # Errors
/// As [`load`].
pub fn parse(name: &Path, folder: &dyn Folder) -> Result<Definition> {
    read(name, folder, &Overrides::default())
}

fn read(name: &Path, folder: &dyn Folder, overrides: &Overrides) -> Result<Definition> {
    let shown = folder.shown(name);
    let bytes = folder.read(name).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => Error::new(Kind::Usage, format!("there is no definition {}", shown.display())),
        _ => Error::io("reading", &shown, &error),
    })?;
    let mut chain = Chain { folder, texts: Texts::default(), documents: BTreeMap::new(), faults: Vec::new() };
    let layers = chain.follow(name.to_owned(), bytes);
    let Chain { texts, documents, faults, .. } = chain;
    let merged = merge::merge(layers, &texts, faults);
    validate::validate(merged, &validate::Surroundings { folder, texts: &texts, documents: &documents, overrides })
        .map_err(|faults| refused(&shown, &texts, &faults))
}

fn refused(path: &Path, texts: &Texts, faults: &[Fault]) -> Error {
    let count = match faults.len() {
        1 => "a fault".to_owned(),
        number => format!("{number} faults"),
    };
    Error::new(Kind::Document, format!("the definition {} has {count}", path.display()))
        .details(texts.render(faults, Style::Plain))
}

/// The documents of one definition while they are read.
struct Chain<'a> {
    folder: &'a dyn Folder,
    texts: Texts,
    documents: BTreeMap<DocumentId, PathBuf>,
    faults: Vec<Fault>,
}

impl Chain<'_> {
    /// The document and all it extends, the base first.
    fn follow(&mut self, name: PathBuf, bytes: Vec<u8>) -> Vec<Written> {
        let mut layers = Vec::new();
        let mut next = Some((name, bytes));
        while let Some((path, bytes)) = next.take() {
            let document = self.texts.add_bytes(self.folder.shown(&path).display().to_string(), bytes);
            self.documents.insert(document, path.clone());
            let reading = self.texts.read::<Written>(document);
            self.faults.extend(reading.faults);
            let Some(written) = reading.value else { break };
            if let Some(extends) = &written.extends {
                next = self.base(&path, extends, extends.place());
            }
            layers.push(written);
        }
        layers.reverse();
        layers
    }

    /// The base that `path` names, where it can be read.
    fn base(&mut self, path: &Path, extends: &str, place: Place) -> Option<(PathBuf, Vec<u8>)> {
        let mut refuse = |message: String, hint: &str| {
            self.faults.extend((!place.is_hole()).then(|| self.texts.fault(place, message).hint(hint)));
            None
        };
        if !rules::BESIDE.holds(extends) {
            return refuse(rules::BESIDE.told(extends), "a definition and its bases lie in one folder, or below it");
        }
        let base = path.parent().unwrap_or(Path::new("")).join(extends);
        if self.documents.values().any(|known| *known == base) {
            let chain: Vec<_> = self.documents.values().map(|path| path.display().to_string()).collect();
            return refuse(
                format!("`extends` goes in a circle: {} -> {}", chain.join(" -> "), base.display()),
                "a base must not extend what is put over it",
            );
        }
        if self.documents.len() >= DEEPEST {
            return refuse(format!("more than {DEEPEST} documents extend one another"), "merge some of them into one");
        }
        match self.folder.read(&base) {
            Ok(bytes) => Some((base, bytes)),
            Err(error) => refuse(
                format!("the base {} cannot be read: {error}", self.folder.shown(&base).display()),
                "the path is relative to the folder of this document",
            ),
        }
    }
}
