//! The inside of the namespaces in which maintainer scripts run. The program starts itself for
//! this twice: once to leave the old namespaces, and once more as process 1 of the new ones,
//! whose end takes every mount and every left-behind process with it.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::mount::{MountFlags, UnmountFlags, mount, mount_bind, unmount};
use rustix::process::{Signal, chdir, pivot_root, set_parent_process_death_signal, umask};
use rustix::thread::{CapabilitySet, remove_capability_from_bounding_set};

use crate::error::{Context, Error, Kind, Result};
use crate::files;
use crate::run::{Program, ending};
use crate::tree::namespace;

/// The hidden subcommand of the program that is [`sandbox_main`].
pub const SUBCOMMAND: &str = "internal-sandbox";
/// Second argument for the second start.
const INSIDE: &str = "inside";
/// Where programs lie that stand in for costly or unwanted ones, while scripts run.
const STAND_INS: &str = "run/ingot";
/// Device nodes that scripts may use; they are the machine's own, bound.
const DEVICES: [&str; 6] = ["null", "zero", "full", "random", "urandom", "tty"];
/// The host name scripts see.
const HOST_NAME: &[u8] = b"localhost";

/// What shall be done inside.
#[derive(Debug, serde::Serialize, serde::Deserialize)]
pub struct Plan {
    /// The staging folder.
    pub root: PathBuf,
    /// `SOURCE_DATE_EPOCH` of the scripts.
    pub epoch: u64,
    /// Programs put in front of the tree's own: name and shell script.
    pub stand_ins: Vec<(String, String)>,
    /// Preinsts in the order they run.
    pub preinsts: Vec<Preinst>,
    /// Packages configured before all others.
    pub first: Vec<String>,
    /// Triggers that files which came later have set off.
    #[serde(default)]
    pub triggers: Vec<String>,
    /// Program and arguments to run in the place of all scripts: the tree holds that program only.
    #[serde(default)]
    pub command: Vec<String>,
}

impl Plan {
    /// Only to run a command in a folder. It may be started outside of the program's own namespaces.
    pub fn of_command(root: PathBuf, command: Vec<String>) -> Self {
        Self { root, epoch: 0, stand_ins: Vec::new(), preinsts: Vec::new(), first: Vec::new(), triggers: Vec::new(), command }
    }
}

/// What a process writes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Output {
    /// Standard output.
    Result,
    /// Standard error.
    Messages,
}

/// A preinst script to run.
#[derive(Debug, serde::Serialize, serde::Deserialize)]
pub struct Preinst {
    /// Package name.
    pub package: String,
    /// The package's architecture.
    pub architecture: String,
    /// Absolute path inside.
    pub script: PathBuf,
}

/// Runs as the hidden subcommand: `arguments` are those behind its name. What scripts say goes to
/// standard output and standard error.
///
/// # Errors
/// What failed, for the last line of the log.
pub fn sandbox_main(arguments: &[OsString]) -> Result<()> {
    let wrong = || Error::new(Kind::Usage, format!("`{SUBCOMMAND}` is for the program's own use"));
    end_with_parent()?;
    match arguments {
        [plan] => outside(plan),
        [plan, inside] if inside == INSIDE => {
            let text = files::read(Path::new(plan))?;
            let plan: Plan = serde_json::from_slice(&text).map_err(|_| wrong())?;
            prepare(&plan).context("preparing the sandbox of the maintainer scripts")?;
            run(&plan)
        }
        _ => Err(wrong()),
    }
}

/// Asks the kernel to be killed when the parent ends. Whether it has ended before is seen at
/// standard input: a pipe whose other end only the parent has.
fn end_with_parent() -> Result<()> {
    set_parent_process_death_signal(Some(Signal::KILL)).map_err(|e| failed("asking to end with the parent", e))?;
    let stdin = std::io::stdin();
    let mut pipe = [PollFd::new(&stdin, PollFlags::IN)];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut pipe, Some(&now)).map_err(|e| failed("looking for the parent", e))?;
    if pipe[0].revents().contains(PollFlags::HUP) {
        return Err(Error::new(Kind::Failed, "the parent has ended"));
    }
    Ok(())
}

/// Starts the program once more and waits for its end; what it says goes where `output` says.
///
/// # Errors
/// When it cannot be started.
pub fn start(arguments: &[&OsStr], output: impl Fn(Output) -> std::io::Result<Stdio>) -> Result<ExitStatus> {
    let program = arguments.iter().fold(Program::at("/proc/self/exe").arg(SUBCOMMAND), |program, a| program.arg(a));
    let run = || {
        let (result, messages) = (output(Output::Result)?, output(Output::Messages)?);
        let mut child = program.command().stdin(Stdio::piped()).stdout(result).stderr(messages).spawn()?;
        // `wait` would close the pipe at once: it must stay open until the child has ended.
        let pipe = child.stdin.take();
        let status = child.wait();
        drop(pipe);
        status
    };
    run().map_err(|e| Error::new(Kind::Failed, format!("running `{program}`: {e}")))
}

fn failed(doing: &str, error: rustix::io::Errno) -> Error {
    Error::new(Kind::Failed, format!("{doing}: {error}"))
}

fn outside(plan: &OsString) -> Result<()> {
    // `ingot build` is in a namespace of its own already, `ingot lock` is not.
    if !rustix::process::geteuid().is_root() {
        namespace::enter()?;
    }
    namespace::isolate()?;
    let status = start(&[plan, OsStr::new(INSIDE)], |_| Ok(Stdio::inherit()))?;
    // The child has said why.
    if status.success() { Ok(()) } else { Err(Error::new(Kind::Failed, format!("the sandbox {}", ending(status)))) }
}

/// Mounts, root, host name and capabilities, in the order in which each is still possible.
fn prepare(plan: &Plan) -> Result<()> {
    let root = plan.root.as_path();
    for name in ["dev", "proc", "run", "sys", "tmp", "var/lib/dpkg/updates"] {
        let path = root.join(name);
        match fs::symlink_metadata(&path) {
            Ok(found) if found.is_dir() => {}
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => files::make_folder(&path)?,
            Ok(_) => return Err(Error::new(Kind::Failed, format!("expected /{name} of the tree to be a folder"))),
            Err(e) => return Err(Error::io("looking at", &path, &e)),
        }
    }
    mount_bind(root, root).map_err(|e| failed("mounting the tree", e))?;
    let plain = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    mount("proc", root.join("proc"), "proc", plain, None).map_err(|e| {
        failed("mounting /proc", e).hint("in a container, /proc must not be masked: run it with an unmasked /proc or privileged")
    })?;
    let tmpfs = |name: &str, options: &std::ffi::CStr| {
        mount("tmpfs", root.join(name), "tmpfs", MountFlags::NOSUID, options).map_err(|e| failed("mounting a tmpfs", e))
    };
    tmpfs("dev", c"mode=0755,size=1m")?;
    tmpfs("run", c"mode=0755")?;
    tmpfs("tmp", c"mode=1777")?;
    // dpkg's journal is empty again when dpkg ends; in memory, its thousand fsyncs cost nothing.
    tmpfs("var/lib/dpkg/updates", c"mode=0755")?;
    devices(&root.join("dev"))?;
    stand_ins(&root.join(STAND_INS), &plan.stand_ins)?;
    let lock = root.join("run/lock");
    files::make_folder(&lock)?;
    fs::set_permissions(&lock, fs::Permissions::from_mode(0o1777)).map_err(|e| Error::io("opening up", &lock, &e))?;
    rustix::system::sethostname(HOST_NAME).map_err(|e| failed("setting the host name", e))?;
    chdir(root).map_err(|e| failed("entering the tree", e))?;
    pivot_root(".", ".").map_err(|e| failed("making the tree the root", e))?;
    unmount(".", UnmountFlags::DETACH).map_err(|e| failed("leaving the old root", e))?;
    chdir("/").map_err(|e| failed("entering the new root", e))?;
    umask(rustix::fs::Mode::from_raw_mode(0o022));
    drop_capabilities()
}

fn devices(folder: &Path) -> Result<()> {
    for name in DEVICES {
        let path = folder.join(name);
        files::create(&path)?;
        mount_bind(Path::new("/dev").join(name), &path).map_err(|e| failed(&format!("binding /dev/{name}"), e))?;
    }
    for (name, target) in
        [("fd", "/proc/self/fd"), ("stdin", "/proc/self/fd/0"), ("stdout", "/proc/self/fd/1"), ("stderr", "/proc/self/fd/2")]
    {
        symlink(target, folder.join(name)).map_err(|e| Error::io("linking", &folder.join(name), &e))?;
    }
    files::make_folder(&folder.join("shm"))?;
    files::make_folder(&folder.join("pts"))
}

fn stand_ins(folder: &Path, programs: &[(String, String)]) -> Result<()> {
    files::make_folder(folder)?;
    for (name, script) in programs {
        let path = folder.join(name);
        fs::write(&path, script).map_err(|e| Error::io("writing", &path, &e))?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).map_err(|e| Error::io("making executable", &path, &e))?;
    }
    Ok(())
}

/// Leaves what installing files takes: with it gone, root and an ordinary user's root can do the
/// same, and a script cannot reach the machine (no mounts, no device nodes, no modules, no clock).
fn drop_capabilities() -> Result<()> {
    let kept = CapabilitySet::CHOWN
        | CapabilitySet::DAC_OVERRIDE
        | CapabilitySet::DAC_READ_SEARCH
        | CapabilitySet::FOWNER
        | CapabilitySet::FSETID
        | CapabilitySet::KILL
        | CapabilitySet::SETGID
        | CapabilitySet::SETUID
        | CapabilitySet::SETFCAP
        | CapabilitySet::SYS_CHROOT;
    for capability in CapabilitySet::all().difference(kept).iter() {
        match remove_capability_from_bounding_set(capability) {
            // A kernel that does not know it cannot give it.
            Ok(()) | Err(rustix::io::Errno::INVAL) => {}
            Err(e) => return Err(failed("dropping capabilities", e)),
        }
    }
    Ok(())
}

/// Preinsts, `dpkg --configure`, and dpkg's own opinion of the result.
fn run(plan: &Plan) -> Result<()> {
    if let [program, arguments @ ..] = plan.command.as_slice() {
        let program = with_environment(Program::at(program), plan);
        return succeed(&arguments.iter().fold(program, |program, argument| program.arg(argument)));
    }
    for preinst in &plan.preinsts {
        let script = with_environment(Program::at(&preinst.script), plan)
            .arg("install")
            .env("DPKG_MAINTSCRIPT_PACKAGE", &preinst.package)
            .env("DPKG_MAINTSCRIPT_ARCH", &preinst.architecture)
            .env("DPKG_MAINTSCRIPT_NAME", "preinst")
            .env("DPKG_ADMINDIR", "/var/lib/dpkg")
            .env("DPKG_ROOT", "");
        succeed(&script).context(format!("running the preinst of `{}`", preinst.package))?;
    }
    let dpkg = || {
        let dpkg = Program::find("dpkg", "the tree must hold the package `dpkg`: add it to `packages.install`")?;
        Ok(with_environment(dpkg, plan).arg("--force-unsafe-io").arg("--force-confold").arg("--log=/dev/null"))
    };
    for trigger in &plan.triggers {
        let set_off = with_environment(Program::at("/usr/bin/dpkg-trigger"), plan);
        succeed(&set_off.arg("--by-package=dpkg").arg("--no-await").arg(trigger))?;
    }
    if !plan.first.is_empty() {
        let first = dpkg()?.arg("--force-depends").arg("--no-triggers").arg("--configure");
        succeed(&plan.first.iter().fold(first, |program, name| program.arg(name)))?;
    }
    succeed(&dpkg()?.arg("--configure").arg("-a"))?;
    let audit = dpkg()?.arg("--audit").output()?;
    if audit.is_empty() {
        return Ok(());
    }
    Err(Error::new(Kind::Failed, format!("`dpkg --audit` finds faults: {}", String::from_utf8_lossy(&audit).trim())))
}

fn succeed(program: &Program) -> Result<()> {
    let status = program.command().status().map_err(|e| Error::new(Kind::Failed, format!("starting `{program}`: {e}")))?;
    if status.success() { Ok(()) } else { Err(Error::new(Kind::Failed, format!("`{program}` {}", ending(status)))) }
}

/// The whole environment of a script, the same everywhere.
fn with_environment(program: Program, plan: &Plan) -> Program {
    program
        .env("PATH", format!("/{STAND_INS}:/usr/sbin:/usr/bin"))
        .env("LC_ALL", "C.UTF-8")
        .env("HOME", "/root")
        .env("SHELL", "/bin/sh")
        .env("TERM", "dumb")
        .env("DEBIAN_FRONTEND", "noninteractive")
        .env("DEBCONF_NONINTERACTIVE_SEEN", "true")
        .env("DEBCONF_NOWARNINGS", "yes")
        .env("INITRD", "No")
        .env("SOURCE_DATE_EPOCH", plan.epoch.to_string())
}
