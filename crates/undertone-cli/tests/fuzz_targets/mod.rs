//! The bodies of all fuzz targets: pure functions from foreign bytes to whether they were accepted.
//!
//! The fuzzer calls them through `fuzz/fuzz_targets/*.rs`, and `fuzz_replay.rs` calls them with the committed corpora.
//! A body may return early on an error but never panic; where decoding succeeds it checks that the decoder is honest:
//! what it accepts encodes to the bytes it came from, and sizes follow from the input.
#![allow(dead_code, reason = "each fuzz target uses one of these functions")]

mod he;
mod model;
pub mod permuted;
mod protocol;

/// A name and a body.
pub type Target = (&'static str, fn(&[u8]) -> bool);

/// Every target with its name, which is that of its corpus folder.
pub const TARGETS: &[Target] = &[
    ("bundles", permuted::bundles),
    ("calibration", model::calibration),
    ("ciphertexts", he::ciphertexts),
    ("config", model::config),
    ("flights", permuted::flights),
    ("frames", protocol::frames),
    ("keys", he::keys),
    ("messages", protocol::messages),
    ("products", he::products),
    ("public_models", permuted::public_models),
    ("safetensors", model::safetensors),
    ("sealed", he::sealed),
    ("shard_index", model::shard_index),
    ("strict_flights", permuted::strict_flights),
    ("tokenizer", model::tokenizer),
];

/// Runs one target by name.
pub fn run(name: &str, data: &[u8]) {
    for (_, body) in TARGETS.iter().filter(|(target, _)| *target == name) {
        body(data);
    }
}
