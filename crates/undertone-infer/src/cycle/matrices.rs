//! The four matrices of a layer in turns, row by row, with gains, bounds and the order of head channels folded in.

use super::exchange::UNROTATED;
use super::halves::Halves;
use crate::Error;
use crate::attention::Projections;
use crate::program::Pass;
use undertone_he::Evaluator;
use undertone_model::Matrix;

/// The matrices of one layer in turns, converted for an evaluator. They depend on the weights alone, so they are made
/// before there is a prompt.
pub struct LayerMatrices<E: Evaluator> {
    pub(super) layer: usize,
    pub(super) heads: E::Matrix,
    pub(super) output: E::Matrix,
    pub(super) gate_up: E::Matrix,
    pub(super) down: E::Matrix,
}

impl<E: Evaluator> Pass<'_, E> {
    /// Converts the matrices of layer `layer`.
    pub(crate) fn matrices(&self, layer: usize) -> Result<LayerMatrices<E>, Error> {
        let plan = self.turn_plan(layer)?;
        Ok(LayerMatrices {
            layer,
            heads: self.heads_matrix(layer, plan.attention_norm.bound)?,
            output: self.output_matrix(layer, plan.attention.bound)?,
            gate_up: self.gate_up_matrix(layer, plan.mlp_norm.bound)?,
            down: self.down_matrix(layer, plan.mlp.bound)?,
        })
    }

    /// Queries, keys and values in the order of their head channels, from normed activations divided by `bound`.
    pub(super) fn heads_matrix(&self, layer: usize, bound: f64) -> Result<E::Matrix, Error> {
        let layout = &self.program.layout;
        let halves = Halves::new(layout);
        let [queries, keys] = [halves.head_pairs(), halves.key_pairs()].map(|pairs| pairs * halves.channels());
        let Projections { query, key, value } = self.projections(layer);
        let row = |o: usize, out: &mut [f32]| {
            out.fill(0.0);
            let (rows, unrotated, channel) = match o.checked_sub(queries) {
                None => (&query, UNROTATED, halves.head_channel(o)),
                Some(o) if o < keys => (&key, UNROTATED, halves.key_channel(o)),
                Some(o) => (&value, 1.0, halves.key_channel(o - keys)),
            };
            let scale = bound / unrotated;
            let Some((head, j)) = channel else { return };
            out.iter_mut().enumerate().for_each(|(c, out)| *out = (scale * rows.plain(head, j, c)) as f32);
        };
        Ok(self.ev.encode_matrix(&halves.matrix(queries + 2 * keys, layout.hidden), &row)?)
    }

    /// From head channels, divided by the bound of values, to the change of the stream, divided by `bound`.
    fn output_matrix(&self, layer: usize, bound: f64) -> Result<E::Matrix, Error> {
        let (layout, plan) = (&self.program.layout, &self.program.layers[layer]);
        let halves = Halves::new(layout);
        let scale = plan.value_bound / bound;
        let weights = self.weights(layer);
        let channels: Vec<Option<usize>> = (0..halves.head_pairs() * halves.channels())
            .map(|c| halves.head_channel(c).map(|(head, j)| head * layout.head_dim + j))
            .collect();
        let row = |o: usize, out: &mut [f32]| {
            let Some(weights) = weights else { return };
            let source = &weights.o.data[o * weights.o.cols..][..weights.o.cols];
            for (out, channel) in out.iter_mut().zip(&channels) {
                *out = channel.map_or(0.0, |c| (scale * f64::from(source[c])) as f32);
            }
        };
        Ok(self.ev.encode_matrix(&halves.matrix(layout.hidden, channels.len()), &row)?)
    }

    /// Gate and up, each padded to whole pairs, divided by their bounds, from normed activations divided by `bound`.
    fn gate_up_matrix(&self, layer: usize, bound: f64) -> Result<E::Matrix, Error> {
        let (layout, plan) = (&self.program.layout, &self.program.layers[layer]);
        let halves = Halves::new(layout);
        let width = halves.pairs(layout.ffn) * halves.channels();
        let weights = self.weights(layer);
        let row = |o: usize, out: &mut [f32]| {
            out.fill(0.0);
            let Some(weights) = weights.filter(|_| o % width < layout.ffn) else { return };
            let (matrix, scale) = match o / width {
                0 => (&weights.gate, bound / plan.gate_bound),
                _ => (&weights.up, bound / plan.up_bound),
            };
            write_row(matrix, o % width, out, |c| scale * f64::from(weights.mlp_norm[c]));
        };
        Ok(self.ev.encode_matrix(&halves.matrix(2 * width, layout.hidden), &row)?)
    }

    /// From products of gate and up, divided by their bound, to the change of the stream, divided by `bound`.
    fn down_matrix(&self, layer: usize, bound: f64) -> Result<E::Matrix, Error> {
        let (layout, plan) = (&self.program.layout, &self.program.layers[layer]);
        let scale = plan.product_bound / bound;
        let weights = self.weights(layer);
        let row = |o: usize, out: &mut [f32]| {
            let Some(weights) = weights else { return };
            write_row(&weights.down, o, out, |_| scale);
        };
        Ok(self.ev.encode_matrix(&Halves::new(layout).matrix(layout.hidden, layout.ffn), &row)?)
    }
}

fn write_row(matrix: &Matrix, o: usize, out: &mut [f32], scale: impl Fn(usize) -> f64) {
    let source = &matrix.data[o * matrix.cols..][..matrix.cols];
    out.iter_mut().zip(source).enumerate().for_each(|(c, (out, &w))| *out = (scale(c) * f64::from(w)) as f32);
}
