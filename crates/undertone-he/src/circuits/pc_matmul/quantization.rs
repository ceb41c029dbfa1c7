//! From real weights to 15-bit integers over the product prime, with a power of two as gain.

use super::{MAX_GAIN_LOG2, MAX_WEIGHT};
use crate::Error;

/// log2 of the largest gain that is undone after a bootstrap, where it multiplies the noise too.
pub const MAX_TURN_GAIN_LOG2: i32 = 10;

/// A weight w stands as the integer nearest to w · q_w / 2^gain_log2.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Quantization {
    gain_log2: i32,
    unit: f64,
}

impl Quantization {
    /// The largest magnitude of some weights.
    ///
    /// # Errors
    /// `Range` for one that is not finite.
    pub fn largest(weights: &[f32]) -> Result<f64, Error> {
        if weights.iter().all(|weight| weight.is_finite()) {
            return Ok(weights.iter().fold(0.0, |most, weight| f64::max(most, f64::from(weight.abs()))));
        }
        Err(Error::Range { op: "pc_matmul weights", have: f64::INFINITY, need: f64::from(f32::MAX) })
    }

    /// With all 15 bits: the least gain for which the `largest` weight still rounds to at most 2^14.
    pub fn full(largest: f64, prime: u64) -> Self {
        let exact = (largest * prime as f64 / f64::from(MAX_WEIGHT)).log2().ceil();
        Self::with_gain(if largest == 0.0 { 0 } else { exact as i32 }, prime)
    }

    /// For a product between bootstraps: the same where the gain is above 0. A gain below it would be a factor beyond
    /// what the slots may hold before the bootstrap, so weights that want one have fewer bits.
    ///
    /// # Errors
    /// `Range` for a gain above [`MAX_TURN_GAIN_LOG2`].
    pub fn of_turn(largest: f64, prime: u64) -> Result<Self, Error> {
        let full = Self::full(largest, prime);
        if full.gain_log2 > MAX_TURN_GAIN_LOG2 {
            let need = f64::from(MAX_WEIGHT) * f64::from(MAX_TURN_GAIN_LOG2).exp2() / prime as f64;
            return Err(Error::Range { op: "encode_matrix", have: largest, need });
        }
        Ok(if full.gain_log2 < 0 { Self::with_gain(0, prime) } else { full })
    }

    fn with_gain(gain_log2: i32, prime: u64) -> Self {
        debug_assert!(gain_log2.abs() <= MAX_GAIN_LOG2);
        Self { gain_log2, unit: prime as f64 * (-f64::from(gain_log2)).exp2() }
    }

    /// log2 of the gain.
    pub fn gain_log2(&self) -> i32 {
        self.gain_log2
    }

    /// The integer of one weight.
    ///
    /// # Errors
    /// `Range` for a weight above the largest one that was announced.
    pub fn integer(&self, weight: f32) -> Result<i16, Error> {
        let integer = (f64::from(weight) * self.unit).round();
        if integer.abs() <= f64::from(MAX_WEIGHT) {
            return Ok(integer as i16);
        }
        let need = f64::from(MAX_WEIGHT) / self.unit;
        Err(Error::Range { op: "pc_matmul weights", have: f64::from(weight).abs(), need })
    }
}
