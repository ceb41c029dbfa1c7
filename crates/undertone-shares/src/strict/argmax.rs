//! The place of the largest logit on shares: log2(V) / 2 rounds or one half more. Logits are compared at [`KEPT_BITS`];
//! of those that are equal then the first counts.
//!
//! Opened in turn, in a tree of comparisons: logits; of every pair the larger one and its place, under masks. The
//! last place is told to the user alone.
//! Range: logits below 2^14 in magnitude.

use zeroize::Zeroizing;

use super::evaluator::Evaluator;
use super::program::{Part, Stage};
use super::wire::Wire;

/// Most fractional bits of logits in comparisons.
const KEPT_BITS: u32 = 16;

/// The program.
pub(crate) struct Argmax {
    /// Fractional bits of logits.
    bits: u32,
    rows: usize,
    /// Candidates of every row.
    length: usize,
    /// Their logits and their places; none before the first comparison.
    candidates: Option<[Wire; 2]>,
}

impl Argmax {
    /// Rows of `vocab` logits with `bits` fractional bits.
    pub(crate) fn new(rows: usize, vocab: usize, bits: u32) -> Self {
        Self { bits, rows, length: vocab, candidates: None }
    }

    pub(crate) fn next<E: Evaluator>(&mut self, evaluator: &mut E, opened: &[Wire]) -> Stage {
        let candidates = match self.candidates.take() {
            None => {
                let logits = evaluator.dropped(&opened[0], self.bits - self.bits.min(KEPT_BITS));
                let places = (0..self.rows).flat_map(|_| 0..self.length as u64).collect();
                [logits, Wire::public(places)]
            }
            Some(before) => self.pass(opened, &before),
        };
        if self.length == 1 {
            return Stage::Reveal(Zeroizing::new(evaluator.share(&candidates[1])));
        }
        let first: Vec<usize> = (0..self.rows)
            .flat_map(|row| (0..self.length / 2).map(move |pair| (row, pair)))
            .map(|(row, pair)| row * self.length + 2 * pair)
            .collect();
        let second: Vec<usize> = first.iter().map(|first| first + 1).collect();
        let seconds = candidates.each_ref().map(|wire| wire.gather(&second));
        let gains: [Wire; 2] = std::array::from_fn(|i| candidates[i].gather(&first).minus(&seconds[i]));
        let words = evaluator.compare(&gains[0], 32, &[0], &[&gains[0], &gains[1]]).remove(0);
        let share = |i: usize| {
            let mut share = evaluator.share(&seconds[i]);
            crate::fixed::add_assign(&mut share, &words[1 + i]);
            share
        };
        if self.length == 2 {
            return Stage::Reveal(Zeroizing::new(share(1)));
        }
        let parts = [0, 1].map(|i| Part::narrow(share(i)));
        self.candidates = Some(candidates);
        Stage::Open(parts.into())
    }

    /// Puts the winners in the place of their pairs.
    fn pass(&mut self, opened: &[Wire], before: &[Wire; 2]) -> [Wire; 2] {
        let (half, odd) = (self.length / 2, self.length % 2);
        let places: Vec<usize> = (0..self.rows)
            .flat_map(|row| {
                let left = self.rows * half + (row + 1) * self.length - 1;
                (row * half..(row + 1) * half).chain((0..odd).map(move |_| left))
            })
            .collect();
        self.length = half + odd;
        std::array::from_fn(|i| opened[i].concat(&before[i]).gather(&places))
    }
}
