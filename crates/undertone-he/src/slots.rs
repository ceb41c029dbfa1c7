//! Plaintext slot vectors, stored by their period.

use crate::Error;
use std::sync::Arc;
use zeroize::Zeroizing;

/// A real plaintext vector over all slots, stored as one period (a power of two that divides the slot count).
///
/// A short period makes encoding proportionally cheaper: the polynomial then lives in a sub-ring. The values may be a
/// user's embeddings: they are never printed, and erased with the last copy.
#[derive(Clone, PartialEq)]
pub struct Slots(Arc<Zeroizing<Vec<f64>>>);

impl std::fmt::Debug for Slots {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Slots(period {})", self.0.len())
    }
}

impl Slots {
    /// Takes one period of values.
    ///
    /// # Errors
    /// `SlotLength` unless the length is a power of two and at most `slot_count`.
    pub fn new(values: Vec<f64>, slot_count: usize) -> Result<Self, Error> {
        if !values.len().is_power_of_two() || values.len() > slot_count {
            return Err(Error::SlotLength { op: "Slots::new", have: values.len(), need: slot_count });
        }
        Ok(Self(Arc::new(Zeroizing::new(values))))
    }

    /// One period of the vector.
    pub fn period(&self) -> &[f64] {
        &self.0
    }

    /// The value in slot `index` (any index, taken modulo the period).
    pub fn at(&self, index: usize) -> f64 {
        self.0[index & (self.0.len() - 1)]
    }

    /// The vector rotated left by `by` slots, as a ciphertext rotation would: slot i receives slot i + by.
    pub fn rotated(&self, by: i64) -> Self {
        let n = self.0.len() as i64;
        let shift = by.rem_euclid(n) as usize;
        let mut values = self.0.to_vec();
        values.rotate_left(shift);
        Self(Arc::new(Zeroizing::new(values)))
    }
}
