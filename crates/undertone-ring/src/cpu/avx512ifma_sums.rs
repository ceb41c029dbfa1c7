//! Sums of products with AVX-512 IFMA: inner products and base conversions.
//!
//! Low and high halves are summed apart in 64-bit lanes and reduced once per group of products.

use std::arch::x86_64::*;

use super::avx512ifma::{runs, whole};
use super::avx512ifma_lane::{Lanes, load, splat, store};
use crate::{LiftTarget, Modulus};

/// How far ahead the operands of inner products are fetched: they are too many streams for the hardware.
const PREFETCH_WORDS: usize = 48;

/// The most terms of one call.
const MAX_TERMS: usize = 1 << 10;

/// Products below 2^100 that may be summed, with some small change, before the sum reaches 2^104.
const GROUP: usize = 15;

/// Two sums over the terms t below `$terms`, fully reduced: of shared_t times each of the two values_t.
macro_rules! dot_pair {
    ($m:ident, $terms:expr; $t:ident => ($shared:expr, $values:expr)) => {{
        let mut sums = [_mm512_setzero_si512(); 2];
        for start in (0..$terms).step_by(GROUP) {
            let (mut high, mut low) = ([_mm512_setzero_si512(); 2], sums);
            for $t in start..$terms.min(start + GROUP) {
                let (shared, values) = ($shared, $values);
                for half in 0..2 {
                    high[half] = _mm512_madd52hi_epu64(high[half], values[half], shared);
                    low[half] = _mm512_madd52lo_epu64(low[half], values[half], shared);
                }
            }
            sums = [$m.reduce_sum(high[0], low[0]), $m.reduce_sum(high[1], low[1])];
        }
        sums
    }};
}

#[target_feature(enable = "avx512f,avx512ifma,avx512dq,avx512vl,avx512bw")]
pub(super) fn inner_product_pair(q: Modulus, out: [&mut [u64]; 2], a: &[&[u64]], b: [&[&[u64]]; 2]) {
    let m = Lanes::new(q);
    let [out_0, out_1] = out;
    let (len, [b_0, b_1]) = (out_0.len(), b);
    assert!(whole(len) && out_1.len() == len && a.len() <= MAX_TERMS && b_0.len() == a.len() && b_1.len() == a.len());
    assert!(a.iter().chain(b_0).chain(b_1).all(|s| s.len() == len));
    for k in (0..len).step_by(8) {
        for s in a.iter().chain(b_0).chain(b_1) {
            _mm_prefetch::<_MM_HINT_T0>(s.as_ptr().wrapping_add(k + PREFETCH_WORDS).cast());
        }
        // SAFETY: k + 8 is at most the common length.
        unsafe {
            let at = |s: &[u64]| load(s.as_ptr().add(k));
            let sums = dot_pair!(m, a.len(); t => (at(a[t]), [at(b_0[t]), at(b_1[t])]));
            store(out_0.as_mut_ptr().add(k), sums[0]);
            store(out_1.as_mut_ptr().add(k), sums[1]);
        }
    }
}

#[target_feature(enable = "avx512f,avx512ifma,avx512dq,avx512vl,avx512bw")]
pub(super) fn inner_product_runs(q: Modulus, out: [&mut [u64]; 2], a: &[[&[u64]; 2]], c: &[&[u64]], log_gap: u32) {
    let m = Lanes::new(q);
    let [out_0, out_1] = out;
    let len = out_0.len();
    assert!(whole(len) && out_1.len() == len && a.len() == c.len() && a.len() <= MAX_TERMS);
    assert!(a.iter().flatten().all(|s| s.len() == len) && c.iter().all(|c| c.len() << log_gap == len));
    for k in (0..len).step_by(8) {
        // SAFETY: k + 8 is at most the common length, and each c covers the same entries.
        unsafe {
            let at = |s: &[u64]| load(s.as_ptr().add(k));
            let sums = dot_pair!(m, a.len(); t => (runs(c[t], k, log_gap), [at(a[t][0]), at(a[t][1])]));
            store(out_0.as_mut_ptr().add(k), sums[0]);
            store(out_1.as_mut_ptr().add(k), sums[1]);
        }
    }
}

#[target_feature(enable = "avx512f,avx512ifma,avx512dq,avx512vl,avx512bw")]
pub(super) fn tensor(q: Modulus, out: [&mut [u64]; 3], a: &[[&[u64]; 2]], b: &[[&[u64]; 2]]) {
    let m = Lanes::new(q);
    let zero = _mm512_setzero_si512();
    let [out_0, out_1, out_2] = out;
    let len = out_0.len();
    assert!(whole(len) && out_1.len() == len && out_2.len() == len && a.len() == b.len() && a.len() <= MAX_TERMS / 2);
    assert!(a.iter().chain(b).flatten().all(|s| s.len() == len));
    for k in (0..len).step_by(8) {
        // SAFETY: k + 8 is at most the common length.
        unsafe {
            let mut sums = [zero; 3];
            // The middle sum takes two products of each pair.
            for (a, b) in a.chunks(GROUP / 2).zip(b.chunks(GROUP / 2)) {
                let (mut high, mut low) = ([zero; 3], sums);
                for ([a_0, a_1], [b_0, b_1]) in a.iter().zip(b) {
                    let (x_0, x_1) = (load(a_0.as_ptr().add(k)), load(a_1.as_ptr().add(k)));
                    let (y_0, y_1) = (load(b_0.as_ptr().add(k)), load(b_1.as_ptr().add(k)));
                    for (sum, x, y) in [(0, x_0, y_0), (1, x_0, y_1), (1, x_1, y_0), (2, x_1, y_1)] {
                        high[sum] = _mm512_madd52hi_epu64(high[sum], x, y);
                        low[sum] = _mm512_madd52lo_epu64(low[sum], x, y);
                    }
                }
                for i in 0..3 {
                    sums[i] = m.reduce_sum(high[i], low[i]);
                }
            }
            store(out_0.as_mut_ptr().add(k), sums[0]);
            store(out_1.as_mut_ptr().add(k), sums[1]);
            store(out_2.as_mut_ptr().add(k), sums[2]);
        }
    }
}

#[target_feature(enable = "avx512f,avx512ifma,avx512dq,avx512vl,avx512bw")]
pub(super) fn lift_quotients(out: &mut [u64], y: &[&[u64]], reciprocals: &[f64]) {
    assert!(whole(out.len()) && y.len() == reciprocals.len() && y.iter().all(|y| y.len() == out.len()));
    for k in (0..out.len()).step_by(8) {
        let mut sum = _mm512_setzero_pd();
        for (y, r) in y.iter().zip(reciprocals) {
            // SAFETY: k + 8 is at most the common length.
            let y = unsafe { load(y.as_ptr().add(k)) };
            sum = _mm512_add_pd(sum, _mm512_mul_pd(_mm512_cvtepu64_pd(y), _mm512_set1_pd(*r)));
        }
        // The default rounding mode is to nearest, ties to even.
        let quotient = _mm512_cvtpd_epu64(sum);
        // SAFETY: as above.
        unsafe { store(out.as_mut_ptr().add(k), quotient) };
    }
}

#[target_feature(enable = "avx512f,avx512ifma,avx512dq,avx512vl,avx512bw")]
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
#[target_feature(enable = "avx512f,avx512ifma,avx512dq,avx512vl,avx512bw")]
fn lift_to<const T: usize>(y: &[&[u64]], quotients: &[u64], targets: &mut [LiftTarget<'_>; T]) {
    let zero = _mm512_setzero_si512();
    let mut lanes = [Lanes::new(targets[0].q); T];
    let mut correction = [zero; T];
    for t in 0..T {
        lanes[t] = Lanes::new(targets[t].q);
        correction[t] = splat(targets[t].correction);
    }
    for k in (0..quotients.len()).step_by(8) {
        // SAFETY: k + 8 is at most the common length; every target has one weight per term.
        unsafe {
            let quotient = load(quotients.as_ptr().add(k));
            let (mut high, mut low) = ([zero; T], [zero; T]);
            for t in 0..T {
                high[t] = _mm512_madd52hi_epu64(zero, quotient, correction[t]);
                low[t] = _mm512_madd52lo_epu64(zero, quotient, correction[t]);
            }
            for (i, y) in y.iter().enumerate() {
                if i > 0 && i % GROUP == 0 {
                    for t in 0..T {
                        (high[t], low[t]) = (zero, lanes[t].reduce_sum(high[t], low[t]));
                    }
                }
                let y = load(y.as_ptr().add(k));
                for t in 0..T {
                    let w = splat(*targets[t].weights.as_ptr().add(i));
                    high[t] = _mm512_madd52hi_epu64(high[t], y, w);
                    low[t] = _mm512_madd52lo_epu64(low[t], y, w);
                }
            }
            for t in 0..T {
                store(targets[t].out.as_mut_ptr().add(k), lanes[t].reduce_sum(high[t], low[t]));
            }
        }
    }
}
