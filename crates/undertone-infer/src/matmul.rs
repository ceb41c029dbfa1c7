//! Products of plaintext matrices with encrypted tensors along one axis of the slots, by diagonals.
//!
//! With slot = low + stride·p, the product y[low, o] = Σ_i entry(low, o, i)·x[low, i] is a sum of rotations of x by
//! multiples of `stride` times plaintext diagonals. The matrix may differ with `low` (the token, the head), so masks,
//! per-token factors and rotary embeddings cost nothing. With `stride` 1 any map between two layouts is such a product.
//!
//! Which diagonals are present depends on the shape alone, never on the weights, so that a plan without weights counts
//! exactly what a run does. Diagonals are made one at a time, when the evaluator asks.
//! Source of the method: Halevi and Shoup (eprint 2014/106), baby steps and giant steps.

use crate::packing::Axis;
use undertone_he::circuits::{Diagonals, LinearTransform};
use undertone_he::{Error, Evaluator, Slots};

/// The matrix entry for (slot index below the stride, output ciphertext and axis index, input ciphertext and axis index).
pub type Entry<'a> = dyn Fn(usize, (usize, usize), (usize, usize)) -> f64 + Sync + 'a;

/// A plaintext matrix along one axis; see the module documentation.
pub struct AxisProduct<'a> {
    slot_count: usize,
    input: Axis,
    output: Axis,
    /// Slots in a row that have the same entries.
    run: usize,
    entry: &'a Entry<'a>,
}

impl<'a> AxisProduct<'a> {
    /// The product from `input` to `output`, two axes with the same stride.
    pub fn new(slot_count: usize, input: Axis, output: Axis, entry: &'a Entry<'a>) -> Self {
        debug_assert_eq!(input.stride, output.stride);
        debug_assert!(input.period() <= slot_count && output.period() <= slot_count);
        Self { slot_count, input, output, run: 1, entry }
    }

    /// Says that entries are the same for every `run` slots in a row, a divisor of the stride, so that one of them is
    /// asked for.
    pub fn in_runs(self, run: usize) -> Self {
        debug_assert!(self.input.stride.is_multiple_of(run));
        Self { run, ..self }
    }

    /// Computes the product.
    ///
    /// # Shapes
    /// `inputs` are `input.count` ciphertexts that repeat with `input.period()` slots; the result is `output.count`
    /// ciphertexts that repeat with `output.period()` slots.
    ///
    /// # Levels
    /// One below the lowest input.
    ///
    /// # Errors
    /// Whatever the evaluator refuses.
    pub fn apply<E: Evaluator>(&self, ev: &E, inputs: &[E::Value]) -> Result<Vec<E::Value>, Error> {
        let mut outputs = Vec::with_capacity(self.output.count);
        self.apply_each::<E, Error>(ev, inputs, &mut |output| {
            outputs.push(output);
            Ok(())
        })?;
        Ok(outputs)
    }

    /// [`AxisProduct::apply`] that gives its outputs to `visit` one after the other, as soon as each is made.
    ///
    /// # Errors
    /// Whatever the evaluator and `visit` refuse.
    pub fn apply_each<E: Evaluator, F: From<Error>>(
        &self,
        ev: &E,
        inputs: &[E::Value],
        visit: &mut dyn FnMut(E::Value) -> Result<(), F>,
    ) -> Result<(), F> {
        let count = self.input.len.min(self.output.len);
        let transform = LinearTransform {
            inputs: self.input.count,
            outputs: self.output.count,
            stride: self.input.stride,
            count,
            baby_steps: baby_steps(count, self.input.count, self.output.count),
            diagonals: self,
        };
        // Each group of `output.len` axis units holds a partial sum over its own inputs.
        let groups = (self.input.len / self.output.len).max(1);
        ev.linear_transform_each(inputs, &transform, &mut |sum| {
            visit(ev.rotate_sum(&sum, self.output.period() as i32, groups)?)
        })
    }
}

impl Diagonals for AxisProduct<'_> {
    fn contains(&self, _output: usize, _input: usize, _index: usize) -> bool {
        true
    }

    fn period(&self, _output: usize, _input: usize, _index: usize) -> usize {
        self.input.stride * self.input.len.max(self.output.len)
    }

    fn diagonal(&self, output: usize, input: usize, index: usize) -> Slots {
        let stride = self.input.stride;
        let period = self.period(output, input, index);
        let mut values = Vec::with_capacity(period);
        for p in 0..period / stride {
            let to = (output, p % self.output.len);
            let from = (input, (p + index) % self.input.len);
            for low in (0..stride).step_by(self.run) {
                let entry = (self.entry)(low, to, from);
                values.extend(std::iter::repeat_n(entry, self.run));
            }
        }
        Slots::new(values, self.slot_count).expect("axes are powers of two that fit the slots")
    }
}

/// Σ_i masks(i) ⊙ inputs_i with one rescale. Depth 1.
///
/// # Errors
/// Whatever the evaluator refuses.
pub fn masked_sum<E: Evaluator>(
    ev: &E,
    inputs: &[E::Value],
    masks: &(dyn Fn(usize) -> Slots + Sync),
) -> Result<E::Value, Error> {
    let diagonals = Masks(masks);
    let transform =
        LinearTransform { inputs: inputs.len(), outputs: 1, stride: 1, count: 1, baby_steps: 1, diagonals: &diagonals };
    let sums = ev.linear_transform(inputs, &transform)?;
    let have = sums.len();
    sums.into_iter().next().ok_or(Error::Arity { op: "masked_sum", have, need: 1 })
}

struct Masks<'a>(&'a (dyn Fn(usize) -> Slots + Sync));

impl Diagonals for Masks<'_> {
    fn contains(&self, _output: usize, _input: usize, _index: usize) -> bool {
        true
    }

    fn diagonal(&self, _output: usize, input: usize, _index: usize) -> Slots {
        (self.0)(input)
    }
}

/// The number of baby steps, a power of two, that makes the rotations cheapest.
///
/// Baby steps share one decomposition of their input, giant steps do not, so they weigh two to three.
fn baby_steps(count: usize, inputs: usize, outputs: usize) -> usize {
    let cost = |b: usize| 2 * inputs * (b - 1) + 3 * outputs * (count / b - 1);
    (0..=count.trailing_zeros()).map(|log| 1 << log).min_by_key(|&b| cost(b)).unwrap_or(1)
}

#[cfg(test)]
mod tests;
