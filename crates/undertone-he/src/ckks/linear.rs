//! Baby-step giant-step linear transforms with plaintexts encoded on the fly.
//!
//! Diagonals of weights are used once, at low levels, where encoding them for the special primes too (double hoisting)
//! would cost more than it saves; baby rotations share one decomposition and are brought back to Q once each.

use super::CkksEvaluator;
use super::arithmetic::require_depth;
use crate::circuits::LinearTransform;
use crate::{Ciphertext, Error};
use rayon::prelude::*;

/// Diagonals encoded at a time, to bound memory.
const ENCODE_BATCH: usize = 16;

impl CkksEvaluator {
    pub(super) fn transformed(
        &self,
        inputs: &[Ciphertext],
        transform: &LinearTransform<'_>,
    ) -> Result<Vec<Ciphertext>, Error> {
        if inputs.len() != transform.inputs || inputs.is_empty() {
            return Err(Error::Arity { op: "linear_transform", have: inputs.len(), need: transform.inputs });
        }
        let level = inputs.iter().map(Ciphertext::level).min().unwrap_or(0);
        require_depth("linear_transform", level)?;
        let mut rotated = Vec::with_capacity(inputs.len());
        for (index, input) in inputs.iter().enumerate() {
            let babies = transform.babies(index);
            let steps: Vec<i32> = babies.iter().map(|&b| (b * transform.stride) as i32).collect();
            let values = self.rotated_many(&self.dropped(input, level, 1.0)?, &steps)?;
            rotated.push((babies, values));
        }
        (0..transform.outputs).map(|output| self.transform_output(transform, output, level, &rotated)).collect()
    }

    fn transform_output(
        &self,
        transform: &LinearTransform<'_>,
        output: usize,
        level: usize,
        rotated: &[(Vec<usize>, Vec<Ciphertext>)],
    ) -> Result<Ciphertext, Error> {
        let target = self.scale_before_rescale(level);
        let mut total = self.zero(level, target);
        for giant in transform.giants(output) {
            let terms: Vec<(usize, usize, &Ciphertext)> = rotated
                .iter()
                .enumerate()
                .flat_map(|(input, (babies, values))| {
                    babies.iter().zip(values).map(move |(&baby, value)| (input, giant + baby, value))
                })
                .filter(|&(input, index, _)| {
                    index < transform.count && transform.diagonals.contains(output, input, index)
                })
                .collect();
            let shift = (giant * transform.stride) as i32;
            let partial = self.diagonal_sum(transform, output, level, shift, &terms)?;
            let moved = self.rotated(&partial, shift)?;
            let ring = self.parameters.ring();
            ring.add_assign(&mut total.c0, &moved.c0);
            ring.add_assign(&mut total.c1, &moved.c1);
        }
        self.rescaled(total)
    }

    /// Σ diagonal ⊙ rotated input, not yet rescaled.
    fn diagonal_sum(
        &self,
        transform: &LinearTransform<'_>,
        output: usize,
        level: usize,
        shift: i32,
        terms: &[(usize, usize, &Ciphertext)],
    ) -> Result<Ciphertext, Error> {
        let target = self.scale_before_rescale(level);
        let mut sum = self.zero(level, target);
        let ring = self.parameters.ring();
        for batch in terms.chunks(ENCODE_BATCH) {
            let encoded = batch
                .par_iter()
                .map(|&(input, index, value)| {
                    let diagonal = transform.diagonals.diagonal(output, input, index).rotated(-i64::from(shift));
                    self.encode(&diagonal, target / value.scale, level)
                })
                .collect::<Result<Vec<_>, Error>>()?;
            for (plain, &(_, _, value)) in encoded.iter().zip(batch) {
                ring.mul_compact_add_assign(&mut sum.c0, &value.c0, plain);
                ring.mul_compact_add_assign(&mut sum.c1, &value.c1, plain);
            }
        }
        self.count(|c| c.plaintext_products += terms.len() as u64);
        Ok(sum)
    }

    pub(crate) fn zero(&self, level: usize, scale: f64) -> Ciphertext {
        let (ring, basis) = (self.parameters.ring(), self.parameters.basis(level));
        Ciphertext { c0: ring.zero(basis), c1: ring.zero(basis), scale }
    }
}
