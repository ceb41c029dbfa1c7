//! Conversion of residues between sets of primes.
//!
//! A base conversion takes y_i = x * (D/d_i)^-1 mod d_i over the primes d_i of product D, so that
//! x = sum y_i * D/d_i - v * D. With v = round(sum y_i/d_i) in f64 the result is the representative in [-D/2, D/2];
//! within 2^-46 of the ends of that interval the f64 sum may choose the other end, which is congruent and as small.

use crate::{LiftTarget, Modulus, NttTable, Ring};

/// At most this many limbs of a base conversion go together.
const MAX_GROUP: usize = 4;

/// Constants of the conversion away from one set of primes.
pub(super) struct Lift {
    moduli: Vec<Modulus>,
    reciprocals: Vec<f64>,
}

/// A value modulo D as the conversion reads it: the y_i one after the other, and v.
pub(super) struct Scaled<'a> {
    pub(super) y: Vec<&'a [u64]>,
    pub(super) quotients: &'a [u64],
}

impl Lift {
    pub(super) fn new(moduli: impl IntoIterator<Item = Modulus>) -> Self {
        let moduli: Vec<Modulus> = moduli.into_iter().collect();
        let reciprocals = moduli.iter().map(|q| 1.0 / q.value() as f64).collect();
        Self { moduli, reciprocals }
    }

    /// (D/d_i)^-1 mod d_i.
    pub(super) fn scale(&self, i: usize) -> u64 {
        let q = self.moduli[i];
        q.inverse(self.cofactor(i, q))
    }

    /// D/d_i mod `target`.
    fn cofactor(&self, i: usize, target: Modulus) -> u64 {
        let others = self.moduli.iter().enumerate().filter(|&(j, _)| j != i);
        others.fold(1, |product, (_, q)| target.mul(product, target.reduce(q.value())))
    }

    /// The weights D/d_i and the correction -D, all mod `target`.
    fn weights(&self, target: Modulus) -> (Vec<u64>, u64) {
        let weights = (0..self.moduli.len()).map(|i| self.cofactor(i, target)).collect();
        (weights, target.neg(self.product(target)))
    }

    /// D mod `target`.
    pub(super) fn product(&self, target: Modulus) -> u64 {
        self.moduli.iter().fold(1, |product, q| target.mul(product, target.reduce(q.value())))
    }
}

impl Ring {
    /// v for the y_i that stand one after the other in `scaled`.
    pub(super) fn quotients(&self, lift: &Lift, scaled: &[u64], out: &mut [u64]) {
        let y: Vec<&[u64]> = scaled.chunks_exact(self.degree()).collect();
        self.backend().lift_quotients(out, &y, &lift.reciprocals);
    }

    /// Converts to every target's prime, then to NTT form.
    pub(super) fn lift_to(&self, lift: &Lift, from: &Scaled<'_>, targets: &mut [(&NttTable, &mut [u64])]) {
        let weights: Vec<(Vec<u64>, u64)> = targets.iter().map(|(t, _)| lift.weights(t.modulus)).collect();
        let mut prepared = Vec::with_capacity(targets.len());
        for ((t, out), (weights, correction)) in targets.iter_mut().zip(&weights) {
            prepared.push(LiftTarget { q: t.modulus, weights, correction: *correction, out });
        }
        self.backend().lift_combine(&from.y, from.quotients, &mut prepared);
        targets.iter_mut().for_each(|(t, out)| self.backend().ntt(t, out));
    }

    /// Limbs per task of a base conversion: several share one reading of the sources, as long as their outputs stay
    /// in the second-level cache and every thread has work.
    pub(super) fn group(&self, limbs: usize) -> usize {
        limbs.div_ceil(2 * rayon::current_num_threads()).clamp(1, MAX_GROUP)
    }
}
