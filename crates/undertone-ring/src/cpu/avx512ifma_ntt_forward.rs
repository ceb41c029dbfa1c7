//! The forward half of the AVX-512 IFMA NTT; see `avx512ifma_ntt` for the ranges.

use std::arch::x86_64::*;

use super::avx512ifma_lane::{Lanes, V, load, store};
use super::avx512ifma_ntt::{Context, LOG_RUN, SMALL, keep_rows, rows};
use super::scalar_ntt;
use crate::NttTable;

/// Forward butterflies that share a twiddle; `$next` tells what the next stage does with each.
macro_rules! forward {
    ($c:ident, $v:ident, $w:expr, $small:expr; $($a:literal $b:literal $next:ident),*) => {
        let w = $w;
        $(($v[$a], $v[$b]) = $c.forward($v[$a], $v[$b], w, $small, Next::$next);)*
    };
}

/// As `forward`, for the first stage of a transform.
macro_rules! first {
    ($c:ident, $v:ident, $w:expr, $small:expr; $($a:literal $b:literal $next:ident),*) => {
        let w = $w;
        $(($v[$a], $v[$b]) = $c.first($v[$a], $v[$b], w, $small, Next::$next);)*
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

/// What comes next for both outputs of a butterfly.
#[derive(Clone, Copy)]
enum Next {
    /// A multiplication, which reads their low 52 bits only, or a mask.
    Multiplied,
    /// Anything that needs the values themselves.
    Exact,
}

impl Context {
    /// Butterfly of x below 4q and y below 2^52 (higher bits of y are ignored).
    #[inline]
    #[target_feature(enable = "avx512f,avx512ifma,avx512dq,avx512vl,avx512bw")]
    fn forward(self, x: V, y: V, twiddle: (V, V), small: bool, next: Next) -> (V, V) {
        if small {
            return self.forward_small(x, y, twiddle);
        }
        self.forward_folded(self.lanes.fold(x, self.lanes.two_q), y, twiddle, next)
    }

    /// The first butterfly: both inputs are reduced.
    #[inline]
    #[target_feature(enable = "avx512f,avx512ifma,avx512dq,avx512vl,avx512bw")]
    fn first(self, x: V, y: V, twiddle: (V, V), small: bool, next: Next) -> (V, V) {
        if small {
            return self.forward_small(self.offset(x), y, twiddle);
        }
        self.forward_folded(x, y, twiddle, next)
    }

    /// Butterfly of x below 2q: the sum grows out of the multiplication, the difference is (2x + 2q) minus the sum.
    #[inline]
    #[target_feature(enable = "avx512f,avx512ifma,avx512dq,avx512vl,avx512bw")]
    fn forward_folded(self, x: V, y: V, (w, shoup): (V, V), next: Next) -> (V, V) {
        let m = self.lanes;
        let sum = m.mul_modulo(x, y, w, shoup);
        let sum = match next {
            Next::Multiplied => sum,
            Next::Exact => m.exact(sum),
        };
        (sum, _mm512_sub_epi64(m.twice_plus_2q(x), sum))
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

    /// Shuffles raw outputs for the next of the last stages; the addends leave as they are needed there.
    #[inline]
    #[target_feature(enable = "avx512f,avx512ifma,avx512dq,avx512vl,avx512bw")]
    fn next_pair<const SMALL_Q: bool>(self, (a, b): (V, V)) -> (V, V) {
        let (a, b) = interleave(a, b);
        (if SMALL_Q { a } else { self.lanes.exact(a) }, b)
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
                let next = Next::Multiplied;
                let pairs = self.forward(load(p), load(p.add(8)), self.one(pair), SMALL_Q, next);
                let (a, b) = self.next_pair::<SMALL_Q>(pairs);
                let (a, b) = self.next_pair::<SMALL_Q>(self.forward(a, b, self.two(pair), SMALL_Q, next));
                let (a, b) = self.next_pair::<SMALL_Q>(self.forward(a, b, self.four(pair), SMALL_Q, next));
                let (a, b) = self.forward(a, b, self.eight(pair), SMALL_Q, Next::Exact);
                let (a, b) = interleave(a, b);
                store(p, self.finish::<SMALL_Q>(a));
                store(p.add(8), self.finish::<SMALL_Q>(b));
            }
        }
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512ifma,avx512dq,avx512vl,avx512bw")]
    fn finish<const SMALL_Q: bool>(self, x: V) -> V {
        let x = if SMALL_Q { self.lanes.reduce_lazy(x) } else { self.lanes.fold(x, self.lanes.two_q) };
        self.lanes.fold(x, self.lanes.q)
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
                first!(self, v, self.one(index), SMALL_Q; 0 1 Exact);
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
                first!(self, v, self.one(index), SMALL_Q; 0 2 Exact, 1 3 Multiplied);
                forward!(self, v, self.one(2 * index), SMALL_Q; 0 1 Exact);
                forward!(self, v, self.one(2 * index + 1), SMALL_Q; 2 3 Exact);
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
                first!(self, v, self.one(index), SMALL_Q; 0 4 Exact, 1 5 Exact, 2 6 Multiplied, 3 7 Multiplied);
                forward!(self, v, self.one(2 * index), SMALL_Q; 0 2 Exact, 1 3 Multiplied);
                forward!(self, v, self.one(2 * index + 1), SMALL_Q; 4 6 Exact, 5 7 Multiplied);
                forward!(self, v, self.one(4 * index), SMALL_Q; 0 1 Exact);
                forward!(self, v, self.one(4 * index + 1), SMALL_Q; 2 3 Exact);
                forward!(self, v, self.one(4 * index + 2), SMALL_Q; 4 5 Exact);
                forward!(self, v, self.one(4 * index + 3), SMALL_Q; 6 7 Exact);
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
                    first!(self, v, self.one(index), SMALL_Q; 0 8 Exact, 1 9 Exact, 2 10 Exact, 3 11 Exact, 4 12 Multiplied, 5 13 Multiplied, 6 14 Multiplied, 7 15 Multiplied);
                } else {
                    forward!(self, v, self.one(index), SMALL_Q; 0 8 Exact, 1 9 Exact, 2 10 Exact, 3 11 Exact, 4 12 Multiplied, 5 13 Multiplied, 6 14 Multiplied, 7 15 Multiplied);
                }
                forward!(self, v, self.one(2 * index), SMALL_Q; 0 4 Exact, 1 5 Exact, 2 6 Multiplied, 3 7 Multiplied);
                forward!(self, v, self.one(2 * index + 1), SMALL_Q; 8 12 Exact, 9 13 Exact, 10 14 Multiplied, 11 15 Multiplied);
                forward!(self, v, self.one(4 * index), SMALL_Q; 0 2 Exact, 1 3 Multiplied);
                forward!(self, v, self.one(4 * index + 1), SMALL_Q; 4 6 Exact, 5 7 Multiplied);
                forward!(self, v, self.one(4 * index + 2), SMALL_Q; 8 10 Exact, 9 11 Multiplied);
                forward!(self, v, self.one(4 * index + 3), SMALL_Q; 12 14 Exact, 13 15 Multiplied);
                forward!(self, v, self.one(8 * index), SMALL_Q; 0 1 Exact);
                forward!(self, v, self.one(8 * index + 1), SMALL_Q; 2 3 Exact);
                forward!(self, v, self.one(8 * index + 2), SMALL_Q; 4 5 Exact);
                forward!(self, v, self.one(8 * index + 3), SMALL_Q; 6 7 Exact);
                forward!(self, v, self.one(8 * index + 4), SMALL_Q; 8 9 Exact);
                forward!(self, v, self.one(8 * index + 5), SMALL_Q; 10 11 Exact);
                forward!(self, v, self.one(8 * index + 6), SMALL_Q; 12 13 Exact);
                forward!(self, v, self.one(8 * index + 7), SMALL_Q; 14 15 Exact);
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
    let (twiddles, quotients) = table.forward();
    let context = Context { lanes: Lanes::new(table.modulus), twiddle: twiddles.as_ptr(), shoup: quotients.as_ptr() };
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
