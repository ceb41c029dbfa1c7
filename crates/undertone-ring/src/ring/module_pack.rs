//! Rows of a module product packed into one ciphertext of the ring, by one gadget sum.
//!
//! Row o of a product (see `module_product`) is b_o + sum_j V_o[class r-1-j] * s_j(X^r), with s = sum_j X^j s_j(X^r).
//! Put together at X^o, r rows are one b and r polynomials A_t = sum_o X^o V_o[class t](X^r), each of which multiplies
//! s_(r-1-t)(X^r). A gadget key whose digit t holds that secret turns all of them at once into a pair under s.

use super::key_switch::GadgetKey;
use crate::{Basis, Coeff, ModuleRows, Ntt, Poly, Ring};

impl Ring {
    /// The pair under s whose coefficient o + r*k is coefficient k of row o, for r rows of one limb.
    ///
    /// Digit t of `key` encrypts s_(r-1-t)(X^r) times P; lifted values are centred modulo the whole first prime.
    ///
    /// # Panics
    /// When there are not r rows of one limb, or the key has too few digits or another basis.
    pub fn pack_rows(&self, rows: &ModuleRows, key: GadgetKey<'_>) -> [Poly<Ntt>; 2] {
        let (n, rank) = (self.degree(), rows.rows());
        let basis = Basis { q: 1, p: self.p_moduli().len() };
        assert!(rows.limb_count() == 1 && rows.a(0, 0).len() == n, "rows of {} limbs", rows.limb_count());
        assert!(rank * rows.b(0, 0).len() == n, "{rank} rows do not fill a polynomial of degree {n}");
        self.check_pack_key(basis, rank, key);
        let gathered = self.gather_classes(rows);
        let mut halves = [(); 2].map(|()| self.zero::<Ntt>(basis));
        let mut lifted = self.scratch(rank * n);
        for limb in 0..basis.limb_count() {
            let (from, table) = (self.modulus(basis, 0), self.table(basis, limb));
            for (out, coefficients) in lifted.chunks_exact_mut(n).zip(gathered.chunks_exact(n)) {
                if limb == 0 {
                    out.copy_from_slice(coefficients);
                } else {
                    self.backend().switch_modulus(from, table.modulus(), out, coefficients);
                }
                self.backend().ntt(table, out);
            }
            let digits: Vec<&[u64]> = lifted.chunks_exact(n).collect();
            let [b, a] = &mut halves;
            self.key_products(basis, limb, &digits, key, [b.limb_mut(limb), a.limb_mut(limb)]);
        }
        let [mut b, a] = halves.map(|half| self.mod_down(half));
        self.add_assign(&mut b, &self.ntt(self.interleaved_rows(rows)));
        [b, a]
    }

    /// sum_o X^o b_o(X^r).
    fn interleaved_rows(&self, rows: &ModuleRows) -> Poly<Coeff> {
        let mut poly = self.stale(Basis { q: 1, p: 0 });
        for o in 0..rows.rows() {
            for (block, &x) in poly.limb_mut(0).chunks_exact_mut(rows.rows()).zip(rows.b(0, o)) {
                block[o] = x;
            }
        }
        poly
    }

    /// A_t for every t: coefficient o + r*k of A_t is coefficient t + r*k of row o.
    fn gather_classes(&self, rows: &ModuleRows) -> crate::cpu::Buffer {
        /// Rows and classes that move together: a cache line each.
        const TILE: usize = 8;
        let (n, rank) = (self.degree(), rows.rows());
        let mut out = self.scratch(rank * n);
        for first in (0..rank).step_by(TILE) {
            let tile = first..rank.min(first + TILE);
            let sources: Vec<&[u64]> = tile.clone().map(|o| rows.a(0, o)).collect();
            for start in (0..n).step_by(rank) {
                for t in 0..rank {
                    let to = &mut out[t * n + start..][tile.clone()];
                    to.iter_mut().zip(&sources).for_each(|(x, source)| *x = source[start + t]);
                }
            }
        }
        out
    }

    fn check_pack_key(&self, basis: Basis, digits: usize, key: GadgetKey<'_>) {
        let stored = match key.a {
            super::UniformHalf::Expanded(polys) => [key.b, polys],
            super::UniformHalf::Seeded(_) => [key.b, key.b],
        };
        for half in stored {
            assert!(half.len() >= digits, "{} key polynomials for {digits} digits", half.len());
            for k in half {
                assert!(k.degree() == self.degree(), "a key of degree {}", k.degree());
                let have = k.basis();
                assert!(have.q >= basis.q && have.p == basis.p, "a key of basis {have:?} does not cover {basis:?}");
            }
        }
    }
}
