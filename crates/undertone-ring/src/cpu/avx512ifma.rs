//! The AVX-512 IFMA backend; lengths that are not multiples of 8 go to the scalar kernels, which agree bit for bit.

use std::arch::x86_64::*;

use super::avx512ifma_lane::{Lanes, V, load, splat, store};
use super::avx512ifma_matrix::matrix_product;
use super::avx512ifma_packed::unpack;
use super::avx512ifma_sums::{inner_product_pair, inner_product_runs, lift_combine, lift_quotients, tensor};
use super::scalar::Scalar;
use super::{avx512_chacha, avx512_fourier, avx512ifma_ntt_forward, avx512ifma_ntt_inverse};
use crate::{Backend, FourierTable, LiftTarget, Modulus, NttTable, Packed, Permutation};

/// Proof that the processor has the instructions: only [`Avx512Ifma::detect`] makes one.
pub(super) struct Avx512Ifma(());

impl Avx512Ifma {
    /// The backend, when this processor supports it.
    pub(super) fn detect() -> Option<Self> {
        let supported = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512ifma")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512vbmi");
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
pub(super) fn whole(len: usize) -> bool {
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
pub(super) unsafe fn runs(c: &[u64], k: usize, log_gap: u32) -> V {
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
fn split_symmetric(q: Modulus, first: &mut [u64], second: &mut [u64], half: u64, quarter: u64) {
    let (m, n) = (Lanes::new(q), first.len());
    let (half, half_shoup, quarter, quarter_shoup) =
        (splat(half), splat(q.shoup(half)), splat(quarter), splat(q.shoup(quarter)));
    let reverse = _mm512_setr_epi64(7, 6, 5, 4, 3, 2, 1, 0);
    assert!(whole(n / 2) && second.len() == n);
    for k in (0..n / 2).step_by(8) {
        // SAFETY: k + 8 is at most n/2, so both blocks of eight lie in both slices.
        unsafe {
            let (low, high) = (first.as_mut_ptr().add(k), first.as_mut_ptr().add(n - 8 - k));
            let (a, b) = (load(low), _mm512_permutexvar_epi64(reverse, load(high)));
            let x = m.fold(m.mul_lazy(_mm512_add_epi64(a, b), half, half_shoup), m.q);
            let difference = _mm512_sub_epi64(_mm512_add_epi64(a, m.q), b);
            let y = m.fold(m.mul_lazy(difference, quarter, quarter_shoup), m.q);
            store(low, x);
            store(high, _mm512_permutexvar_epi64(reverse, x));
            store(second.as_mut_ptr().add(k), y);
            store(second.as_mut_ptr().add(n - 8 - k), _mm512_permutexvar_epi64(reverse, y));
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
        kernel!(avx512ifma_ntt_forward::forward(table, data))
    }

    fn intt(&self, table: &NttTable, data: &mut [u64], scale: u64) {
        kernel!(avx512ifma_ntt_inverse::inverse(table, data, None, scale))
    }

    fn intt_of(&self, table: &NttTable, out: &mut [u64], a: &[u64], scale: u64) {
        kernel!(avx512ifma_ntt_inverse::inverse(table, out, Some(a), scale))
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

    fn unpack(&self, out: &mut [u64], packed: Packed<'_>) {
        if !whole(out.len()) {
            return Scalar.unpack(out, packed);
        }
        kernel!(unpack(out, packed))
    }

    fn inner_product_pair(&self, q: Modulus, out: [&mut [u64]; 2], a: &[&[u64]], b: [&[Packed<'_>]; 2]) {
        if !whole(out[0].len()) {
            return Scalar.inner_product_pair(q, out, a, b);
        }
        kernel!(inner_product_pair(q, out, a, b))
    }

    fn inner_product_runs(&self, q: Modulus, out: [&mut [u64]; 2], a: &[[&[u64]; 2]], c: &[&[u64]], log_gap: u32) {
        if !whole(out[0].len()) {
            return Scalar.inner_product_runs(q, out, a, c, log_gap);
        }
        kernel!(inner_product_runs(q, out, a, c, log_gap))
    }

    fn tensor(&self, q: Modulus, out: [&mut [u64]; 3], a: &[[&[u64]; 2]], b: &[[&[u64]; 2]]) {
        if !whole(out[0].len()) {
            return Scalar.tensor(q, out, a, b);
        }
        kernel!(tensor(q, out, a, b))
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

    fn matrix_product(&self, q: Modulus, out: &mut [u64], left: &[u64], right: &[u64], inner: usize, shared: bool) {
        kernel!(matrix_product(q, out, left, right, inner, shared))
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

    fn split_symmetric(&self, q: Modulus, first: &mut [u64], second: &mut [u64], half: u64, quarter: u64) {
        if !whole(first.len() / 2) {
            return Scalar.split_symmetric(q, first, second, half, quarter);
        }
        kernel!(split_symmetric(q, first, second, half, quarter))
    }

    fn fourier(&self, table: &FourierTable, re: &mut [f64], im: &mut [f64], scratch: &mut [f64]) {
        kernel!(avx512_fourier::fourier(table, re, im, scratch))
    }

    fn chacha8(&self, key: &[u8; 32], nonce: &[u8; 12], first: u32, out: &mut [u64]) {
        let (whole, rest) = out.split_at_mut(out.len() / avx512_chacha::STRIDE * avx512_chacha::STRIDE);
        let word = |bytes: &[u8]| u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
        let key_words = std::array::from_fn(|i| word(&key[4 * i..]));
        let nonce_words = std::array::from_fn(|i| word(&nonce[4 * i..]));
        kernel!(avx512_chacha::chacha8(&key_words, &nonce_words, first, whole));
        if !rest.is_empty() {
            Scalar.chacha8(key, nonce, first + (whole.len() / 8) as u32, rest);
        }
    }

    fn sample_uniform(&self, q: Modulus, out: &mut [u64], words: &[u64]) -> (usize, usize) {
        kernel!(sample_uniform(q, out, words))
    }
}
