//! Debian package relations as `packages.install` takes them: `name[:arch] [(operator version)]`,
//! alternatives between `|` (Debian Policy 7.1). No `,`, no architecture lists, no build profiles.

use super::rules;

/// A relation that holds to the syntax.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Relation {
    /// Names of the alternatives, without architecture.
    pub names: Vec<String>,
    /// The relation with single spaces.
    pub text: String,
}

/// Why a text is no relation, and the next action.
pub(super) type Refused = (String, Option<String>);

/// Reads a relation.
pub(super) fn parse(text: &str) -> Result<Relation, Refused> {
    let mut names = Vec::new();
    let mut parts = Vec::new();
    for alternative in text.split('|') {
        let (name, part) = single(alternative.trim())?;
        names.push(name);
        parts.push(part);
    }
    Ok(Relation { names, text: parts.join(" | ") })
}

fn single(text: &str) -> Result<(String, String), Refused> {
    let refuse = |message: String, hint: Option<&str>| Err((message, hint.map(str::to_owned)));
    if text.is_empty() {
        return refuse("expected a package, found nothing".to_owned(), None);
    }
    if text.contains(',') {
        return refuse(
            "a `,` does not belong into a relation".to_owned(),
            Some("write each relation as its own entry of the list"),
        );
    }
    if text.contains(['[', ']', '<', '>']) && !text.contains('(') {
        return refuse(
            "expected a relation such as `haproxy (>= 3.0)`; the version stands in parentheses, and architecture lists \
             or build profiles have no meaning here"
                .to_owned(),
            None,
        );
    }
    let (name, condition) = match text.split_once('(') {
        None => (text, None),
        Some((name, rest)) => match rest.split_once(')') {
            Some((condition, "")) => (name.trim_end(), Some(condition.trim())),
            _ => return refuse("expected the version in one pair of parentheses at the end".to_owned(), None),
        },
    };
    let (name, architecture) = name.split_once(':').map_or((name, None), |(name, architecture)| (name, Some(architecture)));
    if !rules::PACKAGE.holds(name) {
        return refuse(rules::PACKAGE.told(name), None);
    }
    if architecture.is_some_and(|found| !matches!(found, "any" | "amd64" | "all")) {
        return refuse("the architecture after `:` must be `any`, `amd64` or `all`".to_owned(), None);
    }
    let mut shown = name.to_owned();
    if let Some(architecture) = architecture {
        shown = format!("{shown}:{architecture}");
    }
    if let Some(condition) = condition {
        shown = format!("{shown} ({})", version_condition(condition)?);
    }
    Ok((name.to_owned(), shown))
}

fn version_condition(text: &str) -> Result<String, Refused> {
    let end = text.find(|c| !matches!(c, '<' | '=' | '>')).unwrap_or(text.len());
    let (operator, version) = text.split_at_checked(end).unwrap_or((text, ""));
    let version = version.trim_start();
    if !matches!(operator, "<<" | "<=" | "=" | ">=" | ">>") {
        let hint = match operator {
            "<" | ">" => Some(format!("write `{operator}{operator}` for strictly, `{operator}=` for or equal")),
            "==" => Some("write `=`".to_owned()),
            _ => None,
        };
        let message = format!("expected one of `<<`, `<=`, `=`, `>=`, `>>` before the version, found `{operator}`");
        return Err((message, hint));
    }
    if !rules::VERSION.holds(version) {
        return Err((rules::VERSION.told(version), None));
    }
    Ok(format!("{operator} {version}"))
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn relations_as_debian_writes_them() {
        for (text, shown, names) in [
            ("haproxy", "haproxy", vec!["haproxy"]),
            ("haproxy(>=3.0)", "haproxy (>= 3.0)", vec!["haproxy"]),
            ("a1:any  (<<  1:2~rc1-3+b1) |g++", "a1:any (<< 1:2~rc1-3+b1) | g++", vec!["a1", "g++"]),
        ] {
            let relation = parse(text).unwrap();
            assert_eq!((relation.text.as_str(), relation.names), (shown, names.into_iter().map(str::to_owned).collect()));
            assert_eq!(parse(&relation.text).unwrap().text, relation.text);
        }
    }

    #[test]
    fn what_is_no_relation() {
        for text in [
            "",
            "|",
            "a1 |",
            "a",
            "A1",
            "a1,b1",
            "a1 (",
            "a1 ()",
            "a1 (>= )",
            "a1 (> 1)",
            "a1 (== 1)",
            "a1 (>= 1) x",
            "a1 >= 1",
            "a1 [amd64]",
            "a1 <!nocheck>",
            "a1:riscv64",
            "a1 (>= a)",
            "a1 (>= 1 2)",
            "a1 (>= 1_2)",
            "a1 ((>= 1))",
            "é1",
            "a1\0",
        ] {
            assert!(parse(text).is_err(), "{text:?}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_text_makes_it_panic(text: String) {
            if let Ok(relation) = parse(&text) {
                proptest::prop_assert_eq!(parse(&relation.text).map(|again| again.text), Ok(relation.text));
            }
        }
    }
}
