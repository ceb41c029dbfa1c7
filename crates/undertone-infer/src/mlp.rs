//! The feed-forward network, and the sums that feed the residual stream.

use crate::Error;
use crate::matmul::AxisProduct;
use crate::packing::Axis;
use crate::program::Pass;
use crate::refresh::drop_to;
use undertone_he::Evaluator;
use undertone_he::circuits::evaluate_chebyshev;
use undertone_model::Matrix;

/// The frame of the residual stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Frame {
    /// All rows of a block.
    Block,
    /// One token, dense.
    Dense,
}

impl<E: Evaluator> Pass<'_, E> {
    /// `width` channels in `frame`.
    pub(crate) fn channels(&self, frame: Frame, width: usize) -> Axis {
        match frame {
            Frame::Block => self.program.layout.block_axis(width),
            Frame::Dense => self.program.layout.dense_axis(width),
        }
    }

    /// scale · matrix · diag(gain) on channels, `frame` to `frame`, for every `(matrix, scale)`; they share the rotations
    /// of `x`.
    ///
    /// # Shapes
    /// Each matrix is `[rows, cols]`; absent when only costs are counted. The results follow each other.
    pub(crate) fn project(
        &self,
        x: &[E::Value],
        frame: Frame,
        (rows, cols): (usize, usize),
        matrices: &[(Option<&Matrix>, f64)],
        gain: Option<&[f32]>,
    ) -> Result<Vec<E::Value>, Error> {
        let (input, output) = (self.channels(frame, cols), self.channels(frame, rows));
        let entry = |_: usize, (o, p): (usize, usize), (i, b): (usize, usize)| {
            let (matrix, scale) = matrices[o / output.count];
            let (row, col) = (o % output.count * output.len + p, i * input.len + b);
            match matrix {
                Some(matrix) if row < rows && col < cols => {
                    let gain = gain.map_or(1.0, |gain| f64::from(gain[col]));
                    scale * gain * f64::from(matrix.data[row * cols + col])
                }
                _ => 0.0,
            }
        };
        let all = output.times(matrices.len());
        Ok(AxisProduct::new(self.program.layout.slot_count, input, all, &entry).apply(self.ev, x)?)
    }

    /// (x · old bound + change · new bound) / new bound, at the level of `change`.
    pub(crate) fn add_residual(
        &self,
        x: &[E::Value],
        change: &[E::Value],
        factor: f64,
    ) -> Result<Vec<E::Value>, Error> {
        let ev = self.ev;
        x.iter()
            .zip(change)
            .map(|(x, change)| Ok(ev.add(&ev.drop_level(x, ev.level(change), factor)?, change)?))
            .collect()
    }

    /// Bootstraps the residual stream.
    pub(crate) fn refresh_residual(&mut self, x: &[E::Value], frame: Frame) -> Result<Vec<E::Value>, Error> {
        let axis = self.channels(frame, self.program.layout.hidden);
        self.refresh(&drop_to(self.ev, x, self.program.chain.boot_level)?, axis.period())
    }

    /// x + down(silu(gate(norm(x))) · up(norm(x))), bootstrapped.
    ///
    /// # Levels
    /// From the top level to the top level.
    pub(crate) fn mlp(&mut self, layer: usize, x: &[E::Value], frame: Frame) -> Result<Vec<E::Value>, Error> {
        let (ev, program) = (self.ev, self.program);
        let plan = &program.layers[layer];
        let (hidden, ffn) = (program.layout.hidden, program.layout.ffn);
        let normed = self.norm(x, self.channels(frame, hidden), &plan.mlp_norm, plan.mlp.start)?;
        self.steps.done("mlp norm", layer)?;
        let weights = self.model.map(|m| &m.layers[layer]);
        let gain = weights.map(|w| &w.mlp_norm[..]);
        let shape = (ffn, hidden);
        let gate_up =
            [(weights.map(|w| &w.gate), 1.0 / plan.gate_bound), (weights.map(|w| &w.up), 1.0 / plan.up_bound)];
        let mut both = self.project(&normed, frame, shape, &gate_up, gain)?;
        let count = both.len() / 2;
        if plan.mlp.refresh {
            both = self.refresh(&both, self.channels(frame, ffn).period())?;
            both = drop_to(ev, &both, plan.mlp.gate_level)?;
        }
        let mut products = Vec::with_capacity(count);
        for (gate, up) in both[..count].iter().zip(&both[count..]) {
            self.steps.poll()?;
            let (activated, top) = evaluate_chebyshev(ev, gate, &plan.mlp.silu)?;
            self.guard.push(ev, &top)?;
            products.push(ev.mul(&activated, up)?);
        }
        let products = drop_to(ev, &products, program.chain.boot_level + 1)?;
        let scale = plan.product_bound / plan.residual[2];
        let down = (weights.map(|w| &w.down), scale);
        let change = self.project(&products, frame, (hidden, ffn), &[down], None)?;
        let x = self.add_residual(x, &change, plan.residual[1] / plan.residual[2])?;
        let fresh = self.refresh_residual(&x, frame)?;
        self.steps.done("mlp", layer)?;
        Ok(fresh)
    }
}
