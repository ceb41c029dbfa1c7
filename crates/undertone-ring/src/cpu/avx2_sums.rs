//! Sums of products with AVX2: inner products and base conversions.
//!
//! A running sum is kept in two parts. Its high part starts at a large constant, so that a fused multiply-add rounds
//! every sum to a multiple of 2^u; the difference of two successive sums is then exact, and so is what each
//! product is short of it, which the low part collects. Both parts are reduced once per group of products.

use std::arch::x86_64::*;

use super::avx2::whole;
use super::avx2_lane::{F, Lanes, ROUND, TWO_52, V, load, load_numbers, lowered, numbers, splat, store};
use super::avx2_map::runs;
use super::avx2_packed::Unpacker;
use crate::{LiftTarget, Modulus, Packed};

/// The most terms of one call.
const MAX_TERMS: usize = 1 << 10;

/// Primes below this bound allow longer groups.
const SMALL: u64 = 1 << 46;

/// How sums modulo one prime are split and grouped; products are of a value below 2^50 and one below q.
///
/// Below 2^46: u = 48, and 8 products below 2^96 sum to at most 2^99 = 2^(u + 51), low parts to at most 2^50.
/// Otherwise: u = 51, and 4 products below 2^100 sum to at most 2^102 = 2^(u + 51), low parts to at most 2^52.
/// In both cases the high part stays between 2^(u + 52) and 2^(u + 53), where the unit in the last place is 2^u.
#[derive(Clone, Copy)]
struct Split {
    lanes: Lanes,
    /// 1.5 * 2^(u + 52).
    start: F,
    group: usize,
}

/// A running sum of at most a group of products, and the residue that it started from.
#[derive(Clone, Copy)]
struct Sum {
    high: F,
    low: F,
}

impl Split {
    #[inline]
    #[target_feature(enable = "avx2,fma")]
    fn new(q: Modulus) -> Self {
        let (u, group) = if q.value() < SMALL { (48, 8) } else { (51, 4) };
        Self { lanes: Lanes::new(q), start: splat(ROUND * (1u64 << u) as f64), group }
    }

    /// The sum that is `low` so far.
    #[inline]
    #[target_feature(enable = "avx2,fma")]
    fn sum(self, low: F) -> Sum {
        Sum { high: self.start, low }
    }

    /// The sum within q/2 + 1 of zero, when it started from such a value or zero.
    ///
    /// The high part is at most 8 * 2^50 q for small primes and 4 * 2^50 q for others, so its remainder is at most 3q
    /// and 5q/2. With the low part, at most 2^50 and 2^52, and the start the sum is below 2^53.
    #[inline]
    #[target_feature(enable = "avx2,fma")]
    fn settle(self, sum: Sum) -> F {
        let m = self.lanes;
        let high = _mm256_sub_pd(sum.high, self.start);
        m.shrink(_mm256_add_pd(m.remainder_high(high), sum.low))
    }

    #[inline]
    #[target_feature(enable = "avx2,fma")]
    fn reduce(self, sum: Sum) -> V {
        self.lanes.lift_sign(self.settle(sum))
    }
}

impl Sum {
    /// Adds a * b.
    #[inline]
    #[target_feature(enable = "avx2,fma")]
    fn add(&mut self, a: F, b: F) {
        let high = _mm256_fmadd_pd(a, b, self.high);
        self.low = _mm256_add_pd(self.low, _mm256_fmadd_pd(a, b, _mm256_sub_pd(self.high, high)));
        self.high = high;
    }
}

/// Two sums over the terms t below `$terms`, fully reduced: of shared_t times each of the two values_t; for two vectors
/// at once, of which the shared values come as numbers and each half's values as words. One pair of sums per vector.
macro_rules! dot_pairs {
    ($split:ident, $terms:expr; $t:ident => ($shared:expr, $values:expr)) => {{
        let mut sums = [[$split.sum(_mm256_setzero_pd()); 2]; 2];
        for start in (0..$terms).step_by($split.group) {
            if start > 0 {
                sums = sums.map(|pair| pair.map(|sum| $split.sum($split.settle(sum))));
            }
            for $t in start..$terms.min(start + $split.group) {
                let (shared, values) = ($shared, $values);
                for v in 0..2 {
                    sums[v][0].add(shared[v], numbers(values[0][v]));
                    sums[v][1].add(shared[v], numbers(values[1][v]));
                }
            }
        }
        sums.map(|pair| pair.map(|sum| $split.reduce(sum)))
    }};
}

/// Two vectors of both halves, from entry k on.
///
/// # Safety
/// Both outputs hold entries k to k + 7.
#[inline]
#[target_feature(enable = "avx2,fma")]
unsafe fn store_pairs(k: usize, out: [&mut [u64]; 2], sums: [[V; 2]; 2]) {
    for (half, out) in out.into_iter().enumerate() {
        for (v, sums) in sums.iter().enumerate() {
            // SAFETY: by the contract of this function.
            unsafe { store(out.as_mut_ptr().add(k + 4 * v), sums[half]) };
        }
    }
}

#[target_feature(enable = "avx2,fma")]
pub(super) fn inner_product_pair(q: Modulus, out: [&mut [u64]; 2], a: &[&[u64]], b: [&[Packed<'_>]; 2]) {
    let split = Split::new(q);
    let [out_0, out_1] = out;
    let (len, [b_0, b_1]) = (out_0.len(), b);
    assert!(len.is_multiple_of(8) && out_1.len() == len && a.len() <= MAX_TERMS);
    assert!(b_0.len() == a.len() && b_1.len() == a.len());
    assert!(a.iter().all(|a| a.len() == len) && b_0.iter().chain(b_1).all(|b| b.len() == len));
    let bits = b.map(|half| half.first().map_or(u64::BITS, |first| first.bits()));
    assert!(b_0.iter().all(|b| b.bits() == bits[0]) && b_1.iter().all(|b| b.bits() == bits[1]));
    let unpackers = [Unpacker::new(bits[0]), Unpacker::new(bits[1])];
    for k in (0..len).step_by(8) {
        // SAFETY: k + 8 is at most the common length.
        unsafe {
            let at = |t: usize, half: usize| load_numbers(a[t].as_ptr().add(k + 4 * half));
            let pairs = |t: usize| [unpackers[0].load(b_0[t], k), unpackers[1].load(b_1[t], k)];
            let sums = dot_pairs!(split, a.len(); t => ([at(t, 0), at(t, 1)], pairs(t)));
            store_pairs(k, [out_0, out_1], sums);
        }
    }
}

#[target_feature(enable = "avx2,fma")]
pub(super) fn inner_product_runs(q: Modulus, out: [&mut [u64]; 2], a: &[[&[u64]; 2]], c: &[&[u64]], log_gap: u32) {
    let split = Split::new(q);
    let [out_0, out_1] = out;
    let len = out_0.len();
    assert!(len.is_multiple_of(8) && out_1.len() == len && a.len() == c.len() && a.len() <= MAX_TERMS);
    assert!(a.iter().flatten().all(|s| s.len() == len) && c.iter().all(|c| c.len() << log_gap == len));
    for k in (0..len).step_by(8) {
        // SAFETY: k + 8 is at most the common length, and each c covers the same entries.
        unsafe {
            let at = |s: &[u64]| [load(s.as_ptr().add(k)), load(s.as_ptr().add(k + 4))];
            let shared = |c: &[u64]| [numbers(runs(c, k, log_gap)), numbers(runs(c, k + 4, log_gap))];
            let sums = dot_pairs!(split, a.len(); t => (shared(c[t]), [at(a[t][0]), at(a[t][1])]));
            store_pairs(k, [out_0, out_1], sums);
        }
    }
}

#[target_feature(enable = "avx2,fma")]
pub(super) fn tensor(q: Modulus, out: [&mut [u64]; 3], a: &[[&[u64]; 2]], b: &[[&[u64]; 2]]) {
    let split = Split::new(q);
    let [out_0, out_1, out_2] = out;
    let len = out_0.len();
    assert!(whole(len) && out_1.len() == len && out_2.len() == len && a.len() == b.len() && a.len() <= MAX_TERMS / 2);
    assert!(a.iter().chain(b).flatten().all(|s| s.len() == len));
    for k in (0..len).step_by(4) {
        let mut sums = [split.sum(_mm256_setzero_pd()); 3];
        // The middle sum takes two products of each pair.
        let half = split.group / 2;
        for (group, (a, b)) in a.chunks(half).zip(b.chunks(half)).enumerate() {
            if group > 0 {
                sums = sums.map(|sum| split.sum(split.settle(sum)));
            }
            for (a, b) in a.iter().zip(b) {
                // SAFETY: k + 4 is at most the common length.
                let [x_0, x_1, y_0, y_1] = [a[0], a[1], b[0], b[1]].map(|s| unsafe { load_numbers(s.as_ptr().add(k)) });
                sums[0].add(x_0, y_0);
                sums[1].add(x_0, y_1);
                sums[1].add(x_1, y_0);
                sums[2].add(x_1, y_1);
            }
        }
        // SAFETY: as above.
        unsafe {
            store(out_0.as_mut_ptr().add(k), split.reduce(sums[0]));
            store(out_1.as_mut_ptr().add(k), split.reduce(sums[1]));
            store(out_2.as_mut_ptr().add(k), split.reduce(sums[2]));
        }
    }
}

#[target_feature(enable = "avx2,fma")]
pub(super) fn lift_quotients(out: &mut [u64], y: &[&[u64]], reciprocals: &[f64]) {
    assert!(whole(out.len()) && y.len() == reciprocals.len() && y.iter().all(|y| y.len() == out.len()));
    for k in (0..out.len()).step_by(4) {
        let mut sum = _mm256_setzero_pd();
        for (y, r) in y.iter().zip(reciprocals) {
            // SAFETY: k + 4 is at most the common length.
            let y = unsafe { load_numbers(y.as_ptr().add(k)) };
            sum = _mm256_add_pd(sum, _mm256_mul_pd(y, splat(*r)));
        }
        // 2^52 is even, so the addition rounds to the nearest whole number, ties to even.
        let quotient = lowered(_mm256_add_pd(sum, splat(TWO_52)));
        // SAFETY: as above.
        unsafe { store(out.as_mut_ptr().add(k), quotient) };
    }
}

#[target_feature(enable = "avx2,fma")]
pub(super) fn lift_combine(y: &[&[u64]], quotients: &[u64], targets: &mut [LiftTarget<'_>]) {
    let len = quotients.len();
    assert!(whole(len) && y.len() < MAX_TERMS && y.iter().all(|y| y.len() == len));
    assert!(targets.iter().all(|t| t.out.len() == len && t.weights.len() == y.len()));
    let (fours, rest) = targets.as_chunks_mut::<4>();
    fours.iter_mut().for_each(|four| lift_to(y, quotients, four));
    let (twos, rest) = rest.as_chunks_mut::<2>();
    twos.iter_mut().for_each(|two| lift_to(y, quotients, two));
    rest.as_chunks_mut::<1>().0.iter_mut().for_each(|one| lift_to(y, quotients, one));
}

/// `lift_combine` for a few targets at once; the caller has checked all lengths.
#[target_feature(enable = "avx2,fma")]
fn lift_to<const T: usize>(y: &[&[u64]], quotients: &[u64], targets: &mut [LiftTarget<'_>; T]) {
    let splits: [Split; T] = std::array::from_fn(|t| Split::new(targets[t].q));
    let group = splits.iter().fold(usize::MAX, |least, split| least.min(split.group));
    // The quotients are one more term.
    let mut terms: Vec<(&[u64], [f64; T])> = Vec::with_capacity(y.len() + 1);
    for (i, y) in y.iter().enumerate() {
        terms.push((y, std::array::from_fn(|t| targets[t].weights[i] as f64)));
    }
    terms.push((quotients, std::array::from_fn(|t| targets[t].correction as f64)));
    for k in (0..quotients.len()).step_by(4) {
        let mut sums = splits.map(|split| split.sum(_mm256_setzero_pd()));
        for (index, terms) in terms.chunks(group).enumerate() {
            if index > 0 {
                for t in 0..T {
                    sums[t] = splits[t].sum(splits[t].settle(sums[t]));
                }
            }
            for (y, weights) in terms {
                // SAFETY: k + 4 is at most the common length.
                let y = unsafe { load_numbers(y.as_ptr().add(k)) };
                for t in 0..T {
                    sums[t].add(y, splat(weights[t]));
                }
            }
        }
        for t in 0..T {
            // SAFETY: as above; every output has the common length.
            unsafe { store(targets[t].out.as_mut_ptr().add(k), splits[t].reduce(sums[t])) };
        }
    }
}
