//! What an exchange takes: corrections, keys, and everything that is opened, counted by running its program on nothing.

use zeroize::Zeroizing;

use super::evaluator::{Evaluator, Share};
use super::table::Table;
use super::tree::{Comparison, Point};
use super::wire::{Top, Wire};

/// Counts of words.
#[derive(Default, Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Count {
    /// Of the provider's corrections.
    pub(crate) corrections: usize,
    /// Of the keys, which both parties get.
    pub(crate) keys: usize,
}

impl Evaluator for Count {
    fn masks(&mut self, len: usize) -> Zeroizing<Vec<u64>> {
        Zeroizing::new(vec![0; len])
    }

    fn public(&self, _: u64) -> u64 {
        0
    }

    fn share(&self, wire: &Wire) -> Share {
        vec![0; wire.len()]
    }

    fn truncated(&mut self, x: &Wire, _: u32) -> Wire {
        self.corrections += 2 * x.len();
        let zero = Zeroizing::new(vec![0; x.len()]);
        let top = Some(Top { sign: vec![1; x.len()], value: zero.clone() });
        Wire { open: vec![0; x.len()], mask: zero, top }
    }

    fn dropped(&mut self, x: &Wire, _: u32) -> Wire {
        self.corrections += x.len();
        x.clone()
    }

    fn compare(&mut self, x: &Wire, bits: u32, thresholds: &[u64], factors: &[&Wire]) -> Vec<Vec<Share>> {
        let payload = 1 + factors.iter().map(|wire| 1 + usize::from(wire.top.is_some())).sum::<usize>();
        self.keys += x.len() * Comparison { levels: bits - 1, payload }.words();
        vec![vec![vec![0; x.len()]; 1 + factors.len()]; thresholds.len()]
    }

    fn table(&mut self, x: &Wire, _: &Table, factor: Option<&Wire>) -> Share {
        self.keys += x.len() * Point { payload: if factor.is_some() { 6 } else { 3 } }.words();
        vec![0; x.len()]
    }

    fn product(&mut self, a: &Wire, b: &Wire, _: usize) -> Share {
        self.corrections += a.len() * (1 + usize::from(a.top.is_some()) + usize::from(b.top.is_some()));
        vec![0; a.len()]
    }

    fn square_sums(&mut self, x: &Wire, width: usize) -> Share {
        self.corrections += x.len() / width + if x.top.is_some() { x.len() } else { 0 };
        vec![0; x.len() / width]
    }
}
