//! The forward half of the AVX-512 IFMA NTT; see `avx512ifma_ntt` for the ranges.

use std::arch::x86_64::*;

use super::avx512ifma_lane::{Lanes, V, load, store};
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

/// Forward butterflies inside a radix-16 pass; each tells whether x is signed and what comes next.
macro_rules! forward_inner {
    ($c:ident, $v:ident, $w:expr, $small:expr; $($a:literal $b:literal $signed:literal $next:ident),*) => {
        let w = $w;
        $(($v[$a], $v[$b]) = $c.forward_inner($v[$a], $v[$b], w, $small, $signed, Next::$next);)*
    };
}

/// Prepares the inputs of the first pass.
macro_rules! offset {
    ($c:ident, $v:ident, $small:expr; $($i:literal),*) => { $($v[$i] = $c.offset($v[$i], $small);)* };
}

/// The perfect shuffle of two vectors, which takes halves of 8 to halves of 4, 2, 1 and back to memory order.
#[inline]
#[target_feature(enable = "avx512f,avx512ifma,avx512dq,avx512vl,avx512bw")]
fn interleave(a: V, b: V) -> (V, V) {
    let low = _mm512_setr_epi64(0, 8, 1, 9, 2, 10, 3, 11);
    let high = _mm512_setr_epi64(4, 12, 5, 13, 6, 14, 7, 15);
    (_mm512_permutex2var_epi64(a, low, b), _mm512_permutex2var_epi64(a, high, b))
}

/// What the next stage does with both outputs of a butterfly.
#[derive(Clone, Copy)]
enum Next {
    /// Adds to them.
    Added,
    /// Multiplies them by a twiddle.
    Multiplied,
    /// They leave the pass.
    Stored,
}

impl Context {
    #[inline]
    #[target_feature(enable = "avx512f,avx512ifma,avx512dq,avx512vl,avx512bw")]
    fn forward(self, x: V, y: V, (w, shoup): (V, V), small: bool) -> (V, V) {
        let m = self.lanes;
        if small {
            let t = m.mul_modulo(y, w, shoup);
            return (_mm512_add_epi64(x, t), _mm512_sub_epi64(x, t));
        }
        let x = m.fold(x, m.two_q);
        let t = m.mul_lazy(y, w, shoup);
        (_mm512_add_epi64(x, t), _mm512_sub_epi64(_mm512_add_epi64(x, m.two_q), t))
    }

    /// [`Context::forward`] inside a pass, where it is known what each value does next.
    ///
    /// A coming multiplier needs only its low 52 bits, so its mask is saved; a coming addend may be negative, so the
    /// 2q that keeps a difference positive is saved. `signed` tells that x is such a difference, in (-2q, 2q).
    #[inline]
    #[target_feature(enable = "avx512f,avx512ifma,avx512dq,avx512vl,avx512bw")]
    fn forward_inner(self, x: V, y: V, twiddle: (V, V), small: bool, signed: bool, next: Next) -> (V, V) {
        let m = self.lanes;
        if small || (!signed && matches!(next, Next::Stored)) {
            return self.forward(x, y, twiddle, small);
        }
        let x = if signed { _mm512_min_epu64(x, _mm512_add_epi64(x, m.two_q)) } else { m.fold(x, m.two_q) };
        let t = match next {
            Next::Multiplied => m.mul_modulo(y, twiddle.0, twiddle.1),
            Next::Added | Next::Stored => m.mul_lazy(y, twiddle.0, twiddle.1),
        };
        let lifted = match next {
            Next::Added => x,
            Next::Multiplied | Next::Stored => _mm512_add_epi64(x, m.two_q),
        };
        (_mm512_add_epi64(x, t), _mm512_sub_epi64(lifted, t))
    }

    /// What small primes add to every input, so that no later difference is negative: 34q.
    #[inline]
    #[target_feature(enable = "avx512f,avx512ifma,avx512dq,avx512vl,avx512bw")]
    fn offset(self, x: V, small: bool) -> V {
        if !small {
            return x;
        }
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
                offset!(self, v, SMALL_Q; 0, 1);
                forward!(self, v, self.one(index), SMALL_Q; 0 1);
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
                offset!(self, v, SMALL_Q; 0, 1, 2, 3);
                forward!(self, v, self.one(index), SMALL_Q; 0 2, 1 3);
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
                offset!(self, v, SMALL_Q; 0, 1, 2, 3, 4, 5, 6, 7);
                forward!(self, v, self.one(index), SMALL_Q; 0 4, 1 5, 2 6, 3 7);
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
                    offset!(self, v, SMALL_Q; 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
                }
                forward_inner!(self, v, self.one(index), SMALL_Q; 0 8 false Added, 1 9 false Added, 2 10 false Added, 3 11 false Added, 4 12 false Multiplied, 5 13 false Multiplied, 6 14 false Multiplied, 7 15 false Multiplied);
                forward_inner!(self, v, self.one(2 * index), SMALL_Q; 0 4 false Added, 1 5 false Added, 2 6 false Multiplied, 3 7 false Multiplied);
                forward_inner!(self, v, self.one(2 * index + 1), SMALL_Q; 8 12 true Added, 9 13 true Added, 10 14 true Multiplied, 11 15 true Multiplied);
                forward_inner!(self, v, self.one(4 * index), SMALL_Q; 0 2 false Added, 1 3 false Multiplied);
                forward_inner!(self, v, self.one(4 * index + 1), SMALL_Q; 4 6 true Added, 5 7 true Multiplied);
                forward_inner!(self, v, self.one(4 * index + 2), SMALL_Q; 8 10 false Added, 9 11 false Multiplied);
                forward_inner!(self, v, self.one(4 * index + 3), SMALL_Q; 12 14 true Added, 13 15 true Multiplied);
                forward_inner!(self, v, self.one(8 * index), SMALL_Q; 0 1 false Stored);
                forward_inner!(self, v, self.one(8 * index + 1), SMALL_Q; 2 3 true Stored);
                forward_inner!(self, v, self.one(8 * index + 2), SMALL_Q; 4 5 false Stored);
                forward_inner!(self, v, self.one(8 * index + 3), SMALL_Q; 6 7 true Stored);
                forward_inner!(self, v, self.one(8 * index + 4), SMALL_Q; 8 9 false Stored);
                forward_inner!(self, v, self.one(8 * index + 5), SMALL_Q; 10 11 true Stored);
                forward_inner!(self, v, self.one(8 * index + 6), SMALL_Q; 12 13 false Stored);
                forward_inner!(self, v, self.one(8 * index + 7), SMALL_Q; 14 15 true Stored);
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
