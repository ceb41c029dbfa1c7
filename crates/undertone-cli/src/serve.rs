//! `undertone serve`: starts the separate program `undertone-server` and steps aside.

use crate::context::Context;
use crate::error::{Error, Result};
use crate::key_place::KeyPlaceArguments;
use crate::mode::Mode;
use crate::session::server_program;
use clap::Args;
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::Command;

/// Flags of `undertone serve`.
#[derive(Debug, Args)]
#[command(
    after_help = "Without TLS the server listens on loopback addresses only. With a certificate it listens anywhere, and
speaks to the clients that are pinned.

Examples:
  undertone serve --model DIR
  undertone serve --model DIR --listen 127.0.0.1:7411 --threads 8
  undertone serve --model DIR --listen 0.0.0.0:7411 --tls-certificate server.crt --tls-key server.key \
      --client-pin alice.crt --client-pin bob.crt
  undertone serve --mode permuted --model DIR --dealer 127.0.0.1:7412 --dealer-ticket dealer/provider.ticket"
)]
pub struct ServeArguments {
    /// Hugging Face model directory, with its calibration
    #[arg(long, value_name = "DIR")]
    pub model: PathBuf,

    /// Address to listen on [default: the server's own]
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub listen: Option<String>,

    /// Certificate of this server in PEM form, for TLS
    #[arg(long, value_name = "FILE", requires_all = ["tls_key", "client_pin"])]
    pub tls_certificate: Option<PathBuf>,

    /// Private key of the certificate, readable by its owner only
    #[arg(long, value_name = "FILE", requires = "tls_certificate")]
    pub tls_key: Option<PathBuf>,

    /// Pin of a client that may connect, or a file with pins or certificates; repeatable
    #[arg(long, value_name = "HEX|FILE", requires = "tls_certificate")]
    pub client_pin: Vec<String>,

    #[command(flatten)]
    pub key_place: KeyPlaceArguments,

    /// How prompts are protected
    #[arg(long, value_enum, default_value_t = Mode::Fhe)]
    pub mode: Mode,

    /// The dealer of mode permuted
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub dealer: Option<String>,

    /// The file by which the dealer knows this server
    #[arg(long, value_name = "FILE")]
    pub dealer_ticket: Option<PathBuf>,

    /// Pin of the dealer, or a file with its pin or certificate; repeatable
    #[arg(long, value_name = "HEX|FILE")]
    pub dealer_pin: Vec<String>,

    /// Folder for bundles of mode permuted that wait for their use [default: memory]
    #[arg(long, value_name = "DIR")]
    pub store: Option<PathBuf>,

    /// Most tokens of a step of mode permuted, at least the dealer's --piece [default: 64]
    #[arg(long, value_name = "N")]
    pub longest_step: Option<usize>,

    /// Threads that compute
    #[arg(long, value_name = "N")]
    pub threads: Option<usize>,

    /// Sessions served at a time
    #[arg(long, value_name = "N")]
    pub max_sessions: Option<usize>,

    /// Sessions served at a time of one client, which its certificate tells from others
    #[arg(long, value_name = "N")]
    pub max_sessions_per_client: Option<usize>,
}

/// Runs the verb; on Unix it returns only when the server cannot be started.
///
/// # Errors
/// `ServerMissing`, or the system's reason.
pub fn run(arguments: &ServeArguments, context: &Context) -> Result<()> {
    arguments.mode.require_offered()?;
    arguments.key_place.check_mode(arguments.mode)?;
    if arguments.mode == Mode::Permuted && (arguments.dealer.is_none() || arguments.dealer_ticket.is_none()) {
        let remedy = "start `undertone deal --state DIR` first, then give --dealer and --dealer-ticket";
        return Err(Error::Usage(format!("mode permuted needs a dealer; {remedy}")));
    }
    let mut command = Command::new(server_program()?);
    command.args(flags(arguments, context.json));
    execute(&mut command)
}

fn flags(arguments: &ServeArguments, json: bool) -> Vec<OsString> {
    let mut flags: Vec<OsString> = vec!["--model".into(), arguments.model.clone().into()];
    let number = |n: Option<usize>| n.map(|n| OsString::from(n.to_string()));
    let optional = [
        ("--listen", arguments.listen.as_ref().map(OsString::from)),
        ("--tls-certificate", arguments.tls_certificate.as_ref().map(OsString::from)),
        ("--tls-key", arguments.tls_key.as_ref().map(OsString::from)),
        ("--mode", (arguments.mode != Mode::Fhe).then(|| arguments.mode.name().into())),
        ("--dealer", arguments.dealer.as_ref().map(OsString::from)),
        ("--dealer-ticket", arguments.dealer_ticket.as_ref().map(OsString::from)),
        ("--store", arguments.store.as_ref().map(OsString::from)),
        ("--longest-step", number(arguments.longest_step)),
        ("--threads", number(arguments.threads)),
        ("--max-sessions", number(arguments.max_sessions)),
        ("--max-sessions-per-client", number(arguments.max_sessions_per_client)),
    ];
    let pins = arguments.client_pin.iter().map(|pin| ("--client-pin", Some(OsString::from(pin))));
    let dealer_pins = arguments.dealer_pin.iter().map(|pin| ("--dealer-pin", Some(OsString::from(pin))));
    for (flag, value) in optional.into_iter().chain(pins).chain(dealer_pins) {
        flags.extend(value.into_iter().flat_map(|value| [OsString::from(flag), value]));
    }
    flags.extend(arguments.key_place.flags());
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
            tls_certificate: Some("c".into()),
            tls_key: Some("k".into()),
            client_pin: vec!["one".into(), "two".into()],
            key_place: KeyPlaceArguments { key_folder: Some("f".into()), key_held_mib: Some(9) },
            mode: Mode::Fhe,
            dealer: None,
            dealer_ticket: None,
            dealer_pin: Vec::new(),
            store: None,
            longest_step: None,
            threads: Some(3),
            max_sessions: None,
            max_sessions_per_client: Some(1),
        };
        let need = "--model m --listen 127.0.0.1:1 --tls-certificate c --tls-key k --threads 3 \
                    --max-sessions-per-client 1 --client-pin one --client-pin two --key-folder f --key-held-mib 9 --json";
        assert_eq!(flags(&arguments, true), need.split_whitespace().collect::<Vec<_>>());
    }
}
