//! Baby-step giant-step linear transforms as sums of diagonals.

use crate::Slots;

/// The plaintext diagonals of a linear transform with several inputs and outputs.
pub trait Diagonals: Sync {
    /// Whether diagonal `index` from `input` to `output` is present (absent ones are zero and cost nothing).
    fn contains(&self, output: usize, input: usize, index: usize) -> bool;
    /// The diagonal itself; only called where `contains` holds.
    fn diagonal(&self, output: usize, input: usize, index: usize) -> Slots;
    /// The slots with which it repeats: the length of what `diagonal` returns, without its values where that saves work.
    fn period(&self, output: usize, input: usize, index: usize) -> usize {
        self.diagonal(output, input, index).period().len()
    }
}

/// y_o = Σ_i Σ_k diagonal(o, i, k) ⊙ rot(x_i, k·stride), for k in 0..count.
///
/// Written k = g·baby_steps + b, the evaluator rotates every input by b·stride once (hoisted), multiplies by diagonals
/// rotated by −g·baby_steps·stride, and rotates each output's partial sums by g·baby_steps·stride.
pub struct LinearTransform<'a> {
    /// Number of input values.
    pub inputs: usize,
    /// Number of output values.
    pub outputs: usize,
    /// Slots per unit of rotation.
    pub stride: usize,
    /// Number of diagonals per pair of input and output.
    pub count: usize,
    /// Baby steps b; at least 1.
    pub baby_steps: usize,
    /// Where the plaintexts come from.
    pub diagonals: &'a dyn Diagonals,
}

impl LinearTransform<'_> {
    /// The baby steps b that any diagonal of `input` uses, ascending.
    pub fn babies(&self, input: usize) -> Vec<usize> {
        (0..self.baby_steps)
            .filter(|&b| {
                (b..self.count)
                    .step_by(self.baby_steps)
                    .any(|k| (0..self.outputs).any(|o| self.diagonals.contains(o, input, k)))
            })
            .collect()
    }

    /// The giant steps g·baby_steps that any diagonal of `output` uses, ascending.
    pub fn giants(&self, output: usize) -> Vec<usize> {
        (0..self.count)
            .step_by(self.baby_steps)
            .filter(|&g| {
                (g..(g + self.baby_steps).min(self.count))
                    .any(|k| (0..self.inputs).any(|i| self.diagonals.contains(output, i, k)))
            })
            .collect()
    }
}
