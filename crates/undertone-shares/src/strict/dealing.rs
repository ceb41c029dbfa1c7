//! The dealer's side of every gate: keys and corrections from masks.

use rayon::prelude::*;
use zeroize::Zeroizing;

use super::evaluator::{Evaluator, Share};
use super::table::Table;
use super::tree::{Comparison, LANES, Point, Thresholds};
use super::wire::{Top, Wire};
use crate::fixed::{add_assign, difference};
use crate::random::SiteDraws;
use crate::truncation::pair;

/// What the dealer makes for one exchange.
pub(crate) struct Dealing {
    user: SiteDraws,
    provider: SiteDraws,
    /// The provider's halves.
    pub(crate) corrections: Vec<u64>,
    /// For both parties.
    pub(crate) keys: Vec<u64>,
    gates: u64,
}

impl Dealing {
    pub(crate) fn new(user: SiteDraws, provider: SiteDraws) -> Self {
        Self { user, provider, corrections: Vec::new(), keys: Vec::new(), gates: 0 }
    }

    /// Shares numbers between the parties.
    fn correct(&mut self, values: &[u64]) {
        let halves = Zeroizing::new(self.user.corrections.take(values.len()));
        self.corrections.extend(difference(values, &halves));
    }

    fn roots(&mut self, gates: usize) -> [Zeroizing<Vec<u64>>; 2] {
        [&mut self.provider, &mut self.user].map(|draws| Zeroizing::new(draws.roots.take(2 * gates)))
    }

    fn count(&mut self, count: usize) -> u64 {
        let first = self.gates;
        self.gates += count as u64;
        first
    }
}

impl Evaluator for Dealing {
    fn masks(&mut self, len: usize) -> Zeroizing<Vec<u64>> {
        let mut masks = Zeroizing::new(self.user.masks.take(len));
        add_assign(&mut masks, &Zeroizing::new(self.provider.masks.take(len)));
        masks
    }

    fn public(&self, _: u64) -> u64 {
        0
    }

    fn share(&self, wire: &Wire) -> Share {
        vec![0; wire.len()]
    }

    fn truncated(&mut self, x: &Wire, drop: u32) -> Wire {
        let (value, mask): (Vec<u64>, Vec<u64>) = x.mask.iter().map(|&mask| pair(mask, drop)).unzip();
        self.correct(&value);
        self.correct(&mask);
        let top = Some(Top { sign: vec![1; x.len()], value: Zeroizing::new(value) });
        Wire { open: vec![0; x.len()], mask: Zeroizing::new(mask), top }
    }

    fn dropped(&mut self, x: &Wire, drop: u32) -> Wire {
        let mask = Zeroizing::new(x.mask.iter().map(|mask| mask >> drop).collect::<Vec<u64>>());
        self.correct(&mask);
        Wire::new(vec![0; x.len()], mask)
    }

    fn compare(&mut self, x: &Wire, bits: u32, thresholds: &[u64], factors: &[&Wire]) -> Vec<Vec<Share>> {
        let payload = 1 + factors.iter().map(|wire| 1 + usize::from(wire.top.is_some())).sum::<usize>();
        let comparison = Comparison { levels: bits - 1, payload };
        let (mut at, len) = (Zeroizing::new(Vec::with_capacity(x.len())), x.len() * payload);
        let [mut below, mut above] = [0, 1].map(|_| Zeroizing::new(Vec::with_capacity(len)));
        for i in 0..x.len() {
            at.push(x.mask[i] & (u64::MAX >> (64 - bits) >> 1));
            // With the mask's top bit set, a borrow makes the difference not negative.
            let top = (x.mask[i] >> (bits - 1) & 1).wrapping_neg();
            let mut push = |word: u64| {
                below.push(word & !top);
                above.push(word & top);
            };
            push(1);
            for wire in factors {
                push(wire.mask[i]);
                if let Some(top) = &wire.top {
                    push(top.value[i]);
                }
            }
        }
        let (first, roots) = (self.count(x.len()), self.roots(x.len()));
        let thresholds_of_masks = Thresholds { at: &at, below: &below, above: &above };
        self.keys.extend(comparison.keys([&roots[0], &roots[1]], &thresholds_of_masks, first));
        vec![vec![vec![0; x.len()]; 1 + factors.len()]; thresholds.len()]
    }

    fn table(&mut self, x: &Wire, table: &Table, factor: Option<&Wire>) -> Share {
        let payload = if factor.is_some() { 6 } else { 3 };
        let point = Point { payload };
        let (first, roots) = (self.count(x.len()), self.roots(x.len()));
        let mut places = Zeroizing::new(Vec::with_capacity(x.len()));
        let mut values = Zeroizing::new(Vec::with_capacity(x.len() * payload));
        for i in 0..x.len() {
            let (place, low) = table.split(x.mask[i]);
            places.push(place as u64);
            let words = [1, low, low.wrapping_mul(low)];
            values.extend(words);
            if let Some(factor) = factor {
                values.extend(words.map(|word| word.wrapping_mul(factor.mask[i])));
            }
        }
        let start = self.keys.len();
        self.keys.resize(start + x.len() * point.words(), 0);
        let chunks = self.keys[start..].par_chunks_mut(LANES * point.words()).enumerate();
        chunks.for_each(|(chunk, out)| {
            let from = chunk * LANES;
            let to = (from + LANES).min(places.len());
            let own = [&roots[0][2 * from..2 * to], &roots[1][2 * from..2 * to]];
            point.keys(own, (&places[from..to], &values[from * payload..to * payload]), first + from as u64, out);
        });
        vec![0; x.len()]
    }

    fn product(&mut self, a: &Wire, b: &Wire, group: usize) -> Share {
        let times = |a: &[u64], b: &[u64]| -> Zeroizing<Vec<u64>> {
            Zeroizing::new(a.iter().enumerate().map(|(i, a)| a.wrapping_mul(b[i / group])).collect())
        };
        self.correct(&times(&a.mask, &b.mask));
        if let Some(top) = &a.top {
            self.correct(&times(&top.value, &b.mask));
        }
        if let Some(top) = &b.top {
            self.correct(&times(&a.mask, &top.value));
        }
        if let (Some(first), Some(second)) = (&a.top, &b.top) {
            // Each is a multiple of 2^(63 - f) where f bits are dropped, and programs drop at most 62 together.
            debug_assert!(times(&first.value, &second.value).iter().all(|&word| word == 0));
        }
        vec![0; a.len()]
    }

    fn square_sums(&mut self, x: &Wire, width: usize) -> Share {
        let square = |sum: u64, word: &u64| sum.wrapping_add(word.wrapping_mul(*word));
        let sums: Vec<u64> = x.mask.chunks_exact(width).map(|row| row.iter().fold(0, square)).collect();
        self.correct(&Zeroizing::new(sums));
        if let Some(top) = &x.top {
            // The square of a top vanishes modulo 2^64 where at most 31 bits are dropped.
            debug_assert!(top.value.iter().all(|top| top.wrapping_mul(*top) == 0));
            let mixed: Vec<u64> = top.value.iter().zip(&*x.mask).map(|(top, mask)| top.wrapping_mul(*mask)).collect();
            self.correct(&Zeroizing::new(mixed));
        }
        vec![0; x.len() / width]
    }
}
