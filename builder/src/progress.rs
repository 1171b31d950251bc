//! How a stage tells a person what it does, without knowing where that person looks.

/// Receives the progress of one build. The program shows bars on a terminal and plain lines
/// elsewhere; tests use [`Silent`].
pub trait Progress: Send + Sync {
    /// A task begins. `total` is in `unit`s, 0 where it is not known.
    fn begin(&self, name: &str, total: u64, unit: Unit) -> Box<dyn Task>;

    /// One line that stays: a fact worth knowing that is no error.
    fn note(&self, line: &str);
}

/// What a task counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// Bytes, shown as KiB, MiB and so on.
    Bytes,
    /// Things: packages, files, blocks.
    Items,
}

/// One task under way. Dropping it ends it.
pub trait Task: Send + Sync {
    /// `amount` more are done.
    fn advance(&self, amount: u64);
}

/// Says nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Progress for Silent {
    fn begin(&self, _: &str, _: u64, _: Unit) -> Box<dyn Task> {
        Box::new(Silent)
    }

    fn note(&self, _: &str) {}
}

impl Task for Silent {
    fn advance(&self, _: u64) {}
}
