//! The program `undertone-server`: serves one model to clients on this machine, or under TLS on others.
#![forbid(unsafe_code)]

use clap::{Parser, ValueEnum};
use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use undertone_he::{KeyMemory, Parameters};
use undertone_net::{ClientTls, Endpoint};
use undertone_net::{Identity, Pins, ServerTls};
use undertone_server::{DealerAccess, Error, Host, ModelHost, Options, PermutedHost, Server, read_ticket};

/// Runs a model on prompts that this machine cannot read.
#[derive(Debug, Parser)]
#[command(name = "undertone-server", version)]
struct Arguments {
    /// Model directory, with undertone-calibration.json beside the weights
    #[arg(long, value_name = "DIR")]
    model: PathBuf,

    /// Address to listen on, a loopback one unless there is TLS; port 0 takes any free one
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:7411")]
    listen: SocketAddr,

    /// Certificate of this server in PEM form, for TLS
    #[arg(long, value_name = "FILE", requires_all = ["tls_key", "client_pin"])]
    tls_certificate: Option<PathBuf>,

    /// Private key of the certificate, readable by its owner only
    #[arg(long, value_name = "FILE", requires = "tls_certificate")]
    tls_key: Option<PathBuf>,

    /// Pin of a client that may connect, or a file with pins or certificates; repeatable
    #[arg(long, value_name = "HEX|FILE", requires = "tls_certificate")]
    client_pin: Vec<String>,

    /// Threads that compute; one per core unless given
    #[arg(long, value_name = "N")]
    threads: Option<usize>,

    /// Sessions served at a time
    #[arg(long, value_name = "N", default_value_t = 4)]
    max_sessions: usize,

    /// Sessions served at a time of one client, which its certificate tells from others
    #[arg(long, value_name = "N", default_value_t = 2)]
    max_sessions_per_client: usize,

    /// Most new tokens that a session may ask for
    #[arg(long, value_name = "N", default_value_t = 512)]
    max_new_tokens: u32,

    /// Memory for all sessions in MiB; nine tenths of what is free unless given
    #[arg(long, value_name = "MIB")]
    memory_mib: Option<u64>,

    /// Keep evaluation keys in a private file in this folder instead of in memory: less memory, more time (mode fhe)
    #[arg(long, value_name = "DIR")]
    key_folder: Option<PathBuf>,

    /// Memory for the first of these keys of a session all the same, in MiB
    #[arg(long, value_name = "MIB", requires = "key_folder", default_value_t = KeyMemory::HELD_MIB)]
    key_held_mib: u64,

    /// How prompts are protected
    #[arg(long, value_enum, default_value_t = Offer::Fhe)]
    mode: Offer,

    /// The dealer of mode permuted
    #[arg(long, value_name = "ADDRESS:PORT", requires = "dealer_ticket", required_if_eq("mode", "permuted"))]
    dealer: Option<SocketAddr>,

    /// The file by which the dealer knows this server: provider.ticket in its folder
    #[arg(long, value_name = "FILE", requires = "dealer")]
    dealer_ticket: Option<PathBuf>,

    /// Pin of the dealer, or a file with its pin or certificate; this server shows its own certificate; repeatable
    #[arg(long, value_name = "HEX|FILE", requires_all = ["dealer", "tls_certificate"])]
    dealer_pin: Vec<String>,

    /// Folder for bundles of mode permuted that wait for their use; in memory unless given
    #[arg(long, value_name = "DIR", requires = "dealer")]
    store: Option<PathBuf>,

    /// Most tokens of a step of mode permuted: at least the dealer's --piece; memory is reserved for it
    #[arg(long, value_name = "N", default_value_t = 64)]
    longest_step: usize,

    /// Print one JSON object instead of a sentence when ready
    #[arg(long)]
    json: bool,
}

/// A mode that a server offers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Offer {
    /// CKKS
    Fhe,
    /// Secret shares with permuted nonlinear steps; needs a dealer
    Permuted,
}

/// How long the dealer may take to answer a connection.
const DEALER_PATIENCE: Duration = Duration::from_secs(10);

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
        tls: tls(arguments)?,
        max_sessions: arguments.max_sessions,
        max_sessions_per_client: arguments.max_sessions_per_client,
        max_new_tokens: arguments.max_new_tokens,
        memory_bytes: arguments.memory_mib.map(|mib| mib.saturating_mul(1 << 20)),
        ..Options::default()
    };
    // An address that would expose sessions is refused before minutes are spent on loading a model.
    options.check()?;
    let key_memory = key_memory(arguments)?;
    let parameters = Parameters::default_preset();
    let mut security_bits = parameters.security_bits();
    let host: Box<dyn Host> = match arguments.mode {
        Offer::Fhe => {
            let product = Parameters::product_preset();
            security_bits = security_bits.min(product.security_bits());
            Box::new(ModelHost::load(&arguments.model, parameters)?.offer(product).keep_keys(key_memory))
        }
        Offer::Permuted => {
            let store = arguments.store.clone();
            let host = PermutedHost::load(&arguments.model, dealer(arguments)?, store)?;
            // Half of the places are left to those who chat.
            Box::new(host.with_longest_step(arguments.longest_step).with_setups(arguments.max_sessions / 2))
        }
    };
    let pin = options.tls.as_ref().map(ServerTls::pin);
    let server = Server::bind(options, host)?;
    let handle = server.handle();
    ctrlc::set_handler(move || handle.stop())?;
    let address = server.address();
    let ready = match (arguments.json, pin) {
        (true, pin) => {
            let pin = pin.map_or_else(|| "null".to_owned(), |pin| format!("\"{pin}\""));
            format!(
                "{{\"event\":\"listening\",\"address\":\"{address}\",\"security_bits\":{security_bits},\"tls_pin\":{pin}}}"
            )
        }
        (false, None) => format!("listening on {address}, without TLS"),
        (false, Some(pin)) => format!("listening on {address} under TLS; the pin of this server is {pin}"),
    };
    let mut out = std::io::stdout().lock();
    writeln!(out, "{ready}")?;
    out.flush()?;
    drop(out);
    Ok(server.run()?)
}

/// How keys wait; a folder that takes none is refused before minutes are spent on loading a model.
fn key_memory(arguments: &Arguments) -> Result<KeyMemory, Error> {
    let Some(folder) = &arguments.key_folder else { return Ok(KeyMemory::Seeded) };
    let spooled = KeyMemory::spooled(folder, Some(arguments.key_held_mib));
    spooled.map_err(|source| Error::KeyFolder { folder: folder.clone(), source })
}

/// The dealer that the flags name.
fn dealer(arguments: &Arguments) -> Result<DealerAccess, Box<dyn std::error::Error>> {
    // The command line is refused without both.
    let (Some(address), Some(ticket)) = (arguments.dealer, &arguments.dealer_ticket) else {
        return Err("mode permuted needs --dealer and --dealer-ticket".into());
    };
    let tls = match (&arguments.tls_certificate, &arguments.tls_key) {
        (Some(certificate), Some(key)) if !arguments.dealer_pin.is_empty() => {
            Some(ClientTls::load(certificate, key, &arguments.dealer_pin)?)
        }
        _ => None,
    };
    let endpoint = Endpoint { tls, ..address.into() };
    let unread = |error| format!("{}: {error}; use the file that `undertone deal` names", ticket.display());
    let ticket = Arc::new(read_ticket(ticket).map_err(unread)?);
    let notice = Arc::new(|sentence: &str| eprintln!("undertone-server: {sentence}"));
    Ok(DealerAccess { dial: Arc::new(move || dial(&endpoint)), ticket, notice })
}

fn dial(endpoint: &Endpoint) -> std::io::Result<Box<dyn undertone_protocol::Duplex>> {
    Ok(Box::new(endpoint.connect(DEALER_PATIENCE).map_err(std::io::Error::other)?))
}

/// The TLS settings that the flags name, checked before minutes are spent on loading a model.
fn tls(arguments: &Arguments) -> Result<Option<ServerTls>, Error> {
    let (Some(certificate), Some(key)) = (&arguments.tls_certificate, &arguments.tls_key) else { return Ok(None) };
    let clients = Pins::read(&arguments.client_pin)?;
    if clients.is_empty() {
        return Err(Error::NoClients);
    }
    Ok(Some(ServerTls::new(&Identity::load(certificate, key)?, clients)?))
}
