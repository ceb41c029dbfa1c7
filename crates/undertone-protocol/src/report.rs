//! What a peer hears of the other's state: progress while it works, and the last message of a session that failed.

use crate::Error;
use crate::message::MAX_STAGE;
use serde::{Deserialize, Serialize};

/// Where the server is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ProgressReport {
    /// Name of the stage: lower-case letters, digits, `_`, `-` and spaces.
    pub stage: String,
    /// Layer being computed, or place in the queue.
    pub layer: u32,
    /// Number of layers, or length of the queue.
    pub layers: u32,
    /// Part of the whole step that is done, 0 to 1.
    pub fraction: f32,
}

/// The kind of an error, for programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ErrorClass {
    /// Bytes that do not decode.
    Malformed,
    /// A message in the wrong place.
    OutOfTurn,
    /// Parameters, model, calibration or mode differ.
    Mismatch,
    /// A key that is not due.
    Key,
    /// The session is larger than the server accepts.
    TooLarge,
    /// The server has no place now.
    Busy,
    /// The server is stopping.
    ShuttingDown,
    /// The computation failed.
    Internal,
    /// The computation was cancelled.
    Cancelled,
}

impl std::fmt::Display for ErrorClass {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Malformed => "malformed",
            Self::OutOfTurn => "out of turn",
            Self::Mismatch => "mismatch",
            Self::Key => "key",
            Self::TooLarge => "too large",
            Self::Busy => "busy",
            Self::ShuttingDown => "shutting down",
            Self::Internal => "internal",
            Self::Cancelled => "cancelled",
        })
    }
}

/// The last message of a session that failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorReport {
    /// The kind.
    pub class: ErrorClass,
    /// One sentence, at most [`MAX_SENTENCE`] bytes.
    pub sentence: String,
}

impl ProgressReport {
    pub(crate) fn check(&self) -> Result<(), Error> {
        let malformed = |cause| Err(Error::Malformed { message: "progress", cause });
        if self.stage.len() > MAX_STAGE {
            return malformed("the stage name is too long");
        }
        // The name is shown on a terminal, so it must not carry control sequences.
        let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"_- ".contains(&byte);
        if !self.stage.bytes().all(plain) {
            return malformed("the stage name has other characters than a-z, 0-9, _, - and space");
        }
        if !(0.0..=1.0).contains(&self.fraction) {
            return malformed("the fraction is not within 0 and 1");
        }
        Ok(())
    }
}
