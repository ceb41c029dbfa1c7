//! The one error type of the program; `Display` is what the user reads, one sentence.

use std::path::{Path, PathBuf};

/// The result of this program's functions.
pub type Result<T> = std::result::Result<T, Error>;

/// Why a verb failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file could not be read or written.
    #[error("{op} {} failed: {source}; check the path and its permissions", path.display())]
    File {
        /// What was attempted.
        op: &'static str,
        /// The file.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// Something on the operating system's side failed.
    #[error("{what} failed: {source}")]
    System {
        /// What was attempted.
        what: &'static str,
        /// The cause.
        source: std::io::Error,
    },
    /// Flags that contradict each other or the model; exit code 2.
    #[error("{0}")]
    Usage(String),
    /// The server program is not where it should be.
    #[error(
        "{} is not there; name a running server with --server HOST:PORT, or build it with \
         `cargo build --release --workspace`", path.display()
    )]
    ServerMissing {
        /// Where it was looked for.
        path: PathBuf,
    },
    /// The server program ended before it listened.
    #[error("undertone-server did not start: {cause}")]
    ServerStart {
        /// Its own last words.
        cause: String,
    },
    /// A token of the demo is not the one that the clear model prefers.
    #[error(
        "token {number} of {count} is {have} where the clear model prefers {need}; do not rely on this build, and report \
         the line above with the machine it ran on"
    )]
    Disagreement {
        /// Its place in the answer, from 1.
        number: usize,
        /// The tokens of the answer.
        count: usize,
        /// The token of the encrypted run.
        have: u32,
        /// The token of the clear model.
        need: u32,
    },
    /// The client side of a run.
    #[error(transparent)]
    Client(#[from] undertone_client::Error),
    /// A certificate, a pin or a connection.
    #[error(transparent)]
    Net(#[from] undertone_net::Error),
    /// What client and server agree on beforehand.
    #[error(transparent)]
    Protocol(#[from] undertone_protocol::Error),
    /// The dealer of mode permuted.
    #[error(transparent)]
    Dealer(#[from] undertone_dealer::Error),
    /// The mathematics of mode permuted.
    #[error(transparent)]
    Shares(#[from] undertone_shares::Error),
    /// The server half of the demo.
    #[error(transparent)]
    Server(#[from] undertone_server::Error),
    /// The model, its tokenizer or its weights.
    #[error(transparent)]
    Model(#[from] undertone_model::Error),
    /// The encrypted layers, their calibration and plan.
    #[error(transparent)]
    Infer(#[from] undertone_infer::Error),
    /// Ring arithmetic and randomness.
    #[error(transparent)]
    Ring(#[from] undertone_ring::Error),
    /// The secret side of the cryptography.
    #[error(transparent)]
    Secret(#[from] undertone_secret::Error),
    /// The public side of the cryptography.
    #[error(transparent)]
    He(#[from] undertone_he::Error),
}

impl Error {
    /// A failed operation on a file.
    pub fn file(op: &'static str, path: &Path, source: std::io::Error) -> Self {
        Self::File { op, path: path.to_path_buf(), source }
    }

    /// The exit code of the process: 2 for usage, 1 for everything else.
    pub fn exit_code(&self) -> u8 {
        if matches!(self, Self::Usage(_)) { 2 } else { 1 }
    }
}
