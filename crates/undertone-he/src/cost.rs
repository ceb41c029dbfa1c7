//! The evaluator that only counts: levels, key switches and the exact set of evaluation keys of a circuit.
//!
//! A value is its level and nothing else. The clear evaluator wraps this one, so that both follow the same rules by
//! construction. Key switches inside bootstraps come from a [`BootstrapModel`], which the bootstrap circuit supplies.

mod live;
mod product;
mod work;

pub use product::CostMatrix;
pub(crate) use product::product_counts;
pub use work::work;

use crate::circuits::LinearTransform;
use crate::{Chain, Counts, Error, Evaluator, LevelCounts, MatrixRow, MatrixShape, Slots};
pub use live::CostValue;
use live::{Live, limbs};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Largest factor of `mul_integer`.
pub(crate) const MAX_INTEGER: u64 = 1024;

/// Limbs of scratch memory of a key switch beside polynomials of the operand's level: special limbs and remainders of both
/// halves, and what is left of each digit.
const SWITCH_LIMBS: usize = 40;
/// Plaintexts in one prime and their sums, for two threads.
const TRANSFORMED_LIMBS: usize = 36;
/// Plaintexts of a linear transform that are encoded at a time.
const ENCODED_AT_A_TIME: u64 = 32;

/// The evaluation keys that a circuit used, each with the highest level at which it was used.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KeySet {
    /// Highest level of a relinearization, if any.
    pub relinearization_level: Option<usize>,
    /// Highest level of a conjugation (bootstraps only), if any.
    pub conjugation_level: Option<usize>,
    /// Highest level of use by rotation, normalised to 1..slot_count.
    pub rotations: BTreeMap<i32, usize>,
    /// Periods that were bootstrapped, and whether ever as a pair.
    pub bootstrap_periods: BTreeMap<usize, bool>,
    /// Tokens per channel of the matrix products between bootstraps; each number needs product keys of its own.
    pub product_tokens: BTreeSet<usize>,
}

impl KeySet {
    /// Adds the keys of another circuit.
    pub fn merge(&mut self, other: &KeySet) {
        self.relinearization_level = self.relinearization_level.max(other.relinearization_level);
        self.conjugation_level = self.conjugation_level.max(other.conjugation_level);
        for (&by, &level) in &other.rotations {
            self.rotate(by, level);
        }
        for (&period, &pair) in &other.bootstrap_periods {
            *self.bootstrap_periods.entry(period).or_default() |= pair;
        }
        self.product_tokens.extend(&other.product_tokens);
    }

    fn rotate(&mut self, by: i32, level: usize) {
        let highest = self.rotations.entry(by).or_default();
        *highest = level.max(*highest);
    }
}

/// What one half-bootstrap costs and which keys it uses beyond those of its circuit.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BootstrapCost {
    /// Counters of its first half, from slots to coefficients.
    pub to_coefficients: Counts,
    /// Counters of its second half, from ModRaise to slots, including the bootstrap itself.
    pub to_slots: Counts,
    /// Rotations with the highest level of use.
    pub rotations: Vec<(i32, usize)>,
    /// Highest level of a relinearization; 0 when there is none.
    pub relinearization_level: usize,
    /// Highest level of a conjugation; 0 when there is none.
    pub conjugation_level: usize,
    /// Most limbs that exist inside it at one time, besides keys and matrices.
    pub working_limbs: usize,
}

impl BootstrapCost {
    /// All counters of one half-bootstrap.
    pub fn counts(&self) -> Counts {
        let mut counts = self.to_coefficients.clone();
        counts.merge(&self.to_slots);
        counts
    }
}

/// Predicts one half-bootstrap from its period and whether it carries a pair, or says why there is none.
pub type BootstrapModel = Arc<dyn Fn(usize, bool) -> Result<BootstrapCost, Error> + Send + Sync>;

/// Counts one bootstrap and no key switches.
fn bare_bootstrap() -> BootstrapModel {
    let to_slots = Counts { bootstraps: 1, ..Counts::default() };
    Arc::new(move |_, _| Ok(BootstrapCost { to_slots: to_slots.clone(), ..BootstrapCost::default() }))
}

#[derive(Debug, Default)]
struct Ledger {
    counts: Counts,
    keys: KeySet,
}

/// Counts operations and keys; see the module documentation.
pub struct CostEvaluator {
    chain: Chain,
    bootstrap: BootstrapModel,
    ledger: Mutex<Ledger>,
    live: Arc<Live>,
}

impl CostEvaluator {
    /// An evaluator whose bootstraps count as one bootstrap each and nothing else.
    pub fn new(chain: Chain) -> Self {
        Self { chain, bootstrap: bare_bootstrap(), ledger: Mutex::default(), live: Arc::default() }
    }

    /// The same with a prediction for the inside of bootstraps.
    pub fn with_bootstrap_model(mut self, model: BootstrapModel) -> Self {
        self.bootstrap = model;
        self
    }

    /// A value as an encryption at `level` would be.
    pub fn value(&self, level: usize) -> CostValue {
        CostValue::new(level, &self.live)
    }

    /// The most limbs that values, operations and matrices of turns took at one time so far, besides keys and matrices of
    /// bootstraps.
    pub fn peak_limbs(&self) -> usize {
        self.live.peak()
    }

    /// The keys used since the evaluator was made.
    pub fn key_set(&self) -> KeySet {
        self.ledger().keys.clone()
    }

    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        // Counters are valid after any panic of another thread: each update is complete or absent.
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `by` modulo the slot count.
    pub(crate) fn normalise(&self, by: i64) -> usize {
        by.rem_euclid(self.chain.slot_count() as i64) as usize
    }

    /// Counts rotations of one value, which share its decomposition.
    fn count_rotations(&self, by: impl IntoIterator<Item = i64>, level: usize) {
        let moved: Vec<usize> = by.into_iter().map(|by| self.normalise(by)).filter(|&by| by != 0).collect();
        if moved.is_empty() {
            return;
        }
        let key_switches = moved.len() as u64;
        let mut ledger = self.ledger();
        ledger.counts.rotations += key_switches;
        let hoisted =
            LevelCounts { key_switches, decompositions: 1, divisions: 2 * key_switches, ..LevelCounts::default() };
        ledger.counts.at_level(level, &hoisted);
        moved.into_iter().for_each(|by| ledger.keys.rotate(by as i32, level));
    }

    fn count_products(&self, products: usize, level: usize) {
        let mut ledger = self.ledger();
        ledger.counts.products += products as u64;
        ledger.counts.relinearizations += 1;
        ledger.counts.key_switch(level, 1);
        ledger.counts.at_level(level, &LevelCounts { products: products as u64, ..LevelCounts::default() });
        ledger.keys.relinearization_level = ledger.keys.relinearization_level.max(Some(level));
    }

    fn sum_of_products(
        &self,
        op: &'static str,
        pairs: &[(&CostValue, &CostValue)],
        terms: &[(f64, &CostValue)],
    ) -> Result<CostValue, Error> {
        let level = lowest(op, pairs.iter().flat_map(|(a, b)| [a.level(), b.level()]))?;
        let level = terms.iter().map(|(_, t)| t.level()).fold(level, usize::min);
        let below = one_below(op, level)?;
        self.count_products(pairs.len(), level);
        // What the operands are lowered to, each once, the tensor product and its sums, digits, and the result.
        let mut lowered: Vec<_> = pairs.iter().flat_map(|(a, b)| [a, b]).filter(|a| a.level() > level).collect();
        lowered.sort_unstable_by_key(|value| std::ptr::from_ref::<CostValue>(value));
        lowered.dedup_by_key(|value| std::ptr::from_ref::<CostValue>(value));
        self.live.working((lowered.len() + 3) * limbs(level) + SWITCH_LIMBS);
        Ok(self.value(below))
    }

    /// Returns the longest period of the diagonals.
    fn count_transform(&self, level: usize, transform: &LinearTransform<'_>) -> usize {
        let stride = transform.stride as i64;
        for input in 0..transform.inputs {
            self.count_rotations(transform.babies(input).into_iter().map(|baby| baby as i64 * stride), level);
        }
        for output in 0..transform.outputs {
            for giant in transform.giants(output) {
                self.count_rotations([giant as i64 * stride], level);
            }
        }
        let (encodings, slots, longest) = present_diagonals(transform);
        let mut ledger = self.ledger();
        ledger.counts.plaintext_products += encodings;
        ledger.counts.at_level(level, &LevelCounts::plaintexts(encodings, slots, transform.outputs as u64));
        longest
    }

    fn count_bootstrap(&self, period: usize, pair: bool) -> Result<(), Error> {
        self.live.working(self.count_halves(period, pair, [1, 1])?);
        Ok(())
    }

    /// Counts the halves of a bootstrap as often as `times` says, and the keys of both; gives the limbs that one half takes.
    fn count_halves(&self, period: usize, pair: bool, times: [u64; 2]) -> Result<usize, Error> {
        let cost = (self.bootstrap)(period, pair)?;
        let mut ledger = self.ledger();
        ledger.counts.merge_times(&cost.to_coefficients, times[0]);
        ledger.counts.merge_times(&cost.to_slots, times[1]);
        let keys = &mut ledger.keys;
        for &(by, level) in &cost.rotations {
            let by = self.normalise(by.into());
            if by != 0 {
                keys.rotate(by as i32, level);
            }
        }
        let used = |level: usize| (level > 0).then_some(level);
        keys.relinearization_level = keys.relinearization_level.max(used(cost.relinearization_level));
        keys.conjugation_level = keys.conjugation_level.max(used(cost.conjugation_level));
        *keys.bootstrap_periods.entry(period).or_default() |= pair;
        Ok(cost.working_limbs)
    }
}

impl Evaluator for CostEvaluator {
    type Value = CostValue;
    type Matrix = CostMatrix;

    fn chain(&self) -> Chain {
        self.chain
    }

    fn counts(&self) -> Counts {
        self.ledger().counts.clone()
    }

    fn level(&self, a: &CostValue) -> usize {
        a.level()
    }

    fn add(&self, a: &CostValue, b: &CostValue) -> Result<CostValue, Error> {
        let level = a.level().min(b.level());
        self.live.working(if a.level() == b.level() { 0 } else { limbs(level) });
        Ok(self.value(level))
    }

    fn sub(&self, a: &CostValue, b: &CostValue) -> Result<CostValue, Error> {
        self.add(a, b)
    }

    fn negate(&self, a: &CostValue) -> CostValue {
        a.clone()
    }

    fn add_slots(&self, a: &CostValue, b: &Slots) -> Result<CostValue, Error> {
        self.check_slots("add_slots", b)?;
        Ok(a.clone())
    }

    fn add_constant(&self, a: &CostValue, _constant: f64) -> Result<CostValue, Error> {
        Ok(a.clone())
    }

    fn mul_integer(&self, a: &CostValue, b: i64) -> Result<CostValue, Error> {
        if b.unsigned_abs() > MAX_INTEGER {
            return Err(Error::Range { op: "mul_integer", have: b as f64, need: MAX_INTEGER as f64 });
        }
        Ok(a.clone())
    }

    fn mul(&self, a: &CostValue, b: &CostValue) -> Result<CostValue, Error> {
        self.sum_of_products("mul", &[(a, b)], &[])
    }

    fn multiply_combine(
        &self,
        pairs: &[(&CostValue, &CostValue)],
        terms: &[(f64, &CostValue)],
        _constant: f64,
    ) -> Result<CostValue, Error> {
        self.sum_of_products("multiply_combine", pairs, terms)
    }

    fn mul_slots(&self, a: &CostValue, b: &Slots) -> Result<CostValue, Error> {
        self.check_slots("mul_slots", b)?;
        let below = one_below("mul_slots", a.level())?;
        let mut ledger = self.ledger();
        ledger.counts.plaintext_products += 1;
        ledger.counts.at_level(a.level(), &LevelCounts::plaintexts(1, b.period().len() as u64, 1));
        self.live.working(2 * limbs(a.level()));
        Ok(self.value(below))
    }

    fn combine(&self, terms: &[(f64, &CostValue)], _constant: f64) -> Result<CostValue, Error> {
        let level = lowest("combine", terms.iter().map(|(_, a)| a.level()))?;
        let below = one_below("combine", level)?;
        self.ledger().counts.at_level(level, &LevelCounts::rescale());
        self.live.working(limbs(level));
        Ok(self.value(below))
    }

    fn drop_level(&self, a: &CostValue, level: usize, factor: f64) -> Result<CostValue, Error> {
        let need = if factor == 1.0 { level } else { level + 1 };
        if a.level() < need {
            return Err(Error::LevelTooLow { op: "drop_level", have: a.level(), need });
        }
        if level != a.level() || factor != 1.0 {
            self.ledger().counts.at_level(level + 1, &LevelCounts::rescale());
        }
        Ok(self.value(level))
    }

    fn rotate(&self, a: &CostValue, by: i32) -> Result<CostValue, Error> {
        self.count_rotations([by.into()], a.level());
        self.live.working(2 * limbs(a.level()) + SWITCH_LIMBS);
        Ok(a.clone())
    }

    fn rotate_many(&self, a: &CostValue, by: &[i32]) -> Result<Vec<CostValue>, Error> {
        self.count_rotations(by.iter().map(|&by| by.into()), a.level());
        let moved = vec![a.clone(); by.len()];
        self.live.working(2 * limbs(a.level()) + SWITCH_LIMBS);
        Ok(moved)
    }

    fn linear_transform_each<F: From<Error>>(
        &self,
        inputs: &[CostValue],
        transform: &LinearTransform<'_>,
        visit: &mut dyn FnMut(CostValue) -> Result<(), F>,
    ) -> Result<(), F> {
        if inputs.len() != transform.inputs {
            return Err(Error::Arity { op: "linear_transform", have: inputs.len(), need: transform.inputs }.into());
        }
        if transform.baby_steps == 0 {
            return Err(Error::Arity { op: "linear_transform (baby steps)", have: 0, need: 1 }.into());
        }
        let level = lowest("linear_transform", inputs.iter().map(CostValue::level))?;
        let below = one_below("linear_transform", level)?;
        let longest = self.count_transform(level, transform);
        // Rotated and lowered inputs live until the last output is made.
        let own = |(index, input): (usize, &CostValue)| match transform.babies(index) {
            babies if babies == [0] && input.level() == level => 0,
            babies => babies.len(),
        };
        let kept: usize = inputs.iter().enumerate().map(own).sum();
        let _kept = vec![self.value(level); kept];
        let terms = (kept.max(inputs.len()) as u64).min(ENCODED_AT_A_TIME) as usize;
        // Nearly always two share their coefficients; residues exist for one prime per thread.
        let encoded = (terms.div_ceil(2) * longest).div_ceil(self.chain.slot_count()) + TRANSFORMED_LIMBS;
        (0..transform.outputs).try_for_each(|_| {
            self.live.working(4 * limbs(level) + SWITCH_LIMBS + encoded);
            visit(self.value(below))
        })
    }

    fn half_bootstrap(
        &self,
        lo: &CostValue,
        hi: Option<&CostValue>,
        period: usize,
    ) -> Result<(CostValue, Option<CostValue>), Error> {
        if !period.is_power_of_two() || period > self.chain.slot_count() {
            return Err(Error::SlotLength { op: "half_bootstrap", have: period, need: self.chain.slot_count() });
        }
        let level = hi.map_or(lo.level(), |hi| hi.level().min(lo.level()));
        if level < self.chain.boot_level {
            return Err(Error::LevelTooLow { op: "half_bootstrap", have: level, need: self.chain.boot_level });
        }
        self.count_bootstrap(period, hi.is_some())?;
        let fresh = || self.value(self.chain.top_level);
        Ok((fresh(), hi.map(|_| fresh())))
    }

    fn encode_matrix(&self, shape: &MatrixShape, _row: &MatrixRow<'_>) -> Result<CostMatrix, Error> {
        shape.product_prime(self.chain)?;
        Ok(CostMatrix::new(shape, self.chain, &self.live))
    }

    fn product_bootstrap(&self, inputs: &[[CostValue; 2]], matrix: &CostMatrix) -> Result<Vec<[CostValue; 2]>, Error> {
        self.product(inputs, matrix.shape())
    }
}

impl CostEvaluator {
    fn check_slots(&self, op: &'static str, slots: &Slots) -> Result<(), Error> {
        let (have, need) = (slots.period().len(), self.chain.slot_count());
        if have > need { Err(Error::SlotLength { op, have, need }) } else { Ok(()) }
    }
}

/// The level after one rescale.
fn one_below(op: &'static str, level: usize) -> Result<usize, Error> {
    level.checked_sub(1).ok_or(Error::LevelTooLow { op, have: level, need: 1 })
}

fn lowest(op: &'static str, levels: impl Iterator<Item = usize>) -> Result<usize, Error> {
    levels.min().ok_or(Error::Arity { op, have: 0, need: 1 })
}

/// How many diagonals there are, the slots of all their periods, and the longest of these.
fn present_diagonals(transform: &LinearTransform<'_>) -> (u64, u64, usize) {
    let (mut present, mut slots, mut longest) = (0, 0, 0);
    for output in 0..transform.outputs {
        for input in 0..transform.inputs {
            for index in (0..transform.count).filter(|&k| transform.diagonals.contains(output, input, k)) {
                present += 1;
                let period = transform.diagonals.period(output, input, index);
                slots += period as u64;
                longest = longest.max(period);
            }
        }
    }
    (present, slots, longest)
}

#[cfg(test)]
mod tests;
