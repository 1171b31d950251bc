//! Chooses the packages: the definition's relations and all Essential packages, with everything
//! they depend on, free of conflicts. No Recommends.
//!
//! The solver is resolvo. Every name has one candidate (see `archive`), so a relation becomes the
//! ordered list of candidates that satisfy it, virtual packages included, and a conflict becomes
//! the candidates it forbids: Provides need no packages of their own in the model.
//!
//! Of several alternatives one that is needed anyway is taken, else the first that works; a real
//! package goes before those that provide its name, and these by Essential, Priority and name.
//! apt differs in the first rule (it may take both) and where it gives a tie to the name it read
//! latest; `tests/apt_oracle.rs` compares.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;

use resolvo::utils::{Pool, VersionSet};
use resolvo::{
    Candidates, Condition, ConditionId, ConditionalRequirement, Dependencies, DependencyProvider, Interner, KnownDependencies,
    NameId, Problem, Requirement, SolvableId, Solver, SolverCache, StringId, UnsolvableOrCancelled, VersionSetId,
    VersionSetUnionId,
};

use super::archive::{Archive, Id};
use super::obtain::Indexes;
use super::relation::{self, Group};
use super::{Lock, LockedPackage, explain};
use crate::definition::Definition;
use crate::error::{Error, Kind, Result};

/// Chooses the packages of a definition from verified indexes.
///
/// # Errors
/// [`Kind::Document`]: a relation that cannot be read, a package that does not exist (with near
/// names), or no choice that works, in words.
pub fn resolve(definition: &Definition, indexes: &Indexes) -> Result<Lock> {
    let mut wanted = Vec::new();
    for want in &definition.install {
        let groups = relation::parse(&want.relation, &definition.architecture)
            .map_err(|why| Error::new(Kind::Document, format!("{}: {why}", want.origin)))?;
        wanted.extend(groups.into_iter().map(|group| (group, want.origin.as_str())));
    }
    let groups: Vec<Group<'_>> = wanted.iter().map(|(group, _)| group.clone()).collect();
    let archive = Archive::read(definition, indexes, &groups)?;
    explain::unknown_names(&archive, &wanted)?;
    let essential = archive.essential();
    let chosen = Model::new(&archive).solve(&wanted, &essential)?;
    let reasons = reasons(&archive, &wanted, &essential, &chosen);
    let mut packages = Vec::new();
    for (id, because) in reasons {
        packages.push(locked(&archive, id, because)?);
    }
    packages.sort_by(|a, b| a.name.cmp(&b.name));
    let mut releases = indexes.releases.clone();
    releases.sort_by(|a, b| (&a.repository, &a.suite).cmp(&(&b.repository, &b.suite)));
    Ok(Lock {
        resolution: definition.resolution,
        architecture: definition.architecture.clone(),
        epoch: releases.iter().map(|release| release.date).max().unwrap_or(crate::epoch::Epoch(0)),
        releases,
        packages,
        containers: super::Containers::default(),
    })
}

fn locked(archive: &Archive<'_>, id: Id, because: String) -> Result<LockedPackage> {
    let lost = || Error::new(Kind::Failed, "a chosen package is gone from the archive");
    let version = archive.get(id).ok_or_else(lost)?;
    let index = archive.sources.indexes.get(version.index).ok_or_else(lost)?;
    let stanza = &version.stanza;
    Ok(LockedPackage {
        name: stanza.name.to_owned(),
        version: stanza.version.to_owned(),
        architecture: stanza.architecture.to_owned(),
        repository: index.repository.clone(),
        suite: index.suite.clone(),
        path: stanza.path.strip_prefix("./").unwrap_or(stanza.path).to_owned(),
        size: stanza.size,
        sha256: stanza.digest().map_err(|why| Error::new(Kind::Document, format!("the index `{}`: {why}", index.path)))?,
        because,
    })
}

/// Walks from what was asked for to everything needed, and says who first needed it.
///
/// Groups that only one chosen package satisfies are followed first, the others then in turn: an
/// alternative that is needed anyway goes before one that is not, even one named earlier. What the
/// solver took beyond that is not reached and drops out, which breaks no relation and no conflict.
fn reasons(archive: &Archive<'_>, wanted: &[(Group<'_>, &str)], essential: &[Id], chosen: &BTreeSet<Id>) -> BTreeMap<Id, String> {
    let mut walk = Walk { archive, chosen, reasons: BTreeMap::new(), queue: VecDeque::new(), open: VecDeque::new() };
    wanted.iter().for_each(|(group, _)| walk.follow(group, "wanted"));
    essential.iter().for_each(|id| walk.reach(*id, "essential"));
    while walk.step() {}
    walk.reasons
}

struct Walk<'w, 'a> {
    archive: &'w Archive<'a>,
    chosen: &'w BTreeSet<Id>,
    reasons: BTreeMap<Id, String>,
    /// Reached, dependencies not looked at yet.
    queue: VecDeque<Id>,
    /// Groups several chosen packages satisfy, and who asked.
    open: VecDeque<(Vec<Id>, String)>,
}

impl Walk<'_, '_> {
    fn follow(&mut self, group: &Group<'_>, why: &str) {
        let mut ids: Vec<Id> = group.iter().flat_map(|relation| self.archive.satisfiers(relation)).collect();
        ids.retain(|id| self.chosen.contains(id));
        match ids.as_slice() {
            [only] => self.reach(*only, why),
            _ => self.open.push_back((ids, why.to_owned())),
        }
    }

    fn reach(&mut self, id: Id, why: &str) {
        if let std::collections::btree_map::Entry::Vacant(place) = self.reasons.entry(id) {
            place.insert(why.to_owned());
            self.queue.push_back(id);
        }
    }

    /// False when there is nothing left to do.
    fn step(&mut self) -> bool {
        if let Some(id) = self.queue.pop_front() {
            let Some(stanza) = self.archive.get(id).map(|version| version.stanza) else { return true };
            for field in [stanza.pre_depends, stanza.depends] {
                // The solver read the same fields and would have refused a broken one.
                self.archive.groups(field).unwrap_or_default().iter().for_each(|group| self.follow(group, stanza.name));
            }
            return true;
        }
        let Some((ids, why)) = self.open.pop_front() else { return false };
        if !ids.iter().any(|id| self.reasons.contains_key(id)) {
            ids.first().into_iter().for_each(|id| self.reach(*id, &why));
        }
        true
    }
}

/// Candidates of one name that a relation takes, and whose relation it is (for the explanation).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Set {
    label: usize,
    member: Option<Id>,
}

impl fmt::Display for Set {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.member)
    }
}

impl VersionSet for Set {
    type V = Id;
}

/// What a requirement or a constraint was made from.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Label {
    /// A relation of the definition: text and place.
    Wanted(String, String),
    /// An Essential package.
    Essential,
    /// A dependency.
    Needs(String),
    /// `Conflicts` or `Breaks`, and the relation.
    Against(&'static str, String),
}

/// The solver's view of the archive.
pub(super) struct Model<'a> {
    /// The packages.
    pub archive: &'a Archive<'a>,
    pool: Pool<Set, String>,
    solvables: RefCell<BTreeMap<Id, SolvableId>>,
    labels: RefCell<(Vec<Label>, BTreeMap<Label, usize>)>,
}

impl<'a> Model<'a> {
    /// Nothing asked yet.
    pub fn new(archive: &'a Archive<'a>) -> Self {
        Self { archive, pool: Pool::new(), solvables: RefCell::default(), labels: RefCell::default() }
    }

    /// Solves for these groups (each with its place) and packages.
    ///
    /// # Errors
    /// [`Kind::Document`] with an explanation.
    pub fn solve(self, wanted: &[(Group<'_>, &str)], essential: &[Id]) -> Result<BTreeSet<Id>> {
        let mut requirements = Vec::new();
        for (group, origin) in wanted {
            requirements.push(self.requirement(group, Label::Wanted(relation::show(group), (*origin).to_owned())));
        }
        for id in essential {
            requirements.push(self.require(&[*id], "", Label::Essential));
        }
        let mut solver = Solver::new(self);
        match solver.solve(Problem::new().requirements(requirements)) {
            Ok(solution) => Ok(solution.into_iter().map(|solvable| solver.provider().id(solvable)).collect()),
            Err(UnsolvableOrCancelled::Unsolvable(conflict)) => {
                Err(explain::conflict(solver.provider(), &conflict.graph(&solver)))
            }
            Err(UnsolvableOrCancelled::Cancelled(_)) => Err(Error::new(Kind::Failed, "resolving was given up")),
        }
    }

    fn label(&self, label: Label) -> usize {
        let mut labels = self.labels.borrow_mut();
        let next = labels.0.len();
        let number = *labels.1.entry(label.clone()).or_insert(next);
        if number == next {
            labels.0.push(label);
        }
        number
    }

    fn set(&self, name: &str, label: usize, member: Option<Id>) -> VersionSetId {
        let name = self.pool.intern_package_name(name);
        self.pool.intern_version_set(name, Set { label, member })
    }

    fn name(&self, id: Id) -> &'a str {
        self.archive.get(id).map_or("", |version| version.stanza.name)
    }

    fn requirement(&self, group: &Group<'_>, label: Label) -> ConditionalRequirement {
        let mut ids: Vec<Id> = Vec::new();
        for id in group.iter().flat_map(|relation| self.archive.satisfiers(relation)) {
            if !ids.contains(&id) {
                ids.push(id);
            }
        }
        self.require(&ids, group.first().map_or("", |relation| relation.name), label)
    }

    /// One of `ids`, the first preferred; without any, an impossible wish under the name.
    fn require(&self, ids: &[Id], name: &str, label: Label) -> ConditionalRequirement {
        let label = self.label(label);
        let mut sets = ids.iter().map(|id| self.set(self.name(*id), label, Some(*id)));
        let requirement = match sets.next() {
            None => Requirement::Single(self.set(name, label, None)),
            Some(only) if ids.len() == 1 => Requirement::Single(only),
            Some(first) => Requirement::Union(self.pool.intern_version_set_union(first, sets)),
        };
        ConditionalRequirement { condition: None, requirement }
    }

    fn dependencies(&self, id: Id) -> Result<KnownDependencies, String> {
        let mut known = KnownDependencies::default();
        let Some(stanza) = self.archive.get(id).map(|version| version.stanza) else { return Ok(known) };
        for (field, text) in [("Pre-Depends", stanza.pre_depends), ("Depends", stanza.depends)] {
            for group in self.archive.groups(text).map_err(|why| format!("its {field} is broken: {why}"))? {
                known.requirements.push(self.requirement(&group, Label::Needs(relation::show(&group))));
            }
        }
        for (field, text) in [("Conflicts", stanza.conflicts), ("Breaks", stanza.breaks)] {
            for relation in
                self.archive.groups(text).map_err(|why| format!("its {field} is broken: {why}"))?.into_iter().flatten()
            {
                // A package never conflicts with itself, not even through what it provides.
                for other in self.archive.satisfiers(&relation).into_iter().filter(|other| *other != id) {
                    let label = self.label(Label::Against(field, relation.to_string()));
                    known.constrains.push(self.set(self.name(other), label, None));
                }
            }
        }
        Ok(known)
    }

    /// The package behind a solvable.
    pub fn id(&self, solvable: SolvableId) -> Id {
        self.pool.resolve_solvable(solvable).record
    }

    /// A reason given earlier.
    pub fn text(&self, reason: StringId) -> &str {
        self.pool.resolve_string(reason)
    }

    /// Where a requirement or constraint came from.
    pub fn label_of(&self, set: VersionSetId) -> Option<Label> {
        self.labels.borrow().0.get(self.pool.resolve_version_set(set).label).cloned()
    }

    /// Where a requirement came from.
    pub fn label_of_requirement(&self, requirement: Requirement) -> Option<Label> {
        match requirement {
            Requirement::Single(set) => self.label_of(set),
            Requirement::Union(union) => self.label_of(self.pool.resolve_version_set_union(union).next()?),
        }
    }
}

impl fmt::Debug for Model<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Model").field("packages", &self.solvables.borrow().len()).finish_non_exhaustive()
    }
}

impl Interner for Model<'_> {
    type NameId = NameId;
    type SolvableId = SolvableId;

    fn display_solvable(&self, solvable: SolvableId) -> impl fmt::Display + '_ {
        self.archive.show(self.id(solvable))
    }

    fn display_name(&self, name: NameId) -> impl fmt::Display + '_ {
        self.pool.resolve_package_name(name).as_str()
    }

    fn display_version_set(&self, set: VersionSetId) -> impl fmt::Display + '_ {
        self.pool.resolve_version_set(set)
    }

    fn display_string(&self, text: StringId) -> impl fmt::Display + '_ {
        self.pool.resolve_string(text)
    }

    fn version_set_name(&self, set: VersionSetId) -> NameId {
        self.pool.resolve_version_set_package_name(set)
    }

    fn solvable_name(&self, solvable: SolvableId) -> NameId {
        self.pool.resolve_solvable(solvable).name
    }

    fn version_sets_in_union(&self, union: VersionSetUnionId) -> impl Iterator<Item = VersionSetId> {
        self.pool.resolve_version_set_union(union)
    }

    fn resolve_condition(&self, condition: ConditionId) -> Condition {
        self.pool.resolve_condition(condition).clone()
    }
}

impl DependencyProvider for Model<'_> {
    async fn filter_candidates(&self, candidates: &[SolvableId], set: VersionSetId, inverse: bool) -> Vec<SolvableId> {
        let member = self.pool.resolve_version_set(set).member;
        candidates.iter().copied().filter(|solvable| (Some(self.id(*solvable)) == member) != inverse).collect()
    }

    async fn get_candidates(&self, name: NameId) -> Option<Candidates> {
        let id = self.archive.candidate(self.pool.resolve_package_name(name))?;
        let solvable = *self.solvables.borrow_mut().entry(id).or_insert_with(|| self.pool.intern_solvable(name, id));
        Some(Candidates { candidates: vec![solvable], ..Candidates::default() })
    }

    async fn sort_candidates(&self, _: &SolverCache<Self>, _: &mut [SolvableId]) {
        // One candidate per name: the order of preference is that of the union.
    }

    async fn get_dependencies(&self, solvable: SolvableId) -> Dependencies {
        match self.dependencies(self.id(solvable)) {
            Ok(known) => Dependencies::Known(known),
            Err(why) => Dependencies::Unknown(self.pool.intern_string(why)),
        }
    }
}

#[cfg(test)]
#[path = "solve_tests.rs"]
pub(super) mod tests;
