//! The steps: each checks, applies, and is checked again.

pub mod access;
pub mod accounts;
pub mod confirm;
pub mod files;
pub mod identity;
pub mod kernel;
pub mod network;
pub mod outside;
pub mod time;

use trust::Sha256Digest;

use crate::failure::Result;
use crate::machine::Machine;
use crate::report::Report;

/// Whether the machine is what a step stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It is.
    Holds,
    /// It is not, because of this.
    Differs(String),
}

/// What a step is carried out with.
#[derive(Debug, Clone, Copy)]
pub struct World<'a> {
    /// The machine.
    pub machine: &'a dyn Machine,
    /// Who is told.
    pub report: &'a Report<'a>,
}

impl std::fmt::Debug for dyn Machine + '_ {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Machine")
    }
}

/// What becomes of a unit when the files it reads have changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum How {
    /// All units' files are read again.
    ReadUnits,
    /// It reads its files again, if it runs.
    Reload,
    /// It is restarted, if it runs.
    Restart,
    /// It is started without waiting for it.
    Start,
    /// It is stopped.
    Stop,
}

/// A unit to tell after a change.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct UnitAction {
    /// How.
    pub how: How,
    /// Which; empty for [`How::ReadUnits`].
    pub unit: String,
}

impl UnitAction {
    /// An action on a unit.
    pub fn new(how: How, unit: &str) -> Self {
        Self { how, unit: unit.to_owned() }
    }
}

/// What a step does. `apply` can be killed anywhere and called again.
pub trait Work: std::fmt::Debug {
    /// What it is about, for `plan`: one line each, without secrets.
    fn lines(&self) -> Vec<String>;

    /// Exactly what it depends on: another input gives other bytes.
    fn input(&self) -> Vec<u8>;

    /// Whether the machine already is so. Changes nothing.
    ///
    /// # Errors
    /// The machine cannot be looked at.
    fn check(&self, machine: &dyn Machine) -> Result<Verdict>;

    /// Makes it so.
    ///
    /// # Errors
    /// Why it could not.
    fn apply(&self, world: World<'_>) -> Result<()>;

    /// Units that are told when something was changed.
    fn units(&self) -> Vec<UnitAction> {
        Vec::new()
    }

    /// Whether it may fail for want of the state partition without stopping the rest.
    fn keeps_only(&self) -> bool {
        false
    }
}

/// Whether a step can be done again with other input.
#[derive(Debug)]
pub enum Task {
    /// It can: the machine converges.
    Reversible(Box<dyn Work>),
    /// It cannot (kubeadm init, join): it is journalled before it begins, and refused with other input.
    Irreversible(Box<dyn Work>),
}

impl Task {
    /// What it does.
    pub fn work(&self) -> &dyn Work {
        match self {
            Task::Reversible(work) | Task::Irreversible(work) => &**work,
        }
    }
}

/// When a step is carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Before the network and the services start: they find their files ready.
    Local,
    /// When the network is there.
    Network,
}

/// A step of the plan.
#[derive(Debug)]
pub struct Step {
    /// Its name: lower-case letters and `-`.
    pub name: &'static str,
    /// When.
    pub phase: Phase,
    /// What.
    pub task: Task,
}

impl Step {
    /// A step that can be done again, before the network.
    pub fn local(name: &'static str, work: impl Work + 'static) -> Self {
        Self { name, phase: Phase::Local, task: Task::Reversible(Box::new(work)) }
    }

    /// A step that can be done again, with the network.
    pub fn network(name: &'static str, work: impl Work + 'static) -> Self {
        Self { name, phase: Phase::Network, task: Task::Reversible(Box::new(work)) }
    }

    /// The digest of its name and input.
    pub fn digest(&self) -> Sha256Digest {
        let mut bytes = format!("ingot step v1\n{}\n", self.name).into_bytes();
        bytes.extend(self.task.work().input());
        Sha256Digest::of(&bytes)
    }
}
