//! Files of a model directory.

use std::sync::LazyLock;
use undertone_infer::Calibration;
use undertone_model::LlamaConfig;
use undertone_model::safetensors_file::read_header;
use undertone_model::tokenizer::Tokenizer;
use undertone_model::weights::parse_index;

/// A small configuration that every tokenizer of the corpus fits.
static CONFIG: LazyLock<LlamaConfig> = LazyLock::new(|| {
    let text = br#"{"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu",
        "hidden_size": 64, "intermediate_size": 176, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "vocab_size": 1024, "max_position_embeddings": 1024, "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0, "bos_token_id": 0, "eos_token_id": 1}"#;
    LlamaConfig::from_json(text, None).expect("the configuration is valid")
});

/// `undertone-calibration.json`.
pub fn calibration(data: &[u8]) -> bool {
    let Ok(first) = Calibration::from_json(data, "fuzzed") else { return false };
    let again = Calibration::from_json(&first.to_json(), "fuzzed").expect("what was accepted is accepted again");
    assert_eq!(first, again);
    true
}

/// `config.json`, with the part after a zero byte as `generation_config.json`.
pub fn config(data: &[u8]) -> bool {
    let mut parts = data.splitn(2, |&byte| byte == 0);
    let Some(config) = parts.next() else { return false };
    let Ok(first) = LlamaConfig::from_json(config, parts.next()) else { return false };
    let again = LlamaConfig::from_json(first.to_json().as_bytes(), None).expect("what was accepted is accepted again");
    assert_eq!(first, again);
    true
}

/// The header of a safetensors file and the place of every tensor in it.
pub fn safetensors(data: &[u8]) -> bool {
    let Ok(entries) = read_header("fuzzed", data) else { return false };
    assert!(entries.len() <= data.len(), "more tensors than bytes");
    true
}

/// `model.safetensors.index.json`.
pub fn shard_index(data: &[u8]) -> bool {
    let Ok(shards) = parse_index(data) else { return false };
    for shard in shards.values() {
        assert!(!shard.contains(['/', '\\']) && !shard.starts_with('.'), "a shard outside the folder");
    }
    true
}

/// `tokenizer.json`; an accepted one is used on a short text.
pub fn tokenizer(data: &[u8]) -> bool {
    let Ok(tokenizer) = Tokenizer::from_json(data, &CONFIG) else { return false };
    if let Ok(ids) = tokenizer.encode("Two words, 12 °C\n", true) {
        assert!(ids.iter().all(|&id| (id as usize) < CONFIG.vocab_size), "an id outside the vocabulary");
        // The text need not come back (normalizers may change it), but decoding must not fail hard.
        let _ = tokenizer.decode(&ids);
    }
    true
}
