//! The homomorphic DFT as a product of a few sparse matrices.
//!
//! The special FFT without its bit reversal is F = S_n ··· S_2. Stages are grouped by five (radix 32) at fixed strides
//! 1, 32, 1024, so that every period uses a subset of the rotations of the full-slot transform. Slots-to-coefficients
//! applies F, coefficients-to-slots F^-1; the reversal cancels between them.

use super::stages::Stages;
use num_complex::Complex64;
use std::collections::BTreeMap;

/// Stages per group.
const LOG_RADIX: u32 = 5;

/// Which rotations one group of stages uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct GroupShape {
    /// log2 of the block length before the group's first stage.
    pub(super) log_start: u32,
    /// log2 of the block length after its last stage.
    pub(super) log_end: u32,
    /// Whether the last block is the whole period, so that offsets wrap.
    pub(super) wraps: bool,
}

impl GroupShape {
    /// The groups of a transform over 2^log_period slots, lowest stages first. At least one, even for one slot.
    pub(super) fn all(log_period: u32) -> Vec<Self> {
        let mut groups = Vec::new();
        let mut log_start = 0;
        while log_start < log_period {
            let log_end = (log_start + LOG_RADIX).min(log_period);
            groups.push(Self { log_start, log_end, wraps: log_end == log_period });
            log_start = log_end;
        }
        groups
    }

    /// Slots per unit of rotation.
    pub(super) fn stride(&self) -> i64 {
        1 << self.log_start
    }

    /// The diagonal indices in units of the stride.
    pub(super) fn indices(&self) -> std::ops::Range<i64> {
        let radix = 1i64 << (self.log_end - self.log_start);
        if self.wraps { 0..radix } else { 1 - radix..radix }
    }

    /// Baby steps per giant step: about the root of the number of diagonals, and twice that where it is nearly twice the
    /// radix. A giant step decomposes a value of its own and costs several baby steps: with 16 and 4 instead of 8
    /// and 8 a full bootstrap takes 7 % less time, for 8 more keys (docs/performance.md).
    pub(super) fn baby_steps(&self) -> i64 {
        let log_radix = self.log_end - self.log_start;
        1 << ((log_radix + 1).div_ceil(2) + u32::from(!self.wraps))
    }
}

/// y_i = Σ_offset d_offset[i mod period] · x_{i + offset}.
pub(super) struct DiagonalMatrix {
    pub(super) period: usize,
    pub(super) diagonals: BTreeMap<i64, Vec<Complex64>>,
}

impl DiagonalMatrix {
    fn identity(period: usize) -> Self {
        let one = vec![Complex64::new(1.0, 0.0); period];
        Self { period, diagonals: BTreeMap::from([(0, one)]) }
    }

    /// The stage of length 2^log_len, or its inverse, over `period` slots.
    fn stage(stages: &Stages, log_len: u32, period: usize, inverse: bool) -> Self {
        let (len, half) = (1usize << log_len, 1usize << (log_len - 1));
        let twiddles = stages.twiddles(log_len);
        let zero = Complex64::new(0.0, 0.0);
        let mut same = vec![zero; period];
        let mut after = vec![zero; period];
        let mut before = vec![zero; period];
        for i in 0..period {
            let j = i % len;
            let w = twiddles[j % half];
            let half_w = w.conj() * 0.5;
            let half_one = Complex64::new(0.5, 0.0);
            match (j < half, inverse) {
                (true, false) => (same[i], after[i]) = (Complex64::new(1.0, 0.0), w),
                (false, false) => (same[i], before[i]) = (-w, Complex64::new(1.0, 0.0)),
                (true, true) => (same[i], after[i]) = (half_one, half_one),
                (false, true) => (same[i], before[i]) = (-half_w, half_w),
            }
        }
        let half = half as i64;
        Self { period, diagonals: BTreeMap::from([(0, same), (half, after), (-half, before)]) }
    }

    /// self ∘ first.
    fn compose(&self, first: &Self) -> Self {
        let mut diagonals: BTreeMap<i64, Vec<Complex64>> = BTreeMap::new();
        for (&outer, a) in &self.diagonals {
            for (&inner, b) in &first.diagonals {
                let sum = diagonals.entry(outer + inner).or_insert_with(|| vec![Complex64::new(0.0, 0.0); self.period]);
                for (i, slot) in sum.iter_mut().enumerate() {
                    let k = (i as i64 + outer).rem_euclid(self.period as i64) as usize;
                    *slot += a[i] * b[k];
                }
            }
        }
        Self { period: self.period, diagonals }
    }

    /// The product of the stages of one group, each diagonal index within [`GroupShape::indices`].
    pub(super) fn group(stages: &Stages, shape: GroupShape, inverse: bool) -> Self {
        let period = 1usize << shape.log_end;
        let mut product = Self::identity(period);
        for log_len in shape.log_start + 1..=shape.log_end {
            let stage = Self::stage(stages, log_len, period, inverse);
            product = if inverse { product.compose(&stage) } else { stage.compose(&product) };
        }
        if !shape.wraps {
            return product;
        }
        let mut wrapped: BTreeMap<i64, Vec<Complex64>> = BTreeMap::new();
        for (offset, values) in product.diagonals {
            match wrapped.entry(offset.rem_euclid(period as i64)) {
                std::collections::btree_map::Entry::Vacant(entry) => {
                    entry.insert(values);
                }
                std::collections::btree_map::Entry::Occupied(mut entry) => {
                    entry.get_mut().iter_mut().zip(values).for_each(|(x, y)| *x += y);
                }
            }
        }
        Self { period, diagonals: wrapped }
    }

    /// The matrix over twice `slots` slots whose outputs in the second half are multiplied by −i.
    pub(super) fn with_second_turned(&self, slots: usize) -> Self {
        let turn = |(i, d): (usize, Complex64)| if i < slots { d } else { Complex64::new(d.im, -d.re) };
        let turned = |d: &Vec<Complex64>| d.iter().copied().cycle().take(2 * slots).enumerate().map(turn).collect();
        let diagonals = self.diagonals.iter().map(|(&offset, d)| (offset, turned(d))).collect();
        Self { period: 2 * slots, diagonals }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn apply(matrix: &DiagonalMatrix, x: &[Complex64]) -> Vec<Complex64> {
        let n = x.len() as i64;
        (0..x.len())
            .map(|i| {
                let term = |(&offset, d): (&i64, &Vec<Complex64>)| {
                    d[i % matrix.period] * x[(i as i64 + offset).rem_euclid(n) as usize]
                };
                matrix.diagonals.iter().map(term).sum()
            })
            .collect()
    }

    #[test]
    fn groups_compose_to_the_transform_without_reversal() {
        for log_n in [1u32, 3, 5, 6, 8, 11] {
            let n = 1usize << log_n;
            let stages = Stages::new(log_n);
            let input: Vec<Complex64> =
                (0..n).map(|k| Complex64::new((k as f64).sin(), (k as f64 * 0.3).cos())).collect();
            let reversed = |i: usize| input[i.reverse_bits() >> (usize::BITS - log_n)];
            let coefficients: Vec<f64> = (0..n).map(|i| reversed(i).re).chain((0..n).map(|i| reversed(i).im)).collect();
            let expected = crate::Encoder::new(log_n + 1, undertone_ring::scalar_backend()).decode(&coefficients);
            let groups = GroupShape::all(log_n);
            let mut seen = input.clone();
            for &shape in &groups {
                let matrix = DiagonalMatrix::group(&stages, shape, false);
                for offset in matrix.diagonals.keys() {
                    assert_eq!(offset % shape.stride(), 0);
                    assert!(shape.indices().contains(&(offset / shape.stride())));
                }
                assert_eq!(matrix.diagonals.len(), shape.indices().count());
                seen = apply(&matrix, &seen);
            }
            let close = |a: &[Complex64], b: &[Complex64]| a.iter().zip(b).all(|(x, y)| (x - y).norm() < 1e-9);
            assert!(close(&seen, &expected), "forward at 2^{log_n}");
            for &shape in groups.iter().rev() {
                let matrix = DiagonalMatrix::group(&stages, shape, true);
                assert_eq!(matrix.diagonals.len(), shape.indices().count());
                seen = apply(&matrix, &seen);
            }
            assert!(close(&seen, &input), "inverse at 2^{log_n}");
        }
    }
}
