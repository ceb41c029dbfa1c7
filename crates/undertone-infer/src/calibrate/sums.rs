//! Second pass: the sums inside the softmax, for every number of rounds at once.
//!
//! With x = score − shift and k rounds, y_0 = exp(x/2^k) and s_i = Σ y_(i−1)², y_i = y_(i−1)²/s_i. Unrolled,
//! ln s_i = ln Σ exp(2^i x/2^k) − 2 Σ_(j<i) 2^(i−1−j) ln s_j, so six power sums of exp(x/32) give the sums of every k.
//! Masked columns enter at x = −2^(k+1)·half_span; both none of them and the most that a layout has are recorded.

use super::Collector;
use super::extremes::Range;
use crate::calibration::MAX_ROUNDS;
use undertone_model::reference::{Observer, Site, SiteShape};

/// The affine map of the scores of one layer.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Spans {
    /// Upper end of the scores, per head.
    pub(super) shift: Vec<f64>,
    /// Upper minus lower end, the same for all heads.
    pub(super) span: f64,
    /// Largest distance of a row maximum below the shift.
    pub(super) row_drop: f64,
}

/// ln of the sums of one layer: `[k − 1][i − 1]`.
pub(super) type RoundRanges = [[Range; MAX_ROUNDS]; MAX_ROUNDS];

/// The sums of all layers.
#[derive(Debug, Clone)]
pub(super) struct Sums<'a> {
    spans: &'a [Spans],
    padded_columns: f64,
    /// One entry per layer.
    pub(super) logarithms: Vec<RoundRanges>,
}

impl<'a> Sums<'a> {
    pub(super) fn new(spans: &'a [Spans], padded_columns: f64) -> Self {
        let logarithms = vec![[[Range::NONE; MAX_ROUNDS]; MAX_ROUNDS]; spans.len()];
        Self { spans, padded_columns, logarithms }
    }
}

impl Observer for Sums<'_> {
    fn record(&mut self, layer: usize, site: Site, values: &[f32], shape: SiteShape) {
        if site != Site::Scores {
            return;
        }
        let spans = &self.spans[layer];
        let shift = spans.shift[shape.head];
        let powers = power_sums(values, shift);
        for masked in [0.0, self.padded_columns] {
            for (k, ranges) in (1..).zip(&mut self.logarithms[layer]) {
                let mut earlier = 0.0;
                for (i, range) in (1..=k).zip(ranges.iter_mut()) {
                    let exponent = f64::from(i - k).exp2();
                    let sum = powers[MAX_ROUNDS - 1 - (k - i) as usize] + masked * (-exponent * spans.span).exp();
                    let logarithm = sum.ln() - 2.0 * earlier;
                    range.include(logarithm);
                    earlier = 2.0 * earlier + logarithm;
                }
            }
        }
    }
}

/// Σ exp(x/32), Σ exp(x/16), …, Σ exp(x).
fn power_sums(scores: &[f32], shift: f64) -> [f64; MAX_ROUNDS] {
    let smallest = (1.0 - MAX_ROUNDS as f64).exp2();
    let mut sums = [0.0; MAX_ROUNDS];
    for &score in scores {
        let mut power = ((f64::from(score) - shift) * smallest).exp();
        for sum in &mut sums {
            *sum += power;
            power *= power;
        }
    }
    sums
}

impl Collector for Sums<'_> {
    fn merged(mut self, other: Self) -> Self {
        let mine = self.logarithms.iter_mut().flatten().flatten();
        mine.zip(other.logarithms.iter().flatten().flatten()).for_each(|(mine, &theirs)| mine.merge(theirs));
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use undertone_model::reference::Block;

    #[test]
    fn sums_equal_those_of_the_plain_recurrence() {
        let scores: Vec<f32> = (0..50).map(|i| ((i * 37) % 50) as f32 * 0.3 - 9.0).collect();
        let spans = [Spans { shift: vec![6.5], span: 20.0, row_drop: 1.0 }];
        let mut sums = Sums::new(&spans, 8.0);
        let shape = SiteShape { block: Block::Attention, rows: 1, cols: 50, position: 49, head: 0 };
        sums.record(0, Site::Scores, &scores, shape);
        for k in 1..=MAX_ROUNDS {
            let mut ranges = [Range::NONE; MAX_ROUNDS];
            for masked in [0, 8] {
                let x = scores.iter().map(|&s| f64::from(s) - 6.5).chain(vec![-20.0; masked]);
                let mut y: Vec<f64> = x.map(|x| (x / (k as f64).exp2()).exp()).collect();
                for range in ranges.iter_mut().take(k) {
                    let sum: f64 = y.iter().map(|y| y * y).sum();
                    range.include(sum.ln());
                    y.iter_mut().for_each(|y| *y = *y * *y / sum);
                }
                // The last round is the softmax itself.
                assert!((y.iter().sum::<f64>() - 1.0).abs() < 1e-12);
            }
            for (have, want) in sums.logarithms[0][k - 1].iter().zip(&ranges).take(k) {
                assert!((have.low - want.low).abs() < 1e-9 && (have.high - want.high).abs() < 1e-9);
            }
        }
    }
}
