//! Why a value does not fit, in words a person understands.

use std::fmt;
use std::ops::Range;

use serde::de::{self, Expected, Unexpected};

/// Longest text of a document that a message repeats, in characters.
const LONGEST_QUOTE: usize = 60;

/// Why a value does not fit; the walk adds where.
#[derive(Debug)]
pub(super) struct Refusal {
    pub message: String,
    /// The message without what the document holds, where there is one.
    pub discreet: Option<Box<str>>,
    /// The value may hold a secret though none was expected there, as a whole table or list is wrong.
    pub whole: bool,
    pub hint: Option<Box<str>>,
    /// The field that is not there, where that is the reason.
    pub missing: Option<&'static str>,
    /// The node it is about: [`super::walk`] says what the number is.
    pub node: Option<usize>,
    pub span: Option<Range<usize>>,
}

impl Refusal {
    pub fn new(message: impl Into<String>, hint: Option<String>) -> Self {
        Self {
            message: message.into(),
            discreet: None,
            whole: false,
            hint: hint.map(Into::into),
            missing: None,
            node: None,
            span: None,
        }
    }

    /// Says which node it is about; the innermost one, which speaks first, stays.
    pub fn at(mut self, node: usize, span: &Range<usize>) -> Self {
        if self.node.is_none() {
            self.node = Some(node);
            self.span = Some(span.clone());
        }
        self
    }

    /// A whole table or list that does not fit: the message holds nothing of it.
    pub fn of_whole(message: String) -> Self {
        Self { discreet: Some(message.as_str().into()), whole: true, ..Self::new(message, None) }
    }

    /// A value that is none of the names allowed.
    pub fn not_one_of(found: &str, names: &[&str]) -> Self {
        let hint = super::suggest(found, names.iter().copied()).map(|name| format!("did you mean `{name}`?"));
        Self {
            discreet: Some(format!("expected {}, found another text", one_of(names)).into()),
            ..Self::new(format!("expected {}, found {}", one_of(names), quoted(found)), hint)
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Refusal {}

impl de::Error for Refusal {
    /// A type's own text; a line `hint: ...` at its end becomes the hint.
    fn custom<T: fmt::Display>(message: T) -> Self {
        let message = message.to_string();
        match message.split_once("\nhint: ") {
            Some((message, hint)) => Self::new(message, Some(hint.to_owned())),
            None => Self::new(message, None),
        }
    }

    fn invalid_type(found: Unexpected<'_>, expected: &dyn Expected) -> Self {
        let expected = words(&expected.to_string());
        let whole = matches!(found, Unexpected::Seq | Unexpected::Map) || matches!(expected.as_str(), "a table" | "a list");
        Self {
            discreet: Some(format!("expected {expected}, found {}", kind(&found)).into()),
            whole,
            ..Self::new(format!("expected {expected}, found {}", describe(&found)), None)
        }
    }

    fn invalid_value(found: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::invalid_type(found, expected)
    }

    fn invalid_length(length: usize, expected: &dyn Expected) -> Self {
        let message = format!("expected {}, found {length} entries", words(&expected.to_string()));
        Self { discreet: Some(message.as_str().into()), ..Self::new(message, None) }
    }

    fn unknown_variant(variant: &str, expected: &'static [&'static str]) -> Self {
        Self::not_one_of(variant, expected)
    }

    fn missing_field(field: &'static str) -> Self {
        let message = format!("the key `{field}` is missing");
        Self { missing: Some(field), discreet: Some(message.as_str().into()), ..Self::new(message, None) }
    }
}

/// What kind of value the document holds, without the value.
fn kind(found: &Unexpected<'_>) -> String {
    match found {
        Unexpected::Bool(_) => "`true` or `false`".to_owned(),
        Unexpected::Unsigned(_) | Unexpected::Signed(_) | Unexpected::Float(_) => "a number".to_owned(),
        Unexpected::Str(_) => "a text".to_owned(),
        other => describe(other),
    }
}

/// What the document holds, in words.
fn describe(found: &Unexpected<'_>) -> String {
    match found {
        Unexpected::Bool(value) => format!("`{value}`"),
        Unexpected::Unsigned(value) => format!("the number {value}"),
        Unexpected::Signed(value) => format!("the number {value}"),
        Unexpected::Float(value) => format!("the number {value}"),
        Unexpected::Str(text) => format!("the text {}", quoted(text)),
        Unexpected::Seq => "a list".to_owned(),
        Unexpected::Map => "a table".to_owned(),
        Unexpected::Unit => "nothing".to_owned(),
        other => other.to_string(),
    }
}

/// What a Rust type expects, in words.
fn words(expected: &str) -> String {
    let range = |low: &str, high: &str| format!("a whole number from {low} to {high}");
    match expected {
        "u8" => range("0", "255"),
        "u16" => range("0", "65535"),
        "u32" => range("0", "4294967295"),
        "u64" | "usize" => "a whole number, 0 or more".to_owned(),
        "i8" => range("-128", "127"),
        "i16" => range("-32768", "32767"),
        "i32" => range("-2147483648", "2147483647"),
        "i64" => "a whole number".to_owned(),
        "f64" | "f32" => "a number".to_owned(),
        "a string" => "a text in quotes".to_owned(),
        "a boolean" => "`true` or `false`".to_owned(),
        "a sequence" => "a list".to_owned(),
        "a map" => "a table".to_owned(),
        other if other.starts_with("struct ") => "a table".to_owned(),
        other => other.to_owned(),
    }
}

/// `a`, or one of several names.
pub(super) fn one_of(names: &[&str]) -> String {
    match names {
        [only] => format!("`{only}`"),
        [] => "nothing".to_owned(),
        _ => format!("one of {}", names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")),
    }
}

/// A text of the document between backquotes: cut, and without control characters.
pub fn quoted(text: &str) -> String {
    format!("`{}`", printable(text))
}

/// A text that is safe on a terminal: control characters escaped, and cut where it is long.
fn printable(text: &str) -> String {
    let mut shown: String = text.chars().take(LONGEST_QUOTE).flat_map(escape).collect();
    if text.chars().nth(LONGEST_QUOTE).is_some() {
        shown.push('…');
    }
    shown
}

/// A text without control characters, whole.
pub(super) fn escaped(text: &str) -> String {
    text.chars().flat_map(escape).collect()
}

fn escape(c: char) -> Vec<char> {
    // Direction marks can make a terminal show another text than the one that is there.
    let hidden = matches!(c, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}');
    if c.is_control() || hidden { c.escape_default().collect() } else { vec![c] }
}
