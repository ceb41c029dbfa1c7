//! Gates in the clear: the twin's integers, rounded as the masks of a session have it, or to nearest.

use zeroize::Zeroizing;

use super::evaluator::{Evaluator, Share};
use super::table::Table;
use super::wire::Wire;
use crate::fixed::add_assign;
use crate::random::WordStream;
use crate::truncation;

/// The clear side of one exchange.
pub(crate) struct Clear {
    /// Both parties' halves of the masks; without them everything is rounded to nearest.
    masks: Option<[WordStream; 2]>,
}

impl Clear {
    pub(crate) fn new(masks: Option<[WordStream; 2]>) -> Self {
        Self { masks }
    }

    /// The low bits of a mask, or half of what they can be.
    fn low(&self, mask: u64, bits: u32) -> u64 {
        if self.masks.is_some() { mask & ((1u64 << bits) - 1) } else { 1u64 << bits >> 1 }
    }

    /// The value without its low bits, and its mask likewise.
    fn without(&self, value: u64, mask: u64, bits: u32) -> u64 {
        let low = (1u64 << bits) - 1;
        (value >> bits).wrapping_add(u64::from((value & low) + self.low(mask, bits) > low))
    }
}

/// A number of `bits` bits with a sign.
fn signed(value: u64, bits: u32) -> i64 {
    (value << (64 - bits)) as i64 >> (64 - bits)
}

impl Evaluator for Clear {
    fn masks(&mut self, len: usize) -> Zeroizing<Vec<u64>> {
        let mut masks = Zeroizing::new(vec![0; len]);
        self.masks.iter_mut().flatten().for_each(|stream| add_assign(&mut masks, &stream.take(len)));
        masks
    }

    fn public(&self, number: u64) -> u64 {
        number
    }

    fn share(&self, wire: &Wire) -> Share {
        wire.open.clone()
    }

    fn truncated(&mut self, x: &Wire, drop: u32) -> Wire {
        let open = x.open.iter().zip(&*x.mask);
        let open = open.map(|(&value, &mask)| truncation::clear(value, self.low(mask, drop), drop)).collect();
        // The low 63 bits of the mask without those dropped are the mask of what is left.
        let mask = x.mask.iter().map(|mask| (mask & (u64::MAX >> 1)) >> drop).collect::<Vec<u64>>();
        Wire::new(open, Zeroizing::new(mask))
    }

    fn dropped(&mut self, x: &Wire, drop: u32) -> Wire {
        let open = x.open.iter().zip(&*x.mask).map(|(&value, &mask)| self.without(value, mask, drop)).collect();
        Wire::new(open, Zeroizing::new(x.mask.iter().map(|mask| mask >> drop).collect::<Vec<u64>>()))
    }

    fn compare(&mut self, x: &Wire, bits: u32, thresholds: &[u64], factors: &[&Wire]) -> Vec<Vec<Share>> {
        let one = |threshold: &u64| {
            let bit = |value: &u64| u64::from(signed(value.wrapping_sub(*threshold), bits) >= 0);
            let kept: Share = x.open.iter().map(bit).collect();
            let times = |wire: &&Wire| wire.open.iter().zip(&kept).map(|(value, bit)| value * bit).collect();
            let products: Vec<Share> = factors.iter().map(times).collect();
            [vec![kept], products].concat()
        };
        thresholds.iter().map(one).collect()
    }

    fn table(&mut self, x: &Wire, table: &Table, factor: Option<&Wire>) -> Share {
        let (h, low_bits) = (1u64 << table.low_bits(), table.low_bits());
        let one = |i: usize| {
            let read = self.without(x.open[i], x.mask[i], table.drop) & (u64::MAX >> (64 - table.bits));
            let (place, low) = (read >> low_bits, read & (h - 1));
            let up = u64::from(low + self.low(x.mask[i] >> table.drop, low_bits) >= h);
            let t = low.wrapping_sub(up * h);
            let [a, b, q] = table.pieces[(place + up) as usize % table.pieces.len()];
            let value = a.wrapping_add(t.wrapping_mul(b.wrapping_add(t.wrapping_mul(q))));
            factor.map_or(value, |factor| value.wrapping_mul(factor.open[i]))
        };
        (0..x.len()).map(one).collect()
    }

    fn product(&mut self, a: &Wire, b: &Wire, group: usize) -> Share {
        a.open.iter().enumerate().map(|(i, a)| a.wrapping_mul(b.open[i / group])).collect()
    }

    fn square_sums(&mut self, x: &Wire, width: usize) -> Share {
        let square = |sum: u64, word: &u64| sum.wrapping_add(word.wrapping_mul(*word));
        x.open.chunks_exact(width).map(|row| row.iter().fold(0, square)).collect()
    }
}
