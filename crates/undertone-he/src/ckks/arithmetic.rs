//! Sums, products, scalars and level changes.

use super::CkksEvaluator;
use super::key_switch::after_decomposition;
use crate::{Ciphertext, Error, LevelCounts, Slots};
use std::borrow::Cow;
use undertone_ring::{CompactPoly, Modulus, Ntt, Poly};

/// Two scales count as equal within this relative distance; canonical scales agree to rounding of f64.
const SCALE_TOLERANCE: f64 = 1e-9;

impl CkksEvaluator {
    pub(super) fn add_signed(&self, a: &Ciphertext, b: &Ciphertext, subtract: bool) -> Result<Ciphertext, Error> {
        let level = a.level().min(b.level());
        let mut sum = self.dropped(a, level, 1.0)?;
        let other = self.lowered(b, level)?;
        if (sum.scale / other.scale - 1.0).abs() > SCALE_TOLERANCE {
            let (have_log2, need_log2) = (sum.scale.log2(), other.scale.log2());
            return Err(Error::ScaleMismatch { op: "add", have_log2, need_log2 });
        }
        let ring = self.parameters.ring();
        if subtract {
            ring.sub_assign(&mut sum.c0, &other.c0);
            ring.sub_assign(&mut sum.c1, &other.c1);
        } else {
            ring.add_assign(&mut sum.c0, &other.c0);
            ring.add_assign(&mut sum.c1, &other.c1);
        }
        Ok(sum)
    }

    pub(super) fn negated(&self, a: &Ciphertext) -> Ciphertext {
        let mut out = a.clone();
        self.parameters.ring().neg_assign(&mut out.c0);
        self.parameters.ring().neg_assign(&mut out.c1);
        out
    }

    /// Residues of an integer modulo the primes of `level`.
    pub(crate) fn residues(&self, value: i128, level: usize) -> Vec<u64> {
        let moduli: &[Modulus] = &self.parameters.ring().q_moduli()[..=level];
        moduli.iter().map(|m| m.reduce_i128(value)).collect()
    }

    pub(crate) fn add_scalar(&self, a: &Ciphertext, constant: f64) -> Ciphertext {
        let mut out = a.clone();
        let residues = self.residues((constant * a.scale).round() as i128, a.level());
        self.parameters.ring().add_scalar_assign(&mut out.c0, &residues);
        out
    }

    /// The limbs of `level` of a, times an integer, declared to be at `scale`.
    pub(crate) fn scaled(&self, a: &Ciphertext, level: usize, factor: i128, scale: f64) -> Ciphertext {
        let (residues, nothing) = (self.residues(factor, level), vec![0; level + 1]);
        let basis = self.parameters.basis(level);
        let half = |c: &Poly<Ntt>| self.parameters.ring().weighted_sum(basis, &[(c, residues.clone())], &nothing);
        Ciphertext { c0: half(&a.c0), c1: half(&a.c1), scale }
    }

    /// Divides by the last prime and forgets it; the scale follows exactly.
    pub(crate) fn rescaled(&self, a: Ciphertext) -> Result<Ciphertext, Error> {
        let level = a.level();
        if level == 0 {
            return Err(Error::LevelTooLow { op: "rescale", have: 0, need: 1 });
        }
        let ring = self.parameters.ring();
        let prime = ring.q_moduli()[level].value() as f64;
        Ok(Ciphertext { c0: ring.rescale(a.c0), c1: ring.rescale(a.c1), scale: a.scale / prime })
    }

    /// Keeps the limbs of `level` only, at the same scale.
    pub(crate) fn truncated(&self, a: &Ciphertext, level: usize) -> Ciphertext {
        if a.level() == level {
            return a.clone();
        }
        let (ring, basis) = (self.parameters.ring(), self.parameters.basis(level));
        Ciphertext { c0: ring.restrict(&a.c0, basis), c1: ring.restrict(&a.c1, basis), scale: a.scale }
    }

    /// The value itself at `level`, or a copy dropped to it.
    fn lowered<'a>(&self, a: &'a Ciphertext, level: usize) -> Result<Cow<'a, Ciphertext>, Error> {
        Ok(if a.level() == level { Cow::Borrowed(a) } else { Cow::Owned(self.dropped(a, level, 1.0)?) })
    }

    pub(crate) fn dropped(&self, a: &Ciphertext, level: usize, factor: f64) -> Result<Ciphertext, Error> {
        if level == a.level() && factor == 1.0 {
            return Ok(a.clone());
        }
        let need = if factor == 1.0 { level } else { level + 1 };
        if a.level() < need {
            return Err(Error::LevelTooLow { op: "drop_level", have: a.level(), need });
        }
        let target = self.scale_before_rescale(level + 1);
        let constant = (factor * target / a.scale).round() as i128;
        let mut out = self.rescaled(self.scaled(a, level + 1, constant, target))?;
        out.scale = self.parameters.scale(level);
        Ok(out)
    }

    /// The scale at `level` that one rescale turns into the canonical scale of the level below.
    pub(crate) fn scale_before_rescale(&self, level: usize) -> f64 {
        let prime = self.parameters.ring().q_moduli()[level].value() as f64;
        self.parameters.scale(level - 1) * prime
    }

    pub(super) fn weighted_sum(&self, terms: &[(f64, &Ciphertext)], constant: f64) -> Result<Ciphertext, Error> {
        let Some(level) = terms.iter().map(|(_, a)| a.level()).min() else {
            return Err(Error::Arity { op: "combine", have: 0, need: 1 });
        };
        require_depth("combine", level)?;
        let ring = self.parameters.ring();
        let basis = self.parameters.basis(level);
        let target = self.scale_before_rescale(level);
        let terms = self.weighted(terms, target, level);
        let constant = self.residues((constant * target).round() as i128, level);
        let c0 = ring.weighted_sum(basis, &side(&terms, |a| &a.c0), &constant);
        let c1 = ring.weighted_sum(basis, &side(&terms, |a| &a.c1), &vec![0; level + 1]);
        self.count(|c| c.at_level(level, &LevelCounts::rescale()));
        self.rescaled(Ciphertext { c0, c1, scale: target })
    }

    /// Terms with the residues of the integers that bring each to scale `target`.
    fn weighted<'a>(&self, terms: &[(f64, &'a Ciphertext)], target: f64, level: usize) -> Vec<Weighted<'a>> {
        let weight = |factor: f64, a: &Ciphertext| self.residues((factor * target / a.scale).round() as i128, level);
        terms.iter().map(|&(factor, a)| (a, weight(factor, a))).collect()
    }

    /// Encodes one period of slots for a value at `level`.
    pub(crate) fn encode(&self, slots: &Slots, scale: f64, level: usize) -> Result<CompactPoly, Error> {
        self.check_period(slots)?;
        let encoder = self.parameters.encoder();
        let coefficients = encoder.encode_real(slots.period(), scale)?;
        let gap = encoder.log_gap(slots.period().len());
        Ok(self.parameters.ring().ntt_compact(&coefficients, gap, self.parameters.basis(level)))
    }

    /// Refuses vectors longer than all slots.
    pub(super) fn check_period(&self, slots: &Slots) -> Result<(), Error> {
        let (have, need) = (slots.period().len(), self.parameters.chain().slot_count());
        if have > need { Err(Error::SlotLength { op: "encode", have, need }) } else { Ok(()) }
    }

    pub(super) fn add_encoded(&self, a: &Ciphertext, b: &Slots) -> Result<Ciphertext, Error> {
        let encoded = self.encode(b, a.scale, a.level())?;
        let mut out = a.clone();
        self.parameters.ring().add_compact_assign(&mut out.c0, &encoded);
        Ok(out)
    }

    pub(super) fn mul_encoded(&self, a: &Ciphertext, b: &Slots) -> Result<Ciphertext, Error> {
        require_depth("mul_slots", a.level())?;
        let target = self.scale_before_rescale(a.level());
        let encoded = self.encode(b, target / a.scale, a.level())?;
        let mut out = Ciphertext { scale: target, ..a.clone() };
        let ring = self.parameters.ring();
        ring.mul_compact_assign(&mut out.c0, &encoded);
        ring.mul_compact_assign(&mut out.c1, &encoded);
        self.count(|c| {
            c.plaintext_products += 1;
            c.at_level(a.level(), &LevelCounts::plaintexts(1, b.period().len() as u64, 1));
        });
        self.rescaled(out)
    }

    pub(super) fn sum_of_products<'a>(
        &self,
        op: &'static str,
        pairs: &[(&'a Ciphertext, &'a Ciphertext)],
        terms: &[(f64, &Ciphertext)],
        constant: f64,
    ) -> Result<Ciphertext, Error> {
        let Some(level) = pairs.iter().map(|(a, b)| a.level().min(b.level())).min() else {
            return Err(Error::Arity { op, have: 0, need: 1 });
        };
        let level = terms.iter().map(|(_, t)| t.level()).fold(level, usize::min);
        require_depth(op, level)?;
        let ring = self.parameters.ring();
        // A value may stand in several pairs: each is lowered once.
        let mut distinct: Vec<&Ciphertext> = Vec::new();
        for value in pairs.iter().flat_map(|&(a, b)| [a, b]) {
            if !distinct.iter().any(|seen| std::ptr::eq(*seen, value)) {
                distinct.push(value);
            }
        }
        let lowered = distinct.iter().map(|value| self.lowered(value, level)).collect::<Result<Vec<_>, Error>>()?;
        let at_level = |value: &Ciphertext| {
            let place = distinct.iter().position(|seen| std::ptr::eq(*seen, value));
            &*lowered[place.expect("every operand is among the distinct ones")]
        };
        let pairs: Vec<_> = pairs.iter().map(|&(a, b)| (at_level(a), at_level(b))).collect();
        let scales: Vec<f64> = pairs.iter().map(|(a, b)| a.scale * b.scale).collect();
        let scale = scales[0];
        if let Some(other) = scales.iter().find(|other| (*other / scale - 1.0).abs() > SCALE_TOLERANCE) {
            return Err(Error::ScaleMismatch { op, have_log2: other.log2(), need_log2: scale.log2() });
        }
        let operands: Vec<_> = pairs.iter().map(|(a, b)| [[&a.c0, &a.c1], [&b.c0, &b.c1]]).collect();
        let basis = self.parameters.basis(level);
        let [mut d0, mut d1, d2] = ring.tensor(basis, &operands);
        if !terms.is_empty() || constant != 0.0 {
            let terms = self.weighted(terms, scale, level);
            let constant = self.residues((constant * scale).round() as i128, level);
            let mut with_c0 = side(&terms, |t| &t.c0);
            let mut with_c1 = side(&terms, |t| &t.c1);
            with_c0.push((&d0, vec![1; level + 1]));
            with_c1.push((&d1, vec![1; level + 1]));
            let sums = [
                ring.weighted_sum(basis, &with_c0, &constant),
                ring.weighted_sum(basis, &with_c1, &vec![0; level + 1]),
            ];
            [d0, d1] = sums;
        }
        let key = self.keys.relinearization(level)?;
        let [c0, c1] = ring.switch_rescale(&self.digits(&d2), key.gadget(), [Some(&d0), Some(&d1)]);
        self.keys.intact()?;
        self.count(|c| {
            c.products += pairs.len() as u64;
            c.relinearizations += 1;
            c.at_level(level, &LevelCounts { products: pairs.len() as u64, ..after_decomposition() });
        });
        let prime = ring.q_moduli()[level].value() as f64;
        Ok(Ciphertext { c0, c1, scale: scale / prime })
    }
}

/// A ciphertext and one residue per limb.
type Weighted<'a> = (&'a Ciphertext, Vec<u64>);

/// One half of every term.
fn side<'a>(terms: &[Weighted<'a>], half: fn(&Ciphertext) -> &Poly<Ntt>) -> Vec<(&'a Poly<Ntt>, Vec<u64>)> {
    terms.iter().map(|(a, weights)| (half(a), weights.clone())).collect()
}

/// Depth-one operations need a level to give up.
pub(crate) fn require_depth(op: &'static str, level: usize) -> Result<(), Error> {
    if level == 0 {
        return Err(Error::LevelTooLow { op, have: 0, need: 1 });
    }
    Ok(())
}
