//! What the walk hands to serde: entries of tables and lists, variants, keys, values with places.

use std::ops::Range;

use serde::de::value::{StrDeserializer, U64Deserializer};
use serde::de::{DeserializeSeed, Deserializer, EnumAccess, IntoDeserializer, MapAccess, SeqAccess, VariantAccess, Visitor};
use toml::Spanned;
use toml::de::DeValue;

use super::Place;
use super::located::LOCATED;
use super::refusal::Refusal;
use super::walk::{Node, Value, Walk, address, place};

type Entries<'a> = <&'a toml::de::DeTable<'a> as IntoIterator>::IntoIter;

/// The entries of a table; with `fields`, only those.
pub(super) struct Table<'a> {
    pub walk: &'a Walk,
    entries: Entries<'a>,
    fields: Option<&'static [&'static str]>,
    pub missing: Vec<&'static str>,
    value: Option<Value<'a>>,
}

impl<'a> Table<'a> {
    pub fn of(walk: &'a Walk, table: &'a toml::de::DeTable<'a>, fields: Option<&'static [&'static str]>) -> Self {
        Table { walk, entries: table.iter(), fields, missing: Vec::new(), value: None }
    }
}

impl<'de> MapAccess<'de> for Table<'de> {
    type Error = Refusal;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Refusal> {
        for (key, value) in self.entries.by_ref() {
            if self.fields.is_none_or(|fields| fields.contains(&key.get_ref().as_ref())) {
                self.value = Some(Value { walk: self.walk, node: Node::There(value) });
                let key_value = Key { walk: self.walk, text: key.get_ref(), span: key.span() };
                return seed.deserialize(key_value).map(Some).map_err(|refusal| refusal.at(address(key), &key.span()));
            }
        }
        let Some(field) = self.missing.pop() else { return Ok(None) };
        self.value = Some(Value::hole(self.walk));
        seed.deserialize(field.into_deserializer()).map(Some)
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, Refusal> {
        seed.deserialize(self.value.take().unwrap_or(Value::hole(self.walk)))
    }
}

pub(super) struct List<'a> {
    pub walk: &'a Walk,
    pub entries: std::slice::Iter<'a, Spanned<DeValue<'a>>>,
}

impl<'de> SeqAccess<'de> for List<'de> {
    type Error = Refusal;

    fn next_element_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, Refusal> {
        let Some(node) = self.entries.next() else { return Ok(None) };
        seed.deserialize(Value { walk: self.walk, node: Node::There(node) }).map(Some)
    }
}

/// What a hole looks like to a struct, a list or a tuple.
pub(super) struct Holes<'a> {
    pub walk: &'a Walk,
    pub fields: std::slice::Iter<'static, &'static str>,
    pub left: usize,
}

impl<'de> MapAccess<'de> for Holes<'de> {
    type Error = Refusal;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Refusal> {
        self.fields.next().map(|field| seed.deserialize((*field).into_deserializer())).transpose()
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, Refusal> {
        seed.deserialize(Value::hole(self.walk))
    }
}

impl<'de> SeqAccess<'de> for Holes<'de> {
    type Error = Refusal;

    fn next_element_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, Refusal> {
        let Some(left) = self.left.checked_sub(1) else { return Ok(None) };
        self.left = left;
        seed.deserialize(Value::hole(self.walk)).map(Some)
    }
}

/// A variant of an enum and what it holds.
pub(super) struct Variant<'a> {
    pub name: &'a str,
    pub value: Value<'a>,
}

impl<'de> EnumAccess<'de> for Variant<'de> {
    type Error = Refusal;
    type Variant = Value<'de>;

    fn variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<(S::Value, Value<'de>), Refusal> {
        let name: StrDeserializer<'_, Refusal> = self.name.into_deserializer();
        seed.deserialize(name).map(|variant| (variant, self.value))
    }
}

impl<'de> VariantAccess<'de> for Value<'de> {
    type Error = Refusal;

    fn unit_variant(self) -> Result<(), Refusal> {
        match self.there() {
            None => Ok(()),
            Some(_) => Err(Refusal::new("expected a name in quotes, found a table", None)),
        }
    }

    fn newtype_variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<S::Value, Refusal> {
        seed.deserialize(self)
    }

    fn tuple_variant<V: Visitor<'de>>(self, length: usize, visitor: V) -> Result<V::Value, Refusal> {
        self.deserialize_tuple(length, visitor)
    }

    fn struct_variant<V: Visitor<'de>>(self, fields: &'static [&'static str], visitor: V) -> Result<V::Value, Refusal> {
        self.deserialize_struct("", fields, visitor)
    }
}

/// A key of a table.
struct Key<'a> {
    pub walk: &'a Walk,
    text: &'a str,
    span: Range<usize>,
}

impl<'de> IntoDeserializer<'de, Refusal> for Key<'de> {
    type Deserializer = Self;

    fn into_deserializer(self) -> Self {
        self
    }
}

impl<'de> Deserializer<'de> for Key<'de> {
    type Error = Refusal;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refusal> {
        visitor.visit_str(self.text)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, name: &'static str, visitor: V) -> Result<V::Value, Refusal> {
        if name == LOCATED {
            visitor.visit_seq(WithPlace { place: place(self.walk, &self.span), step: 0, value: Some(self) })
        } else {
            visitor.visit_newtype_struct(self)
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refusal> {
        visitor.visit_some(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        names: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Refusal> {
        if !names.contains(&self.text) {
            return Err(Refusal::not_one_of(self.text, names));
        }
        visitor.visit_enum(Variant { name: self.text, value: Value::hole(self.walk) })
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit
        unit_struct seq tuple tuple_struct map struct identifier ignored_any
    }
}

/// What a [`super::Located`] is made of: document, start, end, value.
pub(super) struct WithPlace<T> {
    pub place: Place,
    pub step: u8,
    pub value: Option<T>,
}

impl<'de> IntoDeserializer<'de, Refusal> for Value<'de> {
    type Deserializer = Self;

    fn into_deserializer(self) -> Self {
        self
    }
}

impl<'de, T: IntoDeserializer<'de, Refusal>> SeqAccess<'de> for WithPlace<T> {
    type Error = Refusal;

    fn next_element_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, Refusal> {
        let number = match self.step {
            0 => self.place.document,
            1 => self.place.start,
            2 => self.place.end,
            _ => return self.value.take().map(|value| seed.deserialize(value.into_deserializer())).transpose(),
        };
        self.step += 1;
        let number: U64Deserializer<Refusal> = (number as u64).into_deserializer();
        seed.deserialize(number).map(Some)
    }
}
