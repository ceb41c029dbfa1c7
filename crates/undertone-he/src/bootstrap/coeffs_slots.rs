//! `slots_to_coeffs` and `coeffs_to_slots`: encoded DFT groups applied with double hoisting.
//!
//! Diagonals whose entries repeat are stored in their sub-ring.

use super::dft::{DiagonalMatrix, GroupShape};
use super::stages::Stages;
use crate::keys::GaloisKey;
use crate::{Ciphertext, CkksEvaluator, Error, LevelCounts, Parameters};
use num_complex::Complex64;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;
use undertone_ring::{CompactPoly, Giant, Step};

/// One group of stages: plaintexts by giant and baby step.
struct EncodedGroup {
    stride: i64,
    level: usize,
    /// giant step → (baby step, diagonal rotated by −giant·stride), both in units of the stride.
    giants: BTreeMap<i64, Vec<(i64, CompactPoly)>>,
}

/// What a group with so many rotations is, if so many of them are giant steps: each of these decomposes and divides half of
/// a sum of its own.
pub(super) fn hoisted(rotations: u64, giants: u64) -> LevelCounts {
    let (decompositions, divisions) = (1 + giants, 2 + giants);
    LevelCounts { key_switches: rotations, decompositions, divisions, ..LevelCounts::default() }
}

/// A whole transform; one level per group.
pub(super) struct EncodedTransform {
    groups: Vec<Arc<EncodedGroup>>,
    output_scale: f64,
    /// What the last group's matrix was multiplied by.
    last_scale: f64,
}

impl EncodedTransform {
    /// From the slots of a canonical value to coefficients scaled to q0 / R: at level 0, or at that of a product.
    pub(super) fn slots_to_coeffs(parameters: &Parameters, period: usize) -> Self {
        let shapes = GroupShape::all(period.trailing_zeros());
        let ratio = parameters.literal().message_ratio_bits.exp2();
        let q0 = parameters.ring().q_moduli()[0].value() as f64;
        let input_scale = parameters.scale(parameters.chain().boot_level);
        let last = parameters.literal().product_levels();
        let levels = (last + 1..=last + shapes.len()).rev().collect();
        Self::encode(parameters, &shapes, levels, false, 1.0, input_scale, q0 / ratio)
    }

    /// From coefficients in units of q0 to slots divided by 2·K and by the trace factor, at EvalMod's first level.
    pub(super) fn coeffs_to_slots(parameters: &Parameters, period: usize) -> Self {
        let mut shapes = GroupShape::all(period.trailing_zeros());
        shapes.reverse();
        let (chain, literal) = (parameters.chain(), parameters.literal());
        let first = literal.eval_mod_input();
        let q0 = parameters.ring().q_moduli()[0].value() as f64;
        let trace = (chain.slot_count() / period) as f64;
        let factor = 1.0 / (2.0 * literal.eval_mod_range as f64 * trace);
        let levels = (first + 1..=first + shapes.len()).rev().collect();
        Self::encode(parameters, &shapes, levels, true, factor, q0, parameters.scale(first))
    }

    fn encode(
        parameters: &Parameters,
        shapes: &[GroupShape],
        levels: Vec<usize>,
        inverse: bool,
        factor: f64,
        input_scale: f64,
        output_scale: f64,
    ) -> Self {
        let share = (factor * output_scale / input_scale).powf(1.0 / shapes.len() as f64);
        let stages = Stages::new(parameters.chain().log_n - 1);
        let mut last_scale = 0.0;
        let groups = shapes
            .iter()
            .zip(levels)
            .map(|(&shape, level)| {
                let matrix = DiagonalMatrix::group(&stages, shape, inverse);
                last_scale = share * parameters.ring().q_moduli()[level].value() as f64;
                Arc::new(EncodedGroup::new(parameters, &matrix, shape, level, last_scale))
            })
            .collect();
        Self { groups, output_scale, last_scale }
    }

    /// This transform of coefficients to slots, for two values lo + i·hi: its output plus its own conjugate holds
    /// `period` slots of lo and `period` slots of hi in turn.
    pub(super) fn of_pair(&self, parameters: &Parameters, period: usize) -> Self {
        // The lowest stages come last on the way up.
        let shape = GroupShape::all(period.trailing_zeros())[0];
        let matrix = DiagonalMatrix::group(&Stages::new(shape.log_end), shape, true).with_second_turned(period);
        let mut groups = self.groups.clone();
        if let Some(last) = groups.last_mut() {
            *last = Arc::new(EncodedGroup::new(parameters, &matrix, shape, last.level, self.last_scale));
        }
        Self { groups, ..*self }
    }

    /// The level of the value it takes.
    pub(super) fn input_level(&self) -> usize {
        self.groups.first().map_or(0, |group| group.level)
    }

    /// Applies the groups in order.
    pub(super) fn apply(&self, ev: &CkksEvaluator, a: &Ciphertext) -> Result<Ciphertext, Error> {
        let mut value = Cow::Borrowed(a);
        for group in &self.groups {
            value = Cow::Owned(group.apply(ev, &value)?);
        }
        Ok(Ciphertext { scale: self.output_scale, ..value.into_owned() })
    }
}

impl EncodedGroup {
    fn new(parameters: &Parameters, matrix: &DiagonalMatrix, shape: GroupShape, level: usize, scale: f64) -> Self {
        let (stride, babies) = (shape.stride(), shape.baby_steps());
        let encoder = parameters.encoder();
        let basis = parameters.key_basis(level);
        let gap = encoder.log_gap(matrix.period);
        let mut giants: BTreeMap<i64, Vec<(i64, CompactPoly)>> = BTreeMap::new();
        for (&offset, entries) in &matrix.diagonals {
            let index = offset / stride;
            let giant = index.div_euclid(babies) * babies;
            let rotated = rotate_right(entries, giant * stride);
            // Entries are at most 1 in magnitude and every prime is below 2^50.
            let coefficients = encoder.encode(&rotated, scale).expect("DFT diagonals fit their coefficients");
            let plain = parameters.ring().ntt_compact(&coefficients, gap, basis);
            giants.entry(giant).or_default().push((index - giant, plain));
        }
        Self { stride, level, giants }
    }

    fn apply(&self, ev: &CkksEvaluator, a: &Ciphertext) -> Result<Ciphertext, Error> {
        let parameters = ev.parameters();
        let mut steps: Vec<i64> = self.giants.values().flatten().map(|&(baby, _)| baby).collect();
        steps.sort_unstable();
        steps.dedup();
        let babies = steps.iter().map(|&baby| self.step(ev, baby)).collect::<Result<Vec<_>, Error>>()?;
        let mut giants = Vec::with_capacity(self.giants.len());
        for (&giant, terms) in &self.giants {
            // Every baby step was listed above.
            let index = |baby: &i64| steps.binary_search(baby).unwrap_or_default();
            let terms = terms.iter().map(|(baby, plain)| (index(baby), plain)).collect();
            giants.push(Giant { step: self.step(ev, giant)?, terms });
        }
        let products: usize = self.giants.values().map(Vec::len).sum();
        let moved_giants = giants.iter().filter(|giant| giant.step.is_some()).count() as u64;
        let moved = babies.iter().flatten().count() as u64 + moved_giants;
        ev.count(|c| {
            c.plaintext_products += products as u64;
            c.rotations += moved;
            c.at_level(self.level, &hoisted(moved, moved_giants));
        });
        let ranges = parameters.digits(self.level);
        let [c0, c1] = parameters.ring().hoisted_sum([&a.c0, &a.c1], &ranges, &babies, &giants);
        ev.keys.intact()?;
        // The caller knows the scale after the last group; until then only the diagonals' constants matter.
        Ok(Ciphertext { c0, c1, scale: a.scale })
    }

    /// The key and the permutation of a rotation by `steps` strides; none for the identity.
    fn step<'a>(&self, ev: &'a CkksEvaluator, steps: i64) -> Result<Option<Step<'a>>, Error> {
        let key = ev.rotation_key((steps * self.stride) as i32, self.level)?;
        Ok(key.map(GaloisKey::step))
    }
}

/// Entry i becomes entry i − by, cyclically.
fn rotate_right(entries: &[Complex64], by: i64) -> Vec<Complex64> {
    let mut out = entries.to_vec();
    out.rotate_right(by.rem_euclid(entries.len() as i64) as usize);
    out
}
