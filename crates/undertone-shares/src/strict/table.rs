//! Functions as 256 quadratic pieces with integer coefficients, the same on every machine.
//!
//! x is read from `bits` bits above `drop` dropped ones, as a number from 0 to 255 h - 1 with h = 2^(bits - 8). The
//! place of a piece is x / h rounded down or up, as masks have it, so each piece serves from one h below its middle
//! to one above; with t the distance from the middle its value is a + b t + q t². Each piece goes through the function at three
//! Chebyshev points of that interval. Error: |f'''| h³ / 24 of the interpolation, and h² + h + 1 halves of a unit in
//! the last place of coefficients.

use super::tree::{PLACE_BITS, PLACES};
use crate::fixed::{power, rounded};

/// A function by pieces.
pub(crate) struct Table {
    /// Low bits of x that are not read.
    pub(crate) drop: u32,
    /// Bits that are.
    pub(crate) bits: u32,
    /// a, b and q.
    pub(crate) pieces: Vec<[u64; 3]>,
}

impl Table {
    /// The pieces of `function`, whose argument is the number read and whose results are integers when multiplied
    /// by 2^result_bits. Where the function is not finite, pieces are 0.
    pub(crate) fn new(drop: u32, bits: u32, result_bits: u32, function: impl Fn(f64) -> f64) -> Self {
        let h = power((bits - PLACE_BITS) as i32);
        // cos(30°) h, and exact powers of two besides: IEEE 754 gives all machines the same bits.
        let reach = h * (0.75f64).sqrt();
        let piece = |place: usize| {
            let middle = place as f64 * h;
            let unit = power(result_bits as i32);
            let [low, here, high] = [middle - reach, middle, middle + reach].map(|x| function(x) * unit);
            let slope = (high - low) / (2.0 * reach);
            let bend = ((high - here) + (low - here)) / (2.0 * reach * reach);
            let all = [here, slope, bend];
            if all.iter().all(|c| c.is_finite()) { all.map(rounded) } else { [0; 3] }
        };
        Self { drop, bits, pieces: (0..PLACES).map(piece).collect() }
    }

    /// Bits below those of the place.
    pub(crate) fn low_bits(&self) -> u32 {
        self.bits - PLACE_BITS
    }

    /// The place and the low bits of a number.
    pub(crate) fn split(&self, number: u64) -> (usize, u64) {
        let read = number >> self.drop & (u64::MAX >> (64 - self.bits));
        ((read >> self.low_bits()) as usize, read & ((1 << self.low_bits()) - 1))
    }
}
