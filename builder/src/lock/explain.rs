//! Says in words why there is no choice of packages: who needs what, who conflicts with whom,
//! which versions exist and why they are not taken.

use std::collections::BTreeSet;

use resolvo::conflict::{ConflictCause, ConflictEdge, ConflictGraph, ConflictNode};

use super::archive::{Archive, Id};
use super::relation::{self, Group, Relation};
use super::solve::{Label, Model};
use crate::error::{Error, Kind, Result};

/// Sentences shown at most: a person reads no more of them.
const LINES: usize = 30;

/// Refuses relations of the definition no alternative of which names anything there is.
///
/// # Errors
/// All of them at once, with their places and near names.
pub(super) fn unknown_names(archive: &Archive<'_>, wanted: &[(Group<'_>, &str)]) -> Result<()> {
    let mut faults = Vec::new();
    let mut near = BTreeSet::new();
    for (group, origin) in wanted.iter().filter(|(group, _)| !group.iter().any(|relation| archive.knows(relation.name))) {
        faults.push(format!("{origin}: there is no package `{}` in any repository", relation::show(group)));
        near.extend(group.iter().filter_map(|relation| suggestion(archive, relation.name)));
    }
    if faults.is_empty() {
        return Ok(());
    }
    let error = Error::new(Kind::Document, faults.join("\n"));
    Err(near.into_iter().fold(error, Error::hint))
}

fn suggestion(archive: &Archive<'_>, name: &str) -> Option<String> {
    let near = archive.near(name);
    let names: Vec<String> = near.iter().map(|near| format!("`{near}`")).collect();
    (!names.is_empty()).then(|| format!("instead of `{name}`, did you mean {}?", names.join(" or ")))
}

/// Puts the solver's refusal into words.
pub(super) fn conflict(model: &Model<'_>, graph: &ConflictGraph) -> Error {
    let mut telling = Telling { model, lines: Vec::new(), hints: BTreeSet::new() };
    let (mut seen, mut stack) = (BTreeSet::new(), vec![graph.root_node]);
    while let Some(node) = stack.pop() {
        if !seen.insert(node) {
            continue;
        }
        let Some(from) = graph.graph.node_weight(node) else { continue };
        // Edges of one requirement stand together: they are its alternatives.
        let mut asked: Vec<(&ConflictEdge, Vec<ConflictNode>)> = Vec::new();
        let mut next = Vec::new();
        for edge in graph.graph.raw_edges().iter().filter(|edge| edge.source() == node) {
            next.push(edge.target());
            let Some(to) = graph.graph.node_weight(edge.target()) else { continue };
            match asked.iter_mut().find(|(known, _)| *known == &edge.weight) {
                Some((_, targets)) => targets.push(*to),
                None => asked.push((&edge.weight, vec![*to])),
            }
        }
        asked.iter().for_each(|(edge, targets)| telling.tell(from, edge, targets));
        stack.extend(next.into_iter().rev());
    }
    telling.error()
}

struct Telling<'m, 'a> {
    model: &'m Model<'a>,
    lines: Vec<String>,
    hints: BTreeSet<String>,
}

impl Telling<'_, '_> {
    fn tell(&mut self, from: &ConflictNode, edge: &ConflictEdge, targets: &[ConflictNode]) {
        let label = match edge {
            ConflictEdge::Requires(requirement) => self.model.label_of_requirement(*requirement),
            ConflictEdge::Conflict(ConflictCause::Constrains(set)) => self.model.label_of(*set),
            ConflictEdge::Conflict(_) => None,
        };
        let who = match from {
            ConflictNode::Solvable(solvable) => self.model.archive.show(self.model.id(*solvable)),
            _ => String::new(),
        };
        let ids: Vec<Id> = targets
            .iter()
            .filter_map(|node| match node {
                ConflictNode::Solvable(solvable) => Some(self.model.id(*solvable)),
                _ => None,
            })
            .collect();
        let shown: Vec<String> = ids.iter().map(|id| self.model.archive.show(*id)).collect();
        match label {
            Some(Label::Essential) => self.line(format!("{} is Essential and is always installed", shown.join(", "))),
            Some(Label::Wanted(text, origin)) => self.need(&format!("{origin} wants `{text}`"), &text, &shown),
            Some(Label::Needs(text)) => self.need(&format!("{who} needs `{text}`"), &text, &shown),
            Some(Label::Against(field, text)) => {
                let others = shown.join(", ");
                self.line(format!("{who} cannot be together with {others} (`{field}: {text}`)"));
            }
            None => {
                for node in targets {
                    if let ConflictNode::Excluded(reason) = node {
                        self.line(format!("{who} cannot be taken: {}", self.model.text(*reason)));
                    }
                }
            }
        }
    }

    fn need(&mut self, sentence: &str, relation: &str, candidates: &[String]) {
        match candidates {
            [] => {
                self.line(format!("{sentence}, which is not to be had"));
                for relation in relation.split(" | ") {
                    self.availability(relation);
                }
            }
            [only] => self.line(format!("{sentence}: that is {only}")),
            several => self.line(format!("{sentence}: that is one of {}", several.join(", "))),
        }
    }

    /// Which versions there are for a relation, and why each is not taken.
    fn availability(&mut self, text: &str) {
        let archive = self.model.archive;
        let groups = relation::parse(text, "").unwrap_or_default();
        let Some(relation) = groups.first().and_then(|group| group.first()) else { return };
        for id in archive.all(relation.name) {
            self.line(format!("  there is {}, but {}", archive.show(*id), why_not(archive, *id, relation)));
        }
        for (id, provides) in archive.provided(relation.name) {
            let version = match provides.constraint {
                Some((_, version)) => format!("version {version} of it"),
                None => "no version of it".to_owned(),
            };
            self.line(format!("  {} provides {version}", archive.show(*id)));
        }
        if !archive.knows(relation.name) {
            self.line(format!("  there is no package `{}` in any repository", relation.name));
            self.hints.extend(suggestion(archive, relation.name));
        }
    }

    fn line(&mut self, line: String) {
        if !self.lines.contains(&line) {
            self.lines.push(line);
        }
    }

    fn error(mut self) -> Error {
        let more = self.lines.len().saturating_sub(LINES);
        self.lines.truncate(LINES);
        if more > 0 {
            self.lines.push(format!("and {more} more of this kind"));
        }
        let text = self.lines.join("\n  ");
        let error = Error::new(Kind::Document, format!("there is no choice of packages that works:\n  {text}"));
        self.hints.into_iter().fold(error, Error::hint)
    }
}

/// Why a version does not serve a relation, in words.
fn why_not(archive: &Archive<'_>, id: Id, relation: &Relation<'_>) -> String {
    let Some(version) = archive.get(id) else { return "it is gone".to_owned() };
    let candidate = archive.candidate(relation.name);
    if let Some(why) = &version.barred {
        return why.clone();
    }
    if !archive.matches(id, relation) {
        return match (relation.constraint, relation.qualifier) {
            (Some((operator, asked)), None) => format!("`{operator} {asked}` is asked for"),
            _ => format!("`{relation}` is asked for"),
        };
    }
    match candidate.and_then(|id| archive.get(id)) {
        Some(taken) => format!(
            "{} goes before it (priority {} over {}): a pin can change that",
            taken.stanza.version, taken.priority, version.priority
        ),
        None => "it is not taken".to_owned(),
    }
}
