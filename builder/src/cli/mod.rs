//! The command line: one module per verb; what people read goes to standard error, results to
//! standard output.

pub mod arguments;
mod boot;
mod build;
mod clean;
mod diff;
mod inspect;
mod keys;
mod lock;
pub mod output;
mod profile;
pub mod reporter;
mod settings;
mod verify;

use std::process::ExitCode;

use clap::{CommandFactory, Parser};

use crate::cli::arguments::{Arguments, Verb};
use crate::cli::reporter::Reporter;
use crate::cli::settings::Settings;
use crate::error::Result;
use crate::interrupt;
use crate::tree::{namespace, sandbox};

/// Runs the program.
pub fn run() -> ExitCode {
    let arguments = Arguments::parse();
    // Namespaces can be entered only while there is one thread, so this comes before all else.
    let entered = if matches!(arguments.verb, Verb::Build(_)) { namespace::enter() } else { Ok(()) };
    let reporter = Reporter::new(arguments.quiet);
    start_log(arguments.verbose);
    match entered.and_then(|()| interrupt::listen()).and_then(|()| work(&arguments, &reporter)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            reporter.line(&format!("error: {error}"));
            for hint in error.hints() {
                reporter.line(&format!("hint: {hint}"));
            }
            ExitCode::from(error.kind().exit_code())
        }
    }
}

fn work(arguments: &Arguments, reporter: &Reporter) -> Result<()> {
    if let Verb::InternalSandbox { arguments } = &arguments.verb {
        return sandbox::sandbox_main(arguments);
    }
    let settings = Settings::new(arguments)?;
    match &arguments.verb {
        Verb::Build(verb) => build::run(&settings, verb, reporter),
        Verb::Lock(verb) => lock::run(&settings, verb, reporter),
        Verb::Verify(verb) => verify::run(&settings, verb, reporter),
        Verb::Inspect(verb) => inspect::run(&settings, verb),
        Verb::Diff(verb) => diff::run(&settings, verb),
        Verb::Boot(verb) => boot::run(&settings, verb, reporter),
        Verb::Keys(verb) => keys::run(&settings, verb),
        Verb::Profile(verb) => profile::run(&settings, verb, reporter),
        Verb::Clean(verb) => clean::run(&settings, verb, reporter),
        Verb::Completions { shell } => {
            let mut text = Vec::new();
            clap_complete::generate(*shell, &mut Arguments::command(), "ingot", &mut text);
            output::text(&String::from_utf8_lossy(&text))
        }
        Verb::InternalSandbox { .. } => Ok(()),
    }
}

/// What `-v` shows: stages, and with `-vv` everything of ours.
fn start_log(verbose: u8) {
    let level = match verbose {
        0 => "warn",
        1 => "ingot=info",
        _ => "ingot=trace",
    };
    let log = tracing_subscriber::fmt().with_env_filter(level).with_writer(std::io::stderr);
    let _ = log.without_time().with_target(false).with_level(false).with_ansi(false).try_init();
}
