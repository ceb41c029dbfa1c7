//! Configurations that are read, refused and written.

use super::*;

const ROPE: &str = r#""rope_theta": 10000.0"#;

fn text(extra: &str) -> String {
    format!(
        r#"{{"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu",
        "hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "vocab_size": 32, "max_position_embeddings": 64, "rms_norm_eps": 1e-5,
        "bos_token_id": 1, "eos_token_id": 2, {extra}}}"#
    )
}

fn read(extra: &str) -> Result<LlamaConfig> {
    LlamaConfig::from_json(text(extra).as_bytes(), None)
}

fn message(extra: &str) -> String {
    read(extra).unwrap_err().to_string()
}

#[test]
fn both_rope_layouts_mean_the_same() {
    let old = read(r#""rope_theta": 5e5, "rope_scaling": {"type": "linear", "factor": 4.0}"#).unwrap();
    let new = read(r#""rope_parameters": {"rope_theta": 5e5, "rope_type": "linear", "factor": 4.0}"#).unwrap();
    assert_eq!(old, new);
    assert_eq!(old.head_dim, 2);
    assert_eq!(old.rope.kind, RopeKind::Linear { factor: 4.0 });
}

#[test]
fn a_config_without_rope_is_refused() {
    assert!(matches!(read(r#""rope_scaling": null"#), Err(Error::MissingRope)));
    assert!(matches!(read(r#""rope_parameters": {"rope_type": "default"}"#), Err(Error::MissingRope)));
}

#[test]
fn what_is_not_supported_is_refused_by_name() {
    for (extra, name) in [
        (r#""rope_theta": 1e4, "rope_scaling": {"type": "yarn", "factor": 2.0}"#, "yarn"),
        (r#""rope_theta": 1e4, "auto_map": {}"#, "auto_map"),
        (r#""rope_theta": 1e4, "quantization_config": {}"#, "quantization_config"),
        (r#""rope_theta": 1e4, "attention_bias": true"#, "attention_bias"),
        (r#""rope_theta": 1e4, "mlp_bias": true"#, "mlp_bias"),
        (r#""rope_theta": 1e4, "partial_rotary_factor": 0.5"#, "partial_rotary_factor"),
        (r#""rope_theta": 1e4, "rope_parameters": {"rope_theta": 2e4}"#, "rope_theta"),
    ] {
        assert!(message(extra).contains(name), "{}", message(extra));
    }
    let other = text(ROPE).replace("LlamaForCausalLM", "MistralForCausalLM");
    let error = LlamaConfig::from_json(other.as_bytes(), None).unwrap_err();
    assert!(error.to_string().contains("MistralForCausalLM"));
    let other = text(ROPE).replace("silu", "gelu");
    assert!(LlamaConfig::from_json(other.as_bytes(), None).unwrap_err().to_string().contains("gelu"));
}

#[test]
fn giant_dimensions_are_refused() {
    for (from, to) in [
        (r#""hidden_size": 8"#, r#""hidden_size": 18446744073709551615"#),
        (r#""num_hidden_layers": 2"#, r#""num_hidden_layers": 4294967296"#),
        (r#""vocab_size": 32"#, r#""vocab_size": 99999999999"#),
        (r#""num_attention_heads": 4"#, r#""num_attention_heads": 0"#),
        (r#""num_key_value_heads": 2"#, r#""num_key_value_heads": 3"#),
        (r#""rms_norm_eps": 1e-5"#, r#""rms_norm_eps": -1.0"#),
        (r#""eos_token_id": 2"#, r#""eos_token_id": [2, 32]"#),
    ] {
        let changed = text(ROPE).replace(from, to);
        let error = LlamaConfig::from_json(changed.as_bytes(), None).unwrap_err();
        assert!(matches!(error, Error::OutOfRange { .. }), "{error}");
    }
    let mut config = read(ROPE).unwrap();
    config.hidden_size = 1 << 16;
    config.intermediate_size = 1 << 18;
    config.num_hidden_layers = 1 << 10;
    assert!(config.validate().unwrap_err().to_string().contains("parameters"));
}

#[test]
fn generation_config_wins_and_eos_may_be_a_list() {
    let generation = br#"{"eos_token_id": [5, 6], "bos_token_id": 3}"#;
    let config = LlamaConfig::from_json(text(ROPE).as_bytes(), Some(generation)).unwrap();
    assert_eq!((config.bos_token_id, config.eos_token_ids), (Some(3), vec![5, 6]));
}

#[test]
fn what_is_written_is_read_back() {
    let rope = r#""rope_theta": 5e5, "rope_scaling": {"rope_type": "llama3", "factor": 8.0,
        "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}"#;
    for extra in [ROPE, rope] {
        let config = read(extra).unwrap();
        assert_eq!(LlamaConfig::from_json(config.to_json().as_bytes(), None).unwrap(), config);
    }
}
