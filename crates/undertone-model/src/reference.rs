//! The forward pass of a Llama-family model in the clear, in one file: what every encrypted layer is held against.
//!
//! A pass takes the next `T` tokens of a sequence, appends their keys and values to the cache and returns logits.
//! Per layer: RMSNorm, projections, rotary embedding (rotate half), causal attention over the whole cache with
//! grouped heads, output projection, residual sum, RMSNorm, SwiGLU, residual sum. Activations are f32; means,
//! softmax sums and, on request, inner products are f64.
//!
//! An [`Observer`] sees the input of every nonlinear step, which is what calibration needs. Architecture as in
//! Touvron et al., Llama 2 (arXiv 2307.09288), with the tensor conventions of Hugging Face. No batching, no dropout,
//! no sampling.

mod cache;
mod observe;

use rayon::prelude::*;

use crate::config::LlamaConfig;
use crate::error::{Error, Result};
use crate::matmul::{Accumulation, dot, matmul};
use crate::rope::cos_sin;
use crate::weights::{LayerWeights, Llama, Matrix};
pub use cache::KvCache;
use cache::LayerCache;
pub use observe::{Block, Observer, Site, SiteShape};

/// The positions whose logits a pass returns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LogitRows {
    /// Every token of the pass.
    #[default]
    All,
    /// The last token only.
    Last,
}

/// How a pass is computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ForwardOptions {
    /// The positions whose logits are returned.
    pub logits: LogitRows,
    /// The precision of inner products.
    pub accumulation: Accumulation,
}

/// Logits of every token of a pass.
///
/// # Shapes
/// `tokens` is `[T]`; the result is `T` vectors `[V]`.
///
/// # Errors
/// No tokens, tokens outside the vocabulary, more positions than the model was made for, a cache of another model.
pub fn forward(model: &Llama, cache: &mut KvCache, tokens: &[u32]) -> Result<Vec<Vec<f32>>> {
    forward_observed(model, cache, tokens, ForwardOptions::default(), &mut ())
}

/// Logits of the last token of a pass, `[V]`.
///
/// # Errors
/// As [`forward`].
pub fn forward_last(model: &Llama, cache: &mut KvCache, tokens: &[u32]) -> Result<Vec<f32>> {
    let options = ForwardOptions { logits: LogitRows::Last, ..ForwardOptions::default() };
    let rows = forward_observed(model, cache, tokens, options, &mut ())?;
    // A pass over at least one token returns at least one row.
    Ok(rows.into_iter().next_back().unwrap_or_default())
}

/// [`forward`] with options and an observer.
///
/// # Errors
/// As [`forward`].
pub fn forward_observed<O: Observer + ?Sized>(
    model: &Llama,
    cache: &mut KvCache,
    tokens: &[u32],
    options: ForwardOptions,
    observer: &mut O,
) -> Result<Vec<Vec<f32>>> {
    let stream = embed(&model.embed, tokens)?;
    let position = cache.len();
    let stream = forward_hidden(model, cache, stream, options.accumulation, observer)?;
    Ok(head(model, &stream, position, options, observer))
}

/// Embeddings of tokens, `[T, D]`.
///
/// # Errors
/// Tokens outside the vocabulary.
pub fn embed(embedding: &Matrix, tokens: &[u32]) -> Result<Vec<f32>> {
    let mut out = Vec::with_capacity(tokens.len() * embedding.cols);
    for (index, &token) in tokens.iter().enumerate() {
        if token as usize >= embedding.rows {
            return Err(Error::TokenOutOfVocabulary { index, need: embedding.rows });
        }
        out.extend_from_slice(embedding.row(token as usize));
    }
    Ok(out)
}

/// Runs all layers on embedded tokens and returns the residual stream before the final norm.
///
/// # Shapes
/// `stream` and the result are `[T, D]`.
///
/// # Errors
/// An empty or ragged `stream`, more positions than the model was made for, a cache of another model.
pub fn forward_hidden<O: Observer + ?Sized>(
    model: &Llama,
    cache: &mut KvCache,
    mut stream: Vec<f32>,
    accumulation: Accumulation,
    observer: &mut O,
) -> Result<Vec<f32>> {
    let angles = next_angles(model, cache, &stream)?;
    let position = cache.len();
    for (layer, (weights, cache)) in model.layers.iter().zip(&mut cache.layers).enumerate() {
        let mut pass = Pass { config: &model.config, layer, position, accumulation, observer };
        pass.attention(weights, cache, &angles, &mut stream);
        pass.mlp(weights, &mut stream);
    }
    Ok(stream)
}

/// Appends the keys and values of the next tokens to the cache and computes nothing else: no head, and of the last
/// layer neither attention nor feed-forward network. What the cache holds is what [`forward`] would leave there.
///
/// # Errors
/// As [`forward`].
pub fn forward_cache(model: &Llama, cache: &mut KvCache, tokens: &[u32], accumulation: Accumulation) -> Result<()> {
    let mut stream = embed(&model.embed, tokens)?;
    let angles = next_angles(model, cache, &stream)?;
    let position = cache.len();
    let last = model.layers.len().saturating_sub(1);
    for (layer, (weights, cache)) in model.layers.iter().zip(&mut cache.layers).enumerate() {
        let mut pass = Pass { config: &model.config, layer, position, accumulation, observer: &mut () };
        if layer == last {
            let normed = pass.norm(&stream, &weights.attention_norm, Block::Attention);
            pass.extend(weights, cache, &angles, &normed);
        } else {
            pass.attention(weights, cache, &angles, &mut stream);
            pass.mlp(weights, &mut stream);
        }
    }
    Ok(())
}

/// Cosines and sines of the positions that `stream`, `[T, D]`, takes after the cached ones.
fn next_angles(model: &Llama, cache: &KvCache, stream: &[f32]) -> Result<Vec<(Vec<f32>, Vec<f32>)>> {
    let config = &model.config;
    let tokens = stream.len() / config.hidden_size;
    if tokens == 0 || tokens * config.hidden_size != stream.len() {
        let need = tokens.max(1) * config.hidden_size;
        return Err(Error::Length { op: "forward", what: "activations", have: stream.len(), need });
    }
    if cache.layers.len() != model.layers.len() || cache.width != config.key_size() {
        let have = cache.layers.len();
        return Err(Error::Length { op: "forward", what: "cached layers", have, need: model.layers.len() });
    }
    let position = cache.len();
    if position + tokens > config.max_position_embeddings {
        return Err(Error::ContextFull { have: position + tokens, need: config.max_position_embeddings });
    }
    let frequencies = config.inverse_frequencies();
    Ok((position..position + tokens).map(|position| cos_sin(&frequencies, position)).collect())
}

/// Final norm and output head.
///
/// # Shapes
/// `stream` is `[T, D]` and starts at `position`; the result is `T` vectors `[V]`, or one for [`LogitRows::Last`].
pub fn head<O: Observer + ?Sized>(
    model: &Llama,
    stream: &[f32],
    position: usize,
    options: ForwardOptions,
    observer: &mut O,
) -> Vec<Vec<f32>> {
    let config = &model.config;
    let (layer, hidden) = (config.num_hidden_layers, config.hidden_size);
    let tokens = stream.len() / hidden;
    let accumulation = options.accumulation;
    let mut pass = Pass { config, layer, position, accumulation, observer };
    let normed = pass.norm(stream, &model.final_norm, Block::Final);
    let wanted = match options.logits {
        LogitRows::All => &normed[..],
        LogitRows::Last => &normed[(tokens - 1) * hidden..],
    };
    let logits = matmul(wanted, &model.head, accumulation);
    let rows = logits.len() / config.vocab_size;
    pass.position += tokens - rows;
    pass.record(Site::Logits, Block::Final, &logits, config.vocab_size);
    logits.chunks_exact(config.vocab_size).map(<[f32]>::to_vec).collect()
}

/// One layer of one forward pass.
struct Pass<'a, O: ?Sized> {
    config: &'a LlamaConfig,
    layer: usize,
    /// Position of the first token of the pass.
    position: usize,
    accumulation: Accumulation,
    observer: &'a mut O,
}

impl<O: Observer + ?Sized> Pass<'_, O> {
    /// `stream += attention(norm(stream))`
    fn attention(
        &mut self,
        weights: &LayerWeights,
        cache: &mut LayerCache,
        angles: &[(Vec<f32>, Vec<f32>)],
        stream: &mut [f32],
    ) {
        let query_size = self.config.query_size();
        let normed = self.norm(stream, &weights.attention_norm, Block::Attention); // [T, D]
        let mut queries = matmul(&normed, &weights.q, self.accumulation); // [T, H d]
        rotate(&mut queries, query_size, angles);
        self.record(Site::QueryRope, Block::Attention, &queries, query_size);
        self.extend(weights, cache, angles, &normed);

        let mixed = self.attend(&queries, cache); // [T, H d]
        self.record(Site::AttentionOut, Block::Attention, &mixed, query_size);
        let projected = matmul(&mixed, &weights.o, self.accumulation); // [T, D]
        self.record(Site::OProjOut, Block::Attention, &projected, self.config.hidden_size);
        add_assign(stream, &projected);
    }

    /// Appends keys and values of the normed tokens to the cache.
    fn extend(
        &mut self,
        weights: &LayerWeights,
        cache: &mut LayerCache,
        angles: &[(Vec<f32>, Vec<f32>)],
        normed: &[f32],
    ) {
        let key_size = self.config.key_size();
        let mut keys = matmul(normed, &weights.k, self.accumulation); // [T, K d]
        let values = matmul(normed, &weights.v, self.accumulation); // [T, K d]
        rotate(&mut keys, key_size, angles);
        self.record(Site::KeyRope, Block::Attention, &keys, key_size);
        self.record(Site::Value, Block::Attention, &values, key_size);
        cache.keys.extend_from_slice(&keys);
        cache.values.extend_from_slice(&values);
    }

    /// `stream += down(silu(gate(norm(stream))) · up(norm(stream)))`
    fn mlp(&mut self, weights: &LayerWeights, stream: &mut [f32]) {
        let wide = self.config.intermediate_size;
        let normed = self.norm(stream, &weights.mlp_norm, Block::Mlp); // [T, D]
        let gate = matmul(&normed, &weights.gate, self.accumulation); // [T, F]
        let up = matmul(&normed, &weights.up, self.accumulation); // [T, F]
        self.record(Site::Gate, Block::Mlp, &gate, wide);
        self.record(Site::Up, Block::Mlp, &up, wide);
        let product: Vec<f32> = gate.par_iter().zip(&up).map(|(&gate, &up)| silu(gate) * up).collect();
        self.record(Site::Product, Block::Mlp, &product, wide);
        let projected = matmul(&product, &weights.down, self.accumulation); // [T, D]
        self.record(Site::DownOut, Block::Mlp, &projected, self.config.hidden_size);
        add_assign(stream, &projected);
    }

    /// RMSNorm: `gain · x / √(mean(x²) + ε)`, `[T, D]`.
    fn norm(&mut self, stream: &[f32], gain: &[f32], block: Block) -> Vec<f32> {
        let hidden = self.config.hidden_size;
        self.record(Site::Residual, block, stream, hidden);
        let squares: Vec<f64> = stream
            .chunks_exact(hidden)
            .map(|row| row.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>() / hidden as f64)
            .collect();
        let shown: Vec<f32> = squares.iter().map(|&square| square as f32).collect();
        let site = if block == Block::Final { Site::FinalMeanSquare } else { Site::MeanSquare };
        self.record(site, block, &shown, 1);
        let mut normed = Vec::with_capacity(stream.len());
        for (row, square) in stream.chunks_exact(hidden).zip(squares) {
            let factor = 1.0 / (square + self.config.rms_norm_eps).sqrt();
            normed.extend(row.iter().zip(gain).map(|(&x, &gain)| gain * (f64::from(x) * factor) as f32));
        }
        self.record(Site::NormedInput, block, &normed, hidden);
        normed
    }

    /// Causal attention of every token and head over the cache, which already holds the tokens of this pass.
    fn attend(&mut self, queries: &[f32], cache: &LayerCache) -> Vec<f32> {
        let (config, first, accumulation) = (self.config, self.position, self.accumulation);
        let d = config.head_dim;
        let mut out = vec![0.0; queries.len()];
        let heads = config.num_attention_heads;
        if self.observer.is_active() {
            for (i, (query, out)) in queries.chunks_exact(d).zip(out.chunks_exact_mut(d)).enumerate() {
                let (position, head) = (first + i / heads, i % heads);
                let scores = head_scores(config, query, cache, head, position, accumulation);
                let shape = SiteShape { block: Block::Attention, rows: 1, cols: scores.len(), position, head };
                self.observer.record(self.layer, Site::Scores, &scores, shape);
                mix_values(config, scores, cache, head, out);
            }
        } else {
            out.par_chunks_exact_mut(d).zip(queries.par_chunks_exact(d)).enumerate().for_each(|(i, (out, query))| {
                let (position, head) = (first + i / heads, i % heads);
                let scores = head_scores(config, query, cache, head, position, accumulation);
                mix_values(config, scores, cache, head, out);
            });
        }
        out
    }

    fn record(&mut self, site: Site, block: Block, values: &[f32], cols: usize) {
        if self.observer.is_active() {
            let shape = SiteShape { block, rows: values.len() / cols, cols, position: self.position, head: 0 };
            self.observer.record(self.layer, site, values, shape);
        }
    }
}

/// `q·k / √d` of one head for the positions `0..=position`.
fn head_scores(
    config: &LlamaConfig,
    query: &[f32],
    cache: &LayerCache,
    head: usize,
    position: usize,
    accumulation: Accumulation,
) -> Vec<f32> {
    let (d, width) = (config.head_dim, config.key_size());
    let offset = head / config.heads_per_key() * d;
    let scale = 1.0 / (d as f32).sqrt();
    let rows = cache.keys.chunks_exact(width).take(position + 1);
    rows.map(|row| dot(query, &row[offset..offset + d], accumulation) * scale).collect()
}

/// `out = softmax(scores) V` for one head; `out` is `[d]` and zero on entry.
fn mix_values(config: &LlamaConfig, mut scores: Vec<f32>, cache: &LayerCache, head: usize, out: &mut [f32]) {
    let (d, width) = (config.head_dim, config.key_size());
    let offset = head / config.heads_per_key() * d;
    // Shifting by the largest score leaves the quotient unchanged and keeps every exponential at most 1.
    let largest = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let mut sum = 0.0f64;
    for score in &mut scores {
        *score = (*score - largest).exp();
        sum += f64::from(*score);
    }
    let inverse = (1.0 / sum) as f32;
    for (score, row) in scores.iter().zip(cache.values.chunks_exact(width)) {
        let weight = score * inverse;
        for (out, value) in out.iter_mut().zip(&row[offset..offset + d]) {
            *out += weight * value;
        }
    }
}

/// Rotary embedding of every head of every token, coordinate `i` with coordinate `i + d/2`.
fn rotate(values: &mut [f32], width: usize, angles: &[(Vec<f32>, Vec<f32>)]) {
    for (row, (cos, sin)) in values.chunks_exact_mut(width).zip(angles) {
        let half = cos.len();
        for head in row.chunks_exact_mut(2 * half) {
            let (low, high) = head.split_at_mut(half);
            for i in 0..half {
                let (a, b) = (low[i], high[i]);
                low[i] = a * cos[i] - b * sin[i];
                high[i] = b * cos[i] + a * sin[i];
            }
        }
    }
}

fn silu(x: f32) -> f32 {
    x / (1.0 + (-x).exp())
}

fn add_assign(stream: &mut [f32], change: &[f32]) {
    for (x, change) in stream.iter_mut().zip(change) {
        *x += change;
    }
}

#[cfg(test)]
mod tests;
