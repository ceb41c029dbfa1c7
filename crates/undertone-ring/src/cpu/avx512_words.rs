//! Products over Z_2^64 with AVX-512: 16-bit multiply-adds over digits (VNNI), 64-bit multiplications (DQ).

use std::arch::x86_64::*;

use crate::words::{DIGIT_BITS, DIGITS, GROUP, Operand, WordKernels, extents};

/// Groups between widenings: 31 sums of two products, each at most 2^25 in magnitude, stay below 2^31.
const BLOCK: usize = 31;

/// Proof that the processor has the instructions: only [`Avx512Words::detect`] makes one.
pub(super) struct Avx512Words(());

impl Avx512Words {
    /// The kernels, when this processor supports them.
    pub(super) fn detect() -> Option<Self> {
        let supported = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vnni");
        supported.then_some(Self(()))
    }
}

impl WordKernels for Avx512Words {
    fn name(&self) -> &'static str {
        "avx512"
    }

    fn operand<'a>(&self, words: &'a [u64], cols: usize) -> Operand<'a> {
        Operand::cut(words, cols)
    }

    fn product_i16(&self, out: &mut [u64], weights: &[i16], words: &Operand<'_>) {
        // SAFETY: `Avx512Words` exists only where `detect` found every feature that the kernels enable.
        unsafe { product_i16(out, weights, words) }
    }

    fn product_u64(&self, out: &mut [u64], weights: &[u64], words: &[u64], cols: usize) {
        // SAFETY: as above.
        unsafe { product_u64(out, weights, words, cols) }
    }

    fn combine_u64(&self, out: &mut [u64], coefficients: &[u64], rows: &[u64]) {
        // SAFETY: as above.
        unsafe { combine_u64(out, coefficients, rows) }
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vnni")]
fn product_i16(out: &mut [u64], weights: &[i16], words: &Operand<'_>) {
    let cols = words.cols;
    let (rows, tokens) = extents(out.len(), weights.len(), words.words.len(), cols);
    let mut row = 0;
    // Four rows at a time share the loads of digits; their 24 sums, six digits and one weight fill the registers.
    while row < rows {
        let taken = if rows - row >= 4 { 4 } else { 1 };
        let weights = &weights[row * cols..(row + taken) * cols];
        for token in 0..tokens {
            let digits = words.token(token);
            if taken == 4 {
                let sums = rows_i16::<4>(weights, digits, cols);
                (0..4).for_each(|i| out[(row + i) * tokens + token] = sums[i]);
            } else {
                out[row * tokens + token] = rows_i16::<1>(weights, digits, cols)[0];
            }
        }
        row += taken;
    }
}

/// Inner products of R rows of weights with the digits of one token.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vnni")]
fn rows_i16<const R: usize>(weights: &[i16], digits: &[i16], cols: usize) -> [u64; R] {
    let groups = cols.div_ceil(GROUP);
    assert!(weights.len() == R * cols && digits.len() == groups * DIGITS * GROUP);
    let whole = cols / GROUP;
    let tail: __mmask32 = (1u32 << (cols % GROUP)) - 1;
    let mut totals = [_mm512_setzero_si512(); R];
    let mut first = 0;
    while first < groups {
        let last = (first + BLOCK).min(groups);
        let mut sums = [[_mm512_setzero_si512(); DIGITS]; R];
        for group in first..last {
            let mask = if group < whole { !0 } else { tail };
            let mut cut = [_mm512_setzero_si512(); DIGITS];
            for (k, cut) in cut.iter_mut().enumerate() {
                // SAFETY: `digits` holds DIGITS runs of GROUP entries for every group, as asserted.
                *cut = unsafe { _mm512_loadu_si512(digits.as_ptr().add((group * DIGITS + k) * GROUP).cast()) };
            }
            for (r, sums) in sums.iter_mut().enumerate() {
                // SAFETY: the mask keeps the load inside row r: it is full only for whole groups.
                let w = unsafe { _mm512_maskz_loadu_epi16(mask, weights.as_ptr().add(r * cols + group * GROUP)) };
                for (sum, cut) in sums.iter_mut().zip(&cut) {
                    *sum = _mm512_dpwssd_epi32(*sum, w, *cut);
                }
            }
        }
        for (total, sums) in totals.iter_mut().zip(&sums) {
            *total = _mm512_add_epi64(*total, widened(sums));
        }
        first = last;
    }
    totals.map(|total| _mm512_reduce_add_epi64(total) as u64)
}

/// The sum over digits of `sums_k 2^(11 k)`, in 64-bit lanes.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vnni")]
fn widened(sums: &[__m512i; DIGITS]) -> __m512i {
    let mut total = _mm512_setzero_si512();
    for sum in sums.iter().rev() {
        let low = _mm512_srai_epi64::<32>(_mm512_slli_epi64::<32>(*sum));
        let both = _mm512_add_epi64(low, _mm512_srai_epi64::<32>(*sum));
        total = _mm512_add_epi64(_mm512_slli_epi64::<DIGIT_BITS>(total), both);
    }
    total
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vnni")]
fn product_u64(out: &mut [u64], weights: &[u64], words: &[u64], cols: usize) {
    let (rows, tokens) = extents(out.len(), weights.len(), words.len(), cols);
    for row in 0..rows {
        let weights = &weights[row * cols..(row + 1) * cols];
        let mut token = 0;
        while token < tokens {
            let taken = if tokens - token >= 4 { 4 } else { 1 };
            let words = &words[token * cols..(token + taken) * cols];
            let to = &mut out[row * tokens + token..row * tokens + token + taken];
            if taken == 4 {
                to.copy_from_slice(&tokens_u64::<4>(weights, words));
            } else {
                to.copy_from_slice(&tokens_u64::<1>(weights, words));
            }
            token += taken;
        }
    }
}

/// Inner products of one row of weights with T rows of words.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vnni")]
fn tokens_u64<const T: usize>(weights: &[u64], words: &[u64]) -> [u64; T] {
    let cols = weights.len();
    assert!(words.len() == T * cols);
    let mut sums = [_mm512_setzero_si512(); T];
    for c in (0..cols).step_by(8) {
        let mask: __mmask8 = if cols - c >= 8 { !0 } else { (1u8 << (cols - c)) - 1 };
        // SAFETY: the mask keeps both loads inside their rows of `cols` words.
        let w = unsafe { _mm512_maskz_loadu_epi64(mask, weights.as_ptr().add(c).cast()) };
        for (t, sum) in sums.iter_mut().enumerate() {
            // SAFETY: as above.
            let y = unsafe { _mm512_maskz_loadu_epi64(mask, words.as_ptr().add(t * cols + c).cast()) };
            *sum = _mm512_add_epi64(*sum, _mm512_mullo_epi64(w, y));
        }
    }
    sums.map(|sum| _mm512_reduce_add_epi64(sum) as u64)
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vnni")]
fn combine_u64(out: &mut [u64], coefficients: &[u64], rows: &[u64]) {
    let cols = out.len();
    assert!(rows.len() == coefficients.len() * cols, "one row of {cols} per coefficient");
    for c in (0..cols).step_by(8) {
        let mask: __mmask8 = if cols - c >= 8 { !0 } else { (1u8 << (cols - c)) - 1 };
        // SAFETY: the mask keeps every load and the store inside rows of `cols` words.
        unsafe {
            let mut sum = _mm512_maskz_loadu_epi64(mask, out.as_ptr().add(c).cast());
            for (r, &coefficient) in coefficients.iter().enumerate() {
                let row = _mm512_maskz_loadu_epi64(mask, rows.as_ptr().add(r * cols + c).cast());
                let product = _mm512_mullo_epi64(row, _mm512_set1_epi64(coefficient as i64));
                sum = _mm512_add_epi64(sum, product);
            }
            _mm512_mask_storeu_epi64(out.as_mut_ptr().add(c).cast(), mask, sum);
        }
    }
}
