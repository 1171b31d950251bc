//! Strict TOML for every document of ingot (TOML 1.1): schema faults are collected, not stopped at
//! the first, and each names file, line, column and, where there is one, the next action.
//!
//! How all faults are found at once: the text becomes a table with spans; a walk deserializes the
//! type from it; what does not fit is remembered, becomes a *hole* (a harmless value of whatever
//! type is asked for), and the walk starts again, until it gets through. Unknown keys are passed
//! over and remembered. So one wrong value never hides another, nor causes a second fault.
//!
//! | file | what it does |
//! |---|---|
//! | `document/entries.rs` | what that deserializer hands out: entries, variants, keys |
//! | `document/walk.rs` | the serde deserializer with places and holes |
//! | `document/refusal.rs` | why a value does not fit, in words |
//! | `document/located.rs` | values that know where they stand |
//! | `document/over.rs` | one document put over another, and what is not said of it |
//! | `document/render.rs` | faults as text with the lines they speak of |

mod entries;
mod located;
mod over;
mod refusal;
mod render;
mod walk;

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::ops::Range;

use serde::de::DeserializeOwned;
use toml::de::{DeTable, DeValue};

pub(crate) use located::SECRET;
pub use located::{Located, Place};
pub use over::Told;
pub use refusal::quoted;
pub use render::Style;

/// More faults than this are not told at once.
pub const MOST_FAULTS: usize = 64;

/// Largest document, in bytes. A profile or definition beyond it is a mistake or an attack.
pub const LARGEST_DOCUMENT: usize = 16 << 20;

/// Most parts of one dotted key (`a.b.c` has three). The parser's own limits, 80 parts in each of 80
/// nested tables, still let a short text overflow a stack of 1 MiB, as tables are dropped
/// recursively; and it takes seconds for a key of a megabyte before it refuses it.
pub const MOST_KEY_PARTS: usize = 16;

/// Something wrong at a place of a document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// Name of the document, as it was given.
    pub file: String,
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// The bytes of the document that are wrong.
    pub span: Range<usize>,
    /// What was found and what was expected; no trailing full stop.
    pub message: String,
    /// The next action, where there is one.
    pub hint: Option<String>,
}

impl Fault {
    /// Adds the next action.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}:{}: {}", self.file, self.line, self.column, self.message)
    }
}

/// One document held by [`Texts`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct DocumentId(usize);

/// The texts faults speak of.
#[derive(Debug, Clone, Default)]
pub struct Texts {
    documents: Vec<Document>,
}

#[derive(Debug, Clone)]
struct Document {
    name: String,
    text: String,
    /// Byte offsets at which lines start.
    lines: Vec<usize>,
    /// A fault of the bytes themselves, found before any parsing.
    broken: Option<(Range<usize>, String)>,
    secrecy: Secrecy,
}

/// How much of a document may be shown.
#[derive(Debug, Clone)]
enum Secrecy {
    /// Everything.
    Public,
    /// It may hold secrets: no line is shown until it is known where they stand.
    Unknown,
    /// Everything but these bytes.
    But(Vec<Range<usize>>),
    /// Nothing, ever: neither lines nor values. These are its texts.
    Sealed(Vec<zeroize::Zeroizing<String>>),
}

/// What came of reading a document.
#[derive(Debug, Clone)]
pub struct Reading<T> {
    /// The value. Where `faults` is not empty, parts of it are holes: [`Place::is_hole`]. `None`
    /// where the text is no TOML at all, or has too many faults.
    pub value: Option<T>,
    /// All faults found, by place.
    pub faults: Vec<Fault>,
    /// Where secrets stand, or may stand: [`Texts::conceal`]. `None` where that cannot be known.
    pub secrets: Option<Vec<Place>>,
}

impl<T> Reading<T> {
    fn failed(faults: Vec<Fault>) -> Self {
        Self { value: None, faults, secrets: None }
    }
}

impl Texts {
    /// Takes a document under the name that faults shall show.
    pub fn add(&mut self, name: impl Into<String>, text: impl Into<String>) -> DocumentId {
        let text = text.into();
        let broken = (text.len() > LARGEST_DOCUMENT)
            .then(|| (0..0, format!("the document has {} bytes, at most {LARGEST_DOCUMENT} are read", text.len())));
        self.push(name.into(), text, broken)
    }

    /// As [`Texts::add`], from bytes: what is not UTF-8 becomes a fault when it is read.
    pub fn add_bytes(&mut self, name: impl Into<String>, bytes: Vec<u8>) -> DocumentId {
        match String::from_utf8(bytes) {
            Ok(text) => self.add(name, text),
            Err(error) => {
                let at = error.utf8_error().valid_up_to();
                let byte = error.as_bytes().get(at).copied().unwrap_or_default();
                let kept = error.as_bytes().get(..LARGEST_DOCUMENT.min(error.as_bytes().len())).unwrap_or_default();
                let text = String::from_utf8_lossy(kept).into_owned();
                let span = at.min(text.len())..(at + '\u{fffd}'.len_utf8()).min(text.len());
                self.push(
                    name.into(),
                    text,
                    Some((span, format!("the byte 0x{byte:02x} is not UTF-8, which TOML is written in"))),
                )
            }
        }
    }

    /// As [`Texts::add_bytes`], for a document that may hold secrets: faults do not repeat its
    /// values, and its lines are only shown after [`Texts::conceal`].
    pub fn add_private(&mut self, name: impl Into<String>, bytes: Vec<u8>) -> DocumentId {
        let document = self.add_bytes(name, bytes);
        if let Some(found) = self.documents.get_mut(document.0) {
            found.secrecy = Secrecy::Unknown;
        }
        document
    }

    /// Lets the lines of the private documents be shown, with what stands at these places blotted out.
    pub fn conceal(&mut self, secrets: &[Place]) {
        for (number, found) in self.documents.iter_mut().enumerate() {
            if matches!(found.secrecy, Secrecy::Unknown) {
                let ours = secrets.iter().filter(|place| place.document == number);
                found.secrecy = Secrecy::But(ours.map(|place| place.range()).collect());
            }
        }
    }

    /// Blots out more, where lines are shown at all.
    pub fn conceal_more(&mut self, secrets: &[Place]) {
        for place in secrets {
            if let Some(Document { secrecy: Secrecy::But(ranges), .. }) = self.documents.get_mut(place.document) {
                ranges.push(place.range());
            }
        }
    }

    fn push(&mut self, name: String, text: String, broken: Option<(Range<usize>, String)>) -> DocumentId {
        let lines = std::iter::once(0).chain(text.match_indices('\n').map(|(at, _)| at + 1)).collect();
        self.documents.push(Document { name, text, lines, broken, secrecy: Secrecy::Public });
        DocumentId(self.documents.len() - 1)
    }

    /// The name a document was added under.
    pub fn name(&self, document: DocumentId) -> &str {
        self.documents.get(document.0).map_or("", |found| &found.name)
    }

    /// Reads a document as a `T`.
    pub fn read<T: DeserializeOwned>(&self, document: DocumentId) -> Reading<T> {
        match self.parsed(document) {
            Ok((root, faults)) => self.walked(walk::Origin { document: document.0, sealed: None }, &root, faults),
            Err(faults) => Reading::failed(faults),
        }
    }

    fn walked<T: DeserializeOwned>(
        &self,
        origin: walk::Origin,
        root: &toml::Spanned<DeValue<'_>>,
        mut faults: Vec<Fault>,
    ) -> Reading<T> {
        // The second value of a key that stands twice is in no table: it might be a secret.
        let known = faults.is_empty();
        let discreet = self.documents.get(origin.document).is_some_and(|document| !matches!(document.secrecy, Secrecy::Public));
        let walk::Outcome { value, found: refused, secrets } = walk::read(origin, discreet, root);
        faults.extend(refused.into_iter().map(|(place, message, hint)| Fault { hint, ..self.placed(place, message) }));
        let order = |fault: &Fault| self.documents.iter().position(|document| document.name == fault.file);
        faults.sort_by_cached_key(|fault| (order(fault), fault.span.start, fault.message.clone()));
        faults.truncate(MOST_FAULTS);
        Reading { value, faults, secrets: known.then_some(secrets) }
    }

    /// The table of a document. A key that stands twice is a fault, but the rest can be read.
    fn parsed(&self, document: DocumentId) -> Result<(toml::Spanned<DeValue<'_>>, Vec<Fault>), Vec<Fault>> {
        let Some(found) = self.documents.get(document.0) else { return Err(Vec::new()) };
        if let Some((span, message)) = &found.broken {
            return Err(vec![self.fault_at(document, span.clone(), message.clone())]);
        }
        if let Some(span) = too_deep(&found.text) {
            let message = format!("the key has more than {MOST_KEY_PARTS} parts");
            return Err(vec![self.fault_at(document, span, message)]);
        }
        let (table, errors) = DeTable::parse_recoverable(&found.text);
        let faults = self.syntax_faults(document, &errors);
        // After a syntax error the rest of the table is a guess, except where a key is only there twice.
        if errors.iter().any(|error| error.message() != DUPLICATE) {
            return Err(faults);
        }
        Ok((toml::Spanned::new(table.span(), DeValue::Table(table.into_inner())), faults))
    }

    fn syntax_faults(&self, document: DocumentId, errors: &[toml::de::Error]) -> Vec<Fault> {
        let text = self.documents.get(document.0).map_or("", |found| found.text.as_str());
        let mut faulty = BTreeSet::new();
        let mut faults = Vec::new();
        for error in errors {
            let span = error.span().unwrap_or(text.len()..text.len());
            let key = text.get(span.clone()).unwrap_or_default();
            let which =
                if self.is_sealed(document.0) { "this key".to_owned() } else { format!("the key {}", refusal::quoted(key)) };
            let fault = match error.message() {
                DUPLICATE => self
                    .fault_at(document, span.clone(), format!("{which} is already there"))
                    .hint("a key may stand only once in its table: remove one of the two"),
                other => self.fault_at(document, span.clone(), format!("this is not TOML: {}", refusal::escaped(other))),
            };
            // One slip makes the parser stumble several times on the same line: the first is the cause.
            if faulty.insert(fault.line) && faults.len() < MOST_FAULTS {
                faults.push(fault);
            }
        }
        faults
    }

    /// A fault at a place; of a sealed document it repeats nothing.
    pub fn fault(&self, place: Place, message: impl Into<Told>) -> Fault {
        self.placed(place, self.told(place, message.into()))
    }

    fn placed(&self, place: Place, message: String) -> Fault {
        self.fault_at(DocumentId(place.document), place.start..place.end, message)
    }

    fn fault_at(&self, document: DocumentId, span: Range<usize>, message: impl Into<String>) -> Fault {
        let (line, column) = self.position(document, span.start);
        Fault { file: self.name(document).to_owned(), line, column, span, message: message.into(), hint: None }
    }

    /// A place as `file:line:column`.
    pub fn show(&self, place: Place) -> String {
        let document = DocumentId(place.document);
        let (line, column) = self.position(document, place.start);
        format!("{}:{line}:{column}", self.name(document))
    }

    fn position(&self, document: DocumentId, offset: usize) -> (usize, usize) {
        let Some(found) = self.documents.get(document.0) else { return (1, 1) };
        let line = found.lines.partition_point(|start| *start <= offset).max(1);
        let start = found.lines.get(line - 1).copied().unwrap_or(0);
        (line, found.text.get(start..offset.max(start)).map_or(0, |before| before.chars().count()) + 1)
    }

    /// All faults as text, each with the line it speaks of.
    pub fn render(&self, faults: &[Fault], style: Style) -> String {
        render::render(self, faults, style)
    }

    /// The line a fault begins on: its text without line end, and the offset at which it starts.
    fn line_of(&self, fault: &Fault) -> Option<(Cow<'_, str>, usize)> {
        let found = self.documents.iter().find(|document| document.name == fault.file)?;
        let start = found.lines.get(fault.line.checked_sub(1)?).copied()?;
        let line = found.text.get(start..)?.split('\n').next()?;
        let line = line.strip_suffix('\r').unwrap_or(line);
        match &found.secrecy {
            Secrecy::Public => Some((line.into(), start)),
            Secrecy::Unknown | Secrecy::Sealed(_) => None,
            Secrecy::But(secrets) => Some((blotted(line, start, secrets), start)),
        }
    }
}

/// A line without its secrets. A blot is as long as what it covers, so that columns stay right.
fn blotted<'t>(line: &'t str, start: usize, secrets: &[Range<usize>]) -> Cow<'t, str> {
    let secret = |at: usize| secrets.iter().any(|range| range.contains(&(start + at)));
    if !(0..line.len()).any(secret) {
        return line.into();
    }
    let blot = |(at, c): (usize, char)| if secret(at) { "*".repeat(c.len_utf8()) } else { c.to_string() };
    line.char_indices().map(blot).collect::<String>().into()
}

/// How the TOML parser says that a key is there twice.
const DUPLICATE: &str = "duplicate key";

/// The first key with more than [`MOST_KEY_PARTS`] parts.
fn too_deep(text: &str) -> Option<Range<usize>> {
    use toml_parser::lexer::TokenKind;
    let mut start = 0;
    let mut dots = 0;
    for token in toml_parser::Source::new(text).lex() {
        match token.kind() {
            TokenKind::Dot => dots += 1,
            TokenKind::Atom | TokenKind::BasicString | TokenKind::LiteralString | TokenKind::Whitespace => {}
            _ => (start, dots) = (token.span().end(), 0),
        }
        if dots >= MOST_KEY_PARTS {
            return Some(start..token.span().end());
        }
    }
    None
}

/// Reads one document strictly.
///
/// # Errors
/// All faults, by place. [`Texts`] is the way to render them with their lines.
pub fn parse<T: DeserializeOwned>(name: &str, text: &str) -> Result<T, Vec<Fault>> {
    let mut texts = Texts::default();
    let document = texts.add(name, text);
    finish(texts.read(document))
}

/// As [`parse`], from bytes that may not be UTF-8.
///
/// # Errors
/// As [`parse`].
pub fn parse_bytes<T: DeserializeOwned>(name: &str, bytes: &[u8]) -> Result<T, Vec<Fault>> {
    let mut texts = Texts::default();
    let document = texts.add_bytes(name, bytes.to_vec());
    finish(texts.read(document))
}

fn finish<T>(reading: Reading<T>) -> Result<T, Vec<Fault>> {
    match reading {
        Reading { value: Some(value), faults, .. } if faults.is_empty() => Ok(value),
        reading => Err(reading.faults),
    }
}

/// Collects the faults of a validation; those of holes are dropped, as they were reported already.
#[derive(Debug)]
pub struct Faults<'a> {
    texts: &'a Texts,
    found: Vec<Fault>,
}

impl<'a> Faults<'a> {
    /// Nothing found yet.
    pub fn new(texts: &'a Texts) -> Self {
        Self { texts, found: Vec::new() }
    }

    /// The texts the places speak of.
    pub fn texts(&self) -> &'a Texts {
        self.texts
    }

    /// A fault without a hint.
    pub fn add(&mut self, place: Place, message: impl Into<Told>) {
        if !place.is_hole() {
            self.found.push(self.texts.fault(place, message));
        }
    }

    /// A fault with the next action.
    pub fn add_with_hint(&mut self, place: Place, message: impl Into<Told>, hint: impl Into<Told>) {
        if !place.is_hole() {
            let fault = self.texts.fault(place, message);
            let hint = self.texts.hinted(place, hint.into());
            self.found.push(Fault { hint, ..fault });
        }
    }

    /// Takes faults found elsewhere.
    pub fn extend(&mut self, faults: impl IntoIterator<Item = Fault>) {
        self.found.extend(faults);
    }

    /// Whether nothing was found.
    pub fn is_empty(&self) -> bool {
        self.found.is_empty()
    }

    /// What was found, in the order of documents and places.
    pub fn into_vec(mut self) -> Vec<Fault> {
        let order = |fault: &Fault| self.texts.documents.iter().position(|document| document.name == fault.file);
        self.found.sort_by_cached_key(|fault| (order(fault), fault.span.start, fault.message.clone()));
        self.found.dedup();
        self.found.truncate(MOST_FAULTS);
        self.found
    }
}

/// The candidate that was probably meant, if one is near enough.
pub fn suggest<'c>(found: &str, candidates: impl IntoIterator<Item = &'c str>) -> Option<&'c str> {
    let plain = |text: &str| text.to_lowercase().replace('-', "_");
    let found = plain(found);
    if found.len() > 200 {
        return None;
    }
    candidates
        .into_iter()
        .map(|candidate| (strsim::damerau_levenshtein(&found, &plain(candidate)), candidate))
        .filter(|(distance, candidate)| {
            *distance <= 1.max(candidate.chars().count() / 3) && *distance < candidate.chars().count()
        })
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests;
