//! HAProxy and keepalived: what was made for them is checked by themselves, put in place whole, and then told.
//!
//! HAProxy is reloaded by its master's socket, which answers when the new workers listen: they take the listening
//! sockets over, and the former ones end with their connections. What a program refuses is taken back.

use std::io;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::process::Command;
use tokio::time::timeout;

use crate::change::{Change, between};
use crate::pool::Pool;
use crate::rules::Rules;
use crate::text;
use crate::trouble::{Kind, Trouble};

/// Rules of HAProxy: it reads all `*.cfg` of the folder.
pub const HAPROXY: &str = "/run/ingot/services/services.cfg";
/// Addresses of keepalived: its configuration includes this.
pub const KEEPALIVED: &str = "/run/ingot/services/keepalived.conf";
/// Copies of both for the next boot.
const KEPT: [(&str, &str); 2] =
    [("/var/lib/ingot-agent/services.cfg", HAPROXY), ("/var/lib/ingot-agent/keepalived.conf", KEEPALIVED)];

const HAPROXY_CONFIG: &str = "/etc/haproxy/haproxy.cfg";
const KEEPALIVED_CONFIG: &str = "/etc/keepalived/keepalived.conf";
const MASTER: &str = "/run/haproxy-master.sock";
const RUNTIME: &str = "/run/haproxy/admin.sock";
const KEEPALIVED_PID: &str = "/run/keepalived.pid";

/// A configuration of thousands of Services is read in seconds on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);
/// What HAProxy takes as one line.
const LINE: usize = 8192;

/// What is in place.
#[derive(Debug, Default)]
pub struct Loaded {
    /// What HAProxy has; `None`: not known, it reads its files again.
    rules: Option<Rules>,
    haproxy: String,
    keepalived: String,
    /// keepalived has not been told of its file.
    untold: bool,
}

/// What was done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Done {
    /// HAProxy was reloaded.
    pub reloaded: bool,
    /// So many commands were given to it.
    pub commands: usize,
    /// Other addresses were given to keepalived.
    pub addresses: bool,
}

impl Loaded {
    /// What a former run left; after a boot, what it had kept, if it is for the same `head`.
    ///
    /// # Errors
    /// HAProxy refuses it, or does not answer.
    pub async fn restore(&mut self, head: &str) -> Result<Done, Trouble> {
        let mut done = Done::default();
        if !Path::new(HAPROXY).exists() {
            let kept: Vec<(String, &str)> =
                KEPT.iter().filter_map(|(copy, path)| Some((std::fs::read_to_string(copy).ok()?, *path))).collect();
            if let [(rules, _), (addresses, _)] = kept.as_slice()
                && rules.starts_with(head)
                && addresses.starts_with(head)
            {
                let (rules, addresses) = (rules.clone(), addresses.clone());
                self.put_rules(&rules).await?;
                self.reload().await?;
                self.announce(&addresses).await?;
                done = Done { reloaded: true, addresses: true, commands: 0 };
            }
        }
        self.haproxy = std::fs::read_to_string(HAPROXY).unwrap_or_default();
        self.keepalived = std::fs::read_to_string(KEEPALIVED).unwrap_or_default();
        Ok(done)
    }

    /// Whether there are rules of a former run.
    pub fn stands(&self) -> bool {
        !self.haproxy.is_empty()
    }

    /// Makes these rules the ones that are in force.
    ///
    /// # Errors
    /// A program refuses them, and the former ones serve; HAProxy does not answer.
    pub async fn load(&mut self, rules: &Rules, pool: &Pool, head: &str) -> Result<Done, Trouble> {
        let (haproxy, keepalived) = (text::haproxy(rules, head), text::keepalived(rules, pool, head));
        let mut done = Done::default();
        let change = match &self.rules {
            Some(old) => between(old, rules),
            None if self.haproxy == haproxy => Change::None,
            None => Change::Reload,
        };
        match change {
            Change::Commands(commands) => {
                replace(HAPROXY, &haproxy)?;
                self.haproxy.clone_from(&haproxy);
                if command(&commands).await.is_ok() {
                    done.commands = commands.len();
                } else {
                    self.rules = None;
                    self.reload().await?;
                    done.reloaded = true;
                }
            }
            Change::Reload => {
                self.rules = None;
                self.put_rules(&haproxy).await?;
                self.reload().await?;
                done.reloaded = true;
            }
            // A node's second address, or nothing at all.
            Change::None if self.haproxy != haproxy => {
                replace(HAPROXY, &haproxy)?;
                self.haproxy.clone_from(&haproxy);
            }
            Change::None => {}
        }
        self.rules = Some(rules.clone());
        if self.untold || self.keepalived != keepalived {
            self.announce(&keepalived).await?;
            done.addresses = true;
        }
        Ok(done)
    }

    /// Keeps what is in force for the next boot.
    ///
    /// # Errors
    /// The state partition cannot be written to.
    pub fn keep(&self) -> Result<(), Trouble> {
        for ((copy, _), now) in KEPT.iter().zip([&self.haproxy, &self.keepalived]) {
            if std::fs::read_to_string(copy).ok().as_ref() != Some(now) {
                replace(copy, now)?;
            }
        }
        Ok(())
    }

    async fn put_rules(&mut self, rules: &str) -> Result<(), Trouble> {
        let candidate = format!("{HAPROXY}.candidate");
        write(&candidate, rules)?;
        let checked = run("/usr/sbin/haproxy", &["-c", "-q", "-f", HAPROXY_CONFIG, "-f", &candidate]).await;
        let _ = std::fs::remove_file(&candidate);
        checked?;
        replace(HAPROXY, rules)
    }

    /// HAProxy reads its files again. What it then refuses (an address and port that another program has) is taken back.
    async fn reload(&mut self) -> Result<(), Trouble> {
        let silent = |e: io::Error| Trouble::new(Kind::Silent, format!("{MASTER}: {e}"));
        let answer = ask(MASTER, "reload\n").await.map_err(silent)?;
        let now = std::fs::read_to_string(HAPROXY).unwrap_or_default();
        if answer.starts_with("Success=1") {
            self.haproxy = now;
            return Ok(());
        }
        if now != self.haproxy {
            replace(HAPROXY, &self.haproxy)?;
            // The master has kept its workers; told again, it also says so.
            let _ = ask(MASTER, "reload\n").await;
        }
        Err(Trouble::new(Kind::Refused, format!("HAProxy does not load the rules: {}", last_lines(&answer))))
    }

    async fn announce(&mut self, addresses: &str) -> Result<(), Trouble> {
        if self.keepalived != addresses || !Path::new(KEEPALIVED).exists() {
            replace(KEEPALIVED, addresses)?;
            if let Err(trouble) = run("/usr/sbin/keepalived", &["-t", "-f", KEEPALIVED_CONFIG]).await {
                replace(KEEPALIVED, &self.keepalived)?;
                return Err(trouble);
            }
            addresses.clone_into(&mut self.keepalived);
        }
        self.untold = true;
        hang_up().map_err(|e| Trouble::new(Kind::Silent, format!("keepalived cannot be told: {e}")))?;
        self.untold = false;
        Ok(())
    }
}

/// keepalived reads its files again. One that does not run reads them when it starts.
fn hang_up() -> io::Result<()> {
    let Ok(text) = std::fs::read_to_string(KEEPALIVED_PID) else { return Ok(()) };
    let Some(pid) = text.trim().parse().ok().and_then(Pid::from_raw) else { return Ok(()) };
    let name = std::fs::read_to_string(format!("/proc/{}/comm", pid.as_raw_nonzero()));
    if name.is_ok_and(|name| name.trim() == "keepalived") {
        kill_process(pid, Signal::HUP)?;
    }
    Ok(())
}

/// Gives commands to HAProxy, many in a line.
async fn command(commands: &[String]) -> io::Result<()> {
    let mut lines: Vec<String> = Vec::new();
    for command in commands {
        match lines.last_mut() {
            Some(line) if line.len() + command.len() < LINE => *line += &format!(";{command}"),
            _ => lines.push(command.clone()),
        }
    }
    for line in lines {
        let answer = ask(RUNTIME, &format!("{line}\n")).await?;
        // Who changes an address is told what it was; everything else is a refusal.
        let well = |line: &str| line.is_empty() || line.contains("changed") || line.contains("no need to change");
        if let Some(refused) = answer.lines().map(str::trim).find(|line| !well(line)) {
            return Err(io::Error::other(refused.to_owned()));
        }
    }
    Ok(())
}

async fn ask(socket: &str, question: &str) -> io::Result<String> {
    let talk = async {
        let mut stream = UnixStream::connect(socket).await?;
        stream.write_all(question.as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        Ok(answer)
    };
    timeout(PATIENCE, talk).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
}

async fn run(program: &str, arguments: &[&str]) -> Result<(), Trouble> {
    let refused = |what: String| Trouble::new(Kind::Refused, format!("`{program} {}` {what}", arguments.join(" ")));
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).kill_on_drop(true);
    let output = timeout(PATIENCE, command.output())
        .await
        .map_err(|_| refused(format!("did not end within {} s", PATIENCE.as_secs())))?
        .map_err(|e| refused(e.to_string()))?;
    if output.status.success() {
        return Ok(());
    }
    let said = [output.stdout, output.stderr].concat();
    Err(refused(format!("ended with {}: {}", output.status, last_lines(&String::from_utf8_lossy(&said)))))
}

fn last_lines(said: &str) -> String {
    let lines: Vec<&str> = said.lines().filter(|line| !line.trim().is_empty()).collect();
    lines.get(lines.len().saturating_sub(4)..).unwrap_or_default().join(" / ")
}

/// Written beside its place and renamed: nobody reads half of it.
///
/// # Errors
/// It cannot be written.
pub fn replace(path: &str, text: &str) -> Result<(), Trouble> {
    let beside = format!("{path}.new");
    write(&beside, text)?;
    std::fs::rename(&beside, path).map_err(|e| Trouble::new(Kind::Configuration, format!("writing {path}: {e}")))
}

fn write(path: &str, text: &str) -> Result<(), Trouble> {
    let written = std::fs::File::create(path).and_then(|mut file| {
        io::Write::write_all(&mut file, text.as_bytes())?;
        file.sync_all()
    });
    written.map_err(|e| Trouble::new(Kind::Configuration, format!("writing {path}: {e}")))
}
