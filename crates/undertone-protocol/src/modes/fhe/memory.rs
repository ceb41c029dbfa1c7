//! The memory of a session at the server, from above: reserved before the first key is accepted.

use crate::Error;
use undertone_he::{KeyMemory, KeyRequest, Parameters, SeededKey, bootstrap_matrix_bytes};
use undertone_infer::{Layout, Plan};
use undertone_model::LlamaConfig;

/// Bytes of a residue in memory.
const WORD: u64 = 8;
/// Ciphertexts at the top level that a session may hold besides keys, matrices and caches: inputs, and the rotated
/// copies, products and sums of the widest stage.
const WORKING_CIPHERTEXTS: u64 = 256;

/// Bytes that the server reserves for one session with these costs and keys, which wait as `memory` says; the model's
/// weights are not among them.
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
    memory: &KeyMemory,
) -> Result<u64, Error> {
    let chain = parameters.chain();
    let layout = Layout::new(config, costs.shape, chain.slot_count())?;
    let ciphertext = 2 * (chain.top_level as u64 + 1) * (WORD << chain.log_n);
    let [held, _] = key_bytes(parameters, keys, memory)?;
    // One index per eight residues, and the orders within eight.
    let permutations = keys.len() as u64 * ((WORD << chain.log_n) / 16 + 1024);
    let periods = costs.keys.bootstrap_periods.iter();
    let matrices: u64 = periods.map(|(&period, &pair)| bootstrap_matrix_bytes(parameters, period, pair)).sum();
    let parts = [
        held,
        permutations,
        matrices,
        cached_ciphertexts(config, &layout).saturating_mul(ciphertext),
        public_cache_bytes(config, layout.shape.public_tokens),
        WORKING_CIPHERTEXTS * ciphertext,
        parameters.ring().pool_bytes() as u64,
    ];
    Ok(parts.into_iter().fold(0, u64::saturating_add))
}

/// Bytes of memory and of disk that these keys take at the server when they wait as `memory` says.
///
/// # Errors
/// Keys that do not exist under these parameters; none for those of a plan.
pub fn key_bytes(parameters: &Parameters, keys: &[KeyRequest], memory: &KeyMemory) -> Result<[u64; 2], Error> {
    let bytes = keys.iter().map(|&key| SeededKey::digit_bytes(parameters, key));
    Ok(memory.bytes(bytes.collect::<Result<Vec<_>, _>>()?))
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
