//! Dependency fields (Debian Policy 7.1): groups of alternatives with version constraints,
//! architecture qualifiers, architecture lists and build profiles.

use std::cmp::Ordering;
use std::fmt;

use super::version;

/// One alternative: `libc6:any (>= 2.38)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Relation<'a> {
    /// Package name, real or virtual.
    pub name: &'a str,
    /// What follows the colon: `any`, `native` or an architecture.
    pub qualifier: Option<&'a str>,
    /// Operator and version.
    pub constraint: Option<(Operator, &'a str)>,
}

/// How a version must compare.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operator {
    /// `<<`
    Less,
    /// `<=`
    LessOrEqual,
    /// `=`
    Equal,
    /// `>=`
    GreaterOrEqual,
    /// `>>`
    Greater,
}

impl Operator {
    /// Whether `found` stands in this relation to `asked`.
    pub fn holds(self, found: &str, asked: &str) -> bool {
        let order = version::compare(found, asked);
        match self {
            Operator::Less => order == Ordering::Less,
            Operator::LessOrEqual => order != Ordering::Greater,
            Operator::Equal => order == Ordering::Equal,
            Operator::GreaterOrEqual => order != Ordering::Less,
            Operator::Greater => order == Ordering::Greater,
        }
    }
}

impl fmt::Display for Operator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Operator::Less => "<<",
            Operator::LessOrEqual => "<=",
            Operator::Equal => "=",
            Operator::GreaterOrEqual => ">=",
            Operator::Greater => ">>",
        })
    }
}

impl fmt::Display for Relation<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)?;
        if let Some(qualifier) = self.qualifier {
            write!(f, ":{qualifier}")?;
        }
        match self.constraint {
            Some((operator, version)) => write!(f, " ({operator} {version})"),
            None => Ok(()),
        }
    }
}

/// Alternatives of which one must hold, in order of preference.
pub type Group<'a> = Vec<Relation<'a>>;

/// A group as Debian writes it.
pub fn show(group: &[Relation<'_>]) -> String {
    group.iter().map(ToString::to_string).collect::<Vec<_>>().join(" | ")
}

/// Reads a whole field. Alternatives for other architectures or for build profiles (none is ever
/// active here) drop out, groups without a remaining alternative as well.
///
/// # Errors
/// What is wrong, naming the alternative.
pub fn parse<'a>(field: &'a str, architecture: &str) -> Result<Vec<Group<'a>>, String> {
    let mut groups = Vec::new();
    for group in field.split(',').map(str::trim).filter(|group| !group.is_empty()) {
        let mut alternatives = Vec::new();
        for text in group.split('|') {
            alternatives.extend(alternative(text.trim(), architecture)?);
        }
        if !alternatives.is_empty() {
            groups.push(alternatives);
        }
    }
    Ok(groups)
}

/// Reads one alternative; `None` where it is for another architecture or profile.
fn alternative<'a>(text: &'a str, architecture: &str) -> Result<Option<Relation<'a>>, String> {
    let refuse = |why: &str| format!("`{text}` is no package relation: {why}");
    let end = text.find(|c: char| c.is_whitespace() || "([<".contains(c)).unwrap_or(text.len());
    let (name, mut rest) = text.split_at(end);
    let (name, qualifier) = name.split_once(':').map_or((name, None), |(name, qualifier)| (name, Some(qualifier)));
    if !is_name(name) || qualifier.is_some_and(|qualifier| !is_name(qualifier)) {
        return Err(refuse("expected a package name like `libc6` or `python3:any`"));
    }
    let mut relation = Relation { name, qualifier, constraint: None };
    let mut applies = true;
    loop {
        rest = rest.trim_start();
        let Some(opening) = rest.chars().next() else { return Ok(applies.then_some(relation)) };
        let closing = match opening {
            '(' => ')',
            '[' => ']',
            '<' => '>',
            _ => return Err(refuse("expected `(`, `[` or `<` after the name")),
        };
        // In `(<< 1)` the first `>` or `<` is the operator, but there the closing sign is `)`.
        let (inner, after) = rest[1..].split_once(closing).ok_or_else(|| refuse("a bracket is not closed"))?;
        match opening {
            '(' if relation.constraint.is_some() => return Err(refuse("two version constraints")),
            '(' => relation.constraint = Some(constraint(inner).ok_or_else(|| refuse("expected `(>= 1.0)` or the like"))?),
            '[' => applies &= architecture_listed(inner, architecture),
            _ => applies &= inner.split_whitespace().all(|profile| profile.starts_with('!')),
        }
        rest = after;
    }
}

fn constraint(inner: &str) -> Option<(Operator, &str)> {
    let inner = inner.trim();
    // `<` and `>` alone are the old forms of `<=` and `>=`.
    let (operator, version) = [
        ("<<", Operator::Less),
        ("<=", Operator::LessOrEqual),
        (">=", Operator::GreaterOrEqual),
        (">>", Operator::Greater),
        ("=", Operator::Equal),
        ("<", Operator::LessOrEqual),
        (">", Operator::GreaterOrEqual),
    ]
    .into_iter()
    .find_map(|(sign, operator)| inner.strip_prefix(sign).map(|version| (operator, version.trim())))?;
    version::is_valid(version).then_some((operator, version))
}

/// `[amd64 arm64]` or `[!i386]`; `any` and `linux-any` take every architecture Debian Linux has.
fn architecture_listed(inner: &str, architecture: &str) -> bool {
    let matches =
        |word: &str| word == architecture || matches!(word, "any" | "linux-any") || word == format!("any-{architecture}");
    let mut words = inner.split_whitespace().peekable();
    if words.peek().is_some_and(|word| word.starts_with('!')) {
        words.all(|word| !matches(word.trim_start_matches('!')))
    } else {
        words.any(matches)
    }
}

/// Whether `text` may be a package name; capitals are let in because foreign repositories have them.
pub(super) fn is_name(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.len() <= 200
        && text.bytes().all(|c| c.is_ascii_alphanumeric() || b"+-._".contains(&c))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn fields_become_groups() {
        for (field, expected) in [
            ("", ""),
            ("libc6 (>= 2.38)", "libc6 (>= 2.38)"),
            ("a|b (<<2) , c", "a | b (<< 2), c"),
            ("python3:any (= 1:3.0-1)", "python3:any (= 1:3.0-1)"),
            ("a [amd64], b [i386], c [!amd64], d [!i386] (> 1)", "a, d (>= 1)"),
            ("a <!nocheck>, b <cross>, c <!a !b>", "a, c"),
            ("a [i386] | b", "b"),
            ("a (=1),, b,", "a (= 1), b"),
        ] {
            let groups = parse(field, "amd64").unwrap();
            assert_eq!(groups.iter().map(|group| show(group)).collect::<Vec<_>>().join(", "), expected, "{field}");
        }
    }

    #[test]
    fn what_is_no_relation_is_refused() {
        for wrong in ["a |", "a b", "a (1)", "a (>= )", "a (>= 1", "ü", "a (>= 1) (<< 2)", "(>= 1)", "a:", "a (>= 1 2)", "-a"] {
            assert!(parse(wrong, "amd64").is_err(), "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "[a-z0-9 ()<>=|,:!\\[\\]é-]{0,40}") {
            if let Ok(groups) = parse(&text, "amd64") {
                let shown = groups.iter().map(|group| show(group)).collect::<Vec<_>>().join(", ");
                prop_assert_eq!(parse(&shown, "amd64").unwrap(), groups);
            }
        }
    }
}
