//! All packages of all indexes, and which version of each may be taken: as with apt, one per name,
//! its candidate: the highest version among those of the highest priority.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};

use super::index::{self, Stanza};
use super::obtain::Indexes;
use super::relation::{self, Group, Operator, Relation};
use super::{pins, version};
use crate::definition::Definition;
use crate::error::{Error, Kind, Result};

/// Number of a package version in [`Archive`].
pub(super) type Id = u32;

/// One version of a package.
#[derive(Debug, Clone)]
pub(super) struct Version<'a> {
    /// What the index says.
    pub stanza: Stanza<'a>,
    /// Number of the index in [`Indexes::indexes`].
    pub index: usize,
    /// apt priority.
    pub priority: i32,
    /// Why it can never be taken, in words.
    pub barred: Option<String>,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Archive<'a> {
    /// Where the packages come from.
    pub sources: &'a Indexes,
    architecture: &'a str,
    versions: Vec<Version<'a>>,
    by_name: HashMap<&'a str, Vec<Id>>,
    candidates: HashMap<&'a str, Id>,
    providers: HashMap<&'a str, Vec<(Id, Relation<'a>)>>,
}

impl<'a> Archive<'a> {
    /// Reads all indexes. `asked` are the groups of the definition: one that names a single package
    /// with a version narrows what may be its candidate, as `apt install name=version` does.
    ///
    /// # Errors
    /// [`Kind::Document`] naming index and line.
    pub fn read(definition: &'a Definition, sources: &'a Indexes, asked: &[Group<'a>]) -> Result<Self> {
        let architecture = definition.architecture.as_str();
        let mut archive = Self {
            sources,
            architecture,
            versions: Vec::new(),
            by_name: HashMap::new(),
            candidates: HashMap::new(),
            providers: HashMap::new(),
        };
        let mut names = Vec::new();
        for (number, index) in sources.indexes.iter().enumerate() {
            // About 800 bytes stand for one package.
            archive.versions.reserve(index.text.len() / 800);
            archive.by_name.reserve(index.text.len() / 800);
            let stanzas = index::scan(&index.text).map_err(|why| {
                Error::new(Kind::Document, format!("the index `{}` of `{}`: {why}", index.path, index.repository))
            })?;
            let ours = stanzas.into_iter().filter(|s| s.architecture == architecture || s.architecture == "all");
            for stanza in ours {
                if archive.add(definition, number, stanza)? {
                    names.push(stanza.name);
                }
            }
        }
        let mut narrow: HashMap<&str, Vec<(Operator, &str)>> = HashMap::new();
        for group in asked {
            if let [Relation { name, constraint: Some(constraint), .. }] = group.as_slice() {
                narrow.entry(name).or_default().push(*constraint);
            }
        }
        archive.candidates.reserve(names.len());
        for name in names {
            let narrow = narrow.get(name).map_or(&[][..], Vec::as_slice);
            while let Some(id) = archive.choose(name, narrow) {
                if archive.provide(id) {
                    archive.candidates.insert(name, id);
                    break;
                }
            }
        }
        Ok(archive)
    }

    /// Adds a version; true where its name is new.
    fn add(&mut self, definition: &Definition, number: usize, stanza: Stanza<'a>) -> Result<bool> {
        let index = self.sources.indexes.get(number).ok_or_else(|| Error::new(Kind::Failed, "an index is gone"))?;
        let (priority, pin) = pins::priority(&definition.pins, stanza.name, stanza.version, index);
        let barred = if definition.without.iter().any(|name| name == stanza.name) {
            Some("the definition excludes it by `without`".to_owned())
        } else if priority < 0 {
            let by = pin.map_or("its repository's".to_owned(), |pin| format!("the pin at {}:", pin.origin));
            Some(format!("{by} priority {priority} means never"))
        } else {
            None
        };
        let id =
            Id::try_from(self.versions.len()).map_err(|_| Error::new(Kind::Document, "the indexes hold too many packages"))?;
        let of_name = self.by_name.entry(stanza.name).or_default();
        // The same version from two places: the place of higher priority counts, then the first.
        let equal = |id: &&Id| self.versions.get(**id as usize).is_some_and(|v| v.stanza.version == stanza.version);
        let same = of_name.iter().find(equal).copied();
        match same.and_then(|id| self.versions.get_mut(id as usize)) {
            Some(there) if there.priority >= priority => {}
            Some(there) => *there = Version { stanza, index: number, priority, barred },
            None => {
                of_name.push(id);
                self.versions.push(Version { stanza, index: number, priority, barred });
                return Ok(of_name.len() == 1);
            }
        }
        Ok(false)
    }

    /// The best version that is not barred, among those that keep the narrowing where any does.
    fn choose(&self, name: &str, narrow: &[(Operator, &str)]) -> Option<Id> {
        let mut best: Option<(Id, (bool, i32), &str)> = None;
        for id in self.all(name) {
            let Some(found) = self.get(*id).filter(|version| version.barred.is_none()) else { continue };
            let version = found.stanza.version;
            let kept = narrow.iter().all(|(operator, asked)| operator.holds(version, asked));
            let worth = (kept, found.priority);
            let beaten = best
                .is_some_and(|(_, other, highest)| other.cmp(&worth).then_with(|| version::compare(highest, version)).is_ge());
            if !beaten {
                best = Some((*id, worth, version));
            }
        }
        best.map(|(id, ..)| id)
    }

    /// Notes what a version provides; one whose Provides cannot be read is barred, and false.
    fn provide(&mut self, id: Id) -> bool {
        let Some(version) = self.versions.get_mut(id as usize) else { return false };
        if version.stanza.provides.is_empty() {
            return true;
        }
        match relation::parse(version.stanza.provides, self.architecture) {
            Ok(groups) => {
                for relation in groups.into_iter().flatten() {
                    self.providers.entry(relation.name).or_default().push((id, relation));
                }
                true
            }
            Err(why) => {
                version.barred = Some(format!("its Provides is broken: {why}"));
                false
            }
        }
    }

    /// A version by its number.
    pub fn get(&self, id: Id) -> Option<&Version<'a>> {
        self.versions.get(id as usize)
    }

    /// All versions of the name, in the order of the indexes.
    pub fn all(&self, name: &str) -> &[Id] {
        self.by_name.get(name).map_or(&[], Vec::as_slice)
    }

    /// The one version of the name that may be taken.
    pub fn candidate(&self, name: &str) -> Option<Id> {
        self.candidates.get(name).copied()
    }

    /// The candidates that provide the name, with what they say.
    pub fn provided(&self, name: &str) -> &[(Id, Relation<'a>)] {
        self.providers.get(name).map_or(&[], Vec::as_slice)
    }

    /// Whether any package has or provides this name.
    pub fn knows(&self, name: &str) -> bool {
        self.by_name.contains_key(name) || self.providers.contains_key(name)
    }

    /// The candidates that are Essential, by name.
    pub fn essential(&self) -> Vec<Id> {
        let is = |version: &Version<'_>| version.stanza.essential;
        let found = self.versions.iter().filter(|v| is(v)).filter_map(|v| Some((v.stanza.name, self.candidate(v.stanza.name)?)));
        let named: BTreeMap<&str, Id> = found.filter(|(_, id)| self.get(*id).is_some_and(is)).collect();
        named.into_values().collect()
    }

    /// Names like this one, best first.
    pub fn near(&self, name: &str) -> Vec<&'a str> {
        let mut near: Vec<(f64, &str)> = Vec::new();
        for version in &self.versions {
            let likeness = strsim::jaro_winkler(name, version.stanza.name);
            if likeness > 0.88 && !near.iter().any(|(_, known)| *known == version.stanza.name) {
                near.push((likeness, version.stanza.name));
            }
        }
        near.sort_by(|a, b| b.0.total_cmp(&a.0).then_with(|| a.1.cmp(b.1)));
        near.into_iter().take(3).map(|(_, name)| name).collect()
    }

    /// The candidates that satisfy a relation: the package of that name, then those that provide
    /// it, in apt's order of preference: Essential, Priority. apt then takes the name that its
    /// indexes mention latest; the last name in the alphabet is nearest to that and more stable.
    pub fn satisfiers(&self, relation: &Relation<'_>) -> Vec<Id> {
        let real = self.candidate(relation.name).filter(|id| self.matches(*id, relation));
        let mut providers: Vec<Id> = self
            .provided(relation.name)
            .iter()
            .filter(|(id, provides)| {
                // An unversioned Provides satisfies no versioned relation (Policy 7.5).
                let version = match (relation.constraint, provides.constraint) {
                    (None, _) => true,
                    (Some((operator, asked)), Some((_, has))) => operator.holds(has, asked),
                    (Some(_), None) => false,
                };
                version && self.qualifies(*id, relation) && Some(*id) != real
            })
            .map(|(id, _)| *id)
            .collect();
        providers.sort_by_key(|id| self.get(*id).map(|v| (!v.stanza.essential, v.stanza.rank, Reverse(v.stanza.name))));
        providers.dedup();
        real.into_iter().chain(providers).collect()
    }

    /// Whether a version has the name, version and architecture that a relation asks for.
    pub fn matches(&self, id: Id, relation: &Relation<'_>) -> bool {
        self.get(id).is_some_and(|v| {
            v.stanza.name == relation.name && relation.constraint.is_none_or(|(op, asked)| op.holds(v.stanza.version, asked))
        }) && self.qualifies(id, relation)
    }

    /// `:any` wants a package that says Multi-Arch: allowed; another architecture is never there.
    fn qualifies(&self, id: Id, relation: &Relation<'_>) -> bool {
        match relation.qualifier {
            None | Some("native") => true,
            Some("any") => self.get(id).is_some_and(|v| v.stanza.any_allowed),
            Some(architecture) => architecture == self.architecture,
        }
    }

    /// Reads one of a package's fields.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn groups(&self, field: &'a str) -> Result<Vec<Group<'a>>, String> {
        relation::parse(field, self.architecture)
    }

    /// `haproxy 3.0.11-1 (debian trixie)`
    pub fn show(&self, id: Id) -> String {
        let Some(version) = self.get(id) else { return "an unknown package".to_owned() };
        let place = self.sources.indexes.get(version.index).map_or(String::new(), |i| format!(" ({} {})", i.repository, i.suite));
        format!("{} {}{place}", version.stanza.name, version.stanza.version)
    }
}
