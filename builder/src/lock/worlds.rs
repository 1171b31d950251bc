//! Random small archives: what we choose is checked by an independent reader of the rules, and
//! where we find nothing, by trying every set of packages there is.

use std::collections::BTreeSet;
use std::fmt::Write;

use proptest::prelude::*;

use super::resolve;
use super::solve::tests::{definition, sources};

const NAMES: [&str; 6] = ["a", "b", "c", "d", "e", "f"];
/// Names that may also be asked for: `v` and `w` are only ever provided.
const ASKED: [&str; 8] = ["a", "b", "c", "d", "e", "f", "v", "w"];

#[derive(Debug, Clone)]
struct Asked {
    name: usize,
    constraint: Option<(usize, u8)>,
}

#[derive(Debug, Clone)]
struct Package {
    name: usize,
    version: u8,
    essential: bool,
    depends: Vec<Vec<Asked>>,
    conflicts: Vec<Asked>,
    provides: Vec<(usize, Option<u8>)>,
}

const OPERATORS: [&str; 5] = ["<<", "<=", "=", ">=", ">>"];

impl Asked {
    fn text(&self) -> String {
        match self.constraint {
            Some((operator, version)) => format!("{} ({} {version})", ASKED[self.name], OPERATORS[operator]),
            None => ASKED[self.name].to_owned(),
        }
    }

    /// Written apart from the resolver on purpose: versions here are plain numbers.
    fn met_by(&self, package: &Package) -> bool {
        let holds = |version: Option<u8>| match (self.constraint, version) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some((operator, asked)), Some(found)) => match OPERATORS[operator] {
                "<<" => found < asked,
                "<=" => found <= asked,
                "=" => found == asked,
                ">=" => found >= asked,
                _ => found > asked,
            },
        };
        (package.name == self.name && holds(Some(package.version)))
            || package.provides.iter().any(|(name, version)| *name == self.name && holds(*version))
    }
}

fn text(packages: &[Package]) -> String {
    let mut text = String::new();
    for package in packages {
        let list = |groups: &mut dyn Iterator<Item = String>| groups.collect::<Vec<_>>().join(", ");
        let alternatives = |group: &Vec<Asked>| group.iter().map(Asked::text).collect::<Vec<_>>().join(" | ");
        let provides = |(name, version): &(usize, Option<u8>)| match version {
            Some(version) => format!("{} (= {version})", ASKED[*name]),
            None => ASKED[*name].to_owned(),
        };
        writeln!(text, "{} {}", NAMES[package.name], package.version).unwrap();
        writeln!(text, " Depends: {}", list(&mut package.depends.iter().map(alternatives))).unwrap();
        writeln!(text, " Conflicts: {}", list(&mut package.conflicts.iter().map(Asked::text))).unwrap();
        writeln!(text, " Provides: {}", list(&mut package.provides.iter().map(provides))).unwrap();
        writeln!(text, " Essential: {}", if package.essential { "yes" } else { "no" }).unwrap();
    }
    text
}

/// Whether a set of packages keeps every rule.
fn valid(set: &[&Package], candidates: &[Package], wanted: &[Vec<Asked>]) -> bool {
    let met = |group: &Vec<Asked>| group.iter().any(|asked| set.iter().any(|package| asked.met_by(package)));
    let alone = |package: &&Package| {
        package.conflicts.iter().all(|asked| set.iter().all(|other| other.name == package.name || !asked.met_by(other)))
    };
    let essential = candidates.iter().filter(|p| p.essential).all(|p| set.iter().any(|other| other.name == p.name));
    essential && wanted.iter().all(met) && set.iter().all(|package| package.depends.iter().all(met) && alone(package))
}

/// The highest version of each name: what apt would consider.
fn candidates(packages: &[Package]) -> Vec<Package> {
    let best = |name: usize| packages.iter().filter(|package| package.name == name).max_by_key(|package| package.version);
    (0..NAMES.len()).filter_map(best).cloned().collect()
}

fn asked() -> impl Strategy<Value = Asked> {
    (0..ASKED.len(), proptest::option::weighted(0.3, (0..OPERATORS.len(), 1..4_u8)))
        .prop_map(|(name, constraint)| Asked { name, constraint })
}

fn group() -> impl Strategy<Value = Vec<Asked>> {
    proptest::collection::vec(asked(), 1..3)
}

fn package() -> impl Strategy<Value = Package> {
    let provides = proptest::collection::vec((0..ASKED.len(), proptest::option::of(1..4_u8)), 0..2);
    let relations = (proptest::collection::vec(group(), 0..3), proptest::collection::vec(asked(), 0..2), provides);
    (0..NAMES.len(), 1..4_u8, proptest::bool::weighted(0.08), relations).prop_map(
        |(name, version, essential, (depends, conflicts, provides))| Package {
            name,
            version,
            essential,
            depends,
            conflicts,
            provides,
        },
    )
}

fn world() -> impl Strategy<Value = Vec<Package>> {
    proptest::collection::vec(package(), 1..10).prop_map(|mut packages| {
        let mut seen = BTreeSet::new();
        packages.retain(|package| seen.insert((package.name, package.version)));
        packages
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, ..ProptestConfig::default() })]
    #[test]
    fn choices_are_valid_and_refusals_right(packages in world(), wanted in proptest::collection::vec(group(), 1..3)) {
        let candidates = candidates(&packages);
        // Unversioned wishes only: a version in a wish of one name moves the candidate (tested apart).
        let wanted: Vec<Vec<Asked>> = wanted
            .into_iter()
            .map(|group| group.into_iter().map(|asked| Asked { constraint: None, ..asked }).collect())
            .collect();
        let relations: Vec<String> =
            wanted.iter().map(|group: &Vec<Asked>| group.iter().map(Asked::text).collect::<Vec<_>>().join(" | ")).collect();
        let relations: Vec<&str> = relations.iter().map(String::as_str).collect();
        match resolve(&definition(&relations), &sources(&[("debian", "trixie", 500, &text(&packages))])) {
            Ok(lock) => {
                let chosen: BTreeSet<&str> = lock.packages.iter().map(|package| package.name.as_str()).collect();
                let set: Vec<&Package> = candidates.iter().filter(|package| chosen.contains(NAMES[package.name])).collect();
                prop_assert_eq!(set.len(), lock.packages.len());
                prop_assert!(set.iter().all(|p| lock.packages.iter().any(|l| l.name == NAMES[p.name] && l.version == p.version.to_string())));
                prop_assert!(valid(&set, &candidates, &wanted), "{:?}", chosen);
                let known = |because: &str| matches!(because, "wanted" | "essential") || chosen.contains(because);
                prop_assert!(lock.packages.iter().all(|package| known(&package.because)));
            }
            Err(error) => {
                for bits in 0..1_u32 << candidates.len() {
                    let set: Vec<&Package> =
                        candidates.iter().enumerate().filter(|(at, _)| bits >> at & 1 == 1).map(|(_, package)| package).collect();
                    let names: Vec<&str> = set.iter().map(|package| NAMES[package.name]).collect();
                    prop_assert!(!valid(&set, &candidates, &wanted), "{names:?} works, but: {error}");
                }
            }
        }
    }
}
