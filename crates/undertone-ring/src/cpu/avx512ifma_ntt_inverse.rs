//! The inverse half of the AVX-512 IFMA NTT; see `avx512ifma_ntt` for the ranges.

use std::arch::x86_64::*;

use super::avx512ifma_lane::{Lanes, V, load, splat, store};
use super::avx512ifma_ntt::{Context, LOG_RUN, PREFETCH_PAIRS, SMALL, keep_rows, rows};
use super::scalar_ntt;
use crate::NttTable;

/// Inverse butterflies that share a twiddle; `$kind` tells what their inputs are.
macro_rules! inverse {
    ($c:ident, $v:ident, $w:expr, $bound:expr, $small:expr; $($a:literal $b:literal $kind:ident),*) => {
        let w = $w;
        $(($v[$a], $v[$b]) = $c.inverse($v[$a], $v[$b], w, $bound, $small, Inputs::$kind);)*
    };
}

/// What memory takes of the products of a pass.
macro_rules! exact {
    ($c:ident, $v:ident; $($i:literal),*) => { $($v[$i] = $c.lanes.exact($v[$i]);)* };
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

/// The inverse of the perfect shuffle of two vectors.
#[inline]
#[target_feature(enable = "avx512f,avx512ifma,avx512dq,avx512vl,avx512bw")]
fn deinterleave(a: V, b: V) -> (V, V) {
    let even = _mm512_setr_epi64(0, 2, 4, 6, 8, 10, 12, 14);
    let odd = _mm512_setr_epi64(1, 3, 5, 7, 9, 11, 13, 15);
    (_mm512_permutex2var_epi64(a, even, b), _mm512_permutex2var_epi64(a, odd, b))
}

/// What both inputs of a butterfly are.
#[derive(Clone, Copy)]
enum Inputs {
    /// The values themselves.
    Exact,
    /// Products, right in the low 52 bits: enough for a difference that is multiplied, while a sum is masked.
    Products,
}

impl Context {
    /// Inputs below `bound`, a multiple of q; the sum is below twice that when `small`, else below 2q, and the product
    /// below 2q in its low 52 bits.
    #[inline]
    #[target_feature(enable = "avx512f,avx512ifma,avx512dq,avx512vl,avx512bw")]
    fn inverse(self, x: V, y: V, (w, shoup): (V, V), bound: V, small: bool, inputs: Inputs) -> (V, V) {
        let sum = _mm512_add_epi64(x, y);
        let difference = _mm512_sub_epi64(_mm512_add_epi64(x, bound), y);
        let product = self.lanes.mul_modulo(_mm512_setzero_si512(), difference, w, shoup);
        let sum = match inputs {
            _ if small => sum,
            Inputs::Exact => self.lanes.fold(sum, bound),
            Inputs::Products => self.lanes.fold(self.lanes.exact(sum), bound),
        };
        (sum, product)
    }

    /// A butterfly between shuffles, where sums and products meet; `first` tells that the inputs are reduced, so that
    /// their sum is below 2q as it is.
    #[inline]
    #[target_feature(enable = "avx512f,avx512ifma,avx512dq,avx512vl,avx512bw")]
    fn inverse_pair<const SMALL_Q: bool>(self, (x, y): (V, V), twiddle: (V, V), bound: V, first: bool) -> (V, V) {
        let (sum, product) = self.inverse(x, y, twiddle, bound, SMALL_Q || first, Inputs::Exact);
        (sum, if SMALL_Q { product } else { self.lanes.exact(product) })
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
                let start = deinterleave(load(p), load(p.add(8)));
                let (a, b) = self.inverse_pair::<SMALL_Q>(start, self.eight(pair), bound[0], true);
                let (a, b) = self.inverse_pair::<SMALL_Q>(deinterleave(a, b), self.four(pair), bound[1], false);
                let (a, b) = self.inverse_pair::<SMALL_Q>(deinterleave(a, b), self.two(pair), bound[2], false);
                let (a, b) = self.inverse_pair::<SMALL_Q>(deinterleave(a, b), self.one(pair), bound[3], false);
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
                        inverse!(self, v, self.one(index), bound[0], SMALL_Q; 0 1 Exact);
                        if SMALL_Q {
                            lazy!(self, v; 0);
                        } else {
                            exact!(self, v; 1);
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
                inverse!(self, v, self.one(2 * index), bound[0], SMALL_Q; 0 1 Exact);
                inverse!(self, v, self.one(2 * index + 1), bound[0], SMALL_Q; 2 3 Exact);
                match last {
                    None => {
                        inverse!(self, v, self.one(index), bound[1], SMALL_Q; 0 2 Exact, 1 3 Products);
                        if SMALL_Q {
                            lazy!(self, v; 0, 1);
                        } else {
                            exact!(self, v; 2, 3);
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
                inverse!(self, v, self.one(4 * index), bound[0], SMALL_Q; 0 1 Exact);
                inverse!(self, v, self.one(4 * index + 1), bound[0], SMALL_Q; 2 3 Exact);
                inverse!(self, v, self.one(4 * index + 2), bound[0], SMALL_Q; 4 5 Exact);
                inverse!(self, v, self.one(4 * index + 3), bound[0], SMALL_Q; 6 7 Exact);
                inverse!(self, v, self.one(2 * index), bound[1], SMALL_Q; 0 2 Exact, 1 3 Products);
                inverse!(self, v, self.one(2 * index + 1), bound[1], SMALL_Q; 4 6 Exact, 5 7 Products);
                match last {
                    None => {
                        inverse!(self, v, self.one(index), bound[2], SMALL_Q; 0 4 Exact, 1 5 Exact, 2 6 Products, 3 7 Products);
                        if SMALL_Q {
                            lazy!(self, v; 0, 1, 2, 3);
                        } else {
                            exact!(self, v; 4, 5, 6, 7);
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
                inverse!(self, v, self.one(8 * index), bound[0], SMALL_Q; 0 1 Exact);
                inverse!(self, v, self.one(8 * index + 1), bound[0], SMALL_Q; 2 3 Exact);
                inverse!(self, v, self.one(8 * index + 2), bound[0], SMALL_Q; 4 5 Exact);
                inverse!(self, v, self.one(8 * index + 3), bound[0], SMALL_Q; 6 7 Exact);
                inverse!(self, v, self.one(8 * index + 4), bound[0], SMALL_Q; 8 9 Exact);
                inverse!(self, v, self.one(8 * index + 5), bound[0], SMALL_Q; 10 11 Exact);
                inverse!(self, v, self.one(8 * index + 6), bound[0], SMALL_Q; 12 13 Exact);
                inverse!(self, v, self.one(8 * index + 7), bound[0], SMALL_Q; 14 15 Exact);
                inverse!(self, v, self.one(4 * index), bound[1], SMALL_Q; 0 2 Exact, 1 3 Products);
                inverse!(self, v, self.one(4 * index + 1), bound[1], SMALL_Q; 4 6 Exact, 5 7 Products);
                inverse!(self, v, self.one(4 * index + 2), bound[1], SMALL_Q; 8 10 Exact, 9 11 Products);
                inverse!(self, v, self.one(4 * index + 3), bound[1], SMALL_Q; 12 14 Exact, 13 15 Products);
                inverse!(self, v, self.one(2 * index), bound[2], SMALL_Q; 0 4 Exact, 1 5 Exact, 2 6 Products, 3 7 Products);
                inverse!(self, v, self.one(2 * index + 1), bound[2], SMALL_Q; 8 12 Exact, 9 13 Exact, 10 14 Products, 11 15 Products);
                match last {
                    None => {
                        inverse!(self, v, self.one(index), bound[3], SMALL_Q; 0 8 Exact, 1 9 Exact, 2 10 Exact, 3 11 Exact, 4 12 Products, 5 13 Products, 6 14 Products, 7 15 Products);
                        if SMALL_Q {
                            lazy!(self, v; 0, 1, 2, 3, 4, 5, 6, 7);
                        } else {
                            exact!(self, v; 8, 9, 10, 11, 12, 13, 14, 15);
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

    /// The inverse of `forward_run`, values reduced before and below 2q after. They come from `from`, run by run, so
    /// that a copy costs no pass of its own.
    ///
    /// # Safety
    /// As for `forward_16`; `from` is `data` or as much memory apart from it.
    #[target_feature(enable = "avx512f,avx512ifma,avx512dq,avx512vl,avx512bw")]
    unsafe fn inverse_run<const SMALL_Q: bool>(self, data: *mut u64, from: *const u64, log_len: u32, index: usize) {
        // SAFETY: every sub-block lies inside the block.
        unsafe {
            if log_len > LOG_RUN {
                for b in 0..16 {
                    let start = b << (log_len - 4);
                    self.inverse_run::<SMALL_Q>(data.add(start), from.add(start), log_len - 4, 16 * index + b);
                }
                return self.inverse_16::<SMALL_Q>(data, log_len, index, None);
            }
            if !std::ptr::eq(from, data) {
                std::ptr::copy_nonoverlapping(from, data, 1 << log_len);
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

/// See `Backend::intt`; with `source`, `Backend::intt_of`.
#[target_feature(enable = "avx512f,avx512ifma,avx512dq,avx512vl,avx512bw")]
pub(super) fn inverse(table: &NttTable, data: &mut [u64], source: Option<&[u64]>, scale: u64) {
    let log_n = data.len().trailing_zeros();
    assert!(data.len().is_power_of_two() && log_n <= table.log_n);
    assert!(source.is_none_or(|source| source.len() == data.len()));
    if log_n < 5 {
        if let Some(source) = source {
            data.copy_from_slice(source);
        }
        return scalar_ntt::inverse(table, data, scale);
    }
    let q = table.modulus;
    let (twiddles, quotients) = table.inverse();
    let context = Context { lanes: Lanes::new(q), twiddle: twiddles.as_ptr(), shoup: quotients.as_ptr() };
    // 1/N and the scale ride on the last stage: one factor for the sums, one for the differences.
    let sum = q.mul(scale, q.inverse(data.len() as u64));
    let last = [sum, q.mul(sum, twiddles[1])].map(|w| (splat(w), splat(q.shoup(w))));
    let data = data.as_mut_ptr();
    let from = source.map_or(data.cast_const(), <[u64]>::as_ptr);
    // SAFETY: data and source have 2^log_n values and the table at least as many twiddles.
    unsafe {
        if q.value() < SMALL {
            inverse_all::<true>(context, data, from, log_n, last);
        } else {
            inverse_all::<false>(context, data, from, log_n, last);
        }
    }
}

/// # Safety
/// As for `forward_all`, and for `inverse_run` as to `from`.
#[target_feature(enable = "avx512f,avx512ifma,avx512dq,avx512vl,avx512bw")]
unsafe fn inverse_all<const SMALL_Q: bool>(
    context: Context,
    data: *mut u64,
    from: *const u64,
    log_n: u32,
    last: [(V, V); 2],
) {
    // SAFETY: by the contract of this function.
    unsafe {
        let first = (log_n - 1) % 4 + 1;
        let log_len = log_n - first;
        for b in 0..1 << first {
            let start = b << log_len;
            context.inverse_run::<SMALL_Q>(data.add(start), from.add(start), log_len, (1 << first) + b);
        }
        match first {
            1 => context.inverse_2::<SMALL_Q>(data, log_n, 1, Some(last)),
            2 => context.inverse_4::<SMALL_Q>(data, log_n, 1, Some(last)),
            3 => context.inverse_8::<SMALL_Q>(data, log_n, 1, Some(last)),
            _ => context.inverse_16::<SMALL_Q>(data, log_n, 1, Some(last)),
        }
    }
}
