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

    /// out_h += the sum of a_t,h * c_t, in one pass over all operands; at most 2^10 terms.
    ///
    /// # Panics
    /// When the bases or degrees differ, or there are more terms.
    pub fn add_compact_products(&self, out: [&mut Poly<Ntt>; 2], a: &[[&Poly<Ntt>; 2]], c: &[&CompactPoly]) {
        assert!(a.len() == c.len() && a.len() <= 1 << 10, "{} and {} factors", a.len(), c.len());
        let Some(&first) = c.first() else { return };
        let [b_out, a_out] = out;
        for (a, c) in a.iter().zip(c) {
            a.iter().for_each(|a| self.check_same(a_out, a));
            self.check_compact(b_out, c);
            assert!(c.log_gap == first.log_gap, "runs of 2^{} and 2^{}", c.log_gap, first.log_gap);
        }
        let (n, basis) = (self.degree(), b_out.basis());
        let limbs = b_out.data_mut().par_chunks_exact_mut(n).zip(a_out.data_mut().par_chunks_exact_mut(n));
        limbs.enumerate().for_each(|(limb, (b_out, a_out))| {
            let q = self.table(basis, limb).modulus;
            let left: Vec<[&[u64]; 2]> = a.iter().map(|a| a.map(|a| a.limb(limb))).collect();
            let right: Vec<&[u64]> = c.iter().map(|c| c.limb(limb)).collect();
            let mut sums = self.inner.pool.take(2 * n);
            let (b, a) = sums.split_at_mut(n);
            self.backend().inner_product_runs(q, [&mut *b, &mut *a], &left, &right, first.log_gap);
            self.backend().add(q, b_out, b);
            self.backend().add(q, a_out, a);
        });
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
