//! The AVX-512 IFMA backend; lengths that are not multiples of 8 go to the scalar kernels, which agree bit for bit.

use std::arch::x86_64::*;

use super::avx512ifma_lane::{Lanes, V, load, splat, store};
use super::avx512ifma_ntt;
use super::scalar::Scalar;
use crate::{Backend, LiftTarget, Modulus, NttTable, Permutation};

/// Proof that the processor has the instructions: only [`Avx512Ifma::detect`] makes one.
pub(super) struct Avx512Ifma(());

impl Avx512Ifma {
    /// The backend, when this processor supports it.
    pub(super) fn detect() -> Option<Self> {
        let supported = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512ifma")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx512bw");
        supported.then_some(Self(()))
    }
}

/// Calls a kernel whose features the existence of `self` proves.
macro_rules! kernel {
    ($call:expr) => {
        // SAFETY: `Avx512Ifma` exists only where `detect` found every feature that the kernels enable.
        unsafe { $call }
    };
}

/// Kernels take whole vectors; other lengths are rare and small.
fn whole(len: usize) -> bool {
    len.is_multiple_of(8)
}

/// acc[k] = f(acc[k], a[k], b[k], c[k]) over whole vectors; operands not needed repeat an earlier one.
macro_rules! map {
    ($acc:ident $(, $a:ident)*; $f:expr) => {{
        $(assert!($a.len() == $acc.len());)*
        assert!(whole($acc.len()));
        for k in (0..$acc.len()).step_by(8) {
            // SAFETY: k + 8 is at most the common length, a multiple of 8.
            unsafe {
                let value = $f(load($acc.as_ptr().add(k)) $(, load($a.as_ptr().add(k)))*);
                store($acc.as_mut_ptr().add(k), value);
            }
        }
    }};
}

#[target_feature(enable = "avx512f,avx512ifma,avx512dq,avx512vl,avx512bw")]
fn add(q: Modulus, acc: &mut [u64], a: &[u64]) {
    let m = Lanes::new(q);
    map!(acc, a; |x, a| m.add(x, a));
}

#[target_feature(enable = "avx512f,avx512ifma,avx512dq,avx512vl,avx512bw")]
fn sub(q: Modulus, acc: &mut [u64], a: &[u64]) {
    let m = Lanes::new(q);
    map!(acc, a; |x, a| m.sub(x, a));
}

#[target_feature(enable = "avx512f,avx512ifma,avx512dq,avx512vl,avx512bw")]
fn neg(q: Modulus, acc: &mut [u64]) {
    let m = Lanes::new(q);
    map!(acc; |x| m.sub(_mm512_setzero_si512(), x));
}

#[target_feature(enable = "avx512f,avx512ifma,avx512dq,avx512vl,avx512bw")]
fn mul(q: Modulus, out: &mut [u64], a: &[u64], b: &[u64]) {
    let m = Lanes::new(q);
    map!(out, a, b; |_, a, b| m.mul(a, b));
}

#[target_feature(enable = "avx512f,avx512ifma,avx512dq,avx512vl,avx512bw")]
fn mul_assign(q: Modulus, acc: &mut [u64], a: &[u64]) {
    let m = Lanes::new(q);
    map!(acc, a; |x, a| m.mul(x, a));
}

#[target_feature(enable = "avx512f,avx512ifma,avx512dq,avx512vl,avx512bw")]
fn mul_add(q: Modulus, acc: &mut [u64], a: &[u64], b: &[u64]) {
    let m = Lanes::new(q);
    map!(acc, a, b; |x, a, b| m.mul_add(a, b, x));
}

#[target_feature(enable = "avx512f,avx512ifma,avx512dq,avx512vl,avx512bw")]
fn mul_scalar(q: Modulus, acc: &mut [u64], c: u64) {
    let (m, w, shoup) = (Lanes::new(q), splat(c), splat(q.shoup(c)));
    map!(acc; |x| m.fold(m.mul_lazy(x, w, shoup), m.q));
}

#[target_feature(enable = "avx512f,avx512ifma,avx512dq,avx512vl,avx512bw")]
fn add_scalar(q: Modulus, acc: &mut [u64], c: u64) {
    let (m, c) = (Lanes::new(q), splat(c));
    map!(acc; |x| m.add(x, c));
}

#[target_feature(enable = "avx512f,avx512ifma,avx512dq,avx512vl,avx512bw")]
fn mul_scalar_add(q: Modulus, acc: &mut [u64], a: &[u64], c: u64) {
    let (m, w, shoup) = (Lanes::new(q), splat(c), splat(q.shoup(c)));
    map!(acc, a; |x, a| m.reduce_4q(_mm512_add_epi64(x, m.mul_lazy(a, w, shoup))));
}

#[target_feature(enable = "avx512f,avx512ifma,avx512dq,avx512vl,avx512bw")]
fn sub_mul_scalar(q: Modulus, acc: &mut [u64], a: &[u64], c: u64) {
    let (m, w, shoup) = (Lanes::new(q), splat(c), splat(q.shoup(c)));
    map!(acc, a; |x, a| {
        let difference = _mm512_sub_epi64(_mm512_add_epi64(x, m.q), a);
        m.fold(m.mul_lazy(difference, w, shoup), m.q)
    });
}

/// Calls `sink(k, values)` with the permuted values of each block of eight.
macro_rules! permuted {
    ($out:ident, $a:ident, $permutation:ident; $f:expr) => {{
        assert!($out.len() == $permutation.degree() && $a.len() == $permutation.degree());
        let lanes = $permutation.lanes().each_ref();
        for (block, &packed) in $permutation.blocks().iter().enumerate() {
            // SAFETY: a permutation of degree N holds N/8 source blocks, each below N/8.
            unsafe {
                let from = load($a.as_ptr().add((packed >> 3) as usize * 8));
                let order = load(lanes[(packed & 7) as usize].as_ptr());
                let to = $out.as_mut_ptr().add(8 * block);
                let value = $f(load(to), _mm512_permutexvar_epi64(order, from));
                store(to, value);
            }
        }
    }};
}

#[target_feature(enable = "avx512f,avx512ifma,avx512dq,avx512vl,avx512bw")]
fn permute(out: &mut [u64], a: &[u64], permutation: &Permutation) {
    permuted!(out, a, permutation; |_, a| a);
}

#[target_feature(enable = "avx512f,avx512ifma,avx512dq,avx512vl,avx512bw")]
fn permute_add(q: Modulus, acc: &mut [u64], a: &[u64], permutation: &Permutation) {
    let m = Lanes::new(q);
    permuted!(acc, a, permutation; |x, a| m.add(x, a));
}

/// The most terms of one call.
const MAX_TERMS: usize = 1 << 10;

/// Products below 2^100 that may be summed, with some small change, before the sum reaches 2^104.
const GROUP: usize = 15;

/// The sum of a_d[k] * b_d[k] plus the reduced `start`, fully reduced.
///
/// # Safety
/// Every slice holds at least k + 8 words.
#[inline]
#[target_feature(enable = "avx512f,avx512ifma,avx512dq,avx512vl,avx512bw")]
unsafe fn dot(m: Lanes, a: &[&[u64]], b: &[&[u64]], k: usize, start: V) -> V {
    let mut sum = start;
    for (a, b) in a.chunks(GROUP).zip(b.chunks(GROUP)) {
        let (mut high, mut low) = (_mm512_setzero_si512(), sum);
        for (a, b) in a.iter().zip(b) {
            // SAFETY: by the contract of this function.
            let (x, y) = unsafe { (load(a.as_ptr().add(k)), load(b.as_ptr().add(k))) };
            high = _mm512_madd52hi_epu64(high, x, y);
            low = _mm512_madd52lo_epu64(low, x, y);
        }
        sum = m.reduce_sum(high, low);
    }
    sum
}

fn check_terms(len: usize, a: &[&[u64]], b: &[&[u64]]) {
    assert!(whole(len) && a.len() == b.len() && a.len() <= MAX_TERMS);
    assert!(a.iter().chain(b).all(|s| s.len() == len));
}

#[target_feature(enable = "avx512f,avx512ifma,avx512dq,avx512vl,avx512bw")]
fn inner_product(q: Modulus, acc: &mut [u64], a: &[&[u64]], b: &[&[u64]], accumulate: bool) {
    let m = Lanes::new(q);
    check_terms(acc.len(), a, b);
    for k in (0..acc.len()).step_by(8) {
        // SAFETY: k + 8 is at most the common length.
        unsafe {
            let start = if accumulate { load(acc.as_ptr().add(k)) } else { _mm512_setzero_si512() };
            store(acc.as_mut_ptr().add(k), dot(m, a, b, k, start));
        }
    }
}

#[target_feature(enable = "avx512f,avx512ifma,avx512dq,avx512vl,avx512bw")]
fn inner_product_pair(q: Modulus, acc: [&mut [u64]; 2], a: &[&[u64]], b: [&[&[u64]]; 2], accumulate: bool) {
    let m = Lanes::new(q);
    let zero = _mm512_setzero_si512();
    let [acc_0, acc_1] = acc;
    check_terms(acc_0.len(), a, b[0]);
    check_terms(acc_1.len(), a, b[1]);
    assert!(acc_0.len() == acc_1.len());
    for k in (0..acc_0.len()).step_by(8) {
        // SAFETY: k + 8 is at most the common length.
        unsafe {
            let (p_0, p_1) = (acc_0.as_mut_ptr().add(k), acc_1.as_mut_ptr().add(k));
            let (mut sum_0, mut sum_1) = if accumulate { (load(p_0), load(p_1)) } else { (zero, zero) };
            for ((a, b_0), b_1) in a.chunks(GROUP).zip(b[0].chunks(GROUP)).zip(b[1].chunks(GROUP)) {
                let (mut high_0, mut low_0, mut high_1, mut low_1) = (zero, sum_0, zero, sum_1);
                for ((a, b_0), b_1) in a.iter().zip(b_0).zip(b_1) {
                    let x = load(a.as_ptr().add(k));
                    let (y_0, y_1) = (load(b_0.as_ptr().add(k)), load(b_1.as_ptr().add(k)));
                    high_0 = _mm512_madd52hi_epu64(high_0, x, y_0);
                    low_0 = _mm512_madd52lo_epu64(low_0, x, y_0);
                    high_1 = _mm512_madd52hi_epu64(high_1, x, y_1);
                    low_1 = _mm512_madd52lo_epu64(low_1, x, y_1);
                }
                (sum_0, sum_1) = (m.reduce_sum(high_0, low_0), m.reduce_sum(high_1, low_1));
            }
            store(p_0, sum_0);
            store(p_1, sum_1);
        }
    }
}

#[target_feature(enable = "avx512f,avx512ifma,avx512dq,avx512vl,avx512bw")]
fn lift_quotients(out: &mut [u64], y: &[&[u64]], reciprocals: &[f64]) {
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
fn lift_combine(y: &[&[u64]], quotients: &[u64], targets: &mut [LiftTarget<'_>]) {
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

#[target_feature(enable = "avx512f,avx512ifma,avx512dq,avx512vl,avx512bw")]
fn switch_modulus(from: Modulus, to: Modulus, out: &mut [u64], a: &[u64]) {
    let m = Lanes::new(to);
    // a above from/2 stands for a - from: add the residue of -from there, and reduce a itself lazily.
    let (half, shift) = (splat(from.value() / 2), splat(to.neg(to.reduce(from.value()))));
    map!(out, a; |_, a| {
        let negative = _mm512_cmpgt_epu64_mask(a, half);
        m.reduce_4q(_mm512_mask_add_epi64(m.reduce_lazy(a), negative, m.reduce_lazy(a), shift))
    });
}

/// The values of runs of 2^log_gap entries at entry k: a whole vector of c, a shuffle of part of one, or one value.
///
/// # Safety
/// `c` covers entry k + 7; k is a multiple of 8.
#[inline]
#[target_feature(enable = "avx512f,avx512ifma,avx512dq,avx512vl,avx512bw")]
unsafe fn runs(c: &[u64], k: usize, log_gap: u32) -> V {
    // SAFETY: by the contract of this function.
    unsafe {
        let p = c.as_ptr().add(k >> log_gap);
        match log_gap {
            0 => load(p),
            1 => {
                let order = _mm512_setr_epi64(0, 0, 1, 1, 2, 2, 3, 3);
                _mm512_permutexvar_epi64(order, _mm512_castsi256_si512(_mm256_loadu_si256(p.cast())))
            }
            2 => {
                let order = _mm512_setr_epi64(0, 0, 0, 0, 1, 1, 1, 1);
                _mm512_permutexvar_epi64(order, _mm512_castsi128_si512(_mm_loadu_si128(p.cast())))
            }
            _ => splat(*p),
        }
    }
}

/// acc[k] = f(acc[k], c[k >> log_gap], a[k]) over whole vectors.
macro_rules! map_runs {
    ($acc:ident $(, $a:ident)*; $c:ident, $log_gap:ident; $f:expr) => {{
        $(assert!($a.len() == $acc.len());)*
        assert!(whole($acc.len()) && $c.len() << $log_gap == $acc.len());
        for k in (0..$acc.len()).step_by(8) {
            // SAFETY: k + 8 is at most the length, and c covers the same entries.
            unsafe {
                let to = $acc.as_mut_ptr().add(k);
                store(to, $f(load(to), runs($c, k, $log_gap) $(, load($a.as_ptr().add(k)))*));
            }
        }
    }};
}

#[target_feature(enable = "avx512f,avx512ifma,avx512dq,avx512vl,avx512bw")]
fn mul_runs(q: Modulus, acc: &mut [u64], c: &[u64], log_gap: u32) {
    let m = Lanes::new(q);
    map_runs!(acc; c, log_gap; |x, c| m.mul(x, c));
}

#[target_feature(enable = "avx512f,avx512ifma,avx512dq,avx512vl,avx512bw")]
fn mul_add_runs(q: Modulus, acc: &mut [u64], a: &[u64], c: &[u64], log_gap: u32) {
    let m = Lanes::new(q);
    map_runs!(acc, a; c, log_gap; |x, c, a| m.mul_add(a, c, x));
}

#[target_feature(enable = "avx512f,avx512ifma,avx512dq,avx512vl,avx512bw")]
fn add_runs(q: Modulus, acc: &mut [u64], c: &[u64], log_gap: u32, subtract: bool) {
    let m = Lanes::new(q);
    if subtract {
        map_runs!(acc; c, log_gap; |x, c| m.sub(x, c));
    } else {
        map_runs!(acc; c, log_gap; |x, c| m.add(x, c));
    }
}

#[target_feature(enable = "avx512f,avx512ifma,avx512dq,avx512vl,avx512bw")]
fn reduce_signed(q: Modulus, out: &mut [u64], a: &[i64]) {
    let m = Lanes::new(q);
    assert!(whole(out.len()) && a.len() == out.len());
    for k in (0..out.len()).step_by(8) {
        // SAFETY: k + 8 is at most the common length.
        unsafe {
            let a = _mm512_loadu_si512(a.as_ptr().add(k).cast());
            let size = _mm512_abs_epi64(a);
            let r = m.reduce_wide(_mm512_srli_epi64::<52>(size), _mm512_and_si512(size, m.mask));
            let negated = m.sub(_mm512_setzero_si512(), r);
            store(out.as_mut_ptr().add(k), _mm512_mask_mov_epi64(r, _mm512_movepi64_mask(a), negated));
        }
    }
}

#[target_feature(enable = "avx512f,avx512ifma,avx512dq,avx512vl,avx512bw")]
fn sample_uniform(q: Modulus, out: &mut [u64], words: &[u64]) -> (usize, usize) {
    let m = Lanes::new(q);
    let threshold = splat((1 << 52) % q.value());
    let zero = _mm512_setzero_si512();
    let (mut used, mut made) = (0, 0);
    while used + 8 <= words.len() && made + 8 <= out.len() {
        // SAFETY: both ranges were just checked; a compressed vector is stored whole, then partly overwritten.
        unsafe {
            let x = load(words.as_ptr().add(used));
            let low = _mm512_madd52lo_epu64(zero, x, m.q);
            let value = _mm512_madd52hi_epu64(zero, x, m.q);
            let keep = _mm512_cmpge_epu64_mask(low, threshold);
            store(out.as_mut_ptr().add(made), _mm512_maskz_compress_epi64(keep, value));
            used += 8;
            made += keep.count_ones() as usize;
        }
    }
    let (rest_used, rest_made) = Scalar.sample_uniform(q, &mut out[made..], &words[used..]);
    (used + rest_used, made + rest_made)
}

impl Backend for Avx512Ifma {
    fn name(&self) -> &'static str {
        "avx512ifma"
    }

    fn ntt(&self, table: &NttTable, data: &mut [u64]) {
        kernel!(avx512ifma_ntt::forward(table, data))
    }

    fn intt(&self, table: &NttTable, data: &mut [u64], scale: u64) {
        kernel!(avx512ifma_ntt::inverse(table, data, scale))
    }

    fn add(&self, q: Modulus, acc: &mut [u64], a: &[u64]) {
        if !whole(acc.len()) {
            return Scalar.add(q, acc, a);
        }
        kernel!(add(q, acc, a))
    }

    fn sub(&self, q: Modulus, acc: &mut [u64], a: &[u64]) {
        if !whole(acc.len()) {
            return Scalar.sub(q, acc, a);
        }
        kernel!(sub(q, acc, a))
    }

    fn neg(&self, q: Modulus, acc: &mut [u64]) {
        if !whole(acc.len()) {
            return Scalar.neg(q, acc);
        }
        kernel!(neg(q, acc))
    }

    fn mul(&self, q: Modulus, out: &mut [u64], a: &[u64], b: &[u64]) {
        if !whole(out.len()) {
            return Scalar.mul(q, out, a, b);
        }
        kernel!(mul(q, out, a, b))
    }

    fn mul_assign(&self, q: Modulus, acc: &mut [u64], a: &[u64]) {
        if !whole(acc.len()) {
            return Scalar.mul_assign(q, acc, a);
        }
        kernel!(mul_assign(q, acc, a))
    }

    fn mul_add(&self, q: Modulus, acc: &mut [u64], a: &[u64], b: &[u64]) {
        if !whole(acc.len()) {
            return Scalar.mul_add(q, acc, a, b);
        }
        kernel!(mul_add(q, acc, a, b))
    }

    fn mul_scalar(&self, q: Modulus, acc: &mut [u64], c: u64) {
        if !whole(acc.len()) {
            return Scalar.mul_scalar(q, acc, c);
        }
        kernel!(mul_scalar(q, acc, c))
    }

    fn add_scalar(&self, q: Modulus, acc: &mut [u64], c: u64) {
        if !whole(acc.len()) {
            return Scalar.add_scalar(q, acc, c);
        }
        kernel!(add_scalar(q, acc, c))
    }

    fn mul_scalar_add(&self, q: Modulus, acc: &mut [u64], a: &[u64], c: u64) {
        if !whole(acc.len()) {
            return Scalar.mul_scalar_add(q, acc, a, c);
        }
        kernel!(mul_scalar_add(q, acc, a, c))
    }

    fn sub_mul_scalar(&self, q: Modulus, acc: &mut [u64], a: &[u64], c: u64) {
        if !whole(acc.len()) {
            return Scalar.sub_mul_scalar(q, acc, a, c);
        }
        kernel!(sub_mul_scalar(q, acc, a, c))
    }

    fn permute(&self, out: &mut [u64], a: &[u64], permutation: &Permutation) {
        kernel!(permute(out, a, permutation))
    }

    fn permute_add(&self, q: Modulus, acc: &mut [u64], a: &[u64], permutation: &Permutation) {
        kernel!(permute_add(q, acc, a, permutation))
    }

    fn inner_product(&self, q: Modulus, acc: &mut [u64], a: &[&[u64]], b: &[&[u64]], accumulate: bool) {
        if !whole(acc.len()) {
            return Scalar.inner_product(q, acc, a, b, accumulate);
        }
        kernel!(inner_product(q, acc, a, b, accumulate))
    }

    fn inner_product_pair(&self, q: Modulus, acc: [&mut [u64]; 2], a: &[&[u64]], b: [&[&[u64]]; 2], accumulate: bool) {
        if !whole(acc[0].len()) {
            return Scalar.inner_product_pair(q, acc, a, b, accumulate);
        }
        kernel!(inner_product_pair(q, acc, a, b, accumulate))
    }

    fn lift_quotients(&self, out: &mut [u64], y: &[&[u64]], reciprocals: &[f64]) {
        if !whole(out.len()) {
            return Scalar.lift_quotients(out, y, reciprocals);
        }
        kernel!(lift_quotients(out, y, reciprocals))
    }

    fn lift_combine(&self, y: &[&[u64]], quotients: &[u64], targets: &mut [LiftTarget<'_>]) {
        if !whole(quotients.len()) {
            return Scalar.lift_combine(y, quotients, targets);
        }
        kernel!(lift_combine(y, quotients, targets))
    }

    fn switch_modulus(&self, from: Modulus, to: Modulus, out: &mut [u64], a: &[u64]) {
        if !whole(out.len()) {
            return Scalar.switch_modulus(from, to, out, a);
        }
        kernel!(switch_modulus(from, to, out, a))
    }

    fn mul_runs(&self, q: Modulus, acc: &mut [u64], c: &[u64], log_gap: u32) {
        if !whole(acc.len()) {
            return Scalar.mul_runs(q, acc, c, log_gap);
        }
        kernel!(mul_runs(q, acc, c, log_gap))
    }

    fn mul_add_runs(&self, q: Modulus, acc: &mut [u64], a: &[u64], c: &[u64], log_gap: u32) {
        if !whole(acc.len()) {
            return Scalar.mul_add_runs(q, acc, a, c, log_gap);
        }
        kernel!(mul_add_runs(q, acc, a, c, log_gap))
    }

    fn add_runs(&self, q: Modulus, acc: &mut [u64], c: &[u64], log_gap: u32, subtract: bool) {
        if !whole(acc.len()) {
            return Scalar.add_runs(q, acc, c, log_gap, subtract);
        }
        kernel!(add_runs(q, acc, c, log_gap, subtract))
    }

    fn reduce_signed(&self, q: Modulus, out: &mut [u64], a: &[i64]) {
        if !whole(out.len()) {
            return Scalar.reduce_signed(q, out, a);
        }
        kernel!(reduce_signed(q, out, a))
    }

    fn sample_uniform(&self, q: Modulus, out: &mut [u64], words: &[u64]) -> (usize, usize) {
        kernel!(sample_uniform(q, out, words))
    }
}
