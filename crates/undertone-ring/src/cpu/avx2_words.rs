//! Products over Z_2^64 with AVX2: 16-bit multiply-adds over digits, 64-bit multiplications from 32-bit ones.

use std::arch::x86_64::*;

use crate::words::{DIGIT_BITS, DIGITS, GROUP, Operand, WordKernels, extents};

/// Weights of one vector: half a group.
const LANES: usize = 16;
/// Vectors between widenings: 30 sums of two products, each at most 2^25 in magnitude, stay below 2^31.
const BLOCK: usize = 30;

/// Proof that the processor has the instructions: only [`Avx2Words::detect`] makes one.
pub(super) struct Avx2Words(());

impl Avx2Words {
    /// The kernels, when this processor supports them.
    pub(super) fn detect() -> Option<Self> {
        is_x86_feature_detected!("avx2").then_some(Self(()))
    }
}

impl WordKernels for Avx2Words {
    fn name(&self) -> &'static str {
        "avx2"
    }

    fn operand<'a>(&self, words: &'a [u64], cols: usize) -> Operand<'a> {
        Operand::cut(words, cols)
    }

    fn product_i16(&self, out: &mut [u64], weights: &[i16], words: &Operand<'_>) {
        // SAFETY: `Avx2Words` exists only where `detect` found the feature that the kernels enable.
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

#[target_feature(enable = "avx2")]
fn product_i16(out: &mut [u64], weights: &[i16], words: &Operand<'_>) {
    let cols = words.cols;
    let (rows, tokens) = extents(out.len(), weights.len(), words.words.len(), cols);
    for row in 0..rows {
        let weights = &weights[row * cols..(row + 1) * cols];
        for token in 0..tokens {
            out[row * tokens + token] = row_i16(weights, words.token(token));
        }
    }
}

/// The inner product of a row of weights with the digits of one token.
#[inline]
#[target_feature(enable = "avx2")]
fn row_i16(weights: &[i16], digits: &[i16]) -> u64 {
    let vectors = weights.len().div_ceil(LANES);
    assert!(digits.len() == weights.len().div_ceil(GROUP) * DIGITS * GROUP);
    let mut tail = [0i16; LANES];
    let whole = weights.len() / LANES;
    tail[..weights.len() % LANES].copy_from_slice(&weights[whole * LANES..]);
    let mut total = _mm256_setzero_si256();
    let mut first = 0;
    while first < vectors {
        let last = (first + BLOCK).min(vectors);
        let mut sums = [_mm256_setzero_si256(); DIGITS];
        for vector in first..last {
            let from = if vector < whole { weights[vector * LANES..].as_ptr() } else { tail.as_ptr() };
            let start = vector / 2 * DIGITS * GROUP + vector % 2 * LANES;
            // SAFETY: 16 weights from a whole vector or from the padded tail, and 16 digits inside each run of a group.
            unsafe {
                let w = _mm256_loadu_si256(from.cast());
                for (k, sum) in sums.iter_mut().enumerate() {
                    let cut = _mm256_loadu_si256(digits.as_ptr().add(start + k * GROUP).cast());
                    *sum = _mm256_add_epi32(*sum, _mm256_madd_epi16(w, cut));
                }
            }
        }
        total = _mm256_add_epi64(total, widened(&sums));
        first = last;
    }
    reduced(total)
}

/// The sum over digits of `sums_k 2^(11 k)`, in 64-bit lanes.
#[inline]
#[target_feature(enable = "avx2")]
fn widened(sums: &[__m256i; DIGITS]) -> __m256i {
    let mut total = _mm256_setzero_si256();
    for sum in sums.iter().rev() {
        let low = _mm256_cvtepi32_epi64(_mm256_castsi256_si128(*sum));
        let high = _mm256_cvtepi32_epi64(_mm256_extracti128_si256::<1>(*sum));
        total = _mm256_slli_epi64::<{ DIGIT_BITS as i32 }>(total);
        total = _mm256_add_epi64(total, _mm256_add_epi64(low, high));
    }
    total
}

#[inline]
#[target_feature(enable = "avx2")]
fn reduced(lanes: __m256i) -> u64 {
    let mut words = [0u64; 4];
    // SAFETY: four words.
    unsafe { _mm256_storeu_si256(words.as_mut_ptr().cast(), lanes) };
    words.into_iter().fold(0, u64::wrapping_add)
}

/// The low 64 bits of the products of 64-bit lanes.
#[inline]
#[target_feature(enable = "avx2")]
fn mullo(a: __m256i, b: __m256i) -> __m256i {
    let cross = _mm256_mullo_epi32(a, _mm256_shuffle_epi32::<0xb1>(b));
    let cross = _mm256_add_epi64(_mm256_slli_epi64::<32>(cross), _mm256_and_si256(cross, _mm256_set1_epi64x(!0 << 32)));
    _mm256_add_epi64(_mm256_mul_epu32(a, b), cross)
}

#[target_feature(enable = "avx2")]
fn product_u64(out: &mut [u64], weights: &[u64], words: &[u64], cols: usize) {
    let (rows, tokens) = extents(out.len(), weights.len(), words.len(), cols);
    for row in 0..rows {
        let weights = &weights[row * cols..(row + 1) * cols];
        for token in 0..tokens {
            out[row * tokens + token] = row_u64(weights, &words[token * cols..(token + 1) * cols]);
        }
    }
}

#[inline]
#[target_feature(enable = "avx2")]
fn row_u64(weights: &[u64], words: &[u64]) -> u64 {
    let ((w4, w1), (y4, y1)) = (weights.as_chunks::<4>(), words.as_chunks::<4>());
    let mut sum = _mm256_setzero_si256();
    for (w, y) in w4.iter().zip(y4) {
        // SAFETY: chunks of four words.
        let (w, y) = unsafe { (_mm256_loadu_si256(w.as_ptr().cast()), _mm256_loadu_si256(y.as_ptr().cast())) };
        sum = _mm256_add_epi64(sum, mullo(w, y));
    }
    let rest = w1.iter().zip(y1).fold(0u64, |sum, (w, y)| sum.wrapping_add(w.wrapping_mul(*y)));
    reduced(sum).wrapping_add(rest)
}

#[target_feature(enable = "avx2")]
fn combine_u64(out: &mut [u64], coefficients: &[u64], rows: &[u64]) {
    let cols = out.len();
    assert!(rows.len() == coefficients.len() * cols, "one row of {cols} per coefficient");
    let (whole, rest) = out.as_chunks_mut::<4>();
    for (i, out) in whole.iter_mut().enumerate() {
        // SAFETY: four words of `out`, and of each row those at the same columns.
        unsafe {
            let mut sum = _mm256_loadu_si256(out.as_ptr().cast());
            for (r, &coefficient) in coefficients.iter().enumerate() {
                let row = _mm256_loadu_si256(rows.as_ptr().add(r * cols + 4 * i).cast());
                sum = _mm256_add_epi64(sum, mullo(row, _mm256_set1_epi64x(coefficient as i64)));
            }
            _mm256_storeu_si256(out.as_mut_ptr().cast(), sum);
        }
    }
    let first = cols - rest.len();
    for (c, out) in rest.iter_mut().enumerate() {
        for (r, &coefficient) in coefficients.iter().enumerate() {
            *out = out.wrapping_add(coefficient.wrapping_mul(rows[r * cols + first + c]));
        }
    }
}
