//! The one error type of this crate. Messages carry counts and names, never a share, a mask, a token or a weight.

/// The result of this crate's functions.
pub type Result<T> = std::result::Result<T, Error>;

/// Why a step, a bundle or a message was refused.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The operating system gives no randomness.
    #[error("the operating system gives no random bytes; secrets cannot be made on this machine")]
    NoEntropy,
    /// A count is not the one that both parties compute.
    #[error("{what} has {have} entries where {need} are due; both parties must use the same model and release")]
    Length {
        /// What was counted.
        what: &'static str,
        /// Entries found.
        have: usize,
        /// Entries due.
        need: usize,
    },
    /// A number is outside its range.
    #[error("{what} is {have} and must be {need}")]
    OutOfRange {
        /// The number.
        what: &'static str,
        /// Its value.
        have: u64,
        /// The range.
        need: String,
    },
    /// Strict evaluation takes more keys than one bundle may have.
    #[error(
        "strict evaluation needs {need} bytes of keys per token at this length and may have {have}; leave out --strict, or \
         use a shorter prompt"
    )]
    StrictKeys {
        /// Bytes that a bundle may have for each of its tokens.
        have: u64,
        /// Bytes due for each.
        need: u64,
    },
    /// A token that the model does not have; which one is not said.
    #[error("a token is outside the vocabulary of {vocab}; use the tokenizer of this model")]
    OutsideVocabulary {
        /// Tokens of the model.
        vocab: usize,
    },
    /// A flight came that is not due.
    #[error("the flight {have} arrived where {need} is due; the peer breaks the protocol, so end the session")]
    OutOfTurn {
        /// What came or was called.
        have: &'static str,
        /// What is due.
        need: &'static str,
    },
    /// A bundle for another step.
    #[error("a bundle for {what} {have} was given where {what} {need} is due; take bundles in the order of the dealer")]
    WrongBundle {
        /// `session`, `step`, `position` or `token count`.
        what: &'static str,
        /// The value of the bundle.
        have: u64,
        /// The value due.
        need: u64,
    },
    /// A bundle for nonlinear steps of the other kind.
    #[error(
        "the dealer dealt a bundle for {have} evaluation to a session with {need} evaluation; start the run again, and if it \
         stays so run the same version of undertone at the dealer and at both parties"
    )]
    OtherEvaluation {
        /// The evaluation of the bundle.
        have: &'static str,
        /// The evaluation of the session.
        need: &'static str,
    },
    /// A bundle that was given out before, even if a crash kept it from being used.
    #[error("the bundle of step {step} was already taken; masks are never used twice, so begin a new session")]
    AlreadyTaken {
        /// The step.
        step: u64,
    },
    /// A bundle that was never stored.
    #[error("there is no bundle for step {step}; wait for the dealer to produce more")]
    NoBundle {
        /// The step.
        step: u64,
    },
    /// A bundle that is already there.
    #[error("a bundle for step {step} was stored before; the dealer must count its steps")]
    Duplicate {
        /// The step.
        step: u64,
    },
    /// Bytes that are not what they claim.
    #[error("{what} does not decode: {cause}; use the same release at the dealer and at both parties")]
    Malformed {
        /// What was read.
        what: &'static str,
        /// The first thing found wrong.
        cause: &'static str,
    },
    /// A weight is too large for 16 bits at any scale, or not a number.
    #[error("{matrix} has weights that 16 bits cannot hold; this mode needs finite weights below 32768")]
    Weights {
        /// The matrix.
        matrix: &'static str,
    },
    /// The store failed.
    #[error("cannot {op} the bundle store: {source}; check the directory and the space on its disk")]
    Store {
        /// What was attempted.
        op: &'static str,
        /// What the operating system reports.
        source: std::io::Error,
    },
    /// A folder where bundles should go that somebody else uses for something else.
    #[error("{} holds something else than bundles; name another folder, or move what is there", path.display())]
    ForeignFolder {
        /// The folder.
        path: std::path::PathBuf,
    },
    /// A folder for bundles that another process holds.
    #[error("another process uses {}; end it first, or name another folder", path.display())]
    FolderInUse {
        /// The folder.
        path: std::path::PathBuf,
    },
    /// The model refused.
    #[error(transparent)]
    Model(#[from] undertone_model::Error),
}

/// Checks a count.
pub(crate) fn expect_len(what: &'static str, have: usize, need: usize) -> Result<()> {
    if have == need { Ok(()) } else { Err(Error::Length { what, have, need }) }
}
