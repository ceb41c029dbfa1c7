//! The two parties against the twin: equal tokens and equal logits, in every shape of model.

use std::sync::Arc;

use undertone_model::config::LlamaConfig;
use undertone_model::synthetic::{small_config, synthetic};
use undertone_model::{RopeKind, RopeScaling};
use undertone_ring::{detect_word_kernels, scalar_word_kernels};
use undertone_shares::*;

/// Grouped heads, heads of their own with H d = D, one key head; tied and not; every rotary embedding.
fn shapes() -> Vec<LlamaConfig> {
    let llama3 = RopeKind::Llama3 {
        factor: 8.0,
        low_freq_factor: 1.0,
        high_freq_factor: 4.0,
        original_max_position_embeddings: 64,
    };
    let rope = |kind| RopeScaling { theta: 10_000.0, kind };
    vec![
        small_config(),
        LlamaConfig { num_key_value_heads: 4, head_dim: 6, rope: rope(llama3), ..small_config() },
        LlamaConfig { num_key_value_heads: 1, tie_word_embeddings: true, ..small_config() },
        LlamaConfig { num_hidden_layers: 1, rope: rope(RopeKind::Linear { factor: 2.0 }), ..small_config() },
    ]
}

fn sorted(mut words: Vec<u64>) -> Vec<u64> {
    words.sort_unstable();
    words
}

#[test]
fn tokens_and_logits_equal_the_twins_in_every_shape() {
    for (number, config) in shapes().into_iter().enumerate() {
        let model = Arc::new(QuantizedModel::new(&synthetic(config.clone(), 7)).unwrap());
        let kernels = detect_word_kernels();
        let setup = PairModel::new(Arc::clone(&model), 128, kernels, Seed::from_bytes([1; 32])).unwrap();
        let mut pair = Pair::new(&setup, Seed::from_bytes([number as u8; 32]));
        let rotary = Arc::new(RotaryTable::new(&config, 128));
        let mut twin = Twin::new(model, rotary, scalar_word_kernels(), pair.replay());
        // A prompt, a second piece of prompt, then single tokens.
        let mut input = vec![3, 1, 4, 1, 5, 9, 2];
        for round in 0..8 {
            let need = twin.forward_last(&input).unwrap();
            let mut opened = Vec::new();
            let choose = |logits: &[u64]| {
                opened = logits.to_vec();
                greedy_place(logits)
            };
            let token = pair.step(&input, choose, |_| {}).unwrap();
            assert_eq!(token as usize, greedy_place(&need), "shape {number} round {round}");
            assert_eq!(sorted(opened), sorted(need));
            input = if round == 0 { vec![6, 5, 3, 5, 8] } else { vec![token] };
        }
    }
}
