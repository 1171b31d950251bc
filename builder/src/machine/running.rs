//! A machine that runs, with what it needs beside it; all of it ends with it.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus, Stdio};

use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::{Machine, Serial};
use crate::error::{Context, Error, Kind, Result};
use crate::files;
use crate::interrupt;
use crate::run::{Program, ending};

/// How often a running machine is looked at.
const TICK: Duration = Duration::from_millis(50);
/// How long a TPM may take to be there, and QEMU to end when it is asked to.
const PATIENCE: Duration = Duration::from_secs(10);
/// How much of QEMU's words and of the console goes into an error.
const TAIL_BYTES: usize = 1500;

/// How a machine ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// By itself: powered off, or rebooted where [`super::Reboot::End`] was asked for.
    ByItself,
    /// By Ctrl-C or by a signal to this process.
    Interrupted,
    /// By [`Running::stop`].
    Stopped,
}

/// A machine that runs. Dropping it ends it and removes its folder.
#[derive(Debug)]
pub struct Running {
    machine: Child,
    tpm: Option<Child>,
    log: Option<PathBuf>,
    errors: PathBuf,
    started: Instant,
    // Last, so that it is removed when nothing uses it any more.
    _folder: TempDir,
}

impl Running {
    /// Starts `machine`. `folder` holds its scratch files and is removed with it; `tpm_state` is where its
    /// TPM, if it has one, keeps its state.
    ///
    /// # Errors
    /// [`Kind::Missing`] where QEMU or swtpm cannot start.
    pub fn start(machine: &Machine, folder: TempDir, tpm_state: Option<&Path>) -> Result<Self> {
        interrupt::catch()?;
        let errors = folder.path().join("qemu.errors");
        let stderr = files::create(&errors)?;
        let mut tpm = match (&machine.tpm, tpm_state) {
            (Some(socket), Some(state)) => Some(start_tpm(socket, state)?),
            _ => None,
        };
        let log = match &machine.serial {
            Serial::Terminal => None,
            Serial::TerminalAndLog(path) | Serial::Log(path) => Some(path.clone()),
        };
        if let Some(path) = &log {
            // What an earlier machine said must not be taken for this one's.
            files::create(path)?;
        }
        let mut line = machine.command().into_iter();
        let program =
            line.next().map(Program::at).ok_or_else(|| Error::new(Kind::Failed, "the machine has an empty command line"))?;
        let program = line.fold(program, Program::arg);
        tracing::debug!("starting {program}");
        let mut command = program.command();
        if log.is_none() || matches!(machine.serial, Serial::TerminalAndLog(_)) {
            command.stdin(Stdio::inherit());
        } else {
            command.stdout(Stdio::null());
        }
        match command.stderr(stderr).spawn() {
            Ok(machine) => Ok(Self { machine, tpm, log, errors, started: Instant::now(), _folder: folder }),
            Err(e) => {
                end(&mut tpm);
                Err(Error::new(Kind::Missing, format!("starting `{program}`: {e}")))
            }
        }
    }

    /// Waits until the machine has ended, or Ctrl-C or SIGTERM ends it.
    ///
    /// # Errors
    /// [`Kind::Failed`] where QEMU fails, with its words.
    pub fn wait(self) -> Result<Ended> {
        self.wait_at_most(Duration::MAX)
    }

    /// As [`Running::wait`], but ends the machine itself after `limit`.
    ///
    /// # Errors
    /// As [`Running::wait`].
    pub fn wait_at_most(mut self, limit: Duration) -> Result<Ended> {
        loop {
            if let Some(status) = self.look()? {
                return self.judge(status);
            }
            let late = self.started.elapsed() > limit;
            if late || interrupt::came() {
                self.stop()?;
                return Ok(if late { Ended::Stopped } else { Ended::Interrupted });
            }
            std::thread::sleep(TICK);
        }
    }

    /// Waits until the console shows `words`; how long that took since the start.
    ///
    /// # Errors
    /// [`Kind::Failed`] with the end of the console where the machine ends before, or `limit` passes.
    pub fn wait_for(&mut self, words: &str, limit: Duration) -> Result<Duration> {
        let log = self
            .log
            .clone()
            .ok_or_else(|| Error::new(Kind::Usage, "this machine's console is not kept: nothing can be waited for"))?;
        loop {
            let ended = self.look()?;
            let console = String::from_utf8_lossy(&files::read(&log)?).into_owned();
            if console.contains(words) {
                return Ok(self.started.elapsed());
            }
            let why = match ended {
                Some(status) => format!("QEMU {}", ending(status)),
                None if self.started.elapsed() > limit => format!("{} s have passed", limit.as_secs()),
                None if interrupt::came() => "this was interrupted".to_owned(),
                None => {
                    std::thread::sleep(TICK);
                    continue;
                }
            };
            let (said, complaints) = (tail(&console), self.complaints());
            return Err(Error::new(
                Kind::Failed,
                format!("the machine did not say `{words}`: {why}; {complaints}its last words: {said}"),
            ));
        }
    }

    /// What the console has shown so far; nothing where it is not kept.
    ///
    /// # Errors
    /// The log file's own.
    pub fn console(&self) -> Result<String> {
        let bytes = self.log.as_ref().map(|path| files::read(path)).transpose()?;
        Ok(String::from_utf8_lossy(&bytes.unwrap_or_default()).into_owned())
    }

    /// Ends the machine as pulling its plug would, but lets QEMU write its files first.
    ///
    /// # Errors
    /// Where it cannot be told to end.
    pub fn stop(mut self) -> Result<Ended> {
        self.end()?;
        Ok(Ended::Stopped)
    }

    fn end(&mut self) -> Result<()> {
        if let Some(pid) = rustix::process::Pid::from_raw(i32::try_from(self.machine.id()).unwrap_or_default())
            && self.look()?.is_none()
        {
            // Not being there any more is what is wanted.
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
        let asked = Instant::now();
        while self.look()?.is_none() {
            if asked.elapsed() > PATIENCE {
                self.machine
                    .kill()
                    .and_then(|()| self.machine.wait())
                    .map_err(|e| Error::new(Kind::Failed, format!("ending QEMU: {e}")))?;
            }
            std::thread::sleep(TICK);
        }
        end(&mut self.tpm);
        Ok(())
    }

    fn look(&mut self) -> Result<Option<ExitStatus>> {
        self.machine.try_wait().map_err(|e| Error::new(Kind::Failed, format!("waiting for QEMU: {e}")))
    }

    fn judge(&mut self, status: ExitStatus) -> Result<Ended> {
        end(&mut self.tpm);
        if interrupt::came() {
            return Ok(Ended::Interrupted);
        }
        if status.success() {
            return Ok(Ended::ByItself);
        }
        let complaints = self.complaints();
        let mut error = Error::new(Kind::Failed, format!("QEMU {}; {complaints}", ending(status)).trim_end_matches("; "));
        if complaints.contains("Could not set up host forwarding rule") {
            error = error.hint("another program has that port: take another with --forward");
        }
        if complaints.contains("kvm") {
            error = error.hint("run it without KVM: --accelerator tcg");
        }
        Err(error)
    }

    fn complaints(&self) -> String {
        let said = std::fs::read(&self.errors).unwrap_or_default();
        let said = String::from_utf8_lossy(&said).into_owned();
        if said.trim().is_empty() { String::new() } else { format!("it said: {}; ", tail(&said)) }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if matches!(self.machine.try_wait(), Ok(None)) {
            // Nobody is left to tell where even this fails.
            let _ = self.end();
        }
        end(&mut self.tpm);
    }
}

/// The last printable part of what was said.
fn tail(said: &str) -> String {
    let said = said.trim();
    let mut from = said.len().saturating_sub(TAIL_BYTES);
    while !said.is_char_boundary(from) {
        from += 1;
    }
    said.get(from..).unwrap_or_default().chars().filter(|c| !c.is_control() || *c == '\n').collect()
}

/// A TPM 2.0 in software on `socket`. It ends by itself when QEMU disconnects.
fn start_tpm(socket: &Path, state: &Path) -> Result<Child> {
    let option = |name: &str, path: &Path, tail: &str| {
        let mut value = std::ffi::OsString::from(name);
        value.push(path);
        value.push(tail);
        value
    };
    if [socket, state].iter().any(|path| path.as_os_str().as_encoded_bytes().contains(&b',')) {
        let text = format!("swtpm takes no path with a comma: {} and {}", socket.display(), state.display());
        return Err(Error::new(Kind::Usage, text));
    }
    files::make_folder(state)?;
    let program = Program::find("swtpm", "apt install swtpm, or boot without --tpm")?;
    let program = program.arg("socket").arg("--tpm2").arg("--terminate").arg("--tpmstate").arg(option("dir=", state, ""));
    let program = program.arg("--ctrl").arg(option("type=unixio,path=", socket, ""));
    let mut child = program
        .command()
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|e| Error::new(Kind::Missing, format!("starting `{program}`: {e}")))?;
    let started = Instant::now();
    while !socket.exists() {
        let ended = child.try_wait().map_err(|e| Error::new(Kind::Failed, format!("waiting for swtpm: {e}")))?;
        if let Some(status) = ended {
            return Err(Error::new(Kind::Failed, format!("`{program}` {}", ending(status)))
                .hint("another machine may use this TPM state"));
        }
        if started.elapsed() > PATIENCE {
            end(&mut Some(child));
            return Err(Error::new(Kind::Failed, format!("`{program}` made no socket within {} s", PATIENCE.as_secs())));
        }
        std::thread::sleep(TICK);
    }
    Ok(child)
}

/// Ends a helper and waits for it; where it has ended already, that is fine.
fn end(child: &mut Option<Child>) {
    if let Some(mut child) = child.take() {
        let _ = child.kill();
        let _ = child.wait();
    }
}

/// A file for QEMU to write to.
pub(super) fn scratch(path: &Path, bytes: &[u8]) -> Result<()> {
    use std::io::Write;
    let mut file: File = files::create(path)?;
    file.write_all(bytes).map_err(|e| Error::io("writing", path, &e)).context("preparing the machine")
}
