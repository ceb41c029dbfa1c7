//! Division by primes of the basis, with centred rounding: rescaling, the end of a key switch, and both at once.

use rayon::prelude::*;

use super::lift::{Lift, Scaled};
use crate::cpu::Buffer;
use crate::{Basis, Modulus, Ntt, NttTable, Poly, Ring};

/// The remainder of a value modulo the primes that are divided away, ready to be subtracted modulo the others.
pub(super) struct Remainder<'a> {
    lift: Lift,
    scaled: &'a [u64],
    quotients: Buffer,
}

impl Ring {
    /// Divides by the last prime with centred rounding and drops its limb: basis (l, 0) to (l - 1, 0).
    ///
    /// # Panics
    /// When the basis has p limbs or fewer than two q limbs.
    pub fn rescale(&self, poly: Poly<Ntt>) -> Poly<Ntt> {
        let Basis { q, p } = poly.basis();
        assert!(p == 0 && q >= 2, "rescale needs at least two q limbs and no p limbs, not {:?}", poly.basis());
        self.divide(poly, q - 1)
    }

    /// Divides by P with centred rounding: basis (l, p) to (l, 0).
    ///
    /// # Panics
    /// When the polynomial has no q limb or no p limb.
    pub fn mod_down(&self, poly: Poly<Ntt>) -> Poly<Ntt> {
        let Basis { q, p } = poly.basis();
        assert!(q > 0 && p > 0, "mod_down needs q and p limbs, not {:?}", poly.basis());
        self.divide(poly, q)
    }

    /// Divides by P and by the last prime of the chain, rounding once: basis (l, p) to (l - 1, 0).
    ///
    /// # Panics
    /// When the polynomial has fewer than two q limbs or no p limb.
    pub fn mod_down_rescale(&self, poly: Poly<Ntt>) -> Poly<Ntt> {
        let Basis { q, p } = poly.basis();
        assert!(q >= 2 && p > 0, "mod_down_rescale needs two q limbs and a p limb, not {:?}", poly.basis());
        self.divide(poly, q - 1)
    }

    /// Divides by the primes of all limbs from `keep` on.
    fn divide(&self, mut poly: Poly<Ntt>, keep: usize) -> Poly<Ntt> {
        self.check_degree(&poly);
        let (basis, n) = (poly.basis(), self.degree());
        let (kept, gone) = poly.data_mut().split_at_mut(keep * n);
        let remainder = self.remainder(basis, keep, gone);
        let group = self.group(keep);
        kept.par_chunks_mut(group * n).enumerate().for_each(|(chunk, values)| {
            let tables = &self.inner.tables[group * chunk..];
            let mut limbs: Vec<_> = tables.iter().zip(values.chunks_exact_mut(n)).collect();
            self.subtract_and_divide(&remainder, &mut limbs);
        });
        poly.shrink(Basis { q: keep, p: 0 })
    }

    /// Takes the NTT values of the limbs of `basis` from `keep` on, and leaves something else in their place.
    pub(super) fn remainder<'a>(&self, basis: Basis, keep: usize, gone: &'a mut [u64]) -> Remainder<'a> {
        let lift = Lift::new((keep..basis.limb_count()).map(|limb| self.modulus(basis, limb)));
        gone.par_chunks_exact_mut(self.degree()).enumerate().for_each(|(i, y)| {
            self.backend().intt(self.table(basis, keep + i), y, lift.scale(i));
        });
        let mut quotients = self.inner.pool.take(self.degree());
        self.quotients(&lift, gone, &mut quotients);
        Remainder { lift, scaled: gone, quotients }
    }

    /// x = (x - remainder) / divisor for some limbs.
    pub(super) fn subtract_and_divide(&self, remainder: &Remainder<'_>, limbs: &mut [(&NttTable, &mut [u64])]) {
        let n = self.degree();
        let from = Scaled { y: remainder.scaled.chunks_exact(n).collect(), quotients: &remainder.quotients };
        let mut lifted = self.inner.pool.take(n * limbs.len());
        let mut targets: Vec<_> = limbs.iter().map(|(t, _)| *t).zip(lifted.chunks_exact_mut(n)).collect();
        self.lift_to(&remainder.lift, &from, &mut targets);
        for ((t, x), (_, lifted)) in limbs.iter_mut().zip(&targets) {
            let inverse = t.modulus.inverse(remainder.lift.product(t.modulus));
            self.backend().sub_mul_scalar(t.modulus, x, lifted, inverse);
        }
    }

    /// The value P * x modulo QP: multiplies the q limbs by P = p_0..p_{p-1} and appends `p` zero limbs.
    ///
    /// # Panics
    /// When the polynomial has p limbs already or the ring has fewer than `p` special primes.
    pub fn lift_p(&self, poly: Poly<Ntt>, p: usize) -> Poly<Ntt> {
        assert!(poly.basis().p == 0, "lift_p takes no p limbs, not {:?}", poly.basis());
        self.check_degree(&poly);
        let basis = Basis { q: poly.basis().q, p };
        let mut out = self.stale::<Ntt>(basis);
        self.each_limb(&mut out, |limb, t, x| {
            if limb >= basis.q {
                return x.fill(0);
            }
            x.copy_from_slice(poly.limb(limb));
            self.backend().mul_scalar(t.modulus, x, self.special_product(p, t.modulus));
        });
        out
    }

    /// The product of the first `p` special primes, mod `target`.
    pub(super) fn special_product(&self, p: usize, target: Modulus) -> u64 {
        Lift::new(self.inner.p[..p].iter().copied()).product(target)
    }
}
