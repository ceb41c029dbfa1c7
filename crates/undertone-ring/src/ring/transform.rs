//! Conversions into and between forms.

use crate::{Basis, Coeff, Form, Ntt, Poly, Ring};

impl Ring {
    /// The polynomial with these N signed coefficients, each below 2^62 in size, reduced in every limb.
    ///
    /// # Panics
    /// When the number of coefficients is not N.
    pub fn from_signed(&self, coefficients: &[i64], basis: Basis) -> Poly<Coeff> {
        assert!(coefficients.len() == self.degree(), "{} coefficients given", coefficients.len());
        let mut poly = self.stale(basis);
        self.each_limb(&mut poly, |_, t, out| self.backend().reduce_signed(t.modulus, out, coefficients));
        poly
    }

    /// As [`Ring::from_signed`] for 128-bit coefficients.
    ///
    /// # Panics
    /// When the number of coefficients is not N.
    pub fn from_signed_wide(&self, coefficients: &[i128], basis: Basis) -> Poly<Coeff> {
        assert!(coefficients.len() == self.degree(), "{} coefficients given", coefficients.len());
        let mut poly = self.stale(basis);
        self.each_limb(&mut poly, |_, t, out| {
            out.iter_mut().zip(coefficients).for_each(|(x, &c)| *x = t.modulus.reduce_i128(c));
        });
        poly
    }

    /// Coefficients to NTT values.
    pub fn ntt(&self, mut poly: Poly<Coeff>) -> Poly<Ntt> {
        self.each_limb(&mut poly, |_, t, values| self.backend().ntt(t, values));
        poly.cast()
    }

    /// NTT values to coefficients.
    pub fn intt(&self, mut poly: Poly<Ntt>) -> Poly<Coeff> {
        self.each_limb(&mut poly, |_, t, values| self.backend().intt(t, values, 1));
        poly.cast()
    }

    /// Keeps the leading q limbs and p limbs of a smaller basis.
    ///
    /// # Panics
    /// When `basis` is not contained in the polynomial's.
    pub fn truncate<F: Form>(&self, mut poly: Poly<F>, basis: Basis) -> Poly<F> {
        let have = poly.basis();
        assert!(basis.q <= have.q && basis.p <= have.p, "basis {basis:?} is not inside {have:?}");
        let n = poly.degree();
        poly.data_mut().copy_within(have.q * n..(have.q + basis.p) * n, basis.q * n);
        poly.shrink(basis)
    }

    /// A copy of the leading q limbs and p limbs of a smaller basis.
    ///
    /// # Panics
    /// As [`Ring::truncate`].
    pub fn restrict<F: Form>(&self, poly: &Poly<F>, basis: Basis) -> Poly<F> {
        let have = poly.basis();
        assert!(basis.q <= have.q && basis.p <= have.p, "basis {basis:?} is not inside {have:?}");
        let n = poly.degree();
        let mut out = self.stale(basis);
        let (q, p) = out.data_mut().split_at_mut(basis.q * n);
        q.copy_from_slice(&poly.data()[..basis.q * n]);
        p.copy_from_slice(&poly.data()[have.q * n..(have.q + basis.p) * n]);
        out
    }

    /// Lifts the centred coefficients modulo q_0 to a larger basis (ModRaise).
    ///
    /// # Panics
    /// When the input's basis is not one q limb.
    pub fn mod_raise(&self, poly: &Poly<Coeff>, basis: Basis) -> Poly<Ntt> {
        assert!(poly.basis() == Basis { q: 1, p: 0 }, "mod_raise needs one q limb, not {:?}", poly.basis());
        self.check_degree(poly);
        let from = self.inner.q[0];
        let mut out = self.stale::<Ntt>(basis);
        self.each_limb(&mut out, |limb, t, values| {
            if limb == 0 && basis.q > 0 {
                values.copy_from_slice(poly.limb(0));
            } else {
                self.backend().switch_modulus(from, t.modulus, values, poly.limb(0));
            }
            self.backend().ntt(t, values);
        });
        out
    }
}
