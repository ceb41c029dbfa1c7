//! RMSNorm of rows without gains, on shares: three rounds.
//!
//! Opened in turn: the row x; S, its sum of squares at [`SQUARE_BITS`] with ε; S and a power of two such that
//! together they are S between 4^30 and 4^31; the inverse root W, from a table over that interval; the product x W.
//! Range: S from 2^18 to 2^62, which is a root mean square from 2^-7 / √D to 2^15 / √D; a smaller ε counts as
//! 2^-14 / D. Error: see the test.

use zeroize::Zeroizing;

use super::evaluator::{Evaluator, add_scaled};
use super::program::{Part, Stage};
use super::table::Table;
use super::wire::Wire;
use crate::fixed::{ACTIVATION_BITS, power, rounded};

/// Fractional bits at which entries are squared.
const SQUARE_BITS: u32 = 16;
/// The least sum of squares, as a power of two.
const LEAST: u32 = 18;
/// Sums are brought to 4^TOP and more.
const TOP: u32 = 30;
/// Fractional bits of the table.
const TABLE_BITS: u32 = 40;

/// The program.
pub(crate) struct Norm {
    cols: usize,
    /// Fractional bits of entries, once they are multiplied by 2^raised: [`SQUARE_BITS`] at least.
    bits: u32,
    raised: u32,
    epsilon: f64,
    stage: u32,
    x: Wire,
}

impl Norm {
    pub(crate) fn new(cols: usize, bits: u32, epsilon: f64) -> Self {
        let raised = SQUARE_BITS.saturating_sub(bits);
        Self { cols, bits: bits + raised, raised, epsilon, stage: 0, x: Wire::default() }
    }

    /// √D as a power of two and a factor from 1 to 2.
    fn root(&self) -> (u32, f64) {
        let root = (self.cols as f64).sqrt();
        let whole = (self.cols.ilog2()) / 2;
        (whole, root * power(-(whole as i32)))
    }

    /// Bits dropped from W, so that its product with an entry, at most √D in magnitude, stays below 2^61.
    fn inverse_drop(&self) -> u32 {
        self.bits - SQUARE_BITS + 10
    }

    /// Fractional bits of x W: W has 70 - log √D - 16.
    pub(super) fn product_bits(&self) -> u32 {
        self.bits + TABLE_BITS + TOP - self.root().0 - SQUARE_BITS - self.inverse_drop()
    }

    pub(crate) fn next<E: Evaluator>(&mut self, evaluator: &mut E, opened: &[Wire]) -> Stage {
        self.stage += 1;
        match self.stage {
            1 => {
                self.x = opened[0].scaled(1 << self.raised);
                let x = evaluator.truncated(&self.x, self.bits - SQUARE_BITS);
                let mut sums = evaluator.square_sums(&x, self.cols);
                let epsilon = self.epsilon * self.cols as f64 * power(2 * SQUARE_BITS as i32);
                let epsilon = evaluator.public(rounded(epsilon).max(1 << LEAST));
                sums.iter_mut().for_each(|sum| *sum = sum.wrapping_add(epsilon));
                Stage::Open(vec![Part::wide(sums)])
            }
            2 => {
                let sums = &opened[0];
                let thresholds: Vec<u64> = (LEAST / 2..=TOP).map(|k| 1 << (2 * k)).collect();
                let reached = evaluator.compare(sums, 64, &thresholds, &[sums]);
                let [mut power, mut scaled] = [0, 1].map(|_| vec![0; sums.len()]);
                for (i, words) in reached.iter().enumerate() {
                    // What the threshold below added is taken back.
                    let shift = TOP - LEAST / 2 - i as u32;
                    let before = |one: u64| if i == 0 { 0 } else { one };
                    add_scaled(&mut power, &words[0], (1u64 << shift).wrapping_sub(before(2 << shift)));
                    add_scaled(&mut scaled, &words[1], (1u64 << (2 * shift)).wrapping_sub(before(4 << (2 * shift))));
                }
                Stage::Open(vec![Part::wide(scaled), Part::wide(power)])
            }
            3 => {
                let (factor, unit) = (self.root().1, power(-16));
                let inverse_root = |read: f64| factor / (1.0 + read * unit).sqrt();
                let table = Table::new(2 * TOP - 16, 18, TABLE_BITS, inverse_root);
                let scaled = opened[0].clone().plus((1u64 << (2 * TOP)).wrapping_neg());
                Stage::Open(vec![Part::wide(evaluator.table(&scaled, &table, Some(&opened[1])))])
            }
            _ => {
                let inverse = evaluator.truncated(&opened[0], self.inverse_drop());
                let product = evaluator.product(&self.x, &inverse, self.cols);
                Stage::Return(Zeroizing::new(product), self.product_bits() - ACTIVATION_BITS)
            }
        }
    }
}
