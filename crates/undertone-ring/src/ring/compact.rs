//! Plaintexts that are polynomials in X^(2^log_gap): their NTT values repeat, so only one per run is stored.

use rayon::prelude::*;

use crate::{Basis, CompactPoly, Ntt, Poly, Ring};

impl Ring {
    /// The NTT values of sum_k coefficients_k * X^(k * 2^log_gap), one per run of 2^log_gap.
    ///
    /// # Panics
    /// When there are not N >> log_gap coefficients, or the basis exceeds the ring.
    pub fn ntt_compact(&self, coefficients: &[i64], log_gap: u32, basis: Basis) -> CompactPoly {
        assert!(log_gap <= self.log_n(), "a gap of 2^{log_gap} exceeds the ring degree");
        let stored = self.degree() >> log_gap;
        assert!(coefficients.len() == stored, "{} coefficients given, {stored} needed", coefficients.len());
        assert!(basis.q <= self.inner.q.len() && basis.p <= self.inner.p.len(), "basis {basis:?} exceeds the ring");
        let mut data = self.inner.pool.take(stored * basis.limb_count());
        data.par_chunks_exact_mut(stored).enumerate().for_each(|(limb, values)| {
            let table = self.table(basis, limb);
            self.backend().reduce_signed(table.modulus, values, coefficients);
            self.backend().ntt(table, values);
        });
        CompactPoly { log_gap, basis, stored, data }
    }

    /// acc *= c.
    ///
    /// # Panics
    /// When the bases or degrees differ.
    pub fn mul_compact_assign(&self, acc: &mut Poly<Ntt>, c: &CompactPoly) {
        self.check_compact(acc, c);
        self.each_limb(acc, |i, t, x| self.backend().mul_runs(t.modulus, x, c.limb(i), c.log_gap));
    }

    /// acc += a * c.
    ///
    /// # Panics
    /// When the bases or degrees differ.
    pub fn mul_compact_add_assign(&self, acc: &mut Poly<Ntt>, a: &Poly<Ntt>, c: &CompactPoly) {
        self.check_same(acc, a);
        self.check_compact(acc, c);
        self.each_limb(acc, |i, t, x| self.backend().mul_add_runs(t.modulus, x, a.limb(i), c.limb(i), c.log_gap));
    }

    /// acc += c.
    ///
    /// # Panics
    /// When the bases or degrees differ.
    pub fn add_compact_assign(&self, acc: &mut Poly<Ntt>, c: &CompactPoly) {
        self.check_compact(acc, c);
        self.each_limb(acc, |i, t, x| self.backend().add_runs(t.modulus, x, c.limb(i), c.log_gap, false));
    }

    /// acc -= c.
    ///
    /// # Panics
    /// When the bases or degrees differ.
    pub fn sub_compact_assign(&self, acc: &mut Poly<Ntt>, c: &CompactPoly) {
        self.check_compact(acc, c);
        self.each_limb(acc, |i, t, x| self.backend().add_runs(t.modulus, x, c.limb(i), c.log_gap, true));
    }

    fn check_compact(&self, acc: &Poly<Ntt>, c: &CompactPoly) {
        self.check_degree(acc);
        assert!(c.stored << c.log_gap == self.degree(), "the compact polynomial is for another degree");
        assert!(acc.basis() == c.basis, "bases {:?} and {:?} differ", acc.basis(), c.basis);
    }
}
