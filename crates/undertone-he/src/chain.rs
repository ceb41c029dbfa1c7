//! The levels that a circuit sees: which level a bootstrap returns and which it needs.

/// The shape of the modulus chain as circuits see it, without the primes themselves.
///
/// Levels count down. A value at `top_level` has just left a bootstrap; one at `boot_level` must be bootstrapped
/// before anything more that costs depth; the levels above `top_level` belong to bootstrapping, the ones below
/// `boot_level` to its slots-to-coefficients half.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chain {
    /// log2 of the ring degree N.
    pub log_n: u32,
    /// Level of the value that `half_bootstrap` returns, and of fresh encryptions.
    pub top_level: usize,
    /// Lowest level of a value that can still enter `half_bootstrap` or `product_bootstrap`.
    pub boot_level: usize,
    /// Highest level of the whole chain (limbs of Q minus one).
    pub max_level: usize,
    /// The prime of limb 1 where it is the scale of integer weights: `product_bootstrap` needs it. Slots-to-coefficients
    /// then ends at level 1 instead of 0, and `boot_level` is the level that both kinds of bootstrap need.
    pub product_prime: Option<u64>,
}

impl Chain {
    /// Number of slots, N/2.
    pub fn slot_count(&self) -> usize {
        1 << (self.log_n - 1)
    }
}
