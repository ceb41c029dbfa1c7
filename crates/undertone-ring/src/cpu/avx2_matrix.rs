//! Matrix products of residues with AVX2: 25-bit halves, whose 32-bit products are summed in 64-bit lanes.
//!
//! One pass takes at most 2^13 terms: a half product is below 2^50, and the middle sum takes two of them per term.

use std::arch::x86_64::*;

use super::MatrixShape;
use crate::{MATRIX_LANES, Modulus};

/// Terms of one pass.
const PASS: usize = 1 << 13;
/// Bits of the lower half of a residue.
const HALF: u32 = 25;
/// Words of one vector.
const WORDS: usize = 4;

/// Sums of products of halves: low by low, both mixed ones, high by high.
type Sums = [__m256i; 3];

#[target_feature(enable = "avx2")]
pub(super) fn matrix_product(q: Modulus, out: &mut [u64], left: &[u64], right: &[u64], inner: usize, shared: bool) {
    let shape = MatrixShape::of(out, left, right, inner, shared);
    for (at, out) in out.chunks_exact_mut(MATRIX_LANES).enumerate() {
        let (i, j) = (at / shape.columns, at % shape.columns);
        let right = &right[j * inner * MATRIX_LANES..][..inner * MATRIX_LANES];
        let mut total = [0u128; MATRIX_LANES];
        for first in (0..inner).step_by(PASS) {
            let count = (inner - first).min(PASS);
            let right = &right[first * MATRIX_LANES..][..count * MATRIX_LANES];
            let sums = if shared {
                entry::<true>(&left[i * inner + first..][..count], right)
            } else {
                entry::<false>(&left[(i * inner + first) * MATRIX_LANES..][..count * MATRIX_LANES], right)
            };
            for (half, sums) in sums.into_iter().enumerate() {
                let [low, middle, high] = sums.map(|sum| words(sum));
                for lane in 0..WORDS {
                    total[half * WORDS + lane] += u128::from(low[lane])
                        + (u128::from(middle[lane]) << HALF)
                        + (u128::from(high[lane]) << (2 * HALF));
                }
            }
        }
        out.iter_mut().zip(total).for_each(|(x, total)| *x = q.reduce_u128(total));
    }
}

#[inline]
#[target_feature(enable = "avx2")]
fn words(v: __m256i) -> [u64; WORDS] {
    let mut out = [0; WORDS];
    // SAFETY: the array holds four words.
    unsafe { _mm256_storeu_si256(out.as_mut_ptr().cast(), v) };
    out
}

/// Lower and upper halves.
#[inline]
#[target_feature(enable = "avx2")]
fn halves(x: __m256i) -> [__m256i; 2] {
    [_mm256_and_si256(x, _mm256_set1_epi64x((1 << HALF) - 1)), _mm256_srli_epi64::<{ HALF as i32 }>(x)]
}

/// The sums of one entry, for its lower and its upper four lanes.
#[inline]
#[target_feature(enable = "avx2")]
fn entry<const SHARED: bool>(left: &[u64], right: &[u64]) -> [Sums; 2] {
    let count = right.len() / MATRIX_LANES;
    assert!(right.len() == count * MATRIX_LANES && left.len() == if SHARED { count } else { right.len() });
    let mut sums = [[_mm256_setzero_si256(); 3]; 2];
    for k in 0..count {
        for (half, sums) in sums.iter_mut().enumerate() {
            let at = k * MATRIX_LANES + half * WORDS;
            // SAFETY: the lengths were checked above.
            let (a, b) = unsafe {
                let b = _mm256_loadu_si256(right.as_ptr().add(at).cast());
                let a = if SHARED {
                    _mm256_set1_epi64x(*left.get_unchecked(k) as i64)
                } else {
                    _mm256_loadu_si256(left.as_ptr().add(at).cast())
                };
                (halves(a), halves(b))
            };
            sums[0] = _mm256_add_epi64(sums[0], _mm256_mul_epu32(a[0], b[0]));
            sums[1] = _mm256_add_epi64(sums[1], _mm256_mul_epu32(a[0], b[1]));
            sums[1] = _mm256_add_epi64(sums[1], _mm256_mul_epu32(a[1], b[0]));
            sums[2] = _mm256_add_epi64(sums[2], _mm256_mul_epu32(a[1], b[1]));
        }
    }
    sums
}
