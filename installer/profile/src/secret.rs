//! Values that never print.

use std::fmt;

use serde::de::{self, Deserialize, Deserializer, MapAccess, Visitor};
use zeroize::Zeroizing;

use crate::document::SECRET;

/// A secret text. It has no `Display`, its `Debug` shows nothing, and its memory is wiped.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    /// A secret from elsewhere: a credential, a decrypted section.
    pub fn new(text: String) -> Self {
        Self(Zeroizing::new(text))
    }

    /// The text, for the one place that needs it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// Where a secret is: in the profile itself, or in a systemd credential of this name
/// (`{ credential = "NAME" }`), which the installer reads when it needs it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SecretSource {
    /// Written in the profile.
    Inline(Secret),
    /// Name of a systemd credential (systemd.exec(5), `LoadCredential=`).
    Credential(String),
}

impl<'de> Deserialize<'de> for SecretSource {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // The name makes the document reader note where the secret stands.
        deserializer.deserialize_newtype_struct(SECRET, Outer)
    }
}

struct Outer;

impl<'de> Visitor<'de> for Outer {
    type Value = SecretSource;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(EXPECTED)
    }

    fn visit_newtype_struct<D: Deserializer<'de>>(self, deserializer: D) -> Result<SecretSource, D::Error> {
        deserializer.deserialize_any(Inner)
    }
}

const EXPECTED: &str = "a text in quotes, or `{ credential = \"NAME\" }`";

struct Inner;

impl<'de> Visitor<'de> for Inner {
    type Value = SecretSource;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(EXPECTED)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<SecretSource, E> {
        Ok(SecretSource::Inline(Secret::new(text.to_owned())))
    }

    /// A number may be a secret without its quotes: it is not repeated.
    fn visit_i64<E: de::Error>(self, _: i64) -> Result<SecretSource, E> {
        Err(E::custom(format!("expected {EXPECTED}, found a number")))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut table: A) -> Result<SecretSource, A::Error> {
        let wrong = || de::Error::custom(format!("expected {EXPECTED}, found another table"));
        let (key, name): (String, String) = table.next_entry()?.ok_or_else(wrong)?;
        if key != "credential" || table.next_key::<String>()?.is_some() {
            return Err(wrong());
        }
        Ok(SecretSource::Credential(name))
    }

    /// A hole that an earlier fault left (see [`crate::document`]).
    fn visit_unit<E: de::Error>(self) -> Result<SecretSource, E> {
        Ok(SecretSource::Credential("hole".to_owned()))
    }
}
