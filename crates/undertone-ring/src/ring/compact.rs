//! Plaintexts that are polynomials in X^(2^log_gap): their NTT values repeat, so only one per run is stored.

use rayon::prelude::*;

use crate::{Basis, CompactPoly, Ntt, NttTable, Poly, Ring};

/// Single plaintexts or pairs that are transformed before they are multiplied: with 16 polynomials of 2^16 residues, and
/// as many factors, a core stays within a share of the last cache.
const TRANSFORMED: usize = 8;

/// Coefficients of plaintexts in Y = X^(2^log_gap).
pub enum CompactCoefficients {
    /// Of one.
    Single(Vec<i64>),
    /// Of x + Y^(n/2) * y, n in number and at least 2, for two plaintexts x and y that equal themselves under X -> 1/X: one
    /// transform serves both.
    Symmetric(Vec<i64>),
}

impl CompactCoefficients {
    /// Plaintexts.
    pub fn count(&self) -> usize {
        match self {
            Self::Single(_) => 1,
            Self::Symmetric(_) => 2,
        }
    }

    /// The coefficients.
    pub fn coefficients(&self) -> &[i64] {
        match self {
            Self::Single(coefficients) | Self::Symmetric(coefficients) => coefficients,
        }
    }
}

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

    /// out_h += the sum of a_t,h * c_t over all plaintexts c_t in order, each of which has `stored` coefficients.
    ///
    /// Plaintexts are transformed limb by limb, right where they are multiplied, and never exist whole.
    ///
    /// # Panics
    /// When the bases or degrees differ, or there are not as many plaintexts as factors.
    pub fn add_compact_products(
        &self,
        out: [&mut Poly<Ntt>; 2],
        a: &[[&Poly<Ntt>; 2]],
        c: &[CompactCoefficients],
        stored: usize,
    ) {
        let [b_out, a_out] = out;
        self.check_same(a_out, b_out);
        a.iter().flatten().for_each(|a| self.check_same(a_out, a));
        let plaintexts: usize = c.iter().map(CompactCoefficients::count).sum();
        assert!(a.len() == plaintexts, "{} factors and {plaintexts} plaintexts", a.len());
        assert!(stored.is_power_of_two() && stored <= self.degree(), "{stored} coefficients");
        assert!(c.iter().all(|c| c.coefficients().len() == stored), "plaintexts have {stored} coefficients");
        assert!(stored > 1 || plaintexts == c.len(), "a constant has no half");
        let (n, basis) = (self.degree(), b_out.basis());
        let limbs = b_out.data_mut().par_chunks_exact_mut(n).zip(a_out.data_mut().par_chunks_exact_mut(n));
        limbs.enumerate().for_each(|(limb, (b_out, a_out))| {
            let mut at = 0;
            for c in c.chunks(TRANSFORMED) {
                let count: usize = c.iter().map(CompactCoefficients::count).sum();
                let factors: Vec<[&[u64]; 2]> = a[at..at + count].iter().map(|a| a.map(|a| a.limb(limb))).collect();
                self.add_limb_products(self.table(basis, limb), [&mut *b_out, &mut *a_out], &factors, c, stored);
                at += count;
            }
        });
    }

    /// [`Ring::add_compact_products`] for some plaintexts and the prime of `table`.
    fn add_limb_products(
        &self,
        table: &NttTable,
        out: [&mut [u64]; 2],
        a: &[[&[u64]; 2]],
        c: &[CompactCoefficients],
        stored: usize,
    ) {
        let (q, log_gap) = (table.modulus, (self.degree() / stored).trailing_zeros());
        let mut values = self.inner.pool.take(a.len() * stored);
        let mut rest = &mut values[..];
        for c in c {
            let (own, after) = rest.split_at_mut(c.count() * stored);
            self.transform_limb(table, c, own);
            rest = after;
        }
        let c: Vec<&[u64]> = values.chunks_exact(stored).collect();
        let mut sums = self.inner.pool.take(2 * self.degree());
        let (low, high) = sums.split_at_mut(self.degree());
        self.backend().inner_product_runs(q, [&mut *low, &mut *high], a, &c, log_gap);
        let [b_out, a_out] = out;
        self.backend().add(q, b_out, low);
        self.backend().add(q, a_out, high);
    }

    /// The NTT values of all plaintexts of `c`, one after the other.
    fn transform_limb(&self, table: &NttTable, c: &CompactCoefficients, out: &mut [u64]) {
        let (q, stored) = (table.modulus, c.coefficients().len());
        let (first, second) = out.split_at_mut(stored);
        self.backend().reduce_signed(q, first, c.coefficients());
        self.backend().ntt(table, first);
        if let CompactCoefficients::Symmetric(_) = c {
            let unit = table.forward().0[1];
            let inverse = |c: u64| q.inverse(q.add(c, c));
            self.backend().split_symmetric(q, first, second, inverse(1), inverse(unit));
        }
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
