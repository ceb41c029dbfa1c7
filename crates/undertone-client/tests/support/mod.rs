//! A synthetic model with its calibration.

use std::sync::Arc;
use undertone_infer::calibrate::{CalibrationOptions, Prompt, WindowOptions, calibrate_prepared, windows};
use undertone_infer::{Calibration, Preparation};
use undertone_model::{Llama, LlamaConfig, RopeKind, RopeScaling, synthetic};

/// Forty tokens, two heads of eight, sequences of 64.
pub fn config(num_hidden_layers: usize, eos_token_ids: Vec<u32>) -> LlamaConfig {
    LlamaConfig {
        hidden_size: 16,
        intermediate_size: 20,
        num_hidden_layers,
        num_attention_heads: 2,
        num_key_value_heads: 1,
        head_dim: 8,
        vocab_size: 40,
        max_position_embeddings: 64,
        rms_norm_eps: 1e-5,
        rope: RopeScaling { theta: 10_000.0, kind: RopeKind::Default },
        tie_word_embeddings: false,
        bos_token_id: Some(1),
        eos_token_ids,
    }
}

/// A model of this shape, calibrated with a preparation for ring degree 2^log_n on 24 windows, and the first of them.
pub fn calibrated(
    config: LlamaConfig,
    preparation: &Preparation,
    log_n: u32,
    public: usize,
    private: usize,
    answer: usize,
) -> (Arc<Llama>, Calibration, Prompt) {
    let weights = Arc::new(synthetic(config, 5));
    let tokens: Vec<u32> = (0..600u32).map(|i| (i * i * 7 + i / 3) % 40).collect();
    let mut prompts = windows(&tokens, Some(1), WindowOptions { count: 24, public, private, answer });
    let options = CalibrationOptions { slot_count: 1 << (log_n - 1), ..CalibrationOptions::default() };
    let (fingerprint, prepared) = (weights.fingerprint(), preparation.weights(weights.clone()));
    let calibration = calibrate_prepared(&prepared, fingerprint, &prompts, preparation, options, &mut |_| {}).unwrap();
    (weights, calibration, prompts.swap_remove(0))
}
