//! Test support: models with random weights of realistic scale.
//!
//! Weights are normal, with standard deviations that keep every activation of order one: 1/√fan-in for the
//! projections, smaller by √(2 L) for the two that feed the residual stream, gains within 0.7…1.3. Trained models
//! differ: they have outlier channels, attention sinks and far larger residual norms, so a synthetic model tests
//! correctness and speed, never ranges or quality.

use std::sync::Arc;

use rayon::prelude::*;

use crate::config::LlamaConfig;
use crate::rope::{RopeKind, RopeScaling};
use crate::weights::{LayerWeights, Llama, Matrix};

/// A model with random weights, a function of the configuration and the seed.
///
/// # Panics
/// If [`LlamaConfig::validate`] refuses the configuration.
pub fn synthetic(config: LlamaConfig, seed: u64) -> Llama {
    if let Err(error) = config.validate() {
        panic!("{error}");
    }
    let source = Source { seed };
    let (hidden, wide, vocab) = (config.hidden_size, config.intermediate_size, config.vocab_size);
    let (query, key) = (config.query_size(), config.key_size());
    let depth = (2.0 * config.num_hidden_layers as f64).sqrt();
    let layers = (0..config.num_hidden_layers)
        .map(|layer| {
            let matrix = |part: &str, rows: usize, cols: usize, gain: f64| {
                source.matrix(&format!("{layer}.{part}"), rows, cols, gain / (cols as f64).sqrt())
            };
            LayerWeights {
                attention_norm: source.gains(&format!("{layer}.attention_norm"), hidden),
                q: matrix("q", query, hidden, 1.2),
                k: matrix("k", key, hidden, 1.2),
                v: matrix("v", key, hidden, 1.0),
                o: matrix("o", hidden, query, 2.0 / depth),
                mlp_norm: source.gains(&format!("{layer}.mlp_norm"), hidden),
                gate: matrix("gate", wide, hidden, 1.5),
                up: matrix("up", wide, hidden, 1.0),
                down: matrix("down", hidden, wide, 2.0 / depth),
            }
        })
        .collect();
    let final_norm = source.gains("final_norm", hidden);
    // A head of this scale gives logits of standard deviation 2, a peaked but not degenerate distribution.
    let head_scale = 2.0 / (hidden as f64).sqrt();
    let tied = config.tie_word_embeddings;
    let embed = Arc::new(source.matrix("embed", vocab, hidden, if tied { head_scale } else { 1.0 }));
    let head = if tied { Arc::clone(&embed) } else { Arc::new(source.matrix("head", vocab, hidden, head_scale)) };
    Llama { config, embed, layers, final_norm, head }
}

/// A configuration for tests that take milliseconds: two layers, grouped heads, `H d` different from `D`.
pub fn small_config() -> LlamaConfig {
    LlamaConfig {
        hidden_size: 24,
        intermediate_size: 40,
        num_hidden_layers: 2,
        num_attention_heads: 4,
        num_key_value_heads: 2,
        head_dim: 8,
        vocab_size: 50,
        max_position_embeddings: 128,
        rms_norm_eps: 1e-5,
        rope: RopeScaling { theta: 10_000.0, kind: RopeKind::Default },
        tie_word_embeddings: false,
        bos_token_id: Some(1),
        eos_token_ids: vec![],
    }
}

struct Source {
    seed: u64,
}

impl Source {
    fn matrix(&self, name: &str, rows: usize, cols: usize, deviation: f64) -> Matrix {
        let mut data = vec![0.0f32; rows * cols];
        data.par_chunks_mut(cols).enumerate().for_each(|(row, out)| self.fill(name, row, deviation, out));
        Matrix { rows, cols, data }
    }

    fn gains(&self, name: &str, len: usize) -> Vec<f32> {
        let mut out = vec![0.0; len];
        self.fill(name, 0, 0.1, &mut out);
        out.iter().map(|gain| 1.0 + gain.clamp(-0.3, 0.3)).collect()
    }

    /// Normal numbers by the transform of Box and Muller.
    fn fill(&self, name: &str, row: usize, deviation: f64, out: &mut [f32]) {
        let mut hasher = blake3::Hasher::new_derive_key("undertone synthetic weights, version 1");
        hasher.update(&self.seed.to_le_bytes()).update(&(row as u64).to_le_bytes()).update(name.as_bytes());
        let mut stream = hasher.finalize_xof();
        for pair in out.chunks_mut(2) {
            let mut bytes = [[0u8; 4]; 2];
            stream.fill(bytes.as_flattened_mut());
            // The first number lies in (0, 1], so that its logarithm is finite.
            let [first, second] = bytes.map(|four| (f64::from(u32::from_le_bytes(four)) + 1.0) * (-32f64).exp2());
            let radius = deviation * (-2.0 * first.ln()).sqrt();
            let angle = std::f64::consts::TAU * second;
            for (value, part) in pair.iter_mut().zip([angle.cos(), angle.sin()]) {
                *value = (radius * part) as f32;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_determines_the_model() {
        let one = synthetic(small_config(), 1);
        assert_eq!(one.fingerprint(), synthetic(small_config(), 1).fingerprint());
        assert_ne!(one.fingerprint(), synthetic(small_config(), 2).fingerprint());
    }

    #[test]
    fn weights_have_the_stated_deviation() {
        let matrix = Source { seed: 5 }.matrix("any", 100, 100, 0.25);
        let mean = matrix.data.iter().map(|&x| f64::from(x)).sum::<f64>() / 1e4;
        let square = matrix.data.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>() / 1e4;
        // Five standard deviations of the two estimates: 0.25 · 5 / 100 and 0.0625 · √2 · 5 / 100.
        assert!(mean.abs() < 0.0125 && (square - 0.0625).abs() < 0.0045, "{mean} {square}");
    }
}
