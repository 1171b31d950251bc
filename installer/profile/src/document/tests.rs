use std::collections::BTreeMap;

use proptest::prelude::*;
use serde::Deserialize;

use super::*;
use crate::size::Size;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Shape {
    schema: u8,
    name: Located<String>,
    colour: Option<Colour>,
    #[serde(default)]
    ports: Vec<Located<u16>>,
    #[serde(default)]
    ids: BTreeMap<Located<String>, Located<u32>>,
    size: Option<Size>,
    place: Option<Point>,
    #[serde(default)]
    point: Vec<Point>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Colour {
    DarkRed,
    Green,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Point {
    x: i32,
    y: i32,
    label: Option<Located<String>>,
}

fn told(text: &str) -> Vec<String> {
    match parse::<Shape>("t.toml", text) {
        Ok(shape) => panic!("no fault in {text:?}: {shape:?}"),
        Err(faults) => faults
            .iter()
            .map(|f| {
                format!("{}:{}: {}{}", f.line, f.column, f.message, f.hint.as_ref().map_or(String::new(), |h| format!(" [{h}]")))
            })
            .collect(),
    }
}

#[test]
fn a_whole_document_with_places() {
    let mut texts = Texts::default();
    let text = "schema = 1\r\nname = \"é\"\r\ncolour = 'dark-red'\r\nports = [1,\r\n  2]\r\nids.a = 1\r\nsize = \"1 KiB\"\r\n[[point]]\r\nx = 1\r\ny = 2\r\nlabel = 'l'\r\n";
    let document = texts.add("t.toml", text);
    let reading = texts.read::<Shape>(document);
    assert_eq!(reading.faults, []);
    let shape = reading.value.unwrap();
    assert!(matches!(shape.colour, Some(Colour::DarkRed)));
    assert!(shape.place.is_none() && shape.schema == 1 && shape.size == Some(Size(1024)));
    assert_eq!((texts.show(shape.name.place()), shape.name.as_str()), ("t.toml:2:8".to_owned(), "é"));
    assert_eq!(texts.show(shape.ports[1].place()), "t.toml:5:3");
    let (key, value) = shape.ids.iter().next().unwrap();
    assert_eq!((texts.show(key.place()), texts.show(value.place())), ("t.toml:6:5".to_owned(), "t.toml:6:9".to_owned()));
    let point = &shape.point[0];
    assert_eq!((point.x, point.y, texts.show(point.label.as_ref().unwrap().place())), (1, 2, "t.toml:11:9".to_owned()));
}

#[test]
fn every_fault_is_found_at_once() {
    let text = "nmae = 'x'\nschema = 300\ncolour = 'gren'\nports = [1, 'two', 70000, -1]\nsize = '1 MB'\nplace = { x = 1 }\nwhat = 0\n[ids]\na = 'x'\n[[point]]\nx = true\n[[point]]\nlable = 'x'\nx = 1\ny = 1.5\n";
    assert_eq!(
        told(text),
        [
            "1:1: unknown key `nmae` [did you mean `name`?]",
            "2:10: expected a whole number from 0 to 255, found the number 300",
            "3:10: expected one of `dark-red`, `green`, found `gren` [did you mean `green`?]",
            "4:13: expected a whole number from 0 to 65535, found the text `two`",
            "4:20: expected a whole number from 0 to 65535, found the number 70000",
            "4:27: expected a whole number from 0 to 65535, found the number -1",
            "5:8: \"1 MB\" uses a decimal unit; sizes are written in powers of 1024 [write `MiB`]",
            "6:9: the key `y` is missing",
            "7:1: unknown key `what` [expected one of `schema`, `name`, `colour`, `ports`, `ids`, `size`, `place`, `point`]",
            "9:5: expected a whole number from 0 to 4294967295, found the text `x`",
            "10:1: the key `y` is missing",
            "11:5: expected a whole number from -2147483648 to 2147483647, found `true`",
            "13:1: unknown key `lable` [did you mean `label`?]",
            "15:5: expected a whole number from -2147483648 to 2147483647, found the number 1.5",
        ]
    );
}

#[test]
fn one_fault_each() {
    let cases = [
        ("", "1:1: the key `name` is missing"),
        (
            "schema = 1\nname = 1\nname = 2",
            "3:1: the key `name` is already there [a key may stand only once in its table: remove one of the two]",
        ),
        ("schema = 1\nname = 'x", "2:10: this is not TOML: invalid literal string"),
        ("schema = 1\nname = [1]", "2:8: expected a text in quotes, found a list"),
        ("schema = 1\nname = 'a'\nplace = [1, 2]", "3:9: expected a table, found a list"),
        ("schema = 1\nname = 'a'\nplace = 1", "3:9: expected a table, found the number 1"),
        ("schema = 1\nname = 'a'\ncolour = []", "3:10: expected one of `dark-red`, `green`, found a list"),
        ("schema = 1\nname = 1979-05-27", "2:8: expected a text in quotes, found a date or time"),
        ("schema = 99999999999999999999999\nname = 'a'", "1:10: the number `99999999999999999999999` does not fit into 64 bits"),
        ("schema = 1\nname = 'a'\n\"\\u0000\\u202e\" = 1", "3:1: unknown key `\\u{0}\\u{202e}`"),
        ("schema = 1\nname = '\0'", "2:9: this is not TOML: "),
    ];
    for (text, expected) in cases {
        let told = told(text);
        assert!(told.iter().any(|fault| fault.starts_with(expected)), "{text:?}: {told:?}");
    }
}

#[test]
fn bytes_that_are_no_text() {
    let faults = parse_bytes::<Shape>("t.toml", b"schema = 1\nname = '\xff'").unwrap_err();
    assert_eq!(faults[0].to_string(), "t.toml:2:9: the byte 0xff is not UTF-8, which TOML is written in");
    assert!(parse_bytes::<Shape>("t.toml", b"schema = 1\nname = 'x'").is_ok());
}

#[test]
fn large_and_deep_documents_end_soon() {
    let line = "x".repeat(1 << 20);
    let text = format!("schema = 1\nname = '{line}'\n{line} = '{line}'\n");
    let mut texts = Texts::default();
    let document = texts.add("t.toml", text);
    let reading = texts.read::<Shape>(document);
    assert_eq!(reading.faults.len(), 1);
    let shown = texts.render(&reading.faults, Style::Plain);
    assert!(shown.len() < 2000 && shown.starts_with("error: unknown key `xxx"), "{shown}");
    for deep in [
        "[".repeat(1 << 20),
        format!("a={}", "[".repeat(1 << 19)),
        format!("a={}", "{a=".repeat(1 << 18)),
        "a.".repeat(1 << 19) + "a=1",
        format!("[{}a]", "a.".repeat(1 << 19)),
    ] {
        assert!(!parse::<Shape>("t.toml", &deep).unwrap_err().is_empty());
    }
    // The deepest nesting that gets past every limit: dotted keys in inline tables.
    let key = "a.".repeat(MOST_KEY_PARTS - 1) + "a";
    let text = format!("{}1{}", format!("{key}={{").repeat(79) + "a=", "}".repeat(79));
    assert!(!parse::<Shape>("t.toml", &text).unwrap_err().is_empty());
    assert!(parse::<Shape>("t.toml", &"é = 1\n".repeat(LARGEST_DOCUMENT / 4)).unwrap_err()[0].message.contains("bytes"));
}

#[test]
fn a_document_full_of_faults_is_cut() {
    let text: String = (0..1000).map(|n| format!("[[point]]\nx = '{n}'\ny = 0\n")).collect();
    assert_eq!(told(&format!("schema = 1\nname = 'a'\n{text}")).len(), MOST_FAULTS);
}

#[test]
fn rendered_faults_show_their_lines() {
    let mut texts = Texts::default();
    let document = texts.add("images/é.toml", "schema = 1\r\nname = 'a'\r\nport = [1, \"é\u{202e}\", 2]\r\n");
    let faults = texts.read::<Shape>(document).faults;
    assert_eq!(
        texts.render(&faults, Style::Plain),
        "error: unknown key `port`
 --> images/é.toml:3:1
  |
3 | port = [1, \"é�\", 2]
  | ^^^^
  |
  = help: did you mean `ports`?"
    );
    assert!(texts.render(&faults, Style::Coloured).contains("\u{1b}["));
}

#[test]
fn suggestions() {
    let names = ["install", "without", "default_target", "uki"];
    for (found, meant) in [
        ("instal", Some("install")),
        ("default-target", Some("default_target")),
        ("UKI", Some("uki")),
        ("x", None),
        ("", None),
        ("zzzzzzz", None),
    ] {
        assert_eq!(suggest(found, names), meant, "{found}");
    }
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(bytes: Vec<u8>) {
        let mut texts = Texts::default();
        let document = texts.add_bytes("t.toml", bytes);
        let reading = texts.read::<Shape>(document);
        texts.render(&reading.faults, Style::Plain);
    }

    #[test]
    fn no_pieces_of_toml_make_it_panic(pieces in prop::collection::vec(prop::sample::select(PIECES), 0..40)) {
        let mut texts = Texts::default();
        let document = texts.add("t.toml", pieces.concat());
        let reading = texts.read::<Shape>(document);
        prop_assert!(reading.value.is_some() || !reading.faults.is_empty());
        texts.render(&reading.faults, Style::Coloured);
    }

    #[test]
    fn a_wrong_value_never_hides_another(wrong in prop::collection::btree_set(0usize..6, 1..6)) {
        let lines = ["schema = 1", "name = 'a'", "colour = 'green'", "ports = [1]", "size = 1", "place = { x = 1, y = 2 }"];
        let text: String = lines.iter().enumerate().map(|(n, line)| match wrong.contains(&n) {
            true => format!("{} = 1979-05-27\n", line.split(' ').next().unwrap()),
            false => format!("{line}\n"),
        }).collect();
        let found: std::collections::BTreeSet<usize> = parse::<Shape>("t", &text).unwrap_err().iter().map(|f| f.line - 1).collect();
        prop_assert_eq!(found, wrong);
    }
}

const PIECES: &[&str] = &[
    "schema",
    "name",
    "ports",
    "ids",
    "point",
    "colour",
    "size",
    "x",
    "y",
    " = ",
    ".",
    "[",
    "]",
    "[[",
    "]]",
    "{",
    "}",
    ",",
    "\n",
    "\r\n",
    "\r",
    "\0",
    "1",
    "-1",
    "1.5",
    "'a'",
    "\"b\"",
    "\"\"\"",
    "'''",
    "true",
    "1979-05-27",
    "é",
    "\u{202e}",
    "\u{feff}",
    "#",
    "\\",
    "0x",
    "1_0",
    "inf",
    "nan",
    "schema = 1\n",
    "name = 'a'\n",
    "[[point]]\n",
    "x = 1\n",
    "[ids]\n",
    "a = 1\n",
    "y = 'z'\n",
];
