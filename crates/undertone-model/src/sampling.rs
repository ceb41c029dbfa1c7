//! The choice of the next token from logits.
//!
//! Greedy choice takes the largest logit, the lowest id among equals. Sampling applies temperature, then top-k, then
//! top-p, and draws from what is left; the draw is a function of the seed, of the number of draws before it and of
//! the logits, on every machine. The generator is the extendable output of BLAKE3 keyed by the seed.
//!
//! Logits come out of a decryption in the private modes, so any bit pattern is handled: a NaN or −∞ is never chosen,
//! +∞ counts as the largest finite number.

use std::cmp::Ordering;

use crate::error::{Error, Result};

/// How tokens are drawn.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SamplingParameters {
    /// Divisor of the logits, from 0 (greedy) to 100.
    pub temperature: f64,
    /// Number of most likely tokens to draw from; all when absent, at least 1.
    pub top_k: Option<usize>,
    /// Probability mass to draw from, above 0 and at most 1; the token that reaches it is included.
    pub top_p: f64,
}

impl Default for SamplingParameters {
    /// Greedy choice.
    fn default() -> Self {
        Self { temperature: 0.0, top_k: None, top_p: 1.0 }
    }
}

/// Chooses tokens, deterministically from its seed.
#[derive(Clone)]
pub struct Sampler {
    parameters: SamplingParameters,
    stream: blake3::OutputReader,
}

/// The state of the generator would reveal later draws, so only the parameters are shown.
impl std::fmt::Debug for Sampler {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sampler").field("parameters", &self.parameters).finish_non_exhaustive()
    }
}

impl Sampler {
    /// A sampler that always takes the largest logit.
    pub fn greedy() -> Self {
        Self { parameters: SamplingParameters::default(), stream: stream(0) }
    }

    /// A sampler with a seed.
    ///
    /// # Errors
    /// Parameters outside the ranges stated with them.
    pub fn new(parameters: SamplingParameters, seed: u64) -> Result<Self> {
        let refuse = |field, have, need| Err(Error::Sampling { field, have, need });
        if !(0.0..=100.0).contains(&parameters.temperature) {
            return refuse("temperature", parameters.temperature, "from 0 to 100");
        }
        if parameters.top_k == Some(0) {
            return refuse("top_k", 0.0, "at least 1");
        }
        if !(parameters.top_p > 0.0 && parameters.top_p <= 1.0) {
            return refuse("top_p", parameters.top_p, "above 0 and at most 1");
        }
        Ok(Self { parameters, stream: stream(seed) })
    }

    /// Chooses a token.
    ///
    /// # Shapes
    /// `logits` is `[V]`.
    ///
    /// # Errors
    /// [`Error::NoUsableLogit`] if every logit is NaN or −∞, or there is none.
    pub fn sample(&mut self, logits: &[f32]) -> Result<u32> {
        if self.parameters.temperature == 0.0 {
            return greedy(logits);
        }
        let candidates = self.candidates(logits)?;
        let total: f64 = candidates.iter().map(|&(_, weight)| weight).sum();
        let mut left = self.uniform() * total;
        for &(id, weight) in &candidates {
            left -= weight;
            if left < 0.0 {
                return Ok(id);
            }
        }
        // Rounding may leave a remainder of the last place, which belongs to the last candidate.
        candidates.last().map(|&(id, _)| id).ok_or(Error::NoUsableLogit { have: logits.len() })
    }

    /// The tokens that may be drawn, most likely first, with weights proportional to their probabilities.
    fn candidates(&self, logits: &[f32]) -> Result<Vec<(u32, f64)>> {
        let mut kept: Vec<(u32, f32)> =
            (0u32..).zip(logits).filter_map(|(id, &logit)| usable(logit).map(|logit| (id, logit))).collect();
        let falling = |a: &(u32, f32), b: &(u32, f32)| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0));
        if let Some(k) = self.parameters.top_k.filter(|&k| k < kept.len()) {
            kept.select_nth_unstable_by(k, falling);
            kept.truncate(k);
        }
        kept.sort_unstable_by(falling);
        let Some(&(_, largest)) = kept.first() else {
            return Err(Error::NoUsableLogit { have: logits.len() });
        };
        let weight = |logit: f32| ((f64::from(logit) - f64::from(largest)) / self.parameters.temperature).exp();
        let mut weighted: Vec<(u32, f64)> = kept.into_iter().map(|(id, logit)| (id, weight(logit))).collect();
        let total: f64 = weighted.iter().map(|&(_, weight)| weight).sum();
        let mut mass = 0.0;
        let needed = weighted.iter().position(|&(_, weight)| {
            mass += weight;
            mass >= self.parameters.top_p * total
        });
        if let Some(last) = needed {
            weighted.truncate(last + 1);
        }
        Ok(weighted)
    }

    /// A number from 0 (included) to 1 (excluded), a multiple of 2^-53.
    fn uniform(&mut self) -> f64 {
        let mut bytes = [0u8; 8];
        self.stream.fill(&mut bytes);
        (u64::from_le_bytes(bytes) >> 11) as f64 * (-53f64).exp2()
    }
}

/// The id of the largest logit, the lowest one among equals.
///
/// # Errors
/// [`Error::NoUsableLogit`] if every logit is NaN or −∞, or there is none.
pub fn greedy(logits: &[f32]) -> Result<u32> {
    (0u32..)
        .zip(logits)
        .filter_map(|(id, &logit)| usable(logit).map(|logit| (id, logit)))
        .max_by(|a, b| a.1.partial_cmp(&b.1).unwrap_or(Ordering::Equal).then(b.0.cmp(&a.0)))
        .map(|(id, _)| id)
        .ok_or(Error::NoUsableLogit { have: logits.len() })
}

fn usable(logit: f32) -> Option<f32> {
    // Adding zero turns −0 into +0, so that the two zeros are equal in every order used here.
    if logit.is_nan() || logit == f32::NEG_INFINITY { None } else { Some(logit.min(f32::MAX) + 0.0) }
}

fn stream(seed: u64) -> blake3::OutputReader {
    blake3::Hasher::new_derive_key("undertone token sampling, version 1").update(&seed.to_le_bytes()).finalize_xof()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sampler(temperature: f64, top_k: Option<usize>, top_p: f64) -> Sampler {
        Sampler::new(SamplingParameters { temperature, top_k, top_p }, 7).unwrap()
    }

    #[test]
    fn greedy_breaks_ties_to_the_lowest_id_and_skips_nan() {
        assert_eq!(greedy(&[f32::NAN, 1.0, 3.0, 3.0, f32::NEG_INFINITY]).unwrap(), 2);
        assert_eq!(greedy(&[-0.0, 0.0]).unwrap(), 0);
        assert_eq!(greedy(&[f32::MAX, f32::INFINITY]).unwrap(), 0);
        assert!(matches!(greedy(&[f32::NAN; 3]), Err(Error::NoUsableLogit { have: 3 })));
        assert!(greedy(&[]).is_err());
    }

    #[test]
    fn draws_follow_the_softmax() {
        // Probabilities 1/2, 1/4, 1/4: with 8000 draws a share is off by at most 5 standard deviations of 0.0056.
        let logits = [2f32.ln(), 0.0, f32::NAN, 0.0];
        let mut sampler = sampler(1.0, None, 1.0);
        let mut counts = [0f64; 4];
        for _ in 0..8000 {
            counts[sampler.sample(&logits).unwrap() as usize] += 1.0 / 8000.0;
        }
        for (have, need) in counts.into_iter().zip([0.5, 0.25, 0.0, 0.25]) {
            assert!((have - need).abs() < 0.028, "{counts:?}");
        }
        assert_eq!(counts[2], 0.0);
    }

    #[test]
    fn top_k_and_top_p_cut_the_tail() {
        let logits = [0.0, 4.0, 1.0, 3.0];
        let ids = |sampler: &Sampler| -> Vec<u32> {
            sampler.candidates(&logits).unwrap().into_iter().map(|(id, _)| id).collect()
        };
        assert_eq!(ids(&sampler(1.0, Some(2), 1.0)), [1, 3]);
        // The probabilities are 0.70, 0.26, 0.03 and 0.01.
        assert_eq!(ids(&sampler(1.0, None, 0.5)), [1]);
        assert_eq!(ids(&sampler(1.0, None, 0.8)), [1, 3]);
        assert_eq!(ids(&sampler(1.0, Some(9), 1.0)), [1, 3, 2, 0]);
        // Equal logits: the lowest ids are kept.
        assert_eq!(sampler(1.0, Some(2), 1.0).candidates(&[1.0; 5]).unwrap().len(), 2);
        assert_eq!(sampler(1.0, Some(2), 1.0).candidates(&[1.0; 5]).unwrap()[1].0, 1);
    }

    #[test]
    fn a_seed_determines_the_draws() {
        let logits: Vec<f32> = (0..100).map(|i| (i as f32 * 0.7).sin()).collect();
        let draw = |seed| -> Vec<u32> {
            let parameters = SamplingParameters { temperature: 0.8, top_k: Some(50), top_p: 0.95 };
            let mut sampler = Sampler::new(parameters, seed).unwrap();
            (0..32).map(|_| sampler.sample(&logits).unwrap()).collect()
        };
        assert_eq!(draw(1), draw(1));
        assert_ne!(draw(1), draw(2));
    }

    #[test]
    fn parameters_out_of_range_are_refused() {
        for (temperature, top_k, top_p) in
            [(-1.0, None, 1.0), (f64::NAN, None, 1.0), (1.0, Some(0), 1.0), (1.0, None, 0.0), (1.0, None, f64::NAN)]
        {
            assert!(Sampler::new(SamplingParameters { temperature, top_k, top_p }, 0).is_err());
        }
    }
}
