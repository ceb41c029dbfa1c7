//! The memory of a session at the server, from above: reserved before the first key is accepted.

use crate::Error;
use undertone_he::{KeyMemory, KeyRequest, Parameters, SeededKey, bootstrap_matrix_bytes};
use undertone_infer::Plan;
use undertone_model::LlamaConfig;

/// Bytes of a residue in memory.
const WORD: u64 = 8;
/// One part in this many of all polynomials is lost to huge pages, of which each polynomial has whole ones: half of 2 MiB
/// for 8 MiB, which is one of 16 limbs.
///
/// Measured: a server of the bundled model with 293 public and 79 private tokens and keys on disk peaks at 3 727 896 576
/// bytes.
const HUGE_PAGE_PART: u64 = 8;

/// Bytes that the server reserves for one session with these costs and keys, which wait as `memory` says; the model's
/// weights are not among them.
///
/// `keys` are those of the plan, as `key_requests` makes them of `costs.keys`.
///
/// # Errors
/// As [`key_bytes`].
pub fn session_bytes(
    parameters: &Parameters,
    config: &LlamaConfig,
    costs: &Plan,
    keys: &[KeyRequest],
    memory: &KeyMemory,
) -> Result<u64, Error> {
    let chain = parameters.chain();
    let limb = WORD << chain.log_n;
    let [held, _] = key_bytes(parameters, keys, memory)?;
    // One index per eight residues, and the orders within eight.
    let permutations = keys.len() as u64 * (limb / 16 + 1024);
    let periods = costs.keys.bootstrap_periods.iter();
    let matrices: u64 = periods.map(|(&period, &pair)| bootstrap_matrix_bytes(parameters, period, pair)).sum();
    let limbs = costs.peak_limbs as u64;
    let values = limbs.saturating_mul(limb).saturating_add(limbs.saturating_mul(limb) / HUGE_PAGE_PART);
    let parts = [
        held,
        permutations,
        matrices,
        values,
        // Released polynomials wait for others of their size, and were values before.
        values.min(parameters.ring().pool_bytes() as u64),
        public_cache_bytes(config, costs.shape.public_tokens),
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

/// Bytes of memory and of disk of a session that takes `seeded_bytes` with its keys as seeds, when they wait as `memory`
/// says.
///
/// # Errors
/// As [`key_bytes`].
pub fn waiting_otherwise(
    seeded_bytes: u64,
    parameters: &Parameters,
    keys: &[KeyRequest],
    memory: &KeyMemory,
) -> Result<[u64; 2], Error> {
    let [seeded, _] = key_bytes(parameters, keys, &KeyMemory::Seeded)?;
    let [held, disk] = key_bytes(parameters, keys, memory)?;
    Ok([seeded_bytes.saturating_sub(seeded).saturating_add(held), disk])
}

/// The caches of the public tokens in the clear, whose buffers may be twice as long as what they hold.
fn public_cache_bytes(config: &LlamaConfig, tokens: usize) -> u64 {
    let row = (config.num_key_value_heads * config.head_dim * size_of::<f32>()) as u64;
    (2 * 2 * config.num_hidden_layers as u64).saturating_mul(row).saturating_mul(tokens as u64)
}
