//! Counters shared by the evaluators: the cost evaluator predicts them, the CKKS evaluator measures them.

/// How often each operation ran. Key switches inside bootstraps are included.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counts {
    /// Ciphertext × ciphertext products (tensor products, before relinearization).
    pub products: u64,
    /// Plaintext × ciphertext products (slot vectors, diagonals; not scalars).
    pub plaintext_products: u64,
    /// Rotations and conjugations, each one key switch.
    pub rotations: u64,
    /// Relinearizations, each one key switch.
    pub relinearizations: u64,
    /// Key switches of every kind (rotations, relinearizations, secret encapsulation).
    pub key_switches: u64,
    /// Half-bootstraps, counted per ciphertext that enters ModRaise.
    pub bootstraps: u64,
    /// Integer weights multiplied by in matrix products between bootstraps, with those that pad them to whole
    /// ciphertexts; each meets all tokens of a channel.
    pub matrix_weights: u64,
    /// Key switches by the level at which they ran (index = level), for time estimates.
    pub key_switches_by_level: Vec<u64>,
}

impl Counts {
    /// Records `count` key switches at `level`.
    pub fn key_switch(&mut self, level: usize, count: u64) {
        if self.key_switches_by_level.len() <= level {
            self.key_switches_by_level.resize(level + 1, 0);
        }
        self.key_switches_by_level[level] += count;
        self.key_switches += count;
    }

    /// Adds another set of counters.
    pub fn merge(&mut self, other: &Counts) {
        self.merge_times(other, 1);
    }

    /// Adds another set of counters as often as `times` says.
    pub fn merge_times(&mut self, other: &Counts, times: u64) {
        self.products += times * other.products;
        self.plaintext_products += times * other.plaintext_products;
        self.rotations += times * other.rotations;
        self.relinearizations += times * other.relinearizations;
        self.bootstraps += times * other.bootstraps;
        self.matrix_weights += times * other.matrix_weights;
        for (level, &count) in other.key_switches_by_level.iter().enumerate() {
            if count > 0 {
                self.key_switch(level, times * count);
            }
        }
    }
}
