//! The ways through the pipe that a user can ask for.

use crate::error::{Error, Result};
use clap::ValueEnum;

/// A protocol variant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Mode {
    /// CKKS: the server cannot read the private tail or the answer
    Fhe,
    /// Secret shares with permuted nonlinear steps
    Permuted,
    /// Public base model at the client, private adapter at the server
    Adapter,
}

impl Mode {
    /// Its name in outputs.
    pub fn name(self) -> &'static str {
        match self {
            Self::Fhe => "fhe",
            Self::Permuted => "permuted",
            Self::Adapter => "adapter",
        }
    }

    /// Refuses the modes that are not built yet.
    ///
    /// # Errors
    /// `Usage` with the mode that works.
    pub fn require_offered(self) -> Result<()> {
        match self {
            Self::Fhe | Self::Permuted => Ok(()),
            Self::Adapter => {
                Err(Error::Usage("mode adapter is not part of this release; use --mode fhe or permuted".to_owned()))
            }
        }
    }
}
