//! The suite that every implementation of [`WordKernels`] must pass: equality with plain sums, on uniform and on
//! extreme operands, for lengths around every vector width.

use super::WordKernels;

/// Columns around the widths of vectors and of the blocks between widenings of partial sums.
const COLS: [usize; 12] = [1, 7, 15, 16, 31, 33, 64, 176, 513, 897, 1024, 4097];
const ROWS: [usize; 5] = [1, 3, 4, 5, 9];

/// Compares `kernels` with sums written out.
///
/// # Panics
/// On the first difference, naming the method and the shape.
pub fn run(kernels: &dyn WordKernels) {
    let mut state = 1;
    for cols in COLS {
        for rows in ROWS {
            for tokens in [1, 2, 5] {
                for extreme in [false, true] {
                    compare(kernels, [rows, cols, tokens], extreme, &mut state);
                }
            }
        }
    }
}

fn compare(kernels: &dyn WordKernels, [rows, cols, tokens]: [usize; 3], extreme: bool, state: &mut u64) {
    let narrow: Vec<i16> = (0..rows * cols)
        .map(|i| if extreme { if i % 7 == 3 { i16::MAX } else { i16::MIN } } else { word(state) as i16 })
        .collect();
    // The digits of the first constant are all extreme: -1024 in each of six places.
    let lowest = (0..6).fold(0u64, |sum, digit| sum.wrapping_sub(1024u64.wrapping_shl(11 * digit)));
    let words: Vec<u64> = (0..tokens * cols)
        .map(|i| if extreme { [lowest, u64::MAX, 1 << 63][i / 3 % 3] } else { word(state) })
        .collect();
    let wide: Vec<u64> = narrow.iter().map(|&w| i64::from(w) as u64).collect();
    let need = plain(&wide, &words, cols);
    let shape = format!("{} rows {rows} cols {cols} tokens {tokens} extreme {extreme}", kernels.name());

    let mut out = vec![7; rows * tokens];
    kernels.product_i16(&mut out, &narrow, &kernels.operand(&words, cols));
    assert_eq!(out, need, "product_i16, {shape}");

    let wide: Vec<u64> = if extreme { wide } else { wide.iter().map(|_| word(state)).collect() };
    kernels.product_u64(&mut out, &wide, &words, cols);
    assert_eq!(out, plain(&wide, &words, cols), "product_u64, {shape}");

    let (mut sums, coefficients): (Vec<u64>, Vec<u64>) = ((0..cols as u64).collect(), wide[..rows].to_vec());
    let need: Vec<u64> = (0..cols)
        .map(|c| (0..rows).fold(c as u64, |sum, r| sum.wrapping_add(coefficients[r].wrapping_mul(wide[r * cols + c]))))
        .collect();
    kernels.combine_u64(&mut sums, &coefficients, &wide);
    assert_eq!(sums, need, "combine_u64, {shape}");
}

fn plain(weights: &[u64], words: &[u64], cols: usize) -> Vec<u64> {
    let product = |a: &[u64], b: &[u64]| a.iter().zip(b).fold(0u64, |sum, (a, b)| sum.wrapping_add(a.wrapping_mul(*b)));
    let row = |weights| words.chunks_exact(cols).map(move |words| product(weights, words));
    weights.chunks_exact(cols).flat_map(row).collect()
}

fn word(state: &mut u64) -> u64 {
    // SplitMix64.
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let x = (*state ^ (*state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}
