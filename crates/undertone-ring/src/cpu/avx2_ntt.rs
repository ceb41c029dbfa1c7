//! AVX2 NTT: radix-8 passes in registers, blocked for the first-level cache, then four stages inside four vectors.
//!
//! The first pass turns words into whole numbers in f64, the last one turns them back; between, the buffer holds
//! the bits of signed lazy values. Bounds below are in units of q and leave out the 1 of [`Lanes::shrink`], which is
//! less than the slack of every bound. A product whose lazy factor is at most k and whose twiddle is
//! - any residue ends within 1/2 + k q/2^52 and needs k q below 2^51;
//! - centred, at most q/2, ends within 1/2 + k q/2^53 and needs k q below 2^52.
//!
//! Primes below 2^46 hence allow k = 32 and add at most 1/2 + k/64; others allow 2 and 1/2 + k/4, or for centred
//! twiddles, worth their price where they serve several vectors, 4 and 1/2 + k/8.
//!
//! The last four stages of a run of 16 values transpose between the second and the third, so that every butterfly is
//! one of whole vectors. Transposed lanes hold the runs of 4 in the order 0, 2, 1, 3: the twiddles of the last stage
//! then come out of one unpacking each.

use std::arch::x86_64::*;

use super::avx2_lane::{F, Lanes, V, load, load_numbers, numbers, splat, splat_words};

/// Runs of at most 2^12 values (32 KiB) are finished before the next run is touched.
pub(super) const LOG_RUN: u32 = 12;
/// Primes below this bound need no correction in forward and one per pass in inverse transforms.
pub(super) const SMALL: u64 = 1 << 46;

/// Twiddles and the constants of the prime.
#[derive(Clone, Copy)]
pub(super) struct Context {
    pub(super) lanes: Lanes,
    pub(super) twiddle: *const u64,
}

/// Reads rows of a column block, from words where `$words`.
macro_rules! rows {
    ($p:expr, $stride:expr, $words:expr; $($i:literal),*) => { [$(load_row($p.add($i * $stride), $words)),*] };
}

/// Writes rows of a column block.
macro_rules! keep_rows {
    ($p:expr, $stride:expr, $v:ident; $($i:literal),*) => {
        $(store($p.add($i * $stride), _mm256_castpd_si256($v[$i]));)*
    };
}

/// Brings values within q/2 + 1 of zero.
macro_rules! shrink {
    ($c:ident, $v:ident; $($i:literal),*) => { $($v[$i] = $c.lanes.shrink($v[$i]);)* };
}

pub(super) use {keep_rows, rows, shrink};

/// Four numbers from words or from their own bits.
///
/// # Safety
/// `p` is valid for reading four words.
#[inline]
#[target_feature(enable = "avx2,fma")]
pub(super) unsafe fn load_row(p: *const u64, words: bool) -> F {
    // SAFETY: by the contract of this function.
    let row = unsafe { load(p) };
    if words { numbers(row) } else { _mm256_castsi256_pd(row) }
}

/// Lane s of row r to lane r of row s, but for the order 0, 2, 1, 3 of the lanes s.
#[inline]
#[target_feature(enable = "avx2,fma")]
pub(super) fn transpose([v_0, v_1, v_2, v_3]: [F; 4]) -> [F; 4] {
    let (a, b) = (_mm256_permute2f128_pd::<0x20>(v_0, v_1), _mm256_permute2f128_pd::<0x20>(v_2, v_3));
    let (c, d) = (_mm256_permute2f128_pd::<0x31>(v_0, v_1), _mm256_permute2f128_pd::<0x31>(v_2, v_3));
    [_mm256_unpacklo_pd(a, b), _mm256_unpackhi_pd(a, b), _mm256_unpacklo_pd(c, d), _mm256_unpackhi_pd(c, d)]
}

/// The inverse of [`transpose`].
#[inline]
#[target_feature(enable = "avx2,fma")]
pub(super) fn transpose_back([v_0, v_1, v_2, v_3]: [F; 4]) -> [F; 4] {
    let (a, b) = (_mm256_unpacklo_pd(v_0, v_1), _mm256_unpackhi_pd(v_0, v_1));
    let (c, d) = (_mm256_unpacklo_pd(v_2, v_3), _mm256_unpackhi_pd(v_2, v_3));
    [
        _mm256_permute2f128_pd::<0x20>(a, c),
        _mm256_permute2f128_pd::<0x31>(a, c),
        _mm256_permute2f128_pd::<0x20>(b, d),
        _mm256_permute2f128_pd::<0x31>(b, d),
    ]
}

impl Context {
    /// One twiddle for all lanes.
    ///
    /// # Safety
    /// `index` is inside the table.
    #[inline]
    #[target_feature(enable = "avx2,fma")]
    pub(super) unsafe fn one(self, index: usize) -> F {
        // SAFETY: by the contract of this function.
        numbers(splat_words(unsafe { *self.twiddle.add(index) }))
    }

    /// Twiddles `4 * run` and the next three in the order of transposed lanes.
    ///
    /// # Safety
    /// All four are inside the table.
    #[inline]
    #[target_feature(enable = "avx2,fma")]
    pub(super) unsafe fn four(self, run: usize) -> F {
        // SAFETY: by the contract of this function.
        numbers(_mm256_permute4x64_epi64::<0xd8>(unsafe { load(self.twiddle.add(4 * run)) }))
    }

    /// Twiddles `8 * run` and the next seven in the order of transposed lanes, even ones and odd ones.
    ///
    /// # Safety
    /// All eight are inside the table.
    #[inline]
    #[target_feature(enable = "avx2,fma")]
    pub(super) unsafe fn eight(self, run: usize) -> [F; 2] {
        // SAFETY: by the contract of this function.
        let (a, b) = unsafe { (load(self.twiddle.add(8 * run)), load(self.twiddle.add(8 * run + 4))) };
        [numbers(_mm256_unpacklo_epi64(a, b)), numbers(_mm256_unpackhi_epi64(a, b))]
    }

    /// Centred where the prime is not small.
    #[inline]
    #[target_feature(enable = "avx2,fma")]
    pub(super) fn fitted<const SMALL_Q: bool>(self, w: F) -> F {
        if SMALL_Q { w } else { self.lanes.centre(w) }
    }

    /// The twiddles of three stages on a block: four of the narrowest, two of the middle, one of the widest.
    ///
    /// # Safety
    /// The table covers 4 * index + 3.
    #[inline]
    #[target_feature(enable = "avx2,fma")]
    pub(super) unsafe fn of_block<const SMALL_Q: bool>(self, index: usize) -> [F; 7] {
        // SAFETY: by the contract of this function; the array holds both vectors.
        unsafe {
            let two = _mm_loadu_si128(self.twiddle.add(2 * index).cast());
            let one: V = _mm256_inserti128_si256::<1>(
                _mm256_castsi128_si256(two),
                _mm_set1_epi64x(*self.twiddle.add(index) as i64),
            );
            let mut each = [0.0; 8];
            _mm256_storeu_pd(each.as_mut_ptr(), self.fitted::<SMALL_Q>(load_numbers(self.twiddle.add(4 * index))));
            _mm256_storeu_pd(each.as_mut_ptr().add(4), self.fitted::<SMALL_Q>(numbers(one)));
            [
                splat(each[0]),
                splat(each[1]),
                splat(each[2]),
                splat(each[3]),
                splat(each[4]),
                splat(each[5]),
                splat(each[6]),
            ]
        }
    }
}
