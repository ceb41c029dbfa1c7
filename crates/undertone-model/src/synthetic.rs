//! Models with random weights: for tests, for benchmarks of any shape, and as checkpoints for every verb.
//!
//! A tensor is a function of configuration, seed and [`Statistics`], made row by row, so that a checkpoint is written
//! without the model in memory. [`Statistics::Even`] keeps every activation of order one: deviations of 1/√fan-in for
//! the projections, smaller by √(2 L) for the two that feed the residual stream, gains within 0.7…1.3. Such a model
//! tests correctness and speed, never ranges. [`Statistics::Outliers`] has what makes trained models hard to encrypt:
//! outlier channels, massive activations and an attention sink. Neither says anything about quality.

mod byte_tokenizer;
mod checkpoint;
mod noise;
mod outliers;

use std::sync::Arc;

use rayon::prelude::*;

use crate::config::LlamaConfig;
use crate::error::Result;
use crate::rope::{RopeKind, RopeScaling};
use crate::weights::{LayerWeights, Llama, Matrix, tensor_shapes};
use noise::Noise;
use outliers::Outliers;

pub use byte_tokenizer::byte_tokenizer;
pub use checkpoint::SHARD_BYTES;

/// What the random weights are like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Statistics {
    /// Every activation of order one.
    Even,
    /// Outlier channels in the residual stream, massive activations and an attention sink.
    Outliers {
        /// Tokens that, like BOS, become a sink where none of them comes before; in trained models "." and newline.
        delimiters: Vec<u32>,
    },
}

/// A model with random weights that need not be in memory.
#[derive(Debug, Clone)]
pub struct Synthetic {
    config: LlamaConfig,
    noise: Noise,
    outliers: Option<Outliers>,
}

/// A tensor of a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Tensor {
    Embed,
    Layer(usize, Part),
    FinalNorm,
    Head,
}

/// A tensor of a layer, in the canonical order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    AttentionNorm,
    Q,
    K,
    V,
    O,
    MlpNorm,
    Gate,
    Up,
    Down,
}

impl Part {
    /// In the order of [`tensor_shapes`], with the names that the noise is drawn under.
    const ALL: [(Self, &'static str); 9] = [
        (Self::AttentionNorm, "attention_norm"),
        (Self::Q, "q"),
        (Self::K, "k"),
        (Self::V, "v"),
        (Self::O, "o"),
        (Self::MlpNorm, "mlp_norm"),
        (Self::Gate, "gate"),
        (Self::Up, "up"),
        (Self::Down, "down"),
    ];
}

impl Synthetic {
    /// A model of this shape, a function of the arguments.
    ///
    /// # Errors
    /// A configuration that [`LlamaConfig::validate`] refuses; with outliers also one without BOS, with fewer than 16
    /// channels or with heads of fewer than 4 coordinates, and delimiters outside the vocabulary.
    pub fn new(config: LlamaConfig, seed: u64, statistics: &Statistics) -> Result<Self> {
        config.validate()?;
        let outliers = match statistics {
            Statistics::Even => None,
            Statistics::Outliers { delimiters } => Some(Outliers::new(&config, delimiters)?),
        };
        Ok(Self { config, noise: Noise { seed }, outliers })
    }

    /// The shape.
    pub fn config(&self) -> &LlamaConfig {
        &self.config
    }

    /// The whole model in memory, in single precision.
    pub fn model(&self) -> Llama {
        let config = self.config.clone();
        let layers = (0..config.num_hidden_layers).map(|layer| self.layer(layer)).collect();
        let embed = Arc::new(self.matrix(Tensor::Embed));
        let head = match config.tie_word_embeddings {
            true => Arc::clone(&embed),
            false => Arc::new(self.matrix(Tensor::Head)),
        };
        Llama { layers, embed, head, final_norm: self.vector(Tensor::FinalNorm), config }
    }

    fn layer(&self, layer: usize) -> LayerWeights {
        let matrix = |part| self.matrix(Tensor::Layer(layer, part));
        let vector = |part| self.vector(Tensor::Layer(layer, part));
        LayerWeights {
            attention_norm: vector(Part::AttentionNorm),
            q: matrix(Part::Q),
            k: matrix(Part::K),
            v: matrix(Part::V),
            o: matrix(Part::O),
            mlp_norm: vector(Part::MlpNorm),
            gate: matrix(Part::Gate),
            up: matrix(Part::Up),
            down: matrix(Part::Down),
        }
    }

    fn matrix(&self, tensor: Tensor) -> Matrix {
        let (rows, cols) = self.shape(tensor);
        let mut data = vec![0.0f32; rows * cols];
        self.fill_rows(tensor, 0, cols, &mut data);
        Matrix { rows, cols, data }
    }

    fn vector(&self, tensor: Tensor) -> Vec<f32> {
        let mut data = vec![0.0; self.config.hidden_size];
        self.fill_rows(tensor, 0, self.config.hidden_size, &mut data);
        data
    }

    /// Rows and columns; a vector is one row.
    fn shape(&self, tensor: Tensor) -> (usize, usize) {
        let config = &self.config;
        let (hidden, wide) = (config.hidden_size, config.intermediate_size);
        let (query, key) = (config.query_size(), config.key_size());
        match tensor {
            Tensor::Embed | Tensor::Head => (config.vocab_size, hidden),
            Tensor::FinalNorm | Tensor::Layer(_, Part::AttentionNorm | Part::MlpNorm) => (1, hidden),
            Tensor::Layer(_, Part::Q) => (query, hidden),
            Tensor::Layer(_, Part::K | Part::V) => (key, hidden),
            Tensor::Layer(_, Part::O) => (hidden, query),
            Tensor::Layer(_, Part::Gate | Part::Up) => (wide, hidden),
            Tensor::Layer(_, Part::Down) => (hidden, wide),
        }
    }

    /// Rows `first..` of a tensor with `cols` columns.
    fn fill_rows(&self, tensor: Tensor, first: usize, cols: usize, out: &mut [f32]) {
        out.par_chunks_mut(cols).enumerate().for_each(|(i, out)| self.fill_row(tensor, first + i, out));
    }

    fn fill_row(&self, tensor: Tensor, row: usize, out: &mut [f32]) {
        let name = match tensor {
            Tensor::Embed => "embed".to_owned(),
            Tensor::Layer(layer, part) => format!("{layer}.{}", Part::ALL[part as usize].1),
            Tensor::FinalNorm => "final_norm".to_owned(),
            Tensor::Head => "head".to_owned(),
        };
        let gains = matches!(tensor, Tensor::FinalNorm | Tensor::Layer(_, Part::AttentionNorm | Part::MlpNorm));
        match gains {
            true => self.noise.gains(&name, out),
            false => self.noise.fill(&name, row, self.deviation(tensor), out),
        }
        if let Some(outliers) = &self.outliers {
            outliers.shape_row(&self.config, tensor, row, out);
        }
    }

    /// Standard deviation of the entries of a matrix.
    fn deviation(&self, tensor: Tensor) -> f64 {
        if let Some(outliers) = &self.outliers {
            return outliers.deviation(&self.config, tensor);
        }
        let (_, cols) = self.shape(tensor);
        let depth = (2.0 * self.config.num_hidden_layers as f64).sqrt();
        let gain = match tensor {
            Tensor::Embed if !self.config.tie_word_embeddings => return 1.0,
            // A head of this scale gives logits of standard deviation 2, a peaked but not degenerate distribution.
            Tensor::Embed | Tensor::Head => 2.0,
            Tensor::Layer(_, Part::Q | Part::K) => 1.2,
            Tensor::Layer(_, Part::O | Part::Down) => 2.0 / depth,
            Tensor::Layer(_, Part::Gate) => 1.5,
            Tensor::Layer(_, Part::V | Part::Up | Part::AttentionNorm | Part::MlpNorm) | Tensor::FinalNorm => 1.0,
        };
        gain / (cols as f64).sqrt()
    }

    /// Every tensor with its name and shape, in the canonical order of [`tensor_shapes`].
    fn tensors(&self) -> Vec<(Tensor, String, Vec<usize>)> {
        let layers =
            (0..self.config.num_hidden_layers).flat_map(|layer| Part::ALL.map(|(part, _)| Tensor::Layer(layer, part)));
        let order = [Tensor::Embed].into_iter().chain(layers).chain([Tensor::FinalNorm, Tensor::Head]);
        // A tied head is not listed among the shapes, and then the last one has no partner.
        order.zip(tensor_shapes(&self.config)).map(|(tensor, (name, shape))| (tensor, name, shape)).collect()
    }
}

/// A model with even random weights, a function of the configuration and the seed.
///
/// # Panics
/// If [`LlamaConfig::validate`] refuses the configuration.
pub fn synthetic(config: LlamaConfig, seed: u64) -> Llama {
    match Synthetic::new(config, seed, &Statistics::Even) {
        Ok(synthetic) => synthetic.model(),
        Err(error) => panic!("{error}"),
    }
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

#[cfg(test)]
mod tests;
