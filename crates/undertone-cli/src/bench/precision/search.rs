//! A hill climb towards the input whose bootstrap errs most.
//!
//! The noise of a bootstrap is random, so one measurement of an input is partly luck. Inputs are therefore compared by
//! the mean error of their worst 0.1 % of slots, and a mutation that looks worse is bootstrapped again from a fresh
//! encryption: it is kept only if the second measurement exceeds the record too, and the second one becomes the record,
//! because the first was selected for being large.

use super::families::{Input, Random};
use super::statistics::tail_mean;
use crate::error::Result;

/// Further mutations that are drawn when one changes nothing.
const DRAWS: usize = 32;

/// What the search ended with.
pub struct Found {
    /// The input with the largest error.
    pub input: Input,
    /// The mutations that were kept, in order.
    pub kept: Vec<String>,
    /// Mutations that were tried.
    pub tried: u32,
    /// Mutations that looked worse once and not on the second encryption.
    pub refuted: u32,
    /// Measurements taken; one less than allowed where the last could not have been repeated.
    pub evaluations: u32,
}

/// Climbs from `start` for at most `evaluations` calls of `measure`, which returns the signed errors of all slots.
///
/// `other` is the input that mutations mix with.
///
/// # Errors
/// The first error of `measure`.
pub fn climb(
    start: &Input,
    other: &Input,
    evaluations: u32,
    random: &mut Random,
    mut measure: impl FnMut(&Input) -> Result<Vec<f64>>,
) -> Result<Found> {
    let mut found = Found { input: start.clone(), kept: Vec::new(), tried: 0, refuted: 0, evaluations: 0 };
    if evaluations == 0 {
        return Ok(found);
    }
    let mut record = tail_mean(&measure(start)?);
    let mut left = evaluations - 1;
    // A mutation that cannot be measured twice is not worth trying.
    while left >= 2 {
        let (candidate, name) = changed(&found.input, other, random);
        found.tried += 1;
        left -= 1;
        if tail_mean(&measure(&candidate)?) <= record {
            continue;
        }
        left -= 1;
        let again = tail_mean(&measure(&candidate)?);
        if again > record {
            record = again;
            found.input = candidate;
            found.kept.push(name);
        } else {
            found.refuted += 1;
        }
    }
    found.evaluations = evaluations - left;
    Ok(found)
}

/// As [`mutate`], drawn again while it leaves the input as it is: a constant has no use for a shift.
fn changed(input: &Input, other: &Input, random: &mut Random) -> (Input, String) {
    let mut drawn = mutate(input, other, random);
    for _ in 0..DRAWS {
        if drawn.0 != *input {
            break;
        }
        drawn = mutate(input, other, random);
    }
    drawn
}

/// A copy, its slots still in [−1, 1], and what was done to it.
fn mutate(input: &Input, other: &Input, random: &mut Random) -> (Input, String) {
    match random.below(5) {
        0 => flip_blocks(input, random),
        1 => scale(input, random),
        2 => (Input { low: input.high.clone(), high: input.low.clone() }, "swap low and high".to_owned()),
        3 => shift(input, random),
        _ => mix(input, other, random),
    }
}

/// Lengths from one slot to half of a vector.
fn block_length(slots: usize, random: &mut Random) -> usize {
    1 << random.below(slots.ilog2().max(1) as usize)
}

fn flip_blocks(input: &Input, random: &mut Random) -> (Input, String) {
    let mut changed = input.clone();
    let length = block_length(changed.low.len(), random);
    for block in changed.low.chunks_mut(length).chain(changed.high.chunks_mut(length)) {
        let sign = random.sign();
        block.iter_mut().for_each(|value| *value *= sign);
    }
    (changed, format!("flip signs in blocks of {length}"))
}

/// Up to the full range where there is room, otherwise down to between half and all of it.
fn scale(input: &Input, random: &mut Random) -> (Input, String) {
    let largest = input.largest();
    let room = largest > 0.0 && largest < 0.99;
    let factor = if room { 1.0 / largest } else { 0.5 + 0.5 * random.unit() };
    let scaled = |values: &[f64]| values.iter().map(|value| (value * factor).clamp(-1.0, 1.0)).collect();
    (Input { low: scaled(&input.low), high: scaled(&input.high) }, format!("scale by {factor:.3}"))
}

fn shift(input: &Input, random: &mut Random) -> (Input, String) {
    let mut changed = input.clone();
    let (low, high) = (random.below(changed.low.len()), random.below(changed.high.len()));
    changed.low.rotate_left(low);
    changed.high.rotate_left(high);
    (changed, format!("shift low by {low} and high by {high}"))
}

fn mix(input: &Input, other: &Input, random: &mut Random) -> (Input, String) {
    let mut changed = input.clone();
    let length = block_length(changed.low.len(), random);
    for (into, from) in [(&mut changed.low, &other.low), (&mut changed.high, &other.high)] {
        for (block, replacement) in into.chunks_mut(length).zip(from.chunks(length)) {
            if random.sign() < 0.0 {
                block.copy_from_slice(replacement);
            }
        }
    }
    (changed, format!("mix with the second worst in blocks of {length}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::precision::families::Family;

    fn pair() -> (Input, Input, Random) {
        let mut random = Random::new(3);
        let start = Family::Small.draw(256, &mut random);
        let other = Family::Signs.draw(256, &mut random);
        (start, other, random)
    }

    #[test]
    fn an_error_that_follows_the_input_is_climbed() {
        let (start, other, mut random) = pair();
        let mut calls = 0;
        let found = climb(&start, &other, 40, &mut random, |input| {
            calls += 1;
            Ok(input.low.iter().chain(&input.high).map(|value| value * value).collect())
        });
        let found = found.unwrap();
        assert!(calls >= 39 && found.evaluations == calls && !found.kept.is_empty() && found.refuted == 0);
        assert!(found.input.largest() > start.largest() && found.input.largest() <= 1.0);
    }

    #[test]
    fn luck_of_one_encryption_is_refuted() {
        let (start, other, mut random) = pair();
        let mut calls = 0;
        // The record is 1; every first look at a mutation errs more, every second look less.
        let found = climb(&start, &other, 21, &mut random, |_| {
            calls += 1;
            Ok(vec![if calls == 1 { 1.0 } else { 2.0 - 1.5 * f64::from(calls % 2) }; 8])
        });
        let found = found.unwrap();
        assert_eq!((calls, found.tried, found.refuted), (21, 10, 10));
        assert!(found.kept.is_empty() && found.input == start);
    }

    #[test]
    fn mutations_change_the_input_within_its_range() {
        let (mut input, other, mut random) = pair();
        for _ in 0..200 {
            let (mutant, name) = changed(&input, &other, &mut random);
            assert!(mutant != input && mutant.largest() <= 1.0, "{name}");
            assert_eq!((mutant.low.len(), mutant.high.len()), (256, 256));
            input = mutant;
        }
    }
}
