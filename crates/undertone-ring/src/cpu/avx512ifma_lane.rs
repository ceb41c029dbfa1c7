//! Eight 64-bit lanes and the modular steps on them that all AVX-512 IFMA kernels share.
//!
//! A 52-bit product has a low half (`lo52`) and a high half (`hi52`); both instructions read only the low 52 bits of
//! their factors. Values are "lazy" when below a small multiple of q; q < 2^50 keeps 4q below 2^52.

use std::arch::x86_64::*;

use crate::Modulus;

pub(super) type V = __m512i;

/// Broadcast constants of one modulus.
#[derive(Clone, Copy)]
pub(super) struct Lanes {
    pub q: V,
    pub two_q: V,
    /// The number 2: a multiplication by it doubles and adds in one instruction.
    pub two: V,
    /// 2^52 - q: multiplying by it subtracts modulo 2^52.
    pub minus_q: V,
    /// 2^52 - 1.
    pub mask: V,
    /// floor(2^52 / q), the Shoup quotient of one.
    pub one_shoup: V,
    /// 2^52 mod q and its Shoup quotient: what a high half is worth.
    pub high: V,
    pub high_shoup: V,
}

/// Eight words from memory.
///
/// # Safety
/// `p` is valid for reading eight words.
#[inline]
#[target_feature(enable = "avx512f,avx512ifma,avx512dq,avx512vl,avx512bw")]
pub(super) unsafe fn load(p: *const u64) -> V {
    // SAFETY: by the contract of this function.
    unsafe { _mm512_loadu_si512(p.cast()) }
}

/// Eight words to memory.
///
/// # Safety
/// `p` is valid for writing eight words.
#[inline]
#[target_feature(enable = "avx512f,avx512ifma,avx512dq,avx512vl,avx512bw")]
pub(super) unsafe fn store(p: *mut u64, v: V) {
    // SAFETY: by the contract of this function.
    unsafe { _mm512_storeu_si512(p.cast(), v) }
}

#[inline]
#[target_feature(enable = "avx512f,avx512ifma,avx512dq,avx512vl,avx512bw")]
pub(super) fn splat(x: u64) -> V {
    _mm512_set1_epi64(x as i64)
}

impl Lanes {
    #[inline]
    #[target_feature(enable = "avx512f,avx512ifma,avx512dq,avx512vl,avx512bw")]
    pub(super) fn new(modulus: Modulus) -> Self {
        let q = modulus.value();
        let high = modulus.reduce(1 << 52);
        Self {
            q: splat(q),
            two_q: splat(2 * q),
            two: splat(2),
            minus_q: splat((1 << 52) - q),
            mask: splat((1 << 52) - 1),
            one_shoup: splat(modulus.shoup(1)),
            high: splat(high),
            high_shoup: splat(modulus.shoup(high)),
        }
    }

    /// [0, 2b) to [0, b).
    #[inline]
    #[target_feature(enable = "avx512f,avx512ifma,avx512dq,avx512vl,avx512bw")]
    pub(super) fn fold(self, x: V, b: V) -> V {
        _mm512_min_epu64(x, _mm512_sub_epi64(x, b))
    }

    /// Below 4q to fully reduced.
    #[inline]
    #[target_feature(enable = "avx512f,avx512ifma,avx512dq,avx512vl,avx512bw")]
    pub(super) fn reduce_4q(self, x: V) -> V {
        self.fold(self.fold(x, self.two_q), self.q)
    }

    /// 2x + 2q, 2x modulo 2^52.
    #[inline]
    #[target_feature(enable = "avx512f,avx512ifma,avx512dq,avx512vl,avx512bw")]
    pub(super) fn twice_plus_2q(self, x: V) -> V {
        _mm512_madd52lo_epu64(self.two_q, x, self.two)
    }

    /// Clears what is above the low 52 bits.
    #[inline]
    #[target_feature(enable = "avx512f,avx512ifma,avx512dq,avx512vl,avx512bw")]
    pub(super) fn exact(self, x: V) -> V {
        _mm512_and_si512(x, self.mask)
    }

    /// y * w in [0, 2q) for y below 2^52 (higher bits are ignored) and the Shoup quotient of w.
    #[inline]
    #[target_feature(enable = "avx512f,avx512ifma,avx512dq,avx512vl,avx512bw")]
    pub(super) fn mul_lazy(self, y: V, w: V, shoup: V) -> V {
        self.exact(self.mul_modulo(_mm512_setzero_si512(), y, w, shoup))
    }

    /// x + [`Lanes::mul_lazy`] plus a small multiple of 2^52: right in the 52 bits that a multiplication reads.
    #[inline]
    #[target_feature(enable = "avx512f,avx512ifma,avx512dq,avx512vl,avx512bw")]
    pub(super) fn mul_modulo(self, x: V, y: V, w: V, shoup: V) -> V {
        let quotient = _mm512_madd52hi_epu64(_mm512_setzero_si512(), y, shoup);
        let low = _mm512_madd52lo_epu64(x, y, w);
        _mm512_madd52lo_epu64(low, quotient, self.minus_q)
    }

    /// x below 2^52 (higher bits are ignored) to [0, 2q).
    #[inline]
    #[target_feature(enable = "avx512f,avx512ifma,avx512dq,avx512vl,avx512bw")]
    pub(super) fn reduce_lazy(self, x: V) -> V {
        self.exact(self.reduce_modulo(x))
    }

    /// [`Lanes::reduce_lazy`] plus a small multiple of 2^52.
    #[inline]
    #[target_feature(enable = "avx512f,avx512ifma,avx512dq,avx512vl,avx512bw")]
    pub(super) fn reduce_modulo(self, x: V) -> V {
        let quotient = _mm512_madd52hi_epu64(_mm512_setzero_si512(), x, self.one_shoup);
        _mm512_madd52lo_epu64(x, quotient, self.minus_q)
    }

    /// x below 2^52 (higher bits are ignored), fully reduced.
    #[inline]
    #[target_feature(enable = "avx512f,avx512ifma,avx512dq,avx512vl,avx512bw")]
    pub(super) fn reduce_52(self, x: V) -> V {
        self.fold(self.reduce_lazy(x), self.q)
    }

    /// high * 2^52 + low, both below 2^52, fully reduced.
    #[inline]
    #[target_feature(enable = "avx512f,avx512ifma,avx512dq,avx512vl,avx512bw")]
    pub(super) fn reduce_wide(self, high: V, low: V) -> V {
        // Two Shoup products share one accumulator: their sum is below 4q, hence exact modulo 2^52.
        let zero = _mm512_setzero_si512();
        let quotient_high = _mm512_madd52hi_epu64(zero, high, self.high_shoup);
        let quotient_low = _mm512_madd52hi_epu64(zero, low, self.one_shoup);
        let a = _mm512_madd52lo_epu64(low, high, self.high);
        let b = _mm512_madd52lo_epu64(zero, quotient_high, self.minus_q);
        let a = _mm512_madd52lo_epu64(a, quotient_low, self.minus_q);
        self.reduce_4q(_mm512_and_si512(_mm512_add_epi64(a, b), self.mask))
    }

    /// Sums of high and low halves, high * 2^52 + low below 2^104, fully reduced.
    #[inline]
    #[target_feature(enable = "avx512f,avx512ifma,avx512dq,avx512vl,avx512bw")]
    pub(super) fn reduce_sum(self, high: V, low: V) -> V {
        let carry = _mm512_srli_epi64::<52>(low);
        self.reduce_wide(_mm512_add_epi64(high, carry), _mm512_and_si512(low, self.mask))
    }

    /// a * b, fully reduced, for factors whose product is below 2^104.
    #[inline]
    #[target_feature(enable = "avx512f,avx512ifma,avx512dq,avx512vl,avx512bw")]
    pub(super) fn mul(self, a: V, b: V) -> V {
        let zero = _mm512_setzero_si512();
        self.reduce_wide(_mm512_madd52hi_epu64(zero, a, b), _mm512_madd52lo_epu64(zero, a, b))
    }

    /// a * b + c, fully reduced, for reduced c.
    #[inline]
    #[target_feature(enable = "avx512f,avx512ifma,avx512dq,avx512vl,avx512bw")]
    pub(super) fn mul_add(self, a: V, b: V, c: V) -> V {
        let high = _mm512_madd52hi_epu64(_mm512_setzero_si512(), a, b);
        self.reduce_sum(high, _mm512_madd52lo_epu64(c, a, b))
    }

    /// a + b for reduced values.
    #[inline]
    #[target_feature(enable = "avx512f,avx512ifma,avx512dq,avx512vl,avx512bw")]
    pub(super) fn add(self, a: V, b: V) -> V {
        self.fold(_mm512_add_epi64(a, b), self.q)
    }

    /// a - b for reduced values.
    #[inline]
    #[target_feature(enable = "avx512f,avx512ifma,avx512dq,avx512vl,avx512bw")]
    pub(super) fn sub(self, a: V, b: V) -> V {
        let difference = _mm512_sub_epi64(a, b);
        _mm512_min_epu64(difference, _mm512_add_epi64(difference, self.q))
    }
}
