//! The one error type of this crate; deliberately uninformative about keys.

/// What can go wrong on the secret side.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A key file or payload is unusable.
    #[error("the key cannot be opened; check the passphrase and that the file belongs to this version")]
    Key,
    /// A key or ciphertext was asked for at a level that does not exist.
    #[error("level {have} was asked for but the chain allows {need}; use the plan's key requests")]
    Request {
        /// The level asked for.
        have: usize,
        /// The highest level allowed.
        need: usize,
    },
    /// The scheme refused.
    #[error(transparent)]
    Scheme(#[from] undertone_he::Error),
    /// The operating system gave no randomness or a sampler failed.
    #[error(transparent)]
    Ring(#[from] undertone_ring::Error),
    /// Reading or writing a key file failed.
    #[error("the key file cannot be read or written: {0}")]
    File(#[from] std::io::Error),
}
