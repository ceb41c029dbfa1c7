//! The evaluator that computes on plain f64 slots: the reference that circuits are tested against.
//!
//! It follows the level rules and counters of [`CostEvaluator`] (it owns one) and additionally checks what encryption
//! cannot see: that values entering a bootstrap are in range and repeat with the declared period. A test of what the
//! results alone reveal can leave the range unchecked, as encryption does. Noise of a chosen
//! size can be added at bootstraps to study how much precision a model needs.

mod product;

use crate::circuits::LinearTransform;
use crate::cost::{BootstrapModel, CostValue};
use crate::{Chain, CostEvaluator, Counts, Error, Evaluator, KeySet, MatrixRow, MatrixShape, Slots};
pub use product::ClearMatrix;
use rayon::prelude::*;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// How far beyond 1 a slot may be when it enters a bootstrap, and how far repeated slots may differ.
const TOLERANCE: f64 = 1e-6;
/// Diagonals that one task of a linear transform adds up.
const DIAGONALS_PER_TASK: usize = 16;

/// All slots in the clear, and the level an encryption would have.
#[derive(Debug, Clone)]
pub struct ClearValue {
    slots: Arc<Vec<f64>>,
    cost: CostValue,
}

impl ClearValue {
    /// All slots.
    pub fn slots(&self) -> &[f64] {
        &self.slots
    }
}

#[derive(Debug)]
struct Noise {
    deviation: f64,
    seed: u64,
    calls: AtomicU64,
}

/// Computes on f64 slots; see the module documentation.
pub struct ClearEvaluator {
    cost: CostEvaluator,
    noise: Option<Noise>,
    range_check: bool,
}

impl ClearEvaluator {
    /// An exact evaluator whose bootstraps count as one bootstrap each and nothing else.
    pub fn new(chain: Chain) -> Self {
        Self { cost: CostEvaluator::new(chain), noise: None, range_check: true }
    }

    /// The same with a prediction for the key switches inside bootstraps.
    pub fn with_bootstrap_model(mut self, model: BootstrapModel) -> Self {
        self.cost = self.cost.with_bootstrap_model(model);
        self
    }

    /// Adds nearly Gaussian noise of standard deviation 2^-`bits` to every slot that leaves a bootstrap.
    pub fn with_noise(mut self, bits: f64, seed: u64) -> Self {
        self.noise = Some(Noise { deviation: (-bits).exp2(), seed, calls: AtomicU64::new(0) });
        self
    }

    /// Lets values beyond ±1 through bootstraps unchanged instead of refusing them.
    pub fn without_range_check(mut self) -> Self {
        self.range_check = false;
        self
    }

    /// A value holding `values` in its slots.
    pub fn encrypt(&self, values: &Slots, level: usize) -> ClearValue {
        let slots = (0..self.chain().slot_count()).map(|i| values.at(i)).collect();
        ClearValue { slots: Arc::new(slots), cost: self.cost.value(level) }
    }

    /// All slots of a value.
    pub fn decrypt(&self, value: &ClearValue) -> Vec<f64> {
        value.slots.to_vec()
    }

    /// The keys that the same circuit under encryption would have used.
    pub fn key_set(&self) -> KeySet {
        self.cost.key_set()
    }

    /// The largest magnitude, refused beyond 1 unless that is left unchecked.
    fn in_range(&self, op: &'static str, slots: &[f64]) -> Result<f64, Error> {
        let largest = slots.iter().fold(0.0, |m: f64, v| if v.is_nan() { f64::INFINITY } else { m.max(v.abs()) });
        if self.range_check && largest > 1.0 + TOLERANCE {
            return Err(Error::Range { op, have: largest, need: 1.0 });
        }
        Ok(largest)
    }

    /// Adds the noise of one bootstrap, times `factor`, to slots that leave it.
    fn add_noise(&self, slots: &mut [f64], factor: f64) {
        let Some(noise) = &self.noise else { return };
        let mut stream = noise.seed ^ noise.calls.fetch_add(1, Ordering::Relaxed).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        slots.iter_mut().for_each(|v| *v += factor * noise.deviation * gaussian(&mut stream));
    }

    fn refresh(&self, value: &ClearValue, period: usize, cost: CostValue) -> Result<ClearValue, Error> {
        let largest = self.in_range("half_bootstrap", &value.slots)?;
        let first = &value.slots[..period];
        // Rounding grows with the values; those too large for any number repeat trivially.
        let tolerance = TOLERANCE * largest.max(1.0);
        let repeats = !largest.is_finite()
            || value.slots.chunks(period).all(|c| c.iter().zip(first).all(|(a, b)| (a - b).abs() <= tolerance));
        if !repeats {
            return Err(Error::NotPeriodic { op: "half_bootstrap", period });
        }
        if self.noise.is_none() {
            return Ok(ClearValue { slots: value.slots.clone(), cost });
        }
        let mut noisy = first.to_vec();
        self.add_noise(&mut noisy, 1.0);
        Ok(ClearValue { slots: Arc::new(noisy.repeat(value.slots.len() / period)), cost })
    }
}

impl Evaluator for ClearEvaluator {
    type Value = ClearValue;
    type Matrix = ClearMatrix;

    fn chain(&self) -> Chain {
        self.cost.chain()
    }

    fn counts(&self) -> Counts {
        self.cost.counts()
    }

    fn level(&self, a: &ClearValue) -> usize {
        a.cost.level()
    }

    fn add(&self, a: &ClearValue, b: &ClearValue) -> Result<ClearValue, Error> {
        Ok(zip(self.cost.add(&a.cost, &b.cost)?, a, b, |x, y| x + y))
    }

    fn sub(&self, a: &ClearValue, b: &ClearValue) -> Result<ClearValue, Error> {
        Ok(zip(self.cost.sub(&a.cost, &b.cost)?, a, b, |x, y| x - y))
    }

    fn negate(&self, a: &ClearValue) -> ClearValue {
        map(a.cost.clone(), a, |x| -x)
    }

    fn add_slots(&self, a: &ClearValue, b: &Slots) -> Result<ClearValue, Error> {
        Ok(with_slots(self.cost.add_slots(&a.cost, b)?, a, b, |x, y| x + y))
    }

    fn add_constant(&self, a: &ClearValue, constant: f64) -> Result<ClearValue, Error> {
        Ok(map(self.cost.add_constant(&a.cost, constant)?, a, |x| x + constant))
    }

    fn mul_integer(&self, a: &ClearValue, b: i64) -> Result<ClearValue, Error> {
        let factor = b as f64;
        Ok(map(self.cost.mul_integer(&a.cost, b)?, a, |x| x * factor))
    }

    fn mul(&self, a: &ClearValue, b: &ClearValue) -> Result<ClearValue, Error> {
        Ok(zip(self.cost.mul(&a.cost, &b.cost)?, a, b, |x, y| x * y))
    }

    fn multiply_combine(
        &self,
        pairs: &[(&ClearValue, &ClearValue)],
        terms: &[(f64, &ClearValue)],
        constant: f64,
    ) -> Result<ClearValue, Error> {
        let levels: Vec<_> = pairs.iter().map(|(a, b)| (&a.cost, &b.cost)).collect();
        let others: Vec<_> = terms.iter().map(|(c, t)| (*c, &t.cost)).collect();
        let cost = self.cost.multiply_combine(&levels, &others, constant)?;
        let mut slots = vec![constant; self.chain().slot_count()];
        for (c, t) in terms {
            slots.iter_mut().zip(t.slots.iter()).for_each(|(sum, x)| *sum += c * x);
        }
        for (a, b) in pairs {
            for ((sum, x), y) in slots.iter_mut().zip(a.slots.iter()).zip(b.slots.iter()) {
                *sum += x * y;
            }
        }
        Ok(ClearValue { slots: Arc::new(slots), cost })
    }

    fn mul_slots(&self, a: &ClearValue, b: &Slots) -> Result<ClearValue, Error> {
        Ok(with_slots(self.cost.mul_slots(&a.cost, b)?, a, b, |x, y| x * y))
    }

    fn combine(&self, terms: &[(f64, &ClearValue)], constant: f64) -> Result<ClearValue, Error> {
        let levels: Vec<_> = terms.iter().map(|(c, a)| (*c, &a.cost)).collect();
        let cost = self.cost.combine(&levels, constant)?;
        let mut slots = vec![constant; self.chain().slot_count()];
        for (c, a) in terms {
            for (sum, x) in slots.iter_mut().zip(a.slots.iter()) {
                *sum += c * x;
            }
        }
        Ok(ClearValue { slots: Arc::new(slots), cost })
    }

    fn drop_level(&self, a: &ClearValue, level: usize, factor: f64) -> Result<ClearValue, Error> {
        let cost = self.cost.drop_level(&a.cost, level, factor)?;
        if factor == 1.0 {
            return Ok(ClearValue { slots: a.slots.clone(), cost });
        }
        Ok(map(cost, a, |x| x * factor))
    }

    fn rotate(&self, a: &ClearValue, by: i32) -> Result<ClearValue, Error> {
        Ok(self.moved(a, by, self.cost.rotate(&a.cost, by)?))
    }

    fn rotate_many(&self, a: &ClearValue, by: &[i32]) -> Result<Vec<ClearValue>, Error> {
        let costs = self.cost.rotate_many(&a.cost, by)?;
        Ok(by.iter().zip(costs).map(|(&by, cost)| self.moved(a, by, cost)).collect())
    }

    fn linear_transform_each<F: From<Error>>(
        &self,
        inputs: &[ClearValue],
        transform: &LinearTransform<'_>,
        visit: &mut dyn FnMut(ClearValue) -> Result<(), F>,
    ) -> Result<(), F> {
        let levels: Vec<_> = inputs.iter().map(|a| a.cost.clone()).collect();
        let costs = self.cost.linear_transform(&levels, transform)?;
        costs
            .into_iter()
            .enumerate()
            .try_for_each(|(o, cost)| visit(ClearValue { slots: Arc::new(self.output(inputs, transform, o)), cost }))
    }

    fn half_bootstrap(
        &self,
        lo: &ClearValue,
        hi: Option<&ClearValue>,
        period: usize,
    ) -> Result<(ClearValue, Option<ClearValue>), Error> {
        let (cost, _) = self.cost.half_bootstrap(&lo.cost, hi.map(|v| &v.cost), period)?;
        let hi = hi.map(|v| self.refresh(v, period, cost.clone())).transpose()?;
        Ok((self.refresh(lo, period, cost)?, hi))
    }

    fn encode_matrix(&self, shape: &MatrixShape, row: &MatrixRow<'_>) -> Result<ClearMatrix, Error> {
        ClearMatrix::new(self.chain(), shape, row)
    }

    fn product_bootstrap(
        &self,
        inputs: &[[ClearValue; 2]],
        matrix: &ClearMatrix,
    ) -> Result<Vec<[ClearValue; 2]>, Error> {
        self.product(inputs, matrix)
    }
}

impl ClearEvaluator {
    /// `a` with its slots rotated left by `by`.
    fn moved(&self, a: &ClearValue, by: i32, cost: CostValue) -> ClearValue {
        let slots = match self.cost.normalise(by.into()) {
            0 => a.slots.clone(),
            by => Arc::new([&a.slots[by..], &a.slots[..by]].concat()),
        };
        ClearValue { slots, cost }
    }

    /// One output of a linear transform. Partial sums are added in a fixed order, so results are reproducible.
    fn output(&self, inputs: &[ClearValue], transform: &LinearTransform<'_>, output: usize) -> Vec<f64> {
        let present: Vec<(usize, usize)> = (0..inputs.len())
            .flat_map(|i| (0..transform.count).map(move |k| (i, k)))
            .filter(|&(i, k)| transform.diagonals.contains(output, i, k))
            .collect();
        let zero = vec![0.0; self.chain().slot_count()];
        let partial_sums: Vec<Vec<f64>> = present
            .par_chunks(DIAGONALS_PER_TASK)
            .map(|chunk| {
                let mut sum = zero.clone();
                for &(i, k) in chunk {
                    let by = self.cost.normalise(k as i64 * transform.stride as i64);
                    add_diagonal(&mut sum, &inputs[i].slots, by, &transform.diagonals.diagonal(output, i, k));
                }
                sum
            })
            .collect();
        partial_sums
            .into_iter()
            .reduce(|mut sum, part| {
                sum.iter_mut().zip(part).for_each(|(s, p)| *s += p);
                sum
            })
            .unwrap_or(zero)
    }
}

/// sum += diagonal ⊙ rot(x, by).
fn add_diagonal(sum: &mut [f64], x: &[f64], by: usize, diagonal: &Slots) {
    let wrap = x.len() - by;
    let (head, tail) = sum.split_at_mut(wrap);
    multiply_add(head, &x[by..], diagonal.period(), 0);
    multiply_add(tail, &x[..by], diagonal.period(), wrap);
}

/// sum += x ⊙ period, where `sum` starts at slot `start`.
fn multiply_add(mut sum: &mut [f64], mut x: &[f64], period: &[f64], start: usize) {
    let mut offset = start % period.len();
    while !sum.is_empty() {
        let run = (period.len() - offset).min(sum.len());
        let (now, later) = sum.split_at_mut(run);
        for ((s, v), d) in now.iter_mut().zip(&x[..run]).zip(&period[offset..]) {
            *s += v * d;
        }
        (sum, x, offset) = (later, &x[run..], 0);
    }
}

fn map(cost: CostValue, a: &ClearValue, f: impl Fn(f64) -> f64) -> ClearValue {
    ClearValue { slots: Arc::new(a.slots.iter().map(|&x| f(x)).collect()), cost }
}

fn zip(cost: CostValue, a: &ClearValue, b: &ClearValue, f: impl Fn(f64, f64) -> f64) -> ClearValue {
    ClearValue { slots: Arc::new(a.slots.iter().zip(b.slots.iter()).map(|(&x, &y)| f(x, y)).collect()), cost }
}

fn with_slots(cost: CostValue, a: &ClearValue, b: &Slots, f: impl Fn(f64, f64) -> f64) -> ClearValue {
    let mut slots = Vec::with_capacity(a.slots.len());
    for chunk in a.slots.chunks(b.period().len()) {
        slots.extend(chunk.iter().zip(b.period()).map(|(&x, &y)| f(x, y)));
    }
    ClearValue { slots: Arc::new(slots), cost }
}

/// The sum of twelve uniform variables less its mean: variance 1, tails cut at 6.
fn gaussian(state: &mut u64) -> f64 {
    (0..12).map(|_| uniform(state)).sum::<f64>() - 6.0
}

/// A uniform variable in [0, 1) from a splitmix64 stream; statistics only, nothing secret.
fn uniform(state: &mut u64) -> f64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((z ^ (z >> 31)) >> 11) as f64 * (-53.0f64).exp2()
}

#[cfg(test)]
mod tests;
