//! Arithmetic in Z_2^64: the words that secret shares are made of, and the products that cost time.
//!
//! Everything wraps, so sums may be formed in any order and every kernel gives the same bits. [`WordKernels`] is the
//! seam to the processor (one thread per call); [`product_i16`] and [`product_u64`] split rows over threads.
//!
//! Weights are 16-bit integers, read once per call; words come as rows, one per token. A word is cut into signed
//! digits of 11 bits by the SIMD kernels, because 16-bit multiply-adds are the cheapest that processors have.
//! Absent on purpose: shares, scales, randomness.

pub mod conformance;
mod operand;

use rayon::prelude::*;

pub use operand::Operand;
pub(crate) use operand::{DIGIT_BITS, DIGITS, GROUP};

/// Products over Z_2^64, one thread per call.
///
/// # Shapes
/// `weights` is `[rows, cols]` and `words` is `[tokens, cols]`, both row major; `out` is `[rows, tokens]` and is
/// overwritten. `rows` and `tokens` follow from the lengths.
///
/// # Panics
/// Every method: when `cols` is zero or the lengths do not fit each other. None reads beyond them.
pub trait WordKernels: Send + Sync {
    /// A short name for reports.
    fn name(&self) -> &'static str;

    /// Words as [`WordKernels::product_i16`] takes them: cut into digits where the kernels want that, once for all
    /// rows.
    fn operand<'a>(&self, words: &'a [u64], cols: usize) -> Operand<'a>;

    /// `out[r][t]` = sum over c of `weights[r][c] * words[t][c]`, with signed weights; the operand is one of these
    /// kernels' own making.
    fn product_i16(&self, out: &mut [u64], weights: &[i16], words: &Operand<'_>);

    /// `out[r][t]` = sum over c of `weights[r][c] * words[t][c]`.
    fn product_u64(&self, out: &mut [u64], weights: &[u64], words: &[u64], cols: usize);

    /// `out[c]` += sum over r of `coefficients[r] * rows[r][c]`; here `out` is `[cols]` and `coefficients` `[rows]`.
    fn combine_u64(&self, out: &mut [u64], coefficients: &[u64], rows: &[u64]);
}

/// Rows per task: of 4096 columns of 16 bits, half a megabyte, which a second-level cache holds.
const ROW_BLOCK: usize = 64;

/// The number of rows and tokens of a call.
///
/// # Panics
/// As [`WordKernels`] says.
pub(crate) fn extents(out: usize, weights: usize, words: usize, cols: usize) -> (usize, usize) {
    assert!(cols > 0, "a product needs at least one column");
    assert!(weights.is_multiple_of(cols) && words.is_multiple_of(cols), "operands are not whole rows of {cols}");
    let (rows, tokens) = (weights / cols, words / cols);
    assert!(out == rows * tokens, "the result has {out} words where {rows} x {tokens} are due");
    (rows, tokens)
}

/// [`WordKernels::product_i16`] on all threads, with the result turned to rows per token.
///
/// # Shapes
/// `weights` is `[rows, cols]`, `words` is `[tokens, cols]`, the result is `[tokens, rows]`.
///
/// # Panics
/// As [`WordKernels`].
pub fn product_i16(kernels: &dyn WordKernels, weights: &[i16], words: &[u64], cols: usize) -> Vec<u64> {
    let operand = kernels.operand(words, cols);
    turned(weights, words, cols, |out, weights| kernels.product_i16(out, weights, &operand))
}

/// [`WordKernels::product_u64`] on all threads, with the result turned to rows per token.
///
/// # Shapes
/// As [`product_i16`].
///
/// # Panics
/// As [`WordKernels`].
pub fn product_u64(kernels: &dyn WordKernels, weights: &[u64], words: &[u64], cols: usize) -> Vec<u64> {
    turned(weights, words, cols, |out, weights| kernels.product_u64(out, weights, words, cols))
}

fn turned<W: Sync>(weights: &[W], words: &[u64], cols: usize, product: impl Fn(&mut [u64], &[W]) + Sync) -> Vec<u64> {
    assert!(cols > 0 && weights.len().is_multiple_of(cols), "weights are not whole rows of {cols}");
    let (rows, tokens) = (weights.len() / cols, words.len() / cols);
    let mut by_row = vec![0u64; rows * tokens];
    by_row
        .par_chunks_mut((ROW_BLOCK * tokens).max(1))
        .zip(weights.par_chunks(ROW_BLOCK * cols))
        .for_each(|(out, weights)| product(out, weights));
    if tokens == 1 {
        return by_row;
    }
    let mut out = vec![0u64; rows * tokens];
    out.par_chunks_mut(rows.max(1)).enumerate().for_each(|(token, row)| {
        for (word, words) in row.iter_mut().zip(by_row.chunks_exact(tokens)) {
            *word = words[token];
        }
    });
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{avx2_word_kernels, avx512_word_kernels, scalar_word_kernels};

    #[test]
    fn every_kernel_equals_the_scalar_one() {
        conformance::run(&*scalar_word_kernels());
        for kernels in [avx2_word_kernels(), avx512_word_kernels()].into_iter().flatten() {
            conformance::run(&*kernels);
        }
    }

    #[test]
    fn the_turned_product_is_rows_per_token() {
        let kernels = scalar_word_kernels();
        // Weights (1, 2), (3, -4), (5, 6) on tokens (1, 10) and (100, 1000).
        let out = product_i16(&*kernels, &[1, 2, 3, -4, 5, 6], &[1, 10, 100, 1000], 2);
        assert_eq!(out, [21, (-37i64) as u64, 65, 2100, (-3700i64) as u64, 6500]);
        assert_eq!(product_u64(&*kernels, &[1, 2, 3, 4], &[u64::MAX, 1], 2), [1, 1]);
    }
}
