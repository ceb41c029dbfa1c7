//! Trees of seeds: keys of the dealer from which each party computes its share of a function at an opened point.

mod blocks;
mod comparison;
mod point;

pub(super) use blocks::LANES;
pub(super) use comparison::{Comparison, Thresholds};
pub(super) use point::{PLACE_BITS, PLACES, Point};

use blocks::Seeds;

/// `one` where the bit is one, without a branch.
fn chosen(bit: u64, zero: u64, one: u64) -> u64 {
    zero ^ (bit.wrapping_neg() & (zero ^ one))
}

/// sum + value, or sum - value where the bit is one.
fn signed_sum(negative: u64, sum: u64, value: u64) -> u64 {
    sum.wrapping_add((value ^ negative.wrapping_neg()).wrapping_add(negative))
}

/// Two words for every lane, as seeds.
fn seeds(words: &[u64]) -> Seeds {
    let mut seeds = Seeds::default();
    words.as_chunks::<2>().0.iter().take(LANES).enumerate().for_each(|(lane, seed)| seeds.set(lane, *seed));
    seeds
}
