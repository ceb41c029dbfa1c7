//! The first step of a session whose prompt runs in turns: all layers but the last as blocks, and of the last one keys
//! and values of the block, then the last row alone, in the dense frame, exactly as a decoding step does.

use super::Pairs;
use super::exchange::rotary;
use super::halves::Halves;
use crate::Error;
use crate::attention::{block_angles, dense_channel};
use crate::matmul::AxisProduct;
use crate::mlp::Frame;
use crate::packing::Axis;
use crate::program::{LayerCache, Pass, ServerState, StepOutput};
use crate::refresh::drop_one;
use crate::rope::Angles;
use undertone_he::Evaluator;

/// Runs the block; see the module documentation. `input` holds both values of each pair, one after the other.
pub(crate) fn prefill<E: Evaluator>(
    mut pass: Pass<'_, E>,
    input: Vec<E::Value>,
) -> Result<(StepOutput<E>, ServerState<E>), Error> {
    let program = pass.program;
    let mut input = input.into_iter();
    let mut x = Vec::with_capacity(input.len() / 2);
    while let (Some(lo), Some(hi)) = (input.next(), input.next()) {
        x.push([lo, hi]);
    }
    let last = program.layers.len() - 1;
    let mut layers = Vec::with_capacity(program.layers.len());
    for layer in 0..last {
        let (next, cache) = pass.turns(&pass.matrices(layer)?, x)?;
        layers.push(cache);
        x = next;
    }
    let (x, cache) = pass.last_turn(last, &x)?;
    layers.push(cache);
    let cached = program.layout.shape.private_tokens;
    Ok((pass.head(&x)?, ServerState { layers, cached }))
}

impl<E: Evaluator> Pass<'_, E> {
    /// The last layer: its cache, and what the last row becomes.
    fn last_turn(&mut self, layer: usize, x: &Pairs<E>) -> Result<(Vec<E::Value>, LayerCache<E>), Error> {
        let plan = self.turn_plan(layer)?;
        let matrix = self.heads_matrix(layer, plan.attention_norm.bound)?;
        let [queries, keys, values] = self.heads_turn(layer, plan, &matrix, x)?;
        let [keys, values] = self.block_cache(layer, [&keys, &values], &block_angles(self))?;
        let cache = self.layer_cache(layer, &keys, &values)?;
        let query = self.last_query(layer, &queries)?;
        self.steps.done("qkv", layer)?;
        let residual = self.last_residual(layer, x)?;
        let cached = self.program.layout.shape.private_tokens;
        let x = self.attend_token(layer, (&residual, Frame::Dense), &query, &cache, cached)?;
        Ok((self.mlp(layer, &x, Frame::Dense)?, cache))
    }

    /// Queries of the last row after the rotary embedding, dense, at the level where the attention of a token starts.
    fn last_query(&self, layer: usize, queries: &[[E::Value; 2]]) -> Result<Vec<E::Value>, Error> {
        let layout = &self.program.layout;
        let (halves, d) = (Halves::new(layout), layout.head_dim);
        let angles = Angles::new(&self.program.config, layout.position(layout.shape.private_tokens - 1));
        let entry = |place: usize, c: usize| {
            let wanted = dense_channel(place, layout.heads_padded, layout.heads, d);
            match (wanted, halves.head_channel(c)) {
                (Some((head, j)), Some((other, k))) if head == other => {
                    let [own, partner] = rotary(&angles, j, d);
                    own * f64::from(j == k) + partner * f64::from((j + d / 2) % d == k)
                }
                _ => 0.0,
            }
        };
        let level = self.program.layers[layer].softmax.token.start;
        self.last_row_of_halves(queries, level, layout.dense_head_axis(), &entry)
    }

    /// The residual stream of the last row, dense, divided by the bound of the layer.
    fn last_residual(&self, layer: usize, x: &[[E::Value; 2]]) -> Result<Vec<E::Value>, Error> {
        let (layout, chain) = (&self.program.layout, self.program.chain);
        let factor = self.program.cycle()?.unit / self.program.layers[layer].residual[0];
        let entry = |place: usize, c: usize| if place == c && c < layout.hidden { factor } else { 0.0 };
        // One above a bootstrap: the sum with the change takes a level.
        self.last_row_of_halves(x, chain.boot_level + 1, layout.dense_axis(layout.hidden), &entry)
    }

    /// A map from the channels of the last row to places of the dense frame, at `level`; `entry(place, channel)`.
    fn last_row_of_halves(
        &self,
        x: &[[E::Value; 2]],
        level: usize,
        output: Axis,
        entry: &(impl Fn(usize, usize) -> f64 + Sync),
    ) -> Result<Vec<E::Value>, Error> {
        let layout = &self.program.layout;
        let halves = Halves::new(layout);
        let last = layout.shape.private_tokens - 1;
        let (half, row) = (last / halves.tokens(), last % halves.tokens());
        let source = x.iter().map(|pair| drop_one(self.ev, &pair[half], level + 1)).collect::<Result<Vec<_>, _>>()?;
        let full = |_: usize, (_, place): (usize, usize), (pair, slot): (usize, usize)| {
            if slot % halves.tokens() != row {
                return 0.0;
            }
            entry(place, pair * halves.channels() + slot / halves.tokens())
        };
        let input = Axis { stride: 1, count: source.len(), len: layout.slot_count };
        Ok(AxisProduct::new(layout.slot_count, input, output, &full).apply(self.ev, &source)?)
    }
}
