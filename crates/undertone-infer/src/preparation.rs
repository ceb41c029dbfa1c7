//! What is done to a model and to prompts before anything is encrypted: a static public prefix and a rotation.
//!
//! Both are part of the calibration, because ranges hold for them only, and thereby of the digest that client and
//! server compare. The prefix leads the public tokens of every prompt, so that its rows, the largest of all, are
//! computed in the clear. The rotation ([`undertone_model::rotation`]) is fused into the weights of the server and the
//! embedding of the client; the clear reference stays as it is, since the function does not change.

use crate::Error;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use undertone_model::rotation::rotated_embedding;
use undertone_model::{Llama, LlamaConfig, Matrix};

/// Most tokens of a prefix.
pub const MAX_PREFIX: usize = 16;

/// The preparation that a calibration was made with.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Preparation {
    /// Public tokens before every prompt, BOS first where the model has one; empty for none, at most [`MAX_PREFIX`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub prefix: Vec<u32>,
    /// Public seed of the rotation; none leaves the weights as they are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rotation_seed: Option<u64>,
}

impl Preparation {
    /// Whether nothing is done.
    pub fn is_plain(&self) -> bool {
        self.prefix.is_empty() && self.rotation_seed.is_none()
    }

    /// The weights that encrypted layers run with.
    pub fn weights(&self, model: Arc<Llama>) -> Arc<Llama> {
        match self.rotation_seed {
            Some(seed) => Arc::new(Arc::unwrap_or_clone(model).rotated(seed)),
            None => model,
        }
    }

    /// The embedding that the client encrypts rows of, from that of the model.
    pub fn embedding(&self, embedding: Arc<Matrix>) -> Arc<Matrix> {
        match self.rotation_seed {
            Some(seed) => Arc::new(rotated_embedding(Arc::unwrap_or_clone(embedding), seed)),
            None => embedding,
        }
    }

    /// The public tokens that the model reads for a prompt with the public tokens `public`.
    ///
    /// A BOS at the start of `public` gives way to that of the prefix.
    pub fn public_tokens(&self, public: &[u32], config: &LlamaConfig) -> Vec<u32> {
        let both_start =
            config.bos_token_id.filter(|bos| self.prefix.first() == Some(bos) && public.first() == Some(bos));
        let rest = &public[usize::from(both_start.is_some())..];
        self.prefix.iter().chain(rest).copied().collect()
    }

    /// Checks that the public tokens of a prompt start with the prefix.
    ///
    /// # Errors
    /// `PrefixMissing`.
    pub fn check_public(&self, public: &[u32]) -> Result<(), Error> {
        if public.starts_with(&self.prefix) { Ok(()) } else { Err(Error::PrefixMissing { need: self.prefix.len() }) }
    }

    /// Checks the prefix against the model.
    ///
    /// # Errors
    /// `Calibration` when it is longer than [`MAX_PREFIX`], fills the context or names tokens that the model lacks.
    pub fn check_shape(&self, config: &LlamaConfig) -> Result<(), Error> {
        let length = self.prefix.len();
        let most = MAX_PREFIX.min(config.max_position_embeddings.saturating_sub(1));
        if length > most {
            return Err(Error::Calibration { what: "prefix tokens", have: length, need: most });
        }
        let known = self.prefix.iter().filter(|&&id| (id as usize) < config.vocab_size).count();
        if known < length {
            return Err(Error::Calibration { what: "prefix tokens of the vocabulary", have: known, need: length });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use undertone_model::synthetic::{small_config, synthetic};

    fn prefixed(prefix: &[u32]) -> Preparation {
        Preparation { prefix: prefix.to_vec(), rotation_seed: None }
    }

    #[test]
    fn the_prefix_leads_and_brings_its_own_bos() {
        let config = small_config();
        assert_eq!(prefixed(&[1, 7]).public_tokens(&[1, 4, 5], &config), [1, 7, 4, 5]);
        assert_eq!(prefixed(&[1, 7]).public_tokens(&[4, 5], &config), [1, 7, 4, 5]);
        assert_eq!(prefixed(&[7, 8]).public_tokens(&[7, 4], &config), [7, 8, 7, 4]);
        assert_eq!(Preparation::default().public_tokens(&[1, 4], &config), [1, 4]);
        assert!(prefixed(&[1, 7]).check_public(&[1, 7]).is_ok());
        assert!(matches!(prefixed(&[1, 7]).check_public(&[1, 4, 7]), Err(Error::PrefixMissing { need: 2 })));
    }

    #[test]
    fn foreign_prefixes_are_refused() {
        let config = small_config();
        assert!(prefixed(&[1, 49]).check_shape(&config).is_ok());
        assert!(matches!(prefixed(&[1, 50]).check_shape(&config), Err(Error::Calibration { have: 1, need: 2, .. })));
        assert!(prefixed(&[1; MAX_PREFIX]).check_shape(&config).is_ok());
        let refused = |have: usize, config: &LlamaConfig| prefixed(&vec![1; have]).check_shape(config).unwrap_err();
        let long = refused(MAX_PREFIX + 1, &config);
        assert!(matches!(long, Error::Calibration { what: "prefix tokens", have: 17, need: MAX_PREFIX }), "{long}");
        let short = LlamaConfig { max_position_embeddings: 8, ..config };
        let full = refused(8, &short);
        assert!(matches!(full, Error::Calibration { what: "prefix tokens", have: 8, need: 7 }), "{full}");
        assert!(prefixed(&[1; 7]).check_shape(&short).is_ok());
    }

    #[test]
    fn both_sides_derive_the_same_embedding() {
        let model = Arc::new(synthetic(small_config(), 3));
        let rotated = Preparation { prefix: vec![], rotation_seed: Some(4) };
        assert!(!rotated.is_plain() && Preparation::default().is_plain());
        assert!(rotated.weights(model.clone()).embed == rotated.embedding(model.embed.clone()));
        assert!(Arc::ptr_eq(&Preparation::default().weights(model.clone()), &model));
    }
}
