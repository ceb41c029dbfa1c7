//! Llama-family models in the clear: configuration, weights, tokenizer, sampling and the reference forward pass.
//!
//! This crate stands at both ends of the pipe: the client tokenizes, embeds and samples with it, the server takes
//! its weights and its clear prefill from it, and every encrypted layer is held against [`mod@reference`]. It knows no
//! ciphertext.
//!
//! Model files are untrusted input: each has a size cap, every dimension is checked against the configuration
//! before anything is allocated, and what is not supported is refused by name. Nothing here opens a connection.

#![deny(unsafe_code)]

pub mod config;
mod error;
mod fingerprint;
pub mod generate;
mod matmul;
pub mod presets;
pub mod reference;
mod rope;
pub mod rotation;
pub mod safetensors_file;
mod safetensors_writer;
pub mod sampling;
pub mod synthetic;
pub mod tokenizer;
mod tokenizer_file;
pub mod weights;

pub use config::LlamaConfig;
pub use error::{Error, Result};
pub use fingerprint::fingerprint;
pub use generate::clear_generate;
pub use matmul::Accumulation;
pub use presets::preset;
pub use reference::{KvCache, Observer, Site, forward};
pub use rope::{RopeKind, RopeScaling, rope_cos_sin};
pub use sampling::{Sampler, SamplingParameters};
pub use synthetic::{Statistics, Synthetic, synthetic};
pub use tokenizer::Tokenizer;
pub use weights::{ClientHalf, LayerWeights, Llama, Matrix, load_client_half};
