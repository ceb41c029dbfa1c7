//! Addition, multiplication, scalars and monomials.

use rayon::prelude::*;

use crate::table::bit_reverse;
use crate::{Basis, Form, LiftTarget, Ntt, Poly, Ring};

/// Both halves of a ciphertext.
pub type Halves<'a> = [&'a Poly<Ntt>; 2];

impl Ring {
    /// acc += a.
    ///
    /// # Panics
    /// When the bases differ.
    pub fn add_assign<F: Form>(&self, acc: &mut Poly<F>, a: &Poly<F>) {
        self.check_same(acc, a);
        self.each_limb(acc, |i, t, x| self.backend().add(t.modulus, x, a.limb(i)));
    }

    /// acc -= a.
    ///
    /// # Panics
    /// When the bases differ.
    pub fn sub_assign<F: Form>(&self, acc: &mut Poly<F>, a: &Poly<F>) {
        self.check_same(acc, a);
        self.each_limb(acc, |i, t, x| self.backend().sub(t.modulus, x, a.limb(i)));
    }

    /// acc = -acc.
    pub fn neg_assign<F: Form>(&self, acc: &mut Poly<F>) {
        self.each_limb(acc, |_, t, x| self.backend().neg(t.modulus, x));
    }

    /// a * b.
    ///
    /// # Panics
    /// When the bases differ.
    pub fn mul(&self, a: &Poly<Ntt>, b: &Poly<Ntt>) -> Poly<Ntt> {
        self.check_same(a, b);
        let mut out = self.stale(a.basis());
        self.each_limb(&mut out, |i, t, x| self.backend().mul(t.modulus, x, a.limb(i), b.limb(i)));
        out
    }

    /// acc *= a.
    ///
    /// # Panics
    /// When the bases differ.
    pub fn mul_assign(&self, acc: &mut Poly<Ntt>, a: &Poly<Ntt>) {
        self.check_same(acc, a);
        self.each_limb(acc, |i, t, x| self.backend().mul_assign(t.modulus, x, a.limb(i)));
    }

    /// acc += a * b.
    ///
    /// # Panics
    /// When the bases differ.
    pub fn mul_add_assign(&self, acc: &mut Poly<Ntt>, a: &Poly<Ntt>, b: &Poly<Ntt>) {
        self.check_same(acc, a);
        self.check_same(a, b);
        self.each_limb(acc, |i, t, x| self.backend().mul_add(t.modulus, x, a.limb(i), b.limb(i)));
    }

    /// The tensor product of pairs of ciphertexts, summed: a_0 b_0, a_0 b_1 + a_1 b_0 and a_1 b_1. Operands may have
    /// more q limbs than `basis`, which has no p limbs.
    ///
    /// # Panics
    /// When an operand does not cover `basis`, or the basis has p limbs.
    pub fn tensor(&self, basis: Basis, pairs: &[[Halves<'_>; 2]]) -> [Poly<Ntt>; 3] {
        for poly in pairs.iter().flatten().flatten() {
            self.check_degree(poly);
            assert!(basis.p == 0 && poly.basis().q >= basis.q, "{:?} does not cover {basis:?}", poly.basis());
        }
        let n = self.degree();
        let mut out = [(); 3].map(|()| self.stale::<Ntt>(basis));
        let [d0, d1, d2] = &mut out;
        let limbs = d0.data_mut().par_chunks_exact_mut(n).zip(d1.data_mut().par_chunks_exact_mut(n));
        limbs.zip(d2.data_mut().par_chunks_exact_mut(n)).enumerate().for_each(|(limb, ((d0, d1), d2))| {
            let (a, b): (Vec<_>, Vec<_>) =
                pairs.iter().map(|[a, b]| (a.map(|half| half.limb(limb)), b.map(|half| half.limb(limb)))).unzip();
            self.backend().tensor(self.table(basis, limb).modulus, [d0, d1, d2], &a, &b);
        });
        out
    }

    /// Multiplies limb i by `residues[i]`.
    ///
    /// # Panics
    /// When there is not one residue per limb.
    pub fn mul_scalar_assign<F: Form>(&self, acc: &mut Poly<F>, residues: &[u64]) {
        self.check_residues(acc, residues);
        self.each_limb(acc, |i, t, x| self.backend().mul_scalar(t.modulus, x, t.modulus.reduce(residues[i])));
    }

    /// Adds the constant polynomial with these residues.
    ///
    /// # Panics
    /// When there is not one residue per limb.
    pub fn add_scalar_assign(&self, acc: &mut Poly<Ntt>, residues: &[u64]) {
        self.check_residues(acc, residues);
        self.each_limb(acc, |i, t, x| self.backend().add_scalar(t.modulus, x, t.modulus.reduce(residues[i])));
    }

    /// acc += c * a, with c given by one residue per limb.
    ///
    /// # Panics
    /// When the bases differ or there is not one residue per limb.
    pub fn mul_scalar_add_assign<F: Form>(&self, acc: &mut Poly<F>, a: &Poly<F>, residues: &[u64]) {
        self.check_same(acc, a);
        self.check_residues(acc, residues);
        self.each_limb(acc, |i, t, x| {
            self.backend().mul_scalar_add(t.modulus, x, a.limb(i), t.modulus.reduce(residues[i]));
        });
    }

    /// sum_t residues_t * a_t + constant, each factor given by one residue per limb. Operands may have more q limbs than
    /// `basis`, which has no p limbs.
    ///
    /// # Panics
    /// When an operand does not cover `basis`, the basis has p limbs, or there are too few residues.
    pub fn weighted_sum(&self, basis: Basis, terms: &[(&Poly<Ntt>, Vec<u64>)], constant: &[u64]) -> Poly<Ntt> {
        assert!(basis.p == 0 && terms.iter().all(|(a, _)| a.basis().q >= basis.q), "operands do not cover {basis:?}");
        terms.iter().for_each(|(a, _)| self.check_degree(a));
        // The kernel of base conversions, in which the constant takes the place of the correction.
        let mut ones = self.inner.pool.take(self.degree());
        ones.fill(1);
        let mut out = self.stale::<Ntt>(basis);
        self.each_limb(&mut out, |limb, t, out| {
            let values: Vec<&[u64]> = terms.iter().map(|(a, _)| a.limb(limb)).collect();
            let weights: Vec<u64> = terms.iter().map(|(_, residues)| residues[limb]).collect();
            let target = LiftTarget { q: t.modulus, weights: &weights, correction: constant[limb], out };
            self.backend().lift_combine(&values, &ones, &mut [target]);
        });
        out
    }

    /// acc *= X^exponent; the exponent counts modulo 2N.
    pub fn mul_monomial_assign(&self, acc: &mut Poly<Ntt>, exponent: usize) {
        let n = self.degree();
        let exponent = exponent % (2 * n);
        if exponent == 0 {
            return;
        }
        if exponent == n {
            return self.neg_assign(acc);
        }
        // X^(2^g * odd) is a polynomial in X^(2^g): its NTT values repeat in runs of 2^g.
        let log_gap = exponent.trailing_zeros();
        let stored = n >> log_gap;
        self.each_limb(acc, |_, t, x| {
            let q = t.modulus;
            let base = q.pow(t.psi, exponent as u64);
            let mut values = self.inner.pool.take(stored);
            values[0] = base;
            // Entry i is psi^(e(2 bitrev(i) + 1)); setting bit s of i adds stored/2^(s+1) * 2 to the odd exponent.
            let (mut filled, mut bit) = (1, 0);
            while filled < stored {
                let step = bit_reverse(1 << bit, stored.trailing_zeros()) as u64;
                let factor = q.pow(t.psi, (exponent as u64 * 2 * step) % (2 * n as u64));
                let (low, high) = values[..2 * filled].split_at_mut(filled);
                high.copy_from_slice(low);
                if filled >= 8 {
                    self.backend().mul_scalar(q, high, factor);
                } else {
                    high.iter_mut().for_each(|v| *v = q.mul(*v, factor));
                }
                (filled, bit) = (2 * filled, bit + 1);
            }
            self.backend().mul_runs(q, x, &values, log_gap);
        });
    }

    fn check_residues<F: Form>(&self, poly: &Poly<F>, residues: &[u64]) {
        let limbs = poly.basis().limb_count();
        assert!(residues.len() == limbs, "{} residues given for {limbs} limbs", residues.len());
    }
}
