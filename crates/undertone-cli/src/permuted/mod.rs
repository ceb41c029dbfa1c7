//! Mode permuted on the command line: flags, the streams of tokens, the report.

mod demo;
mod parties;
mod plan;
mod report;
mod run;

use crate::error::{Error, Result};
use clap::Args;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use undertone_net::Endpoint;
use undertone_protocol::modes::permuted::deal::MAX_DRAFT;
use undertone_protocol::{Dial, Duplex};

pub use demo::demo;
pub use parties::Parties;
pub use plan::plan;
pub use run::run;

/// Longest time to connect to a party.
const CONNECT_TIME: Duration = Duration::from_secs(10);

/// Flags of a run in mode permuted.
#[derive(Debug, Clone, Args)]
pub struct PermutedArguments {
    /// The dealer (mode permuted)
    #[arg(long, value_name = "HOST:PORT")]
    pub dealer: Option<String>,

    /// Pin of the dealer, or a file with its pin or certificate; repeatable (mode permuted)
    #[arg(long, value_name = "HEX|FILE", requires_all = ["dealer", "tls_certificate"])]
    pub dealer_pin: Vec<String>,

    /// Folder where the masked weights stay, eight bytes for each weight, and bundles wait; both in memory unless given
    /// (mode permuted)
    #[arg(long, value_name = "DIR", requires = "dealer")]
    pub store: Option<PathBuf>,

    /// Tokens guessed in every step and checked in one pass, for the rounds of one token (mode permuted)
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub draft: usize,

    /// Evaluate nonlinear steps on shares, so that nothing permuted is opened and the weights leak through the answers
    /// only: slower, with more from the dealer (mode permuted)
    #[arg(long, requires = "dealer")]
    pub strict: bool,
}

/// Refuses flags of mode permuted in another one.
///
/// # Errors
/// `Usage`.
pub fn refuse_flags(draft: usize, other: bool, verb: &str) -> Result<()> {
    if draft > 0 || other {
        return Err(Error::Usage(format!(
            "--draft, --strict, --dealer and the network of a demo belong to mode permuted, not to {verb}; add --mode permuted"
        )));
    }
    Ok(())
}

fn check_draft(draft: usize) -> Result<()> {
    if draft > MAX_DRAFT as usize {
        return Err(Error::Usage(format!("--draft is {draft} and must be at most {MAX_DRAFT}")));
    }
    Ok(())
}

/// Opens connections to an endpoint, whenever one is needed.
pub fn dial(endpoint: Endpoint) -> Dial {
    Arc::new(move || {
        let connection = endpoint.connect(CONNECT_TIME).map_err(std::io::Error::other)?;
        Ok(Box::new(connection) as Box<dyn Duplex>)
    })
}
