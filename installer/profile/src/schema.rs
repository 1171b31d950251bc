//! The JSON Schema of profiles, for editors. Only built where it is asked for.

pub mod page;

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

use crate::document::Located;
use crate::machine::Value;
use crate::secret::SecretSource;
use crate::size::Size;

/// The schema as JSON text, ending in a line end.
///
/// # Errors
/// Never in practice: a schema is always JSON.
pub fn text() -> Result<String, serde_json::Error> {
    serde_json::to_string_pretty(&schemars::schema_for!(crate::profile::Written)).map(|text| text + "\n")
}

impl<T: JsonSchema> JsonSchema for Located<T> {
    fn inline_schema() -> bool {
        T::inline_schema()
    }

    fn schema_name() -> Cow<'static, str> {
        T::schema_name()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        T::json_schema(generator)
    }
}

impl JsonSchema for Size {
    fn schema_name() -> Cow<'static, str> {
        "Size".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "A size: a number of bytes, or a text with a binary unit such as \"64 MiB\"",
            "oneOf": [{ "type": "integer", "minimum": 0 }, { "type": "string", "pattern": "^[0-9]+ ?(B|KiB|MiB|GiB|TiB)$" }]
        })
    }
}

impl JsonSchema for Value {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Value".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": ["string", "integer"] })
    }
}

impl JsonSchema for SecretSource {
    fn schema_name() -> Cow<'static, str> {
        "Secret".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "A secret: its text, or the name of a systemd credential that holds it",
            "oneOf": [
                { "type": "string" },
                {
                    "type": "object",
                    "properties": { "credential": { "type": "string" } },
                    "required": ["credential"],
                    "additionalProperties": false
                }
            ]
        })
    }
}
