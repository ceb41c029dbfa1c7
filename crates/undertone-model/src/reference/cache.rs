//! Keys and values of the positions that forward passes computed.

use crate::config::LlamaConfig;

/// Keys and values of the positions computed so far.
///
/// # Shapes
/// Per layer `[S, K d]`: position after position, key heads side by side. Keys are stored after the rotary embedding.
#[derive(Clone)]
pub struct KvCache {
    pub(super) layers: Vec<LayerCache>,
    /// Values per position, K d.
    pub(super) width: usize,
}

#[derive(Clone, Default)]
pub(super) struct LayerCache {
    pub(super) keys: Vec<f32>,
    pub(super) values: Vec<f32>,
}

impl KvCache {
    /// An empty cache for models of this configuration.
    pub fn new(config: &LlamaConfig) -> Self {
        Self { layers: vec![LayerCache::default(); config.num_hidden_layers], width: config.key_size() }
    }

    /// Number `S` of cached positions, which is the position of the next token.
    pub fn len(&self) -> usize {
        self.layers.last().map_or(0, |layer| layer.keys.len() / self.width)
    }

    /// Whether no position is cached.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Keys of a layer after the rotary embedding, `[S, K d]`.
    ///
    /// # Panics
    /// If there is no such layer.
    pub fn keys(&self, layer: usize) -> &[f32] {
        &self.layers[layer].keys
    }

    /// Values of a layer, `[S, K d]`.
    ///
    /// # Panics
    /// If there is no such layer.
    pub fn values(&self, layer: usize) -> &[f32] {
        &self.layers[layer].values
    }

    /// Bytes that `positions` of them hold in a cache of `config`.
    pub fn bytes_of(config: &LlamaConfig, positions: usize) -> usize {
        2 * size_of::<f32>() * config.key_size() * config.num_hidden_layers * positions
    }

    /// Forgets all positions from `len` on.
    pub fn truncate(&mut self, len: usize) {
        for layer in &mut self.layers {
            layer.keys.truncate(len * self.width);
            layer.values.truncate(len * self.width);
        }
    }
}

/// Cached values follow from the prompt, so only their number is shown.
impl std::fmt::Debug for KvCache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "KvCache[{} layers, {} positions]", self.layers.len(), self.len())
    }
}
