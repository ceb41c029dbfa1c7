//! The forward half of the AVX2 NTT; `avx2_ntt` explains the bounds, which are in units of q.
//!
//! Small primes: inputs are below 1 and each of at most 17 stages takes a bound B to B + 1/2 + B/64, ending below 11.
//! Other primes: the first pass ends below 3.2. A radix-8 pass shrinks the four values that its first stage only adds
//! to, so that values below 3.2 reach 1/2 + 0.9 = 1.4, then 2.08 and 2.84. The last four stages start with
//! all values shrunk and reach 1.13, 1.91, with the values only added to shrunk again 1.48, and 2.35.

use std::arch::x86_64::*;

use super::avx2_lane::{F, Lanes, store};
use super::avx2_ntt::{Context, LOG_RUN, SMALL, keep_rows, load_row, rows, shrink, transpose, transpose_back};
use super::scalar_ntt;
use crate::NttTable;

/// Forward butterflies that share a twiddle.
macro_rules! forward {
    ($c:ident, $v:ident, $w:expr; $($a:literal $b:literal),*) => {
        let w = $w;
        $(($v[$a], $v[$b]) = $c.forward($v[$a], $v[$b], w);)*
    };
}

impl Context {
    #[inline]
    #[target_feature(enable = "avx2,fma")]
    fn forward(self, x: F, y: F, w: F) -> (F, F) {
        let t = self.lanes.mul_lazy(y, w);
        (_mm256_add_pd(x, t), _mm256_sub_pd(x, t))
    }

    /// The last four forward stages of `count` runs of 16 values; ends with reduced words.
    ///
    /// # Safety
    /// `data` holds 16 * count values; the table covers 8 * (run + count) twiddles.
    #[inline]
    #[target_feature(enable = "avx2,fma")]
    unsafe fn forward_ends<const SMALL_Q: bool>(self, data: *mut u64, count: usize, run: usize) {
        for i in 0..count {
            let run = run + i;
            // SAFETY: by the contract of this function.
            unsafe {
                let p = data.add(16 * i);
                let mut v = rows!(p, 4, false; 0, 1, 2, 3);
                if !SMALL_Q {
                    shrink!(self, v; 0, 1, 2, 3);
                }
                forward!(self, v, self.one(run); 0 2, 1 3);
                forward!(self, v, self.one(2 * run); 0 1);
                forward!(self, v, self.one(2 * run + 1); 2 3);
                let mut v = transpose(v);
                if !SMALL_Q {
                    shrink!(self, v; 0, 1);
                }
                forward!(self, v, self.four(run); 0 2, 1 3);
                let [even, odd] = self.eight(run);
                forward!(self, v, even; 0 1);
                forward!(self, v, odd; 2 3);
                let v = transpose_back(v.map(|x| _mm256_castsi256_pd(self.lanes.reduce(x))));
                keep_rows!(p, 4, v; 0, 1, 2, 3);
            }
        }
    }

    /// The first forward stage of all, on 2^log_len words.
    ///
    /// # Safety
    /// `data` holds 2^log_len values, log_len >= 3; the table covers the block's twiddles.
    #[inline]
    #[target_feature(enable = "avx2,fma")]
    unsafe fn forward_2<const SMALL_Q: bool>(self, data: *mut u64, log_len: u32) {
        let stride = 1usize << (log_len - 1);
        // SAFETY: by the contract of this function.
        unsafe {
            let w = self.fitted::<SMALL_Q>(self.one(1));
            for column in (0..stride).step_by(4) {
                let p = data.add(column);
                let mut v = rows!(p, stride, true; 0, 1);
                forward!(self, v, w; 0 1);
                keep_rows!(p, stride, v; 0, 1);
            }
        }
    }

    /// The first two forward stages of all, on 2^log_len words.
    ///
    /// # Safety
    /// `data` holds 2^log_len values, log_len >= 4; the table covers the block's twiddles.
    #[inline]
    #[target_feature(enable = "avx2,fma")]
    unsafe fn forward_4<const SMALL_Q: bool>(self, data: *mut u64, log_len: u32) {
        let stride = 1usize << (log_len - 2);
        // SAFETY: by the contract of this function.
        unsafe {
            let w = [1, 2, 3].map(|index| self.fitted::<SMALL_Q>(self.one(index)));
            for column in (0..stride).step_by(4) {
                let p = data.add(column);
                let mut v = rows!(p, stride, true; 0, 1, 2, 3);
                forward!(self, v, w[0]; 0 2, 1 3);
                forward!(self, v, w[1]; 0 1);
                forward!(self, v, w[2]; 2 3);
                keep_rows!(p, stride, v; 0, 1, 2, 3);
            }
        }
    }

    /// Three forward stages on one block of 2^log_len values, words when these are the `FIRST` of all.
    ///
    /// # Safety
    /// `data` holds 2^log_len values, log_len >= 5; the table covers the block's twiddles.
    #[inline]
    #[target_feature(enable = "avx2,fma")]
    unsafe fn forward_8<const SMALL_Q: bool, const FIRST: bool>(self, data: *mut u64, log_len: u32, index: usize) {
        let stride = 1usize << (log_len - 3);
        // SAFETY: by the contract of this function.
        unsafe {
            let w = self.of_block::<SMALL_Q>(index);
            for column in (0..stride).step_by(4) {
                let p = data.add(column);
                let mut v = rows!(p, stride, FIRST; 0, 1, 2, 3, 4, 5, 6, 7);
                if !SMALL_Q && !FIRST {
                    shrink!(self, v; 0, 1, 2, 3);
                }
                forward!(self, v, w[6]; 0 4, 1 5, 2 6, 3 7);
                forward!(self, v, w[4]; 0 2, 1 3);
                forward!(self, v, w[5]; 4 6, 5 7);
                forward!(self, v, w[0]; 0 1);
                forward!(self, v, w[1]; 2 3);
                forward!(self, v, w[2]; 4 5);
                forward!(self, v, w[3]; 6 7);
                keep_rows!(p, stride, v; 0, 1, 2, 3, 4, 5, 6, 7);
            }
        }
    }

    /// All stages below a block of 2^log_len values, log_len - 4 a multiple of 3.
    ///
    /// # Safety
    /// As for `forward_8`.
    #[target_feature(enable = "avx2,fma")]
    unsafe fn forward_run<const SMALL_Q: bool>(self, data: *mut u64, log_len: u32, index: usize) {
        // SAFETY: every sub-block lies inside the block.
        unsafe {
            if log_len > LOG_RUN {
                self.forward_8::<SMALL_Q, false>(data, log_len, index);
                for b in 0..8 {
                    self.forward_run::<SMALL_Q>(data.add(b << (log_len - 3)), log_len - 3, 8 * index + b);
                }
                return;
            }
            let (mut log, mut blocks) = (log_len, 1);
            while log > 4 {
                for b in 0..blocks {
                    self.forward_8::<SMALL_Q, false>(data.add(b << log), log, blocks * index + b);
                }
                (log, blocks) = (log - 3, 8 * blocks);
            }
            self.forward_ends::<SMALL_Q>(data, blocks, blocks * index);
        }
    }
}

/// See `Backend::ntt`.
#[target_feature(enable = "avx2,fma")]
pub(super) fn forward(table: &NttTable, data: &mut [u64]) {
    let log_n = data.len().trailing_zeros();
    assert!(data.len().is_power_of_two() && log_n <= table.log_n);
    if log_n < 5 {
        return scalar_ntt::forward(table, data);
    }
    let context = Context { lanes: Lanes::new(table.modulus), twiddle: table.forward().0.as_ptr() };
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
#[target_feature(enable = "avx2,fma")]
unsafe fn forward_all<const SMALL_Q: bool>(context: Context, data: *mut u64, log_n: u32) {
    // SAFETY: by the contract of this function; the first pass leaves four stages and a multiple of three.
    unsafe {
        let first = (log_n - 5) % 3 + 1;
        match first {
            1 => context.forward_2::<SMALL_Q>(data, log_n),
            2 => context.forward_4::<SMALL_Q>(data, log_n),
            _ => context.forward_8::<SMALL_Q, true>(data, log_n, 1),
        }
        let log_len = log_n - first;
        for b in 0..1 << first {
            context.forward_run::<SMALL_Q>(data.add(b << log_len), log_len, (1 << first) + b);
        }
    }
}
