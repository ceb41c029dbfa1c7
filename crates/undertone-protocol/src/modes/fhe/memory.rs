//! The memory of a session at the server, from above: reserved before the first key is accepted.

use undertone_he::{KeyMemory, Parameters, PlannedKey, bootstrap_matrix_bytes};
use undertone_infer::Plan;
use undertone_model::LlamaConfig;

/// Bytes of a residue in memory.
const WORD: u64 = 8;
/// Primes of the rings of a matrix product.
const PRODUCT_PRIMES: u64 = 4;
/// Rings of the products of one number of tokens: one of full degree and the small one.
const PRODUCT_RINGS: u64 = 2;
/// One part in this many of all polynomials is lost to huge pages, of which each polynomial has whole ones: half of 2 MiB
/// for 8 MiB, which is one of 16 limbs.
///
/// Measured: a server of the bundled model with 293 public and 79 private tokens and keys on disk peaks at 3 727 896 576
/// bytes.
const HUGE_PAGE_PART: u64 = 8;

/// Bytes that the server reserves for one session with these costs and keys, which wait as `memory` says; the model's
/// weights are not among them. Matrices that turns multiply by are: they are made anew for every layer.
///
/// `keys` are those of the plan, as `planned_keys` makes them of `costs.keys`.
pub fn session_bytes(
    parameters: &Parameters,
    config: &LlamaConfig,
    costs: &Plan,
    keys: &[PlannedKey],
    memory: &KeyMemory,
) -> u64 {
    let chain = parameters.chain();
    let limb = WORD << chain.log_n;
    let [held, _] = memory.planned_bytes(keys);
    // One index per eight residues, and the orders within eight.
    let permutations = keys.len() as u64 * (limb / 16 + 1024);
    let periods = costs.keys.bootstrap_periods.iter();
    let matrices: u64 = periods.map(|(&period, &pair)| bootstrap_matrix_bytes(parameters, period, pair)).sum();
    let limbs = costs.peak_limbs as u64;
    let values = limbs.saturating_mul(limb).saturating_add(limbs.saturating_mul(limb) / HUGE_PAGE_PART);
    // Tables of the rings of a product: four primes, forward and inverse with quotients, at both degrees.
    let tables = costs.keys.product_tokens.len() as u64 * PRODUCT_PRIMES * 4 * (limb + limb / 8);
    // The rings of a product each keep a pool of their own, while the session lasts.
    let pool = values.min(parameters.ring().pool_bytes() as u64);
    let parts = [
        held,
        permutations,
        tables,
        matrices,
        values,
        // Released polynomials wait for others of their size, and were values before.
        pool.saturating_mul(1 + PRODUCT_RINGS * costs.keys.product_tokens.len() as u64),
        public_cache_bytes(config, costs.shape.public_tokens),
    ];
    parts.into_iter().fold(0, u64::saturating_add)
}

/// Bytes of memory and of disk of a session that takes `seeded_bytes` with its keys as seeds, when they wait as `memory`
/// says.
pub fn waiting_otherwise(seeded_bytes: u64, keys: &[PlannedKey], memory: &KeyMemory) -> [u64; 2] {
    let [seeded, _] = KeyMemory::Seeded.planned_bytes(keys);
    let [held, disk] = memory.planned_bytes(keys);
    [seeded_bytes.saturating_sub(seeded).saturating_add(held), disk]
}

/// The caches of the public tokens in the clear, whose buffers may be twice as long as what they hold.
fn public_cache_bytes(config: &LlamaConfig, tokens: usize) -> u64 {
    let row = (config.num_key_value_heads * config.head_dim * size_of::<f32>()) as u64;
    (2 * 2 * config.num_hidden_layers as u64).saturating_mul(row).saturating_mul(tokens as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::WireShape;
    use crate::modes::fhe::Candidate;
    use crate::modes::fhe::route::tests::llama_2_7b;

    #[test]
    fn the_rings_of_a_product_keep_pools_of_their_own() {
        let parameters = Parameters::product_preset();
        let config = llama_2_7b(2);
        let shape = WireShape { public_tokens: 16, private_tokens: 128, max_new_tokens: 1 };
        let mut costs = Candidate::new(&parameters, &config, None, shape).unwrap().costs;
        assert_eq!(costs.keys.product_tokens.len(), 1);
        let mut pools = |peak_limbs| {
            costs.peak_limbs = peak_limbs;
            let bytes = |costs: &Plan| session_bytes(&parameters, &config, costs, &[], &KeyMemory::Seeded);
            let mut without = costs.clone();
            without.keys.product_tokens.clear();
            bytes(&costs) - bytes(&without)
        };
        let limb = WORD << parameters.chain().log_n;
        // Tables come to 16 limbs of full degree and of the small one.
        let tables = 18 * limb;
        // All that is ever held where that is less than the limit of a pool, which is what is kept of more.
        assert_eq!(pools(16), tables + 2 * 18 * limb);
        assert_eq!(pools(1 << 16), tables + 2 * parameters.ring().pool_bytes() as u64);
    }
}
