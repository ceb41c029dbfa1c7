//! The inverse half of the AVX-512 IFMA NTT; see `avx512ifma_ntt` for the ranges.
//!
//! From 2^45 on, the inputs of a butterfly have opposite signs: (x, -y), or (-x, y) where its outputs are to be
//! negated. So the value to multiply is their sum, which needs no offset, and the other output their difference, whose
//! sign is a bit. A block is negated when its index (see `NttTable`, without the leading one) has an odd number of
//! ones, which gives the two blocks that meet opposite signs and the whole a positive one; the first stage, whose
//! inputs come with their own signs, negates.
//!
//! Below 2^45 every first addend exceeds the second, because it carries an offset of 2q (2^k - 1), where k is in how
//! many stages of the pass running the value is a first addend. Products are born with theirs, the others get them when
//! a pass begins. With 15, 7, 3 and 1 times 2q on 16 values, all sums stay below 64q < 2^52.

use std::arch::x86_64::*;

use super::avx512ifma_lane::{V, load, splat, store};
use super::avx512ifma_ntt::{Context, LOG_RUN, PREFETCH_PAIRS, SMALL, keep_rows, rows};
use super::scalar_ntt;
use crate::NttTable;

/// Inverse butterflies that share a twiddle; `$k` says which offset the product carries.
macro_rules! inverse {
    ($c:ident, $v:ident, $w:expr, $small:expr; $($a:literal $b:literal $k:literal),*) => {
        let w = $w;
        $(($v[$a], $v[$b]) = $c.inverse($v[$a], $v[$b], w, $c.offset[$k], $small);)*
    };
}

/// Offsets of the values with which a pass begins, for small primes.
macro_rules! offset {
    ($c:ident, $v:ident; $($i:literal $k:literal),*) => { $($v[$i] = _mm512_add_epi64($v[$i], $c.offset[$k]);)* };
}

/// Brings values, right in their low 52 bits, to [0, 2q) modulo 2^52.
macro_rules! lazy {
    ($c:ident, $v:ident; $($i:literal),*) => { $($v[$i] = $c.lanes.reduce_modulo($v[$i]);)* };
}

/// The final inverse stage, scaled and fully reduced.
macro_rules! scaled {
    ($c:ident, $v:ident, $scale:ident, $small:expr; $($a:literal $b:literal),*) => {
        $(($v[$a], $v[$b]) = $c.scaled($v[$a], $v[$b], $scale, $small);)*
    };
}

/// The inverse of the perfect shuffle of two vectors.
#[inline]
#[target_feature(enable = "avx512f,avx512ifma,avx512dq,avx512vl,avx512bw")]
fn deinterleave(a: V, b: V) -> (V, V) {
    let even = _mm512_setr_epi64(0, 2, 4, 6, 8, 10, 12, 14);
    let odd = _mm512_setr_epi64(1, 3, 5, 7, 9, 11, 13, 15);
    (_mm512_permutex2var_epi64(a, even, b), _mm512_permutex2var_epi64(a, odd, b))
}

/// Which of eight neighbouring butterflies of the first stage give negated outputs: those with an odd number of ones
/// in their index. Behind a block that is negated itself it is the others.
const NEGATED: [u8; 2] = [0b1001_0110, 0b0110_1001];

/// The first shuffle: lanes of the addends and of the others, exchanged where the outputs are negated. Behind a negated
/// block the two change places.
const FIRST: [[i64; 8]; 2] = [[0, 3, 5, 6, 9, 10, 12, 15], [1, 2, 4, 7, 8, 11, 13, 14]];

/// What the values of the first, second and third stage of a run carry for small primes, in units of 2q: as on the
/// lines of a pass, with the lane for the index.
const LANE_OFFSETS: [[i64; 8]; 3] = [[7, 0, 1, 0, 3, 0, 1, 0], [3, 0, 1, 0, 3, 0, 1, 0], [1, 0, 1, 0, 1, 0, 1, 0]];

impl Context {
    /// Inputs as above, in the low 52 bits as the outputs. The product is below 2q, plus `offset` for small primes.
    #[inline]
    #[target_feature(enable = "avx512f,avx512ifma,avx512dq,avx512vl,avx512bw")]
    fn inverse(self, x: V, y: V, (w, shoup): (V, V), offset: V, small: bool) -> (V, V) {
        let m = self.lanes;
        let (sum, difference) = (_mm512_add_epi64(x, y), _mm512_sub_epi64(x, y));
        if small {
            return (sum, m.mul_modulo(offset, difference, w, shoup));
        }
        // From -2q to 2q, so that bit 51 is the sign.
        let negative = _mm512_test_epi64_mask(difference, splat(1 << 51));
        let addend = _mm512_mask_add_epi64(difference, negative, difference, m.two_q);
        (addend, m.mul_modulo(_mm512_setzero_si512(), sum, w, shoup))
    }

    /// As `inverse`, for the last stage of all.
    #[inline]
    #[target_feature(enable = "avx512f,avx512ifma,avx512dq,avx512vl,avx512bw")]
    fn scaled(self, x: V, y: V, scale: [(V, V); 2], small: bool) -> (V, V) {
        let (sum, difference) = (_mm512_add_epi64(x, y), _mm512_sub_epi64(x, y));
        let values = if small { [sum, difference] } else { [_mm512_add_epi64(difference, self.lanes.two_q), sum] };
        let reduced = |value, (w, shoup)| self.lanes.fold(self.lanes.mul_lazy(value, w, shoup), self.lanes.q);
        (reduced(values[0], scale[0]), reduced(values[1], scale[1]))
    }

    /// The first stage of a run of 16 reduced values at `p`, whose outputs are as `inverse` takes them; those of small
    /// primes carry `offset`.
    ///
    /// # Safety
    /// 16 values are at `p`; the table covers 8 * (pair + 1) twiddles.
    #[inline]
    #[target_feature(enable = "avx512f,avx512ifma,avx512dq,avx512vl,avx512bw")]
    unsafe fn inverse_first<const SMALL_Q: bool>(self, p: *const u64, pair: usize, offset: V) -> (V, V) {
        // SAFETY: by the contract of this function.
        let (low, high, (w, shoup)) = unsafe { (load(p), load(p.add(8)), self.eight(pair)) };
        let m = self.lanes;
        // The index of a block of 16 values with its leading one has an odd number of ones where the block is positive.
        let sign = if SMALL_Q { 0 } else { (pair.count_ones() as usize + 1) % 2 };
        let (x, y) = if SMALL_Q {
            deinterleave(low, high)
        } else {
            // SAFETY: both are eight words.
            let at = [FIRST[sign], FIRST[1 - sign]].map(|at| unsafe { load(at.as_ptr().cast()) });
            (_mm512_permutex2var_epi64(low, at[0], high), _mm512_permutex2var_epi64(low, at[1], high))
        };
        let difference = _mm512_sub_epi64(_mm512_add_epi64(x, m.q), y);
        let sum = _mm512_add_epi64(x, y);
        if SMALL_Q {
            return (_mm512_add_epi64(sum, offset), m.mul_modulo(offset, difference, w, shoup));
        }
        let sum = _mm512_mask_sub_epi64(sum, NEGATED[sign], m.two_q, sum);
        (sum, m.mul_modulo(_mm512_setzero_si512(), difference, w, shoup))
    }

    /// The first four inverse stages of `count` runs of 16 reduced values; ends at most 2q modulo 2^52, or negated.
    ///
    /// # Safety
    /// As for `forward_pairs`.
    #[inline]
    #[target_feature(enable = "avx512f,avx512ifma,avx512dq,avx512vl,avx512bw")]
    unsafe fn inverse_pairs<const SMALL_Q: bool>(self, data: *mut u64, count: usize, pair: usize) {
        let offset = LANE_OFFSETS.map(|times| {
            // SAFETY: it is eight words.
            _mm512_mullo_epi64(self.lanes.two_q, unsafe { load(times.as_ptr().cast()) })
        });
        for i in 0..count {
            let pair = pair + i;
            // SAFETY: by the contract of this function.
            unsafe {
                let p = data.add(16 * i);
                self.prefetch(pair);
                _mm_prefetch::<_MM_HINT_T0>(p.wrapping_add(16 * PREFETCH_PAIRS).cast());
                _mm_prefetch::<_MM_HINT_T0>(p.wrapping_add(16 * PREFETCH_PAIRS + 8).cast());
                let (a, b) = self.inverse_first::<SMALL_Q>(p, pair, offset[0]);
                let (a, b) = deinterleave(a, b);
                let (a, b) = self.inverse(a, b, self.four(pair), offset[1], SMALL_Q);
                let (a, b) = deinterleave(a, b);
                let (a, b) = self.inverse(a, b, self.two(pair), offset[2], SMALL_Q);
                let (a, b) = deinterleave(a, b);
                let (a, b) = self.inverse(a, b, self.one(pair), self.offset[0], SMALL_Q);
                store(p, if SMALL_Q { self.lanes.reduce_modulo(a) } else { a });
                store(p.add(8), b);
            }
        }
    }

    /// The only pass of one stage is the last of all: on 2^log_n values, scaled (twiddle and Shoup quotient for the first
    /// and second half of the outputs) and reduced.
    ///
    /// # Safety
    /// As for `forward_2`.
    #[inline]
    #[target_feature(enable = "avx512f,avx512ifma,avx512dq,avx512vl,avx512bw")]
    unsafe fn inverse_2<const SMALL_Q: bool>(self, data: *mut u64, log_n: u32, scale: [(V, V); 2]) {
        let stride = 1usize << (log_n - 1);
        for column in (0..stride).step_by(8) {
            // SAFETY: by the contract of this function.
            unsafe {
                let p = data.add(column);
                let mut v = rows!(p, stride; 0, 1);
                if SMALL_Q {
                    offset!(self, v; 0 1);
                }
                scaled!(self, v, scale, SMALL_Q; 0 1);
                keep_rows!(p, stride, v; 0, 1);
            }
        }
    }

    /// As `inverse_2`, for 2 stages.
    ///
    /// # Safety
    /// As for `forward_4`.
    #[inline]
    #[target_feature(enable = "avx512f,avx512ifma,avx512dq,avx512vl,avx512bw")]
    unsafe fn inverse_4<const SMALL_Q: bool>(self, data: *mut u64, log_n: u32, scale: [(V, V); 2]) {
        let stride = 1usize << (log_n - 2);
        for column in (0..stride).step_by(8) {
            // SAFETY: by the contract of this function.
            unsafe {
                let p = data.add(column);
                let mut v = rows!(p, stride; 0, 1, 2, 3);
                if SMALL_Q {
                    offset!(self, v; 0 2, 2 1);
                }
                inverse!(self, v, self.one(2), SMALL_Q; 0 1 1);
                inverse!(self, v, self.one(3), SMALL_Q; 2 3 0);
                scaled!(self, v, scale, SMALL_Q; 0 2, 1 3);
                keep_rows!(p, stride, v; 0, 1, 2, 3);
            }
        }
    }

    /// As `inverse_2`, for 3 stages.
    ///
    /// # Safety
    /// As for `forward_8`.
    #[inline]
    #[target_feature(enable = "avx512f,avx512ifma,avx512dq,avx512vl,avx512bw")]
    unsafe fn inverse_8<const SMALL_Q: bool>(self, data: *mut u64, log_n: u32, scale: [(V, V); 2]) {
        let stride = 1usize << (log_n - 3);
        for column in (0..stride).step_by(8) {
            // SAFETY: by the contract of this function.
            unsafe {
                let p = data.add(column);
                let mut v = rows!(p, stride; 0, 1, 2, 3, 4, 5, 6, 7);
                if SMALL_Q {
                    offset!(self, v; 0 3, 2 1, 4 2, 6 1);
                }
                inverse!(self, v, self.one(4), SMALL_Q; 0 1 2);
                inverse!(self, v, self.one(5), SMALL_Q; 2 3 0);
                inverse!(self, v, self.one(6), SMALL_Q; 4 5 1);
                inverse!(self, v, self.one(7), SMALL_Q; 6 7 0);
                inverse!(self, v, self.one(2), SMALL_Q; 0 2 1, 1 3 1);
                inverse!(self, v, self.one(3), SMALL_Q; 4 6 0, 5 7 0);
                scaled!(self, v, scale, SMALL_Q; 0 4, 1 5, 2 6, 3 7);
                keep_rows!(p, stride, v; 0, 1, 2, 3, 4, 5, 6, 7);
            }
        }
    }

    /// 4 inverse stages on one block of 2^log_len values as `lazy!` leaves them, ending likewise; with `last`
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
        for column in (0..stride).step_by(8) {
            // SAFETY: by the contract of this function.
            unsafe {
                let p = data.add(column);
                let mut v = rows!(p, stride; 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
                if SMALL_Q {
                    offset!(self, v; 0 4, 2 1, 4 2, 6 1, 8 3, 10 1, 12 2, 14 1);
                }
                inverse!(self, v, self.one(8 * index), SMALL_Q; 0 1 3);
                inverse!(self, v, self.one(8 * index + 1), SMALL_Q; 2 3 0);
                inverse!(self, v, self.one(8 * index + 2), SMALL_Q; 4 5 1);
                inverse!(self, v, self.one(8 * index + 3), SMALL_Q; 6 7 0);
                inverse!(self, v, self.one(8 * index + 4), SMALL_Q; 8 9 2);
                inverse!(self, v, self.one(8 * index + 5), SMALL_Q; 10 11 0);
                inverse!(self, v, self.one(8 * index + 6), SMALL_Q; 12 13 1);
                inverse!(self, v, self.one(8 * index + 7), SMALL_Q; 14 15 0);
                inverse!(self, v, self.one(4 * index), SMALL_Q; 0 2 2, 1 3 2);
                inverse!(self, v, self.one(4 * index + 1), SMALL_Q; 4 6 0, 5 7 0);
                inverse!(self, v, self.one(4 * index + 2), SMALL_Q; 8 10 1, 9 11 1);
                inverse!(self, v, self.one(4 * index + 3), SMALL_Q; 12 14 0, 13 15 0);
                inverse!(self, v, self.one(2 * index), SMALL_Q; 0 4 1, 1 5 1, 2 6 1, 3 7 1);
                inverse!(self, v, self.one(2 * index + 1), SMALL_Q; 8 12 0, 9 13 0, 10 14 0, 11 15 0);
                match last {
                    None => {
                        inverse!(self, v, self.one(index), SMALL_Q; 0 8 0, 1 9 0, 2 10 0, 3 11 0, 4 12 0, 5 13 0, 6 14 0, 7 15 0);
                        if SMALL_Q {
                            lazy!(self, v; 0, 1, 2, 3, 4, 5, 6, 7);
                        }
                    }
                    Some(scale) => {
                        scaled!(self, v, scale, SMALL_Q; 0 8, 1 9, 2 10, 3 11, 4 12, 5 13, 6 14, 7 15);
                    }
                }
                keep_rows!(p, stride, v; 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
            }
        }
    }

    /// The inverse of `forward_run`, values reduced before and as `lazy!` leaves them after. They come from `from`, run
    /// by run, so that a copy costs no pass of its own.
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
    let context = Context::new(q, table.inverse());
    // 1/N and the scale ride on the last stage: one factor for the sums, one for the differences.
    let sum = q.mul(scale, q.inverse(data.len() as u64));
    let last = [sum, q.mul(sum, table.inverse().0[1])].map(|w| (splat(w), splat(q.shoup(w))));
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
            1 => context.inverse_2::<SMALL_Q>(data, log_n, last),
            2 => context.inverse_4::<SMALL_Q>(data, log_n, last),
            3 => context.inverse_8::<SMALL_Q>(data, log_n, last),
            _ => context.inverse_16::<SMALL_Q>(data, log_n, 1, Some(last)),
        }
    }
}
