//! The program of the initrd, process 1 from the kernel's start to systemd's:
//!
//! | step | module |
//! |---|---|
//! | /proc, /sys, /dev, /run | [`switch`] |
//! | words on every console | [`console`], [`failure`] |
//! | what the command line says | [`cmdline`] |
//! | modules of the processor, of every machine, of each device | [`modules`], [`alias`] |
//! | the partitions of the root hash, on any disk | [`disks`], [`gpt`] |
//! | dm-verity, erofs | [`root`], [`verity`], [`mapper`], [`sys`] |
//! | a writable /etc that forgets, and the machine-id | [`root`], [`identity`] |
//! | hand over | [`switch`] |
//!
//! It fails closed: what cannot be verified is not started. The console then says what was expected,
//! what was found and what to do; after `rd.ingot.wait=` seconds (10) the machine starts again, or
//! powers off with `rd.ingot.fail=poweroff`. `rd.ingot.timeout=` (60 s) is how long disks may take;
//! `rd.ingot.debug` tells each module and the time of each step.
//!
//! Files it touches: /modules/list, /modules/*.ko and /init of the initrd; /sysroot; /run/ingot/etc;
//! /etc/machine-id; /proc/sys/kernel/panic and printk_devkmsg.

mod alias;
mod cmdline;
mod console;
mod disks;
mod failure;
mod gpt;
mod identity;
mod mapper;
mod modules;
mod root;
mod switch;
mod sys;
mod verity;

use std::convert::Infallible;
use std::fs;
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use rustix::system::RebootCommand;

use cmdline::{AfterFailure, CommandLine, End};
use console::Console;
use disks::Wanted;
use failure::Failure;

/// Seconds after a panic until the kernel restarts; 0 is never.
const PANIC_SECONDS: &str = "/proc/sys/kernel/panic";

/// How long disks may take to appear, in seconds.
const TIMEOUT: u64 = 60;

fn main() -> ExitCode {
    let mut console = Console::early();
    if std::process::id() != 1 {
        console.fail("this is the /init of an initrd: only the kernel starts it, as process 1");
        return ExitCode::from(2);
    }
    rustix::process::umask(rustix::fs::Mode::empty());
    let Err(failure) = start(&mut console);
    end(&failure, &mut console)
}

/// The whole way. It does not come back but for a failure.
fn start(console: &mut Console) -> Result<Infallible, Failure> {
    switch::mount_kernel()?;
    console.open();
    let command_line = read_command_line()?;
    console.set_debug(command_line.has("rd.ingot.debug"));
    keep_panic_words(&command_line);
    let hash = command_line.root_hash()?;
    console.step("start");

    let mut loader = modules::Loader::new(&command_line, console);
    loader.load_first(console);
    console.step("modules");

    let timeout = command_line.seconds("rd.ingot.timeout", TIMEOUT);
    let found = disks::find(Wanted::of(&hash), timeout, &mut loader, console)?;
    console.step("disks");

    root::mount_verified(&found, &hash, console)?;
    root::mount_etc()?;
    root::write_machine_id(console)?;
    console.step("/etc");

    switch::hand_over(&command_line, console)
}

fn read_command_line() -> Result<CommandLine, Failure> {
    let text = fs::read("/proc/cmdline").map_err(|e| Failure::new("reading /proc/cmdline", e.to_string()))?;
    Ok(CommandLine::parse(&String::from_utf8_lossy(&text)))
}

/// A panic (dm-verity's, later) shall be readable and then end, unless `panic=` has an opinion.
fn keep_panic_words(command_line: &CommandLine) {
    if fs::read_to_string(PANIC_SECONDS).is_ok_and(|text| text.trim() == "0") {
        let seconds = command_line.after_failure().wait.as_secs().max(1);
        // Not being able to set it leaves the panic on the console for good, which is closed too.
        let _ = fs::write(PANIC_SECONDS, seconds.to_string());
    }
}

/// Tells the failure and ends the machine.
fn end(failure: &Failure, console: &mut Console) -> ! {
    let AfterFailure { wait, end } = read_command_line().unwrap_or_else(|_| CommandLine::parse("")).after_failure();
    let (word, command) = match end {
        End::Restart => ("starting again", RebootCommand::Restart),
        End::PowerOff => ("powering off", RebootCommand::PowerOff),
    };
    console.fail(&failure.to_string());
    console.fail(&format!("this machine was not started; {word} in {} s", wait.as_secs()));
    thread::sleep(wait);
    loop {
        // It does not come back where it works; process 1 must not end where it does not.
        let _ = rustix::system::reboot(command);
        thread::sleep(Duration::from_secs(1));
    }
}
