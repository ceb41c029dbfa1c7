//! Which rows of the cache count: filler that makes a step as long as its bundle, and drafted tokens that were not
//! taken, stay in the caches of both parties but are seen by no token after them.
//!
//! Masks belong to rows, so a row is never written twice; the position of a token is the number of live rows before
//! it. The provider hides dead rows by a public constant on its share of their scores, which makes their probabilities
//! exactly zero. The user sees at which permuted places of a score row the dead ones lie, which it could have guessed
//! no better, and which says nothing of the order of the others.

use crate::error::{Error, Result};
use crate::shape::{Shape, Step};

/// What the scores of dead rows lose. Honest scores are below 2^59 in magnitude, so no dead row is the largest while
/// one lives, and at 24 fractional bits the difference is beyond where an exponential is not zero.
const HIDDEN: u64 = 1 << 61;

/// Which rows count from a step on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Placement {
    /// Rows of the step before that stay alive, counted from its first one; 0 before the first step.
    pub kept: usize,
    /// Rows at the beginning of this step that are filler.
    pub skipped: usize,
}

/// The rows of a session so far.
#[derive(Default)]
pub(crate) struct Rows {
    alive: Vec<bool>,
    /// Rows of the last step, and how many of them are filler.
    last: (usize, usize),
}

impl Rows {
    /// Rows of the last step: what to keep when nothing was drafted.
    pub(crate) fn last(&self) -> usize {
        self.last.0
    }

    /// Which rows count, from the first on.
    pub(crate) fn alive(&self) -> &[bool] {
        &self.alive
    }

    /// Live rows once `placement.kept` is taken into account.
    fn live(&self, placement: &Placement) -> usize {
        let rows = self.alive.len() - (self.last.0 - placement.kept);
        self.alive[..rows].iter().filter(|&&alive| alive).count()
    }

    /// The positions of the tokens of `step`; filler has that of the first token.
    ///
    /// # Errors
    /// More rows kept than the step before has, or fewer than its filler; filler where a token is chosen.
    pub(crate) fn positions(&self, step: &Step, placement: &Placement) -> Result<Vec<usize>> {
        let refuse = |what, have, need| Err(Error::OutOfRange { what, have: have as u64, need });
        let (tokens, filler) = self.last;
        if placement.kept > tokens || placement.kept < filler {
            let need = format!("from {filler} to {tokens}, the rows of the step before");
            return refuse("the number of rows kept", placement.kept, need);
        }
        // Rows that are opened are never filler.
        let most = step.tokens - step.outputs;
        if placement.skipped > most {
            return refuse("the number of filler rows", placement.skipped, format!("at most {most}"));
        }
        let first = self.live(placement);
        Ok((0..step.tokens).map(|row| first + row.saturating_sub(placement.skipped)).collect())
    }

    /// Takes the rows of a step whose positions were asked for.
    pub(crate) fn push(&mut self, step: &Step, placement: &Placement) {
        let kept = self.alive.len() - (self.last.0 - placement.kept);
        self.alive[kept..].fill(false);
        self.alive.extend((0..step.tokens).map(|row| row >= placement.skipped));
        self.last = (step.tokens, placement.skipped);
    }

    /// Hides dead rows in ragged scores, of which this is one share.
    pub(crate) fn hide(&self, shape: &Shape, step: &Step, scores: &mut [u64]) {
        let dead: Vec<usize> = (0..self.alive.len()).filter(|&row| !self.alive[row]).collect();
        if dead.is_empty() {
            return;
        }
        let mut rest = scores;
        for token in 0..step.tokens {
            let visible = step.visible(token);
            for _ in 0..shape.heads {
                let (row, after) = rest.split_at_mut(visible);
                dead.iter().take_while(|&&place| place < visible).for_each(|&place| {
                    row[place] = row[place].wrapping_sub(HIDDEN);
                });
                rest = after;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(number: u64, position: usize, tokens: usize, outputs: usize) -> Step {
        Step { number, position, tokens, outputs, strict: false }
    }

    #[test]
    fn positions_count_live_rows() {
        let mut rows = Rows::default();
        let mut take = |step: Step, kept, skipped| {
            let placement = Placement { kept, skipped };
            let positions = rows.positions(&step, &placement)?;
            rows.push(&step, &placement);
            Ok::<_, Error>(positions)
        };
        // Two rows of filler before two tokens, then three drafted tokens of which one is taken.
        assert_eq!(take(step(0, 0, 4, 0), 0, 2).unwrap(), [0, 0, 0, 1]);
        assert_eq!(take(step(1, 4, 3, 3), 4, 0).unwrap(), [2, 3, 4]);
        assert!(take(step(2, 7, 1, 1), 4, 0).is_err() && take(step(2, 7, 1, 1), 0, 1).is_err());
        assert_eq!(take(step(2, 7, 1, 1), 1, 0).unwrap(), [3]);
    }

    #[test]
    fn dead_rows_are_hidden_from_the_tokens_after_them() {
        let shape = Shape { hidden: 4, intermediate: 4, layers: 1, heads: 2, key_heads: 1, head_dim: 2, vocab: 9 };
        let mut rows = Rows::default();
        rows.push(&step(0, 0, 2, 1), &Placement::default());
        let last = step(1, 2, 2, 1);
        rows.push(&last, &Placement { kept: 1, skipped: 1 });
        let mut scores = vec![0; last.scores(&shape)];
        rows.hide(&shape, &last, &mut scores);
        let row = |dead: &[bool]| dead.iter().map(|&dead| if dead { HIDDEN.wrapping_neg() } else { 0 }).collect();
        let rows: [Vec<u64>; 2] = [row(&[false, true, true]), row(&[false, true, true, false])];
        assert_eq!(scores, [&rows[0], &rows[0], &rows[1], &rows[1]].map(Vec::as_slice).concat());
    }
}
