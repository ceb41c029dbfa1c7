//! Bootstraps of several values: two real values share each one.

use crate::program::Pass;
use undertone_he::{Error, Evaluator};

/// Shortest period that is bootstrapped; a shorter one would save nothing.
const SHORTEST_PERIOD: usize = 16;

impl<E: Evaluator> Pass<'_, E> {
    /// Refreshes all values to the top level, two at a time, and puts them under the guard.
    ///
    /// # Range
    /// |slot| ≤ 1, real, repeating with `period` slots.
    ///
    /// # Errors
    /// Whatever the evaluator refuses, and `Cancelled`.
    pub(crate) fn refresh(&mut self, values: &[E::Value], period: usize) -> Result<Vec<E::Value>, crate::Error> {
        let ev = self.ev;
        let period = period.max(SHORTEST_PERIOD).min(ev.chain().slot_count());
        let mut fresh = Vec::with_capacity(values.len());
        for pair in values.chunks(2) {
            self.steps.poll()?;
            let (lo, hi) = ev.half_bootstrap(&pair[0], pair.get(1), period)?;
            fresh.push(lo);
            fresh.extend(hi);
        }
        for value in &fresh {
            self.guard.push(ev, value)?;
        }
        Ok(fresh)
    }
}

/// [`Pass::refresh`] for one value that a polynomial takes next, whose guard is that of the polynomial.
///
/// # Errors
/// Whatever the evaluator refuses.
pub fn refresh_one<E: Evaluator>(ev: &E, value: &E::Value, period: usize) -> Result<E::Value, Error> {
    let period = period.max(SHORTEST_PERIOD).min(ev.chain().slot_count());
    Ok(ev.half_bootstrap(value, None, period)?.0)
}

/// Drops every value to `level`; those below stay.
///
/// # Errors
/// Whatever the evaluator refuses.
pub fn drop_to<E: Evaluator>(ev: &E, values: &[E::Value], level: usize) -> Result<Vec<E::Value>, Error> {
    values.iter().map(|value| drop_one(ev, value, level)).collect()
}

/// [`drop_to`] for values that nothing else needs, each of which is freed as it is dropped.
///
/// # Errors
/// Whatever the evaluator refuses.
pub fn lower<E: Evaluator>(ev: &E, values: Vec<E::Value>, level: usize) -> Result<Vec<E::Value>, Error> {
    let lower = |value| if ev.level(&value) <= level { Ok(value) } else { ev.drop_level(&value, level, 1.0) };
    values.into_iter().map(lower).collect()
}

/// Drops a value to `level` unless it is already lower.
///
/// # Errors
/// Whatever the evaluator refuses.
pub fn drop_one<E: Evaluator>(ev: &E, value: &E::Value, level: usize) -> Result<E::Value, Error> {
    if ev.level(value) <= level { Ok(value.clone()) } else { ev.drop_level(value, level, 1.0) }
}
