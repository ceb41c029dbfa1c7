//! The one error type of this crate. No prompt, token or key appears in a message.

/// Why a run was refused or broke off.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The connection could not be made, or its certificate or a pin was refused.
    #[error(transparent)]
    Net(#[from] undertone_net::Error),
    /// The conversation with the server failed.
    #[error(transparent)]
    Protocol(#[from] undertone_protocol::Error),
    /// Keys, encryption or key files failed.
    #[error(transparent)]
    Secret(#[from] undertone_secret::Error),
    /// The scheme refused an object.
    #[error(transparent)]
    Scheme(#[from] undertone_he::Error),
    /// The calibration is missing or foreign, or a result shows that a value left its calibrated range.
    ///
    /// The sentence about such a value leaves out its size, which is decrypted and may end up in a log.
    #[error("{}", infer_sentence(.0))]
    Infer(#[from] undertone_infer::Error),
    /// The model or tokenizer was refused.
    #[error(transparent)]
    Model(#[from] undertone_model::Error),
    /// A part of the prompt is too long.
    #[error("the {what} has {have} tokens where at most {need} fit; {remedy}")]
    TooLong {
        /// The part.
        what: &'static str,
        /// Its tokens.
        have: usize,
        /// The limit.
        need: usize,
        /// What to do.
        remedy: &'static str,
    },
    /// A part of the prompt, or the number of new tokens, is empty.
    #[error("the {what} is empty; {remedy}")]
    Empty {
        /// The part.
        what: &'static str,
        /// What to do.
        remedy: &'static str,
    },
    /// The model directory has no tokenizer.
    #[error("the model has no tokenizer; put its tokenizer.json into the model directory")]
    TokenizerMissing,
    /// A key name that cannot be a file name.
    #[error("\"{name}\" is no key name; use 1 to 64 letters, digits, - and _")]
    KeyName {
        /// The name, escaped.
        name: String,
    },
    /// A key exists already.
    #[error("a key named {name} exists; choose another name or remove that key")]
    KeyExists {
        /// The name.
        name: String,
    },
    /// No key has this name.
    #[error("there is no key named {name}; list the keys or make one with `undertone keys new {name}`")]
    KeyMissing {
        /// The name.
        name: String,
    },
    /// The user has no place for configuration.
    #[error("there is no folder for keys; set HOME or XDG_CONFIG_HOME")]
    NoConfigFolder,
    /// The key folder cannot be used.
    #[error("the key folder cannot be used: {0}; check its permissions")]
    KeyFolder(std::io::Error),
    /// A file of the masked model cannot be used.
    #[error("{op} {} failed: {source}; check the path, its permissions and the space on its disk", path.display())]
    File {
        /// What was attempted.
        op: &'static str,
        /// The file.
        path: std::path::PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// The mathematics of mode permuted refused something.
    #[error(transparent)]
    Shares(#[from] undertone_shares::Error),
    /// Drafted tokens can be checked against a choice without draws only.
    #[error("drafted tokens need the greedy choice; leave out the temperature, or leave out the draft")]
    DraftNeedsGreedy,
    /// Under strict evaluation nobody sees logits.
    #[error(
        "strict evaluation has the greedy choice only, because nobody sees logits; leave out the temperature, or --strict"
    )]
    StrictNeedsGreedy,
    /// The user stopped the run.
    #[error("the run was stopped; start it again")]
    Stopped,
}

fn infer_sentence(error: &undertone_infer::Error) -> String {
    match error {
        undertone_infer::Error::OutOfCalibratedRange { what, .. } => format!(
            "the result leaves the calibrated ranges ({what}); calibrate the model on text like this, or distrust the \
             server, because a damaged or dishonest result looks the same, and then use a fresh key"
        ),
        other => other.to_string(),
    }
}
