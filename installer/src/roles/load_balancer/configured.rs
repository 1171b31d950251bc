//! A configuration that its program accepts before it is put in place, and the last one that it accepted.
//!
//! The candidate is written beside its place, read by the program itself, and only then renamed: what was checked is
//! byte for byte what is loaded. What else it needs (the CA) has names that come from its content, so the standing
//! configuration is whole at every moment.

use std::collections::BTreeMap;

use profile::secret::Secret;
use serde::{Deserialize, Serialize};
use trust::Sha256Digest;

use crate::apply::expect;
use crate::failure::{Failure, Result};
use crate::machine::{Attributes, Command, Machine, parent, read_text, replace};
use crate::report::codes;
use crate::steps::files::{Files, Wanted};
use crate::steps::{How, UnitAction, Verdict, Work, World};

/// How each of our configurations begins: nobody else's is taken for a good one.
const OURS: &str = "# Rendered from the profile";

/// Seconds after which a refused configuration is shown to the program again.
const AGAIN: u64 = 30;

/// A program with a configuration.
pub struct Program {
    /// Its name.
    pub name: &'static str,
    /// Its unit.
    pub unit: &'static str,
    /// Its configuration.
    pub config: &'static str,
    /// Where the last good one is kept.
    pub good: &'static str,
    /// Where a refusal is noted until the next boot.
    pub refused: &'static str,
    /// What reads a candidate and says whether it is good; with or without the rules of services.
    pub test: fn(&str, bool) -> Command,
}

impl std::fmt::Debug for Program {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}

impl Program {
    fn candidate(&self) -> String {
        format!("{}.candidate", self.config)
    }

    /// Whether one of our configurations is in place.
    fn stands(&self, machine: &dyn Machine) -> Result<bool> {
        Ok(read_text(machine, self.config)?.is_some_and(|text| text.starts_with(OURS)))
    }

    fn units(&self) -> Vec<UnitAction> {
        vec![UnitAction::new(How::Reload, self.unit), UnitAction::new(How::Start, self.unit)]
    }

    /// The refusal that is noted.
    fn note(&self, machine: &dyn Machine) -> Result<Option<Refused>> {
        // One that cannot be read is none: the program is asked again.
        Ok(read_text(machine, self.refused)?.and_then(|text| serde_json::from_str(&text).ok()))
    }

    fn forget(&self, machine: &dyn Machine) -> Result<()> {
        machine.remove(self.refused).map_err(|e| Failure::io("removing", self.refused, &e))
    }

    /// Shows the candidate to the program: its words when it refuses it.
    fn asks(&self, machine: &dyn Machine, hidden: Option<&Secret>) -> Result<Option<String>> {
        let services = machine
            .list(super::haproxy::SERVICES)
            .map_err(|e| Failure::io("reading", super::haproxy::SERVICES, &e))?
            .iter()
            .any(|name| name.ends_with(".cfg"));
        let command = (self.test)(&self.candidate(), services);
        let output = machine.run(&command).map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => {
                Failure::new(&codes::PROGRAM_MISSING, format!("{} is not in the image", command.program))
            }
            _ => Failure::io("running", &command.program, &error),
        })?;
        if output.ok() {
            return Ok(None);
        }
        let said = if output.tail.trim().is_empty() { output.out } else { output.tail };
        let secret = |line: &str| hidden.is_some_and(|hidden| line.contains(hidden.expose()));
        let lines: Vec<&str> = said.lines().filter(|line| !line.trim().is_empty() && !secret(line)).collect();
        let last = lines.get(lines.len().saturating_sub(8)..).unwrap_or_default();
        let end = output.code.map_or_else(|| "was killed".to_owned(), |code| format!("ended with {code}"));
        Ok(Some(format!("`{command}` {end}: {}", last.join(" / "))))
    }
}

/// A note of a refusal.
#[derive(Debug, Serialize, Deserialize)]
struct Refused {
    digest: String,
    uptime: u64,
    words: String,
}

/// The last good files, by path.
#[derive(Debug, Serialize, Deserialize)]
struct Good {
    files: BTreeMap<String, (u32, String)>,
}

impl Good {
    /// Those below the program's own folder: whoever wrote the state partition writes nowhere else.
    fn files(self, program: &Program) -> Files {
        let folder = format!("{}/", parent(program.config));
        let ours = |path: &str| path.strip_prefix(&folder).is_some_and(|name| !name.is_empty() && !name.contains('/'));
        let wanted = |(path, (mode, text))| Wanted { attributes: Attributes::root(mode & 0o644), ..Wanted::private(path, text) };
        let mut files: Vec<Wanted> = self.files.into_iter().filter(|(path, _)| ours(path)).map(wanted).collect();
        // The configuration last: what it names is there before it.
        files.sort_by_key(|file| file.path == program.config);
        Files::of(files)
    }
}

/// A configuration as it shall be; the last of its files is the one that the program reads.
#[derive(Debug)]
pub struct Configured {
    /// Whose.
    pub program: &'static Program,
    /// The files.
    pub files: Files,
    /// A secret in it: no line of the program that holds it is told.
    pub hidden: Option<Secret>,
}

impl Configured {
    fn digest(&self) -> String {
        Sha256Digest::of(&self.files.input()).to_string()
    }

    fn config(&self) -> Option<&Wanted> {
        self.files.files.iter().find(|file| file.path == self.program.config)
    }

    /// Whether it stands already.
    ///
    /// # Errors
    /// The files cannot be read.
    pub fn stands(&self, machine: &dyn Machine) -> Result<bool> {
        Ok(self.files.check(machine)? == Verdict::Holds)
    }

    /// Writes the candidate and lets the program read it.
    fn offer(&self, machine: &dyn Machine, files: &Files) -> Result<Option<String>> {
        let candidate = self.program.candidate();
        let folder = parent(self.program.config);
        if machine.attributes(folder).map_err(|e| Failure::io("reading", folder, &e))?.is_none() {
            machine.make_folder(folder, Attributes::root(0o755)).map_err(|e| Failure::io("making", folder, &e))?;
        }
        for file in &files.files {
            if file.path == self.program.config {
                let written = machine.write(&candidate, file.content.expose().as_bytes(), file.attributes);
                written.map_err(|e| Failure::io("writing", &candidate, &e))?;
            }
        }
        self.program.asks(machine, self.hidden.as_ref())
    }

    /// Puts the candidate, and with it the rest, in place; the unit is told at the end of the phase.
    fn place(&self, machine: &dyn Machine) -> Result<()> {
        expect(machine, self.program.units())?;
        let (candidate, config) = (self.program.candidate(), self.program.config);
        let moved = machine.rename(&candidate, config).and_then(|()| machine.sync_folder(parent(config)));
        moved.map_err(|e| Failure::io("writing", config, &e))
    }

    /// The last good one serves; the refusal is noted, and told.
    fn fall_back(&self, world: World<'_>, words: String) -> Result<()> {
        let machine = world.machine;
        let refused = |words: &str| Failure::new(&codes::BALANCER_REFUSED, words);
        if !self.program.stands(machine)? {
            let good = read_text(machine, self.program.good)?.and_then(|text| serde_json::from_str::<Good>(&text).ok());
            let Some(files) = good.map(|good| good.files(self.program)) else {
                self.drop_candidate(machine)?;
                return Err(refused(&format!("{words}; there is no former one")));
            };
            let beside = files.files.iter().filter(|file| file.path != self.program.config).cloned().collect();
            Files::of(beside).apply(world)?;
            if let Some(other) = self.offer(machine, &files)? {
                self.drop_candidate(machine)?;
                return Err(refused(&format!("{words}; the former one is refused as well: {other}")));
            }
            self.place(machine)?;
        }
        self.drop_candidate(machine)?;
        let note = Refused { digest: self.digest(), uptime: machine.uptime().as_secs(), words };
        let text = serde_json::to_string(&note)
            .map_err(|e| Failure::new(&codes::INPUT_OUTPUT, format!("writing {}: {e}", self.program.refused)))?;
        replace(machine, self.program.refused, text.as_bytes(), Attributes::root(0o600))?;
        world.report.warn(&refused(&format!("{}; the last good one serves", note.words)));
        Ok(())
    }

    fn drop_candidate(&self, machine: &dyn Machine) -> Result<()> {
        let candidate = self.program.candidate();
        machine.remove(&candidate).map_err(|e| Failure::io("removing", &candidate, &e))
    }
}

impl Work for Configured {
    fn lines(&self) -> Vec<String> {
        self.files.lines()
    }

    fn input(&self) -> Vec<u8> {
        self.files.input()
    }

    fn check(&self, machine: &dyn Machine) -> Result<Verdict> {
        let note = self.program.note(machine)?;
        let verdict = self.files.check(machine)?;
        match note {
            Some(_) if verdict == Verdict::Holds => Ok(Verdict::Differs("a former refusal is noted".to_owned())),
            Some(note)
                if note.digest == self.digest()
                    && machine.uptime().as_secs().saturating_sub(note.uptime) < AGAIN
                    && self.program.stands(machine)? =>
            {
                Ok(Verdict::Holds)
            }
            _ => Ok(verdict),
        }
    }

    fn apply(&self, world: World<'_>) -> Result<()> {
        let machine = world.machine;
        let Some(config) = self.config().filter(|_| machine.live()) else { return Ok(()) };
        // Side by side with those of the standing one: their names come from their content.
        let beside = self.files.files.iter().filter(|file| file.path != config.path).cloned().collect();
        Files::of(beside).apply(world)?;
        if Files::of(vec![config.clone()]).check(machine)? != Verdict::Holds {
            if let Some(words) = self.offer(machine, &self.files)? {
                return self.fall_back(world, words);
            }
            self.place(machine)?;
        }
        self.program.forget(machine)?;
        self.files.apply(world)
    }
}

/// What was accepted is kept for later boots.
#[derive(Debug)]
pub struct Kept {
    /// Whose.
    pub program: &'static Program,
    /// Its files.
    pub paths: Vec<String>,
}

impl Kept {
    /// The text that is kept, or the refusal that stands.
    fn text(&self, machine: &dyn Machine) -> Result<String> {
        if let Some(note) = self.program.note(machine)? {
            return Err(Failure::new(&codes::BALANCER_REFUSED, format!("{}; the last good one serves", note.words)));
        }
        let mut files = BTreeMap::new();
        for path in &self.paths {
            let attributes = machine.attributes(path).map_err(|e| Failure::io("reading", path, &e))?;
            if let (Some(text), Some(attributes)) = (read_text(machine, path)?, attributes) {
                files.insert(path.clone(), (attributes.mode, text));
            }
        }
        serde_json::to_string(&Good { files })
            .map_err(|e| Failure::new(&codes::INPUT_OUTPUT, format!("writing {}: {e}", self.program.good)))
    }
}

impl Work for Kept {
    fn lines(&self) -> Vec<String> {
        vec![format!("{}, once {} has accepted it", self.program.good, self.program.name)]
    }

    fn input(&self) -> Vec<u8> {
        self.paths.join("\n").into_bytes()
    }

    fn check(&self, machine: &dyn Machine) -> Result<Verdict> {
        let text = self.text(machine)?;
        if !machine.live() || read_text(machine, self.program.good)?.as_deref() == Some(&text) {
            return Ok(Verdict::Holds);
        }
        Ok(Verdict::Differs(format!("{} has another content", self.program.good)))
    }

    fn apply(&self, world: World<'_>) -> Result<()> {
        let text = self.text(world.machine)?;
        let folder = parent(self.program.good);
        world.machine.make_folder(folder, Attributes::root(0o700)).map_err(|e| Failure::io("making", folder, &e))?;
        replace(world.machine, self.program.good, text.as_bytes(), Attributes::root(0o600))
    }

    fn keeps_only(&self) -> bool {
        true
    }
}

/// A program that the profile has no use for.
#[derive(Debug)]
pub struct Gone(pub &'static Program);

impl Work for Gone {
    fn lines(&self) -> Vec<String> {
        vec![format!("{} does not run", self.0.unit)]
    }

    fn input(&self) -> Vec<u8> {
        Vec::new()
    }

    fn check(&self, machine: &dyn Machine) -> Result<Verdict> {
        let there = read_text(machine, self.0.config)?.is_some();
        Ok(if there { Verdict::Differs(format!("{} is no longer wanted", self.0.config)) } else { Verdict::Holds })
    }

    fn apply(&self, world: World<'_>) -> Result<()> {
        world.machine.remove(self.0.config).map_err(|e| Failure::io("removing", self.0.config, &e))?;
        self.0.forget(world.machine)
    }

    fn units(&self) -> Vec<UnitAction> {
        vec![UnitAction::new(How::Stop, self.0.unit)]
    }
}
