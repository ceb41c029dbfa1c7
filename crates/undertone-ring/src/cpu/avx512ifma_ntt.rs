//! AVX-512 IFMA NTT: radix-16 passes in registers, blocked for the first-level cache, then four stages inside pairs
//! of vectors.
//!
//! Values are right in their low 52 bits, which is all that a multiplication reads; what is above is masked at the end.
//! Forward values are below 2^52 (scalar: 4q): an addend of at least 2^51 loses 2q. Inverse ones are at most 2q.
//! Primes below 2^45 leave room to do less: forward adds 34q to the first addends, after which at most 17 stages that
//! add or subtract less than 2q each keep values in 0..69q < 2^52 without any correction; inverse corrects once per
//! pass (64q < 2^52).
//!
//! The last four stages of a run of 16 values keep eight independent butterflies per vector pair. Their lane orders
//! are chosen so that twiddles need no shuffles: one, two, four or eight factors in order, repeated across lanes.

use std::arch::x86_64::*;

use super::avx512ifma_lane::{Lanes, V, load, splat};
use crate::Modulus;

/// Runs of at most 2^12 values (32 KiB) are finished before the next run is touched.
pub(super) const LOG_RUN: u32 = 12;
/// How many runs of 16 values ahead twiddles are fetched.
pub(super) const PREFETCH_PAIRS: usize = 32;
/// Primes below this bound need no correction inside a pass.
pub(super) const SMALL: u64 = 1 << 45;

/// Twiddles with their Shoup quotients, and the constants of the prime.
#[derive(Clone, Copy)]
pub(super) struct Context {
    pub(super) lanes: Lanes,
    pub(super) twiddle: *const u64,
    pub(super) shoup: *const u64,
    /// 2q (2^k - 1): what inverse transforms of small primes add to values.
    pub(super) offset: [V; 5],
}

/// Reads rows of a column block.
macro_rules! rows {
    ($p:expr, $stride:expr; $($i:literal),*) => { [$(load($p.add($i * $stride))),*] };
}

/// Writes rows of a column block.
macro_rules! keep_rows {
    ($p:expr, $stride:expr, $v:ident; $($i:literal),*) => { $(store($p.add($i * $stride), $v[$i]);)* };
}

pub(super) use {keep_rows, rows};

impl Context {
    #[inline]
    #[target_feature(enable = "avx512f,avx512ifma,avx512dq,avx512vl,avx512bw")]
    pub(super) fn new(modulus: Modulus, (twiddles, quotients): (&[u64], &[u64])) -> Self {
        let lanes = Lanes::new(modulus);
        let offset = [0, 1, 3, 7, 15].map(|times| splat(2 * times * modulus.value()));
        Self { lanes, twiddle: twiddles.as_ptr(), shoup: quotients.as_ptr(), offset }
    }

    /// One twiddle for all lanes.
    ///
    /// # Safety
    /// `index` is inside the table.
    #[inline]
    #[target_feature(enable = "avx512f,avx512ifma,avx512dq,avx512vl,avx512bw")]
    pub(super) unsafe fn one(self, index: usize) -> (V, V) {
        // SAFETY: by the contract of this function.
        unsafe { (splat(*self.twiddle.add(index)), splat(*self.shoup.add(index))) }
    }

    /// Twiddles `2 * pair` and the next, alternating.
    ///
    /// # Safety
    /// Both are inside the table.
    #[inline]
    #[target_feature(enable = "avx512f,avx512ifma,avx512dq,avx512vl,avx512bw")]
    pub(super) unsafe fn two(self, pair: usize) -> (V, V) {
        // SAFETY: by the contract of this function.
        unsafe {
            let at = |p: *const u64| _mm512_broadcast_i64x2(_mm_loadu_si128(p.add(2 * pair).cast()));
            (at(self.twiddle), at(self.shoup))
        }
    }

    /// Twiddles `4 * pair` and the next three, twice.
    ///
    /// # Safety
    /// All four are inside the table.
    #[inline]
    #[target_feature(enable = "avx512f,avx512ifma,avx512dq,avx512vl,avx512bw")]
    pub(super) unsafe fn four(self, pair: usize) -> (V, V) {
        // SAFETY: by the contract of this function.
        unsafe {
            let at = |p: *const u64| _mm512_broadcast_i64x4(_mm256_loadu_si256(p.add(4 * pair).cast()));
            (at(self.twiddle), at(self.shoup))
        }
    }

    /// Twiddles `8 * pair` and the next seven.
    ///
    /// # Safety
    /// All eight are inside the table.
    #[inline]
    #[target_feature(enable = "avx512f,avx512ifma,avx512dq,avx512vl,avx512bw")]
    pub(super) unsafe fn eight(self, pair: usize) -> (V, V) {
        // SAFETY: by the contract of this function.
        unsafe { (load(self.twiddle.add(8 * pair)), load(self.shoup.add(8 * pair))) }
    }

    /// Asks for the twiddles of a later pair: streams of twiddles are too many and too short for the hardware.
    #[inline]
    #[target_feature(enable = "avx512f,avx512ifma,avx512dq,avx512vl,avx512bw")]
    pub(super) fn prefetch(self, pair: usize) {
        for p in [self.twiddle, self.shoup] {
            for step in [8, 4] {
                // A prefetch never faults, even past the end of the table.
                _mm_prefetch::<_MM_HINT_T0>(p.wrapping_add(step * (pair + PREFETCH_PAIRS)).cast());
            }
        }
    }
}
