//! The public part of the prompt: a clear forward pass whose keys and values enter the encrypted layers as plaintext.

use crate::Error;
use undertone_model::reference::forward_cache;
use undertone_model::{Accumulation, KvCache, Llama, LlamaConfig};

/// Keys (after the rotary embedding) and values of the public tokens.
#[derive(Clone, Debug)]
pub struct PublicCache {
    cache: KvCache,
    head_dim: usize,
    heads_per_key: usize,
    width: usize,
}

impl PublicCache {
    /// Runs the public tokens through the model in the clear.
    ///
    /// # Errors
    /// No tokens, tokens outside the vocabulary, more than the model was made for.
    pub fn new(model: &Llama, public_ids: &[u32]) -> Result<Self, Error> {
        let mut cache = KvCache::new(&model.config);
        forward_cache(model, &mut cache, public_ids, Accumulation::default())?;
        Ok(Self::from_cache(&model.config, cache))
    }

    /// Takes a cache that a clear forward pass filled.
    pub fn from_cache(config: &LlamaConfig, cache: KvCache) -> Self {
        Self { cache, head_dim: config.head_dim, heads_per_key: config.heads_per_key(), width: config.key_size() }
    }

    /// Number P of public tokens.
    pub fn len(&self) -> usize {
        self.cache.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.cache.is_empty()
    }

    /// Coordinate `j` of the key that query head `head` meets at `position`; zero outside.
    pub(crate) fn key(&self, layer: usize, position: usize, head: usize, j: usize) -> f64 {
        self.at(self.cache.keys(layer), position, head, j)
    }

    /// Coordinate `j` of the value that query head `head` meets at `position`; zero outside.
    pub(crate) fn value(&self, layer: usize, position: usize, head: usize, j: usize) -> f64 {
        self.at(self.cache.values(layer), position, head, j)
    }

    fn at(&self, data: &[f32], position: usize, head: usize, j: usize) -> f64 {
        let key_head = head / self.heads_per_key;
        if j >= self.head_dim || (key_head + 1) * self.head_dim > self.width {
            return 0.0;
        }
        data.get(position * self.width + key_head * self.head_dim + j).map_or(0.0, |&x| f64::from(x))
    }
}
