//! One document put over another, as the encrypted part of a profile is put over the rest; and what is said of it: where
//! something is wrong and what was expected, never what is there.

use std::ops::Range;

use serde::de::DeserializeOwned;
use toml::Spanned;
use toml::de::{DeTable, DeValue};
use zeroize::Zeroizing;

use super::walk::{Origin, Sealed, UNSAID};
use super::{DocumentId, Place, Reading, Secrecy, Texts};

/// A text that says what is wrong, or what to do. A constant holds nothing of any document; of another one nobody knows.
#[derive(Debug, Clone)]
pub struct Told {
    text: String,
    /// What is said in its place of a sealed document.
    discreet: Option<String>,
}

impl Told {
    /// A text that repeats a value, and one that does not.
    pub fn with_value(text: String, discreet: impl Into<String>) -> Self {
        Self { text, discreet: Some(discreet.into()) }
    }
}

impl From<&'static str> for Told {
    fn from(text: &'static str) -> Self {
        Self { text: text.to_owned(), discreet: Some(text.to_owned()) }
    }
}

impl From<String> for Told {
    fn from(text: String) -> Self {
        Self { text, discreet: None }
    }
}

/// Shorter texts are found in everything.
const SHORTEST: usize = 4;

impl Texts {
    /// As [`Texts::add_private`], for a document of which nothing is ever shown: [`Texts::read_over`].
    pub fn add_sealed(&mut self, name: impl Into<String>, bytes: Vec<u8>) -> DocumentId {
        let document = self.add_bytes(name, bytes);
        let mut texts = Vec::new();
        if let Ok((root, _)) = self.parsed(document) {
            collect(root.get_ref(), &mut texts);
        }
        if let Some(found) = self.documents.get_mut(document.0) {
            found.secrecy = Secrecy::Sealed(texts);
        }
        document
    }

    /// Reads two documents as one `T`. Tables of both become one; lists of tables are joined, those of `over` last; any
    /// other key stands in one of the two only.
    pub fn read_over<T: DeserializeOwned>(&self, base: DocumentId, over: DocumentId) -> Reading<T> {
        let ((base_root, mut faults), (over_root, more)) = match (self.parsed(base), self.parsed(over)) {
            (Ok(base), Ok(over)) => (base, over),
            (one, other) => {
                let faults = [one, other].into_iter().flat_map(|read| match read {
                    Ok((_, faults)) | Err(faults) => faults,
                });
                return Reading::failed(faults.collect());
            }
        };
        faults.extend(more);
        let after = self.documents.get(base.0).map_or(0, |document| document.text.len()).saturating_add(1);
        let origin = Origin { document: base.0, sealed: Some(Sealed { document: over.0, after }) };
        let (span, mut root) = (base_root.span(), base_root.into_inner());
        let mut clashes = Vec::new();
        if let (DeValue::Table(root), DeValue::Table(over)) = (&mut root, over_root.into_inner()) {
            put(root, over, after, &mut clashes);
        }
        faults.extend(clashes.into_iter().map(|(first, second)| {
            let hint = format!("it stands first at {}; only tables are joined", self.show(origin.place(&first)));
            self.fault(origin.place(&second), "this key is already there, outside of the encrypted part").hint(hint)
        }));
        self.walked(origin, &Spanned::new(span, root), faults)
    }

    /// The text that stands at a place.
    pub(crate) fn at(&self, place: Place) -> Option<&str> {
        self.documents.get(place.document)?.text.get(place.range())
    }

    /// Whether the document at a place is shown at all.
    pub(crate) fn shows(&self, place: Place) -> bool {
        !self.is_sealed(place.document)
    }

    pub(super) fn is_sealed(&self, document: usize) -> bool {
        self.documents.get(document).is_some_and(|document| matches!(document.secrecy, Secrecy::Sealed(_)))
    }

    /// What is said at a place.
    pub(super) fn told(&self, place: Place, message: Told) -> String {
        match message.discreet {
            Some(discreet) if self.is_sealed(place.document) => discreet,
            None if self.is_sealed(place.document) => UNSAID.to_owned(),
            _ if self.repeats_sealed(&message.text) => {
                "this does not go together with the encrypted part: what is there is not said here".to_owned()
            }
            _ => message.text,
        }
    }

    /// The hint at a place, unless it could repeat what is sealed.
    pub(super) fn hinted(&self, place: Place, hint: Told) -> Option<String> {
        let says = hint.discreet.is_some() || !self.is_sealed(place.document);
        (says && !self.repeats_sealed(&hint.text)).then_some(hint.text)
    }

    fn repeats_sealed(&self, text: &str) -> bool {
        self.documents.iter().any(|document| match &document.secrecy {
            Secrecy::Sealed(values) => values.iter().any(|value| text.contains(value.as_str())),
            _ => false,
        })
    }
}

/// All texts of a value, and their parts where `quoted` would cut or `/` end them.
fn collect(value: &DeValue<'_>, texts: &mut Vec<Zeroizing<String>>) {
    match value {
        DeValue::String(text) => {
            let bare = text.split('/').next().unwrap_or_default();
            let shown = super::refusal::quoted(text).trim_matches(['`', '…']).to_owned();
            let forms = [text.to_string(), bare.to_owned(), shown];
            texts.extend(forms.into_iter().filter(|form| form.len() >= SHORTEST).map(Zeroizing::new));
        }
        DeValue::Array(entries) => entries.iter().for_each(|entry| collect(entry.get_ref(), texts)),
        DeValue::Table(table) => table.iter().for_each(|(_, value)| collect(value.get_ref(), texts)),
        DeValue::Integer(_) | DeValue::Float(_) | DeValue::Boolean(_) | DeValue::Datetime(_) => {}
    }
}

/// Two places of the same key.
type Clash = (Range<usize>, Range<usize>);

fn put<'t>(base: &mut DeTable<'t>, over: DeTable<'t>, after: usize, clashes: &mut Vec<Clash>) {
    for (key, value) in over {
        let (key, value) = (moved(&key, after, key.get_ref().clone()), shifted(value, after));
        let first = base.get_key_value(&key).map(|(first, _)| first.span());
        let Some(there) = base.get_mut(&key) else {
            base.insert(key, value);
            continue;
        };
        join(there, value, (first.unwrap_or_default(), key.span()), clashes);
    }
}

fn join<'t>(there: &mut Spanned<DeValue<'t>>, value: Spanned<DeValue<'t>>, keys: Clash, clashes: &mut Vec<Clash>) {
    match (there.get_mut(), value.into_inner()) {
        // Its spans count in the sealed document already.
        (DeValue::Table(there), DeValue::Table(more)) => put(there, more, 0, clashes),
        (DeValue::Array(there), DeValue::Array(more)) if of_tables(there) && of_tables(&more) => {
            more.into_iter().for_each(|entry| there.push(entry));
        }
        _ => clashes.push(keys),
    }
}

fn of_tables(list: &toml::de::DeArray<'_>) -> bool {
    !list.is_empty() && list.iter().all(|entry| matches!(entry.get_ref(), DeValue::Table(_)))
}

fn moved<T, U>(at: &Spanned<T>, after: usize, value: U) -> Spanned<U> {
    let span = at.span();
    Spanned::new(span.start.saturating_add(after)..span.end.saturating_add(after), value)
}

/// A value whose places count from `after` on.
fn shifted(value: Spanned<DeValue<'_>>, after: usize) -> Spanned<DeValue<'_>> {
    if after == 0 {
        return value;
    }
    let span = moved(&value, after, ()).span();
    let inner = match value.into_inner() {
        DeValue::Array(entries) => DeValue::Array(entries.into_iter().map(|entry| shifted(entry, after)).collect()),
        DeValue::Table(table) => {
            let entries = table.into_iter().map(|(key, value)| {
                let key = moved(&key, after, key.get_ref().clone());
                (key, shifted(value, after))
            });
            DeValue::Table(entries.collect())
        }
        other => other,
    };
    Spanned::new(span, inner)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde::Deserialize;

    use super::super::{Located, Style};
    use super::*;

    #[derive(Debug, Deserialize, PartialEq)]
    #[serde(deny_unknown_fields)]
    struct Document {
        name: Located<String>,
        #[serde(default)]
        inner: Inner,
        #[serde(default)]
        list: Vec<Inner>,
        #[serde(default)]
        words: Vec<String>,
        #[serde(default)]
        map: BTreeMap<Located<String>, Located<u8>>,
    }

    #[derive(Debug, Default, Deserialize, PartialEq)]
    #[serde(deny_unknown_fields)]
    struct Inner {
        a: Option<Located<u8>>,
        b: Option<Located<String>>,
    }

    fn read(base: &str, over: &str) -> (Texts, Reading<Document>) {
        let mut texts = Texts::default();
        let base = texts.add_private("outer", base.as_bytes().to_vec());
        let over = texts.add_sealed("inner", over.as_bytes().to_vec());
        let reading = texts.read_over(base, over);
        (texts, reading)
    }

    fn told(base: &str, over: &str) -> String {
        let (texts, reading) = read(base, over);
        texts.render(&reading.faults, Style::Plain)
    }

    #[test]
    fn tables_are_joined_and_places_stay_right() {
        let (texts, reading) = read(
            "name = 'n'\n[inner]\na = 1\n[[list]]\na = 2\n[map]\nx = 1\n",
            "words = ['w']\n[[list]]\na = 3\n[inner]\nb = 'secret'\n[map]\n  y = 2\n",
        );
        assert_eq!(reading.faults, []);
        let value = reading.value.unwrap();
        let show = |place| texts.show(place);
        assert_eq!(value.inner.b.as_ref().map(|b| (b.as_str(), show(b.place()))), Some(("secret", "inner:5:5".to_owned())));
        assert_eq!(value.inner.a.map(|a| show(a.place())), Some("outer:3:5".to_owned()));
        let list: Vec<_> = value.list.iter().flat_map(|entry| &entry.a).map(|a| (**a, show(a.place()))).collect();
        assert_eq!(list, [(2, "outer:5:5".to_owned()), (3, "inner:3:5".to_owned())]);
        assert_eq!(value.words, ["w"]);
        let map: Vec<_> = value.map.iter().map(|(key, value)| (show(key.place()), show(value.place()))).collect();
        assert_eq!(map, [("outer:7:1".to_owned(), "outer:7:5".to_owned()), ("inner:7:3".to_owned(), "inner:7:7".to_owned())]);
    }

    #[test]
    fn a_key_stands_in_one_of_both() {
        let told = told("name = 'n'\nwords = ['a']\n[inner]\na = 1\n", "name = 'hidden'\nwords = ['hidden']\n[inner]\na = 200\n");
        for place in ["inner:1:1", "inner:2:1", "inner:4:1", "outer:1:1", "outer:2:1", "outer:4:1"] {
            assert!(told.contains(place), "{place}: {told}");
        }
        assert!(!told.contains("hidden") && !told.contains("200"), "{told}");
    }

    #[test]
    fn what_is_wrong_inside_is_placed_and_not_shown() {
        for (over, expected) in [
            ("[inner]\na = 'hidden'\n", "expected a whole number from 0 to 255, found a text\n--> inner:2:5"),
            ("[inner]\na = 1234567\n", "found a number\n--> inner:2:5"),
            ("[inner]\nhidden = 1\n", "unknown key\n--> inner:2:1"),
            ("[inner]\nb = 1\nb = 'hidden'\n", "this key is already there\n--> inner:3:1"),
            ("inner = 'hidden'\n", "expected a table, found a text\n--> inner:1:9"),
            ("inner = hidden\n", "this is not TOML"),
            ("[inner]\nb = \"hidden\n", "this is not TOML"),
        ] {
            let told = told("name = 'n'\n", over);
            assert!(told.contains(expected), "{over}: {told}");
            assert!(!told.contains("hidden") && !told.contains("1234567"), "{over}: {told}");
        }
    }

    #[test]
    fn messages_of_rules_repeat_nothing_of_it() {
        let (texts, reading) = read("name = 'n'\n", "[inner]\nb = 'hidden'\n");
        let value = reading.value.unwrap();
        let (outer, inner) = (value.name.place(), value.inner.b.unwrap().place());
        let mut faults = super::super::Faults::new(&texts);
        faults.add(inner, "constant");
        faults.add(inner, format!("{} is wrong", "hidden"));
        faults.add_with_hint(inner, Told::with_value("hidden".to_owned(), "discreet"), format!("take {}", "hidden"));
        faults.add_with_hint(outer, format!("{} clashes", "hidden"), "a hint");
        faults.add_with_hint(outer, "plain".to_owned(), "other than hidden".to_owned());
        let told = texts.render(&faults.into_vec(), Style::Plain);
        assert!(!told.contains("hidden"), "{told}");
        for expected in ["constant", UNSAID, "discreet", "a hint", "plain"] {
            assert!(told.contains(expected), "{expected}: {told}");
        }
    }
}
