//! Division by the last prime of the chain.

use rayon::prelude::*;

use crate::{Basis, Ntt, Poly, Ring};

impl Ring {
    /// Divides by the last prime with centred rounding and drops its limb: basis (l, 0) to (l - 1, 0).
    ///
    /// # Panics
    /// When the basis has p limbs or fewer than two q limbs.
    pub fn rescale(&self, poly: Poly<Ntt>) -> Poly<Ntt> {
        let Basis { q: limbs, p } = poly.basis();
        assert!(p == 0 && limbs >= 2, "rescale needs at least two q limbs and no p limbs, not {:?}", poly.basis());
        let mut last = self.inner.pool.take(self.degree());
        last.copy_from_slice(poly.limb(limbs - 1));
        let last_table = &self.inner.tables[limbs - 1];
        self.backend().intt(last_table, &mut last, 1);
        let from = last_table.modulus;
        let mut out = self.truncate(poly, Basis { q: limbs - 1, p: 0 });
        // (x - [x]_q') / q' for every other prime, where [x]_q' is the centred remainder.
        self.each_limb(&mut out, |_, t, x| {
            let mut remainder = self.inner.pool.take(x.len());
            self.backend().switch_modulus(from, t.modulus, &mut remainder, &last);
            self.backend().ntt(t, &mut remainder);
            self.backend().sub_mul_scalar(t.modulus, x, &remainder, t.modulus.inverse(from.value()));
        });
        out
    }

    /// [`Ring::rescale`] of several polynomials, in parallel.
    ///
    /// # Panics
    /// As [`Ring::rescale`], for any of them.
    pub fn rescale_many(&self, polys: Vec<Poly<Ntt>>) -> Vec<Poly<Ntt>> {
        polys.into_par_iter().map(|poly| self.rescale(poly)).collect()
    }
}
