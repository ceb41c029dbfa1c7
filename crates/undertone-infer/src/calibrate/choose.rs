//! From what was seen to what is declared: margins, intervals, rounds and degrees.

use super::CalibrationOptions;
use super::extremes::{Extremes, LayerExtremes, Range};
use super::sums::{RoundRanges, Spans, Sums};
use crate::Error;
use crate::approximation::{Fit, degree_for, exponential, inverse, inverse_square_root, silu_even};
use crate::calibration::{
    Calibration, Interval, LayerCalibration, MAX_NEWTON_STEPS, MAX_ROUNDS, NormCalibration, SoftmaxCalibration,
};
use crate::layer::final_norm_degree;
use crate::preparation::Preparation;
use undertone_model::LlamaConfig;

/// Bits of every inverse but the last: their errors cancel, only the range of the next sum depends on them.
const EARLY_BITS: f64 = 5.0;
/// Least slack above the largest score and below the least, in units of the score.
const LEAST_SLACK: f64 = 1.0;
/// Shortest block of private tokens, which has the most padded columns.
const SHORTEST_BLOCK: usize = 16;
/// A mean square below its interval is not noticed as surely as one above; that end gets one more power of the margin.
const SQUARE_MARGINS: (i32, i32) = (3, 2);
/// Floor of every bound, for activations that are zero throughout.
const LEAST_BOUND: f64 = 1e-6;

/// Limits of a choice of rounds, tried in turn: half-span, degree of the exponential, degree of an inverse.
const LIMITS: [(f64, usize, usize); 2] = [(8.0, 31, 63), (12.0, 63, 127)];

/// Options and dimensions that all choices depend on.
pub(super) struct Chooser {
    options: CalibrationOptions,
    rms_norm_eps: f64,
    longest_context: usize,
    /// Most masked columns that a softmax sums over.
    pub(super) padded_columns: f64,
}

impl Chooser {
    pub(super) fn new(config: &LlamaConfig, options: CalibrationOptions, longest_public: usize) -> Self {
        // Score ciphertexts hold slot_count/(T·H_p) columns, the last one partly empty; blocks have 128 rows at most.
        let heads = config.num_attention_heads.next_power_of_two();
        let padding = options.slot_count / (SHORTEST_BLOCK * heads);
        let padded = padding.max(longest_public) + 2 * super::MAX_PRIVATE;
        let longest_context = config.max_position_embeddings + padded;
        Self { options, rms_norm_eps: config.rms_norm_eps, longest_context, padded_columns: padded as f64 }
    }

    /// Multiplies the margin.
    pub(super) fn widen(&mut self, factor: f64) {
        self.options.margin *= factor;
    }

    /// The affine maps of the scores of all layers.
    pub(super) fn spans(&self, extremes: &Extremes) -> Vec<Spans> {
        extremes.layers.iter().map(|layer| self.layer_spans(layer)).collect()
    }

    fn layer_spans(&self, layer: &LayerExtremes) -> Spans {
        let excess = self.options.margin - 1.0;
        // Masked columns must not weigh, whatever the largest score of the row.
        let silence = self.padded_columns.ln() + self.options.target_bits * std::f64::consts::LN_2;
        let mut spans = Spans { shift: Vec::new(), span: 0.0, row_drop: 0.0 };
        for head in &layer.scores {
            let spread = head.all.high - head.row_maximum.low;
            let slack = (excess * spread).max(LEAST_SLACK);
            let shift = head.all.high + slack;
            let row_drop = shift - head.row_maximum.low + slack;
            let low = head.all.low - (excess * (head.all.high - head.all.low)).max(LEAST_SLACK);
            spans.shift.push(shift);
            spans.row_drop = spans.row_drop.max(row_drop);
            spans.span = spans.span.max(shift - low).max(row_drop + silence);
        }
        spans
    }

    /// Everything that a calibration declares; provenance is left to the caller.
    pub(super) fn choose(&self, extremes: &Extremes, spans: &[Spans], sums: &Sums<'_>) -> Result<Calibration, Error> {
        let layers = extremes.layers.iter().zip(spans).zip(&sums.logarithms).enumerate();
        let layers = layers
            .map(|(index, ((layer, spans), sums))| self.layer(index, layer, spans, sums))
            .collect::<Result<Vec<_>, Error>>()?;
        // The head fits its own degree to this interval, to more bits; better to know now whether it can.
        let final_norm = self.mean_square(extremes.final_square);
        final_norm_degree(final_norm, layers.len())?;
        Ok(Calibration {
            version: 0,
            model_fingerprint: String::new(),
            corpus_hash: String::new(),
            prompts: 0,
            tokens: 0,
            held_out_escapes: 0,
            first_scan_escapes: None,
            margin: self.options.margin,
            preparation: Preparation::default(),
            residual_bound: extremes.residual.iter().map(|&bound| self.bound(bound)).collect(),
            layers,
            final_norm,
            logit_bound: self.bound(extremes.logits),
        })
    }

    fn layer(
        &self,
        index: usize,
        seen: &LayerExtremes,
        spans: &Spans,
        sums: &RoundRanges,
    ) -> Result<LayerCalibration, Error> {
        let softmax = self.softmax(index, spans, sums)?;
        // Before the last division the output is larger by the sum, which exceeds 1 only with a single round.
        let last_sum = softmax.sums.last().map_or(1.0, |sum| sum.high.max(1.0));
        let (gate, up, product) = (self.bound(seen.gate), self.bound(seen.up), self.bound(seen.product));
        // An error of SiLU is multiplied by up; relative to the product it should be 2^-bits.
        let tolerance = (product / up).min(gate).log2();
        let fit = |degree| silu_even(gate, degree);
        let silu_degree = self.degree("the gate", index, self.options.target_bits - tolerance, 127, fit)?.0;
        Ok(LayerCalibration {
            attention_norm: self.norm("the attention norm", index, seen.attention_square)?,
            mlp_norm: self.norm("the feed-forward norm", index, seen.mlp_square)?,
            query_bound: self.bound(seen.query),
            key_bound: self.bound(seen.key),
            value_bound: self.bound(seen.value),
            attention_bound: self.bound(seen.attention) * last_sum,
            softmax,
            gate_bound: gate,
            up_bound: up,
            silu_degree,
            product_bound: product,
        })
    }

    fn bound(&self, seen: f64) -> f64 {
        (seen * self.options.margin).max(LEAST_BOUND)
    }

    /// The interval of a mean square plus ε.
    fn mean_square(&self, seen: Range) -> Interval {
        let (below, above) = SQUARE_MARGINS;
        let margin = self.options.margin.max(1.001);
        // ε is added before the root and never moves, so it is not subject to the margin.
        let low = seen.low.max(0.0) / margin.powi(below) + self.rms_norm_eps;
        let high = seen.high.max(0.0) * margin.powi(above) + self.rms_norm_eps;
        Interval { low, high: high.max(low * margin) }
    }

    fn norm(&self, what: &'static str, layer: usize, seen: Range) -> Result<NormCalibration, Error> {
        let mean_square = self.mean_square(seen);
        let bits = self.options.target_bits;
        let (degree, _) = self.degree(what, layer, bits, 127, |d| inverse_square_root(mean_square, d))?;
        Ok(NormCalibration { mean_square, degree })
    }

    fn degree(
        &self,
        what: &'static str,
        layer: usize,
        bits: f64,
        limit: usize,
        fit: impl Fn(usize) -> Fit,
    ) -> Result<(usize, Fit), Error> {
        let target_bits = self.options.target_bits;
        let found = degree_for(bits, fit).filter(|(degree, _)| *degree <= limit);
        found.ok_or(Error::RangeTooWide { what, layer, target_bits })
    }

    /// The fewest rounds within the first limits that allow any.
    fn softmax(&self, layer: usize, spans: &Spans, sums: &RoundRanges) -> Result<SoftmaxCalibration, Error> {
        for limits in LIMITS {
            for rounds in 1..=MAX_ROUNDS {
                if let Some(choice) = self.rounds(rounds, spans, &sums[rounds - 1], limits) {
                    return Ok(choice);
                }
            }
        }
        Err(Error::RangeTooWide { what: "the scores", layer, target_bits: self.options.target_bits })
    }

    fn rounds(
        &self,
        rounds: usize,
        spans: &Spans,
        logarithms: &[Range; MAX_ROUNDS],
        (half_limit, exp_limit, inverse_limit): (f64, usize, usize),
    ) -> Option<SoftmaxCalibration> {
        let division = (rounds as f64).exp2();
        let half_span = spans.span / (2.0 * division);
        if half_span > half_limit {
            return None;
        }
        // A relative error of the largest y_0 of a row grows by 2^rounds; that y_0 is at least exp(−row_drop/2^rounds).
        let exp_bits = self.options.target_bits + rounds as f64 + spans.row_drop / division / std::f64::consts::LN_2;
        let (exp_degree, _) = degree_for(exp_bits, |degree| exponential(half_span, degree))?;
        if exp_degree > exp_limit {
            return None;
        }
        let mut choice = SoftmaxCalibration {
            rounds,
            shift: spans.shift.clone(),
            half_span,
            exp_degree,
            sums: Vec::new(),
            inverse_degree: Vec::new(),
            newton_steps: 0,
        };
        let mut error = None;
        for (round, seen) in (1..=rounds).zip(logarithms) {
            let interval = self.sum_interval(*seen, error);
            let usable = |bits| {
                degree_for(bits, |degree| inverse(interval, degree)).filter(|(degree, _)| *degree <= inverse_limit)
            };
            let (degree, fit) = if round == rounds {
                let (steps, found) = self.last_inverse(usable)?;
                choice.newton_steps = steps;
                found
            } else {
                usable(EARLY_BITS)?
            };
            choice.sums.push(interval);
            choice.inverse_degree.push(degree);
            error = Some(fit.error);
        }
        Some(choice)
    }

    /// The last inverse with the fewest Newton steps that reach the target: each step squares the relative error.
    fn last_inverse(&self, usable: impl Fn(f64) -> Option<(usize, Fit)>) -> Option<(usize, (usize, Fit))> {
        (0..=MAX_NEWTON_STEPS).find_map(|steps| {
            let bits = (self.options.target_bits / (steps as f64).exp2()).max(EARLY_BITS);
            usable(bits).map(|found| (steps, found))
        })
    }

    /// The interval of a sum whose logarithm was seen in `seen`.
    ///
    /// `error` is that of the inverse before it: Σ y = 1 ± error then, and with no y negative the sum of squares lies
    /// between (1 − error)²/columns and (1 + error)² whatever the scores are.
    fn sum_interval(&self, seen: Range, error: Option<f64>) -> Interval {
        let margin = self.options.margin.max(1.001);
        let slack = margin.ln() + (margin - 1.0) / 2.0 * (seen.high - seen.low);
        let (mut low, mut high) = ((seen.low - slack).exp(), (seen.high + slack).exp());
        if let Some(error) = error {
            // A little more than the bound, for the noise of encryption.
            low = low.max((1.0 - error).powi(2) / self.longest_context as f64 / margin);
            high = high.min((1.0 + error).powi(2) * 1.02);
        }
        Interval { low: low.min(high / margin), high }
    }
}
