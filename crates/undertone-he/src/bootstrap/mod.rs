//! Bootstrapping, slots-to-coefficients first: `slots_to_coeffs → mod_raise → coeffs_to_slots → eval_mod`.
//!
//! Two real values enter as lo + i·hi; their slots become the lower and upper coefficients, and after ModRaise each
//! half comes back in its own ciphertext, so no recombination is needed. A value whose slots repeat with a period lives
//! in a sub-ring: its transforms are shorter, at the price of a trace after ModRaise. Two such values share EvalMod too:
//! the last matrix on the way up puts them in turns into the slots of twice the period. Where the chain has a product
//! prime, the first transform ends one level above ModRaise, which a matrix product on coefficients may use.
//!
//! Sources: eprint 2018/153 (structure), 2020/1203 (double hoisting, EvalMod), 2022/024 (sparse-secret encapsulation).
//! Absent: iterated bootstrapping.

mod coeffs_slots;
mod dft;
mod eval_mod;
mod mod_raise;
mod plan;
mod stages;

pub use plan::{bootstrap_matrix_bytes, bootstrap_model};

use crate::{Ciphertext, CkksEvaluator, Error, Evaluator, Parameters};
use coeffs_slots::EncodedTransform;
use eval_mod::EvalMod;
use std::sync::OnceLock;

/// Shortest period with a transform of its own; a constant vector is bootstrapped as one of two slots.
pub(crate) const MIN_PERIOD: usize = 2;

/// The encoded matrices and polynomial of one bootstrap period.
pub struct BootstrapCircuit {
    period: usize,
    slots_to_coeffs: EncodedTransform,
    coeffs_to_slots: EncodedTransform,
    /// For pairs that share EvalMod; encoded when the first of them comes.
    pair_to_slots: OnceLock<EncodedTransform>,
    eval_mod: EvalMod,
}

/// Longest period whose pairs share EvalMod: the lowest matrix on the way up loses its compact form for them, which takes
/// 0.66 GB at this period and doubles with it (docs/performance.md).
const LONGEST_SHARED_PERIOD: usize = 1 << 13;

/// Whether two values of `period` slots go through one EvalMod.
fn shares_eval_mod(parameters: &Parameters, period: usize) -> bool {
    let longest = LONGEST_SHARED_PERIOD.min(parameters.chain().slot_count() / 2);
    period <= longest && parameters.literal().arcsine_levels > 0
}

impl BootstrapCircuit {
    /// Prepares the circuit for values that repeat with `period` slots (a power of two up to the slot count).
    ///
    /// # Errors
    /// `Parameters` when the chain has no levels for a bootstrap.
    pub fn new(parameters: &Parameters, period: usize) -> Result<Self, Error> {
        plan::require_levels(parameters, period)?;
        Ok(Self {
            period,
            slots_to_coeffs: EncodedTransform::slots_to_coeffs(parameters, period),
            coeffs_to_slots: EncodedTransform::coeffs_to_slots(parameters, period),
            pair_to_slots: OnceLock::new(),
            eval_mod: EvalMod::new(parameters),
        })
    }

    /// Refreshes one or two real values; see [`Evaluator::half_bootstrap`].
    pub(crate) fn half_bootstrap(
        &self,
        ev: &CkksEvaluator,
        lo: &Ciphertext,
        hi: Option<&Ciphertext>,
    ) -> Result<(Ciphertext, Option<Ciphertext>), Error> {
        let coefficients = self.to_coefficients(ev, lo, hi)?;
        self.to_slots(ev, &coefficients, hi.is_some())
    }

    /// The first half: lo + i·hi, its slots as coefficients scaled to q0 / R, at level 0 or that of a product.
    pub(crate) fn to_coefficients(
        &self,
        ev: &CkksEvaluator,
        lo: &Ciphertext,
        hi: Option<&Ciphertext>,
    ) -> Result<Ciphertext, Error> {
        self.slots_to_coeffs.apply(ev, &self.pack(ev, lo, hi)?)
    }

    /// The second half: one or two real values, at the top level, from coefficients scaled to q0 / R. Only limb 0 is
    /// read: a limb for a product that did not take place is dropped.
    pub(crate) fn to_slots(
        &self,
        ev: &CkksEvaluator,
        coefficients: &Ciphertext,
        pair: bool,
    ) -> Result<(Ciphertext, Option<Ciphertext>), Error> {
        ev.count(|c| c.bootstraps += 1);
        let raised = ev.mod_raise(coefficients, self.coeffs_to_slots.input_level())?;
        let traced = ev.trace(raised, self.period)?;
        if pair && shares_eval_mod(ev.parameters(), self.period) {
            let of_pair = || self.coeffs_to_slots.of_pair(ev.parameters(), self.period);
            let slots = self.pair_to_slots.get_or_init(of_pair).apply(ev, &traced)?;
            let (both, _) = ev.split(&slots, false)?;
            let [low, high] = self.eval_mod.apply_to_pair(ev, &both, self.period)?;
            return Ok((low, Some(high)));
        }
        let slots = self.coeffs_to_slots.apply(ev, &traced)?;
        let (low, high) = ev.split(&slots, pair)?;
        let low = self.eval_mod.apply(ev, &low)?;
        let high = high.map(|h| self.eval_mod.apply(ev, &h)).transpose()?;
        Ok((low, high))
    }

    /// lo + i·hi at the level that slots-to-coefficients starts from.
    fn pack(&self, ev: &CkksEvaluator, lo: &Ciphertext, hi: Option<&Ciphertext>) -> Result<Ciphertext, Error> {
        let level = ev.chain().boot_level;
        let lower = |a: &Ciphertext| {
            if a.level() < level {
                return Err(Error::LevelTooLow { op: "half_bootstrap", have: a.level(), need: level });
            }
            let at_level = ev.dropped(a, level, 1.0)?;
            // Fewer transform stages start lower; the scale is handled by the transform's own constants.
            Ok(ev.truncated(&at_level, self.slots_to_coeffs.input_level()))
        };
        let mut packed = lower(lo)?;
        if let Some(hi) = hi {
            let mut hi = lower(hi)?;
            let ring = ev.parameters().ring();
            ring.mul_monomial_assign(&mut hi.c0, ring.degree() / 2);
            ring.mul_monomial_assign(&mut hi.c1, ring.degree() / 2);
            ring.add_assign(&mut packed.c0, &hi.c0);
            ring.add_assign(&mut packed.c1, &hi.c1);
        }
        Ok(packed)
    }
}
