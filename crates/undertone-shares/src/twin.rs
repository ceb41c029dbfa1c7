//! The clear twin: the same integers as the protocol, without shares, masks or permutations.
//!
//! Everything the protocol does is exact on the ring except the dealer's truncation, which rounds up or down by the
//! low bits of its masks. A twin that replays them (`Replay`) gives the protocol's integers bit for bit; one that
//! rounds to nearest ([`Nearest`]) is the same model without that noise.
//! `clear_id` of a step is the largest of these logits. Under strict evaluation nonlinear functions are the programs of
//! `strict`, run in the clear.

use std::sync::Arc;

use undertone_ring::WordKernels;
use undertone_ring::words::product_i16;
use zeroize::Zeroizing;

use crate::attention::{HeadRows, add_mixed, add_scores};
use crate::columns::{columns, halves};
use crate::error::{Error, Result};
use crate::fixed::{ACTIVATION_BITS, add_shifted, power};
use crate::nonlinear::{rms_norm, silu_product, softmax_rows};
use crate::random::WordStream;
use crate::rotary::RotaryTable;
use crate::rows::{Placement, Rows};
use crate::shape::{Matrix, Shape, Site, Step};
use crate::strict::{self, Clear};
use crate::truncation;
use crate::user::greedy_place;
use crate::weights::QuantizedModel;

#[cfg(any(test, feature = "replay"))]
pub use replay::Replay;

/// A truncation of one layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Truncation {
    /// Queries and keys after the rotary embedding, `[n, (H + K) d]`.
    Rotated,
    /// Mixed values, `[n, H d]`.
    Mix,
}

/// How a twin rounds.
pub trait Rounding {
    /// Of the mask of every value of a truncation, the low bits: as many as `drops` says of this value. They decide
    /// which way it is rounded. None for rounding to nearest.
    fn low_bits(&self, truncation: Truncation, step: &Step, layer: usize, drops: &[u32])
    -> Option<Zeroizing<Vec<u64>>>;

    /// The masks of a strictly evaluated site, which round there. None for rounding to nearest.
    fn site_masks(&self, site: Site, step: &Step, layer: usize) -> Option<SiteMasks>;
}

/// Both parties' masks of a strictly evaluated site, in the order of their use.
pub struct SiteMasks(pub(crate) [WordStream; 2]);

/// To nearest, ties up.
pub struct Nearest;

impl Rounding for Nearest {
    fn low_bits(&self, _: Truncation, _: &Step, _: usize, _: &[u32]) -> Option<Zeroizing<Vec<u64>>> {
        None
    }

    fn site_masks(&self, _: Site, _: &Step, _: usize) -> Option<SiteMasks> {
        None
    }
}

/// A conversation in the clear.
pub struct Twin<R> {
    model: Arc<QuantizedModel>,
    shape: Shape,
    rotary: Arc<RotaryTable>,
    kernels: Arc<dyn WordKernels>,
    rounding: R,
    next: u64,
    position: usize,
    rows: Rows,
    caches: Vec<(HeadRows, HeadRows)>,
    strict: bool,
    /// The last step.
    last: Step,
}

impl<R: Rounding> Twin<R> {
    /// A conversation at position 0.
    pub fn new(
        model: Arc<QuantizedModel>,
        rotary: Arc<RotaryTable>,
        kernels: Arc<dyn WordKernels>,
        rounding: R,
    ) -> Self {
        let shape = model.public().shape();
        let caches = (0..shape.layers).map(|_| (HeadRows::new(&shape), HeadRows::new(&shape))).collect();
        let (rows, last) = (Rows::default(), Step { number: 0, position: 0, tokens: 0, outputs: 0, strict: false });
        Self { model, shape, rotary, kernels, rounding, next: 0, position: 0, rows, caches, strict: false, last }
    }

    /// The same conversation before its first step, with nonlinear functions as strict evaluation has them, or not.
    #[must_use]
    pub fn with_strict(self, strict: bool) -> Self {
        Self { strict, ..self }
    }

    /// Runs the next tokens and returns the residual stream after the last layer, `[n, D]`.
    ///
    /// # Errors
    /// What [`Step::check`] refuses, tokens outside the vocabulary.
    pub fn forward(&mut self, tokens: &[u32]) -> Result<Vec<u64>> {
        self.forward_as(tokens, 1, Placement { kept: self.rows.last(), skipped: 0 })
    }

    /// As [`Twin::forward`] for a step with `outputs` outputs and rows that do not count.
    ///
    /// # Errors
    /// As [`Twin::forward`], and a placement that does not fit the step before.
    pub fn forward_as(&mut self, tokens: &[u32], outputs: usize, placement: Placement) -> Result<Vec<u64>> {
        let strict = self.strict;
        let step = Step { number: self.next, position: self.position, tokens: tokens.len(), outputs, strict };
        // Nothing is dealt for a twin, so that a step may be longer than a bundle of strict evaluation.
        Step { strict: false, ..step }.check(&self.shape, self.rotary.positions())?;
        let positions = self.rows.positions(&step, &placement)?;
        let vocab = self.shape.vocab;
        if tokens.iter().any(|&token| token as usize >= vocab) {
            return Err(Error::OutsideVocabulary { vocab });
        }
        let table = &self.model.matrix(Matrix::Embed).values;
        let shift = self.model.public().shift(Matrix::Embed);
        let entry = |token: u32, row: usize| (i64::from(table[row * vocab + token as usize]) as u64) << shift;
        let mut stream: Vec<u64> =
            tokens.iter().flat_map(|&token| (0..self.shape.hidden).map(move |row| entry(token, row))).collect();
        self.rows.push(&step, &placement);
        for layer in 0..self.shape.layers {
            self.attention(&step, &positions, layer, &mut stream);
            self.mlp(&step, layer, &mut stream);
        }
        self.last = step;
        self.next += 1;
        self.position += tokens.len();
        Ok(stream)
    }

    /// Logits of rows of the residual stream, `[rows, V]`, as integers.
    pub fn logits(&self, stream: &[u64]) -> Vec<u64> {
        self.product(Matrix::Head, &self.norm(&self.last, (Site::FinalNorm, 0), stream))
    }

    /// The tokens of the largest of logits of the outputs of the last step.
    pub fn choose(&self, logits: &[u64]) -> Vec<u32> {
        if !self.strict {
            return logits.chunks_exact(self.shape.vocab).map(|row| greedy_place(row) as u32).collect();
        }
        let step = Step { outputs: logits.len() / self.shape.vocab, ..self.last };
        self.strictly(&step, (Site::Logits, 0), logits.to_vec()).iter().map(|place| *place as u32).collect()
    }

    /// One unit of a logit.
    pub fn logit_unit(&self) -> f64 {
        power(-((ACTIVATION_BITS + self.model.public().head) as i32))
    }

    /// Runs the next tokens and returns the integer logits of the last, `[V]`.
    ///
    /// # Errors
    /// As [`Twin::forward`].
    pub fn forward_last(&mut self, tokens: &[u32]) -> Result<Vec<u64>> {
        let stream = self.forward(tokens)?;
        Ok(self.logits(&stream[stream.len() - self.shape.hidden..]))
    }

    fn attention(&mut self, step: &Step, positions: &[usize], layer: usize, stream: &mut [u64]) {
        let (shape, kernels) = (self.shape, Arc::clone(&self.kernels));
        let public = self.model.public();
        let width = shape.rotated() + shape.key();
        let normed = self.norm(step, (Site::AttentionNorm, layer), stream);
        let qkv = self.product(Matrix::Qkv(layer), &normed);
        let mut rotated = columns(&qkv, width, 0..shape.rotated());
        self.rotary.rotate(&mut rotated, shape.rotated(), positions);
        let drops = public.rotated_drop(layer);
        let drop = |i: usize| drops[usize::from(i % shape.rotated() >= shape.query())];
        self.truncate(Truncation::Rotated, step, layer, &mut rotated, drop);
        let drop = public.mix_drop(layer);

        let (keys, values) = &mut self.caches[layer];
        keys.push(&shape, &columns(&rotated, shape.rotated(), shape.query()..shape.rotated()));
        values.push(&shape, &columns(&qkv, width, shape.rotated()..width));
        let mut scores = vec![0; step.scores(&shape)];
        let queries = columns(&rotated, shape.rotated(), 0..shape.query());
        add_scores(&*kernels, (&shape, step), &mut scores, &queries, keys);
        let mix = |probabilities: &[u64]| {
            let mut mixed = vec![0; step.tokens * shape.query()];
            add_mixed(&*kernels, (&shape, step), &mut mixed, probabilities, values);
            mixed
        };
        let mixed = if step.strict {
            let program = strict::program(self.model.public(), step, (Site::Softmax, layer), self.rows.alive());
            let mut clear = Clear::new(self.rounding.site_masks(Site::Softmax, step, layer).map(|masks| masks.0));
            program.run(&mut clear, scores, |_, wire| mix(&wire.open), |_| {})
        } else {
            self.rows.hide(&shape, step, &mut scores);
            let mut mixed = mix(&softmax_rows(&shape, step, &scores));
            self.truncate(Truncation::Mix, step, layer, &mut mixed, |_| drop);
            mixed
        };
        self.add_to_stream(stream, Matrix::O(layer), &mixed);
    }

    fn mlp(&self, step: &Step, layer: usize, stream: &mut [u64]) {
        let both = self.product(Matrix::GateUp(layer), &self.norm(step, (Site::MlpNorm, layer), stream));
        let both = halves(&both, 2 * self.shape.intermediate);
        let scales = &self.model.public().layers[layer];
        let bits = [scales.gate, scales.up].map(|bits| ACTIVATION_BITS + bits);
        let activated = match step.strict {
            true => self.strictly(step, (Site::Activation, layer), both),
            false => silu_product(&both, bits),
        };
        self.add_to_stream(stream, Matrix::Down(layer), &activated);
    }

    fn truncate(
        &self,
        truncation: Truncation,
        step: &Step,
        layer: usize,
        values: &mut [u64],
        drop: impl Fn(usize) -> u32,
    ) {
        let drops: Vec<u32> = (0..values.len()).map(drop).collect();
        let low_bits = self.rounding.low_bits(truncation, step, layer, &drops);
        for (i, (value, bits)) in values.iter_mut().zip(drops).enumerate() {
            // Half of what is dropped carries exactly when the rest is at least the other half.
            let low = low_bits.as_ref().map_or(1 << (bits - 1), |low| low[i]);
            *value = truncation::clear(*value, low, bits);
        }
    }

    /// A strictly evaluated site.
    fn strictly(&self, step: &Step, (site, layer): (Site, usize), input: Vec<u64>) -> Vec<u64> {
        let program = strict::program(self.model.public(), step, (site, layer), self.rows.alive());
        let mut clear = Clear::new(self.rounding.site_masks(site, step, layer).map(|masks| masks.0));
        program.run(&mut clear, input, |_, _| Vec::new(), |_| {})
    }

    fn norm(&self, step: &Step, site: (Site, usize), stream: &[u64]) -> Vec<u64> {
        if step.strict {
            return self.strictly(step, site, stream.to_vec());
        }
        let public = self.model.public();
        rms_norm(stream, self.shape.hidden, public.residual_bits(), public.config.rms_norm_eps)
    }

    fn product(&self, matrix: Matrix, input: &[u64]) -> Vec<u64> {
        let weights = self.model.matrix(matrix);
        product_i16(&*self.kernels, &weights.values, input, weights.cols)
    }

    fn add_to_stream(&self, stream: &mut [u64], matrix: Matrix, input: &[u64]) {
        add_shifted(stream, &self.product(matrix, input), self.model.public().shift(matrix));
    }
}

#[cfg(test)]
mod recovery;
#[cfg(any(test, feature = "replay"))]
mod replay;
