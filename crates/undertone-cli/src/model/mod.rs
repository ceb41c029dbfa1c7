//! `undertone model`: what concerns model directories themselves.

mod synth;

use crate::context::Context;
use crate::error::Result;
use clap::{Args, Subcommand};

/// Flags of `undertone model`.
#[derive(Debug, Args)]
pub struct ModelArguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Write a checkpoint with random weights, of any shape
    Synth(synth::SynthArguments),
}

/// Runs the verb.
///
/// # Errors
/// Whatever the action gives rise to.
pub fn run(arguments: &ModelArguments, context: &Context) -> Result<()> {
    match &arguments.action {
        Action::Synth(arguments) => synth::run(arguments, context),
    }
}
