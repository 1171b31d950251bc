//! The program `ingot`; see the crate's documentation for its map.

fn main() -> std::process::ExitCode {
    ingot::cli::run()
}
