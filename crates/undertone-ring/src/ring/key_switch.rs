//! The ring half of hybrid key switching (Han-Ki, eprint 2019/688): digits lifted to QP, their inner product with a
//! key, division by P.
//!
//! Everything between the digits' coefficients and the result is done limb by limb, so that lifted digits and sums
//! modulo QP never leave the cache; the limbs that are divided away come first.

use std::ops::Range;

use rayon::prelude::*;

use super::gadget_key::{GadgetKey, UniformHalf, key_limb};
use super::lift::{Lift, Scaled};
use crate::cpu::Buffer;
use crate::sample::public::{Seed, UniformStream};
use crate::{Basis, Ntt, NttTable, Packed, Poly, Ring};

/// Residues of each digit's uniform half that are made and used at a time.
const SEEDED_BLOCK: usize = 1 << 11;

/// The gadget digits of a polynomial with basis (l, 0): coefficients from which any limb of a lifted digit follows.
///
/// Each digit stands for its centred representative, lifted to basis (l, p) with all special primes of the ring.
pub struct Digits<'a> {
    source: &'a Poly<Ntt>,
    ranges: Vec<Range<usize>>,
    /// y_i of the conversion away from each digit's primes, limb after limb.
    scaled: Buffer,
    /// v of each digit, digit after digit.
    quotients: Buffer,
}

impl Digits<'_> {
    /// How many digits there are.
    pub fn count(&self) -> usize {
        self.ranges.len()
    }

    /// The basis of the lifted digits.
    pub(super) fn basis(&self, ring: &Ring) -> Basis {
        Basis { q: self.source.basis().q, p: ring.inner.p.len() }
    }
}

impl Ring {
    /// Cuts a polynomial (basis (l, 0)) into digits; ranges are clipped to l, empty ones left out.
    ///
    /// # Panics
    /// When the polynomial has p limbs.
    pub fn digits<'a>(&self, source: &'a Poly<Ntt>, ranges: &[Range<usize>]) -> Digits<'a> {
        let (limbs, n) = (source.basis().q, self.degree());
        assert!(source.basis().p == 0, "digits take no p limbs, not {:?}", source.basis());
        self.check_degree(source);
        let ranges: Vec<Range<usize>> =
            ranges.iter().map(|r| r.start..r.end.min(limbs)).filter(|r| !r.is_empty()).collect();
        let mut scaled = self.inner.pool.take(n * limbs);
        scaled.par_chunks_exact_mut(n).enumerate().for_each(|(limb, y)| {
            let range = ranges.iter().find(|r| r.contains(&limb)).expect("digits cover every limb");
            let scale = self.lift_of(range).scale(limb - range.start);
            self.backend().intt_of(&self.inner.tables[limb], y, source.limb(limb), scale);
        });
        let mut quotients = self.inner.pool.take(n * ranges.len());
        quotients.par_chunks_exact_mut(n).zip(&ranges).for_each(|(out, range)| {
            self.quotients(&self.lift_of(range), &scaled[range.start * n..range.end * n], out);
        });
        Digits { source, ranges, scaled, quotients }
    }

    fn lift_of(&self, range: &Range<usize>) -> Lift {
        Lift::new(self.inner.q[range.clone()].iter().copied())
    }

    /// One lifted digit as a polynomial; for tests and for readers.
    ///
    /// # Panics
    /// When there is no such digit.
    pub fn lifted_digit(&self, digits: &Digits<'_>, index: usize) -> Poly<Ntt> {
        let basis = digits.basis(self);
        let mut out = self.stale::<Ntt>(basis);
        let limbs: Vec<usize> = (0..basis.limb_count()).collect();
        let mut scratch = self.inner.pool.take(limbs.len() * digits.ranges.len() * self.degree());
        for (&limb, lifted) in limbs.iter().zip(self.lift_digits(digits, &limbs, &mut scratch)) {
            out.limb_mut(limb).copy_from_slice(lifted[index]);
        }
        out
    }

    /// For each of a few limbs of the digits' basis, the NTT values of all digits. `scratch` has room for all of them;
    /// inside a digit's own primes they are those of the source.
    pub(super) fn lift_digits<'s>(
        &self,
        digits: &'s Digits<'_>,
        limbs: &[usize],
        scratch: &'s mut [u64],
    ) -> Vec<Vec<&'s [u64]>> {
        let (n, basis) = (self.degree(), digits.basis(self));
        let mut lifted: Vec<Vec<&[u64]>> = limbs.iter().map(|_| Vec::with_capacity(digits.ranges.len())).collect();
        let rooms = scratch.chunks_mut(limbs.len() * n).zip(digits.quotients.chunks_exact(n));
        for (range, (room, quotients)) in digits.ranges.iter().zip(rooms) {
            let y = digits.scaled[range.start * n..range.end * n].chunks_exact(n).collect();
            let mut targets: Vec<(&NttTable, &mut [u64])> = limbs
                .iter()
                .zip(room.chunks_exact_mut(n))
                .filter(|(limb, _)| !range.contains(limb))
                .map(|(&limb, out)| (self.table(basis, limb), out))
                .collect();
            self.lift_to(&self.lift_of(range), &Scaled { y, quotients }, &mut targets);
            let mut made = targets.into_iter().map(|(_, out)| &*out);
            for (&limb, all) in limbs.iter().zip(&mut lifted) {
                let own = range.contains(&limb).then(|| digits.source.limb(limb));
                all.extend(own.or_else(|| made.next()));
            }
        }
        lifted
    }

    /// Words of scratch that [`Ring::lift_digits`] needs for `limbs` limbs.
    pub(super) fn lift_room(&self, digits: &Digits<'_>, limbs: usize) -> Buffer {
        self.inner.pool.take(limbs * digits.ranges.len() * self.degree())
    }

    /// Both inner products of one limb of the lifted digits with a key.
    pub(super) fn key_products(&self, basis: Basis, limb: usize, lifted: &[&[u64]], key: GadgetKey<'_>, out: Pair<'_>) {
        let q = self.table(basis, limb).modulus;
        let mut room = None;
        let b = self.computed_limbs(key.b, (basis, limb), lifted.len(), &mut room);
        match key.a {
            UniformHalf::Expanded(polys) => {
                let a: Vec<Packed<'_>> = polys[..lifted.len()].iter().map(|k| key_limb(k, basis, limb)).collect();
                self.backend().inner_product_pair(q, out, lifted, [&b, &a]);
            }
            UniformHalf::Seeded(seed) => self.seeded_products((basis, limb), lifted, &b, seed, out),
        }
    }

    /// [`Ring::key_products`] with a uniform half that is made block by block and never leaves the cache.
    fn seeded_products(
        &self,
        (basis, limb): (Basis, usize),
        lifted: &[&[u64]],
        b: &[Packed<'_>],
        seed: &Seed,
        [out_b, out_a]: Pair<'_>,
    ) {
        let block = SEEDED_BLOCK.min(self.degree());
        let room_len = block + UniformStream::STEP;
        let mut rooms = self.inner.pool.take(lifted.len() * room_len);
        let stream = |digit| UniformStream::new(self, seed, digit as u64, (basis, limb));
        let mut streams: Vec<(UniformStream, usize)> = (0..lifted.len()).map(|digit| (stream(digit), 0)).collect();
        for start in (0..self.degree()).step_by(block) {
            for ((stream, filled), room) in streams.iter_mut().zip(rooms.chunks_exact_mut(room_len)) {
                // The limb ends with this many residues; nothing is made beyond it.
                let left = self.degree() - start;
                while *filled < block {
                    *filled += stream.read(self, &mut room[*filled..room_len.min(left)]);
                }
            }
            let parts: Vec<&[u64]> = lifted.iter().map(|digit| &digit[start..start + block]).collect();
            let b: Vec<Packed<'_>> = b.iter().map(|b| b.part(start, block)).collect();
            let a: Vec<Packed<'_>> = rooms.chunks_exact(room_len).map(|room| Packed::plain(&room[..block])).collect();
            let out = [&mut out_b[start..start + block], &mut out_a[start..start + block]];
            self.backend().inner_product_pair(self.table(basis, limb).modulus, out, &parts, [&b, &a]);
            for ((_, filled), room) in streams.iter_mut().zip(rooms.chunks_exact_mut(room_len)) {
                room.copy_within(block..*filled, 0);
                *filled -= block;
            }
        }
    }

    pub(super) fn check_key(&self, digits: &Digits<'_>, key: GadgetKey<'_>) {
        key.check(self.degree(), digits.basis(self), digits.ranges.len());
    }

    /// (P * plus + digits * key) / P: what the digits' polynomial times the key's source secret is under its target.
    ///
    /// # Panics
    /// When key or `plus` do not fit the digits' basis.
    pub fn switch(&self, digits: &Digits<'_>, key: GadgetKey<'_>, plus: [Option<&Poly<Ntt>>; 2]) -> [Poly<Ntt>; 2] {
        self.switch_to(digits, key, plus, digits.source.basis().q)
    }

    /// As [`Ring::switch`], divided by the last prime of the chain too, rounding once.
    ///
    /// # Panics
    /// As [`Ring::switch`], and when there is only one q limb.
    pub fn switch_rescale(
        &self,
        digits: &Digits<'_>,
        key: GadgetKey<'_>,
        plus: [Option<&Poly<Ntt>>; 2],
    ) -> [Poly<Ntt>; 2] {
        let limbs = digits.source.basis().q;
        assert!(limbs >= 2, "a rescale needs two q limbs, not {limbs}");
        self.switch_to(digits, key, plus, limbs - 1)
    }

    fn switch_to(
        &self,
        digits: &Digits<'_>,
        key: GadgetKey<'_>,
        plus: [Option<&Poly<Ntt>>; 2],
        keep: usize,
    ) -> [Poly<Ntt>; 2] {
        self.check_key(digits, key);
        plus.iter().flatten().for_each(|plus| self.check_same(digits.source, plus));
        let (n, basis) = (self.degree(), digits.basis(self));
        let gone_count = basis.limb_count() - keep;
        let mut gone = [self.inner.pool.take(n * gone_count), self.inner.pool.take(n * gone_count)];
        let [b, a] = &mut gone;
        self.each_group(keep, b, a, |limbs, out| self.products_plus(digits, key, plus, limbs, out));
        let remainders = gone.each_mut().map(|gone| self.remainder(basis, keep, gone));
        let mut result = [(); 2].map(|()| self.stale::<Ntt>(Basis { q: keep, p: 0 }));
        let [b, a] = &mut result;
        self.each_group(0, b.data_mut(), a.data_mut(), |limbs, out| {
            let [out_b, out_a] = out;
            self.products_plus(digits, key, plus, limbs, [&mut *out_b, &mut *out_a]);
            for (remainder, out) in remainders.iter().zip([out_b, out_a]) {
                let tables = limbs.iter().map(|&limb| self.table(basis, limb));
                let mut values: Vec<_> = tables.zip(out.chunks_exact_mut(n)).collect();
                self.subtract_and_divide(remainder, &mut values);
            }
        });
        result
    }

    /// Calls `work` with the numbers of a few limbs, from `first` on, and their places in both halves.
    pub(super) fn each_group(
        &self,
        first: usize,
        b: &mut [u64],
        a: &mut [u64],
        work: impl Fn(&[usize], Pair<'_>) + Sync,
    ) {
        let n = self.degree();
        let group = self.group(b.len() / n);
        let chunks = b.par_chunks_mut(group * n).zip(a.par_chunks_mut(group * n));
        chunks.enumerate().for_each(|(chunk, (b, a))| {
            let start = first + chunk * group;
            let limbs: Vec<usize> = (start..start + b.len() / n).collect();
            work(&limbs, [b, a]);
        });
    }

    /// digits * key + P * plus for a few limbs.
    fn products_plus(
        &self,
        digits: &Digits<'_>,
        key: GadgetKey<'_>,
        plus: [Option<&Poly<Ntt>>; 2],
        limbs: &[usize],
        [out_b, out_a]: Pair<'_>,
    ) {
        let (n, basis) = (self.degree(), digits.basis(self));
        let mut scratch = self.lift_room(digits, limbs.len());
        let lifted = self.lift_digits(digits, limbs, &mut scratch);
        let halves = out_b.chunks_exact_mut(n).zip(out_a.chunks_exact_mut(n));
        for ((&limb, lifted), (b, a)) in limbs.iter().zip(&lifted).zip(halves) {
            self.key_products(basis, limb, lifted, key, [&mut *b, &mut *a]);
            for (out, plus) in [b, a].into_iter().zip(plus) {
                if let Some(plus) = plus.filter(|_| limb < basis.q) {
                    let q = self.table(basis, limb).modulus;
                    self.backend().mul_scalar_add(q, out, plus.limb(limb), self.special_product(basis.p, q));
                }
            }
        }
    }
}

/// Places of both halves.
pub(super) type Pair<'a> = [&'a mut [u64]; 2];
