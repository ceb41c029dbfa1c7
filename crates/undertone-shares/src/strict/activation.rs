//! SiLU(gate) · up on shares: two rounds.
//!
//! Opened in turn: gate and up; the gate clipped to about ±16; SiLU, from a table inside and the gate itself above;
//! the product. Below -16 SiLU counts as its value there, 2e-6.
//! Range: gates below 2^17 - 16 in magnitude, which is 2^31 - 2^18 units at 14 fractional bits: comparisons subtract -16
//! from them and keep 32 bits. Products below 2^31. Error: see the test.

use zeroize::Zeroizing;

use super::evaluator::{Evaluator, add_scaled};
use super::program::{Part, Stage};
use super::table::Table;
use super::tree::PLACE_BITS;
use super::wire::Wire;
use crate::fixed::{ACTIVATION_BITS, power};
use crate::nonlinear::exponential;

/// Most fractional bits of gate and up.
const GATE_BITS: u32 = 14;
/// Fractional bits of the activation in the product.
const PRODUCT_BITS: u32 = 16;
/// The table reads from -2^REACH on.
const REACH: u32 = 4;

/// The program.
pub(crate) struct Activation {
    /// Fractional bits of gate and of up.
    bits: [u32; 2],
    stage: u32,
    up: Wire,
    /// A share of what the gate has above the table.
    above: Zeroizing<Vec<u64>>,
}

impl Activation {
    pub(crate) fn new(bits: [u32; 2]) -> Self {
        Self { bits, stage: 0, up: Wire::default(), above: Zeroizing::default() }
    }

    /// Fractional bits of the gate in the table, and of the activation from it.
    fn table_bits(&self) -> (u32, u32) {
        let kept = self.bits[0].min(GATE_BITS);
        (kept, kept + 28)
    }

    pub(crate) fn next<E: Evaluator>(&mut self, evaluator: &mut E, opened: &[Wire]) -> Stage {
        self.stage += 1;
        let (kept, silu_bits) = self.table_bits();
        match self.stage {
            1 => {
                let half = opened[0].len() / 2;
                let places: Vec<usize> = (0..2 * half).collect();
                self.up = opened[0].gather(&places[half..]);
                let gate = evaluator.truncated(&opened[0].gather(&places[..half]), self.bits[0] - kept);
                // The table reads from 0 to 255 h - 1.
                let (low, h) = (1u64 << (REACH + kept), 1u64 << (REACH + 1 + kept - PLACE_BITS));
                let high = 255 * h - 1 - low;
                let passed = evaluator.compare(&gate, 32, &[low.wrapping_neg(), high], &[&gate]);
                let beyond = |words: &[Vec<u64>], threshold: u64| {
                    let mut out = words[1].clone();
                    add_scaled(&mut out, &words[0], threshold.wrapping_neg());
                    out
                };
                let mut clipped = beyond(&passed[0], low.wrapping_neg());
                let above = beyond(&passed[1], high);
                add_scaled(&mut clipped, &above, u64::MAX);
                self.above = Zeroizing::new(above);
                Stage::Open(vec![Part::narrow(clipped)])
            }
            2 => {
                let unit = power(-(kept as i32));
                let silu = |read: f64| {
                    let gate = read * unit - power(REACH as i32);
                    gate / (1.0 + exponential(-gate))
                };
                let table = Table::new(0, REACH + 1 + kept, silu_bits, silu);
                let mut share = evaluator.table(&opened[0], &table, None);
                add_scaled(&mut share, &std::mem::take(&mut *self.above), 1 << (silu_bits - kept));
                Stage::Open(vec![Part::wide(share)])
            }
            _ => {
                let kept = self.bits[1].min(GATE_BITS);
                let silu = evaluator.truncated(&opened[0], silu_bits - PRODUCT_BITS);
                let up = evaluator.truncated(&self.up, self.bits[1] - kept);
                let product = evaluator.product(&silu, &up, 1);
                Stage::Return(Zeroizing::new(product), PRODUCT_BITS + kept - ACTIVATION_BITS)
            }
        }
    }
}
