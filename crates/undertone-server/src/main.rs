//! The program `undertone-server`: serves one model to clients on this machine.
#![forbid(unsafe_code)]

use clap::Parser;
use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use undertone_he::Parameters;
use undertone_server::{ModelHost, Options, Server};

/// Runs a model on prompts that this machine cannot read.
#[derive(Debug, Parser)]
#[command(name = "undertone-server", version)]
struct Arguments {
    /// Model directory, with undertone-calibration.json beside the weights
    #[arg(long, value_name = "DIR")]
    model: PathBuf,

    /// Loopback address to listen on; port 0 takes any free one
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:7411")]
    listen: SocketAddr,

    /// Threads that compute; one per core unless given
    #[arg(long, value_name = "N")]
    threads: Option<usize>,

    /// Sessions served at a time
    #[arg(long, value_name = "N", default_value_t = 4)]
    max_sessions: usize,

    /// Most new tokens that a session may ask for
    #[arg(long, value_name = "N", default_value_t = 512)]
    max_new_tokens: u32,

    /// Memory for all sessions in MiB; nine tenths of what is free unless given
    #[arg(long, value_name = "MIB")]
    memory_mib: Option<u64>,

    /// Print one JSON object instead of a sentence when ready
    #[arg(long)]
    json: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("undertone-server: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<(), Box<dyn std::error::Error>> {
    // Ciphertexts and keys of clients are nobody else's business, not even after a crash.
    undertone_protocol::process::deny_core_dumps()?;
    let options = Options {
        listen: arguments.listen,
        threads: arguments.threads,
        max_sessions: arguments.max_sessions,
        max_new_tokens: arguments.max_new_tokens,
        memory_bytes: arguments.memory_mib.map(|mib| mib.saturating_mul(1 << 20)),
        ..Options::default()
    };
    // An address that would expose sessions is refused before minutes are spent on loading a model.
    options.check()?;
    let parameters = Parameters::default_preset();
    let security_bits = parameters.security_bits();
    let host = ModelHost::load(&arguments.model, parameters)?;
    let server = Server::bind(options, Box::new(host))?;
    let handle = server.handle();
    ctrlc::set_handler(move || handle.stop())?;
    let address = server.address();
    let ready = if arguments.json {
        format!("{{\"event\":\"listening\",\"address\":\"{address}\",\"security_bits\":{security_bits}}}")
    } else {
        format!("listening on {address}")
    };
    let mut out = std::io::stdout().lock();
    writeln!(out, "{ready}")?;
    out.flush()?;
    drop(out);
    Ok(server.run()?)
}
