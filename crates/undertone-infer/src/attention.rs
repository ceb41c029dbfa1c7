//! The attention half of a layer: projections, scores, softmax, values, output projection, residual sum.
//!
//! Two forms exist. A block attends with all its rows; a single token attends in the dense frame. The last layer of a
//! prefill needs only its last row, so it computes keys and values for the block and then attends as one token.

use crate::Error;
use crate::matmul::AxisProduct;
use crate::mlp::Frame;
use crate::packing::{Axis, Layout};
use crate::program::{LayerCache, Pass};
use crate::refresh::{drop_to, lower};
use crate::rope::{Angles, HeadRows};
use crate::softmax::{WeightFrame, first};
use undertone_he::Evaluator;
use undertone_model::{LayerWeights, Matrix};

/// Where the output projection puts its result.
enum Target<'a, V> {
    /// Every row of the block.
    Block,
    /// One token in the dense frame.
    Dense { residual: &'a [V], factor: f64 },
}

/// The projections of one layer, with bounds folded in.
pub(crate) struct Projections<'a> {
    pub query: HeadRows<'a>,
    pub key: HeadRows<'a>,
    pub value: HeadRows<'a>,
}

/// Entries of a projection by (token, head, coordinate, channel).
pub(crate) type BlockEntry<'a> = dyn Fn(usize, usize, usize, usize) -> f64 + Sync + 'a;
/// Entries of a projection by (head, coordinate, channel).
pub(crate) type DenseEntry<'a> = dyn Fn(usize, usize, usize) -> f64 + Sync + 'a;

impl<'a, E: Evaluator> Pass<'a, E> {
    pub(crate) fn weights(&self, layer: usize) -> Option<&'a LayerWeights> {
        self.model.map(|m| &m.layers[layer])
    }

    pub(crate) fn projections(&self, layer: usize) -> Projections<'a> {
        let (layout, plan) = (&self.program.layout, &self.program.layers[layer]);
        let weights = self.weights(layer);
        let rows = |matrix: fn(&LayerWeights) -> &Matrix, per_head, bound: f64| HeadRows {
            matrix: weights.map(matrix),
            gain: weights.map_or(&[], |w| &w.attention_norm),
            per_head,
            head_dim: layout.head_dim,
            scale: 1.0 / bound,
        };
        Projections {
            query: rows(|w| &w.q, 1, plan.query_bound),
            key: rows(|w| &w.k, layout.heads_per_key, plan.key_bound),
            value: rows(|w| &w.v, layout.heads_per_key, plan.value_bound),
        }
    }

    /// The attention norm of `x` in `frame`.
    pub(crate) fn attention_norm(
        &mut self,
        layer: usize,
        x: &[E::Value],
        frame: Frame,
    ) -> Result<Vec<E::Value>, Error> {
        let program = self.program;
        let plan = &program.layers[layer];
        let axis = self.channels(frame, program.layout.hidden);
        let normed = self.norm(x, axis, &plan.attention_norm, plan.attention_start)?;
        self.steps.done("attention norm", layer)?;
        Ok(normed)
    }

    /// Per-head tensors in the block frame from normed activations in the block frame, whose rotations they share; one
    /// for every entry of (token, head, coordinate, channel), and the results follow each other.
    pub(crate) fn block_rows(&self, normed: &[E::Value], entries: &[&BlockEntry<'_>]) -> Result<Vec<E::Value>, Error> {
        let layout = &self.program.layout;
        let (input, output) = (layout.block_axis(layout.hidden), layout.head_axis());
        let full = |token: usize, (o, p): (usize, usize), (i, b): (usize, usize)| {
            let entry = entries[o / output.count];
            let at = layout.head_channel(o % output.count, p);
            at.map_or(0.0, |(head, j)| entry(token, head, j, i * input.len + b))
        };
        let all = output.times(entries.len());
        Ok(AxisProduct::new(layout.slot_count, input, all, &full).apply(self.ev, normed)?)
    }

    /// Per-head tensors of one token in the dense frame from normed activations in the dense frame, whose rotations they
    /// share; one for every entry of (head, coordinate, channel), and the results follow each other.
    pub(crate) fn dense_rows(&self, normed: &[E::Value], entries: &[&DenseEntry<'_>]) -> Result<Vec<E::Value>, Error> {
        let layout = &self.program.layout;
        let full = |_: usize, (o, p): (usize, usize), (_, c): (usize, usize)| {
            dense_channel(p, layout.heads_padded, layout.heads, layout.head_dim)
                .map_or(0.0, |(head, j)| entries[o](head, j, c))
        };
        let (input, all) = (layout.dense_axis(layout.hidden), layout.dense_head_axis().times(entries.len()));
        Ok(AxisProduct::new(layout.slot_count, input, all, &full).apply(self.ev, normed)?)
    }

    /// A per-head tensor of the last row of the block, in the dense frame, from normed activations of the block.
    pub(crate) fn last_row(
        &self,
        normed: &[E::Value],
        entry: impl Fn(usize, usize, usize) -> f64 + Sync,
    ) -> Result<Vec<E::Value>, Error> {
        let layout = &self.program.layout;
        let (input, per_count) = self.slot_axis(layout.block_axis(layout.hidden));
        let last = layout.shape.private_tokens - 1;
        let full = |_: usize, (_, p): (usize, usize), (i, slot): (usize, usize)| {
            if slot % layout.block != last {
                return 0.0;
            }
            dense_channel(p, layout.heads_padded, layout.heads, layout.head_dim)
                .map_or(0.0, |(head, j)| entry(head, j, i * per_count + slot / layout.block))
        };
        Ok(AxisProduct::new(layout.slot_count, input, layout.dense_head_axis(), &full).apply(self.ev, normed)?)
    }

    /// A per-head tensor of one token in the block frame, in every row for which `row` holds, from the dense frame.
    pub(crate) fn to_rows(
        &self,
        x: &[E::Value],
        input: Axis,
        row: impl Fn(usize) -> bool + Sync,
        entry: impl Fn(usize, usize, usize) -> f64 + Sync,
    ) -> Result<Vec<E::Value>, Error> {
        let layout = &self.program.layout;
        let (output, _) = self.slot_axis(layout.head_axis());
        let full = |_: usize, (o, slot): (usize, usize), (_, c): (usize, usize)| {
            if !row(slot % layout.block) {
                return 0.0;
            }
            layout.head_channel(o, slot / layout.block).map_or(0.0, |(head, j)| entry(head, j, c))
        };
        Ok(AxisProduct::new(layout.slot_count, input, output, &full).apply(self.ev, x)?)
    }

    /// Spreads dense head channels to the rows of a block for which `row` holds, times `factor`; takes `levels` levels.
    ///
    /// In one level every diagonal of the channels is a product. In two, where a channel is low + L·high, the high part
    /// picks the channel's slots first and the low part then, so that there are about as many as twice the root. The
    /// second map rotates by less than L slots what is the same in all slots that differ in their places L to T·L
    /// alone; a rotation that carried beyond those would start in a row of the last low part, which needs no carry.
    pub(crate) fn spread_rows(
        &self,
        x: &[E::Value],
        levels: usize,
        row: impl Fn(usize) -> bool + Sync,
        factor: f64,
    ) -> Result<Vec<E::Value>, Error> {
        let layout = &self.program.layout;
        let (channels, heads) = (layout.dense_head_axis(), layout.heads_padded);
        if levels == 1 {
            return self.to_rows(x, channels, row, |head, j, c| if c == head + heads * j { factor } else { 0.0 });
        }
        let rows = layout.head_axis();
        let low = low_channels(layout);
        debug_assert!(low <= layout.block, "a rotation by {low} slots would carry into the high channels");
        let high = Axis { stride: low, len: channels.len / low, ..channels };
        let target = Axis { stride: low, count: rows.count, len: rows.period() / low };
        let picks = |_: usize, (o, p): (usize, usize), (_, part): (usize, usize)| {
            f64::from(part == o * (rows.len / low) + p / layout.block)
        };
        let picked = AxisProduct::new(layout.slot_count, high, target, &picks).in_runs(low).apply(self.ev, x)?;
        let (from, to) = (Axis { stride: 1, count: 1, len: low }, Axis { stride: 1, count: 1, len: rows.period() });
        let places = |_: usize, (_, slot): (usize, usize), (_, part): (usize, usize)| {
            let chosen = slot / layout.block % low == part && row(slot % layout.block);
            if chosen { factor } else { 0.0 }
        };
        let places = AxisProduct::new(layout.slot_count, from, to, &places);
        let spread = picked.iter().map(|x| first(places.apply(self.ev, std::slice::from_ref(x))?));
        spread.collect()
    }

    /// Bootstraps queries, keys and, where the plan says so, values; returns them in that order.
    pub(crate) fn refresh_heads(
        &mut self,
        layer: usize,
        tensors: [Vec<E::Value>; 3],
        period: usize,
    ) -> Result<[Vec<E::Value>; 3], Error> {
        let [queries, keys, values] = tensors;
        let (query_count, key_count) = (queries.len(), keys.len());
        let both: Vec<E::Value> = queries.into_iter().chain(keys).collect();
        let mut all = drop_to(self.ev, &both, self.program.chain.boot_level)?;
        let refreshed = self.program.layers[layer].refresh_values;
        if refreshed {
            all.extend(drop_to(self.ev, &values, self.program.chain.boot_level)?);
        }
        let mut fresh = self.refresh(&all, period)?;
        let fresh_values = if refreshed { fresh.split_off(query_count + key_count) } else { values };
        let keys = fresh.split_off(query_count);
        Ok([fresh, keys, fresh_values])
    }

    /// Attention of all rows of a block, from bootstrapped queries and keys; returns the new residual stream.
    pub(crate) fn attend_block(
        &mut self,
        layer: usize,
        x: &[E::Value],
        heads: [Vec<E::Value>; 3],
    ) -> Result<Vec<E::Value>, Error> {
        let (mixed, inverse) = self.mix_block(layer, heads)?;
        let layout = &self.program.layout;
        let axis = Axis { len: layout.heads_padded * layout.lanes * layout.head_len, ..layout.head_axis() };
        self.output(layer, &mixed, &inverse, axis, x, Target::Block)
    }

    /// The weighted sums of values for all rows of a block, in the lane frame, and what they are still to be multiplied
    /// by. Queries and keys are at the level where the plan's attention enters or above.
    pub(crate) fn mix_block(
        &mut self,
        layer: usize,
        [queries, keys, values]: [Vec<E::Value>; 3],
    ) -> Result<(Vec<E::Value>, E::Value), Error> {
        let (ev, program) = (self.ev, self.program);
        let plan = &program.layers[layer].softmax;
        // Queries skip the level that a shear takes from the keys.
        let queries = lower(ev, queries, plan.block_entry - usize::from(plan.parts > 1))?;
        let keys = lower(ev, keys, plan.block_entry)?;
        let values = lower(ev, values, plan.block_value_level)?;
        let weights = self.block_weights(layer, queries, keys)?;
        self.steps.done("scores", layer)?;
        let (squares, inverse) = self.softmax(layer, weights, WeightFrame::Block)?;
        self.steps.done("softmax", layer)?;
        Ok((self.block_values(layer, &squares, values)?, inverse))
    }

    /// Attention of one token over the cache, which holds `cached` tokens with its own; `query` is bootstrapped and
    /// dense. Returns the new residual stream; `x` is `(dense or block activations, frame)`.
    pub(crate) fn attend_token(
        &mut self,
        layer: usize,
        (x, frame): (&[E::Value], Frame),
        query: &[E::Value],
        cache: &LayerCache<E>,
        cached: usize,
    ) -> Result<Vec<E::Value>, Error> {
        let (ev, program) = (self.ev, self.program);
        let plan = &program.layers[layer];
        let factor = plan.residual[0] / plan.residual[1];
        // The levels that the spread takes are part of the depth of the scores.
        let query = drop_to(ev, query, plan.softmax.token.start)?;
        let query = self.spread_rows(&query, plan.softmax.spread, |_| true, plan.softmax.product_scale)?;
        let scores = self.token_scores(layer, &query, &cache.keys, cached)?;
        self.steps.done("scores", layer)?;
        let public = scores.public.len();
        let scores: Vec<_> = scores.public.into_iter().chain(scores.private).collect();
        let weights = self.weigh(&plan.softmax, &scores)?;
        let (squares, inverse) = self.softmax(layer, weights, WeightFrame::Token { public })?;
        self.steps.done("softmax", layer)?;
        let mixed = self.token_values(layer, &squares[..public], &squares[public..], &cache.values)?;
        let (axis, _) = self.slot_axis(program.layout.head_axis());
        match frame {
            Frame::Dense => self.output(layer, &mixed, &inverse, axis, x, Target::Dense { residual: x, factor }),
            Frame::Block => {
                let residual = self.select_last(x, factor)?;
                let target = Target::Dense { residual: &residual, factor: 1.0 };
                self.output(layer, &mixed, &inverse, axis, x, target)
            }
        }
    }

    /// Normalises, projects, adds the residual stream and bootstraps.
    fn output(
        &mut self,
        layer: usize,
        mixed: &[E::Value],
        inverse: &E::Value,
        input: Axis,
        x: &[E::Value],
        target: Target<'_, E::Value>,
    ) -> Result<Vec<E::Value>, Error> {
        let (ev, layout, plan) = (self.ev, &self.program.layout, &self.program.layers[layer]);
        let normalised = mixed.iter().map(|m| ev.mul(m, inverse)).collect::<Result<Vec<_>, _>>()?;
        self.steps.done("values", layer)?;
        let normalised = drop_to(ev, &normalised, self.program.chain.boot_level + 1)?;
        let scale = plan.value_bound / plan.residual[1];
        let weights = self.weights(layer);
        let frame = match target {
            Target::Block => Frame::Block,
            Target::Dense { .. } => Frame::Dense,
        };
        let output = self.channels(frame, layout.hidden);
        // Slots below the coordinate: head and lane in a block; row and head for a token.
        let (head_stride, coordinate_stride) = match target {
            Target::Block => (1, layout.heads_padded * layout.lanes),
            Target::Dense { .. } => (layout.block, layout.block * layout.heads_padded),
        };
        let entry = |_: usize, (o, p): (usize, usize), (i, b): (usize, usize)| {
            let row = o * output.len + p;
            let head = b / head_stride % layout.heads_padded;
            let j = i * layout.head_len + b / coordinate_stride;
            match weights {
                Some(w) if row < layout.hidden && head < layout.heads && j < layout.head_dim => {
                    scale * f64::from(w.o.data[row * w.o.cols + head * layout.head_dim + j])
                }
                _ => 0.0,
            }
        };
        let change = AxisProduct::new(layout.slot_count, input, output, &entry).apply(ev, &normalised)?;
        let x = match target {
            Target::Block => self.add_residual(x, &change, plan.residual[0] / plan.residual[1])?,
            Target::Dense { residual, factor: 1.0 } => {
                residual.iter().zip(&change).map(|(x, c)| ev.add(x, c)).collect::<Result<_, _>>()?
            }
            Target::Dense { residual, factor } => self.add_residual(residual, &change, factor)?,
        };
        let fresh = self.refresh_residual(&x, frame)?;
        self.steps.done("output projection", layer)?;
        Ok(fresh)
    }

    /// The last row of a block in the dense frame, times `factor`, at the level that a bootstrap needs.
    fn select_last(&self, x: &[E::Value], factor: f64) -> Result<Vec<E::Value>, Error> {
        let layout = &self.program.layout;
        let low = drop_to(self.ev, x, self.program.chain.boot_level + 1)?;
        let (input, per_count) = self.slot_axis(layout.block_axis(layout.hidden));
        let last = layout.shape.private_tokens - 1;
        let entry = |_: usize, (_, p): (usize, usize), (i, slot): (usize, usize)| {
            let selected = slot % layout.block == last && i * per_count + slot / layout.block == p;
            if selected && p < layout.hidden { factor } else { 0.0 }
        };
        let output = layout.dense_axis(layout.hidden);
        Ok(AxisProduct::new(layout.slot_count, input, output, &entry).apply(self.ev, &low)?)
    }

    /// All slots of the ciphertexts of `axis` as one axis of stride 1, and the channels per ciphertext.
    fn slot_axis(&self, axis: Axis) -> (Axis, usize) {
        (Axis { stride: 1, count: axis.count, len: axis.period() }, axis.len)
    }
}

/// The low channels of a spread in two levels: a power of two up to T, as few diagonals as can be.
fn low_channels(layout: &Layout) -> usize {
    let (channels, rows) = (layout.dense_head_axis().len, layout.head_axis().len);
    let logs = 0..=rows.min(layout.block).ilog2();
    logs.map(|log| 1 << log).min_by_key(|low| channels / low + low).unwrap_or(1)
}

/// The query head and coordinate of dense head channel h + H_p·j.
pub(crate) fn dense_channel(channel: usize, padded: usize, heads: usize, head_dim: usize) -> Option<(usize, usize)> {
    let (head, j) = (channel % padded, channel / padded);
    (head < heads && j < head_dim).then_some((head, j))
}

/// The angles of every row of the block.
pub(crate) fn block_angles<E: Evaluator>(pass: &Pass<'_, E>) -> Vec<Angles> {
    let layout = &pass.program.layout;
    (0..layout.block).map(|token| Angles::new(&pass.program.config, layout.position(token))).collect()
}
