//! The serde deserializer over a parsed document: it names places, passes over unknown keys, and
//! puts holes where an earlier pass found a value that does not fit.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use serde::de::{self, DeserializeOwned, Deserializer, Unexpected, Visitor};
use toml::Spanned;
use toml::de::DeValue;

use super::entries::{Holes, List, Table, Variant, WithPlace};
use super::located::{LOCATED, SECRET};
use super::refusal::{Refusal, one_of, quoted};
use super::{MOST_FAULTS, Place, suggest};

/// A fault: where, what, and the next action.
pub(super) type Found = (Place, String, Option<String>);

/// What is said of a value of a sealed document where no message without the value was thought of.
pub(super) const UNSAID: &str = "the value does not fit: what it is is not said here, as it stands in the encrypted part";

/// What came of the walk.
pub(super) struct Outcome<T> {
    pub value: Option<T>,
    pub found: Vec<Found>,
    /// Where secrets stand, or what might be one: values of unknown keys, tables and lists that do not fit.
    pub secrets: Vec<Place>,
}

/// Reads `root` as a `T`, passing over it until everything fits or is a hole. `discreet`: no value that might be a
/// secret is repeated in a message; nothing at all is repeated of what stands in the sealed document.
pub(super) fn read<T: DeserializeOwned>(origin: Origin, discreet: bool, root: &Spanned<DeValue<'_>>) -> Outcome<T> {
    let mut walk = Walk {
        origin,
        holes: BTreeSet::new(),
        missing: BTreeMap::new(),
        unknown: RefCell::default(),
        probed: RefCell::default(),
        secrets: RefCell::default(),
    };
    let mut refusals: Vec<(Option<usize>, Refusal)> = Vec::new();
    let value = loop {
        walk.unknown.borrow_mut().clear();
        walk.probed.borrow_mut().clear();
        let refusal = match T::deserialize(Value { walk: &walk, node: Node::There(root) }) {
            Ok(value) => break Some(value),
            Err(refusal) => refusal,
        };
        let progress = match (refusal.missing, refusal.node) {
            (Some(field), Some(node)) => walk.missing.entry(node).or_default().insert(field),
            (None, Some(node)) => walk.holes.insert(node),
            (_, None) => false,
        };
        if progress {
            refusals.push((refusal.node, refusal));
        }
        if !progress || refusals.len() >= MOST_FAULTS {
            break None;
        }
    };
    let unknown = walk.unknown.into_inner();
    let mut secrets: Vec<Range<usize>> = walk.secrets.into_inner().into_iter().map(|(start, end)| start..end).collect();
    secrets.extend(unknown.iter().map(|key| key.value.clone()));
    secrets.extend(refusals.iter().filter(|(_, refusal)| refusal.whole).filter_map(|(_, refusal)| refusal.span.clone()));
    let mut found: Vec<Found> = Vec::new();
    for (node, refusal) in refusals {
        // `nmae = ...` is one slip, not an unknown key and a missing one.
        let slipped = unknown.iter().any(|key| Some(key.table) == node && key.meant.is_some() && key.meant == refusal.missing);
        if !slipped {
            let span = refusal.span.unwrap_or_default();
            let message = match refusal.discreet {
                Some(message) if origin.is_sealed(&span) || (refusal.whole && discreet) => message.into(),
                None if origin.is_sealed(&span) => UNSAID.to_owned(),
                _ => refusal.message,
            };
            found.push((origin.place(&span), message, refusal.hint.map(String::from)));
        }
    }
    found.extend(unknown.into_iter().map(|key| key.told(origin)));
    Outcome { value, found, secrets: secrets.iter().map(|span| origin.place(span)).collect() }
}

/// Which documents the spans of a table are of: from `after` on they count in the sealed one that was put over it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Origin {
    pub document: usize,
    pub sealed: Option<Sealed>,
}

/// A document whose contents no message repeats.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sealed {
    pub document: usize,
    pub after: usize,
}

impl Origin {
    pub fn is_sealed(&self, span: &Range<usize>) -> bool {
        self.sealed.is_some_and(|sealed| span.start >= sealed.after)
    }

    pub fn place(&self, span: &Range<usize>) -> Place {
        match self.sealed {
            Some(Sealed { document, after }) if self.is_sealed(span) => {
                Place { document, start: span.start.saturating_sub(after), end: span.end.saturating_sub(after) }
            }
            _ => Place { document: self.document, start: span.start, end: span.end },
        }
    }
}

/// What one pass over a document knows.
pub(super) struct Walk {
    origin: Origin,
    /// Values that do not fit, by [`address`].
    holes: BTreeSet<usize>,
    /// Fields that are not there, by the address of their table.
    missing: BTreeMap<usize, BTreeSet<&'static str>>,
    unknown: RefCell<Vec<Unknown>>,
    /// Tables whose keys were compared in this pass.
    probed: RefCell<BTreeSet<usize>>,
    /// Where secrets stand. Kept from pass to pass: one that does not fit is a hole in the next.
    secrets: RefCell<BTreeSet<(usize, usize)>>,
}

/// A key that the schema does not have.
struct Unknown {
    key: String,
    span: Range<usize>,
    value: Range<usize>,
    table: usize,
    fields: &'static [&'static str],
    /// The absent field that it probably means.
    meant: Option<&'static str>,
    /// The field it resembles, which is there too.
    there: Option<&'static str>,
}

impl Unknown {
    fn told(self, origin: Origin) -> Found {
        let hint = match self.meant {
            Some(meant) => format!("did you mean `{meant}`?"),
            None if self.there.is_some() => format!("did you mean `{}`? That is there already", self.there.unwrap_or_default()),
            None if self.fields.is_empty() => "this table takes no keys".to_owned(),
            None => format!("expected {}", one_of(self.fields)),
        };
        // A secret may stand where a key should.
        let sealed = origin.is_sealed(&self.span);
        let message = if sealed { "unknown key".to_owned() } else { format!("unknown key {}", quoted(&self.key)) };
        (origin.place(&self.span), message, Some(hint))
    }
}

/// A node by the place in memory where the parsed document holds it. The document does not move
/// during the walk, so this tells nodes apart; nothing depends on the order of the numbers.
pub(super) fn address<T>(node: &T) -> usize {
    std::ptr::from_ref(node).addr()
}

#[derive(Clone, Copy)]
pub(super) enum Node<'a> {
    There(&'a Spanned<DeValue<'a>>),
    /// Stands in for what is missing or does not fit.
    Hole,
}

/// One value to be deserialized.
#[derive(Clone, Copy)]
pub(super) struct Value<'a> {
    pub walk: &'a Walk,
    pub node: Node<'a>,
}

impl<'a> Value<'a> {
    /// The value, unless it is a hole.
    pub fn there(&self) -> Option<&'a Spanned<DeValue<'a>>> {
        match self.node {
            Node::There(node) if !self.walk.holes.contains(&address(node)) => Some(node),
            _ => None,
        }
    }

    pub fn hole(walk: &'a Walk) -> Self {
        Value { walk, node: Node::Hole }
    }
}

macro_rules! simple {
    ($($method:ident: $visit:ident($harmless:expr);)*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refusal> {
            if self.there().is_some() { self.deserialize_any(visitor) } else { visitor.$visit($harmless) }
        }
    )*};
}

impl<'de> Deserializer<'de> for Value<'de> {
    type Error = Refusal;

    /// A hole is a unit here: a type that takes anything must take that too.
    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refusal> {
        let Some(node) = self.there() else { return visitor.visit_unit() };
        match node.get_ref() {
            DeValue::String(text) => visitor.visit_str(text),
            DeValue::Integer(number) => visit_integer(number, visitor),
            DeValue::Float(number) => match number.as_str().replace('_', "").parse::<f64>() {
                Ok(value) => visitor.visit_f64(value),
                Err(_) => Err(Refusal::new(format!("the number {} cannot be read", quoted(number.as_str())), None)),
            },
            DeValue::Boolean(value) => visitor.visit_bool(*value),
            DeValue::Datetime(_) => Err(de::Error::invalid_type(Unexpected::Other("a date or time"), &visitor)),
            DeValue::Array(entries) => visitor.visit_seq(List { walk: self.walk, entries: entries.iter() }),
            DeValue::Table(table) => visitor.visit_map(Table::of(self.walk, table, None)),
        }
        .map_err(|refusal| refusal.at(address(node), &node.span()))
    }

    simple! {
        deserialize_bool: visit_bool(false);
        deserialize_i8: visit_i64(0);
        deserialize_i16: visit_i64(0);
        deserialize_i32: visit_i64(0);
        deserialize_i64: visit_i64(0);
        deserialize_u8: visit_u64(0);
        deserialize_u16: visit_u64(0);
        deserialize_u32: visit_u64(0);
        deserialize_u64: visit_u64(0);
        deserialize_f32: visit_f64(0.0);
        deserialize_f64: visit_f64(0.0);
        deserialize_char: visit_char('-');
        deserialize_str: visit_str("");
        deserialize_string: visit_str("");
        deserialize_bytes: visit_bytes(&[]);
        deserialize_byte_buf: visit_bytes(&[]);
        deserialize_identifier: visit_str("");
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refusal> {
        self.deserialize_tuple(0, visitor)
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refusal> {
        match self.there() {
            Some(_) => self.deserialize_any(visitor),
            None => visitor.visit_map(Holes { walk: self.walk, fields: [].iter(), left: 0 }),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refusal> {
        if self.there().is_some() { visitor.visit_some(self) } else { visitor.visit_none() }
    }

    fn deserialize_unit<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refusal> {
        self.deserialize_any(visitor)
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, Refusal> {
        self.deserialize_any(visitor)
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refusal> {
        visitor.visit_unit()
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, name: &'static str, visitor: V) -> Result<V::Value, Refusal> {
        if name == SECRET {
            self.walk.secrets.borrow_mut().extend(self.there().map(|node| (node.span().start, node.span().end)));
        }
        if name != LOCATED {
            return visitor.visit_newtype_struct(self);
        }
        let place = self.there().map_or(Place::HOLE, |node| place(self.walk, &node.span()));
        visitor.visit_seq(WithPlace { place, step: 0, value: Some(self) })
    }

    fn deserialize_tuple<V: Visitor<'de>>(self, length: usize, visitor: V) -> Result<V::Value, Refusal> {
        if self.there().is_some() {
            return self.deserialize_any(visitor);
        }
        visitor.visit_seq(Holes { walk: self.walk, fields: [].iter(), left: length })
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(self, _: &'static str, length: usize, visitor: V) -> Result<V::Value, Refusal> {
        self.deserialize_tuple(length, visitor)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Refusal> {
        let Some(node) = self.there() else {
            return visitor.visit_map(Holes { walk: self.walk, fields: fields.iter(), left: 0 });
        };
        match node.get_ref() {
            DeValue::Table(table) => {
                let here = address(node);
                if self.walk.probed.borrow_mut().insert(here) {
                    note_unknown(self.walk, here, table, fields);
                }
                let mut entries = Table::of(self.walk, table, Some(fields));
                entries.missing = self.walk.missing.get(&here).into_iter().flatten().copied().collect();
                visitor.visit_map(entries)
            }
            // A list would be taken as the fields in their order: no document means that.
            DeValue::Array(_) => Err(de::Error::invalid_type(Unexpected::Seq, &"a table")),
            _ => return self.deserialize_any(visitor),
        }
        .map_err(|refusal| refusal.at(address(node), &node.span()))
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        names: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Refusal> {
        let Some(node) = self.there() else {
            return visitor
                .visit_enum(Variant { name: names.first().copied().unwrap_or_default(), value: Value::hole(self.walk) });
        };
        match node.get_ref() {
            DeValue::String(name) if names.contains(&name.as_ref()) => {
                visitor.visit_enum(Variant { name, value: Value::hole(self.walk) })
            }
            DeValue::String(name) => Err(Refusal::not_one_of(name, names)),
            DeValue::Table(table) => match (table.iter().next(), table.len()) {
                (Some((name, value)), 1) => {
                    visitor.visit_enum(Variant { name: name.get_ref(), value: Value { node: Node::There(value), ..self } })
                }
                _ => Err(Refusal::of_whole(format!("expected a table with one key, {}", one_of(names)))),
            },
            other => Err(Refusal::of_whole(format!("expected {}, found {}", one_of(names), kind(other)))),
        }
        .map_err(|refusal| refusal.at(address(node), &node.span()))
    }
}

fn kind(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a text",
        DeValue::Integer(_) | DeValue::Float(_) => "a number",
        DeValue::Boolean(_) => "`true` or `false`",
        DeValue::Datetime(_) => "a date or time",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}

fn visit_integer<'de, V: Visitor<'de>>(number: &toml::de::DeInteger<'_>, visitor: V) -> Result<V::Value, Refusal> {
    match i128::from_str_radix(number.as_str(), number.radix()) {
        Ok(value) => match (i64::try_from(value), u64::try_from(value)) {
            (Ok(value), _) => visitor.visit_i64(value),
            (_, Ok(value)) => visitor.visit_u64(value),
            _ => Err(Refusal::new(format!("the number {} does not fit into 64 bits", quoted(number.as_str())), None)),
        },
        Err(_) => Err(Refusal::new(format!("the number {} does not fit into 64 bits", quoted(number.as_str())), None)),
    }
}

pub(super) fn place(walk: &Walk, span: &Range<usize>) -> Place {
    walk.origin.place(span)
}

fn note_unknown(walk: &Walk, table: usize, entries: &toml::de::DeTable<'_>, fields: &'static [&'static str]) {
    for (key, value) in entries.iter().filter(|(key, _)| !fields.contains(&key.get_ref().as_ref())) {
        let absent = fields.iter().copied().filter(|field| !entries.contains_key(*field));
        let meant = suggest(key.get_ref(), absent);
        let there = suggest(key.get_ref(), fields.iter().copied());
        let mut unknown = walk.unknown.borrow_mut();
        if unknown.len() < MOST_FAULTS {
            unknown.push(Unknown {
                key: key.get_ref().to_string(),
                span: key.span(),
                value: value.span(),
                table,
                fields,
                meant,
                there,
            });
        }
    }
}
