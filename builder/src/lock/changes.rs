//! What differs between two locks, for people and for machines.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::fmt;

use super::{Lock, LockedImage, LockedPackage, version};

/// One package that differs.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case", tag = "change")]
pub enum Change {
    /// It was not there.
    Added {
        /// Package name.
        package: String,
        /// Its version.
        version: String,
        /// Who asked for it; [`LockedPackage::because`].
        because: String,
    },
    /// It is there no more.
    Removed {
        /// Package name.
        package: String,
        /// The version it had.
        version: String,
    },
    /// A higher version.
    Upgraded {
        /// Package name.
        package: String,
        /// The version it had.
        from: String,
        /// The version it has.
        to: String,
    },
    /// A lower version.
    Downgraded {
        /// Package name.
        package: String,
        /// The version it had.
        from: String,
        /// The version it has.
        to: String,
    },
    /// The same version from elsewhere, or with other bytes.
    Source {
        /// Package name.
        package: String,
        /// Repository and suite it came from.
        from: String,
        /// Repository and suite it comes from.
        to: String,
        /// Whether the .deb is another one.
        other_bytes: bool,
    },
    /// A container image that is new, gone, or another one under its name.
    Image {
        /// Its reference.
        image: String,
        /// The digest it had.
        from: Option<String>,
        /// The digest it has.
        to: Option<String>,
    },
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Change::Added { package, version, because } => write!(f, "added      {package} {version} ({because})"),
            Change::Removed { package, version } => write!(f, "removed    {package} {version}"),
            Change::Upgraded { package, from, to } => write!(f, "upgraded   {package} {from} -> {to}"),
            Change::Downgraded { package, from, to } => write!(f, "downgraded {package} {from} -> {to}"),
            Change::Source { package, from, to, other_bytes } => {
                write!(f, "moved      {package} {from} -> {to}{}", if *other_bytes { ", other bytes" } else { "" })
            }
            Change::Image { image, from: None, to } => write!(f, "added      {image} {}", short(to)),
            Change::Image { image, from, to: None } => write!(f, "removed    {image} {}", short(from)),
            Change::Image { image, from, to } => write!(f, "moved      {image} {} -> {}", short(from), short(to)),
        }
    }
}

/// Enough of a digest for people.
fn short(digest: &Option<String>) -> &str {
    digest.as_deref().and_then(|digest| digest.get(..19)).unwrap_or("?")
}

/// What leads from `old` to `new`, by package name; then the container images.
pub fn changes(old: &Lock, new: &Lock) -> Vec<Change> {
    let mut pairs: BTreeMap<&str, (Option<&LockedPackage>, Option<&LockedPackage>)> = BTreeMap::new();
    old.packages.iter().for_each(|package| pairs.entry(&package.name).or_default().0 = Some(package));
    new.packages.iter().for_each(|package| pairs.entry(&package.name).or_default().1 = Some(package));
    pairs.into_values().filter_map(change).chain(images(old, new)).collect()
}

fn images(old: &Lock, new: &Lock) -> Vec<Change> {
    let digest = |image: &LockedImage| image.documents.first().map(|named| format!("sha256:{}", named.sha256));
    let mut pairs: BTreeMap<&str, (Option<String>, Option<String>)> = BTreeMap::new();
    old.containers.images.iter().for_each(|image| pairs.entry(&image.reference).or_default().0 = digest(image));
    new.containers.images.iter().for_each(|image| pairs.entry(&image.reference).or_default().1 = digest(image));
    let differ = pairs.into_iter().filter(|(_, (from, to))| from != to);
    differ.map(|(image, (from, to))| Change::Image { image: image.to_owned(), from, to }).collect()
}

fn change(pair: (Option<&LockedPackage>, Option<&LockedPackage>)) -> Option<Change> {
    let (old, new) = match pair {
        (Some(old), Some(new)) => (old, new),
        (Some(LockedPackage { name, version, .. }), None) => {
            return Some(Change::Removed { package: name.clone(), version: version.clone() });
        }
        (None, Some(LockedPackage { name, version, because, .. })) => {
            return Some(Change::Added { package: name.clone(), version: version.clone(), because: because.clone() });
        }
        (None, None) => return None,
    };
    let (package, from, to) = (new.name.clone(), old.version.clone(), new.version.clone());
    match version::compare(&old.version, &new.version) {
        Ordering::Less => Some(Change::Upgraded { package, from, to }),
        Ordering::Greater => Some(Change::Downgraded { package, from, to }),
        Ordering::Equal => {
            let place = |package: &LockedPackage| format!("{} {}", package.repository, package.suite);
            let other_bytes = old.sha256 != new.sha256;
            (other_bytes || place(old) != place(new)).then(|| Change::Source {
                package,
                from: place(old),
                to: place(new),
                other_bytes,
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::file::tests::sample;
    use super::*;

    #[test]
    fn every_kind_of_change_is_told() {
        let mut old = sample();
        let mut new = sample();
        assert!(changes(&old, &new).is_empty());
        let template = old.packages[0].clone();
        let make = |name: &str, version: &str, suite: &str| LockedPackage {
            name: name.to_owned(),
            version: version.to_owned(),
            suite: suite.to_owned(),
            ..template.clone()
        };
        old.packages = vec![make("a", "1", "x"), make("b", "1", "x"), make("c", "2", "x"), make("d", "1", "x")];
        new.packages = vec![make("b", "1.1", "x"), make("c", "2~", "x"), make("d", "1", "y"), make("e", "1", "x")];
        let told: Vec<String> = changes(&old, &new).iter().map(ToString::to_string).collect();
        assert_eq!(
            told,
            [
                "removed    a 1",
                "upgraded   b 1 -> 1.1",
                "downgraded c 2 -> 2~",
                "moved      d debian x -> debian y",
                "added      e 1 (wanted)"
            ]
        );
        let json = serde_json::to_string(&changes(&old, &new)[1]).unwrap();
        assert_eq!(json, r#"{"change":"upgraded","package":"b","from":"1","to":"1.1"}"#);
    }
}
