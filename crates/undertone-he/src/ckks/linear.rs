//! Baby-step giant-step linear transforms with plaintexts encoded on the fly.
//!
//! Diagonals of weights are used once, at low levels, where encoding them for the special primes too (double hoisting)
//! would cost more than it saves; baby rotations share one decomposition and are brought back to Q once each.

use super::CkksEvaluator;
use super::arithmetic::require_depth;
use crate::circuits::LinearTransform;
use crate::{Ciphertext, Error, LevelCounts};
use rayon::prelude::*;
use std::borrow::Cow;
use undertone_ring::CompactPoly;

/// Diagonals encoded at a time, to bound memory: so many are added up in one pass over the operands.
const ENCODE_BATCH: usize = 32;

/// The baby steps of one input, and the input rotated by each of them.
struct Rotated<'a> {
    babies: Vec<usize>,
    values: Vec<Cow<'a, Ciphertext>>,
}

impl CkksEvaluator {
    pub(super) fn transformed<F: From<Error>>(
        &self,
        inputs: &[Ciphertext],
        transform: &LinearTransform<'_>,
        visit: &mut dyn FnMut(Ciphertext) -> Result<(), F>,
    ) -> Result<(), F> {
        if inputs.len() != transform.inputs || inputs.is_empty() {
            return Err(Error::Arity { op: "linear_transform", have: inputs.len(), need: transform.inputs }.into());
        }
        let level = inputs.iter().map(Ciphertext::level).min().unwrap_or(0);
        require_depth("linear_transform", level)?;
        let inputs = inputs.iter().enumerate();
        let rotated = inputs.map(|(i, x)| self.babies(transform, i, x, level)).collect::<Result<Vec<_>, Error>>()?;
        (0..transform.outputs).try_for_each(|output| visit(self.transform_output(transform, output, level, &rotated)?))
    }

    /// Input `index` rotated by its baby steps; many inputs have but one, and it is none.
    fn babies<'a>(
        &self,
        transform: &LinearTransform<'_>,
        index: usize,
        input: &'a Ciphertext,
        level: usize,
    ) -> Result<Rotated<'a>, Error> {
        let babies = transform.babies(index);
        let input = match input.level() == level {
            true => Cow::Borrowed(input),
            false => Cow::Owned(self.dropped(input, level, 1.0)?),
        };
        if babies == [0] {
            return Ok(Rotated { babies, values: vec![input] });
        }
        let steps: Vec<i32> = babies.iter().map(|&b| (b * transform.stride) as i32).collect();
        let values = self.rotated_many(&input, &steps)?.into_iter().map(Cow::Owned).collect();
        Ok(Rotated { babies, values })
    }

    fn transform_output(
        &self,
        transform: &LinearTransform<'_>,
        output: usize,
        level: usize,
        rotated: &[Rotated<'_>],
    ) -> Result<Ciphertext, Error> {
        let target = self.scale_before_rescale(level);
        let mut total = self.zero(level, target);
        for giant in transform.giants(output) {
            let terms: Vec<(usize, usize, &Ciphertext)> = rotated
                .iter()
                .enumerate()
                .flat_map(|(input, Rotated { babies, values })| {
                    babies.iter().zip(values).map(move |(&baby, value)| (input, giant + baby, value.as_ref()))
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
        self.count(|c| c.at_level(level, &LevelCounts::rescale()));
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
        let (mut sum, mut encoded_slots) = (self.zero(level, target), 0);
        for batch in terms.chunks(ENCODE_BATCH) {
            let encoded = batch
                .par_iter()
                .map(|&(input, index, value)| {
                    let diagonal = transform.diagonals.diagonal(output, input, index).rotated(-i64::from(shift));
                    Ok((self.encode(&diagonal, target / value.scale, level)?, diagonal.period().len()))
                })
                .collect::<Result<Vec<_>, Error>>()?;
            let (encoded, periods): (Vec<_>, Vec<usize>) = encoded.into_iter().unzip();
            encoded_slots += periods.iter().sum::<usize>();
            self.add_products(&mut sum, batch, &encoded);
        }
        let encodings = terms.len() as u64;
        self.count(|c| {
            c.plaintext_products += encodings;
            c.at_level(level, &LevelCounts::plaintexts(encodings, encoded_slots as u64, 0));
        });
        Ok(sum)
    }

    /// Adds a batch of products; plaintexts that repeat alike share a pass.
    fn add_products(&self, sum: &mut Ciphertext, batch: &[(usize, usize, &Ciphertext)], encoded: &[CompactPoly]) {
        let mut terms: Vec<(&Ciphertext, &CompactPoly)> = batch.iter().map(|term| term.2).zip(encoded).collect();
        terms.sort_by_key(|(_, plain)| plain.log_gap());
        for alike in terms.chunk_by(|(_, x), (_, y)| x.log_gap() == y.log_gap()) {
            let values: Vec<_> = alike.iter().map(|(value, _)| [&value.c0, &value.c1]).collect();
            let plains: Vec<_> = alike.iter().map(|&(_, plain)| plain).collect();
            self.parameters.ring().add_compact_products([&mut sum.c0, &mut sum.c1], &values, &plains);
        }
    }

    pub(crate) fn zero(&self, level: usize, scale: f64) -> Ciphertext {
        let (ring, basis) = (self.parameters.ring(), self.parameters.basis(level));
        Ciphertext { c0: ring.zero(basis), c1: ring.zero(basis), scale }
    }
}
