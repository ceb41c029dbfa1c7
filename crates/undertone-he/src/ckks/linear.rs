//! Baby-step giant-step linear transforms with plaintexts encoded on the fly.
//!
//! Diagonals of weights are used once, at low levels, where encoding them for the special primes too (double hoisting)
//! would cost more than it saves; baby rotations share one decomposition and are brought back to Q once each.

use super::CkksEvaluator;
use super::arithmetic::require_depth;
use crate::circuits::LinearTransform;
use crate::{Ciphertext, Error, LevelCounts, Slots};
use rayon::prelude::*;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use undertone_ring::{CompactCoefficients, Ntt, Poly};

/// Diagonals encoded at a time, to bound memory: their coefficients take 2^19 bytes per pair and N = 2^16.
const ENCODE_BATCH: usize = 32;

/// The baby steps of one input, and the input rotated by each of them.
struct Rotated<'a> {
    babies: Vec<usize>,
    values: Vec<Cow<'a, Ciphertext>>,
}

/// Products with plaintexts of one period.
#[derive(Default)]
struct Alike<'a> {
    factors: Vec<[&'a Poly<Ntt>; 2]>,
    plains: Vec<CompactCoefficients>,
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
        let (mut sum, encoded_slots) = (self.zero(level, target), AtomicUsize::new(0));
        for batch in terms.chunks(ENCODE_BATCH) {
            let encoded = batch
                .par_chunks(2)
                .map(|terms| {
                    let diagonals: Vec<(Slots, f64)> = terms
                        .iter()
                        .map(|&(input, index, value)| {
                            (transform.diagonals.diagonal(output, input, index), target / value.scale)
                        })
                        .collect();
                    encoded_slots.fetch_add(diagonals.iter().map(|(slots, _)| slots.period().len()).sum(), Relaxed);
                    self.coefficients(&diagonals, -i64::from(shift))
                })
                .collect::<Result<Vec<_>, Error>>()?;
            self.add_products(&mut sum, batch, encoded.into_iter().flatten().collect());
        }
        let encodings = terms.len() as u64;
        let slots = encoded_slots.into_inner() as u64;
        self.count(|c| {
            c.plaintext_products += encodings;
            c.at_level(level, &LevelCounts::plaintexts(encodings, slots, 0));
        });
        Ok(sum)
    }

    /// Encodes vectors rotated left by `by`, each at its scale; two that are alike share their transforms.
    fn coefficients(&self, terms: &[(Slots, f64)], by: i64) -> Result<Vec<CompactCoefficients>, Error> {
        let encoder = self.parameters.encoder();
        terms.iter().try_for_each(|(slots, _)| self.check_period(slots))?;
        if let [(x, scale), (y, other)] = terms
            && x.period().len() == y.period().len()
            && scale == other
        {
            let pair = encoder.encode_real_pair([x.period(), y.period()], by, *scale)?;
            return Ok(vec![CompactCoefficients::Symmetric(pair)]);
        }
        let single = |(slots, scale): &(Slots, f64)| encoder.encode_real(slots.rotated(by).period(), *scale);
        terms.iter().map(|term| Ok(CompactCoefficients::Single(single(term)?))).collect()
    }

    /// Adds a batch of products; plaintexts that repeat alike share a pass.
    fn add_products(
        &self,
        sum: &mut Ciphertext,
        batch: &[(usize, usize, &Ciphertext)],
        encoded: Vec<CompactCoefficients>,
    ) {
        let mut alike: BTreeMap<usize, Alike<'_>> = BTreeMap::new();
        let mut values = batch.iter().map(|term| [&term.2.c0, &term.2.c1]);
        for plain in encoded {
            let Alike { factors, plains } = alike.entry(plain.coefficients().len()).or_default();
            factors.extend(values.by_ref().take(plain.count()));
            plains.push(plain);
        }
        for (stored, Alike { factors, plains }) in alike {
            let sums = [&mut sum.c0, &mut sum.c1];
            self.parameters.ring().add_compact_products(sums, &factors, &plains, stored);
        }
    }

    pub(crate) fn zero(&self, level: usize, scale: f64) -> Ciphertext {
        let (ring, basis) = (self.parameters.ring(), self.parameters.basis(level));
        Ciphertext { c0: ring.zero(basis), c1: ring.zero(basis), scale }
    }
}
