//! `ingot-agent [CONFIG]`: see the library.

use std::path::PathBuf;
use std::process::ExitCode;

use agent::config::CONFIG;
use agent::report::{Level, say};

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    let path = arguments.next().map_or_else(|| PathBuf::from(CONFIG), PathBuf::from);
    if arguments.next().is_some() {
        say(Level::Warning, "expected at most one argument, the configuration");
        return ExitCode::from(2);
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    match runtime.and_then(|runtime| runtime.block_on(agent::serve::serve(&path))) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(Level::Warning, &error.to_string());
            ExitCode::FAILURE
        }
    }
}
