//! Softmax of visible scores and the mixing of values, on shares: about log2(T) / 2 + 3 rounds.
//!
//! Opened in turn: scores; the larger of two, four, … of every row, in a tree of comparisons; the exponentials below the
//! largest, and whether they are within the table; the former where the latter; mixed values, with the row's sum
//! as a power of two and a factor; the inverse of the sum; the quotient. Values are mixed before the division,
//! because a token has fewer channels than scores. Dead rows, which both parties know, count as zero.
//! Range: products of queries and keys below 2^18 in magnitude; mixed values before the division below 2^15.

use zeroize::Zeroizing;

use super::evaluator::{Evaluator, Share, add_scaled};
use super::program::{Part, Stage};
use super::table::Table;
use super::tree::PLACE_BITS;
use super::wire::Wire;
use crate::fixed::{ACTIVATION_BITS, PROBABILITY_BITS, SCORE_BITS, power};
use crate::nonlinear::exponential;
use crate::shape::{Shape, Step};

/// Fractional bits of scores in comparisons and in the table.
const KEPT_BITS: u32 = 12;
/// Below this the exponential rounds to less than a unit of [`PROBABILITY_BITS`].
const NEGLIGIBLE: f64 = 11.1;
/// Fractional bits of the tables.
const TABLE_BITS: u32 = 40;
/// Sums of exponentials are from 2^LEAST to 2^MOST, at [`PROBABILITY_BITS`]: the largest entry may round down.
const LEAST: u32 = PROBABILITY_BITS - 1;
const MOST: u32 = 33;
/// Sums are brought to 2^TOP and more.
const TOP: u32 = 60;
/// Fractional bits of the inverse and of mixed values in their product.
const INVERSE_BITS: u32 = 30;
const MIXED_BITS: u32 = 16;

/// The program.
pub(crate) struct Softmax {
    head_dim: usize,
    /// Fractional bits of mixed values.
    mixed_bits: u32,
    /// Entries of every row.
    lengths: Vec<usize>,
    /// Whether an entry counts.
    alive: Vec<bool>,
    stage: Next,
    scores: Wire,
    /// Candidates of every row, and whether any of those behind them is alive.
    largest: (Vec<usize>, Wire, Vec<bool>),
    /// The wires of a sum while values are mixed.
    sums: Wire,
}

#[derive(Clone, Copy, PartialEq)]
enum Next {
    Scores,
    Larger,
    Exponentials,
    Mixing,
    Inverse,
    Quotient,
}

impl Softmax {
    /// `alive` says of every position of the cache whether it counts for later tokens; those after its end do.
    pub(crate) fn new(shape: &Shape, step: &Step, value_bits: u32, alive: &[bool]) -> Self {
        let rows = (0..step.tokens).flat_map(|token| std::iter::repeat_n(step.visible(token), shape.heads));
        let lengths: Vec<usize> = rows.collect();
        let counts = |&length: &usize| (0..length).map(|place| alive.get(place).copied().unwrap_or(true));
        let alive = lengths.iter().flat_map(counts).collect();
        Self {
            head_dim: shape.head_dim,
            mixed_bits: PROBABILITY_BITS + ACTIVATION_BITS + value_bits,
            lengths,
            alive,
            stage: Next::Scores,
            scores: Wire::default(),
            largest: Default::default(),
            sums: Wire::default(),
        }
    }

    pub(crate) fn next<E: Evaluator>(&mut self, evaluator: &mut E, opened: &[Wire]) -> Stage {
        match self.stage {
            Next::Scores => {
                self.scores = evaluator.dropped(&opened[0], SCORE_BITS - KEPT_BITS);
                self.largest = (self.lengths.clone(), self.scores.clone(), self.alive.clone());
                self.stage = Next::Larger;
                self.larger(evaluator)
            }
            Next::Larger => {
                self.pass(&opened[0]);
                self.larger(evaluator)
            }
            Next::Exponentials => {
                let exponentials = evaluator.truncated(&opened[0], TABLE_BITS - PROBABILITY_BITS);
                let kept = evaluator.product(&exponentials, &opened[1], 1);
                self.stage = Next::Mixing;
                Stage::Open(vec![Part::wide(kept)])
            }
            Next::Mixing => {
                self.sums = opened[0].row_sums(&self.lengths);
                Stage::Mix(opened[0].clone())
            }
            Next::Inverse => {
                let unit = power(-17);
                let table = Table::new(TOP - 17, 18, TABLE_BITS, |read| 1.0 / (1.0 + read * unit));
                let scaled = opened[1].clone().plus((1u64 << TOP).wrapping_neg());
                let inverse = evaluator.table(&scaled, &table, Some(&opened[2]));
                self.scores = evaluator.truncated(&opened[0], self.mixed_bits - MIXED_BITS);
                self.stage = Next::Quotient;
                Stage::Open(vec![Part::wide(inverse)])
            }
            Next::Quotient => {
                // 1 / sum is table · factor · 2^(16 - MOST - TABLE_BITS) with 16 bits of the sum.
                let drop = TABLE_BITS + MOST - PROBABILITY_BITS - INVERSE_BITS;
                let inverse = evaluator.truncated(&opened[0], drop);
                let quotient = evaluator.product(&self.scores, &inverse, self.head_dim);
                Stage::Return(Zeroizing::new(quotient), MIXED_BITS + INVERSE_BITS - ACTIVATION_BITS)
            }
        }
    }

    /// Pairs of candidates: places of the first of every pair.
    fn pairs(&self) -> Vec<usize> {
        let mut start = 0;
        let mut pairs = Vec::new();
        for &length in &self.largest.0 {
            pairs.extend((0..length / 2).map(|pair| start + 2 * pair));
            start += length;
        }
        pairs
    }

    /// Opens the larger of every pair of candidates, or goes on where one is left.
    fn larger<E: Evaluator>(&mut self, evaluator: &mut E) -> Stage {
        let pairs = self.pairs();
        if pairs.is_empty() {
            return self.exponentials(evaluator);
        }
        let (_, candidates, alive) = &self.largest;
        let second: Vec<usize> = pairs.iter().map(|first| first + 1).collect();
        let [first_wire, second_wire] = [&pairs, &second].map(|places| candidates.gather(places));
        let difference = first_wire.minus(&second_wire);
        let mut words = evaluator.compare(&difference, 32, &[0], &[&difference]).remove(0);
        let mut larger = words.remove(1);
        let [firsts, seconds] = [&first_wire, &second_wire].map(|wire| evaluator.share(wire));
        for (i, larger) in larger.iter_mut().enumerate() {
            // A dead candidate loses.
            let gain = [firsts[i].wrapping_sub(seconds[i]), *larger, 0];
            let which = [!alive[second[i]], alive[pairs[i]], true].iter().position(|&case| case).unwrap_or(2);
            *larger = seconds[i].wrapping_add(gain[which]);
        }
        Stage::Open(vec![Part::narrow(larger)])
    }

    /// Puts the larger ones in the place of their pairs.
    fn pass(&mut self, opened: &Wire) {
        let (lengths, candidates, alive) = &self.largest;
        let all = opened.concat(candidates);
        let (mut places, mut living, mut next, mut start) = (Vec::new(), Vec::new(), 0, 0);
        for &length in lengths {
            for pair in 0..length / 2 {
                places.push(next);
                living.push(alive[start + 2 * pair] || alive[start + 2 * pair + 1]);
                next += 1;
            }
            if length % 2 == 1 {
                places.push(opened.len() + start + length - 1);
                living.push(alive[start + length - 1]);
            }
            start += length;
        }
        self.largest = (lengths.iter().map(|length| length.div_ceil(2)).collect(), all.gather(&places), living);
    }

    /// Bits of the table's range: the least power of two of q·k beyond which an exponential is negligible.
    fn range_bits(&self) -> u32 {
        let range = NEGLIGIBLE * (self.head_dim as f64).sqrt() * 256.0 / 255.0;
        (range.ceil() as u64).next_power_of_two().ilog2() + KEPT_BITS
    }

    fn exponentials<E: Evaluator>(&mut self, evaluator: &mut E) -> Stage {
        let bits = self.range_bits();
        let end = (255u64 << (bits - PLACE_BITS)) - 1;
        let rows: Vec<usize> =
            self.lengths.iter().enumerate().flat_map(|(row, &length)| std::iter::repeat_n(row, length)).collect();
        let below = self.scores.minus(&self.largest.1.gather(&rows)).plus(end);
        let scale = power(-(KEPT_BITS as i32)) / (self.head_dim as f64).sqrt();
        let table = Table::new(0, bits, TABLE_BITS, |read| exponential((read - end as f64) * scale));
        let mut words = evaluator.compare(&below, 32, &[0], &[]).remove(0);
        let (mut within, mut exponentials) = (words.remove(0), evaluator.table(&below, &table, None));
        for (i, _) in self.alive.iter().enumerate().filter(|(_, alive)| !**alive) {
            within[i] = 0;
            exponentials[i] = 0;
        }
        self.stage = Next::Exponentials;
        Stage::Open(vec![Part::wide(exponentials), Part::wide(within)])
    }

    /// Goes on with a share of the exponentials times cached values, `[n, H d]`.
    pub(crate) fn mixed<E: Evaluator>(&mut self, evaluator: &mut E, mixed: Share) -> Stage {
        let sums = std::mem::take(&mut self.sums);
        let thresholds: Vec<u64> = (LEAST..=MOST).map(|k| 1 << k).collect();
        let reached = evaluator.compare(&sums, 64, &thresholds, &[&sums]);
        let [mut factor, mut scaled] = [0, 1].map(|_| vec![0; sums.len()]);
        for (i, words) in reached.iter().enumerate() {
            let (shift, before) = (MOST - LEAST - i as u32, |one: u64| if i == 0 { 0 } else { one });
            add_scaled(&mut factor, &words[0], (1u64 << shift).wrapping_sub(before(2 << shift)));
            let shift = shift + TOP - MOST;
            add_scaled(&mut scaled, &words[1], (1u64 << shift).wrapping_sub(before(2 << shift)));
        }
        self.stage = Next::Inverse;
        Stage::Open(vec![Part::wide(mixed), Part::wide(scaled), Part::wide(factor)])
    }
}
