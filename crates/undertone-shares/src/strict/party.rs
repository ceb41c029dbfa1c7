//! A party's side of every gate: shares from opened values, keys and corrections.

use rayon::prelude::*;
use zeroize::Zeroizing;

use super::evaluator::{Evaluator, Share};
use super::table::Table;
use super::tree::{Comparison, PLACES, Point};
use super::wire::{Top, Wire};
use crate::random::{SiteDraws, WordStream};
use crate::truncation::{OFFSET, opened, signed};

/// Words that are used up from the front.
pub(crate) struct Supply {
    words: Zeroizing<Vec<u64>>,
    used: usize,
}

impl Supply {
    pub(crate) fn new(words: Vec<u64>) -> Self {
        Self { words: Zeroizing::new(words), used: 0 }
    }

    /// The next words. Their number was checked when the bundle was decoded.
    fn next(&mut self, len: usize) -> &[u64] {
        let start = self.used;
        self.used += len;
        &self.words[start..self.used]
    }
}

/// Where a party's halves of corrections come from.
enum Corrections {
    /// The user's seed.
    Drawn(Box<WordStream>),
    /// The provider's bundle.
    Given(Supply),
}

/// A party in one exchange.
pub(crate) struct Party {
    masks: WordStream,
    roots: WordStream,
    corrections: Corrections,
    keys: Supply,
    gates: u64,
}

impl Party {
    /// The user, who draws its halves.
    pub(crate) fn user(draws: SiteDraws, keys: Vec<u64>) -> Self {
        let corrections = Corrections::Drawn(Box::new(draws.corrections));
        Self { masks: draws.masks, roots: draws.roots, corrections, keys: Supply::new(keys), gates: 0 }
    }

    /// The provider, who got its halves from the dealer.
    pub(crate) fn provider(draws: SiteDraws, corrections: Vec<u64>, keys: Vec<u64>) -> Self {
        let corrections = Corrections::Given(Supply::new(corrections));
        Self { masks: draws.masks, roots: draws.roots, corrections, keys: Supply::new(keys), gates: 0 }
    }

    fn is_provider(&self) -> bool {
        matches!(self.corrections, Corrections::Given(_))
    }

    /// One for the user: the trees' number of a party, which negates its results.
    fn number(&self) -> u64 {
        u64::from(!self.is_provider())
    }

    /// Its halves of the next corrections.
    pub(crate) fn corrections(&mut self, len: usize) -> Zeroizing<Vec<u64>> {
        Zeroizing::new(match &mut self.corrections {
            Corrections::Drawn(stream) => stream.take(len),
            Corrections::Given(supply) => supply.next(len).to_vec(),
        })
    }

    /// The number of the first of `count` gates.
    fn count(&mut self, count: usize) -> u64 {
        let first = self.gates;
        self.gates += count as u64;
        first
    }
}

/// sign · top - mask: what a wire is beside what is open, of entry `i`.
fn hidden(wire: &Wire, i: usize) -> u64 {
    let top = wire.top.as_ref().map_or(0, |top| top.sign[i].wrapping_mul(top.value[i]));
    top.wrapping_sub(wire.mask[i])
}

impl Evaluator for Party {
    fn masks(&mut self, len: usize) -> Zeroizing<Vec<u64>> {
        Zeroizing::new(self.masks.take(len))
    }

    fn public(&self, number: u64) -> u64 {
        if self.is_provider() { number } else { 0 }
    }

    fn share(&self, wire: &Wire) -> Share {
        (0..wire.len()).map(|i| self.public(wire.open[i]).wrapping_add(hidden(wire, i))).collect()
    }

    fn truncated(&mut self, x: &Wire, drop: u32) -> Wire {
        let (open, tops): (Vec<u64>, Vec<bool>) =
            x.open.iter().map(|open| opened(open.wrapping_add(OFFSET), drop)).unzip();
        let value = self.corrections(x.len());
        let sign = tops.iter().map(|&top| signed(top, 1)).collect();
        Wire { open, mask: self.corrections(x.len()), top: Some(Top { sign, value }) }
    }

    fn dropped(&mut self, x: &Wire, drop: u32) -> Wire {
        Wire::new(x.open.iter().map(|open| open >> drop).collect(), self.corrections(x.len()))
    }

    fn compare(&mut self, x: &Wire, bits: u32, thresholds: &[u64], factors: &[&Wire]) -> Vec<Vec<Share>> {
        let payload = 1 + factors.iter().map(|wire| 1 + usize::from(wire.top.is_some())).sum::<usize>();
        let comparison = Comparison { levels: bits - 1, payload };
        let most = u64::MAX >> (64 - bits);
        let point = |open: &u64, threshold: &u64| open.wrapping_sub(*threshold) & most;
        let points: Vec<u64> = x
            .open
            .iter()
            .flat_map(|open| thresholds.iter().map(move |threshold| point(open, threshold) & (most >> 1)))
            .collect();
        let (first, number) = (self.count(x.len()), self.number());
        let roots = Zeroizing::new(self.roots.take(2 * x.len()));
        let keys = self.keys.next(x.len() * comparison.words());
        let values = Zeroizing::new(comparison.evaluate(number, (&roots, keys, first), &points, thresholds.len()));
        let result = |(which, threshold): (usize, &u64)| {
            let mut out = vec![Vec::with_capacity(x.len()); 1 + factors.len()];
            for i in 0..x.len() {
                let top = point(&x.open[i], threshold) >> (bits - 1) == 1;
                let words = &values[(i * thresholds.len() + which) * payload..][..payload];
                // Below zero the result counts; else what is left of the payload.
                let kept = |word: u64, whole: u64| if top { word } else { whole.wrapping_sub(word) };
                let bit = kept(words[0], self.public(1));
                out[0].push(bit);
                let mut next = 1;
                for (out, wire) in out[1..].iter_mut().zip(factors) {
                    let mut sum = wire.open[i].wrapping_mul(bit).wrapping_sub(kept(words[next], wire.mask[i]));
                    next += 1;
                    if let Some(top) = &wire.top {
                        sum = sum.wrapping_add(top.sign[i].wrapping_mul(kept(words[next], top.value[i])));
                        next += 1;
                    }
                    out.push(sum);
                }
            }
            out
        };
        thresholds.iter().enumerate().map(result).collect()
    }

    fn table(&mut self, x: &Wire, table: &Table, factor: Option<&Wire>) -> Share {
        let point = Point { payload: if factor.is_some() { 6 } else { 3 } };
        let (first, number) = (self.count(x.len()), self.number());
        let roots = Zeroizing::new(self.roots.take(2 * x.len()));
        let keys = self.keys.next(x.len() * point.words());
        let one = |i: usize| {
            let mut shares = Zeroizing::new(vec![0; PLACES * point.payload]);
            let key = &keys[i * point.words()..(i + 1) * point.words()];
            point.evaluate(number, [roots[2 * i], roots[2 * i + 1]], key, first + i as u64, &mut shares);
            let (place, low) = table.split(x.open[i]);
            // Payloads are 1, r and r² of the low bits r of the mask, and t is the opened low bits minus r.
            let mut sums = [0u64; 2];
            for (hidden, shares) in shares.chunks_exact(point.payload).enumerate() {
                let [a, b, q] = table.pieces[place.wrapping_sub(hidden) % PLACES];
                let whole = a.wrapping_add(low.wrapping_mul(b.wrapping_add(low.wrapping_mul(q))));
                let slope = b.wrapping_add(2u64.wrapping_mul(low).wrapping_mul(q));
                for (sum, part) in sums.iter_mut().zip(shares.chunks_exact(3)) {
                    let value = part[0]
                        .wrapping_mul(whole)
                        .wrapping_sub(part[1].wrapping_mul(slope))
                        .wrapping_add(part[2].wrapping_mul(q));
                    *sum = sum.wrapping_add(value);
                }
            }
            factor.map_or(sums[0], |factor| factor.open[i].wrapping_mul(sums[0]).wrapping_sub(sums[1]))
        };
        (0..x.len()).into_par_iter().map(one).collect()
    }

    fn product(&mut self, a: &Wire, b: &Wire, group: usize) -> Share {
        let mut out: Share = (0..a.len())
            .map(|i| {
                let j = i / group;
                let both = self.public(a.open[i].wrapping_mul(b.open[j]));
                let first = a.open[i].wrapping_mul(hidden(b, j));
                both.wrapping_add(first).wrapping_add(b.open[j].wrapping_mul(hidden(a, i)))
            })
            .collect();
        crate::fixed::add_assign(&mut out, &self.corrections(a.len()));
        for sign in [a.top.as_ref().map(|top| (top, 1)), b.top.as_ref().map(|top| (top, group))].into_iter().flatten() {
            let (top, group) = sign;
            let mixed = self.corrections(a.len());
            for (i, (out, mixed)) in out.iter_mut().zip(&*mixed).enumerate() {
                *out = out.wrapping_sub(top.sign[i / group].wrapping_mul(*mixed));
            }
        }
        out
    }

    fn square_sums(&mut self, x: &Wire, width: usize) -> Share {
        let mut out = self.corrections(x.len() / width).to_vec();
        let mixed = x.top.as_ref().map(|top| (top, self.corrections(x.len())));
        for i in 0..x.len() {
            let twice = x.open[i].wrapping_mul(2).wrapping_mul(hidden(x, i));
            let mut sum = self.public(x.open[i].wrapping_mul(x.open[i])).wrapping_add(twice);
            if let Some((top, mixed)) = &mixed {
                sum = sum.wrapping_sub(top.sign[i].wrapping_mul(2).wrapping_mul(mixed[i]));
            }
            out[i / width] = out[i / width].wrapping_add(sum);
        }
        out
    }
}
