//! Sums of products with AVX-512 IFMA: inner products and base conversions.
//!
//! Low and high halves are summed apart in 64-bit lanes and reduced once per group of products.

use std::arch::x86_64::*;

use super::avx512ifma::{runs, whole};
use super::avx512ifma_lane::{Lanes, V, load, splat, store};
use super::avx512ifma_packed::Unpacker;
use crate::{LiftTarget, Modulus, Packed};

/// How many residues ahead operands from beyond the second-level cache are fetched: they are too many streams for the
/// hardware, and come from far.
const PREFETCH: usize = 256;

/// The most terms of one call.
const MAX_TERMS: usize = 1 << 10;

/// Products below 2^100 that may be summed, with some small change, before the sum reaches 2^104.
const GROUP: usize = 15;

/// Terms of an inner product that one pass over the outputs takes: their addresses must stay in registers.
const PASS: usize = 4;

/// Calls a kernel with its number of terms, 1 to 4, as a constant.
macro_rules! by_count {
    ($count:expr, $kernel:ident($($argument:expr),*)) => {
        match $count {
            1 => $kernel::<1>($($argument),*),
            2 => $kernel::<2>($($argument),*),
            3 => $kernel::<3>($($argument),*),
            _ => $kernel::<PASS>($($argument),*),
        }
    };
}

/// Both sums of products of shared values with the values of two halves, added to `sums` and fully reduced.
#[inline]
#[target_feature(enable = "avx512f,avx512ifma,avx512dq,avx512vl,avx512bw")]
fn dot_pair<const T: usize>(m: Lanes, sums: [V; 2], shared: [V; T], values: [[V; T]; 2]) -> [V; 2] {
    let (mut high, mut low) = ([_mm512_setzero_si512(); 2], sums);
    for t in 0..T {
        for half in 0..2 {
            high[half] = _mm512_madd52hi_epu64(high[half], values[half][t], shared[t]);
            low[half] = _mm512_madd52lo_epu64(low[half], values[half][t], shared[t]);
        }
    }
    [m.reduce_sum(high[0], low[0]), m.reduce_sum(high[1], low[1])]
}

#[target_feature(enable = "avx512f,avx512ifma,avx512dq,avx512vl,avx512bw,avx512vbmi")]
pub(super) fn inner_product_pair(q: Modulus, out: [&mut [u64]; 2], a: &[&[u64]], b: [&[Packed<'_>]; 2]) {
    let (m, [out_0, out_1], [b_0, b_1]) = (Lanes::new(q), out, b);
    let len = out_0.len();
    assert!(whole(len) && out_1.len() == len && a.len() <= MAX_TERMS && b_0.len() == a.len() && b_1.len() == a.len());
    assert!(a.iter().all(|a| a.len() == len) && b_0.iter().chain(b_1).all(|b| b.len() == len));
    let bits = b.map(|half| half.first().map_or(u64::BITS, |first| first.bits()));
    assert!(b_0.iter().all(|b| b.bits() == bits[0]) && b_1.iter().all(|b| b.bits() == bits[1]));
    let unpackers = [Unpacker::new(bits[0]), Unpacker::new(bits[1])];
    if a.is_empty() {
        [out_0, out_1].into_iter().for_each(|out| out.fill(0));
        return;
    }
    for (pass, a) in a.chunks(PASS).enumerate() {
        let b = b.map(|half| &half[pass * PASS..][..a.len()]);
        by_count!(a.len(), add_pair(m, pass > 0, [&mut *out_0, &mut *out_1], a, b, unpackers));
    }
}

/// out_h = (out_h when `add`) + sum of a_d * b_h,d over T terms; the caller has checked all lengths.
#[target_feature(enable = "avx512f,avx512ifma,avx512dq,avx512vl,avx512bw,avx512vbmi")]
fn add_pair<const T: usize>(
    m: Lanes,
    add: bool,
    [out_0, out_1]: [&mut [u64]; 2],
    a: &[&[u64]],
    b: [&[Packed<'_>]; 2],
    [unpacker_0, unpacker_1]: [Unpacker; 2],
) {
    let a: [*const u64; T] = std::array::from_fn(|t| a[t].as_ptr());
    let [b_0, b_1]: [[*const u8; T]; 2] = b.map(|half| std::array::from_fn(|t| half[t].bytes().as_ptr()));
    for k in (0..out_0.len()).step_by(8) {
        for t in 0..T {
            _mm_prefetch::<_MM_HINT_T0>(unpacker_0.ahead(b_0[t], k + PREFETCH));
            _mm_prefetch::<_MM_HINT_T0>(unpacker_1.ahead(b_1[t], k + PREFETCH));
        }
        // SAFETY: k + 8 is at most the common length.
        unsafe {
            let (mut shared, mut values) = ([_mm512_setzero_si512(); T], [[_mm512_setzero_si512(); T]; 2]);
            for t in 0..T {
                shared[t] = load(a[t].add(k));
                values[0][t] = unpacker_0.load(b_0[t], k);
                values[1][t] = unpacker_1.load(b_1[t], k);
            }
            let (to_0, to_1) = (out_0.as_mut_ptr().add(k), out_1.as_mut_ptr().add(k));
            let sums = if add { [load(to_0), load(to_1)] } else { [_mm512_setzero_si512(); 2] };
            let sums = dot_pair(m, sums, shared, values);
            store(to_0, sums[0]);
            store(to_1, sums[1]);
        }
    }
}

#[target_feature(enable = "avx512f,avx512ifma,avx512dq,avx512vl,avx512bw")]
pub(super) fn inner_product_runs(q: Modulus, out: [&mut [u64]; 2], a: &[[&[u64]; 2]], c: &[&[u64]], log_gap: u32) {
    let (m, [out_0, out_1]) = (Lanes::new(q), out);
    let len = out_0.len();
    assert!(whole(len) && out_1.len() == len && a.len() == c.len() && a.len() <= MAX_TERMS);
    assert!(a.iter().flatten().all(|s| s.len() == len) && c.iter().all(|c| c.len() << log_gap == len));
    if a.is_empty() {
        [out_0, out_1].into_iter().for_each(|out| out.fill(0));
        return;
    }
    for (pass, (a, c)) in a.chunks(PASS).zip(c.chunks(PASS)).enumerate() {
        by_count!(a.len(), add_runs_pair(m, pass > 0, [&mut *out_0, &mut *out_1], a, c, log_gap));
    }
}

/// out_h = (out_h when `add`) + sum of a_t,h * c_t over T terms; the caller has checked all lengths.
#[target_feature(enable = "avx512f,avx512ifma,avx512dq,avx512vl,avx512bw")]
fn add_runs_pair<const T: usize>(
    m: Lanes,
    add: bool,
    [out_0, out_1]: [&mut [u64]; 2],
    a: &[[&[u64]; 2]],
    c: &[&[u64]],
    log_gap: u32,
) {
    let a: [[*const u64; T]; 2] = [0, 1].map(|half| std::array::from_fn(|t| a[t][half].as_ptr()));
    let c: [&[u64]; T] = std::array::from_fn(|t| c[t]);
    for k in (0..out_0.len()).step_by(8) {
        // SAFETY: k + 8 is at most the common length, and each c covers the same entries.
        unsafe {
            let (mut shared, mut values) = ([_mm512_setzero_si512(); T], [[_mm512_setzero_si512(); T]; 2]);
            for t in 0..T {
                shared[t] = runs(c[t], k, log_gap);
                values[0][t] = load(a[0][t].add(k));
                values[1][t] = load(a[1][t].add(k));
            }
            let (to_0, to_1) = (out_0.as_mut_ptr().add(k), out_1.as_mut_ptr().add(k));
            let sums = if add { [load(to_0), load(to_1)] } else { [_mm512_setzero_si512(); 2] };
            let sums = dot_pair(m, sums, shared, values);
            store(to_0, sums[0]);
            store(to_1, sums[1]);
        }
    }
}

#[target_feature(enable = "avx512f,avx512ifma,avx512dq,avx512vl,avx512bw")]
pub(super) fn tensor(q: Modulus, out: [&mut [u64]; 3], a: &[[&[u64]; 2]], b: &[[&[u64]; 2]]) {
    let (m, [out_0, out_1, out_2]) = (Lanes::new(q), out);
    let len = out_0.len();
    assert!(whole(len) && out_1.len() == len && out_2.len() == len && a.len() == b.len() && a.len() <= MAX_TERMS / 2);
    assert!(a.iter().chain(b).flatten().all(|s| s.len() == len));
    if a.is_empty() {
        [out_0, out_1, out_2].into_iter().for_each(|out| out.fill(0));
        return;
    }
    for (pass, (a, b)) in a.chunks(PASS).zip(b.chunks(PASS)).enumerate() {
        by_count!(a.len(), add_tensor(m, pass > 0, [&mut *out_0, &mut *out_1, &mut *out_2], a, b));
    }
}

/// The three sums over P pairs, added to the outputs when `add`; the caller has checked all lengths. The middle sum takes
/// two products of each pair.
#[target_feature(enable = "avx512f,avx512ifma,avx512dq,avx512vl,avx512bw")]
fn add_tensor<const P: usize>(m: Lanes, add: bool, out: [&mut [u64]; 3], a: &[[&[u64]; 2]], b: &[[&[u64]; 2]]) {
    let len = out[0].len();
    let out = out.map(|out| out.as_mut_ptr());
    let [a, b]: [[[*const u64; 2]; P]; 2] = [a, b].map(|side| std::array::from_fn(|i| side[i].map(<[u64]>::as_ptr)));
    for k in (0..len).step_by(8) {
        // SAFETY: k + 8 is at most the common length.
        unsafe {
            let (mut high, mut low) = ([_mm512_setzero_si512(); 3], [_mm512_setzero_si512(); 3]);
            for i in 0..if add { 3 } else { 0 } {
                low[i] = load(out[i].add(k));
            }
            for (a, b) in a.iter().zip(&b) {
                let (x_0, x_1, y_0, y_1) = (load(a[0].add(k)), load(a[1].add(k)), load(b[0].add(k)), load(b[1].add(k)));
                for (sum, x, y) in [(0, x_0, y_0), (1, x_0, y_1), (1, x_1, y_0), (2, x_1, y_1)] {
                    high[sum] = _mm512_madd52hi_epu64(high[sum], x, y);
                    low[sum] = _mm512_madd52lo_epu64(low[sum], x, y);
                }
            }
            for i in 0..3 {
                store(out[i].add(k), m.reduce_sum(high[i], low[i]));
            }
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
    // The quotients are one more term; side by side, the factors of a term are a short run of memory.
    let sources: Vec<*const u64> = std::iter::once(&quotients).chain(y).map(|s| s.as_ptr()).collect();
    let mut factors = vec![targets.each_ref().map(|target| target.correction)];
    factors.extend((0..y.len()).map(|i| targets.each_ref().map(|target| target.weights[i])));
    let mut lanes = [Lanes::new(targets[0].q); T];
    for t in 0..T {
        lanes[t] = Lanes::new(targets[t].q);
    }
    let out = targets.each_mut().map(|target| target.out.as_mut_ptr());
    let len = quotients.len();
    let even = len & !15;
    // SAFETY: sources and outputs have `len` entries, a multiple of 8.
    unsafe {
        for k in (0..even).step_by(16) {
            lift_block::<T, 2>(k, &sources, &factors, lanes, out);
        }
        for k in (even..len).step_by(8) {
            lift_block::<T, 1>(k, &sources, &factors, lanes, out);
        }
    }
}

/// W vectors of T targets from entry k on.
///
/// # Safety
/// Sources and outputs hold entries k to k + 8 * W - 1.
#[inline]
#[target_feature(enable = "avx512f,avx512ifma,avx512dq,avx512vl,avx512bw")]
unsafe fn lift_block<const T: usize, const W: usize>(
    k: usize,
    sources: &[*const u64],
    factors: &[[u64; T]],
    lanes: [Lanes; T],
    out: [*mut u64; T],
) {
    let zero = _mm512_setzero_si512();
    let mut low = [[zero; W]; T];
    for (sources, factors) in sources.chunks(GROUP).zip(factors.chunks(GROUP)) {
        let mut high = [[zero; W]; T];
        for (source, factors) in sources.iter().zip(factors) {
            let mut y = [zero; W];
            for (v, y) in y.iter_mut().enumerate() {
                let from = source.wrapping_add(k + 8 * v);
                _mm_prefetch::<_MM_HINT_T0>(from.wrapping_add(PREFETCH).cast());
                // SAFETY: by the contract of this function.
                *y = unsafe { load(from) };
            }
            for t in 0..T {
                let factor = splat(factors[t]);
                for v in 0..W {
                    high[t][v] = _mm512_madd52hi_epu64(high[t][v], y[v], factor);
                    low[t][v] = _mm512_madd52lo_epu64(low[t][v], y[v], factor);
                }
            }
        }
        for t in 0..T {
            for v in 0..W {
                low[t][v] = lanes[t].reduce_sum(high[t][v], low[t][v]);
            }
        }
    }
    for t in 0..T {
        for (v, &value) in low[t].iter().enumerate() {
            // SAFETY: by the contract of this function.
            unsafe { store(out[t].add(k + 8 * v), value) };
        }
    }
}
