//! The one error type of this crate.

use std::net::SocketAddr;
use std::path::PathBuf;

/// Why the server cannot start or stops.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The address is reachable from other machines, and the connection would not be encrypted.
    #[error(
        "{address} is not a loopback address and there is no TLS, so the public text, token counts and timing would be \
         open to the network; give --tls-certificate, --tls-key and --client-pin, or listen on 127.0.0.1"
    )]
    NotLoopback {
        /// The address asked for.
        address: SocketAddr,
    },
    /// The operating system refused the address.
    #[error("cannot listen on {address}: {source}; choose another port, or 0 for any free one")]
    Listen {
        /// The address asked for.
        address: SocketAddr,
        /// The cause.
        source: std::io::Error,
    },
    /// The listening socket failed.
    #[error("the listening socket failed: {0}; start the server again")]
    Accept(std::io::Error),
    /// A number of threads that cannot be had.
    #[error("a pool of {have} threads cannot be made; give --threads a number from 1 to the number of cores")]
    Threads {
        /// The number asked for.
        have: usize,
    },
    /// TLS was asked for and no client could ever connect.
    #[error("TLS is asked for and no client is pinned; give the pin of each client with --client-pin")]
    NoClients,
    /// The certificate, its key or a pin was refused.
    #[error(transparent)]
    Net(#[from] undertone_net::Error),
    /// The model was refused.
    #[error(transparent)]
    Model(#[from] undertone_model::Error),
    /// The model does not fit mode permuted.
    #[error(transparent)]
    Shares(#[from] undertone_shares::Error),
    /// The dealer of mode permuted cannot be reached.
    #[error("cannot reach the dealer ({kind}); start `undertone deal` there or check the address")]
    DealerGone {
        /// What the operating system reports.
        kind: std::io::ErrorKind,
    },
    /// The dealer of mode permuted did not accept this provider.
    #[error("the dealer did not accept this provider: {0}")]
    Dealer(#[from] undertone_protocol::Error),
    /// The folder for evaluation keys takes no file.
    #[error("no key file can be made in {}: {source}; name a folder that this user may write to", folder.display())]
    KeyFolder {
        /// The folder asked for.
        folder: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// The calibration was refused.
    #[error(transparent)]
    Calibration(#[from] undertone_infer::Error),
}
