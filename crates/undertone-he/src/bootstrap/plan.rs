//! What one half-bootstrap costs, from the chain alone; equal to what the CKKS evaluator counts.

use super::dft::GroupShape;
use super::eval_mod::{ARCSINE_LEVELS, arcsine, arcsine_of_pair, cosine, evaluate};
use super::mod_raise::trace_rotations;
use super::{coeffs_slots, mod_raise, shares_eval_mod};
use crate::cost::{BootstrapCost, BootstrapModel, CostEvaluator};
use crate::{Counts, Error, Evaluator, Parameters, ParametersLiteral};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Limbs that each thread fills on its own inside a transform: both halves of sixteen baby steps and of one more, and the
/// lifted digits of four limbs.
const LIMBS_PER_THREAD: usize = 2 * 17 + 4 * 5;
/// A level above any chain, from which the levels that a circuit spends are measured.
const DEEP: usize = 1 << 10;

/// The prediction that cost and clear evaluators use for the inside of bootstraps of these parameters. It answers with
/// `Parameters` where their chain has no levels for one.
pub fn bootstrap_model(parameters: &Parameters) -> BootstrapModel {
    let parameters = parameters.clone();
    Arc::new(move |period, pair| cost(&parameters, period, pair))
}

/// Whether the chain is made for bootstraps of `period` slots.
///
/// # Errors
/// `Parameters` naming the part of the circuit that lacks levels.
pub(super) fn require_levels(parameters: &Parameters, period: usize) -> Result<(), Error> {
    let literal = parameters.literal();
    let stages = GroupShape::all(period.trailing_zeros()).len();
    let sine = eval_mod_levels(literal)?;
    let arcsine = if literal.arcsine_levels > 0 { ARCSINE_LEVELS } else { 0 };
    // The sine must come out exactly where its scale is the application scale; transforms may start lower.
    for (part, have, need) in [
        ("EvalMod", literal.eval_mod_levels, sine..=sine),
        ("the arcsine correction", literal.arcsine_levels, arcsine..=arcsine),
        ("slots-to-coefficients", literal.slots_to_coeffs_levels, stages..=usize::MAX),
        ("coefficients-to-slots", literal.coeffs_to_slots_levels, stages..=usize::MAX),
    ] {
        if !need.contains(&have) {
            let (name, need) = (parameters.name(), need.start());
            let cause = format!("{name} has {have} levels for {part} and bootstraps of {period} slots take {need}");
            return Err(Error::Parameters { cause });
        }
    }
    Ok(())
}

/// The levels that the sine takes.
fn eval_mod_levels(literal: &ParametersLiteral) -> Result<usize, Error> {
    let ev = CostEvaluator::new(literal.chain());
    let polynomial = cosine(literal.eval_mod_range, literal.double_angles as i32, 1.0);
    let sine = evaluate(&ev, &ev.value(DEEP), &polynomial, &vec![1.0; literal.double_angles])?;
    Ok(DEEP - ev.level(&sine))
}

/// Memory of the encoded diagonals of both transforms of a bootstrap of `period` slots, of single values and, when `pair`,
/// of pairs too; from above: as if all of those on the way up stood at the highest level.
pub fn bootstrap_matrix_bytes(parameters: &Parameters, period: usize, pair: bool) -> u64 {
    let period = period.max(super::MIN_PERIOD);
    let shapes = GroupShape::all(period.trailing_zeros());
    let special = parameters.special_count() as u64;
    // A key basis: the q limbs of the level and the special ones.
    let down = (parameters.literal().product_levels() + shapes.len()) as u64 + 1 + special;
    let up = parameters.chain().max_level as u64 + 1 + special;
    // A diagonal repeats with its block and has two coefficients per slot of it.
    let values = |shape: &GroupShape, slots: u64| shape.indices().count() as u64 * 2 * slots;
    let each: u64 = shapes.iter().map(|shape| values(shape, 1 << shape.log_end)).sum();
    let of_pair = if pair && shares_eval_mod(parameters, period) { values(&shapes[0], 2 * period as u64) } else { 0 };
    size_of::<u64>() as u64 * (each * (down + up) + of_pair * up)
}

#[derive(Default)]
struct Tally {
    counts: Counts,
    rotations: BTreeMap<i32, usize>,
}

impl Tally {
    /// Records the rotations among these steps, and returns how many there are.
    fn rotate(&mut self, steps: impl IntoIterator<Item = i64>, level: usize, slot_count: usize) -> u64 {
        let moved: Vec<i64> =
            steps.into_iter().map(|by| by.rem_euclid(slot_count as i64)).filter(|&by| by != 0).collect();
        for &by in &moved {
            let highest = self.rotations.entry(by as i32).or_default();
            *highest = level.max(*highest);
        }
        self.counts.rotations += moved.len() as u64;
        moved.len() as u64
    }

    fn transform(&mut self, shape: GroupShape, level: usize, slot_count: usize) {
        let (stride, steps) = (shape.stride(), shape.baby_steps());
        let mut babies: Vec<i64> = shape.indices().map(|k| k.rem_euclid(steps)).collect();
        let mut giants: Vec<i64> = shape.indices().map(|k| k.div_euclid(steps) * steps).collect();
        babies.sort_unstable();
        babies.dedup();
        giants.dedup();
        let babies = self.rotate(babies.into_iter().map(|step| step * stride), level, slot_count);
        let giants = self.rotate(giants.into_iter().map(|step| step * stride), level, slot_count);
        self.counts.at_level(level, &coeffs_slots::hoisted(babies + giants, giants));
        self.counts.plaintext_products += shape.indices().count() as u64;
    }
}

/// Limbs that one group of a transform works on at the highest level: its input; for every giant step a sum modulo QP, its
/// half divided by P and the digits of that; the digits of the input, the total and the result.
fn hoisted_limbs(parameters: &Parameters, shape: GroupShape) -> usize {
    let limbs = parameters.chain().max_level + 1;
    let extended = limbs + parameters.special_count();
    let digits = limbs + parameters.digits(limbs - 1).len();
    let giants = shape.indices().count().div_ceil(shape.baby_steps() as usize) + 1;
    let threads = rayon::current_num_threads() * LIMBS_PER_THREAD;
    giants * (2 * extended + limbs + digits) + digits + 2 * extended + 4 * limbs + threads
}

fn cost(parameters: &Parameters, period: usize, pair: bool) -> Result<BootstrapCost, Error> {
    let (chain, literal) = (parameters.chain(), parameters.literal());
    let period = period.max(super::MIN_PERIOD);
    require_levels(parameters, period)?;
    let shapes = GroupShape::all(period.trailing_zeros());
    let slot_count = chain.slot_count();
    let eval_mod_level = literal.eval_mod_input();
    let raised = eval_mod_level + shapes.len();
    let mut tally = Tally::default();
    for (index, &shape) in shapes.iter().enumerate() {
        tally.transform(shape, literal.product_levels() + shapes.len() - index, slot_count);
    }
    let to_coefficients = std::mem::take(&mut tally.counts);
    tally.counts.bootstraps = 1;
    for (index, &shape) in shapes.iter().enumerate() {
        tally.transform(shape, eval_mod_level + 1 + index, slot_count);
    }
    tally.counts.key_switch(0, 1);
    tally.counts.key_switch(raised, 1);
    for round in trace_rotations(period, slot_count) {
        let rotations = tally.rotate(round.into_iter().map(i64::from), raised, slot_count);
        tally.counts.at_level(raised, &mod_raise::hoisted(rotations));
    }
    // Conjugation.
    tally.counts.rotations += 1;
    tally.counts.key_switch(eval_mod_level, 1);
    let inner = CostEvaluator::new(chain);
    let polynomial = cosine(literal.eval_mod_range, literal.double_angles as i32, 1.0);
    let squares = vec![1.0; literal.double_angles];
    let shared = pair && shares_eval_mod(parameters, period);
    for _ in 0..if pair && !shared { 2 } else { 1 } {
        let sine = evaluate(&inner, &inner.value(eval_mod_level), &polynomial, &squares)?;
        if shared {
            arcsine_of_pair(&inner, &sine, 1.0, period)?;
            let low = chain.top_level;
            let highest = tally.rotations.entry(period as i32).or_insert(low);
            *highest = low.max(*highest);
        } else if literal.arcsine_levels > 0 {
            arcsine(&inner, &sine, 1.0)?;
        }
    }
    tally.counts.merge(&inner.counts());
    let hoisted = shapes.iter().map(|shape| hoisted_limbs(parameters, *shape)).max().unwrap_or(0);
    // The other half waits, before or after its own EvalMod.
    let working_limbs = hoisted.max(inner.peak_limbs() + if pair { 2 * (raised + 1) } else { 0 });
    Ok(BootstrapCost {
        to_coefficients,
        to_slots: tally.counts,
        rotations: tally.rotations.into_iter().collect(),
        relinearization_level: eval_mod_level,
        conjugation_level: eval_mod_level,
        working_limbs,
    })
}

#[cfg(test)]
mod tests {
    use super::super::LONGEST_SHARED_PERIOD;
    use super::*;

    #[test]
    fn chains_without_the_levels_of_a_bootstrap_are_refused() {
        let shipped = ParametersLiteral { log_n: 7, secret_weight: 64, ..ParametersLiteral::n16_l16_d36() };
        let model = |literal| bootstrap_model(&Parameters::build_unchecked(literal));
        let slots = 64;
        for (period, pair) in [(1, false), (slots / 2, true), (slots, true)] {
            assert!(model(shipped.clone())(period, pair).is_ok());
            let product = ParametersLiteral { log_n: 7, secret_weight: 64, ..ParametersLiteral::n16_product() };
            let refused = model(product)(period, pair).unwrap_err().to_string();
            assert!(refused.contains("n16-product has 0 levels for EvalMod and bootstraps of"), "{refused}");
        }
        for (literal, part) in [
            (ParametersLiteral { eval_mod_levels: 9, ..shipped.clone() }, "9 levels for EvalMod"),
            (ParametersLiteral { arcsine_levels: 1, ..shipped.clone() }, "1 levels for the arcsine correction"),
            (ParametersLiteral { slots_to_coeffs_levels: 1, ..shipped.clone() }, "1 levels for slots-to-coeff"),
            (ParametersLiteral { coeffs_to_slots_levels: 1, ..shipped.clone() }, "1 levels for coefficients-to"),
        ] {
            let refused = model(literal)(slots, true).unwrap_err().to_string();
            assert!(refused.contains(part), "{refused}");
        }
    }

    #[test]
    fn the_matrices_of_the_longest_period_take_most_of_a_gibibyte() {
        let parameters = Parameters::default_preset();
        let bytes = |period, pair| bootstrap_matrix_bytes(&parameters, period, pair);
        let longest = bytes(parameters.chain().slot_count(), true);
        assert!((700 << 20..1200 << 20).contains(&longest), "{longest}");
        assert!(bytes(64, true) > bytes(64, false) && bytes(64, false) > 0 && bytes(64, true) < longest / 100);
        // Those of pairs are the largest at the longest period that has them.
        let (alone, paired) = (bytes(LONGEST_SHARED_PERIOD, false), bytes(LONGEST_SHARED_PERIOD, true));
        assert!((500 << 20..700 << 20).contains(&(paired - alone)), "{alone} {paired}");
        assert_eq!(bytes(2 * LONGEST_SHARED_PERIOD, true), bytes(2 * LONGEST_SHARED_PERIOD, false));
    }
}
