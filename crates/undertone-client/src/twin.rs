//! The clear twin: the same tokens through the clear model, to measure what encryption changed.

use crate::{Error, LocalModel};
use undertone_model::reference::forward_last;
use undertone_model::sampling::greedy;
use undertone_model::{KvCache, Llama};

/// How one step differs from the clear model.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Comparison {
    /// The most likely token in the clear.
    pub clear_id: u32,
    /// Whether it is the most likely one in private too.
    pub top1_agrees: bool,
    /// KL(clear ‖ private) in nats.
    pub kl: f64,
    /// The largest difference of two logits.
    pub max_logit_error: f64,
    /// By how much the clear logit of `clear_id` exceeds the next; 0 where there is one logit only.
    pub clear_margin: f64,
}

/// The clear model, one step behind the private one.
pub(crate) struct ClearTwin<'a> {
    model: &'a Llama,
    cache: KvCache,
}

impl<'a> ClearTwin<'a> {
    /// The twin of a run over `model`, if its weights are here.
    pub(crate) fn of(model: &'a LocalModel) -> Option<Self> {
        model.weights.as_deref().map(|model| Self { model, cache: KvCache::new(&model.config) })
    }

    /// Feeds the tokens that the private side was given and compares the logits after them.
    pub(crate) fn compare(&mut self, tokens: &[u32], private: &[f32]) -> Result<Comparison, Error> {
        let clear = forward_last(self.model, &mut self.cache, tokens)?;
        compare(&clear, private)
    }
}

/// Compares two vectors of logits.
///
/// # Errors
/// When one has no finite number.
pub fn compare(clear: &[f32], private: &[f32]) -> Result<Comparison, Error> {
    let clear_id = greedy(clear)?;
    let difference = clear.iter().zip(private).map(|(a, b)| (f64::from(*a) - f64::from(*b)).abs());
    Ok(Comparison {
        clear_id,
        top1_agrees: greedy(private)? == clear_id,
        kl: divergence(clear, private),
        max_logit_error: difference.fold(0.0, f64::max),
        clear_margin: margin(clear, clear_id),
    })
}

/// By how much the logit of `first`, the largest one, exceeds that of every other token.
fn margin(logits: &[f32], first: u32) -> f64 {
    let best = f64::from(logits[first as usize]);
    let others = logits.iter().enumerate().filter(|(id, _)| *id != first as usize);
    others.map(|(_, &logit)| best - f64::from(logit)).reduce(f64::min).unwrap_or(0.0)
}

/// KL(p ‖ q) of the softmax of two logit vectors, in nats.
fn divergence(p: &[f32], q: &[f32]) -> f64 {
    let (log_p, log_q) = (log_softmax(p), log_softmax(q));
    // Rounding can leave a tiny negative number where the distributions agree.
    log_p.iter().zip(&log_q).map(|(p, q)| p.exp() * (p - q)).sum::<f64>().max(0.0)
}

fn log_softmax(logits: &[f32]) -> Vec<f64> {
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let shifted = logits.iter().map(|&x| f64::from(x) - f64::from(largest));
    let log_sum = shifted.clone().map(f64::exp).sum::<f64>().ln();
    shifted.map(|x| x - log_sum).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn divergence_is_that_of_two_coins() {
        // p = (3/4, 1/4), q = (1/2, 1/2): KL = 3/4 ln(3/2) + 1/4 ln(1/2).
        let found = compare(&[3f32.ln(), 0.0], &[0.0, 0.0]).unwrap();
        let need = 0.75 * 1.5f64.ln() + 0.25 * 0.5f64.ln();
        assert!((found.kl - need).abs() < 1e-7);
        assert!((found.max_logit_error - 3f64.ln()).abs() < 1e-6);
        assert!(found.top1_agrees && found.clear_id == 0);
        assert!((found.clear_margin - 3f64.ln()).abs() < 1e-6);
        let same = compare(&[0.5, -1.0, 3.0], &[1.5, 0.0, 4.0]).unwrap();
        assert!(same.kl < 1e-12 && same.top1_agrees && same.clear_margin == 2.5);
        assert!(!compare(&[0.0, 1.0], &[1.0, 0.0]).unwrap().top1_agrees);
    }
}
