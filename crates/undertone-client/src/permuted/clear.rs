//! The clear twin of a run: the same fixed-point model, rounded to nearest, on the tokens that the run chose.

use super::PermutedReport;
use crate::Error;
use std::sync::Arc;
use undertone_model::Llama;
use undertone_ring::WordKernels;
use undertone_shares::{Nearest, QuantizedModel, RotaryTable, Twin};

/// Fills in what the twin prefers after the same tokens. The dealer's rounding is drawn and the twin's is to nearest,
/// so that tokens of nearly equal logits may differ.
///
/// # Errors
/// Weights that the mode cannot hold, tokens outside the vocabulary.
pub fn compare(
    report: &mut PermutedReport,
    prompt: &[u32],
    model: &Llama,
    kernels: Arc<dyn WordKernels>,
) -> Result<(), Error> {
    let quantized = Arc::new(QuantizedModel::new(model)?);
    let rotary = Arc::new(RotaryTable::new(&model.config, model.config.max_position_embeddings));
    let mut twin = Twin::new(quantized, rotary, kernels, Nearest).with_strict(report.strict);
    let mut input = zeroize::Zeroizing::new(prompt.to_vec());
    for token in &mut report.run.tokens {
        let logits = twin.forward_last(&input)?;
        let clear_id = twin.choose(&logits).first().copied().unwrap_or(0);
        token.clear_id = Some(clear_id);
        token.top1_agrees = Some(clear_id == token.id);
        *input = vec![token.id];
    }
    Ok(())
}
