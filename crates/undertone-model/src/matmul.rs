//! Products of activations with weight matrices, in safe code that the compiler vectorises.
//!
//! `y = x Wᵀ` with `x` `[T, in]` and `W` `[out, in]`, both row major, so that every product is an inner product of
//! two contiguous rows. Work is split over blocks of output rows; each block of `W` is read once for all tokens.
//!
//! The sum runs in eight interleaved partial sums, which bounds the rounding error of an inner product of length n
//! by about n/8 units in the last place instead of n. [`Accumulation::F64`] removes it altogether.

use std::ops::{Add, Mul};

use rayon::prelude::*;

use crate::weights::Matrix;

/// The precision in which inner products are summed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Accumulation {
    /// Products and sums in f32; fast, and what transformers does.
    #[default]
    F32,
    /// Products and sums in f64, rounded to f32 once per output.
    F64,
}

const LANES: usize = 8;

/// Output rows per task. 32 rows of 4096 f32 are 512 KiB, which a second-level cache holds.
const ROW_BLOCK: usize = 32;

trait Number: Copy + Send + Sync + Add<Output = Self> + Mul<Output = Self> {
    const ZERO: Self;
    fn widen(value: f32) -> Self;
    fn narrow(self) -> f32;
}

impl Number for f32 {
    const ZERO: Self = 0.0;
    fn widen(value: f32) -> Self {
        value
    }
    fn narrow(self) -> f32 {
        self
    }
}

impl Number for f64 {
    const ZERO: Self = 0.0;
    fn widen(value: f32) -> Self {
        f64::from(value)
    }
    fn narrow(self) -> f32 {
        self as f32
    }
}

/// `x Wᵀ`.
///
/// # Shapes
/// `x` is `[T, weight.cols]`; the result is `[T, weight.rows]`. A trailing partial row of `x` is ignored.
pub(crate) fn matmul(x: &[f32], weight: &Matrix, accumulation: Accumulation) -> Vec<f32> {
    match accumulation {
        Accumulation::F32 => matmul_in::<f32>(x, weight),
        Accumulation::F64 => matmul_in::<f64>(x, weight),
    }
}

fn matmul_in<A: Number>(x: &[f32], weight: &Matrix) -> Vec<f32> {
    let (rows, cols) = (weight.rows, weight.cols);
    let tokens = x.len() / cols;
    // Tasks own whole output rows, so the product is formed as [out, T] and turned at the end.
    let mut turned = vec![0.0f32; rows * tokens];
    turned.par_chunks_mut((ROW_BLOCK * tokens).max(1)).enumerate().for_each(|(block, out)| {
        let first = block * ROW_BLOCK * cols;
        let weights = &weight.data[first..first + out.len() / tokens * cols];
        product_block::<A>(x, weights, cols, tokens, out);
    });
    if tokens == 1 {
        return turned;
    }
    let mut out = vec![0.0f32; rows * tokens];
    out.par_chunks_mut(rows).enumerate().for_each(|(t, row)| {
        for (value, column) in row.iter_mut().zip(turned.chunks_exact(tokens)) {
            *value = column[t];
        }
    });
    out
}

/// `out[r][t] = weights[r] · x[t]` for the rows of one block, two rows and two tokens at a time: four loads serve
/// four products.
fn product_block<A: Number>(x: &[f32], weights: &[f32], cols: usize, tokens: usize, out: &mut [f32]) {
    for (w, out) in weights.chunks(2 * cols).zip(out.chunks_mut(2 * tokens)) {
        let (w0, w1) = w.split_at(cols);
        let (out0, out1) = out.split_at_mut(tokens);
        if w1.is_empty() {
            for (value, row) in out0.iter_mut().zip(x.chunks_exact(cols)) {
                *value = dot_in::<A>(row, w0);
            }
            continue;
        }
        for (t, pair) in x.chunks(2 * cols).enumerate().take(tokens.div_ceil(2)) {
            let (x0, x1) = pair.split_at(cols);
            if x1.len() == cols && 2 * t + 1 < tokens {
                let sums = dot_two_by_two::<A>(x0, x1, w0, w1);
                out0[2 * t] = sums[0];
                out0[2 * t + 1] = sums[1];
                out1[2 * t] = sums[2];
                out1[2 * t + 1] = sums[3];
            } else {
                out0[2 * t] = dot_in::<A>(x0, w0);
                out1[2 * t] = dot_in::<A>(x0, w1);
            }
        }
    }
}

/// The inner product of two vectors of equal length.
pub(crate) fn dot(x: &[f32], w: &[f32], accumulation: Accumulation) -> f32 {
    match accumulation {
        Accumulation::F32 => dot_in::<f32>(x, w),
        Accumulation::F64 => dot_in::<f64>(x, w),
    }
}

fn dot_in<A: Number>(x: &[f32], w: &[f32]) -> f32 {
    let (x_lanes, x_rest) = x.as_chunks::<LANES>();
    let (w_lanes, w_rest) = w.as_chunks::<LANES>();
    let mut sums = [A::ZERO; LANES];
    for (x, w) in x_lanes.iter().zip(w_lanes) {
        for lane in 0..LANES {
            sums[lane] = sums[lane] + A::widen(x[lane]) * A::widen(w[lane]);
        }
    }
    (fold(sums) + tail::<A>(x_rest, w_rest)).narrow()
}

/// The products `x0·w0, x1·w0, x0·w1, x1·w1`, each summed in the same order as [`dot`].
fn dot_two_by_two<A: Number>(x0: &[f32], x1: &[f32], w0: &[f32], w1: &[f32]) -> [f32; 4] {
    let mut s00 = [A::ZERO; LANES];
    let mut s10 = [A::ZERO; LANES];
    let mut s01 = [A::ZERO; LANES];
    let mut s11 = [A::ZERO; LANES];
    let ((x0, x0_rest), (x1, x1_rest)) = (x0.as_chunks::<LANES>(), x1.as_chunks::<LANES>());
    let ((w0, w0_rest), (w1, w1_rest)) = (w0.as_chunks::<LANES>(), w1.as_chunks::<LANES>());
    for (((x0, x1), w0), w1) in x0.iter().zip(x1).zip(w0).zip(w1) {
        for lane in 0..LANES {
            let (a, b) = (A::widen(x0[lane]), A::widen(x1[lane]));
            let (c, d) = (A::widen(w0[lane]), A::widen(w1[lane]));
            s00[lane] = s00[lane] + a * c;
            s10[lane] = s10[lane] + b * c;
            s01[lane] = s01[lane] + a * d;
            s11[lane] = s11[lane] + b * d;
        }
    }
    [
        (fold(s00) + tail::<A>(x0_rest, w0_rest)).narrow(),
        (fold(s10) + tail::<A>(x1_rest, w0_rest)).narrow(),
        (fold(s01) + tail::<A>(x0_rest, w1_rest)).narrow(),
        (fold(s11) + tail::<A>(x1_rest, w1_rest)).narrow(),
    ]
}

fn fold<A: Number>(s: [A; LANES]) -> A {
    ((s[0] + s[1]) + (s[2] + s[3])) + ((s[4] + s[5]) + (s[6] + s[7]))
}

fn tail<A: Number>(x: &[f32], w: &[f32]) -> A {
    x.iter().zip(w).fold(A::ZERO, |sum, (&x, &w)| sum + A::widen(x) * A::widen(w))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shape_agrees_with_the_plain_sum() {
        for (tokens, rows, cols) in [(1, 1, 1), (1, 33, 9), (2, 64, 16), (3, 65, 31), (5, 7, 100)] {
            let x: Vec<f32> = (0..tokens * cols).map(|i| ((i * 37 + 11) % 101) as f32 / 50.0 - 1.0).collect();
            let data: Vec<f32> = (0..rows * cols).map(|i| ((i * 53 + 5) % 97) as f32 / 48.0 - 1.0).collect();
            let weight = Matrix { rows, cols, data };
            for (accumulation, tolerance) in [(Accumulation::F32, 1e-5), (Accumulation::F64, 2e-6)] {
                let found = matmul(&x, &weight, accumulation);
                assert_eq!(found.len(), tokens * rows);
                for t in 0..tokens {
                    for r in 0..rows {
                        let need: f64 =
                            (0..cols).map(|c| f64::from(x[t * cols + c]) * f64::from(weight.row(r)[c])).sum();
                        assert!((f64::from(found[t * rows + r]) - need).abs() < tolerance);
                    }
                }
            }
        }
    }
}
