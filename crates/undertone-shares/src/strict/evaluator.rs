//! What programs are written in: gates that take wires and return shares, without a word between the parties.

use zeroize::Zeroizing;

use super::table::Table;
use super::wire::Wire;

/// A share of values, entry by entry; the values themselves in the clear twin, nothing of use at the dealer.
pub(crate) type Share = Vec<u64>;

/// One who runs programs: a party, the dealer, the clear twin, or a count.
pub(crate) trait Evaluator {
    /// The next masks for values that are opened: a party's own halves.
    fn masks(&mut self, len: usize) -> Zeroizing<Vec<u64>>;

    /// A public number as a share.
    fn public(&self, number: u64) -> u64;

    /// A share of what a wire holds.
    fn share(&self, wire: &Wire) -> Share;

    /// The values without their low bits, rounded up as often as the fraction says; of magnitude below 2^62 before.
    fn truncated(&mut self, x: &Wire, drop: u32) -> Wire;

    /// The same modulo 2^(64 - drop), at the price of one correction instead of two.
    fn dropped(&mut self, x: &Wire, drop: u32) -> Wire;

    /// For every threshold t: shares of the bit x - t >= 0, then of its product with each of `factors`. The values are
    /// read modulo 2^bits as signed numbers, and x - t must be one.
    fn compare(&mut self, x: &Wire, bits: u32, thresholds: &[u64], factors: &[&Wire]) -> Vec<Vec<Share>>;

    /// A function of x by a table, times `factor`. The table says which bits of x it reads, and their range.
    fn table(&mut self, x: &Wire, table: &Table, factor: Option<&Wire>) -> Share;

    /// a times entry `i / group` of b, for every entry i of a. Of the two at most one has a top that does not vanish
    /// modulo 2^64 beside the other's.
    fn product(&mut self, a: &Wire, b: &Wire, group: usize) -> Share;

    /// Sums of squares of rows of `width` entries.
    fn square_sums(&mut self, x: &Wire, width: usize) -> Share;
}

/// out += a k.
pub(crate) fn add_scaled(out: &mut [u64], a: &[u64], k: u64) {
    debug_assert_eq!(out.len(), a.len());
    out.iter_mut().zip(a).for_each(|(out, a)| *out = out.wrapping_add(a.wrapping_mul(k)));
}
