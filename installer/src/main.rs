//! `ingot-installer`: makes a machine what its signed profile says.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

use installer::machine::{Machine, Ownership, Real};
use installer::report::{Report, STATUS, State, Status, codes};
use installer::roles::kubernetes::drain::{self, Drain};
use installer::sequence::{self, Source};
use installer::steps::World;
use installer::{Failure, Result, diagnose, upkeep};

/// Makes a machine, at every boot, what its signed profile says.
#[derive(Debug, Parser)]
#[command(version, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    /// The folder that is the root of the machine; no program is run unless it is `/`.
    #[arg(long, global = true, default_value = "/")]
    root: PathBuf,
    /// Answers in JSON.
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Debug, Args)]
struct Which {
    /// Takes this file (below the root) and asks no other source; FILE.sig is its signature.
    #[arg(long, value_name = "FILE")]
    profile: Option<String>,
}

impl Which {
    fn source(self) -> Source {
        self.profile.map_or(Source::Any, Source::File)
    }
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Shows what `run` would do, and changes nothing.
    Plan(Which),
    /// Mounts the state partition, and makes it at the first start; started before anything else.
    State,
    /// Makes the machine what the profile says.
    Run {
        #[command(flatten)]
        which: Which,
        /// Speaks on every console of the kernel instead of standard error: for the service.
        #[arg(long)]
        console: bool,
    },
    /// Tests what keeps this machine from its work: network, cluster, registries, disk, units; exit code 1 where
    /// something does.
    Diagnose {
        /// Writes what those who help need to see, without secrets, to this file (tar.gz, below the root).
        #[arg(long, value_name = "FILE")]
        bundle: Option<String>,
    },
    /// Tells how far the installer is; exit code 75 unless the machine is ready.
    Status {
        /// Waits so many seconds for the installer to end.
        #[arg(long, value_name = "SECONDS", default_value_t = 0)]
        wait: u64,
    },
    /// Checks that this machine would take the profile, and changes nothing.
    Check(Which),
    /// Moves the pods of this node elsewhere and takes no new ones; the next `run` takes that back.
    Drain {
        /// How many seconds the pods may take.
        #[arg(long, value_name = "SECONDS", default_value_t = 600)]
        timeout: u64,
        /// Also pods that nothing makes anew elsewhere: they are gone then.
        #[arg(long)]
        force: bool,
    },
    /// What a control plane needs again and again (certificates, registration): a timer runs this.
    Upkeep,
    /// Takes this node out of its cluster: its pods, its member of etcd, its files. It joins anew when the machine starts.
    Reset {
        /// Also where it is the last control plane, and the cluster ends with it.
        #[arg(long)]
        last: bool,
    },
    /// Keeps routes to the pods of other nodes: a service of nodes runs this.
    PodRoutes {
        /// Where the cluster's API is: HOST:PORT.
        endpoint: String,
        /// Name of this node.
        node: String,
    },
    /// Asks whether HAProxy answers: keepalived runs this every second.
    CheckHaproxy,
}

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help is no error; nobody may be there to read it.
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { codes::USAGE.exit.code() } else { 0 });
        }
    };
    let machine = Real::new(&cli.root, ownership(&cli.root)).notifying(notify_socket()).with_credentials(credentials());
    let machine = machine.on_consoles(matches!(cli.command, Command::Run { console: true, .. }));
    // `run` tells its failure itself, as it tells everything.
    let told = matches!(cli.command, Command::Run { .. } | Command::State | Command::Reset { .. } | Command::Upkeep);
    match carry_out(cli.command, &machine, cli.json) {
        Ok(code) => code,
        Err(failure) => {
            if !told {
                tell(&failure, &machine, cli.json);
            }
            ExitCode::from(failure.code().exit.code())
        }
    }
}

/// Only root can give files away.
fn ownership(root: &Path) -> Ownership {
    let may = root == Path::new("/") || rustix::process::geteuid().is_root();
    if may { Ownership::Kept } else { Ownership::Ignored }
}

#[expect(clippy::disallowed_methods, reason = "sd_notify(3) gives the socket in the environment")]
fn notify_socket() -> Option<PathBuf> {
    std::env::var_os("NOTIFY_SOCKET").map(PathBuf::from)
}

#[expect(clippy::disallowed_methods, reason = "systemd gives the folder in the environment")]
fn credentials() -> Option<String> {
    std::env::var("CREDENTIALS_DIRECTORY").ok()
}

fn carry_out(command: Command, machine: &Real, json: bool) -> Result<ExitCode> {
    let done = match command {
        Command::Plan(which) => print("plan", sequence::preview(machine, &which.source())?, json),
        Command::Check(which) => print("check", sequence::check(machine, &which.source())?, json),
        Command::State => sequence::state(machine),
        Command::CheckHaproxy => installer::roles::load_balancer::health::check(machine),
        Command::Reset { last } => sequence::reset(machine, last),
        Command::Drain { timeout, force } => drain(machine, Drain { within: Duration::from_secs(timeout), force }),
        Command::Upkeep => upkeep::upkeep(machine),
        Command::PodRoutes { endpoint, node } => installer::roles::kubernetes::routes::keep(machine, &endpoint, &node),
        Command::Run { which, .. } => sequence::run(machine, &which.source()),
        Command::Diagnose { bundle } => return diagnosed(machine, bundle.as_deref(), json),
        Command::Status { wait } => status(machine, Duration::from_secs(wait), json),
    };
    done.map(|()| ExitCode::SUCCESS)
}

fn drain(machine: &Real, how: Drain) -> Result<()> {
    let report = Report::at(machine, "/run/ingot/drain.json");
    drain::drain(World { machine, report: &report }, how)
}

fn diagnosed(machine: &Real, bundle: Option<&str>, json: bool) -> Result<ExitCode> {
    let (subject, findings) = diagnose::diagnose(machine);
    let text = if json { diagnose::json(&findings) } else { diagnose::words(&findings) };
    std::io::stdout().write_all(text.as_bytes()).map_err(|e| Failure::io("writing", "standard output", &e))?;
    if let Some(path) = bundle {
        let path = std::path::absolute(path).map_err(|e| Failure::io("finding", path, &e))?;
        diagnose::write_bundle(machine, &subject, &findings, &path.to_string_lossy())?;
    }
    let code = if diagnose::failed(&findings) { codes::Exit::Failed.code() } else { 0 };
    Ok(ExitCode::from(code))
}

fn print(what: &str, text: String, json: bool) -> Result<()> {
    let text = if json {
        let lines: Vec<&str> = text.lines().collect();
        format!("{}\n", serde_json::json!({ "schema": 1, what: lines }))
    } else {
        text
    };
    std::io::stdout().write_all(text.as_bytes()).map_err(|e| Failure::io("writing", "standard output", &e))
}

fn status(machine: &dyn Machine, wait: Duration, json: bool) -> Result<()> {
    let not_ready = |message: &str| Failure::new(&codes::NOT_READY, message);
    let end = machine.uptime().saturating_add(wait);
    let mut found = upkeep::status(machine, STATUS)?;
    // One that failed is started again by the service manager: only ready ends the wait early.
    while machine.uptime() < end && found.as_ref().is_none_or(|status| status.state != State::Ready) {
        machine.sleep(Duration::from_millis(500));
        found = upkeep::status(machine, STATUS)?;
    }
    let status = found.ok_or_else(|| not_ready("the installer has not begun"))?;
    let kept = upkeep::status(machine, upkeep::STATUS)?;
    let shown = if json { both(&status, kept.as_ref())? } else { words(&status) + &pending(kept.as_ref()) };
    std::io::stdout().write_all(shown.as_bytes()).map_err(|e| Failure::io("writing", "standard output", &e))?;
    if status.state == State::Ready { Ok(()) } else { Err(not_ready(&format!("it is at `{}`", status.stage))) }
}

/// The status with that of the upkeep in it.
fn both(status: &Status, kept: Option<&Status>) -> Result<String> {
    let wrong = |e: serde_json::Error| Failure::new(&codes::INPUT_OUTPUT, format!("{STATUS}: {e}"));
    let mut value = serde_json::to_value(status).map_err(wrong)?;
    if let (Some(kept), Some(object)) = (kept, value.as_object_mut()) {
        object.insert("upkeep".to_owned(), serde_json::to_value(kept).map_err(wrong)?);
    }
    Ok(format!("{value:#}\n"))
}

/// What the upkeep could not do yet.
fn pending(kept: Option<&Status>) -> String {
    let told = kept.into_iter().flat_map(|kept| kept.failure.iter().chain(&kept.warnings));
    told.map(|told| format!("pending {}: {}\n    next: {}\n", told.code, told.message, told.action)).collect()
}

fn words(status: &Status) -> String {
    let state = match status.state {
        State::Running => "running",
        State::Ready => "ready",
        State::Failed => "failed",
    };
    let at = if status.state == State::Ready { "the machine is what its profile says" } else { status.stage.as_str() };
    let mut text = format!("{state}: {}\n", status.doing.as_deref().unwrap_or(at));
    for told in status.failure.iter().chain(&status.warnings) {
        text += &format!("{}: {}\n    next: {}\n", told.code, told.message, told.action);
    }
    let changed: Vec<&str> = status.steps.iter().filter(|step| step.result == "applied").map(|step| step.name.as_str()).collect();
    text + &format!(
        "{} steps, applied: {}\n",
        status.steps.len(),
        if changed.is_empty() { "none".into() } else { changed.join(", ") }
    )
}

fn tell(failure: &Failure, machine: &dyn Machine, json: bool) {
    let code = failure.code();
    if json {
        let value = serde_json::json!({ "code": code.number, "message": failure.to_string(), "action": code.action });
        machine.say(&value.to_string());
    } else {
        machine.say(&format!("{}: {}\n  seen: {failure}\n  next: {}", code.number, code.title, code.action));
    }
}
