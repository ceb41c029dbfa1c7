//! `undertone serve`: starts the separate program `undertone-server` and steps aside.

use crate::context::Context;
use crate::error::{Error, Result};
use crate::session::server_program;
use clap::Args;
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::Command;

/// Flags of `undertone serve`.
#[derive(Debug, Args)]
#[command(after_help = "The server listens on loopback addresses only, because it has no TLS yet.

Examples:
  undertone serve --model DIR
  undertone serve --model DIR --listen 127.0.0.1:7411 --threads 8")]
pub struct ServeArguments {
    /// Hugging Face model directory, with its calibration
    #[arg(long, value_name = "DIR")]
    pub model: PathBuf,

    /// Address to listen on [default: the server's own]
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub listen: Option<String>,

    /// Threads that compute
    #[arg(long, value_name = "N")]
    pub threads: Option<usize>,

    /// Sessions served at a time
    #[arg(long, value_name = "N")]
    pub max_sessions: Option<usize>,
}

/// Runs the verb; on Unix it returns only when the server cannot be started.
///
/// # Errors
/// `ServerMissing`, or the system's reason.
pub fn run(arguments: &ServeArguments, context: &Context) -> Result<()> {
    let mut command = Command::new(server_program()?);
    command.args(flags(arguments, context.json));
    execute(&mut command)
}

fn flags(arguments: &ServeArguments, json: bool) -> Vec<OsString> {
    let mut flags: Vec<OsString> = vec!["--model".into(), arguments.model.clone().into()];
    let optional = [
        ("--listen", arguments.listen.clone()),
        ("--threads", arguments.threads.map(|n| n.to_string())),
        ("--max-sessions", arguments.max_sessions.map(|n| n.to_string())),
    ];
    for (flag, value) in optional {
        flags.extend(value.into_iter().flat_map(|value| [OsString::from(flag), value.into()]));
    }
    if json {
        flags.push("--json".into());
    }
    flags
}

#[cfg(unix)]
fn execute(command: &mut Command) -> Result<()> {
    use std::os::unix::process::CommandExt;
    Err(Error::System { what: "starting undertone-server", source: command.exec() })
}

#[cfg(not(unix))]
fn execute(command: &mut Command) -> Result<()> {
    let failed = |source| Error::System { what: "starting undertone-server", source };
    let status = command.status().map_err(failed)?;
    if status.success() { Ok(()) } else { Err(failed(std::io::Error::other(format!("it ended with {status}")))) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_passed_on() {
        let arguments = ServeArguments {
            model: "m".into(),
            listen: Some("127.0.0.1:1".into()),
            threads: Some(3),
            max_sessions: None,
        };
        assert_eq!(flags(&arguments, true), ["--model", "m", "--listen", "127.0.0.1:1", "--threads", "3", "--json"]);
    }
}
