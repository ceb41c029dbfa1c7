//! Repository chores, run as `cargo xtask <chore>`.
//!
//! `tidy` checks the invariants of `ARCHITECTURE.md` that a compiler cannot; `ci` runs `.ci/run`; `parameters` prints
//! what every preset is made of and how secure it is.
#![forbid(unsafe_code)]

mod parameters;
mod tidy;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

const USAGE: &str = "usage: cargo xtask <tidy | ci | parameters>";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let root = workspace_root();
    let outcome = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["tidy"] => tidy::run(&root),
        ["ci"] => ci(&root),
        ["parameters"] => parameters::print(),
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("xtask: {message}");
            ExitCode::FAILURE
        }
    }
}

/// The folder above this package, taken from cargo at run time so that a moved checkout keeps working.
fn workspace_root() -> PathBuf {
    let package = std::env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from);
    match package.as_deref().and_then(Path::parent) {
        Some(root) => root.to_path_buf(),
        None => PathBuf::from("."),
    }
}

fn ci(root: &Path) -> Result<(), String> {
    let status = Command::new(root.join(".ci/run"))
        .current_dir(root)
        .status()
        .map_err(|error| format!(".ci/run could not be started: {error}"))?;
    if status.success() { Ok(()) } else { Err(format!(".ci/run failed ({status})")) }
}
