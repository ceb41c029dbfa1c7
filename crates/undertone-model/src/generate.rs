//! Generation in the clear: what the `clear` verb runs and what private generation is compared with.

use crate::error::Result;
use crate::reference::{KvCache, forward_last};
use crate::sampling::Sampler;
use crate::weights::Llama;

/// Continues a prompt and returns the new tokens.
///
/// Stops after `max_new_tokens`, after an end-of-sequence token, which is part of the result as in Hugging Face, or
/// when the context of the model is full.
///
/// # Errors
/// An empty or too long prompt, tokens outside the vocabulary, logits without a number.
pub fn clear_generate(
    model: &Llama,
    prompt_ids: &[u32],
    max_new_tokens: usize,
    sampler: &mut Sampler,
) -> Result<Vec<u32>> {
    clear_generate_with(model, &mut KvCache::new(&model.config), prompt_ids, max_new_tokens, sampler, |_, _| {})
}

/// [`clear_generate`] on a cache that may hold a prefix, with a call per new token.
///
/// `on_token` receives each new token and the logits `[V]` that it was chosen from. The cache ends up holding the
/// prompt and all new tokens but the last.
///
/// # Errors
/// As [`clear_generate`].
pub fn clear_generate_with(
    model: &Llama,
    cache: &mut KvCache,
    prompt_ids: &[u32],
    max_new_tokens: usize,
    sampler: &mut Sampler,
    mut on_token: impl FnMut(u32, &[f32]),
) -> Result<Vec<u32>> {
    let mut new_ids = Vec::new();
    let mut logits = forward_last(model, cache, prompt_ids)?;
    while new_ids.len() < max_new_tokens {
        let id = sampler.sample(&logits)?;
        on_token(id, &logits);
        new_ids.push(id);
        let done = new_ids.len() == max_new_tokens || model.config.eos_token_ids.contains(&id);
        if done || cache.len() == model.config.max_position_embeddings {
            break;
        }
        logits = forward_last(model, cache, &[id])?;
    }
    Ok(new_ids)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reference::forward;
    use crate::sampling::greedy;
    use crate::synthetic::{small_config, synthetic};

    #[test]
    fn greedy_generation_is_the_argmax_of_full_passes() {
        let model = synthetic(small_config(), 3);
        let mut sequence = vec![1, 5, 9];
        let found = clear_generate(&model, &sequence, 6, &mut Sampler::greedy()).unwrap();
        for &id in &found {
            let logits = forward(&model, &mut KvCache::new(&model.config), &sequence).unwrap();
            assert_eq!(greedy(logits.last().unwrap()).unwrap(), id);
            sequence.push(id);
        }
        assert_eq!(found.len(), 6);
    }

    #[test]
    fn generation_stops_at_eos_and_at_the_end_of_the_context() {
        let mut model = synthetic(small_config(), 3);
        let free = clear_generate(&model, &[1, 5, 9], 6, &mut Sampler::greedy()).unwrap();
        model.config.eos_token_ids = vec![free[2]];
        let stopped = clear_generate(&model, &[1, 5, 9], 6, &mut Sampler::greedy()).unwrap();
        let first = free.iter().position(|&id| id == free[2]).unwrap();
        assert_eq!(stopped, free[..=first]);
        model.config.eos_token_ids.clear();
        model.config.max_position_embeddings = 5;
        // Three positions of prompt and two of new tokens fit; the token chosen from the fifth needs no position.
        assert_eq!(clear_generate(&model, &[1, 5, 9], 50, &mut Sampler::greedy()).unwrap(), free[..3]);
        assert!(clear_generate(&model, &[], 1, &mut Sampler::greedy()).is_err());
    }
}
