//! The forward half of the AVX-512 IFMA NTT; see `avx512ifma_ntt` for the ranges.

use std::arch::x86_64::*;

use super::avx512ifma_lane::{V, load, splat, store};
use super::avx512ifma_ntt::{Context, LOG_RUN, SMALL, keep_rows, rows};
use super::scalar_ntt;
use crate::NttTable;

/// Forward butterflies that share a twiddle.
macro_rules! forward {
    ($c:ident, $v:ident, $w:expr, $small:expr; $($a:literal $b:literal),*) => {
        let w = $w;
        $(($v[$a], $v[$b]) = $c.forward($v[$a], $v[$b], w, $small);)*
    };
}

/// As `forward`, for the first stage of a transform.
macro_rules! first {
    ($c:ident, $v:ident, $w:expr, $small:expr; $($a:literal $b:literal),*) => {
        let w = $w;
        $(($v[$a], $v[$b]) = $c.first($v[$a], $v[$b], w, $small);)*
    };
}

/// The perfect shuffle of two vectors, which takes halves of 8 to halves of 4, 2, 1 and back to memory order.
#[inline]
#[target_feature(enable = "avx512f,avx512ifma,avx512dq,avx512vl,avx512bw")]
fn interleave(a: V, b: V) -> (V, V) {
    let low = _mm512_setr_epi64(0, 8, 1, 9, 2, 10, 3, 11);
    let high = _mm512_setr_epi64(4, 12, 5, 13, 6, 14, 7, 15);
    (_mm512_permutex2var_epi64(a, low, b), _mm512_permutex2var_epi64(a, high, b))
}

impl Context {
    /// Butterfly of x and y below 2^52 (higher bits are ignored); so are the outputs.
    #[inline]
    #[target_feature(enable = "avx512f,avx512ifma,avx512dq,avx512vl,avx512bw")]
    fn forward(self, x: V, y: V, twiddle: (V, V), small: bool) -> (V, V) {
        if small {
            return self.forward_small(x, y, twiddle);
        }
        self.forward_lowered(self.lower(x), y, twiddle)
    }

    /// The first butterfly: both inputs are reduced.
    #[inline]
    #[target_feature(enable = "avx512f,avx512ifma,avx512dq,avx512vl,avx512bw")]
    fn first(self, x: V, y: V, twiddle: (V, V), small: bool) -> (V, V) {
        if small {
            return self.forward_small(self.offset(x), y, twiddle);
        }
        self.forward_lowered(x, y, twiddle)
    }

    /// x below 2^52 to below 2^52 - 2q, higher bits ignored: 2q less where x is at least 2^51, which is above 2q.
    #[inline]
    #[target_feature(enable = "avx512f,avx512ifma,avx512dq,avx512vl,avx512bw")]
    fn lower(self, x: V) -> V {
        let large = _mm512_test_epi64_mask(x, splat(1 << 51));
        _mm512_mask_sub_epi64(x, large, x, self.lanes.two_q)
    }

    /// Butterfly of x below 2^52 - 2q: the sum grows out of the multiplication, the difference is (2x + 2q) minus the
    /// sum. The product is below 2q, so that both are in 0..2^52.
    #[inline]
    #[target_feature(enable = "avx512f,avx512ifma,avx512dq,avx512vl,avx512bw")]
    fn forward_lowered(self, x: V, y: V, (w, shoup): (V, V)) -> (V, V) {
        let sum = self.lanes.mul_modulo(x, y, w, shoup);
        (sum, _mm512_sub_epi64(self.lanes.twice_plus_2q(x), sum))
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512ifma,avx512dq,avx512vl,avx512bw")]
    fn forward_small(self, x: V, y: V, (w, shoup): (V, V)) -> (V, V) {
        let t = self.lanes.mul_modulo(_mm512_setzero_si512(), y, w, shoup);
        (_mm512_add_epi64(x, t), _mm512_sub_epi64(x, t))
    }

    /// What small primes add to the first addends, so that no later difference is negative: 34q.
    #[inline]
    #[target_feature(enable = "avx512f,avx512ifma,avx512dq,avx512vl,avx512bw")]
    fn offset(self, x: V) -> V {
        let sixteen = _mm512_slli_epi64::<4>(self.lanes.two_q);
        _mm512_add_epi64(x, _mm512_add_epi64(sixteen, self.lanes.two_q))
    }

    /// The last four forward stages of `count` runs of 16 values; ends fully reduced.
    ///
    /// # Safety
    /// `data` holds 16 * count values; the table covers 8 * (pair + count) twiddles.
    #[inline]
    #[target_feature(enable = "avx512f,avx512ifma,avx512dq,avx512vl,avx512bw")]
    unsafe fn forward_pairs<const SMALL_Q: bool>(self, data: *mut u64, count: usize, pair: usize) {
        for i in 0..count {
            let pair = pair + i;
            // SAFETY: by the contract of this function.
            unsafe {
                let p = data.add(16 * i);
                self.prefetch(pair);
                let (a, b) = self.forward(load(p), load(p.add(8)), self.one(pair), SMALL_Q);
                let (a, b) = interleave(a, b);
                let (a, b) = self.forward(a, b, self.two(pair), SMALL_Q);
                let (a, b) = interleave(a, b);
                let (a, b) = self.forward(a, b, self.four(pair), SMALL_Q);
                let (a, b) = interleave(a, b);
                let (a, b) = self.forward(a, b, self.eight(pair), SMALL_Q);
                let (a, b) = interleave(a, b);
                store(p, self.lanes.reduce_52(a));
                store(p.add(8), self.lanes.reduce_52(b));
            }
        }
    }

    /// The first forward stage on a block of 2^log_len values.
    ///
    /// # Safety
    /// `data` holds 2^log_len values, log_len >= 4; the table covers the block's twiddles.
    #[inline]
    #[target_feature(enable = "avx512f,avx512ifma,avx512dq,avx512vl,avx512bw")]
    unsafe fn forward_2<const SMALL_Q: bool>(self, data: *mut u64, log_len: u32, index: usize) {
        let stride = 1usize << (log_len - 1);
        for column in (0..stride).step_by(8) {
            // SAFETY: by the contract of this function.
            unsafe {
                let p = data.add(column);
                let mut v = rows!(p, stride; 0, 1);
                first!(self, v, self.one(index), SMALL_Q; 0 1);
                keep_rows!(p, stride, v; 0, 1);
            }
        }
    }

    /// The first 2 forward stages on a block of 2^log_len values.
    ///
    /// # Safety
    /// `data` holds 2^log_len values, log_len >= 5; the table covers the block's twiddles.
    #[inline]
    #[target_feature(enable = "avx512f,avx512ifma,avx512dq,avx512vl,avx512bw")]
    unsafe fn forward_4<const SMALL_Q: bool>(self, data: *mut u64, log_len: u32, index: usize) {
        let stride = 1usize << (log_len - 2);
        for column in (0..stride).step_by(8) {
            // SAFETY: by the contract of this function.
            unsafe {
                let p = data.add(column);
                let mut v = rows!(p, stride; 0, 1, 2, 3);
                first!(self, v, self.one(index), SMALL_Q; 0 2, 1 3);
                forward!(self, v, self.one(2 * index), SMALL_Q; 0 1);
                forward!(self, v, self.one(2 * index + 1), SMALL_Q; 2 3);
                keep_rows!(p, stride, v; 0, 1, 2, 3);
            }
        }
    }

    /// The first 3 forward stages on a block of 2^log_len values.
    ///
    /// # Safety
    /// `data` holds 2^log_len values, log_len >= 6; the table covers the block's twiddles.
    #[inline]
    #[target_feature(enable = "avx512f,avx512ifma,avx512dq,avx512vl,avx512bw")]
    unsafe fn forward_8<const SMALL_Q: bool>(self, data: *mut u64, log_len: u32, index: usize) {
        let stride = 1usize << (log_len - 3);
        for column in (0..stride).step_by(8) {
            // SAFETY: by the contract of this function.
            unsafe {
                let p = data.add(column);
                let mut v = rows!(p, stride; 0, 1, 2, 3, 4, 5, 6, 7);
                first!(self, v, self.one(index), SMALL_Q; 0 4, 1 5, 2 6, 3 7);
                forward!(self, v, self.one(2 * index), SMALL_Q; 0 2, 1 3);
                forward!(self, v, self.one(2 * index + 1), SMALL_Q; 4 6, 5 7);
                forward!(self, v, self.one(4 * index), SMALL_Q; 0 1);
                forward!(self, v, self.one(4 * index + 1), SMALL_Q; 2 3);
                forward!(self, v, self.one(4 * index + 2), SMALL_Q; 4 5);
                forward!(self, v, self.one(4 * index + 3), SMALL_Q; 6 7);
                keep_rows!(p, stride, v; 0, 1, 2, 3, 4, 5, 6, 7);
            }
        }
    }

    /// 4 forward stages on one block of 2^log_len values, the first of all when `FIRST`.
    ///
    /// # Safety
    /// `data` holds 2^log_len values, log_len >= 7; the table covers the block's twiddles.
    #[inline]
    #[target_feature(enable = "avx512f,avx512ifma,avx512dq,avx512vl,avx512bw")]
    unsafe fn forward_16<const SMALL_Q: bool, const FIRST: bool>(self, data: *mut u64, log_len: u32, index: usize) {
        let stride = 1usize << (log_len - 4);
        for column in (0..stride).step_by(8) {
            // SAFETY: by the contract of this function.
            unsafe {
                let p = data.add(column);
                let mut v = rows!(p, stride; 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
                if FIRST {
                    first!(self, v, self.one(index), SMALL_Q; 0 8, 1 9, 2 10, 3 11, 4 12, 5 13, 6 14, 7 15);
                } else {
                    forward!(self, v, self.one(index), SMALL_Q; 0 8, 1 9, 2 10, 3 11, 4 12, 5 13, 6 14, 7 15);
                }
                forward!(self, v, self.one(2 * index), SMALL_Q; 0 4, 1 5, 2 6, 3 7);
                forward!(self, v, self.one(2 * index + 1), SMALL_Q; 8 12, 9 13, 10 14, 11 15);
                forward!(self, v, self.one(4 * index), SMALL_Q; 0 2, 1 3);
                forward!(self, v, self.one(4 * index + 1), SMALL_Q; 4 6, 5 7);
                forward!(self, v, self.one(4 * index + 2), SMALL_Q; 8 10, 9 11);
                forward!(self, v, self.one(4 * index + 3), SMALL_Q; 12 14, 13 15);
                forward!(self, v, self.one(8 * index), SMALL_Q; 0 1);
                forward!(self, v, self.one(8 * index + 1), SMALL_Q; 2 3);
                forward!(self, v, self.one(8 * index + 2), SMALL_Q; 4 5);
                forward!(self, v, self.one(8 * index + 3), SMALL_Q; 6 7);
                forward!(self, v, self.one(8 * index + 4), SMALL_Q; 8 9);
                forward!(self, v, self.one(8 * index + 5), SMALL_Q; 10 11);
                forward!(self, v, self.one(8 * index + 6), SMALL_Q; 12 13);
                forward!(self, v, self.one(8 * index + 7), SMALL_Q; 14 15);
                keep_rows!(p, stride, v; 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
            }
        }
    }

    /// All stages below a block of 2^log_len values, log_len a multiple of 4.
    ///
    /// # Safety
    /// As for `forward_16`.
    #[target_feature(enable = "avx512f,avx512ifma,avx512dq,avx512vl,avx512bw")]
    unsafe fn forward_run<const SMALL_Q: bool>(self, data: *mut u64, log_len: u32, index: usize) {
        // SAFETY: every sub-block lies inside the block.
        unsafe {
            if log_len > LOG_RUN {
                self.forward_16::<SMALL_Q, false>(data, log_len, index);
                for b in 0..16 {
                    self.forward_run::<SMALL_Q>(data.add(b << (log_len - 4)), log_len - 4, 16 * index + b);
                }
                return;
            }
            let (mut log, mut blocks) = (log_len, 1);
            while log > 4 {
                for b in 0..blocks {
                    self.forward_16::<SMALL_Q, false>(data.add(b << log), log, blocks * index + b);
                }
                (log, blocks) = (log - 4, 16 * blocks);
            }
            self.forward_pairs::<SMALL_Q>(data, blocks, blocks * index);
        }
    }
}

/// See `Backend::ntt`.
#[target_feature(enable = "avx512f,avx512ifma,avx512dq,avx512vl,avx512bw")]
pub(super) fn forward(table: &NttTable, data: &mut [u64]) {
    let log_n = data.len().trailing_zeros();
    assert!(data.len().is_power_of_two() && log_n <= table.log_n);
    if log_n < 5 {
        return scalar_ntt::forward(table, data);
    }
    let context = Context::new(table.modulus, table.forward());
    // SAFETY: the data has 2^log_n values and the table at least as many twiddles.
    unsafe {
        if table.modulus.value() < SMALL {
            forward_all::<true>(context, data.as_mut_ptr(), log_n);
        } else {
            forward_all::<false>(context, data.as_mut_ptr(), log_n);
        }
    }
}

/// # Safety
/// `data` holds 2^log_n values, log_n >= 5, and the table as many twiddles.
#[target_feature(enable = "avx512f,avx512ifma,avx512dq,avx512vl,avx512bw")]
unsafe fn forward_all<const SMALL_Q: bool>(context: Context, data: *mut u64, log_n: u32) {
    // SAFETY: by the contract of this function; the first pass leaves a multiple of four stages.
    unsafe {
        let first = (log_n - 1) % 4 + 1;
        match first {
            1 => context.forward_2::<SMALL_Q>(data, log_n, 1),
            2 => context.forward_4::<SMALL_Q>(data, log_n, 1),
            3 => context.forward_8::<SMALL_Q>(data, log_n, 1),
            _ => context.forward_16::<SMALL_Q, true>(data, log_n, 1),
        }
        let log_len = log_n - first;
        for b in 0..1 << first {
            context.forward_run::<SMALL_Q>(data.add(b << log_len), log_len, (1 << first) + b);
        }
    }
}
