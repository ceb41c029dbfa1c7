//! The automorphisms X -> X^g.

use crate::{Coeff, Ntt, Permutation, Poly, Ring};

impl Ring {
    /// The gather table of X -> X^galois for NTT values.
    ///
    /// # Panics
    /// When `galois` is even.
    pub fn permutation(&self, galois: u64) -> Permutation {
        Permutation::new(galois, self.log_n())
    }

    /// a(X^g).
    ///
    /// # Panics
    /// When the permutation is for another degree.
    pub fn automorphism(&self, a: &Poly<Ntt>, permutation: &Permutation) -> Poly<Ntt> {
        self.check_permutation(a, permutation);
        let mut out = self.stale(a.basis());
        self.each_limb(&mut out, |i, _, x| self.backend().permute(x, a.limb(i), permutation));
        out
    }

    /// acc += a(X^g).
    ///
    /// # Panics
    /// When the bases differ or the permutation is for another degree.
    pub fn automorphism_add_assign(&self, acc: &mut Poly<Ntt>, a: &Poly<Ntt>, permutation: &Permutation) {
        self.check_same(acc, a);
        self.check_permutation(a, permutation);
        self.each_limb(acc, |i, t, x| self.backend().permute_add(t.modulus, x, a.limb(i), permutation));
    }

    /// a(X^galois) on coefficients.
    ///
    /// # Panics
    /// When `galois` is even.
    pub fn automorphism_coeff(&self, a: &Poly<Coeff>, galois: u64) -> Poly<Coeff> {
        assert!(galois % 2 == 1, "a Galois element must be odd, not {galois}");
        self.check_degree(a);
        let n = self.degree();
        let step = (galois % (2 * n as u64)) as usize;
        let mut out = self.stale(a.basis());
        self.each_limb(&mut out, |i, t, x| {
            let mut at = 0;
            for &c in a.limb(i) {
                x[at % n] = if at < n { c } else { t.modulus.neg(c) };
                at = (at + step) % (2 * n);
            }
        });
        out
    }

    fn check_permutation(&self, a: &Poly<Ntt>, permutation: &Permutation) {
        self.check_degree(a);
        assert!(permutation.degree() == self.degree(), "the permutation is for degree {}", permutation.degree());
    }
}
