//! The guard: one value per step whose slots exceed 1 when a polynomial was evaluated outside its interval.
//!
//! Every Chebyshev evaluation yields its highest power-of-two basis element T, with |T| ≤ 1 exactly inside the
//! interval and exponential growth outside. The guard is the mean of T² over all polynomials of the step. Different
//! layouts add up slot by slot without rotations, because any slot out of range is enough.

use undertone_he::{Error, Evaluator};

/// Level at which basis elements wait; two above the level of the guard.
const WAITING_LEVEL: usize = 3;

/// Collects the basis elements of one step.
pub struct Guard<E: Evaluator> {
    tops: Vec<E::Value>,
}

impl<E: Evaluator> Default for Guard<E> {
    fn default() -> Self {
        Self { tops: Vec::new() }
    }
}

impl<E: Evaluator> Guard<E> {
    /// Adds the basis element of one evaluation.
    ///
    /// # Errors
    /// `LevelTooLow` below level 3.
    pub fn push(&mut self, ev: &E, top: &E::Value) -> Result<(), Error> {
        self.tops.push(ev.drop_level(top, WAITING_LEVEL, 1.0)?);
        Ok(())
    }

    /// The mean of the squares, at level 1.
    ///
    /// # Errors
    /// `Arity` when nothing was added.
    pub fn finish(self, ev: &E) -> Result<E::Value, Error> {
        let factor = 1.0 / (self.tops.len().max(1) as f64).sqrt();
        let scaled =
            self.tops.iter().map(|top| ev.drop_level(top, WAITING_LEVEL - 1, factor)).collect::<Result<Vec<_>, _>>()?;
        let pairs: Vec<_> = scaled.iter().map(|top| (top, top)).collect();
        ev.multiply_sum(&pairs)
    }
}
