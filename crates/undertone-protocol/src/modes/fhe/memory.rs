//! The memory of a session at the server, from above: reserved before the first key is accepted.

use crate::Error;
use undertone_he::{KeyId, KeyRequest, Parameters};
use undertone_infer::{Layout, Plan};
use undertone_model::LlamaConfig;

/// Bytes of a residue in memory.
const WORD: u64 = 8;
/// Ciphertexts at the top level that a session may hold besides keys, matrices and caches: inputs, and the rotated
/// copies, products and sums of the widest stage.
const WORKING_CIPHERTEXTS: u64 = 256;
/// Freed buffers that the ring keeps for reuse, at most.
const POOL_BYTES: u64 = 768 << 20;
/// Stages of the homomorphic DFT in one matrix.
const LOG_RADIX: u32 = 5;

/// Bytes that the server reserves for one session with these costs and keys, the model's weights not among them.
///
/// `keys` are those of the plan, as `key_requests` makes them of `costs.keys`.
///
/// # Errors
/// Shapes that no layout serves, as [`Layout::new`] says; none for costs that come from [`Plan::new`] on `config`.
pub fn session_bytes(
    parameters: &Parameters,
    config: &LlamaConfig,
    costs: &Plan,
    keys: &[KeyRequest],
) -> Result<u64, Error> {
    let chain = parameters.chain();
    let layout = Layout::new(config, costs.shape, chain.slot_count())?;
    let ciphertext = 2 * (chain.top_level as u64 + 1) * (WORD << chain.log_n);
    let held: u64 = keys.iter().map(|&key| held_key_bytes(parameters, key)).sum();
    // One index per eight residues, and the orders within eight.
    let permutations = keys.len() as u64 * ((WORD << chain.log_n) / 16 + 1024);
    let matrices: u64 = costs.keys.bootstrap_periods.keys().map(|&period| matrix_bytes(parameters, period)).sum();
    let parts = [
        held,
        permutations,
        matrices,
        cached_ciphertexts(config, &layout).saturating_mul(ciphertext),
        public_cache_bytes(config, layout.shape.public_tokens),
        WORKING_CIPHERTEXTS * ciphertext,
        POOL_BYTES,
    ];
    Ok(parts.into_iter().fold(0, u64::saturating_add))
}

/// The computed half of every digit of a key, in whole words; the uniform halves stay seeds.
pub(super) fn held_key_bytes(parameters: &Parameters, request: KeyRequest) -> u64 {
    let (digits, limbs) = match request.id {
        KeyId::ToSparse => (1, 2),
        _ => (parameters.digits(request.level).len(), parameters.key_basis(request.level).limb_count()),
    };
    digits as u64 * limbs as u64 * (WORD << parameters.chain().log_n)
}

/// The encoded diagonals of both transforms of a bootstrap of `period` slots, as if all of those on the way up stood at
/// the highest level.
fn matrix_bytes(parameters: &Parameters, period: usize) -> u64 {
    let log_period = period.max(2).trailing_zeros();
    let groups = log_period.div_ceil(LOG_RADIX);
    let special = parameters.special_count() as u64;
    // A key basis: the q limbs of the level and the special ones.
    let down = u64::from(groups) + 1 + special;
    let up = parameters.chain().max_level as u64 + 1 + special;
    let values: u64 = (0..groups)
        .map(|group| {
            let (start, end) = (group * LOG_RADIX, ((group + 1) * LOG_RADIX).min(log_period));
            // Diagonals on both sides of the main one, each a polynomial with two coefficients per slot of its block.
            ((2u64 << (end - start)) - 1) * (2u64 << end)
        })
        .sum();
    // The last group wraps around, so that half of its diagonals coincide with the other half.
    let start = (groups - 1) * LOG_RADIX;
    let wrapped = ((1u64 << (log_period - start)) - 1) * (2u64 << log_period);
    (values - wrapped) * WORD * (down + up)
}

/// Ciphertexts of the key and value caches when the last token is in them.
fn cached_ciphertexts(config: &LlamaConfig, layout: &Layout) -> u64 {
    let positions = layout.shape.private_tokens + layout.shape.max_new_tokens - 1;
    let blocks = positions.div_ceil(layout.block);
    2 * (config.num_hidden_layers * blocks * layout.head_count) as u64
}

/// The caches of the public tokens in the clear, whose buffers may be twice as long as what they hold.
fn public_cache_bytes(config: &LlamaConfig, tokens: usize) -> u64 {
    let row = (config.num_key_value_heads * config.head_dim * size_of::<f32>()) as u64;
    (2 * 2 * config.num_hidden_layers as u64).saturating_mul(row).saturating_mul(tokens as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_matrices_of_the_longest_period_take_most_of_a_gibibyte() {
        let parameters = Parameters::default_preset();
        let longest = matrix_bytes(&parameters, parameters.chain().slot_count());
        assert!((700 << 20..1200 << 20).contains(&longest), "{longest}");
        let short = matrix_bytes(&parameters, 64);
        assert!(short > 0 && short < longest / 100, "{short}");
    }
}
