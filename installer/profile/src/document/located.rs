//! Values that know where they stand, so that later checks can name the place.

use std::fmt;
use std::marker::PhantomData;
use std::ops::Deref;

use serde::de::{Deserialize, Deserializer, Error, SeqAccess, Visitor};

/// Name by which the walk recognises a secret: it then notes where it stands.
pub(crate) const SECRET: &str = "$ingot::Secret";

/// Name by which the walk recognises a [`Located`].
pub(super) const LOCATED: &str = "$ingot::Located";

/// Where a value stands: a range of bytes in one of the documents of a [`super::Texts`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    pub(super) document: usize,
    pub(super) start: usize,
    pub(super) end: usize,
}

impl Place {
    /// Nowhere: the value is not from a document, or stands in for one that did not fit.
    pub const HOLE: Place = Place { document: usize::MAX, start: 0, end: 0 };

    /// Whether this is [`Place::HOLE`].
    pub fn is_hole(self) -> bool {
        self.document == usize::MAX
    }

    /// The bytes of the document it covers.
    pub fn range(self) -> std::ops::Range<usize> {
        self.start..self.end
    }

    /// The document, where there is one.
    pub fn document(self) -> Option<super::DocumentId> {
        (!self.is_hole()).then_some(super::DocumentId(self.document))
    }
}

/// A value and its place. Two are equal when their values are, wherever they stand.
#[derive(Clone)]
pub struct Located<T> {
    value: T,
    place: Place,
}

impl<T> Located<T> {
    /// A value with a place taken from another.
    pub fn new(value: T, place: Place) -> Self {
        Self { value, place }
    }

    /// Where it stands.
    pub fn place(&self) -> Place {
        self.place
    }

    /// The value alone.
    pub fn into_inner(self) -> T {
        self.value
    }
}

impl<T> Deref for Located<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T: fmt::Debug> fmt::Debug for Located<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.value.fmt(f)
    }
}

impl<T: fmt::Display> fmt::Display for Located<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.value.fmt(f)
    }
}

impl<T: Default> Default for Located<T> {
    fn default() -> Self {
        Self::new(T::default(), Place::HOLE)
    }
}

impl<T: PartialEq> PartialEq for Located<T> {
    fn eq(&self, other: &Self) -> bool {
        self.value == other.value
    }
}

impl<T: Eq> Eq for Located<T> {}

impl<T: PartialOrd> PartialOrd for Located<T> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        self.value.partial_cmp(&other.value)
    }
}

impl<T: Ord> Ord for Located<T> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.value.cmp(&other.value)
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Located<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_newtype_struct(LOCATED, LocatedVisitor(PhantomData))
    }
}

struct LocatedVisitor<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for LocatedVisitor<T> {
    type Value = Located<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    /// A deserializer that knows no places: serde_json in tests, say.
    fn visit_newtype_struct<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        T::deserialize(deserializer).map(|value| Located::new(value, Place::HOLE))
    }

    /// What the walk hands over: document, start, end, value.
    fn visit_seq<A: SeqAccess<'de>>(self, mut parts: A) -> Result<Self::Value, A::Error> {
        let mut number =
            || -> Result<usize, A::Error> { parts.next_element()?.ok_or_else(|| A::Error::custom("a value without a place")) };
        let place = Place { document: number()?, start: number()?, end: number()? };
        let value = parts.next_element()?.ok_or_else(|| A::Error::custom("a place without a value"))?;
        Ok(Located { value, place })
    }
}
