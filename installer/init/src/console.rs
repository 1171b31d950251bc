//! Words on the console and in the kernel's log, through /dev/kmsg: so they reach every console,
//! obey `quiet`, and are in the journal later.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::time::Instant;

/// In front of every line; tests and operators search for it.
pub const PREFIX: &str = "ingot-init:";

/// Kernel log levels (include/linux/kern_levels.h): `quiet` hides from 4 up.
const CRITICAL: u8 = 2;
const WARNING: u8 = 4;
const INFORMATION: u8 = 6;

/// Longest line /dev/kmsg takes is about 1000 bytes.
const LINE_BYTES: usize = 900;

/// /dev/kmsg drops lines of a talkative writer unless this says `on`.
const RATE_SETTING: &str = "/proc/sys/kernel/printk_devkmsg";

/// Where words go.
#[derive(Debug)]
pub struct Console {
    kernel_log: Option<File>,
    rate_before: Option<String>,
    debug: bool,
    last: Instant,
}

impl Console {
    /// A console that has only the standard error output, before /dev is there.
    pub fn early() -> Self {
        Self { kernel_log: None, rate_before: None, debug: false, last: Instant::now() }
    }

    /// Goes over to the kernel's log. Without one the standard error output stays.
    pub fn open(&mut self) {
        self.kernel_log = OpenOptions::new().write(true).open("/dev/kmsg").ok();
        self.rate_before = fs::read_to_string(RATE_SETTING).ok();
        // Refused where the command line locks it: then at most some lines are lost.
        let _ = fs::write(RATE_SETTING, "on\n");
    }

    /// Gives the kernel back its limit on writers.
    pub fn close(&mut self) {
        if let Some(before) = self.rate_before.take() {
            let _ = fs::write(RATE_SETTING, before);
        }
    }

    /// Tells the time each step takes from here on (`rd.ingot.debug`).
    pub fn set_debug(&mut self, debug: bool) {
        self.debug = debug;
    }

    /// What was done.
    pub fn say(&mut self, text: &str) {
        self.write(INFORMATION, text);
    }

    /// What is wrong but does not stop the start.
    pub fn warn(&mut self, text: &str) {
        self.write(WARNING, text);
    }

    /// What stops the start; `quiet` does not hide it.
    pub fn fail(&mut self, text: &str) {
        self.write(CRITICAL, text);
    }

    /// Only with `rd.ingot.debug`: a detail.
    pub fn detail(&mut self, text: &str) {
        if self.debug {
            self.write(INFORMATION, text);
        }
    }

    /// Only with `rd.ingot.debug`: the step that ends here, and the time since the one before.
    pub fn step(&mut self, name: &str) {
        let took = self.last.elapsed();
        self.detail(&format!("{name}: {:.1} ms", took.as_secs_f64() * 1000.0));
        self.last = Instant::now();
    }

    fn write(&mut self, level: u8, text: &str) {
        for line in text.lines().map(printable) {
            let written = match &mut self.kernel_log {
                Some(log) => log.write_all(format!("<{level}>{PREFIX} {line}\n").as_bytes()),
                None => Err(io::ErrorKind::NotFound.into()),
            };
            if written.is_err() {
                // Nobody is left to tell when this fails too.
                let _ = writeln!(io::stderr(), "{PREFIX} {line}");
            }
        }
    }
}

/// A line without control characters (device names and labels are not ours), cut to what the log takes.
fn printable(line: &str) -> String {
    let mut text = String::new();
    for c in line.chars().map(|c| if c.is_control() { '?' } else { c }) {
        if text.len() + c.len_utf8() > LINE_BYTES {
            text.push_str("...");
            break;
        }
        text.push(c);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_printable_and_bounded() {
        assert_eq!(printable("a\u{1b}[31mb\u{7}"), "a?[31mb?");
        assert_eq!(printable(&"é".repeat(2000)).len(), LINE_BYTES + 3);
    }
}
