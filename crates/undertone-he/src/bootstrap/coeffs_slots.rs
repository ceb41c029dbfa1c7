//! `slots_to_coeffs` and `coeffs_to_slots`: encoded DFT groups applied with double hoisting.
//!
//! Baby rotations share one decomposition and stay modulo QP; each giant step brings one sum down, and one final
//! division by P serves all (eprint 2020/1203, section 4). Diagonals whose entries repeat are stored in their sub-ring.

use super::dft::{DiagonalMatrix, GroupShape};
use crate::{Ciphertext, CkksEvaluator, Error, Parameters};
use num_complex::Complex64;
use std::collections::BTreeMap;
use undertone_ring::{CompactPoly, Ntt, Poly};

/// One group of stages: plaintexts by giant and baby step.
struct EncodedGroup {
    stride: i64,
    level: usize,
    /// giant step → (baby step, diagonal rotated by −giant·stride), both in units of the stride.
    giants: BTreeMap<i64, Vec<(i64, CompactPoly)>>,
}

/// A whole transform; one level per group.
pub(super) struct EncodedTransform {
    groups: Vec<EncodedGroup>,
    output_scale: f64,
}

impl EncodedTransform {
    /// From the slots of a canonical value to coefficients at level 0, scaled to q0 / R.
    pub(super) fn slots_to_coeffs(parameters: &Parameters, period: usize) -> Self {
        let shapes = GroupShape::all(period.trailing_zeros());
        let ratio = parameters.literal().message_ratio_bits.exp2();
        let q0 = parameters.ring().q_moduli()[0].value() as f64;
        let input_scale = parameters.scale(parameters.chain().boot_level);
        let levels = (1..=shapes.len()).rev().collect();
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
        let encoder = parameters.encoder();
        let groups = shapes
            .iter()
            .zip(levels)
            .map(|(&shape, level)| {
                let matrix = DiagonalMatrix::group(encoder.fft(), shape, inverse);
                let prime = parameters.ring().q_moduli()[level].value() as f64;
                EncodedGroup::new(parameters, &matrix, shape, level, share * prime)
            })
            .collect();
        Self { groups, output_scale }
    }

    /// The level of the value it takes.
    pub(super) fn input_level(&self) -> usize {
        self.groups.first().map_or(0, |group| group.level)
    }

    /// Applies the groups in order.
    pub(super) fn apply(&self, ev: &CkksEvaluator, a: &Ciphertext) -> Result<Ciphertext, Error> {
        let mut value = a.clone();
        for group in &self.groups {
            value = group.apply(ev, &value)?;
        }
        value.scale = self.output_scale;
        Ok(value)
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
        let ring = ev.parameters().ring();
        let basis = ev.parameters().key_basis(self.level);
        let babies = self.rotated_babies(ev, a)?;
        let mut total = (ring.zero(basis), ring.zero(basis));
        let mut products = 0;
        for (&giant, terms) in &self.giants {
            let mut sum = (ring.zero(basis), ring.zero(basis));
            for (baby, plain) in terms {
                let rotated = &babies[baby];
                ring.mul_compact_add_assign(&mut sum.0, &rotated.0, plain);
                ring.mul_compact_add_assign(&mut sum.1, &rotated.1, plain);
            }
            products += terms.len() as u64;
            self.add_giant(ev, &mut total, sum, giant)?;
        }
        ev.count(|c| c.plaintext_products += products);
        let (c0, c1) = (ring.mod_down(total.0), ring.mod_down(total.1));
        ev.rescaled(Ciphertext { c0, c1, scale: a.scale })
    }

    /// Every baby rotation of the input, modulo QP.
    fn rotated_babies(&self, ev: &CkksEvaluator, a: &Ciphertext) -> Result<BTreeMap<i64, Pair>, Error> {
        let ring = ev.parameters().ring();
        let special = ev.parameters().special_count();
        let lifted = ring.lift_p(a.c0.clone(), special);
        let digits = ev.decompose(&a.c1);
        let mut babies = BTreeMap::new();
        for &(baby, _) in self.giants.values().flatten() {
            if babies.contains_key(&baby) {
                continue;
            }
            let by = (baby * self.stride) as i32;
            let rotated = match ev.rotation_key(by, self.level)? {
                None => (lifted.clone(), ring.lift_p(a.c1.clone(), special)),
                Some(key) => {
                    let (mut k0, k1) = ev.apply_key(&digits, &key.key);
                    ring.add_assign(&mut k0, &lifted);
                    ev.count(|c| {
                        c.rotations += 1;
                        c.key_switch(self.level, 1);
                    });
                    (ring.automorphism(&k0, &key.permutation), ring.automorphism(&k1, &key.permutation))
                }
            };
            babies.insert(baby, rotated);
        }
        Ok(babies)
    }

    /// total += rotation of `sum` by giant·stride, all modulo QP.
    fn add_giant(&self, ev: &CkksEvaluator, total: &mut Pair, sum: Pair, giant: i64) -> Result<(), Error> {
        let ring = ev.parameters().ring();
        let by = (giant * self.stride) as i32;
        let Some(key) = ev.rotation_key(by, self.level)? else {
            ring.add_assign(&mut total.0, &sum.0);
            ring.add_assign(&mut total.1, &sum.1);
            return Ok(());
        };
        let digits = ev.decompose(&ring.mod_down(sum.1));
        let (mut k0, k1) = ev.apply_key(&digits, &key.key);
        ring.add_assign(&mut k0, &sum.0);
        ring.automorphism_add_assign(&mut total.0, &k0, &key.permutation);
        ring.automorphism_add_assign(&mut total.1, &k1, &key.permutation);
        ev.count(|c| {
            c.rotations += 1;
            c.key_switch(self.level, 1);
        });
        Ok(())
    }
}

type Pair = (Poly<Ntt>, Poly<Ntt>);

/// Entry i becomes entry i − by, cyclically.
fn rotate_right(entries: &[Complex64], by: i64) -> Vec<Complex64> {
    let mut out = entries.to_vec();
    out.rotate_right(by.rem_euclid(entries.len() as i64) as usize);
    out
}
