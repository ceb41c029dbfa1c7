//! Sums of rotated products with double hoisting (eprint 2020/1203, section 4), limb by limb.
//!
//! All baby rotations share one decomposition, all sums stay modulo QP, and one division ends the whole. In the first
//! phase the rotated inputs of a limb live only until their products are in the sums of the giant steps.

use std::ops::Range;

use rayon::prelude::*;

use super::gadget_key::GadgetKey;
use super::key_switch::{Digits, Pair};
use crate::{Basis, CompactPoly, Ntt, Permutation, Poly, Ring};

/// Words of each rotated input that go through all products before the next ones, so that they stay in cache.
const BLOCK: usize = 1 << 12;

/// A key switch with the automorphism that follows it.
#[derive(Clone, Copy)]
pub struct Step<'a> {
    /// From the moved secret to the secret.
    pub key: GadgetKey<'a>,
    /// The automorphism.
    pub permutation: &'a Permutation,
}

/// One giant step: a sum over rotated inputs, rotated in turn.
pub struct Giant<'a> {
    /// The rotation of the sum; none for the identity.
    pub step: Option<Step<'a>>,
    /// Which baby rotation is multiplied by which plaintext (basis (l, p)); all of one gap.
    pub terms: Vec<(usize, &'a CompactPoly)>,
}

impl Ring {
    /// sum_g step_g(sum_t plain_t * baby_t(c)), divided by P and by the last prime: basis (l, 0) to (l - 1, 0).
    ///
    /// # Panics
    /// When operands or keys do not fit the basis of `c`, or it has a single limb.
    pub fn hoisted_sum(
        &self,
        c: [&Poly<Ntt>; 2],
        ranges: &[Range<usize>],
        babies: &[Option<Step<'_>>],
        giants: &[Giant<'_>],
    ) -> [Poly<Ntt>; 2] {
        self.check_same(c[0], c[1]);
        let basis = Basis { q: c[0].basis().q, p: self.inner.p.len() };
        let digits = self.digits(c[1], ranges);
        babies.iter().chain(giants.iter().map(|g| &g.step)).flatten().for_each(|s| self.check_key(&digits, s.key));
        let mut sums: Vec<[Poly<Ntt>; 2]> = giants.iter().map(|_| [(); 2].map(|()| self.stale(basis))).collect();
        self.baby_steps(c, &digits, babies, giants, &mut sums);
        drop(digits);
        let mut total = [(); 2].map(|()| self.zero::<Ntt>(basis));
        let (mut moved, mut reduced) = (Vec::new(), Vec::new());
        for (giant, [b, a]) in giants.iter().zip(sums) {
            if let Some(step) = giant.step {
                moved.push((step, b));
                reduced.push(self.mod_down(a));
            } else {
                self.add_assign(&mut total[0], &b);
                self.add_assign(&mut total[1], &a);
            }
        }
        let digits: Vec<Digits<'_>> = reduced.iter().map(|a| self.digits(a, ranges)).collect();
        self.giant_steps(basis, &moved, &digits, &mut total);
        total.map(|sum| self.mod_down_rescale(sum))
    }

    /// c + sum_s step_s(c), divided by P once: basis (l, 0) to (l, 0).
    ///
    /// # Panics
    /// When keys do not fit the basis of `c`.
    pub fn rotation_sum(&self, c: [&Poly<Ntt>; 2], ranges: &[Range<usize>], steps: &[Step<'_>]) -> [Poly<Ntt>; 2] {
        self.check_same(c[0], c[1]);
        let digits = self.digits(c[1], ranges);
        steps.iter().for_each(|step| self.check_key(&digits, step.key));
        let (n, basis) = (self.degree(), digits.basis(self));
        let mut total = [(); 2].map(|()| self.stale::<Ntt>(basis));
        let [total_b, total_a] = &mut total;
        self.each_group(0, total_b.data_mut(), total_a.data_mut(), |limbs, [b, a]| {
            let mut room = self.lift_room(&digits, limbs.len());
            let lifted = self.lift_digits(&digits, limbs, &mut room);
            let mut switched = self.inner.pool.take(2 * n);
            let (k_b, k_a) = switched.split_at_mut(n);
            let halves = b.chunks_exact_mut(n).zip(a.chunks_exact_mut(n));
            for ((&limb, lifted), (b, a)) in limbs.iter().zip(&lifted).zip(halves) {
                let q = self.table(basis, limb).modulus;
                self.times_special(c, (basis, limb), [&mut *b, &mut *a]);
                for step in steps {
                    self.switched(c[0], (basis, limb), lifted, step.key, [&mut *k_b, &mut *k_a]);
                    self.backend().permute_add(q, b, k_b, step.permutation);
                    self.backend().permute_add(q, a, k_a, step.permutation);
                }
            }
        });
        total.map(|sum| self.mod_down(sum))
    }

    /// One limb of P times the input under the key's target, before its automorphism.
    fn switched(
        &self,
        c0: &Poly<Ntt>,
        (basis, limb): (Basis, usize),
        lifted: &[&[u64]],
        key: GadgetKey<'_>,
        [b, a]: Pair<'_>,
    ) {
        let q = self.table(basis, limb).modulus;
        self.key_products(basis, limb, lifted, key, [&mut *b, a]);
        if limb < basis.q {
            self.backend().mul_scalar_add(q, b, c0.limb(limb), self.special_product(basis.p, q));
        }
    }

    /// One limb of P times both halves.
    fn times_special(&self, c: [&Poly<Ntt>; 2], (basis, limb): (Basis, usize), out: Pair<'_>) {
        let q = self.table(basis, limb).modulus;
        for (out, c) in out.into_iter().zip(c) {
            if limb < basis.q {
                out.copy_from_slice(c.limb(limb));
                self.backend().mul_scalar(q, out, self.special_product(basis.p, q));
            } else {
                out.fill(0);
            }
        }
    }

    /// The sums of products of all giant steps.
    fn baby_steps(
        &self,
        c: [&Poly<Ntt>; 2],
        digits: &Digits<'_>,
        babies: &[Option<Step<'_>>],
        giants: &[Giant<'_>],
        sums: &mut [[Poly<Ntt>; 2]],
    ) {
        let (n, basis) = (self.degree(), digits.basis(self));
        let mut places: Vec<Vec<Pair<'_>>> = (0..basis.limb_count()).map(|_| Vec::new()).collect();
        for [b, a] in sums {
            let halves = b.data_mut().chunks_exact_mut(n).zip(a.data_mut().chunks_exact_mut(n));
            places.iter_mut().zip(halves).for_each(|(place, (b, a))| place.push([b, a]));
        }
        let group = self.group(places.len());
        places.par_chunks_mut(group).enumerate().for_each(|(chunk, places)| {
            let limbs: Vec<usize> = (chunk * group..chunk * group + places.len()).collect();
            let mut room = self.lift_room(digits, limbs.len());
            let lifted = self.lift_digits(digits, &limbs, &mut room);
            let (mut rotated, mut switched) = (self.inner.pool.take(2 * n * babies.len()), self.inner.pool.take(2 * n));
            for ((&limb, lifted), places) in limbs.iter().zip(&lifted).zip(places) {
                for (baby, out) in babies.iter().zip(rotated.chunks_exact_mut(2 * n)) {
                    let (out, scratch) = (out.split_at_mut(n), switched.split_at_mut(n));
                    self.baby_step(c, (basis, limb), lifted, *baby, [out.0, out.1], [scratch.0, scratch.1]);
                }
                self.products((basis, limb), &rotated, giants, places);
            }
        });
    }

    /// One limb of one rotated input, times P.
    fn baby_step(
        &self,
        c: [&Poly<Ntt>; 2],
        (basis, limb): (Basis, usize),
        lifted: &[&[u64]],
        baby: Option<Step<'_>>,
        out: Pair<'_>,
        [b, a]: Pair<'_>,
    ) {
        let Some(step) = baby else { return self.times_special(c, (basis, limb), out) };
        self.switched(c[0], (basis, limb), lifted, step.key, [&mut *b, &mut *a]);
        let [out_b, out_a] = out;
        self.backend().permute(out_b, b, step.permutation);
        self.backend().permute(out_a, a, step.permutation);
    }

    /// One limb of the sums of all giant steps.
    fn products(&self, (basis, limb): (Basis, usize), rotated: &[u64], giants: &[Giant<'_>], places: &mut [Pair<'_>]) {
        let (n, q) = (self.degree(), self.table(basis, limb).modulus);
        let gaps = giants.iter().flat_map(|g| &g.terms).map(|(_, plain)| plain.log_gap());
        let block = gaps.map(|gap| 1 << gap).fold(BLOCK, usize::max).min(n);
        for start in (0..n).step_by(block) {
            for (giant, [b, a]) in giants.iter().zip(places.iter_mut()) {
                let part = |baby: usize, half: usize| &rotated[(2 * baby + half) * n + start..][..block];
                let values: Vec<[&[u64]; 2]> = giant.terms.iter().map(|&(t, _)| [part(t, 0), part(t, 1)]).collect();
                let log_gap = giant.terms.first().map_or(0, |(_, plain)| plain.log_gap());
                let plains: Vec<&[u64]> = giant
                    .terms
                    .iter()
                    .map(|(_, plain)| &plain.limb(limb)[start >> log_gap..(start + block) >> log_gap])
                    .collect();
                let out = [&mut b[start..start + block], &mut a[start..start + block]];
                self.backend().inner_product_runs(q, out, &values, &plains, log_gap);
            }
        }
    }

    /// total += every moved sum, switched and rotated.
    fn giant_steps(
        &self,
        basis: Basis,
        moved: &[(Step<'_>, Poly<Ntt>)],
        digits: &[Digits<'_>],
        total: &mut [Poly<Ntt>; 2],
    ) {
        let n = self.degree();
        let [total_b, total_a] = total;
        self.each_group(0, total_b.data_mut(), total_a.data_mut(), |limbs, [b, a]| {
            let mut switched = self.inner.pool.take(2 * n);
            let (k_b, k_a) = switched.split_at_mut(n);
            for ((step, sum), digits) in moved.iter().zip(digits) {
                let mut room = self.lift_room(digits, limbs.len());
                let lifted = self.lift_digits(digits, limbs, &mut room);
                let halves = b.chunks_exact_mut(n).zip(a.chunks_exact_mut(n));
                for ((&limb, lifted), (b, a)) in limbs.iter().zip(&lifted).zip(halves) {
                    let q = self.table(basis, limb).modulus;
                    self.key_products(basis, limb, lifted, step.key, [&mut *k_b, &mut *k_a]);
                    self.backend().add(q, k_b, sum.limb(limb));
                    self.backend().permute_add(q, b, k_b, step.permutation);
                    self.backend().permute_add(q, a, k_a, step.permutation);
                }
            }
        });
    }
}
