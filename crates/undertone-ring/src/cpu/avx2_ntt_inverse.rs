//! The inverse half of the AVX2 NTT; `avx2_ntt` explains the bounds, which are in units of q.
//!
//! Sums double bounds, so what was only added to is shrunk; all other values were multiplied lately.
//! Small primes: passes start below 4 and end so after shrinking the one value that was always added to.
//! Other primes: passes start and end within 1; each function gives the way between.

use std::arch::x86_64::*;

use super::avx2_lane::{F, Lanes, splat, store};
use super::avx2_ntt::{Context, LOG_RUN, SMALL, keep_rows, load_row, rows, shrink, transpose, transpose_back};
use super::scalar_ntt;
use crate::NttTable;

/// Inverse butterflies that share a twiddle.
macro_rules! inverse {
    ($c:ident, $v:ident, $w:expr; $($a:literal $b:literal),*) => {
        let w = $w;
        $(($v[$a], $v[$b]) = $c.inverse($v[$a], $v[$b], w);)*
    };
}

/// The final inverse stage: scaled sums and differences as reduced words.
macro_rules! scaled {
    ($c:ident, $v:ident, $last:ident; $($a:literal $b:literal),*) => { $({
        let (x, y) = ($v[$a], $v[$b]);
        $v[$a] = $c.scaled(_mm256_add_pd(x, y), $last[0]);
        $v[$b] = $c.scaled(_mm256_sub_pd(x, y), $last[1]);
    })* };
}

impl Context {
    #[inline]
    #[target_feature(enable = "avx2,fma")]
    fn inverse(self, x: F, y: F, w: F) -> (F, F) {
        (_mm256_add_pd(x, y), self.lanes.mul_lazy(_mm256_sub_pd(x, y), w))
    }

    /// The bits of the reduced words of x * w.
    #[inline]
    #[target_feature(enable = "avx2,fma")]
    fn scaled(self, x: F, w: F) -> F {
        _mm256_castsi256_pd(self.lanes.reduce(self.lanes.mul_lazy(x, w)))
    }

    /// The first four inverse stages of `count` runs of 16 reduced words.
    ///
    /// Other primes: inputs in 0..1 give sums in 0..2 and products within 0.75, then 0..4 or 1.5 and 1 or
    /// 0.88. With both sums shrunk all is within 1; then sums within 2, shrunk, and products within 1; then
    /// sums within 1 or 2, the latter shrunk, and products within 1.
    ///
    /// # Safety
    /// As for `forward_ends`.
    #[inline]
    #[target_feature(enable = "avx2,fma")]
    unsafe fn inverse_ends<const SMALL_Q: bool>(self, data: *mut u64, count: usize, run: usize) {
        for i in 0..count {
            let run = run + i;
            // SAFETY: by the contract of this function.
            unsafe {
                let p = data.add(16 * i);
                let mut v = transpose(rows!(p, 4, true; 0, 1, 2, 3));
                let [even, odd] = self.eight(run);
                inverse!(self, v, even; 0 1);
                inverse!(self, v, odd; 2 3);
                inverse!(self, v, self.four(run); 0 2, 1 3);
                if !SMALL_Q {
                    shrink!(self, v; 0, 1);
                }
                let mut v = transpose_back(v);
                inverse!(self, v, self.one(2 * run); 0 1);
                inverse!(self, v, self.one(2 * run + 1); 2 3);
                if !SMALL_Q {
                    shrink!(self, v; 0, 2);
                }
                inverse!(self, v, self.one(run); 0 2, 1 3);
                if SMALL_Q {
                    shrink!(self, v; 0);
                } else {
                    shrink!(self, v; 1);
                }
                keep_rows!(p, 4, v; 0, 1, 2, 3);
            }
        }
    }

    /// The last inverse stage of all, on 2^log_len values, with the factors of both halves of the outputs.
    ///
    /// # Safety
    /// As for `forward_2`.
    #[inline]
    #[target_feature(enable = "avx2,fma")]
    unsafe fn inverse_2(self, data: *mut u64, log_len: u32, last: [F; 2]) {
        let stride = 1usize << (log_len - 1);
        for column in (0..stride).step_by(4) {
            // SAFETY: by the contract of this function.
            unsafe {
                let p = data.add(column);
                let mut v = rows!(p, stride, false; 0, 1);
                scaled!(self, v, last; 0 1);
                keep_rows!(p, stride, v; 0, 1);
            }
        }
    }

    /// The last two inverse stages of all, on 2^log_len values; before the last one, values are within 2.
    ///
    /// # Safety
    /// As for `forward_4`.
    #[inline]
    #[target_feature(enable = "avx2,fma")]
    unsafe fn inverse_4<const SMALL_Q: bool>(self, data: *mut u64, log_len: u32, last: [F; 2]) {
        let stride = 1usize << (log_len - 2);
        // SAFETY: by the contract of this function.
        unsafe {
            let w = [2, 3].map(|index| self.fitted::<SMALL_Q>(self.one(index)));
            for column in (0..stride).step_by(4) {
                let p = data.add(column);
                let mut v = rows!(p, stride, false; 0, 1, 2, 3);
                inverse!(self, v, w[0]; 0 1);
                inverse!(self, v, w[1]; 2 3);
                scaled!(self, v, last; 0 2, 1 3);
                keep_rows!(p, stride, v; 0, 1, 2, 3);
            }
        }
    }

    /// Three inverse stages on one block of 2^log_len values, the last of all when `last` gives their factors.
    ///
    /// Small primes: 4 becomes 8, 16 and 32 in the value always added to, all others end below 2.5.
    /// Other primes: sums are within 2, then 4 and 1.5, with the first shrunk; products within 0.75, then 1
    /// and 0.69; then sums within 1, 3, 2 and 1.4, with the last three shrunk, and products within 0.88.
    ///
    /// # Safety
    /// As for `forward_8`.
    #[inline]
    #[target_feature(enable = "avx2,fma")]
    unsafe fn inverse_8<const SMALL_Q: bool>(self, data: *mut u64, log_len: u32, index: usize, last: Option<[F; 2]>) {
        let stride = 1usize << (log_len - 3);
        // SAFETY: by the contract of this function.
        unsafe {
            let w = self.of_block::<SMALL_Q>(index);
            for column in (0..stride).step_by(4) {
                let p = data.add(column);
                let mut v = rows!(p, stride, false; 0, 1, 2, 3, 4, 5, 6, 7);
                inverse!(self, v, w[0]; 0 1);
                inverse!(self, v, w[1]; 2 3);
                inverse!(self, v, w[2]; 4 5);
                inverse!(self, v, w[3]; 6 7);
                inverse!(self, v, w[4]; 0 2, 1 3);
                inverse!(self, v, w[5]; 4 6, 5 7);
                if !SMALL_Q {
                    shrink!(self, v; 0, 4);
                }
                if let Some(last) = last {
                    scaled!(self, v, last; 0 4, 1 5, 2 6, 3 7);
                } else {
                    inverse!(self, v, w[6]; 0 4, 1 5, 2 6, 3 7);
                    if SMALL_Q {
                        shrink!(self, v; 0);
                    } else {
                        shrink!(self, v; 1, 2, 3);
                    }
                }
                keep_rows!(p, stride, v; 0, 1, 2, 3, 4, 5, 6, 7);
            }
        }
    }

    /// The inverse of `forward_run`, from words to what the next pass takes.
    ///
    /// # Safety
    /// As for `forward_8`.
    #[target_feature(enable = "avx2,fma")]
    unsafe fn inverse_run<const SMALL_Q: bool>(self, data: *mut u64, log_len: u32, index: usize) {
        // SAFETY: every sub-block lies inside the block.
        unsafe {
            if log_len > LOG_RUN {
                for b in 0..8 {
                    self.inverse_run::<SMALL_Q>(data.add(b << (log_len - 3)), log_len - 3, 8 * index + b);
                }
                return self.inverse_8::<SMALL_Q>(data, log_len, index, None);
            }
            let (mut log, mut blocks) = (4, 1usize << (log_len - 4));
            self.inverse_ends::<SMALL_Q>(data, blocks, blocks * index);
            while log < log_len {
                (log, blocks) = (log + 3, blocks / 8);
                for b in 0..blocks {
                    self.inverse_8::<SMALL_Q>(data.add(b << log), log, blocks * index + b, None);
                }
            }
        }
    }
}

/// See `Backend::intt`.
#[target_feature(enable = "avx2,fma")]
pub(super) fn inverse(table: &NttTable, data: &mut [u64], scale: u64) {
    let log_n = data.len().trailing_zeros();
    assert!(data.len().is_power_of_two() && log_n <= table.log_n);
    if log_n < 5 {
        return scalar_ntt::inverse(table, data, scale);
    }
    let q = table.modulus;
    let twiddles = table.inverse().0;
    let context = Context { lanes: Lanes::new(q), twiddle: twiddles.as_ptr() };
    // 1/N and the scale ride on the last stage: one factor for the sums, one for the differences.
    let sum = q.mul(scale, q.inverse(data.len() as u64));
    let last = [sum, q.mul(sum, twiddles[1])].map(|w| splat(q.center(w) as f64));
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
#[target_feature(enable = "avx2,fma")]
unsafe fn inverse_all<const SMALL_Q: bool>(context: Context, data: *mut u64, log_n: u32, last: [F; 2]) {
    // SAFETY: by the contract of this function.
    unsafe {
        let first = (log_n - 5) % 3 + 1;
        let log_len = log_n - first;
        for b in 0..1 << first {
            context.inverse_run::<SMALL_Q>(data.add(b << log_len), log_len, (1 << first) + b);
        }
        match first {
            1 => context.inverse_2(data, log_n, last),
            2 => context.inverse_4::<SMALL_Q>(data, log_n, last),
            _ => context.inverse_8::<SMALL_Q>(data, log_n, 1, Some(last)),
        }
    }
}
