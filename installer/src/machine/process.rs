//! Running a program: cleared environment, deadline, bounded output.

use std::io::{self, Read, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};

use super::{Command, Output};

const OUT: usize = 256 << 10;
const TAIL: usize = 4 << 10;

/// Time for what a program wrote to arrive after its end; longer, and a child of it holds the pipe.
const DRAIN: Duration = Duration::from_secs(1);

/// Runs the program to its end or deadline.
#[expect(clippy::disallowed_methods, reason = "the one door for processes")]
pub(super) fn run(command: &Command) -> io::Result<Output> {
    if !command.program.starts_with('/') {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "the program has no absolute path"));
    }
    let mut child = std::process::Command::new(&command.program)
        .args(&command.arguments)
        .env_clear()
        .env("PATH", "/usr/sbin:/usr/bin")
        .env("LC_ALL", "C")
        .current_dir("/")
        .process_group(0)
        .stdin(if command.input.is_some() { Stdio::piped() } else { Stdio::null() })
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let out = child.stdout.take().map(|pipe| collect(pipe, head));
    let tail = child.stderr.take().map(|pipe| collect(pipe, last));
    if let (Some(mut pipe), Some(secret)) = (child.stdin.take(), command.input.clone()) {
        // A program that does not read must not hold us up: the deadline is watched below.
        thread::spawn(move || {
            let _ = pipe.write_all(secret.expose().as_bytes());
        });
    }
    let code = wait(&mut child, command.deadline)?;
    Ok(Output { code, out: text(out), tail: text(tail) })
}

fn wait(child: &mut Child, deadline: Duration) -> io::Result<Option<i32>> {
    let start = Instant::now();
    let mut pause = Duration::from_millis(1);
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status.code());
        }
        if start.elapsed() >= deadline {
            if let Some(group) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
                // It may have ended in this moment.
                let _ = kill_process_group(group, Signal::KILL);
            }
            child.wait()?;
            return Ok(None);
        }
        thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(20));
    }
}

fn head(kept: &mut Vec<u8>, new: &[u8]) {
    let room = OUT.saturating_sub(kept.len());
    kept.extend(new.iter().take(room));
}

fn last(kept: &mut Vec<u8>, new: &[u8]) {
    kept.extend(new);
    let excess = kept.len().saturating_sub(TAIL);
    kept.drain(..excess);
}

fn collect(mut pipe: impl Read + Send + 'static, keep: fn(&mut Vec<u8>, &[u8])) -> Receiver<Vec<u8>> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let mut kept = Vec::new();
        let mut buffer = [0; 8192];
        while let Ok(count @ 1..) = pipe.read(&mut buffer) {
            keep(&mut kept, buffer.get(..count).unwrap_or_default());
        }
        // Nobody listens any more when the drain time is over.
        let _ = sender.send(kept);
    });
    receiver
}

fn text(receiver: Option<Receiver<Vec<u8>>>) -> String {
    let bytes = receiver.and_then(|receiver| receiver.recv_timeout(DRAIN).ok()).unwrap_or_default();
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use profile::secret::Secret;

    #[test]
    fn a_program_with_input_and_a_failing_one() {
        let mut cat = Command::new("/bin/cat", &[]);
        cat.input = Some(Secret::new("hidden".to_owned()));
        let output = run(&cat).unwrap();
        assert!(output.ok());
        assert_eq!(output.out, "hidden");
        let output = run(&Command::new("/bin/sh", &["-c", "env >&2; exit 7"])).unwrap();
        assert_eq!(output.code, Some(7));
        assert!(!output.tail.contains("HOME="), "{}", output.tail);
        assert_eq!(run(&Command::new("/no/such", &[])).unwrap_err().kind(), io::ErrorKind::NotFound);
        assert!(run(&Command::new("sh", &[])).is_err());
    }

    #[test]
    fn a_deadline_ends_the_program_and_its_children() {
        let start = Instant::now();
        let output = run(&Command::new("/bin/sh", &["-c", "sleep 20 & sleep 20"]).within(Duration::from_millis(50))).unwrap();
        assert_eq!(output.code, None);
        assert!(start.elapsed() < Duration::from_secs(5));
    }
}
