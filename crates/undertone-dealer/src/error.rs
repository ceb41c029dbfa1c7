//! The one error type of this crate.

use std::path::PathBuf;

/// Why a dealer cannot start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file of its folder cannot be used.
    #[error("{op} {} failed: {source}; check the path and its permissions", path.display())]
    File {
        /// What was attempted.
        op: &'static str,
        /// The file.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// A file that is not what it should be.
    #[error("{} is no {what} (it must hold 64 hexadecimal digits); remove it to have a new one made", path.display())]
    Content {
        /// `ticket` or `seed`.
        what: &'static str,
        /// The file.
        path: PathBuf,
    },
    /// No randomness.
    #[error(transparent)]
    Shares(#[from] undertone_shares::Error),
}
