//! Four residues per vector as whole numbers in f64, and the modular steps on them that all AVX2 kernels share.
//!
//! AVX2 has no wide integer product, so products are taken with the fused multiply-add: `h = a*b` rounded and
//! `l = a*b - h` are together exact. Every value that is neither an `h` nor the high part of a sum
//! (`avx2_sums`) is a whole number of magnitude at most 2^53, hence exact. Signed values are "lazy" when within a small multiple of q on both sides of zero.
//!
//! Rounding to whole numbers adds and subtracts 1.5 * 2^52, which is right for magnitudes below 2^51 and ties to even.

use std::arch::x86_64::*;

use crate::Modulus;

/// Four words.
pub(super) type V = __m256i;
/// Four whole numbers.
pub(super) type F = __m256d;

/// 2^52; in [2^52, 2^53) the low bits of an f64 are the number itself.
pub(super) const TWO_52: f64 = (1u64 << 52) as f64;
/// 1.5 * 2^52.
pub(super) const ROUND: f64 = 1.5 * TWO_52;

/// Broadcast constants of one modulus.
#[derive(Clone, Copy)]
pub(super) struct Lanes {
    pub(super) q: F,
    /// 1/q to the nearest f64.
    inverse: F,
    /// (q - 1) / 2, exact because q is odd.
    half: F,
    /// q as words.
    words: V,
}

/// Four words from memory.
///
/// # Safety
/// `p` is valid for reading four words.
#[inline]
#[target_feature(enable = "avx2,fma")]
pub(super) unsafe fn load(p: *const u64) -> V {
    // SAFETY: by the contract of this function.
    unsafe { _mm256_loadu_si256(p.cast()) }
}

/// Four words to memory.
///
/// # Safety
/// `p` is valid for writing four words.
#[inline]
#[target_feature(enable = "avx2,fma")]
pub(super) unsafe fn store(p: *mut u64, v: V) {
    // SAFETY: by the contract of this function.
    unsafe { _mm256_storeu_si256(p.cast(), v) }
}

#[inline]
#[target_feature(enable = "avx2,fma")]
pub(super) fn splat(x: f64) -> F {
    _mm256_set1_pd(x)
}

#[inline]
#[target_feature(enable = "avx2,fma")]
pub(super) fn splat_words(x: u64) -> V {
    _mm256_set1_epi64x(x as i64)
}

/// 2^52 + x for words below 2^52.
#[inline]
#[target_feature(enable = "avx2,fma")]
pub(super) fn raised(x: V) -> F {
    _mm256_or_pd(_mm256_castsi256_pd(x), splat(TWO_52))
}

/// Words below 2^52 as numbers.
#[inline]
#[target_feature(enable = "avx2,fma")]
pub(super) fn numbers(x: V) -> F {
    _mm256_sub_pd(raised(x), splat(TWO_52))
}

/// The words of 2^52 + x for numbers x in 0..2^52.
#[inline]
#[target_feature(enable = "avx2,fma")]
pub(super) fn lowered(x: F) -> V {
    _mm256_castpd_si256(_mm256_xor_pd(x, splat(TWO_52)))
}

/// [`numbers`] of four words from memory.
///
/// # Safety
/// `p` is valid for reading four words.
#[inline]
#[target_feature(enable = "avx2,fma")]
pub(super) unsafe fn load_numbers(p: *const u64) -> F {
    // SAFETY: by the contract of this function.
    numbers(unsafe { load(p) })
}

/// y where x is below zero, and zero elsewhere.
#[inline]
#[target_feature(enable = "avx2,fma")]
fn where_negative(x: F, y: F) -> F {
    _mm256_and_pd(_mm256_cmp_pd::<_CMP_LT_OQ>(x, _mm256_setzero_pd()), y)
}

/// round(x * factor) for results below 2^51.
#[inline]
#[target_feature(enable = "avx2,fma")]
pub(super) fn round_product(x: F, factor: F) -> F {
    _mm256_sub_pd(_mm256_fmadd_pd(x, factor, splat(ROUND)), splat(ROUND))
}

impl Lanes {
    #[inline]
    #[target_feature(enable = "avx2,fma")]
    pub(super) fn new(modulus: Modulus) -> Self {
        let q = modulus.value();
        Self {
            q: splat(q as f64),
            inverse: splat(1.0 / q as f64),
            half: splat(((q - 1) / 2) as f64),
            words: splat_words(q),
        }
    }

    /// a * b mod q for |a * b / q| at most 2^51.
    ///
    /// The quotient, off by a relative 2^-52 before it is rounded, makes the result at most (1/2 + |a*b/q| / 2^52) q in
    /// magnitude, hence at most q; and h - c*q = result - l is a whole number below 2^50 + 2^48, hence exact.
    #[inline]
    #[target_feature(enable = "avx2,fma")]
    pub(super) fn mul_lazy(self, a: F, b: F) -> F {
        let h = _mm256_mul_pd(a, b);
        let l = _mm256_fmsub_pd(a, b, h);
        let c = round_product(h, self.inverse);
        _mm256_add_pd(_mm256_fnmadd_pd(c, self.q, h), l)
    }

    /// Any x of magnitude at most 2^53 to the range of q/2 + 1 about zero.
    #[inline]
    #[target_feature(enable = "avx2,fma")]
    pub(super) fn shrink(self, x: F) -> F {
        _mm256_fnmadd_pd(round_product(x, self.inverse), self.q, x)
    }

    /// x below 2^53 q to congruent numbers of magnitude at most 3q.
    ///
    /// The quotient is rounded to a multiple of 4, which errs by 2, and before that errs by |x/q| / 2^53 < 1.
    #[inline]
    #[target_feature(enable = "avx2,fma")]
    pub(super) fn remainder_high(self, x: F) -> F {
        let round = splat(4.0 * ROUND);
        let c = _mm256_sub_pd(_mm256_fmadd_pd(x, self.inverse, round), round);
        _mm256_fnmadd_pd(c, self.q, x)
    }

    /// The residue of x as words, for x with |x| + q/2 below 2^52, given 2^52 + x.
    ///
    /// With d = (q - 1)/2, (x - d)/q differs from the nearest tie by at least 1/2q, and the f64 reciprocal
    /// errs by less than |x - d|/q * 2^-53 < 1/2q; so its rounding is floor(x/q), and the remainder is in 0..q.
    #[inline]
    #[target_feature(enable = "avx2,fma")]
    pub(super) fn reduce_raised(self, raised: F) -> V {
        let centred = _mm256_sub_pd(raised, _mm256_add_pd(splat(TWO_52), self.half));
        lowered(_mm256_fnmadd_pd(round_product(centred, self.inverse), self.q, raised))
    }

    /// The residue of x as words, for x with |x| + q/2 below 2^52.
    #[inline]
    #[target_feature(enable = "avx2,fma")]
    pub(super) fn reduce(self, x: F) -> V {
        self.reduce_raised(_mm256_add_pd(x, splat(TWO_52)))
    }

    /// The residue of x as words, for x above -q and below q.
    #[inline]
    #[target_feature(enable = "avx2,fma")]
    pub(super) fn lift_sign(self, x: F) -> V {
        lowered(_mm256_add_pd(_mm256_add_pd(x, splat(TWO_52)), where_negative(x, self.q)))
    }

    /// a * b as words, for numbers a and b in 0..q: the lazy product is at most 3q/4.
    #[inline]
    #[target_feature(enable = "avx2,fma")]
    pub(super) fn mul(self, a: F, b: F) -> V {
        self.lift_sign(self.mul_lazy(a, b))
    }

    /// a + b for reduced words.
    #[inline]
    #[target_feature(enable = "avx2,fma")]
    pub(super) fn add(self, a: V, b: V) -> V {
        self.lift_words(_mm256_sub_epi64(_mm256_add_epi64(a, b), self.words))
    }

    /// a - b for reduced words.
    #[inline]
    #[target_feature(enable = "avx2,fma")]
    pub(super) fn sub(self, a: V, b: V) -> V {
        self.lift_words(_mm256_sub_epi64(a, b))
    }

    /// Adds q to negative words.
    #[inline]
    #[target_feature(enable = "avx2,fma")]
    fn lift_words(self, x: V) -> V {
        let negative = _mm256_cmpgt_epi64(_mm256_setzero_si256(), x);
        _mm256_add_epi64(x, _mm256_and_si256(negative, self.words))
    }

    /// Residues in 0..q to the representatives in (-q/2, q/2].
    #[inline]
    #[target_feature(enable = "avx2,fma")]
    pub(super) fn centre(self, x: F) -> F {
        let above = _mm256_cmp_pd::<_CMP_GT_OQ>(x, self.half);
        _mm256_sub_pd(x, _mm256_and_pd(above, self.q))
    }
}
