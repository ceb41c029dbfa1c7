//! `undertone deal`: the dealer of mode permuted, and a look at its stock.

use crate::connection::resolve;
use crate::context::Context;
use crate::error::{Error, Result};
use crate::permuted::dial;
use clap::Args;
use serde_json::json;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;
use undertone_dealer::{Book, DealerHost, Settings, StateFolder};
use undertone_net::{ClientTls, Endpoint, Identity, Pins, ServerTls};
use undertone_protocol::message::MAX_NEW_TOKENS;
use undertone_protocol::modes::permuted::DealLink;
use undertone_protocol::modes::permuted::deal::{MAX_LENGTHS, Stock};
use undertone_ring::detect_word_kernels;
use undertone_server::{Options, Server};

/// Connections of all parties: a provider has one for every session, and one to stay known.
const CONNECTIONS: usize = 64;
/// Connections that users leave to the provider.
const KEPT: usize = CONNECTIONS / 2 + 1;
/// How soon an interrupt is noticed.
const ATTENTION: Duration = Duration::from_millis(50);
/// Between two lines about the stock.
const STATUS_INTERVAL: Duration = Duration::from_secs(10);

/// Flags of `undertone deal`.
#[derive(Debug, Args)]
#[command(
    after_help = "The dealer must be trusted by both parties not to join the other: with the provider it could read prompts,
with a user weights. It holds neither. Start it first; the provider shows it the file provider.ticket of --state.

Examples:
  undertone deal --state dealer
  undertone deal --state dealer --stock-prompts 64,256 --stock-sessions 2 --listen 127.0.0.1:7412
  undertone deal --state dealer --listen 0.0.0.0:7412 --tls-certificate dealer.crt --tls-key dealer.key \
      --provider-pin server.crt --party-pin alice.crt
  undertone deal --stock 127.0.0.1:7412 --json"
)]
pub struct DealArguments {
    /// Show the stock of the dealer that runs there, and end
    #[arg(long, value_name = "HOST:PORT")]
    pub stock: Option<String>,

    /// Address to listen on, a loopback one unless there is TLS; port 0 takes any free one
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:7412", conflicts_with = "stock")]
    pub listen: SocketAddr,

    /// Folder for the provider's ticket and the seeds of weight masks; forgotten at the end unless given
    #[arg(long, value_name = "DIR", required_unless_present = "stock")]
    pub state: Option<PathBuf>,

    /// Lengths of prompts for which sessions are made before any user asks
    #[arg(long, value_name = "TOKENS,…", value_delimiter = ',')]
    pub stock_prompts: Vec<usize>,

    /// Sessions in stock for each length
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub stock_sessions: usize,

    /// Most tokens of the answer that a session in stock has room for
    #[arg(long, value_name = "N", default_value_t = 512)]
    pub stock_new_tokens: usize,

    /// Steps dealt ahead of every user
    #[arg(long, value_name = "N", default_value_t = 8)]
    pub ahead: u64,

    /// Most tokens of one piece of a prompt, at most the provider's --longest-step
    #[arg(long, value_name = "N", default_value_t = 64)]
    pub piece: usize,

    /// Most steps of one session: pieces of the prompt and tokens of the answer
    #[arg(long, value_name = "N", default_value_t = 4096)]
    pub most_steps: u64,

    /// Memory for the bundles of all sessions in MiB; half of what is free beside the masks unless given
    #[arg(long, value_name = "MIB")]
    pub memory_mib: Option<u64>,

    /// Memory for the bundles of one session in MiB; a quarter of that for all unless given
    #[arg(long, value_name = "MIB")]
    pub session_mib: Option<u64>,

    /// Draw the masks of all weights again for every step instead of holding them: slower, and eight bytes less memory
    /// for every weight
    #[arg(long)]
    pub draw_masks: bool,

    /// Certificate of this dealer in PEM form, for TLS
    #[arg(long, value_name = "FILE", requires_all = ["tls_key", "party_pin"])]
    pub tls_certificate: Option<PathBuf>,

    /// Private key of the certificate, readable by its owner only
    #[arg(long, value_name = "FILE", requires = "tls_certificate")]
    pub tls_key: Option<PathBuf>,

    /// Pin of a user that may connect, or of the dealer that is asked; or a file with pins; repeatable
    #[arg(long, value_name = "HEX|FILE", requires = "tls_certificate")]
    pub party_pin: Vec<String>,

    /// Pin of the provider, which is no user's, or a file with it; needed with TLS; repeatable
    #[arg(long, value_name = "HEX|FILE", requires = "tls_certificate", conflicts_with = "stock")]
    pub provider_pin: Vec<String>,

    /// Connections of one user at a time, which its certificate tells from others; the provider may have all
    #[arg(long, value_name = "N", default_value_t = 2)]
    pub max_sessions_per_client: usize,
}

/// Runs the verb.
///
/// # Errors
/// Addresses, folders and certificates that cannot be used.
pub fn run(arguments: &DealArguments, context: &Context) -> Result<()> {
    match &arguments.stock {
        Some(dealer) => show(arguments, dealer, context),
        None => serve(arguments, context),
    }
}

/// The stock of a dealer that runs.
fn show(arguments: &DealArguments, dealer: &str, context: &Context) -> Result<()> {
    let tls = match (&arguments.tls_certificate, &arguments.tls_key) {
        (Some(certificate), Some(key)) => Some(ClientTls::load(certificate, key, &arguments.party_pin)?),
        _ => None,
    };
    let endpoint = Endpoint { address: resolve(dealer, tls.is_some())?, tls, network: None };
    let stream = dial(endpoint)().map_err(|error| undertone_protocol::Error::of_io(&error))?;
    let mut link = DealLink::open(stream)?;
    let stock = link.stock()?;
    link.close();
    let object = serde_json::to_value(&stock)
        .map_err(|error| Error::System { what: "writing the stock", source: std::io::Error::other(error) })?;
    context.result(&object, || line(&stock));
    Ok(())
}

/// The stock in a line.
fn line(stock: &Stock) -> String {
    let waiting: Vec<String> =
        stock.waiting.iter().map(|(prompt, count)| format!("{count} for prompts up to {prompt}")).collect();
    let waiting = if waiting.is_empty() { "none".to_owned() } else { waiting.join(", ") };
    format!(
        "sessions in stock: {waiting}; sessions of users: {}; steps ahead of users and in stock: {}; dealt {}, taken {}",
        stock.sessions, stock.ahead, stock.dealt, stock.taken
    )
}

fn serve(arguments: &DealArguments, context: &Context) -> Result<()> {
    let counts = [
        ("--stock-sessions", arguments.stock_sessions, 1024),
        ("--stock-new-tokens", arguments.stock_new_tokens, MAX_NEW_TOKENS as usize),
        ("--piece", arguments.piece, 4096),
    ];
    for (flag, have, most) in counts {
        if have == 0 || have > most {
            return Err(Error::Usage(format!("{flag} is {have} and must be from 1 to {most}")));
        }
    }
    if arguments.stock_prompts.len() > MAX_LENGTHS || arguments.stock_prompts.contains(&0) {
        return Err(Error::Usage(format!("--stock-prompts takes at most {MAX_LENGTHS} lengths, each above 0")));
    }
    let (tls, providers) = tls(arguments)?.unzip();
    let options = Options {
        listen: arguments.listen,
        max_sessions: CONNECTIONS,
        // Without certificates there is one client, and it is all of them.
        max_sessions_per_client: if tls.is_some() { arguments.max_sessions_per_client } else { CONNECTIONS },
        tls,
        ..Options::default()
    };
    // An address that would expose seeds is refused before anything is made.
    options.check()?;
    let bytes = |mib: u64| mib.saturating_mul(1 << 20);
    let settings = Settings {
        stock_prompts: arguments.stock_prompts.clone(),
        stock_sessions: arguments.stock_sessions,
        stock_new_tokens: arguments.stock_new_tokens,
        ahead: arguments.ahead,
        piece: arguments.piece,
        most_steps: arguments.most_steps,
        most_sessions: CONNECTIONS - KEPT,
        hold_masks: !arguments.draw_masks,
        memory_bytes: arguments.memory_mib.map(bytes),
        session_bytes: arguments.session_mib.map(bytes),
    };
    let folder = StateFolder::open(arguments.state.as_deref())?;
    let book = Book::open(settings, folder, detect_word_kernels())?;
    let mut host = DealerHost::new(book.clone());
    if let Some(providers) = providers {
        host = host.with_providers(providers, CONNECTIONS, KEPT);
    }
    let server = Server::bind(options, Box::new(host))?;
    let ticket = arguments.state.as_ref().map(|state| state.join("provider.ticket").display().to_string());
    let address = server.address();
    let object = json!({ "event": "listening", "address": address.to_string(), "provider_ticket": ticket });
    context.result(&object, || {
        let ticket = ticket.as_deref().unwrap_or("none");
        format!("dealing on {address}; the provider's ticket is {ticket}; interrupt to end")
    });
    let weak = std::sync::Arc::downgrade(&book);
    let progress = context.progress.clone();
    std::thread::spawn(move || {
        let mut last = Stock::default();
        while let Some(book) = weak.upgrade() {
            let stock = book.stock();
            drop(book);
            if stock != last {
                progress.note(&line(&stock));
                last = stock;
            }
            std::thread::sleep(STATUS_INTERVAL);
        }
    });
    // Interrupted, it tells its parties before it goes.
    let (handle, cleanup, conversation) = (server.handle(), context.cleanup.clone(), context.cleanup.conversing());
    std::thread::spawn(move || {
        while !cleanup.interrupted() {
            std::thread::sleep(ATTENTION);
        }
        handle.stop();
    });
    let ended = server.run();
    drop(conversation);
    Ok(ended?)
}

/// The TLS settings that the flags name, and the certificates of the provider.
fn tls(arguments: &DealArguments) -> Result<Option<(ServerTls, Pins)>> {
    let (Some(certificate), Some(key)) = (&arguments.tls_certificate, &arguments.tls_key) else { return Ok(None) };
    let (users, providers) = (Pins::read(&arguments.party_pin)?, Pins::read(&arguments.provider_pin)?);
    if providers.is_empty() {
        let remedy = "give the pin of its certificate with --provider-pin";
        return Err(Error::Usage(format!("under TLS the dealer knows its provider by its certificate; {remedy}")));
    }
    if let Some(both) = users.iter().find(|pin| providers.contain(pin)) {
        return Err(Error::Usage(format!(
            "{both} is pinned as a user and as the provider; a user that is the provider reads the seeds of both, so give \
             each a certificate of its own"
        )));
    }
    let all: Pins = users.iter().chain(providers.iter()).copied().collect();
    Ok(Some((ServerTls::new(&Identity::load(certificate, key)?, all)?, providers)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stock_fits_a_line() {
        let stock = Stock { waiting: vec![(64, 2), (256, 1)], sessions: 3, ahead: 24, dealt: 40, taken: 7 };
        let said = line(&stock);
        assert!(said.contains("2 for prompts up to 64, 1 for prompts up to 256") && said.contains("taken 7"), "{said}");
        assert!(line(&Stock::default()).contains("in stock: none") && !said.contains('\n'));
    }
}
