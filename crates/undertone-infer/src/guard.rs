//! The guard: one value per step whose slots exceed 1 when something left the range that calibration declared.
//!
//! Every Chebyshev evaluation yields its highest power-of-two basis element T, with |T| ≤ 1 exactly inside the
//! interval and exponential growth outside; every value that a bootstrap refreshed as it stands has |x| ≤ 1 in range.
//! Each of these is doubled twice, T ← 2T² − 1, which keeps [−1, 1] and carries all else to T_4(T), and the guard is
//! the mean of the squares over the M of the step. Layouts add up slot by slot without rotations.
//!
//! A single escape is certain to be seen from T_4(T)² > 1.05·M on, when all else contributes nothing: |T| ≥ 1.2 at
//! M = 25, 1.4 at M = 200 and 1.6 at M = 1000; with T = T_64 an input 0.01 % of its interval outside suffices there.
//! Smaller excesses may pass; polynomials are still accurate to a small factor where they do. A value far beyond 1 at
//! its bootstrap is reduced modulo the scheme's range and may come back as one that looks honest. Bounds of values that
//! are not bootstrapped (values, up, product) only scale and need no guard.

use undertone_he::{Error, Evaluator};

/// Doublings of every contribution.
const DOUBLINGS: usize = 2;
/// Level at which contributions wait; two above the level of the guard.
const WAITING_LEVEL: usize = 3;
/// Least level of a contribution.
pub const CONTRIBUTION_LEVEL: usize = WAITING_LEVEL + DOUBLINGS;

/// Collects the contributions of one step.
pub struct Guard<E: Evaluator> {
    doubled: Vec<E::Value>,
}

impl<E: Evaluator> Default for Guard<E> {
    fn default() -> Self {
        Self { doubled: Vec::new() }
    }
}

impl<E: Evaluator> Guard<E> {
    /// Adds a value that lies in [−1, 1] in every slot unless something escaped.
    ///
    /// # Errors
    /// `LevelTooLow` below [`CONTRIBUTION_LEVEL`].
    pub fn push(&mut self, ev: &E, value: &E::Value) -> Result<(), Error> {
        let mut doubled = ev.drop_level(value, CONTRIBUTION_LEVEL, 1.0)?;
        for _ in 0..DOUBLINGS {
            doubled = ev.add_constant(&ev.mul_integer(&ev.square(&doubled)?, 2)?, -1.0)?;
        }
        self.doubled.push(doubled);
        Ok(())
    }

    /// The mean of the squares, at level 1.
    ///
    /// # Errors
    /// `Arity` when nothing was added.
    pub fn finish(self, ev: &E) -> Result<E::Value, Error> {
        let factor = 1.0 / (self.doubled.len().max(1) as f64).sqrt();
        let scaled = self
            .doubled
            .iter()
            .map(|value| ev.drop_level(value, WAITING_LEVEL - 1, factor))
            .collect::<Result<Vec<_>, _>>()?;
        let pairs: Vec<_> = scaled.iter().map(|value| (value, value)).collect();
        ev.multiply_sum(&pairs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use undertone_he::{Chain, ClearEvaluator, Slots};

    const CHAIN: Chain = Chain { log_n: 5, top_level: 8, boot_level: 3, max_level: 12, product_prime: None };

    /// The guard of one contribution `value` among `count`, the others zero after doubling.
    fn single(value: f64, count: usize) -> f64 {
        let ev = ClearEvaluator::new(CHAIN);
        let mut guard = Guard::default();
        // T_4 vanishes here.
        let silent = (std::f64::consts::PI / 8.0).cos();
        for i in 0..count {
            let slots = Slots::new(vec![if i == 0 { value } else { silent }], ev.chain().slot_count()).unwrap();
            guard.push(&ev, &ev.encrypt(&slots, 8)).unwrap();
        }
        let sum = guard.finish(&ev).unwrap();
        assert_eq!(ev.level(&sum), 1);
        ev.decrypt(&sum)[0]
    }

    #[test]
    fn one_escape_among_many_is_seen() {
        assert!(single(1.2, 25) > 1.05 && single(-1.2, 25) > 1.05);
        assert!(single(1.4, 200) > 1.05);
        assert!(single(1.6, 1000) > 1.05);
        assert!(single(1.15, 25) < 1.05, "the documented threshold is the true one");
    }

    #[test]
    fn values_in_range_stay_below_one() {
        let most = (-20..=20).map(|i| single(f64::from(i) / 20.0, 1)).fold(0.0, f64::max);
        assert!(most <= 1.0 + 1e-12, "{most}");
    }
}
