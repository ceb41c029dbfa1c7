//! The clear twin of a run: the same fixed-point model, rounded to nearest, on the tokens that the run chose; and the clear
//! model itself, which says what the fixed-point formats change.

use super::PermutedReport;
use crate::Error;
use crate::twin::compare as compare_logits;
use std::sync::Arc;
use undertone_model::reference::forward_last;
use undertone_model::{KvCache, Llama};
use undertone_ring::WordKernels;
use undertone_shares::{Nearest, QuantizedModel, RotaryTable, Twin, greedy_place};
use zeroize::Zeroizing;

/// A model in the clear, as it is and in the formats of the mode.
pub struct ClearSide<'a> {
    model: &'a Llama,
    quantized: Arc<QuantizedModel>,
    rotary: Arc<RotaryTable>,
    kernels: Arc<dyn WordKernels>,
}

/// A token of a run beside what the clear ones prefer after the same tokens.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Measured {
    /// Whether it is the most likely one of the fixed-point twin.
    pub twin_agrees: bool,
    /// Whether it is the most likely one of the clear model.
    pub clear_agrees: bool,
    /// KL(clear ‖ twin) in nats.
    pub kl: f64,
    /// The largest difference of two logits of clear model and twin.
    pub max_logit_error: f64,
    /// By how much the clear model prefers its most likely token to every other, in logits.
    pub clear_margin: f64,
}

impl<'a> ClearSide<'a> {
    /// Rounds a model to the formats of the mode.
    ///
    /// # Errors
    /// Weights that the mode cannot hold.
    pub fn new(model: &'a Llama, kernels: Arc<dyn WordKernels>) -> Result<Self, Error> {
        let quantized = Arc::new(QuantizedModel::new(model)?);
        let rotary = Arc::new(RotaryTable::new(&model.config, model.config.max_position_embeddings));
        Ok(Self { model, quantized, rotary, kernels })
    }

    fn twin(&self) -> Twin<Nearest> {
        Twin::new(Arc::clone(&self.quantized), Arc::clone(&self.rotary), Arc::clone(&self.kernels), Nearest)
    }

    /// The tokens of a run after `prompt`, one by one. Twin and clear model follow the run, whatever they prefer.
    ///
    /// # Errors
    /// Tokens outside the vocabulary or beyond the context.
    pub fn measure(&self, prompt: &[u32], tokens: &[u32]) -> Result<Vec<Measured>, Error> {
        let (mut twin, mut cache) = (self.twin(), KvCache::new(&self.model.config));
        let unit = twin.logit_unit();
        let mut input = Zeroizing::new(prompt.to_vec());
        let mut measured = Vec::with_capacity(tokens.len());
        for &token in tokens {
            let words = twin.forward_last(&input)?;
            let logits: Vec<f32> = words.iter().map(|&word| (word as i64 as f64 * unit) as f32).collect();
            let compared = compare_logits(&forward_last(self.model, &mut cache, &input)?, &logits)?;
            measured.push(Measured {
                twin_agrees: greedy_place(&words) as u32 == token,
                clear_agrees: compared.clear_id == token,
                kl: compared.kl,
                max_logit_error: compared.max_logit_error,
                clear_margin: compared.clear_margin,
            });
            *input = vec![token];
        }
        Ok(measured)
    }
}

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
    let mut twin = ClearSide::new(model, kernels)?.twin().with_strict(report.strict);
    let mut input = Zeroizing::new(prompt.to_vec());
    for token in &mut report.run.tokens {
        let logits = twin.forward_last(&input)?;
        let clear_id = twin.choose(&logits).first().copied().unwrap_or(0);
        token.clear_id = Some(clear_id);
        token.top1_agrees = Some(clear_id == token.id);
        *input = vec![token.id];
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use undertone_model::synthetic::{small_config, synthetic};
    use undertone_ring::scalar_word_kernels;

    #[test]
    fn tokens_that_nobody_prefers_are_told_apart_from_those_that_both_do() {
        let model = synthetic(small_config(), 3);
        let side = ClearSide::new(&model, scalar_word_kernels()).unwrap();
        let prompt = [3, 1, 4, 1, 5];
        let (mut cache, mut input, mut tokens) = (KvCache::new(&model.config), prompt.to_vec(), Vec::new());
        for _ in 0..6 {
            let logits = forward_last(&model, &mut cache, &input).unwrap();
            tokens.push(undertone_model::sampling::greedy(&logits).unwrap());
            input = vec![tokens[tokens.len() - 1]];
        }
        let measured = side.measure(&prompt, &tokens).unwrap();
        assert!(measured.len() == 6 && measured.iter().all(|one| one.twin_agrees && one.clear_agrees), "{measured:?}");
        // Formats of 2^-12 and 2^-16 change these logits a little, and change them.
        assert!(measured.iter().all(|one| one.kl < 1e-4 && one.max_logit_error < 0.05 && one.max_logit_error > 0.0));
        // Another third token: what comes before it is measured alike.
        let mut others = tokens.clone();
        others[2] = (others[2] + 1) % 50;
        let other = side.measure(&prompt, &others).unwrap();
        assert_eq!(other[..2], measured[..2]);
        assert!(!other[2].clear_agrees && !other[2].twin_agrees && other[2].kl == measured[2].kl);
        assert!(side.measure(&prompt, &[50, 1]).is_err());
    }
}
