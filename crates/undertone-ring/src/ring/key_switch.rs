//! The ring half of hybrid key switching (Han-Ki, eprint 2019/688): mod up by digits, inner products, mod down.
//!
//! A base conversion takes y_i = x * (Q/q_i)^-1 mod q_i, so that x = sum y_i * Q/q_i - v * Q. With
//! v = round(sum y_i/q_i) in f64 the result is the representative in [-Q/2, Q/2]; within 2^-46 of the ends of that
//! interval the f64 sum may choose the other end, which is congruent and as small.

use std::ops::Range;

use rayon::prelude::*;

use crate::{Basis, LiftTarget, Modulus, Ntt, NttTable, Poly, Ring};

/// At most this many limbs of a base conversion go together.
const MAX_GROUP: usize = 4;

/// Constants of the conversion away from one set of primes.
struct Lift<'a> {
    moduli: &'a [Modulus],
    reciprocals: Vec<f64>,
}

impl<'a> Lift<'a> {
    fn new(moduli: &'a [Modulus]) -> Self {
        Self { moduli, reciprocals: moduli.iter().map(|q| 1.0 / q.value() as f64).collect() }
    }

    /// (Q/q_i)^-1 mod q_i.
    fn scale(&self, i: usize) -> u64 {
        let q = self.moduli[i];
        q.inverse(self.cofactor(i, q))
    }

    /// Q/q_i mod `target`.
    fn cofactor(&self, i: usize, target: Modulus) -> u64 {
        let others = self.moduli.iter().enumerate().filter(|&(j, _)| j != i);
        others.fold(1, |product, (_, q)| target.mul(product, q.value()))
    }

    /// The weights Q/q_i and the correction -Q, all mod `target`.
    fn weights(&self, target: Modulus) -> (Vec<u64>, u64) {
        let weights = (0..self.moduli.len()).map(|i| self.cofactor(i, target)).collect();
        (weights, target.neg(self.product(target)))
    }

    /// Q mod `target`.
    fn product(&self, target: Modulus) -> u64 {
        self.moduli.iter().fold(1, |product, q| target.mul(product, q.value()))
    }
}

impl Ring {
    /// Cuts the polynomial (basis (l, 0)) into digits and lifts each, centred, to basis (l, p) with all special
    /// primes of the ring. Ranges are clipped to l; digits that become empty are left out of the result.
    ///
    /// # Panics
    /// When the polynomial has p limbs.
    pub fn decompose(&self, poly: &Poly<Ntt>, digits: &[Range<usize>]) -> Vec<Poly<Ntt>> {
        let limbs = poly.basis().q;
        assert!(poly.basis().p == 0, "decompose takes no p limbs, not {:?}", poly.basis());
        self.check_degree(poly);
        let basis = Basis { q: limbs, p: self.inner.p.len() };
        let clip = |r: &Range<usize>| r.start..r.end.min(limbs);
        let ranges: Vec<Range<usize>> = digits.iter().map(clip).filter(|r| !r.is_empty()).collect();
        ranges.iter().map(|range| self.mod_up(poly, range.clone(), basis)).collect()
    }

    /// Lifts the residues modulo q_range to `basis`; inside the range the NTT values are those of the input.
    fn mod_up(&self, poly: &Poly<Ntt>, range: Range<usize>, basis: Basis) -> Poly<Ntt> {
        let n = self.degree();
        let lift = Lift::new(&self.inner.q[range.clone()]);
        let mut scaled = self.inner.pool.take(n * range.len());
        scaled.par_chunks_exact_mut(n).enumerate().for_each(|(i, y)| {
            y.copy_from_slice(poly.limb(range.start + i));
            self.backend().intt(&self.inner.tables[range.start + i], y, lift.scale(i));
        });
        let y: Vec<&[u64]> = scaled.chunks_exact(n).collect();
        let mut quotients = self.inner.pool.take(n);
        self.backend().lift_quotients(&mut quotients, &y, &lift.reciprocals);
        let mut out = self.stale::<Ntt>(basis);
        let group = self.group(basis.limb_count());
        out.data_mut().par_chunks_mut(group * n).enumerate().for_each(|(chunk, values)| {
            let mut targets = Vec::with_capacity(group);
            for (i, values) in values.chunks_exact_mut(n).enumerate() {
                let limb = group * chunk + i;
                if range.contains(&limb) {
                    values.copy_from_slice(poly.limb(limb));
                } else {
                    targets.push((self.table(basis, limb), values));
                }
            }
            self.lift_to(&lift, &y, &quotients, &mut targets);
        });
        out
    }

    /// Limbs per task of a base conversion: several share one reading of the sources, as long as their outputs stay
    /// in the second-level cache and every thread has work.
    fn group(&self, limbs: usize) -> usize {
        limbs.div_ceil(2 * rayon::current_num_threads()).clamp(1, MAX_GROUP)
    }

    /// Converts to every target's prime, then to NTT form.
    fn lift_to(&self, lift: &Lift<'_>, y: &[&[u64]], quotients: &[u64], targets: &mut [(&NttTable, &mut [u64])]) {
        let weights: Vec<(Vec<u64>, u64)> = targets.iter().map(|(t, _)| lift.weights(t.modulus)).collect();
        let mut prepared = Vec::with_capacity(targets.len());
        for ((t, out), (weights, correction)) in targets.iter_mut().zip(&weights) {
            prepared.push(LiftTarget { q: t.modulus, weights, correction: *correction, out });
        }
        self.backend().lift_combine(y, quotients, &mut prepared);
        targets.iter_mut().for_each(|(t, out)| self.backend().ntt(t, out));
    }

    /// sum_d digits_d * key_d; the key polynomials may have more q limbs than the digits.
    ///
    /// # Panics
    /// When there are no digits, fewer keys than digits, differing digit bases, or a key with too few limbs.
    pub fn inner_product(&self, digits: &[Poly<Ntt>], key: &[&Poly<Ntt>]) -> Poly<Ntt> {
        let mut out = self.stale(digits.first().expect("an inner product needs a digit").basis());
        self.inner_product_into(&mut out, digits, key, false);
        out
    }

    /// acc += sum_d digits_d * key_d.
    ///
    /// # Panics
    /// As [`Ring::inner_product`], and when the basis of `acc` differs from that of the digits.
    pub fn inner_product_add_assign(&self, acc: &mut Poly<Ntt>, digits: &[Poly<Ntt>], key: &[&Poly<Ntt>]) {
        self.inner_product_into(acc, digits, key, true);
    }

    /// Both halves of a key switch, reading the digits once: the products with `key_b` and with `key_a`.
    ///
    /// # Panics
    /// As [`Ring::inner_product`].
    pub fn inner_product_pair(
        &self,
        digits: &[Poly<Ntt>],
        key_b: &[&Poly<Ntt>],
        key_a: &[&Poly<Ntt>],
    ) -> (Poly<Ntt>, Poly<Ntt>) {
        let basis = digits.first().expect("an inner product needs a digit").basis();
        let (mut out_b, mut out_a) = (self.stale(basis), self.stale(basis));
        self.inner_product_pair_into(&mut out_b, &mut out_a, digits, key_b, key_a, false);
        (out_b, out_a)
    }

    /// [`Ring::inner_product_pair`] added to two accumulators.
    ///
    /// # Panics
    /// As [`Ring::inner_product_add_assign`].
    pub fn inner_product_pair_add_assign(
        &self,
        acc_b: &mut Poly<Ntt>,
        acc_a: &mut Poly<Ntt>,
        digits: &[Poly<Ntt>],
        key_b: &[&Poly<Ntt>],
        key_a: &[&Poly<Ntt>],
    ) {
        self.inner_product_pair_into(acc_b, acc_a, digits, key_b, key_a, true);
    }

    fn inner_product_into(&self, acc: &mut Poly<Ntt>, digits: &[Poly<Ntt>], key: &[&Poly<Ntt>], add: bool) {
        self.check_key(acc, digits, key);
        let basis = acc.basis();
        self.each_limb(acc, |limb, t, x| {
            let a: Vec<&[u64]> = digits.iter().map(|d| d.limb(limb)).collect();
            let b: Vec<&[u64]> = key[..digits.len()].iter().map(|k| key_limb(k, basis, limb)).collect();
            self.backend().inner_product(t.modulus, x, &a, &b, add);
        });
    }

    fn inner_product_pair_into(
        &self,
        acc_b: &mut Poly<Ntt>,
        acc_a: &mut Poly<Ntt>,
        digits: &[Poly<Ntt>],
        key_b: &[&Poly<Ntt>],
        key_a: &[&Poly<Ntt>],
        add: bool,
    ) {
        self.check_key(acc_b, digits, key_b);
        self.check_key(acc_a, digits, key_a);
        let (basis, n) = (acc_b.basis(), self.degree());
        let halves = acc_b.data_mut().par_chunks_exact_mut(n).zip(acc_a.data_mut().par_chunks_exact_mut(n));
        halves.enumerate().for_each(|(limb, (x_b, x_a))| {
            let a: Vec<&[u64]> = digits.iter().map(|d| d.limb(limb)).collect();
            let b = [key_b, key_a]
                .map(|key| -> Vec<&[u64]> { key[..digits.len()].iter().map(|k| key_limb(k, basis, limb)).collect() });
            let q = self.table(basis, limb).modulus;
            self.backend().inner_product_pair(q, [x_b, x_a], &a, [&b[0], &b[1]], add);
        });
    }

    fn check_key(&self, acc: &Poly<Ntt>, digits: &[Poly<Ntt>], key: &[&Poly<Ntt>]) {
        let basis = acc.basis();
        assert!(key.len() >= digits.len(), "{} key polynomials for {} digits", key.len(), digits.len());
        assert!(digits.len() <= 1 << 10, "{} digits exceed the lazy range of 2^10 products", digits.len());
        digits.iter().for_each(|d| self.check_same(acc, d));
        for k in key {
            self.check_degree(k);
            let have = k.basis();
            assert!(have.q >= basis.q && have.p >= basis.p, "a key of basis {have:?} does not cover {basis:?}");
        }
    }

    /// Divides by P with centred rounding: basis (l, p) to (l, 0).
    ///
    /// # Panics
    /// When the polynomial has no q limb or no p limb.
    pub fn mod_down(&self, mut poly: Poly<Ntt>) -> Poly<Ntt> {
        let basis = poly.basis();
        assert!(basis.q > 0 && basis.p > 0, "mod_down needs q and p limbs, not {basis:?}");
        self.check_degree(&poly);
        let n = self.degree();
        let lift = Lift::new(&self.inner.p[..basis.p]);
        let (head, tail) = poly.data_mut().split_at_mut(basis.q * n);
        tail.par_chunks_exact_mut(n).enumerate().for_each(|(i, y)| {
            self.backend().intt(&self.inner.tables[self.inner.q.len() + i], y, lift.scale(i));
        });
        let y: Vec<&[u64]> = tail.chunks_exact(n).collect();
        let mut quotients = self.inner.pool.take(n);
        self.backend().lift_quotients(&mut quotients, &y, &lift.reciprocals);
        let group = self.group(basis.q);
        head.par_chunks_mut(group * n).enumerate().for_each(|(chunk, x)| {
            let mut remainders = self.inner.pool.take(x.len());
            let tables = &self.inner.tables[group * chunk..];
            let mut targets: Vec<_> = tables.iter().zip(remainders.chunks_exact_mut(n)).collect();
            self.lift_to(&lift, &y, &quotients, &mut targets);
            for (x, (t, remainder)) in x.chunks_exact_mut(n).zip(&targets) {
                let inverse = t.modulus.inverse(lift.product(t.modulus));
                self.backend().sub_mul_scalar(t.modulus, x, remainder, inverse);
            }
        });
        poly.shrink(Basis { q: basis.q, p: 0 })
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
        let lift = Lift::new(&self.inner.p[..p]);
        self.each_limb(&mut out, |limb, t, x| {
            if limb >= basis.q {
                return x.fill(0);
            }
            x.copy_from_slice(poly.limb(limb));
            self.backend().mul_scalar(t.modulus, x, lift.product(t.modulus));
        });
        out
    }
}

/// The limb of a key that has the same prime as limb `limb` of `basis`.
fn key_limb(key: &Poly<Ntt>, basis: Basis, limb: usize) -> &[u64] {
    key.limb(if limb < basis.q { limb } else { key.basis().q + limb - basis.q })
}
