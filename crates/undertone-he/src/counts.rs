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
    /// Integer weights times tokens that they meet in matrix products between bootstraps, with the weights that pad
    /// matrices to whole ciphertexts.
    pub matrix_products: u64,
    /// What ran at each level (index = level), for time estimates.
    pub by_level: Vec<LevelCounts>,
}

/// The parts of operations that took place at one level; their times differ, and hoisting shares some of them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LevelCounts {
    /// Inner products of digits with a key.
    pub key_switches: u64,
    /// Polynomials cut into digits and lifted to the special primes; hoisted key switches share one.
    pub decompositions: u64,
    /// Polynomials divided by the special primes: two for a key switch of its own.
    pub divisions: u64,
    /// Tensor products of ciphertexts.
    pub products: u64,
    /// Plaintexts encoded on the way to their product.
    pub encodings: u64,
    /// Slots of one period of each of them, in all.
    pub encoded_slots: u64,
    /// Ciphertexts rescaled apart from any key switch, where the operation always does.
    pub rescales: u64,
}

impl LevelCounts {
    /// `count` key switches that share nothing.
    fn alone(count: u64) -> Self {
        Self { key_switches: count, decompositions: count, divisions: 2 * count, ..Self::default() }
    }

    /// `count` plaintexts of `slots` slots in all, encoded, multiplied and added up into `rescales` results.
    pub(crate) fn plaintexts(count: u64, slots: u64, rescales: u64) -> Self {
        Self { encodings: count, encoded_slots: slots, rescales, ..Self::default() }
    }

    /// One ciphertext rescaled.
    pub(crate) fn rescale() -> Self {
        Self { rescales: 1, ..Self::default() }
    }

    fn combine(&mut self, other: &Self, f: impl Fn(&mut u64, u64)) {
        f(&mut self.key_switches, other.key_switches);
        f(&mut self.decompositions, other.decompositions);
        f(&mut self.divisions, other.divisions);
        f(&mut self.products, other.products);
        f(&mut self.encodings, other.encodings);
        f(&mut self.encoded_slots, other.encoded_slots);
        f(&mut self.rescales, other.rescales);
    }
}

impl Counts {
    /// Records `count` key switches at `level` that share nothing.
    pub fn key_switch(&mut self, level: usize, count: u64) {
        self.at_level(level, &LevelCounts::alone(count));
    }

    /// Records what happened at `level`.
    pub fn at_level(&mut self, level: usize, counts: &LevelCounts) {
        if self.by_level.len() <= level {
            self.by_level.resize(level + 1, LevelCounts::default());
        }
        self.by_level[level].combine(counts, |sum, more| *sum += more);
        self.key_switches += counts.key_switches;
    }

    /// Adds another set of counters.
    pub fn merge(&mut self, other: &Counts) {
        self.merge_times(other, 1);
    }

    /// Adds another set of counters as often as `times` says.
    pub fn merge_times(&mut self, other: &Counts, times: u64) {
        self.combine(other, |sum, more| *sum += times * more);
    }

    /// These counters less those of an earlier time.
    pub fn since(&self, before: &Counts) -> Counts {
        let mut counts = self.clone();
        counts.combine(before, |now, before| *now -= before);
        counts
    }

    fn combine(&mut self, other: &Counts, f: impl Fn(&mut u64, u64)) {
        f(&mut self.products, other.products);
        f(&mut self.plaintext_products, other.plaintext_products);
        f(&mut self.rotations, other.rotations);
        f(&mut self.relinearizations, other.relinearizations);
        f(&mut self.key_switches, other.key_switches);
        f(&mut self.bootstraps, other.bootstraps);
        f(&mut self.matrix_products, other.matrix_products);
        if self.by_level.len() < other.by_level.len() {
            self.by_level.resize(other.by_level.len(), LevelCounts::default());
        }
        self.by_level.iter_mut().zip(&other.by_level).for_each(|(sum, other)| sum.combine(other, &f));
    }
}
