//! A layer in turns: slots → coefficients → matrix product → bootstrap → slots, four times.
//!
//! Every projection happens on coefficients at the bottom of the chain, between the two halves of the bootstrap that
//! its result needs anyway ([`Evaluator::product_bootstrap`]); everything else happens on fresh slots. The residual
//! stream is not bootstrapped at all: changes, which are fresh, are added to it at the top level. Queries, keys and
//! values go to the block frame for attention, which is the same as without turns. Keys and values that several query
//! heads share are bootstrapped once and copied to each of them there.
//!
//! Source: "Scaling up Privacy-Preserving ML" (arXiv 2601.18511), the execution cycle.

mod exchange;
mod halves;
mod matrices;
mod plan;
mod prefill;
#[cfg(test)]
mod tests;

pub(crate) use halves::Halves;
pub use matrices::LayerMatrices;
pub(crate) use plan::CyclePlan;
pub(crate) use prefill::prefill;

use crate::Error;
use crate::attention::block_angles;
use crate::packing::check;
use crate::program::{LayerCache, Pass};
use crate::refresh::{drop_one, drop_to};
use crate::rope::Angles;
use exchange::{Rows, to_block, to_halves};
use plan::{ChangePlan, TurnNorm, TurnPlan};
use undertone_he::Evaluator;
use undertone_he::circuits::evaluate_chebyshev;

/// Pairs of values in the frame of the halves: the first half of the tokens, then the second.
pub type Pairs<E> = Vec<[<E as Evaluator>::Value; 2]>;

impl<'a, E: Evaluator> Pass<'a, E> {
    /// All rows of the block through layer `layer`: the new residual stream and the layer's cache.
    ///
    /// # Levels
    /// `x` at the top level, and so is what comes back.
    pub(crate) fn turns(
        &mut self,
        matrices: &LayerMatrices<E>,
        x: Pairs<E>,
    ) -> Result<(Pairs<E>, LayerCache<E>), Error> {
        let plan = self.turn_plan(matrices.layer)?;
        let (x, cache) = self.attention_turns(matrices, plan, x)?;
        Ok((self.mlp_turns(matrices, plan, x)?, cache))
    }

    pub(super) fn turn_plan(&self, layer: usize) -> Result<&'a TurnPlan, Error> {
        let layers = &self.program.cycle()?.layers;
        check("the layer", layer, 0, layers.len() - 1)?;
        Ok(&layers[layer])
    }

    fn attention_turns(
        &mut self,
        matrices: &LayerMatrices<E>,
        plan: &TurnPlan,
        x: Pairs<E>,
    ) -> Result<(Pairs<E>, LayerCache<E>), Error> {
        let (ev, program, layer) = (self.ev, self.program, matrices.layer);
        let (layout, softmax) = (&program.layout, &program.layers[layer].softmax);
        let (block, cache) = {
            let [queries, keys, values] = self.heads_turn(layer, plan, &matrices.heads, &x)?;
            let angles = block_angles(self);
            let query_level = softmax.block_entry - usize::from(softmax.parts > 1);
            let queries = to_block(ev, layout, &self.lowered(&queries, query_level + 1)?, 1, Rows::Rotary(&angles))?;
            let [keys, values] = self.block_cache(layer, [&keys, &values], &angles)?;
            let cache = self.layer_cache(layer, &keys, &values)?;
            ([queries, keys, values], cache)
        };
        self.steps.done("qkv", layer)?;
        let (mixed, inverse) = self.mix_block(layer, block)?;
        let mut normalised = Vec::with_capacity(mixed.len());
        for value in mixed {
            normalised.push(drop_one(ev, &ev.mul(&value, &inverse)?, program.chain.boot_level + 1)?);
        }
        let mixed = to_halves(ev, layout, &normalised)?;
        self.steps.done("values", layer)?;
        let x = self.add_change(x, &mixed, &matrices.output, plan.attention)?;
        self.steps.done("output projection", layer)?;
        Ok((x, cache))
    }

    /// Queries, keys and values of all rows, before the rotary embedding.
    fn heads_turn(
        &mut self,
        layer: usize,
        plan: &TurnPlan,
        matrix: &E::Matrix,
        x: &[[E::Value; 2]],
    ) -> Result<[Pairs<E>; 3], Error> {
        let normed = self.turn_norm(x, &plan.attention_norm)?;
        self.steps.done("attention norm", layer)?;
        let mut heads = self.turn(&normed, matrix)?;
        let halves = Halves::new(&self.program.layout);
        let values = heads.split_off(halves.head_pairs() + halves.key_pairs());
        let keys = heads.split_off(halves.head_pairs());
        Ok([heads, keys, values])
    }

    /// Keys and values in the block frame, at the higher of the levels at which the block and the cache want them.
    fn block_cache(
        &self,
        layer: usize,
        [keys, values]: [&[[E::Value; 2]]; 2],
        angles: &[Angles],
    ) -> Result<[Vec<E::Value>; 2], Error> {
        let (ev, layout, softmax) = (self.ev, &self.program.layout, &self.program.layers[layer].softmax);
        let shared = Halves::new(layout).shared();
        let key_level = softmax.block_entry.max(softmax.cached_key_level());
        let value_level = softmax.block_value_level.max(softmax.token.last_square);
        let keys = to_block(ev, layout, &self.lowered(keys, key_level + 1)?, shared, Rows::LiveRotary(angles))?;
        Ok([keys, to_block(ev, layout, &self.lowered(values, value_level + 1)?, shared, Rows::Live)?])
    }

    fn layer_cache(&self, layer: usize, keys: &[E::Value], values: &[E::Value]) -> Result<LayerCache<E>, Error> {
        let softmax = &self.program.layers[layer].softmax;
        let keys = drop_to(self.ev, keys, softmax.cached_key_level())?;
        Ok(LayerCache::new(keys, drop_to(self.ev, values, softmax.token.last_square)?))
    }

    fn mlp_turns(&mut self, matrices: &LayerMatrices<E>, plan: &TurnPlan, x: Pairs<E>) -> Result<Pairs<E>, Error> {
        let (ev, program, layer) = (self.ev, self.program, matrices.layer);
        let normed = self.turn_norm(&x, &plan.mlp_norm)?;
        self.steps.done("mlp norm", layer)?;
        let mut gate = self.turn(&normed, &matrices.gate_up)?;
        drop(normed);
        let up = gate.split_off(gate.len() / 2);
        let silu = &program.layers[layer].mlp.silu;
        let mut products = Vec::with_capacity(gate.len());
        for (gate, up) in gate.into_iter().zip(up) {
            self.steps.poll()?;
            let mut product = |gate: &E::Value, up: &E::Value| {
                let gate = drop_one(ev, gate, plan.gate_level)?;
                let (activated, top) = evaluate_chebyshev(ev, &gate, silu)?;
                self.guard.push(ev, &top)?;
                drop_one(ev, &ev.mul(&activated, up)?, program.chain.boot_level)
            };
            products.push([product(&gate[0], &up[0])?, product(&gate[1], &up[1])?]);
        }
        let x = self.add_change(x, &products, &matrices.down, plan.mlp)?;
        self.steps.done("mlp", layer)?;
        Ok(x)
    }

    /// RMSNorm of both halves, at the level of bootstraps, divided by its bound.
    fn turn_norm(&mut self, x: &[[E::Value; 2]], plan: &TurnNorm) -> Result<Pairs<E>, Error> {
        let layout = &self.program.layout;
        let axis = Halves::new(layout).axis(layout.hidden);
        let [lo, hi] = [0, 1].map(|half| x.iter().map(|pair| pair[half].clone()).collect::<Vec<_>>());
        let lo = self.norm(&lo, axis, &plan.norm, plan.start)?;
        let hi = self.norm(&hi, axis, &plan.norm, plan.start)?;
        Ok(lo.into_iter().zip(hi).map(|(lo, hi)| [lo, hi]).collect())
    }

    /// One turn, whose results are put under the guard.
    ///
    /// # Range
    /// A result is what the matrix makes of all its inputs together, in units of the output's bound: beyond 1 the guard sees
    /// it, and only about 64 and its multiples does it wrap to one that looks honest ([`Evaluator::product_bootstrap`]).
    /// What enters is not guarded here but where it is made: by the highest Chebyshev element of the norm or of SiLU, and by
    /// the results of the turn before.
    fn turn(&mut self, x: &[[E::Value; 2]], matrix: &E::Matrix) -> Result<Pairs<E>, Error> {
        let fresh = self.ev.product_bootstrap(x, matrix)?;
        for value in fresh.iter().flatten() {
            self.guard.push(self.ev, value)?;
        }
        self.steps.poll()?;
        Ok(fresh)
    }

    /// x + 2^log2 · matrix · input.
    fn add_change(
        &mut self,
        x: Pairs<E>,
        input: &[[E::Value; 2]],
        matrix: &E::Matrix,
        plan: ChangePlan,
    ) -> Result<Pairs<E>, Error> {
        let ev = self.ev;
        let changes = self.turn(input, matrix)?;
        let add = |x: &E::Value, change: &E::Value| ev.add(x, &ev.mul_integer(change, 1 << plan.log2)?);
        x.iter().zip(&changes).map(|([a, b], [c, d])| Ok([add(a, c)?, add(b, d)?])).collect()
    }

    fn lowered(&self, pairs: &[[E::Value; 2]], level: usize) -> Result<Pairs<E>, Error> {
        pairs.iter().map(|[lo, hi]| Ok([drop_one(self.ev, lo, level)?, drop_one(self.ev, hi, level)?])).collect()
    }
}
