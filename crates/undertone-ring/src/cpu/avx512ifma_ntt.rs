//! AVX-512 IFMA NTT: radix-16 passes in registers, blocked for the first-level cache, then four stages inside pairs
//! of vectors.
//!
//! The butterflies are those of the scalar file. Forward values stay below 4q, inverse ones below 2q.
//! Primes below 2^45 leave room to do less: forward adds 34q to every input once, after which at most 17 stages that
//! add or subtract less than 2q each keep values in 0..69q < 2^52 without any correction; inverse corrects once per
//! pass (32q < 2^52). Both then carry stray multiples of 2^52, which no multiplication sees and the end removes.
//!
//! The last four stages of a run of 16 values keep eight independent butterflies per vector pair. Their lane orders
//! are chosen so that twiddles need no shuffles: one, two, four or eight factors in order, repeated across lanes.

use std::arch::x86_64::*;

use super::avx512ifma_lane::{Lanes, V, load, splat, store};
use super::scalar_ntt;
use crate::NttTable;

/// Runs of at most 2^12 values (32 KiB) are finished before the next run is touched.
const LOG_RUN: u32 = 12;
/// How many runs of 16 values ahead twiddles are fetched.
const PREFETCH_PAIRS: usize = 32;
/// Primes below this bound need no correction inside a pass.
const SMALL: u64 = 1 << 45;

/// Twiddles with their Shoup quotients, and the constants of the prime.
#[derive(Clone, Copy)]
struct Context {
    lanes: Lanes,
    twiddle: *const u64,
    shoup: *const u64,
}

/// Reads rows of a column block.
macro_rules! rows {
    ($p:expr, $stride:expr; $($i:literal),*) => { [$(load($p.add($i * $stride))),*] };
}

/// Writes rows of a column block.
macro_rules! keep_rows {
    ($p:expr, $stride:expr, $v:ident; $($i:literal),*) => { $(store($p.add($i * $stride), $v[$i]);)* };
}

/// Forward butterflies that share a twiddle.
macro_rules! forward {
    ($c:ident, $v:ident, $w:expr, $small:expr; $($a:literal $b:literal),*) => {
        let w = $w;
        $(($v[$a], $v[$b]) = $c.forward($v[$a], $v[$b], w, $small);)*
    };
}

/// Inverse butterflies that share a twiddle.
macro_rules! inverse {
    ($c:ident, $v:ident, $w:expr, $bound:expr, $small:expr; $($a:literal $b:literal),*) => {
        let w = $w;
        $(($v[$a], $v[$b]) = $c.inverse($v[$a], $v[$b], w, $bound, $small);)*
    };
}

/// Prepares the inputs of the first pass.
macro_rules! offset {
    ($c:ident, $v:ident, $small:expr; $($i:literal),*) => { $($v[$i] = $c.offset($v[$i], $small);)* };
}

/// Brings values below 2^52 to [0, 2q).
macro_rules! lazy {
    ($c:ident, $v:ident; $($i:literal),*) => { $($v[$i] = $c.lanes.reduce_lazy($v[$i]);)* };
}

/// The final inverse stage: scaled sums and differences, fully reduced.
macro_rules! scaled {
    ($c:ident, $v:ident, $scale:ident, $bound:expr; $($a:literal $b:literal),*) => { $({
        let sum = _mm512_add_epi64($v[$a], $v[$b]);
        let difference = _mm512_sub_epi64(_mm512_add_epi64($v[$a], $bound), $v[$b]);
        $v[$a] = $c.lanes.fold($c.lanes.mul_lazy(sum, $scale[0].0, $scale[0].1), $c.lanes.q);
        $v[$b] = $c.lanes.fold($c.lanes.mul_lazy(difference, $scale[1].0, $scale[1].1), $c.lanes.q);
    })* };
}

/// The perfect shuffle of two vectors, which takes halves of 8 to halves of 4, 2, 1 and back to memory order.
#[inline]
#[target_feature(enable = "avx512f,avx512ifma,avx512dq,avx512vl,avx512bw")]
fn interleave(a: V, b: V) -> (V, V) {
    let low = _mm512_setr_epi64(0, 8, 1, 9, 2, 10, 3, 11);
    let high = _mm512_setr_epi64(4, 12, 5, 13, 6, 14, 7, 15);
    (_mm512_permutex2var_epi64(a, low, b), _mm512_permutex2var_epi64(a, high, b))
}

/// The inverse of [`interleave`].
#[inline]
#[target_feature(enable = "avx512f,avx512ifma,avx512dq,avx512vl,avx512bw")]
fn deinterleave(a: V, b: V) -> (V, V) {
    let even = _mm512_setr_epi64(0, 2, 4, 6, 8, 10, 12, 14);
    let odd = _mm512_setr_epi64(1, 3, 5, 7, 9, 11, 13, 15);
    (_mm512_permutex2var_epi64(a, even, b), _mm512_permutex2var_epi64(a, odd, b))
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

    /// Inputs below `bound`, a multiple of q; the first output is below twice that when `small`, else below 2q.
    #[inline]
    #[target_feature(enable = "avx512f,avx512ifma,avx512dq,avx512vl,avx512bw")]
    fn inverse(self, x: V, y: V, (w, shoup): (V, V), bound: V, small: bool) -> (V, V) {
        let sum = _mm512_add_epi64(x, y);
        let difference = _mm512_sub_epi64(_mm512_add_epi64(x, bound), y);
        if small {
            return (sum, self.lanes.mul_modulo(difference, w, shoup));
        }
        (self.lanes.fold(sum, bound), self.lanes.mul_lazy(difference, w, shoup))
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

    /// One twiddle for all lanes.
    ///
    /// # Safety
    /// `index` is inside the table.
    #[inline]
    #[target_feature(enable = "avx512f,avx512ifma,avx512dq,avx512vl,avx512bw")]
    unsafe fn one(self, index: usize) -> (V, V) {
        // SAFETY: by the contract of this function.
        unsafe { (splat(*self.twiddle.add(index)), splat(*self.shoup.add(index))) }
    }

    /// Twiddles `2 * pair` and the next, alternating.
    ///
    /// # Safety
    /// Both are inside the table.
    #[inline]
    #[target_feature(enable = "avx512f,avx512ifma,avx512dq,avx512vl,avx512bw")]
    unsafe fn two(self, pair: usize) -> (V, V) {
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
    unsafe fn four(self, pair: usize) -> (V, V) {
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
    unsafe fn eight(self, pair: usize) -> (V, V) {
        // SAFETY: by the contract of this function.
        unsafe { (load(self.twiddle.add(8 * pair)), load(self.shoup.add(8 * pair))) }
    }

    /// Asks for the twiddles of a later pair: streams of twiddles are too many and too short for the hardware.
    #[inline]
    #[target_feature(enable = "avx512f,avx512ifma,avx512dq,avx512vl,avx512bw")]
    fn prefetch(self, pair: usize) {
        for p in [self.twiddle, self.shoup] {
            for step in [8, 4] {
                // A prefetch never faults, even past the end of the table.
                _mm_prefetch::<_MM_HINT_T0>(p.wrapping_add(step * (pair + PREFETCH_PAIRS)).cast());
            }
        }
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

    /// The first four inverse stages of `count` runs of 16 reduced values; ends below 2q.
    ///
    /// # Safety
    /// As for `forward_pairs`.
    #[inline]
    #[target_feature(enable = "avx512f,avx512ifma,avx512dq,avx512vl,avx512bw")]
    unsafe fn inverse_pairs<const SMALL_Q: bool>(self, data: *mut u64, count: usize, pair: usize) {
        let bound = self.bounds::<SMALL_Q>();
        for i in 0..count {
            let pair = pair + i;
            // SAFETY: by the contract of this function.
            unsafe {
                let p = data.add(16 * i);
                self.prefetch(pair);
                _mm_prefetch::<_MM_HINT_T0>(p.wrapping_add(16 * PREFETCH_PAIRS).cast());
                _mm_prefetch::<_MM_HINT_T0>(p.wrapping_add(16 * PREFETCH_PAIRS + 8).cast());
                let (a, b) = deinterleave(load(p), load(p.add(8)));
                let (a, b) = self.inverse(a, b, self.eight(pair), bound[0], SMALL_Q);
                let (a, b) = deinterleave(a, b);
                let (a, b) = self.inverse(a, b, self.four(pair), bound[1], SMALL_Q);
                let (a, b) = deinterleave(a, b);
                let (a, b) = self.inverse(a, b, self.two(pair), bound[2], SMALL_Q);
                let (a, b) = deinterleave(a, b);
                let (a, b) = self.inverse(a, b, self.one(pair), bound[3], SMALL_Q);
                store(p, if SMALL_Q { self.lanes.reduce_lazy(a) } else { a });
                store(p.add(8), b);
            }
        }
    }

    /// Bounds of the values before each stage of an inverse pass.
    #[inline]
    #[target_feature(enable = "avx512f,avx512ifma,avx512dq,avx512vl,avx512bw")]
    fn bounds<const SMALL_Q: bool>(self) -> [V; 4] {
        let b = self.lanes.two_q;
        if SMALL_Q {
            [b, _mm512_slli_epi64::<1>(b), _mm512_slli_epi64::<2>(b), _mm512_slli_epi64::<3>(b)]
        } else {
            [b; 4]
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
                offset!(self, v, SMALL_Q; 0, 1);
                forward!(self, v, self.one(index), SMALL_Q; 0 1);
                keep_rows!(p, stride, v; 0, 1);
            }
        }
    }

    /// 1 inverse stage on one block of 2^log_len values below 2q, ending below 2q; with `last`
    /// (twiddle and Shoup quotient for the first and second half of the outputs) the final stage is scaled and reduced.
    ///
    /// # Safety
    /// As for `forward_2`.
    #[inline]
    #[target_feature(enable = "avx512f,avx512ifma,avx512dq,avx512vl,avx512bw")]
    unsafe fn inverse_2<const SMALL_Q: bool>(
        self,
        data: *mut u64,
        log_len: u32,
        index: usize,
        last: Option<[(V, V); 2]>,
    ) {
        let stride = 1usize << (log_len - 1);
        let bound = self.bounds::<SMALL_Q>();
        for column in (0..stride).step_by(8) {
            // SAFETY: by the contract of this function.
            unsafe {
                let p = data.add(column);
                let mut v = rows!(p, stride; 0, 1);
                match last {
                    None => {
                        inverse!(self, v, self.one(index), bound[0], SMALL_Q; 0 1);
                        if SMALL_Q {
                            lazy!(self, v; 0);
                        }
                    }
                    Some(scale) => {
                        scaled!(self, v, scale, bound[0]; 0 1);
                    }
                }
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

    /// 2 inverse stages on one block of 2^log_len values below 2q, ending below 2q; with `last`
    /// (twiddle and Shoup quotient for the first and second half of the outputs) the final stage is scaled and reduced.
    ///
    /// # Safety
    /// As for `forward_4`.
    #[inline]
    #[target_feature(enable = "avx512f,avx512ifma,avx512dq,avx512vl,avx512bw")]
    unsafe fn inverse_4<const SMALL_Q: bool>(
        self,
        data: *mut u64,
        log_len: u32,
        index: usize,
        last: Option<[(V, V); 2]>,
    ) {
        let stride = 1usize << (log_len - 2);
        let bound = self.bounds::<SMALL_Q>();
        for column in (0..stride).step_by(8) {
            // SAFETY: by the contract of this function.
            unsafe {
                let p = data.add(column);
                let mut v = rows!(p, stride; 0, 1, 2, 3);
                inverse!(self, v, self.one(2 * index), bound[0], SMALL_Q; 0 1);
                inverse!(self, v, self.one(2 * index + 1), bound[0], SMALL_Q; 2 3);
                match last {
                    None => {
                        inverse!(self, v, self.one(index), bound[1], SMALL_Q; 0 2, 1 3);
                        if SMALL_Q {
                            lazy!(self, v; 0, 1);
                        }
                    }
                    Some(scale) => {
                        scaled!(self, v, scale, bound[1]; 0 2, 1 3);
                    }
                }
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

    /// 3 inverse stages on one block of 2^log_len values below 2q, ending below 2q; with `last`
    /// (twiddle and Shoup quotient for the first and second half of the outputs) the final stage is scaled and reduced.
    ///
    /// # Safety
    /// As for `forward_8`.
    #[inline]
    #[target_feature(enable = "avx512f,avx512ifma,avx512dq,avx512vl,avx512bw")]
    unsafe fn inverse_8<const SMALL_Q: bool>(
        self,
        data: *mut u64,
        log_len: u32,
        index: usize,
        last: Option<[(V, V); 2]>,
    ) {
        let stride = 1usize << (log_len - 3);
        let bound = self.bounds::<SMALL_Q>();
        for column in (0..stride).step_by(8) {
            // SAFETY: by the contract of this function.
            unsafe {
                let p = data.add(column);
                let mut v = rows!(p, stride; 0, 1, 2, 3, 4, 5, 6, 7);
                inverse!(self, v, self.one(4 * index), bound[0], SMALL_Q; 0 1);
                inverse!(self, v, self.one(4 * index + 1), bound[0], SMALL_Q; 2 3);
                inverse!(self, v, self.one(4 * index + 2), bound[0], SMALL_Q; 4 5);
                inverse!(self, v, self.one(4 * index + 3), bound[0], SMALL_Q; 6 7);
                inverse!(self, v, self.one(2 * index), bound[1], SMALL_Q; 0 2, 1 3);
                inverse!(self, v, self.one(2 * index + 1), bound[1], SMALL_Q; 4 6, 5 7);
                match last {
                    None => {
                        inverse!(self, v, self.one(index), bound[2], SMALL_Q; 0 4, 1 5, 2 6, 3 7);
                        if SMALL_Q {
                            lazy!(self, v; 0, 1, 2, 3);
                        }
                    }
                    Some(scale) => {
                        scaled!(self, v, scale, bound[2]; 0 4, 1 5, 2 6, 3 7);
                    }
                }
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
                forward!(self, v, self.one(index), SMALL_Q; 0 8, 1 9, 2 10, 3 11, 4 12, 5 13, 6 14, 7 15);
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

    /// 4 inverse stages on one block of 2^log_len values below 2q, ending below 2q; with `last`
    /// (twiddle and Shoup quotient for the first and second half of the outputs) the final stage is scaled and reduced.
    ///
    /// # Safety
    /// As for `forward_16`.
    #[inline]
    #[target_feature(enable = "avx512f,avx512ifma,avx512dq,avx512vl,avx512bw")]
    unsafe fn inverse_16<const SMALL_Q: bool>(
        self,
        data: *mut u64,
        log_len: u32,
        index: usize,
        last: Option<[(V, V); 2]>,
    ) {
        let stride = 1usize << (log_len - 4);
        let bound = self.bounds::<SMALL_Q>();
        for column in (0..stride).step_by(8) {
            // SAFETY: by the contract of this function.
            unsafe {
                let p = data.add(column);
                let mut v = rows!(p, stride; 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
                inverse!(self, v, self.one(8 * index), bound[0], SMALL_Q; 0 1);
                inverse!(self, v, self.one(8 * index + 1), bound[0], SMALL_Q; 2 3);
                inverse!(self, v, self.one(8 * index + 2), bound[0], SMALL_Q; 4 5);
                inverse!(self, v, self.one(8 * index + 3), bound[0], SMALL_Q; 6 7);
                inverse!(self, v, self.one(8 * index + 4), bound[0], SMALL_Q; 8 9);
                inverse!(self, v, self.one(8 * index + 5), bound[0], SMALL_Q; 10 11);
                inverse!(self, v, self.one(8 * index + 6), bound[0], SMALL_Q; 12 13);
                inverse!(self, v, self.one(8 * index + 7), bound[0], SMALL_Q; 14 15);
                inverse!(self, v, self.one(4 * index), bound[1], SMALL_Q; 0 2, 1 3);
                inverse!(self, v, self.one(4 * index + 1), bound[1], SMALL_Q; 4 6, 5 7);
                inverse!(self, v, self.one(4 * index + 2), bound[1], SMALL_Q; 8 10, 9 11);
                inverse!(self, v, self.one(4 * index + 3), bound[1], SMALL_Q; 12 14, 13 15);
                inverse!(self, v, self.one(2 * index), bound[2], SMALL_Q; 0 4, 1 5, 2 6, 3 7);
                inverse!(self, v, self.one(2 * index + 1), bound[2], SMALL_Q; 8 12, 9 13, 10 14, 11 15);
                match last {
                    None => {
                        inverse!(self, v, self.one(index), bound[3], SMALL_Q; 0 8, 1 9, 2 10, 3 11, 4 12, 5 13, 6 14, 7 15);
                        if SMALL_Q {
                            lazy!(self, v; 0, 1, 2, 3, 4, 5, 6, 7);
                        }
                    }
                    Some(scale) => {
                        scaled!(self, v, scale, bound[3]; 0 8, 1 9, 2 10, 3 11, 4 12, 5 13, 6 14, 7 15);
                    }
                }
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

    /// The inverse of `forward_run`, values reduced before and below 2q after.
    ///
    /// # Safety
    /// As for `forward_16`.
    #[target_feature(enable = "avx512f,avx512ifma,avx512dq,avx512vl,avx512bw")]
    unsafe fn inverse_run<const SMALL_Q: bool>(self, data: *mut u64, log_len: u32, index: usize) {
        // SAFETY: every sub-block lies inside the block.
        unsafe {
            if log_len > LOG_RUN {
                for b in 0..16 {
                    self.inverse_run::<SMALL_Q>(data.add(b << (log_len - 4)), log_len - 4, 16 * index + b);
                }
                return self.inverse_16::<SMALL_Q>(data, log_len, index, None);
            }
            let (mut log, mut blocks) = (4, 1usize << (log_len - 4));
            self.inverse_pairs::<SMALL_Q>(data, blocks, blocks * index);
            while log < log_len {
                (log, blocks) = (log + 4, blocks / 16);
                for b in 0..blocks {
                    self.inverse_16::<SMALL_Q>(data.add(b << log), log, blocks * index + b, None);
                }
            }
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

/// See `Backend::intt`.
#[target_feature(enable = "avx512f,avx512ifma,avx512dq,avx512vl,avx512bw")]
pub(super) fn inverse(table: &NttTable, data: &mut [u64], scale: u64) {
    let log_n = data.len().trailing_zeros();
    assert!(data.len().is_power_of_two() && log_n <= table.log_n);
    if log_n < 5 {
        return scalar_ntt::inverse(table, data, scale);
    }
    let q = table.modulus;
    let (twiddles, quotients) = table.inverse();
    let context = Context { lanes: Lanes::new(q), twiddle: twiddles.as_ptr(), shoup: quotients.as_ptr() };
    // 1/N and the scale ride on the last stage: one factor for the sums, one for the differences.
    let sum = q.mul(scale, q.inverse(data.len() as u64));
    let last = [sum, q.mul(sum, twiddles[1])].map(|w| (splat(w), splat(q.shoup(w))));
    // SAFETY: the data has 2^log_n values and the table at least as many twiddles.
    unsafe {
        if q.value() < SMALL {
            inverse_all::<true>(context, data.as_mut_ptr(), log_n, last);
        } else {
            inverse_all::<false>(context, data.as_mut_ptr(), log_n, last);
        }
    }
}

/// # Safety
/// As for `forward_all`.
#[target_feature(enable = "avx512f,avx512ifma,avx512dq,avx512vl,avx512bw")]
unsafe fn inverse_all<const SMALL_Q: bool>(context: Context, data: *mut u64, log_n: u32, last: [(V, V); 2]) {
    // SAFETY: by the contract of this function.
    unsafe {
        let first = (log_n - 1) % 4 + 1;
        let log_len = log_n - first;
        for b in 0..1 << first {
            context.inverse_run::<SMALL_Q>(data.add(b << log_len), log_len, (1 << first) + b);
        }
        match first {
            1 => context.inverse_2::<SMALL_Q>(data, log_n, 1, Some(last)),
            2 => context.inverse_4::<SMALL_Q>(data, log_n, 1, Some(last)),
            3 => context.inverse_8::<SMALL_Q>(data, log_n, 1, Some(last)),
            _ => context.inverse_16::<SMALL_Q>(data, log_n, 1, Some(last)),
        }
    }
}
