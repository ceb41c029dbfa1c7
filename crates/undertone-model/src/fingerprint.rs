//! A 32-byte name for a model, which binds calibrations, plans and audit manifests to it.
//!
//! The hash covers what the forward pass computes with: the shape and constants of the configuration and every
//! weight as f32. It does not depend on sharding, on the number format a file stores the same values in, on the
//! order of tensors in a file, or on the special tokens, which only the client uses.

use std::path::Path;

use blake3::Hasher;

use crate::config::LlamaConfig;
use crate::error::Result;
use crate::rope::RopeKind;
use crate::weights::{Llama, WeightFiles, tensor_shapes};

const CONTEXT: &str = "undertone model fingerprint, version 1";

/// The fingerprint of a model directory; equal to [`Llama::fingerprint`] of the loaded model.
///
/// Reads one tensor at a time, so that the memory needed is that of the largest tensor.
///
/// # Errors
/// A directory that [`Llama::load`] would refuse.
pub fn fingerprint(dir: &Path) -> Result<[u8; 32]> {
    let config = LlamaConfig::from_dir(dir)?;
    let files = WeightFiles::open(dir)?;
    files.check(&config)?;
    let mut hasher = start(&config);
    for (name, shape) in tensor_shapes(&config) {
        absorb(&mut hasher, &name, &shape, &files.read(&name, &shape)?);
    }
    Ok(*hasher.finalize().as_bytes())
}

impl Llama {
    /// The fingerprint of this model: a hash of its configuration and weights.
    pub fn fingerprint(&self) -> [u8; 32] {
        let mut hasher = start(&self.config);
        for (name, shape, values) in self.tensors() {
            absorb(&mut hasher, &name, &shape, values);
        }
        *hasher.finalize().as_bytes()
    }
}

fn start(config: &LlamaConfig) -> Hasher {
    let mut hasher = Hasher::new_derive_key(CONTEXT);
    let mut number = |value: u64| {
        hasher.update(&value.to_le_bytes());
    };
    for dimension in [
        config.hidden_size,
        config.intermediate_size,
        config.num_hidden_layers,
        config.num_attention_heads,
        config.num_key_value_heads,
        config.head_dim,
        config.vocab_size,
        config.max_position_embeddings,
        usize::from(config.tie_word_embeddings),
    ] {
        number(dimension as u64);
    }
    number(config.rms_norm_eps.to_bits());
    number(config.rope.theta.to_bits());
    match config.rope.kind {
        RopeKind::Default => number(0),
        RopeKind::Linear { factor } => [1, factor.to_bits()].into_iter().for_each(number),
        RopeKind::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_position_embeddings } => [
            2,
            factor.to_bits(),
            low_freq_factor.to_bits(),
            high_freq_factor.to_bits(),
            original_max_position_embeddings as u64,
        ]
        .into_iter()
        .for_each(number),
    }
    hasher
}

fn absorb(hasher: &mut Hasher, name: &str, shape: &[usize], values: &[f32]) {
    // Lengths precede contents, so that no two models share one byte stream.
    hasher.update(&(name.len() as u64).to_le_bytes()).update(name.as_bytes());
    hasher.update(&(shape.len() as u64).to_le_bytes());
    for &dimension in shape {
        hasher.update(&(dimension as u64).to_le_bytes());
    }
    let mut bytes = Vec::new();
    for chunk in values.chunks(1 << 20) {
        bytes.clear();
        bytes.extend(chunk.iter().flat_map(|value| value.to_le_bytes()));
        hasher.update_rayon(&bytes);
    }
}
