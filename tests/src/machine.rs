//! A virtual machine started by `ingot boot`, and what its console says.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::fixture::scratch;
use crate::programs::ingot;

/// How a machine's run ended.
#[derive(Debug)]
pub struct Run {
    /// Everything on the serial console, without escape sequences.
    pub console: String,
    /// Whether it ended by itself before the time was up.
    pub ended: bool,
    /// Wall time.
    pub took: Duration,
    /// CPU that the emulator took on this host, to a fifth of a second.
    pub cpu: Duration,
}

impl Run {
    /// The value of a `KEY=value` line that the reporting unit wrote.
    pub fn fact(&self, key: &str) -> Option<&str> {
        self.console.lines().rev().find_map(|line| line.trim().strip_prefix(key)?.strip_prefix('='))
    }

    /// # Panics
    /// With the whole console, unless it holds `words`.
    pub fn assert_says(&self, words: &str) {
        assert!(self.console.contains(words), "the console does not say `{words}`; it says:\n{}", self.console);
    }
}

/// Boots `image` (a release folder or an image file) with these further arguments of `ingot boot`
/// and waits for the machine to end, `seconds` at most.
pub fn boot(image: &Path, seconds: u64, arguments: &[&str]) -> Run {
    boot_until(image, seconds, arguments, &[])
}

/// As [`boot`], but ends the machine as soon as its console says one of `words`.
pub fn boot_until(image: &Path, seconds: u64, arguments: &[&str], words: &[&str]) -> Run {
    boot_watched(ingot(["boot"]), image, seconds, arguments, words, |_| ())
}

/// As [`boot_until`], by this `ingot boot`, and shows the console to `watch` again and again.
pub fn boot_watched(
    mut command: Command,
    image: &Path,
    seconds: u64,
    arguments: &[&str],
    words: &[&str],
    mut watch: impl FnMut(&str),
) -> Run {
    let folder = scratch();
    let serial = folder.path().join("serial.log");
    let said = File::create(folder.path().join("said")).unwrap();
    let started = Instant::now();
    let limit = seconds.to_string();
    command.arg(image).args(arguments).arg("--serial").arg(&serial).args(["--timeout", &limit]);
    let mut child = command.stdout(Stdio::null()).stderr(said).spawn().expect("ingot starts");
    let read = || without_escapes(&String::from_utf8_lossy(&fs::read(&serial).unwrap_or_default()));
    let mut cpu = Duration::ZERO;
    let status = loop {
        cpu = cpu.max(cpu_of_children(child.id()));
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        let console = read();
        watch(&console);
        if words.iter().any(|words| console.contains(words)) {
            // What follows the words on the same console belongs to the story too.
            std::thread::sleep(Duration::from_secs(2));
            let pid = rustix::process::Pid::from_child(&child);
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
            break child.wait().unwrap();
        }
        std::thread::sleep(Duration::from_millis(200));
    };
    let took = started.elapsed();
    let console = read();
    let error = fs::read_to_string(folder.path().join("said")).unwrap_or_default();
    assert!(!console.is_empty(), "ingot boot ended with {status} and no word from the machine:\n{error}");
    Run { console, ended: took < Duration::from_secs(seconds), took, cpu }
}

/// CPU of the processes that this one has started and that run (proc_pid_stat(5), in ticks of 10 ms).
fn cpu_of_children(pid: u32) -> Duration {
    let spent = |child: &str| -> Option<u64> {
        let stat = fs::read_to_string(format!("/proc/{child}/stat")).ok()?;
        let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
        Some(fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?)
    };
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let children: Vec<String> = tasks.filter_map(|task| fs::read_to_string(task.path().join("children")).ok()).collect();
    let ticks: u64 = children.iter().flat_map(|list| list.split_whitespace()).filter_map(spent).sum();
    Duration::from_millis(ticks * 10)
}

/// Drops terminal control sequences (ECMA-48 CSI) and carriage returns.
fn without_escapes(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut letters = text.chars().peekable();
    while let Some(letter) = letters.next() {
        match letter {
            '\u{1b}' => {
                if letters.next_if_eq(&'[').is_some() {
                    while letters.next().is_some_and(|c| !('@'..='~').contains(&c)) {}
                } else {
                    letters.next();
                }
            }
            '\r' => {}
            other => plain.push(other),
        }
    }
    plain
}
