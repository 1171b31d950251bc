//! What a person sees while a build runs: bars on a terminal, plain lines elsewhere. Everything
//! goes to standard error; standard output is for results.

use std::io::{IsTerminal, Write};
use std::sync::Arc;
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use crate::progress::{Progress, Silent, Task, Unit};

/// How often a bar is drawn anew.
const TICK: Duration = Duration::from_millis(120);

/// Shows progress in the way the error stream can take it.
#[derive(Debug, Clone)]
pub struct Reporter {
    bars: Option<MultiProgress>,
    quiet: bool,
}

impl Reporter {
    /// Looks at standard error: a terminal gets bars, all else plain lines.
    pub fn new(quiet: bool) -> Self {
        let bars = (!quiet && std::io::stderr().is_terminal()).then(MultiProgress::new);
        Self { bars, quiet }
    }

    /// One line for people, above any bar.
    #[allow(clippy::print_stderr, reason = "this is where people are spoken to")]
    pub fn line(&self, text: &str) {
        match &self.bars {
            Some(bars) => bars.suspend(|| eprintln!("{text}")),
            None => {
                let _ = writeln!(std::io::stderr(), "{text}");
            }
        }
    }
}

impl Progress for Reporter {
    fn begin(&self, name: &str, total: u64, unit: Unit) -> Box<dyn Task> {
        let Some(bars) = &self.bars else {
            if !self.quiet {
                self.line(name);
            }
            return Box::new(Silent);
        };
        let template = match (total, unit) {
            (0, _) => "{spinner} {msg} {elapsed}",
            (_, Unit::Bytes) => "{spinner} {msg:28} {bar:28} {bytes}/{total_bytes} {bytes_per_sec}",
            (_, Unit::Items) => "{spinner} {msg:28} {bar:28} {pos}/{len}",
        };
        let bar = bars.add(if total == 0 { ProgressBar::new_spinner() } else { ProgressBar::new(total) });
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        bar.set_message(name.to_owned());
        bar.enable_steady_tick(TICK);
        Box::new(Bar(Arc::new(bar)))
    }

    fn note(&self, line: &str) {
        if !self.quiet {
            self.line(line);
        }
    }
}

struct Bar(Arc<ProgressBar>);

impl Task for Bar {
    fn advance(&self, amount: u64) {
        self.0.inc(amount);
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
