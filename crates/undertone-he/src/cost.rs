//! The evaluator that only counts: levels, key switches and the exact set of evaluation keys of a circuit.
//!
//! A value is its level and nothing else. The clear evaluator wraps this one, so that both follow the same rules by
//! construction. Key switches inside bootstraps come from a [`BootstrapModel`], which the bootstrap circuit supplies.

mod product;

pub(crate) use product::product_counts;

use crate::circuits::LinearTransform;
use crate::{Chain, Counts, Error, Evaluator, MatrixRow, MatrixShape, Slots};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Largest factor of `mul_integer`.
pub(crate) const MAX_INTEGER: u64 = 1024;

/// A value reduced to its level.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CostValue {
    level: usize,
}

impl CostValue {
    /// The level of the value.
    pub fn level(&self) -> usize {
        self.level
    }
}

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
}

impl CostEvaluator {
    /// An evaluator whose bootstraps count as one bootstrap each and nothing else.
    pub fn new(chain: Chain) -> Self {
        Self { chain, bootstrap: bare_bootstrap(), ledger: Mutex::default() }
    }

    /// The same with a prediction for the inside of bootstraps.
    pub fn with_bootstrap_model(mut self, model: BootstrapModel) -> Self {
        self.bootstrap = model;
        self
    }

    /// A value as an encryption at `level` would be.
    pub fn value(&self, level: usize) -> CostValue {
        CostValue { level }
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

    fn count_rotation(&self, by: i64, level: usize) {
        let by = self.normalise(by);
        if by != 0 {
            let mut ledger = self.ledger();
            ledger.counts.rotations += 1;
            ledger.counts.key_switch(level, 1);
            ledger.keys.rotate(by as i32, level);
        }
    }

    fn count_products(&self, products: usize, level: usize) {
        let mut ledger = self.ledger();
        ledger.counts.products += products as u64;
        ledger.counts.relinearizations += 1;
        ledger.counts.key_switch(level, 1);
        ledger.keys.relinearization_level = ledger.keys.relinearization_level.max(Some(level));
    }

    fn count_transform(&self, level: usize, transform: &LinearTransform<'_>) {
        let stride = transform.stride as i64;
        for input in 0..transform.inputs {
            for baby in transform.babies(input) {
                self.count_rotation(baby as i64 * stride, level);
            }
        }
        for output in 0..transform.outputs {
            for giant in transform.giants(output) {
                self.count_rotation(giant as i64 * stride, level);
            }
        }
        self.ledger().counts.plaintext_products += present_diagonals(transform);
    }

    fn count_bootstrap(&self, period: usize, pair: bool) -> Result<(), Error> {
        self.count_halves(period, pair, [1, 1])
    }

    /// Counts the halves of a bootstrap as often as `times` says, and the keys of both.
    fn count_halves(&self, period: usize, pair: bool, times: [u64; 2]) -> Result<(), Error> {
        let cost = (self.bootstrap)(period, pair)?;
        let mut ledger = self.ledger();
        ledger.counts.merge_times(&cost.to_coefficients, times[0]);
        ledger.counts.merge_times(&cost.to_slots, times[1]);
        let keys = &mut ledger.keys;
        for (by, level) in cost.rotations {
            let by = self.normalise(by.into());
            if by != 0 {
                keys.rotate(by as i32, level);
            }
        }
        let used = |level: usize| (level > 0).then_some(level);
        keys.relinearization_level = keys.relinearization_level.max(used(cost.relinearization_level));
        keys.conjugation_level = keys.conjugation_level.max(used(cost.conjugation_level));
        *keys.bootstrap_periods.entry(period).or_default() |= pair;
        Ok(())
    }
}

impl Evaluator for CostEvaluator {
    type Value = CostValue;
    type Matrix = MatrixShape;

    fn chain(&self) -> Chain {
        self.chain
    }

    fn counts(&self) -> Counts {
        self.ledger().counts.clone()
    }

    fn level(&self, a: &CostValue) -> usize {
        a.level
    }

    fn add(&self, a: &CostValue, b: &CostValue) -> Result<CostValue, Error> {
        Ok(CostValue { level: a.level.min(b.level) })
    }

    fn sub(&self, a: &CostValue, b: &CostValue) -> Result<CostValue, Error> {
        self.add(a, b)
    }

    fn negate(&self, a: &CostValue) -> CostValue {
        *a
    }

    fn add_slots(&self, a: &CostValue, b: &Slots) -> Result<CostValue, Error> {
        self.check_slots("add_slots", b)?;
        Ok(*a)
    }

    fn add_constant(&self, a: &CostValue, _constant: f64) -> Result<CostValue, Error> {
        Ok(*a)
    }

    fn mul_integer(&self, a: &CostValue, b: i64) -> Result<CostValue, Error> {
        if b.unsigned_abs() > MAX_INTEGER {
            return Err(Error::Range { op: "mul_integer", have: b as f64, need: MAX_INTEGER as f64 });
        }
        Ok(*a)
    }

    fn mul(&self, a: &CostValue, b: &CostValue) -> Result<CostValue, Error> {
        let level = a.level.min(b.level);
        let product = one_below("mul", level)?;
        self.count_products(1, level);
        Ok(product)
    }

    fn multiply_combine(
        &self,
        pairs: &[(&CostValue, &CostValue)],
        terms: &[(f64, &CostValue)],
        _constant: f64,
    ) -> Result<CostValue, Error> {
        let level = lowest("multiply_combine", pairs.iter().flat_map(|(a, b)| [a.level, b.level]))?;
        let level = terms.iter().map(|(_, t)| t.level).fold(level, usize::min);
        let product = one_below("multiply_combine", level)?;
        self.count_products(pairs.len(), level);
        Ok(product)
    }

    fn mul_slots(&self, a: &CostValue, b: &Slots) -> Result<CostValue, Error> {
        self.check_slots("mul_slots", b)?;
        let product = one_below("mul_slots", a.level)?;
        self.ledger().counts.plaintext_products += 1;
        Ok(product)
    }

    fn combine(&self, terms: &[(f64, &CostValue)], _constant: f64) -> Result<CostValue, Error> {
        one_below("combine", lowest("combine", terms.iter().map(|(_, a)| a.level))?)
    }

    fn drop_level(&self, a: &CostValue, level: usize, factor: f64) -> Result<CostValue, Error> {
        let need = if factor == 1.0 { level } else { level + 1 };
        if a.level < need {
            return Err(Error::LevelTooLow { op: "drop_level", have: a.level, need });
        }
        Ok(CostValue { level })
    }

    fn rotate(&self, a: &CostValue, by: i32) -> Result<CostValue, Error> {
        self.count_rotation(by.into(), a.level);
        Ok(*a)
    }

    fn rotate_many(&self, a: &CostValue, by: &[i32]) -> Result<Vec<CostValue>, Error> {
        by.iter().map(|&by| self.rotate(a, by)).collect()
    }

    fn linear_transform(&self, inputs: &[CostValue], transform: &LinearTransform<'_>) -> Result<Vec<CostValue>, Error> {
        if inputs.len() != transform.inputs {
            return Err(Error::Arity { op: "linear_transform", have: inputs.len(), need: transform.inputs });
        }
        if transform.baby_steps == 0 {
            return Err(Error::Arity { op: "linear_transform (baby steps)", have: 0, need: 1 });
        }
        let level = lowest("linear_transform", inputs.iter().map(|a| a.level))?;
        let output = one_below("linear_transform", level)?;
        self.count_transform(level, transform);
        Ok(vec![output; transform.outputs])
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
        let level = hi.map_or(lo.level, |hi| hi.level.min(lo.level));
        if level < self.chain.boot_level {
            return Err(Error::LevelTooLow { op: "half_bootstrap", have: level, need: self.chain.boot_level });
        }
        self.count_bootstrap(period, hi.is_some())?;
        let fresh = CostValue { level: self.chain.top_level };
        Ok((fresh, hi.map(|_| fresh)))
    }

    fn encode_matrix(&self, shape: &MatrixShape, _row: &MatrixRow<'_>) -> Result<MatrixShape, Error> {
        shape.product_prime(self.chain)?;
        Ok(*shape)
    }

    fn product_bootstrap(&self, inputs: &[[CostValue; 2]], matrix: &MatrixShape) -> Result<Vec<[CostValue; 2]>, Error> {
        self.product(inputs, matrix)
    }
}

impl CostEvaluator {
    fn check_slots(&self, op: &'static str, slots: &Slots) -> Result<(), Error> {
        let (have, need) = (slots.period().len(), self.chain.slot_count());
        if have > need { Err(Error::SlotLength { op, have, need }) } else { Ok(()) }
    }
}

/// The level after one rescale.
fn one_below(op: &'static str, level: usize) -> Result<CostValue, Error> {
    match level.checked_sub(1) {
        Some(level) => Ok(CostValue { level }),
        None => Err(Error::LevelTooLow { op, have: level, need: 1 }),
    }
}

fn lowest(op: &'static str, levels: impl Iterator<Item = usize>) -> Result<usize, Error> {
    levels.min().ok_or(Error::Arity { op, have: 0, need: 1 })
}

fn present_diagonals(transform: &LinearTransform<'_>) -> u64 {
    let mut present = 0;
    for output in 0..transform.outputs {
        for input in 0..transform.inputs {
            present += (0..transform.count).filter(|&k| transform.diagonals.contains(output, input, k)).count();
        }
    }
    present as u64
}

#[cfg(test)]
mod tests;
