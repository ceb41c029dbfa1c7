//! Shapes of well-known Llamas, for plans, benchmarks and synthetic checkpoints without a download.
//!
//! Numbers are those of the published `config.json` files; `llama-100m` has the shape of the small Llamas that are
//! trained on stories (12 layers of 768 channels).

use crate::config::LlamaConfig;
use crate::rope::{RopeKind, RopeScaling};

/// The names that [`preset`] knows.
pub const PRESET_NAMES: [&str; 4] = ["llama-2-7b", "llama-3-8b", "tinyllama-1.1b", "llama-100m"];

/// The configuration of the model of this name, if it is one of [`PRESET_NAMES`].
pub fn preset(name: &str) -> Option<LlamaConfig> {
    let llama2 = LlamaConfig {
        hidden_size: 4096,
        intermediate_size: 11008,
        num_hidden_layers: 32,
        num_attention_heads: 32,
        num_key_value_heads: 32,
        head_dim: 128,
        vocab_size: 32000,
        max_position_embeddings: 4096,
        rms_norm_eps: 1e-5,
        rope: RopeScaling { theta: 10_000.0, kind: RopeKind::Default },
        tie_word_embeddings: false,
        bos_token_id: Some(1),
        eos_token_ids: vec![2],
    };
    match name {
        "llama-2-7b" => Some(llama2),
        "llama-3-8b" => Some(LlamaConfig {
            intermediate_size: 14336,
            num_key_value_heads: 8,
            vocab_size: 128_256,
            max_position_embeddings: 8192,
            rope: RopeScaling { theta: 500_000.0, kind: RopeKind::Default },
            bos_token_id: Some(128_000),
            eos_token_ids: vec![128_001, 128_009],
            ..llama2
        }),
        "tinyllama-1.1b" => Some(LlamaConfig {
            hidden_size: 2048,
            intermediate_size: 5632,
            num_hidden_layers: 22,
            num_key_value_heads: 4,
            head_dim: 64,
            max_position_embeddings: 2048,
            ..llama2
        }),
        "llama-100m" => Some(LlamaConfig {
            hidden_size: 768,
            intermediate_size: 2048,
            num_hidden_layers: 12,
            num_attention_heads: 12,
            num_key_value_heads: 12,
            head_dim: 64,
            max_position_embeddings: 1024,
            tie_word_embeddings: true,
            ..llama2
        }),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_preset_is_valid_and_has_the_size_of_its_name() {
        let sizes = [6_738_415_616, 8_030_261_248, 1_100_048_384, 109_529_856];
        for (name, size) in PRESET_NAMES.into_iter().zip(sizes) {
            let config = preset(name).unwrap();
            config.validate().unwrap();
            assert_eq!(config.parameter_count(), size, "{name}");
            assert_eq!(LlamaConfig::from_json(config.to_json().as_bytes(), None).unwrap(), config);
        }
        assert!(preset("llama-9").is_none());
    }
}
