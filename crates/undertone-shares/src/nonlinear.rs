//! The user's functions on opened values: exact in the sense that they depend on values alone.
//!
//! Sums run over integers, so the order of entries, which a permutation changes, cannot change a result; entries are
//! rounded one by one from f64 operations that IEEE 754 defines exactly. The exponential is written out for the same
//! reason. Hence the parties, the twin and every machine get the same integers. No input makes these functions panic.

use crate::fixed::{ACTIVATION_BITS, PROBABILITY_BITS, SCORE_BITS, power, rounded};
use crate::shape::{Shape, Step};

/// Fractional bits of exponentials before they are summed.
const EXPONENTIAL_BITS: i32 = 40;

/// RMSNorm of rows, without gains.
///
/// # Shapes
/// `values` is `[rows, cols]` at `bits` fractional bits; so is the result, at [`ACTIVATION_BITS`].
pub(crate) fn rms_norm(values: &[u64], cols: usize, bits: u32, epsilon: f64) -> Vec<u64> {
    let mut out = Vec::with_capacity(values.len());
    for row in values.chunks_exact(cols) {
        let squares = row.iter().map(|&word| {
            let magnitude = u128::from((word as i64).unsigned_abs());
            magnitude * magnitude
        });
        // Below 2^62 for honest values; for others wrapping is as good as any answer.
        let total = squares.fold(0u128, u128::wrapping_add);
        let mean = total as f64 / cols as f64 * power(-2 * bits as i32);
        let factor = power(ACTIVATION_BITS as i32 - bits as i32) / (mean + epsilon).sqrt();
        out.extend(row.iter().map(|&word| rounded(word as i64 as f64 * factor)));
    }
    out
}

/// Softmax of one row.
///
/// # Shapes
/// `scores` is `q·k` at [`SCORE_BITS`] before the division by √d; the result has [`PROBABILITY_BITS`].
pub(crate) fn softmax(scores: &[u64], head_dim: usize, out: &mut Vec<u64>) {
    let largest = scores.iter().map(|&word| word as i64).max().unwrap_or(0);
    let scale = power(-(SCORE_BITS as i32)) / (head_dim as f64).sqrt();
    let first = out.len();
    out.extend(scores.iter().map(|&word| {
        let below = i128::from(word as i64) - i128::from(largest);
        rounded(exponential(below as f64 * scale) * power(EXPONENTIAL_BITS))
    }));
    // The largest entry is 2^40, so the sum is not zero.
    let sum: u128 = out[first..].iter().map(|&word| u128::from(word)).sum();
    for word in &mut out[first..] {
        let scaled = (u128::from(*word) << PROBABILITY_BITS) + sum / 2;
        *word = (scaled / sum.max(1)) as u64;
    }
}

/// Softmax of every row of ragged scores.
pub(crate) fn softmax_rows(shape: &Shape, step: &Step, scores: &[u64]) -> Vec<u64> {
    let mut out = Vec::with_capacity(scores.len());
    let mut rest = scores;
    for token in 0..step.tokens {
        for _ in 0..shape.heads {
            let (row, after) = rest.split_at(step.visible(token));
            softmax(row, shape.head_dim, &mut out);
            rest = after;
        }
    }
    out
}

/// SiLU(gate) · up, entry by entry.
///
/// # Shapes
/// `values` is all gates, then all ups, at the bits of each; the result is half as long, at [`ACTIVATION_BITS`].
pub(crate) fn silu_product(values: &[u64], bits: [u32; 2]) -> Vec<u64> {
    let (gates, ups) = values.split_at(values.len() / 2);
    let [gate_unit, up_unit] = bits.map(|bits| power(-(bits as i32)));
    let product = |(&gate, &up): (&u64, &u64)| {
        let gate = gate as i64 as f64 * gate_unit;
        let up = up as i64 as f64 * up_unit;
        rounded(gate / (1.0 + exponential(-gate)) * up * power(ACTIVATION_BITS as i32))
    };
    gates.iter().zip(ups).map(product).collect()
}

/// e^x to about 2^-50 of its value, from additions and multiplications in a fixed order.
pub(crate) fn exponential(x: f64) -> f64 {
    // Beyond these bounds e^x is 0 or infinite; NaN stays NaN.
    if x < -745.0 {
        return 0.0;
    }
    if x > 709.0 {
        return f64::INFINITY;
    }
    let turns = (x * std::f64::consts::LOG2_E).round_ties_even();
    // ln 2 in two parts, the first with trailing zeros, so that the reduced argument is exact to the last place.
    let rest = (x - turns * 0.693_147_180_369_123_8) - turns * 1.908_214_929_270_587_7e-10;
    // The series to degree 13: |rest| <= 0.347, so what is left out is below 0.347^14 / 14! = 5e-18.
    let series = (1..=13).rev().fold(1.0, |sum, k| 1.0 + sum * rest / f64::from(k));
    // Powers of two are exact, also in two factors where one would leave the normal range.
    let half = (turns / 2.0).trunc();
    series * power(half as i32) * power((turns - half) as i32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exponential_is_accurate() {
        for i in -70_000..=70_000 {
            let x = f64::from(i) * 0.0101;
            let (have, need) = (exponential(x), x.exp());
            // Normal results agree to 2^-49; below 1e-300 the last places are not there.
            assert!((have - need).abs() <= need * power(-49) + 1e-300, "{x} {have} {need}");
        }
        assert_eq!(exponential(0.0), 1.0);
        assert!(exponential(f64::NAN).is_nan());
    }

    #[test]
    fn order_does_not_matter() {
        let words: Vec<u64> =
            (0..300u64).map(|i| ((i.wrapping_mul(0x9e37_79b9_7f4a_7c15) as i64) >> 24) as u64).collect();
        let order: Vec<usize> = (0..300).map(|i| i * 7 % 300).collect();
        let turned = |values: &[u64]| -> Vec<u64> { order.iter().map(|&i| values[i]).collect() };
        assert_eq!(turned(&rms_norm(&words, 300, 30, 1e-5)), rms_norm(&turned(&words), 300, 30, 1e-5));
        let row = |values: &[u64]| {
            let mut out = Vec::new();
            softmax(values, 16, &mut out);
            out
        };
        assert_eq!(turned(&row(&words)), row(&turned(&words)));
    }

    #[test]
    fn functions_are_right_to_half_a_unit() {
        let values: Vec<f64> = (0..64).map(|i| (f64::from(i) * 0.37).sin() * 3.0).collect();
        let words: Vec<u64> = values.iter().map(|x| rounded(x * power(30))).collect();
        let mean = values.iter().map(|x| x * x).sum::<f64>() / 64.0;
        let close = |word: u64, need: f64, bits: u32| {
            // Half a unit of rounding, and as much again for the inputs at 2^-30.
            assert!((word as i64 as f64 * power(-(bits as i32)) - need).abs() <= power(-(bits as i32)), "{need}");
        };
        for (word, x) in rms_norm(&words, 64, 30, 1e-5).into_iter().zip(&values) {
            close(word, x / (mean + 1e-5).sqrt(), ACTIVATION_BITS);
        }
        for (i, word) in silu_product(&words, [30, 30]).into_iter().enumerate() {
            let (gate, up) = (values[i], values[i + 32]);
            close(word, gate / (1.0 + (-gate).exp()) * up, ACTIVATION_BITS);
        }
        let scores: Vec<u64> = values.iter().map(|x| rounded(x * 4.0 * power(SCORE_BITS as i32))).collect();
        let sum: f64 = values.iter().map(|x| x.exp()).sum();
        let mut out = Vec::new();
        softmax(&scores, 16, &mut out);
        for (word, x) in out.into_iter().zip(&values) {
            close(word, x.exp() / sum, PROBABILITY_BITS);
        }
    }

    #[test]
    fn hostile_values_do_not_panic() {
        let hostile = [i64::MIN as u64, i64::MAX as u64, 0, u64::MAX, 1 << 63, 1];
        assert_eq!(rms_norm(&hostile, 6, 30, 1e-5).len(), 6);
        assert_eq!(silu_product(&hostile, [30, 18]).len(), 3);
        let mut out = Vec::new();
        softmax(&hostile, 16, &mut out);
        assert_eq!(out.len(), 6);
    }
}
