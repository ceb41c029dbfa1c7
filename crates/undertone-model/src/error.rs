//! The one error type of this crate.
//!
//! Messages carry names and numbers from model files, shortened and escaped, and never a prompt, a token or a
//! weight.

use std::path::Path;

/// The result of this crate's functions.
pub type Result<T> = std::result::Result<T, Error>;

/// Why a model, a tokenizer or an evaluation was refused.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file could not be opened, read or written.
    #[error("cannot {op} {file}: {source}; check that the model directory is complete and readable")]
    Io {
        /// What was attempted: `open`, `read`, `map` or `write`.
        op: &'static str,
        /// The file.
        file: String,
        /// The cause reported by the operating system.
        source: std::io::Error,
    },
    /// A file or a header inside it exceeds the cap for its kind.
    #[error("{what} of {file} is {have} bytes and at most {need} are accepted; obtain an undamaged copy of the file")]
    TooLarge {
        /// What is too large: `the file` or `the header`.
        what: &'static str,
        /// The file.
        file: String,
        /// The size that was found or claimed, in bytes.
        have: u64,
        /// The cap, in bytes.
        need: u64,
    },
    /// A file does not have the structure that its name promises.
    #[error("{file} is malformed: {reason}; obtain an undamaged copy of the file")]
    Malformed {
        /// The file.
        file: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A required field is missing from a configuration file.
    #[error("{file} lacks the field \"{field}\"; add it with the value that the model was trained with")]
    MissingField {
        /// The file.
        file: String,
        /// The field.
        field: &'static str,
    },
    /// The configuration states no rotary embedding.
    #[error(
        "config.json states neither \"rope_theta\" nor \"rope_parameters.rope_theta\", and no value is assumed; \
         add the \"rope_theta\" that the model was trained with (10000.0 for Llama 2)"
    )]
    MissingRope,
    /// A field asks for something that this crate does not implement.
    #[error("{field} = {have} is not supported; this build accepts {need}")]
    Unsupported {
        /// The field, or the thing, that is not supported.
        field: String,
        /// Its value, shortened.
        have: String,
        /// What is accepted.
        need: String,
    },
    /// A dimension or a number of a configuration is out of range.
    #[error("{field} = {have} is out of range: it must be {need}; correct config.json")]
    OutOfRange {
        /// The field.
        field: &'static str,
        /// Its value.
        have: String,
        /// The condition that it breaks.
        need: String,
    },
    /// No weights of a supported format are in the directory.
    #[error(
        "{directory} holds neither model.safetensors nor model.safetensors.index.json{hint}; convert the weights to \
         safetensors"
    )]
    MissingWeights {
        /// The model directory.
        directory: String,
        /// What was found in their place, or nothing.
        hint: &'static str,
    },
    /// A tensor that the configuration implies is absent.
    #[error("the weights lack the tensor {tensor}; config.json and the weights belong to different models")]
    MissingTensor {
        /// The tensor.
        tensor: String,
    },
    /// A tensor is present that the configuration does not imply.
    #[error(
        "the weights hold the tensor {tensor}, which config.json does not account for; config.json and the weights \
         belong to different models"
    )]
    UnexpectedTensor {
        /// The tensor.
        tensor: String,
    },
    /// A tensor has another shape than the configuration implies.
    #[error(
        "the tensor {tensor} has shape {have:?} and config.json implies {need:?}; config.json and the weights belong \
         to different models"
    )]
    TensorShape {
        /// The tensor.
        tensor: String,
        /// The shape found.
        have: Vec<usize>,
        /// The shape implied by the configuration.
        need: Vec<usize>,
    },
    /// A tensor holds an infinity or a NaN.
    #[error("the tensor {tensor} holds a value that is not finite at index {index}; obtain undamaged weights")]
    NotFinite {
        /// The tensor.
        tensor: String,
        /// The flat index of the first such value.
        index: usize,
    },
    /// A tied model stores an output head that differs from its embedding.
    #[error(
        "config.json ties the output head to the embedding, but the weights hold a different lm_head.weight; set \
         \"tie_word_embeddings\" to the value the model was trained with"
    )]
    UntiedHead,
    /// Two lengths that must agree do not.
    #[error("{op} was given {have} {what} and needs {need}")]
    Length {
        /// The operation.
        op: &'static str,
        /// What is counted.
        what: &'static str,
        /// The length found.
        have: usize,
        /// The length needed.
        need: usize,
    },
    /// A token id is not in the vocabulary.
    #[error(
        "token number {index} of the sequence is outside the vocabulary of {need} tokens; use the model's own tokenizer"
    )]
    TokenOutOfVocabulary {
        /// The place of the token in the sequence, not the token itself.
        index: usize,
        /// The vocabulary size.
        need: usize,
    },
    /// A sequence does not fit the context of the model.
    #[error(
        "{have} positions exceed the {need} that the model was made for; shorten the prompt or generate fewer tokens"
    )]
    ContextFull {
        /// The positions needed.
        have: usize,
        /// `max_position_embeddings`.
        need: usize,
    },
    /// The tokenizer and the model disagree on the vocabulary.
    #[error(
        "the tokenizer uses ids up to {have} and the model has {need} embeddings; tokenizer.json belongs to another model"
    )]
    Vocabulary {
        /// The largest id of the tokenizer.
        have: usize,
        /// `vocab_size` of the model.
        need: usize,
    },
    /// The tokenizer failed on a text or on ids; the text is not repeated here.
    #[error("the tokenizer could not {op} this input; check that tokenizer.json belongs to the model")]
    Tokenize {
        /// `encode` or `decode`.
        op: &'static str,
    },
    /// A beginning-of-sequence token was asked for and the model states none.
    #[error("the model states no bos_token_id; ask for no beginning-of-sequence token")]
    MissingBos,
    /// A sampling parameter is out of range.
    #[error("the sampling parameter {field} = {have} is out of range: it must be {need}")]
    Sampling {
        /// The parameter.
        field: &'static str,
        /// Its value.
        have: f64,
        /// The condition that it breaks.
        need: &'static str,
    },
    /// No logit is a number.
    #[error("none of the {have} logits is a finite number; the evaluation overflowed or the weights are damaged")]
    NoUsableLogit {
        /// How many logits there were.
        have: usize,
    },
}

impl Error {
    pub(crate) fn io(op: &'static str, path: &Path, source: std::io::Error) -> Self {
        Self::Io { op, file: path.display().to_string(), source }
    }

    pub(crate) fn malformed(file: &str, reason: impl Into<String>) -> Self {
        Self::Malformed { file: file.to_owned(), reason: reason.into() }
    }

    pub(crate) fn unsupported(field: impl Into<String>, have: &str, need: impl Into<String>) -> Self {
        Self::Unsupported { field: field.into(), have: shown(have), need: need.into() }
    }
}

/// Text from an untrusted file, escaped and cut to 64 characters, so that it can stand in a message.
pub(crate) fn shown(text: &str) -> String {
    let mut out: String = text.chars().take(64).flat_map(char::escape_debug).collect();
    if text.chars().nth(64).is_some() {
        out.push('…');
    }
    format!("\"{out}\"")
}
