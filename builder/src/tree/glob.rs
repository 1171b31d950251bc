//! Which paths are left out: `exclude` and `keep` of a definition.
//!
//! `*` and `?` stay within one part of a path, `**` stands for any number of parts, `[a-z]` and
//! `[!x]` for one character. A pattern that matches a folder speaks of all that is below it.

/// Decides by patterns which paths are left out.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    exclude: Vec<Pattern>,
    keep: Vec<Pattern>,
}

/// One glob pattern, taken apart.
#[derive(Debug, Clone)]
pub struct Pattern {
    parts: Vec<Vec<u8>>,
}

impl Filter {
    /// A filter from the two lists of patterns.
    pub fn new<S: AsRef<str>>(exclude: &[S], keep: &[S]) -> Self {
        let patterns = |list: &[S]| list.iter().map(|p| Pattern::new(p.as_ref())).collect();
        Self { exclude: patterns(exclude), keep: patterns(keep) }
    }

    /// Whether `path` (without leading `/`) is left out.
    pub fn excludes(&self, path: &[u8]) -> bool {
        self.exclude.iter().any(|p| p.covers(path)) && !self.keep.iter().any(|p| p.covers(path))
    }
}

impl Pattern {
    /// The pattern written as `text`; a leading or trailing `/` says nothing.
    pub fn new(text: &str) -> Self {
        Self { parts: text.split('/').filter(|p| !p.is_empty()).map(|p| p.as_bytes().to_vec()).collect() }
    }

    /// Whether it matches the path or a folder above it.
    pub fn covers(&self, path: &[u8]) -> bool {
        !path.is_empty() && !self.parts.is_empty() && self.walk(path, true)
    }

    /// Whether it matches exactly this path.
    pub fn matches(&self, path: &[u8]) -> bool {
        !path.is_empty() && self.walk(path, false)
    }

    /// Greedy matching part by part that goes back to the last `**` only: never more than
    /// parts times parts steps.
    fn walk(&self, path: &[u8], prefix: bool) -> bool {
        let names: Vec<&[u8]> = path.split(|b| *b == b'/').collect();
        let (mut at, mut name) = (0, 0);
        let mut retry: Option<(usize, usize)> = None;
        loop {
            match self.parts.get(at) {
                None if prefix || name == names.len() => return true,
                Some(part) if part == b"**" => {
                    // At the end `**` wants at least one part below.
                    if at + 1 == self.parts.len() {
                        return name < names.len();
                    }
                    at += 1;
                    retry = Some((at, name));
                    continue;
                }
                Some(part) if names.get(name).is_some_and(|n| part_matches(part, n)) => {
                    (at, name) = (at + 1, name + 1);
                    continue;
                }
                _ => {}
            }
            match retry {
                Some((back, start)) if start < names.len() => {
                    (at, name) = (back, start + 1);
                    retry = Some((back, start + 1));
                }
                _ => return false,
            }
        }
    }
}

/// One part of a pattern against one part of a path.
fn part_matches(pattern: &[u8], name: &[u8]) -> bool {
    let (mut p, mut n) = (0, 0);
    let mut retry: Option<(usize, usize)> = None;
    while n < name.len() || p < pattern.len() {
        if pattern.get(p) == Some(&b'*') {
            retry = Some((p + 1, n));
            p += 1;
            continue;
        }
        if let Some(length) = name.get(n).and_then(|byte| one(&pattern[p..], *byte)) {
            (p, n) = (p + length, n + 1);
            continue;
        }
        match retry {
            Some((back, start)) if start < name.len() => {
                (p, n) = (back, start + 1);
                retry = Some((back, start + 1));
            }
            _ => return false,
        }
    }
    true
}

/// How many bytes of the pattern match this one byte; `None` where they do not.
fn one(pattern: &[u8], byte: u8) -> Option<usize> {
    match *pattern.first()? {
        b'?' => Some(1),
        b'[' => {
            // A set that is never closed is an ordinary bracket.
            let Some(end) = pattern.iter().skip(2).position(|b| *b == b']').map(|at| at + 2) else {
                return (byte == b'[').then_some(1);
            };
            let set = &pattern[1..end];
            let (negated, set) = match set.strip_prefix(b"!").or_else(|| set.strip_prefix(b"^")) {
                Some(rest) if !rest.is_empty() => (true, rest),
                _ => (false, set),
            };
            let mut found = false;
            let mut at = 0;
            while let Some(low) = set.get(at) {
                let range = set.get(at + 1) == Some(&b'-') && at + 2 < set.len();
                let high = if range { set[at + 2] } else { *low };
                found |= (*low..=high).contains(&byte);
                at += if range { 3 } else { 1 };
            }
            (found != negated).then_some(end + 1)
        }
        literal => (literal == byte).then_some(1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn patterns_match_as_documented() {
        for (pattern, path, covers, matches) in [
            ("usr/share/doc", "usr/share/doc", true, true),
            ("usr/share/doc", "usr/share/doc/a/b", true, false),
            ("usr/share/doc", "usr/share/docs", false, false),
            ("/usr/share/doc/", "usr/share/doc", true, true),
            ("usr/share/doc/**", "usr/share/doc", false, false),
            ("usr/share/doc/**", "usr/share/doc/a/b", true, true),
            ("usr/*/x", "usr/a/x", true, true),
            ("usr/*/x", "usr/a/b/x", false, false),
            ("**/*.pyc", "a.pyc", true, true),
            ("**/*.pyc", "a/b/c.pyc", true, true),
            ("**/x/**/y", "a/x/x/b/y", true, true),
            ("**/x/**/y", "a/x/b", false, false),
            ("a/**/b/c", "a/b/b/c", true, true),
            ("usr/lib/[a-c]?", "usr/lib/bz", true, true),
            ("usr/lib/[!a-c]?", "usr/lib/bz", false, false),
            ("a*b*c", "aXbYbc", true, true),
            ("a*b*c", "aXbYb", false, false),
            ("[", "[", true, true),
            ("*", "", false, false),
        ] {
            let p = Pattern::new(pattern);
            assert_eq!((p.covers(path.as_bytes()), p.matches(path.as_bytes())), (covers, matches), "{pattern} on {path}");
        }
        let filter = Filter::new(&["usr/share/doc"], &["usr/share/doc/*/copyright"]);
        assert!(filter.excludes(b"usr/share/doc/a/README"));
        assert!(!filter.excludes(b"usr/share/doc/a/copyright"));
        assert!(!filter.excludes(b"usr/bin/a"));
    }

    proptest! {
        #[test]
        fn any_pattern_ends_without_panic(pattern in "[a*?/\\[\\]!-]{0,40}", path in "[a/\\[-]{0,60}") {
            let pattern = Pattern::new(&pattern);
            let _ = (pattern.covers(path.as_bytes()), pattern.matches(path.as_bytes()));
        }

        #[test]
        fn a_path_without_signs_matches_itself(path in "[a-z]{1,8}(/[a-z]{1,8}){0,4}") {
            prop_assert!(Pattern::new(&path).matches(path.as_bytes()));
            let below = format!("{path}/below");
            prop_assert!(Pattern::new(&path).covers(below.as_bytes()));
            let anywhere = format!("**/{path}");
            prop_assert!(Pattern::new(&anywhere).matches(path.as_bytes()));
        }
    }
}
