//! The reference of all fields, made from the JSON Schema: what editors show and what people read is the same.

use std::fmt::Write;

use serde_json::Value;

/// The page: Markdown.
///
/// # Errors
/// Never in practice: a schema is always JSON.
pub fn page() -> Result<String, serde_json::Error> {
    let schema: Value = serde_json::from_str(&super::text()?)?;
    let mut text = "# Profiles\n\n\
        A profile says what a machine is. It is TOML, signed as a whole (`ingot profile sign`), and read at every boot.\n\
        Unknown keys are faults. `ingot profile check FILE` shows all faults at once; `#:schema profile.schema.json` in the\n\
        first line lets editors complete and check it. Secrets are texts, or `{ credential = \"NAME\" }` for a credential of\n\
        the machine; [secrets.md](secrets.md) says where these come from, and how a part of a profile is encrypted.\n\n\
        Made from the schema (`ingot profile page`); a test keeps it so.\n"
        .to_owned();
    let mut sections = vec![("the whole profile".to_owned(), &schema)];
    let mut seen: Vec<String> = Vec::new();
    while !sections.is_empty() {
        let (path, table) = sections.remove(0);
        section(&mut text, &path, table);
        let mut below: Vec<(String, &Value)> = Vec::new();
        for (key, field) in table["properties"].as_object().into_iter().flatten() {
            let Some((name, list)) = reference(field) else { continue };
            let Some(inner) = schema["$defs"].get(&name).filter(|inner| inner["properties"].is_object()) else { continue };
            if seen.contains(&name) {
                continue;
            }
            seen.push(name);
            let bare = path.trim_matches(['[', ']', '`']);
            let full = if path.starts_with("the ") { key.clone() } else { format!("{bare}.{key}") };
            below.push((if list { format!("`[[{full}]]`") } else { format!("`[{full}]`") }, inner));
        }
        // Depth first: what belongs together stands together.
        below.extend(sections);
        sections = below;
    }
    Ok(text)
}

fn section(text: &mut String, path: &str, table: &Value) {
    let _ = write!(text, "\n## {path}\n\n| key | type | meaning |\n|---|---|---|\n");
    let required: Vec<&str> = table["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    for (key, field) in table["properties"].as_object().into_iter().flatten() {
        let must = if required.contains(&key.as_str()) { " (required)" } else { "" };
        let meaning = field["description"].as_str().unwrap_or_default().split_whitespace().collect::<Vec<_>>().join(" ");
        let _ = writeln!(text, "| `{key}` | {}{must} | {} |", kind(field).replace('|', "\\|"), meaning.replace('|', "\\|"));
    }
}

/// The definition a field is of, and whether it is a list of them.
fn reference(field: &Value) -> Option<(String, bool)> {
    let name = |value: &Value| value["$ref"].as_str().map(|path| path.trim_start_matches("#/$defs/").to_owned());
    let options = field["anyOf"].as_array().into_iter().flatten();
    name(field)
        .or_else(|| options.clone().find_map(name))
        .map(|name| (name, false))
        .or_else(|| name(&field["items"]).map(|name| (name, true)))
}

fn kind(field: &Value) -> String {
    if let Some((name, list)) = reference(field) {
        let name = match name.as_str() {
            "Secret" => "secret".to_owned(),
            "Size" => "size".to_owned(),
            other => other.to_owned(),
        };
        return if list { format!("list of {name}") } else { name };
    }
    let word = |word: &str| match word {
        "string" => "text".to_owned(),
        "boolean" => "true or false".to_owned(),
        "integer" => "whole number".to_owned(),
        "array" => format!("list of {}", kind(&field["items"])),
        "object" => "table".to_owned(),
        other => other.to_owned(),
    };
    match &field["type"] {
        Value::String(name) => word(name),
        Value::Array(names) => {
            names.iter().filter_map(Value::as_str).filter(|name| *name != "null").map(word).collect::<Vec<_>>().join(" or ")
        }
        _ => "value".to_owned(),
    }
}
