//! `undertone privacy`: the leakage statement of a mode.

use crate::context::Context;
use crate::error::{Error, Result};
use crate::mode::Mode;
use clap::Args;
use undertone_protocol::modes::{fhe, permuted};

/// Flags of `undertone privacy`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  undertone privacy
  undertone privacy --mode permuted --strict
  undertone privacy --mode permuted --json")]
pub struct PrivacyArguments {
    /// The mode to describe
    #[arg(long, value_enum, default_value_t = Mode::Fhe)]
    pub mode: Mode,

    /// What holds where nonlinear steps are evaluated on shares (mode permuted)
    #[arg(long)]
    pub strict: bool,
}

/// Runs the verb.
///
/// # Errors
/// `Usage` for a mode that this build does not offer, and for `--strict` in another one than permuted.
pub fn run(arguments: &PrivacyArguments, context: &Context) -> Result<()> {
    arguments.mode.require_offered()?;
    let leaks = match arguments.mode {
        Mode::Permuted => permuted::leakage(arguments.strict),
        _ if arguments.strict => {
            let sentence = "--strict belongs to mode permuted; add --mode permuted, or leave out --strict";
            return Err(Error::Usage(sentence.to_owned()));
        }
        _ => fhe::leakage(None, None),
    };
    let sentences: Vec<String> = leaks.into_iter().map(|leak| leak.sentence).collect();
    let object = serde_json::json!({ "mode": arguments.mode.name(), "strict": arguments.strict, "leakage": sentences });
    context.result(&object, || sentences.join("\n"));
    Ok(())
}
