//! `undertone privacy`: the leakage statement of a mode.

use crate::context::Context;
use crate::error::Result;
use crate::mode::Mode;
use clap::Args;
use undertone_protocol::modes::{fhe, permuted};

/// Flags of `undertone privacy`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  undertone privacy
  undertone privacy --mode permuted --json")]
pub struct PrivacyArguments {
    /// The mode to describe
    #[arg(long, value_enum, default_value_t = Mode::Fhe)]
    pub mode: Mode,
}

/// Runs the verb.
///
/// # Errors
/// `Usage` for a mode that this build does not offer.
pub fn run(arguments: &PrivacyArguments, context: &Context) -> Result<()> {
    arguments.mode.require_offered()?;
    let leaks = match arguments.mode {
        Mode::Permuted => permuted::leakage(false),
        _ => fhe::leakage(None, None),
    };
    let sentences: Vec<String> = leaks.into_iter().map(|leak| leak.sentence).collect();
    let object = serde_json::json!({ "mode": arguments.mode.name(), "leakage": sentences });
    context.result(&object, || sentences.join("\n"));
    Ok(())
}
