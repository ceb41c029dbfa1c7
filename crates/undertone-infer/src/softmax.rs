//! Softmax by squaring and normalising, jointly over public and private keys.
//!
//! y ← exp(half_span (u − 1)), then k rounds of y ← y² / Σ y². The last division is left to the caller, who applies it
//! to the weighted values instead. Errors of early inverses cancel, because every round normalises again.
//! Source: Cho, Hanrot, Kim, Park, Stehlé, CCS 2024 (arXiv 2410.11184).
//!
//! Sums are small tensors, one value per query and head, and are bootstrapped alone where [`crate::levels`] says so.
//! Padding heads have no keys; a constant puts their sum into the middle of the interval.

use crate::Error;
use crate::layer::{InversePlan, SoftmaxPlan};
use crate::levels::AttentionLevels;
use crate::matmul::AxisProduct;
use crate::packing::Axis;
use crate::program::Pass;
use crate::refresh::{drop_one, refresh_one};
use crate::scores::Scored;
use rayon::prelude::*;
use undertone_he::circuits::evaluate_chebyshev;
use undertone_he::{Evaluator, Slots};

/// Weights at a bootstrap are divided by this, because early inverses are approximate and may exceed 1 a little.
const HEADROOM: f64 = 1.25;

/// The frame of the weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum WeightFrame {
    /// All queries of a block, in the lane frame.
    Block,
    /// One query; the first `public` ciphertexts hold public positions, the others one cached block each.
    Token {
        /// Ciphertexts of public positions.
        public: usize,
    },
}

impl<E: Evaluator> Pass<'_, E> {
    /// exp(half_span (u − 1)) of every key that a query sees, zero elsewhere.
    pub(crate) fn weigh(&mut self, plan: &SoftmaxPlan, scores: &[Scored<E>]) -> Result<Vec<E::Value>, Error> {
        let ev = self.ev;
        let mut weights = Vec::with_capacity(scores.len());
        let exponentials: Vec<_> =
            scores.par_iter().map(|s| evaluate_chebyshev(ev, &s.u, &plan.exponential)).collect::<Result<_, _>>()?;
        for (score, (weight, top)) in scores.iter().zip(exponentials) {
            self.guard.push(ev, &top)?;
            weights.push(ev.add_slots(&weight, &score.correction)?);
        }
        Ok(weights)
    }

    /// Squared weights of the last round and the inverse of their sum.
    ///
    /// # Levels
    /// As the schedule of the layer says; the squares end at its `last_square`.
    pub(crate) fn softmax(
        &mut self,
        layer: usize,
        mut weights: Vec<E::Value>,
        frame: WeightFrame,
    ) -> Result<(Vec<E::Value>, E::Value), Error> {
        let (ev, program) = (self.ev, self.program);
        let plan = &program.layers[layer].softmax;
        let levels = match frame {
            WeightFrame::Block => &plan.block,
            WeightFrame::Token { .. } => &plan.token,
        };
        let rounds = plan.inverses.len();
        for round in 0..rounds {
            if levels.refresh[round] {
                weights = self.refresh_weights(&weights)?;
            }
            // Each weight is freed as its square is made: two full sets would be half of the memory.
            let squares = weights.into_par_iter().map(|w| ev.square(&w)).collect::<Result<Vec<_>, _>>()?;
            let inverse = self.inverse_sum(plan, levels, round, &squares, frame)?;
            if round + 1 == rounds {
                return Ok((squares, inverse));
            }
            self.steps.poll()?;
            weights = squares.into_par_iter().map(|s| ev.mul(&s, &inverse)).collect::<Result<_, _>>()?;
        }
        // A plan has at least one round.
        Err(Error::Calibration { what: "softmax rounds", have: 0, need: 1 })
    }

    /// Bootstraps all weights; the schedule leaves the level that scaling takes on both sides.
    fn refresh_weights(&mut self, weights: &[E::Value]) -> Result<Vec<E::Value>, Error> {
        let (ev, chain) = (self.ev, self.program.chain);
        let lowered = weights
            .iter()
            .map(|w| ev.drop_level(w, chain.boot_level, 1.0 / HEADROOM))
            .collect::<Result<Vec<_>, _>>()?;
        let fresh = self.refresh(&lowered, chain.slot_count())?;
        fresh.iter().map(|w| Ok(ev.drop_level(w, chain.top_level - 1, HEADROOM)?)).collect()
    }

    /// 1/Σ over all keys, for every query and head, in every slot that the weights of that query and head use.
    fn inverse_sum(
        &mut self,
        plan: &SoftmaxPlan,
        levels: &AttentionLevels,
        round: usize,
        squares: &[E::Value],
        frame: WeightFrame,
    ) -> Result<E::Value, Error> {
        let (ev, chain) = (self.ev, self.program.chain);
        let inverse = &plan.inverses[round];
        let direct = levels.direct[round];
        let square_level = ev.level(&squares[0]);
        let depth = inverse.poly.cost().depth;
        let newton_steps = if round + 1 == plan.inverses.len() { plan.newton_steps } else { 0 };
        let mut exact = None;
        let (sum, period, spread) = match frame {
            WeightFrame::Block => {
                let sum = self.block_sum(squares)?;
                let scaled = if direct {
                    ev.combine(&[(inverse.factor, &sum)], 0.0)?
                } else {
                    ev.drop_level(&sum, chain.boot_level, inverse.factor)?
                };
                exact = (newton_steps > 0).then_some(sum);
                (scaled, self.program.layout.block * self.program.layout.heads_padded, 0)
            }
            WeightFrame::Token { public } if direct => (self.sum_rows(squares, public, inverse)?, 0, 0),
            WeightFrame::Token { public } => {
                let sum = self.token_sum(squares, public)?;
                exact = (newton_steps > 0).then(|| self.gather_heads(&sum, 1.0)).transpose()?;
                let sum = drop_one(ev, &sum, chain.boot_level + 1)?;
                (self.gather_heads(&sum, inverse.factor)?, self.program.layout.heads_padded, 1)
            }
        };
        let unit = ev.add_slots(&sum, &self.sum_constants(inverse, spread == 0)?)?;
        let unit = if direct {
            unit
        } else {
            // Only as many levels as the polynomial and the product with the squares need.
            drop_one(ev, &refresh_one(ev, &unit, period)?, square_level + depth + spread)?
        };
        let (mut value, top) = evaluate_chebyshev(ev, &unit, &inverse.poly)?;
        self.guard.push(ev, &top)?;
        if let Some(sum) = exact {
            // The sum as it was before the bootstrap has less noise, which matters where it is far below its maximum.
            for _ in 0..newton_steps {
                let error = ev.negate(&ev.mul(&sum, &value)?);
                value = ev.mul(&value, &ev.add_constant(&error, 2.0)?)?;
            }
        }
        if spread == 0 { Ok(value) } else { self.spread_heads(&value) }
    }

    /// Σ over ciphertexts, positions and lanes, in every slot of the query and head.
    fn block_sum(&self, squares: &[E::Value]) -> Result<E::Value, Error> {
        let (ev, layout) = (self.ev, &self.program.layout);
        let sum = add_all(ev, squares)?;
        let sum = ev.rotate_sum(&sum, layout.lane_stride() as i32, layout.lane_positions())?;
        // The sum over positions is the same at every position, so the one over lanes is cyclic too.
        Ok(ev.rotate_sum(&sum, (layout.block * layout.heads_padded) as i32, layout.lanes)?)
    }

    /// Σ over ciphertexts and blocks, still per row of a block.
    fn token_sum(&self, squares: &[E::Value], public: usize) -> Result<E::Value, Error> {
        let (ev, layout) = (self.ev, &self.program.layout);
        let axis = layout.public_block_axis();
        let (public, private) = squares.split_at(public);
        let sum = ev.rotate_sum(&add_all(ev, public)?, axis.stride as i32, axis.len)?;
        private.iter().try_fold(sum, |sum, square| Ok(ev.add(&sum, square)?))
    }

    /// The scaled sum over ciphertexts, blocks and rows, in every row of a block. Depth 1.
    fn sum_rows(&self, squares: &[E::Value], public: usize, inverse: &InversePlan) -> Result<E::Value, Error> {
        let (ev, layout) = (self.ev, &self.program.layout);
        // Rows are not cyclic: only row 0 receives the sum of its own head, and from there it spreads.
        let sum = ev.rotate_sum(&self.token_sum(squares, public)?, 1, layout.block)?;
        let mask = (0..self.row_axis().len).map(|slot| if slot % layout.block == 0 { inverse.factor } else { 0.0 });
        let masked = ev.mul_slots(&sum, &Slots::new(mask.collect(), layout.slot_count)?)?;
        Ok(ev.rotate_sum(&masked, -1, layout.block)?)
    }

    /// The sum over the rows of a block times `factor`, as one slot per head. Depth 1.
    fn gather_heads(&self, sum: &E::Value, factor: f64) -> Result<E::Value, Error> {
        let layout = &self.program.layout;
        let entry = |_: usize, (_, head): (usize, usize), (_, slot): (usize, usize)| {
            if slot / layout.block == head { factor } else { 0.0 }
        };
        let product = AxisProduct::new(layout.slot_count, self.row_axis(), self.per_head_axis(), &entry);
        first(product.apply(self.ev, std::slice::from_ref(sum))?)
    }

    /// One slot per head to all rows of the block. Depth 1.
    fn spread_heads(&self, value: &E::Value) -> Result<E::Value, Error> {
        let layout = &self.program.layout;
        let entry =
            |_: usize, (_, slot): (usize, usize), (_, head): (usize, usize)| f64::from(slot / layout.block == head);
        let product = AxisProduct::new(layout.slot_count, self.per_head_axis(), self.row_axis(), &entry);
        first(product.apply(self.ev, std::slice::from_ref(value))?)
    }

    fn row_axis(&self) -> Axis {
        let layout = &self.program.layout;
        Axis { stride: 1, count: 1, len: layout.block * layout.heads_padded }
    }

    fn per_head_axis(&self) -> Axis {
        Axis { stride: 1, count: 1, len: self.program.layout.heads_padded }
    }

    /// The constant of the affine image of a sum, and 0 for padding heads, whose sum is nearly 0.
    ///
    /// One slot per row and head, or only per head.
    fn sum_constants(&self, inverse: &InversePlan, per_row: bool) -> Result<Slots, Error> {
        let layout = &self.program.layout;
        let rows = if per_row { layout.block } else { 1 };
        let values =
            (0..rows * layout.heads_padded).map(|slot| if slot / rows < layout.heads { inverse.constant } else { 0.0 });
        Ok(Slots::new(values.collect(), layout.slot_count)?)
    }
}

/// The sum of all values.
pub(crate) fn add_all<E: Evaluator>(ev: &E, values: &[E::Value]) -> Result<E::Value, Error> {
    let (head, rest) = values.split_first().ok_or(undertone_he::Error::Arity { op: "add_all", have: 0, need: 1 })?;
    rest.iter().try_fold(head.clone(), |sum, value| Ok(ev.add(&sum, value)?))
}

/// The only value of a product with one output.
pub(crate) fn first<V>(values: Vec<V>) -> Result<V, Error> {
    let have = values.len();
    values.into_iter().next().ok_or(undertone_he::Error::Arity { op: "first", have, need: 1 }.into())
}
