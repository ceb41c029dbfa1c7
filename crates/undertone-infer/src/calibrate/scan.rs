//! Third pass: repeats what an encrypted run computes, with its polynomials, and counts what leaves its range.

use super::Collector;
use super::extremes::{largest, largest_pair, residual_index};
use crate::approximation::{exponential_polynomial, inverse_polynomials};
use crate::calibration::{Calibration, Interval, SoftmaxCalibration};
use std::collections::BTreeMap;
use std::sync::Arc;
use undertone_he::circuits::Chebyshev;
use undertone_model::LlamaConfig;
use undertone_model::reference::{Block, Observer, Site, SiteShape};

/// Values of one operator that left their range.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Escape {
    /// The layer, or the number of layers for the final norm and the logits.
    pub layer: usize,
    /// Which range.
    pub operator: &'static str,
    /// Rows below the lower end.
    pub low: usize,
    /// Rows above the upper end.
    pub high: usize,
}

/// The softmax of one layer as polynomials.
#[derive(Debug)]
struct SoftmaxCircuit {
    exponential: Chebyshev,
    inverses: Vec<Chebyshev>,
}

/// What every prompt of a scan shares.
#[derive(Debug)]
struct Declared {
    calibration: Calibration,
    circuits: Vec<SoftmaxCircuit>,
    rms_norm_eps: f64,
    head_dim: usize,
    padded_columns: f64,
}

/// Counts of one or more prompts.
#[derive(Debug, Clone)]
pub(super) struct Scan {
    declared: Arc<Declared>,
    escapes: BTreeMap<(usize, &'static str), [usize; 2]>,
    /// Largest total variation between exact and approximated attention weights.
    softmax_error: f64,
}

impl Scan {
    pub(super) fn new(calibration: &Calibration, config: &LlamaConfig, padded_columns: f64) -> Self {
        let circuits = calibration
            .layers
            .iter()
            .map(|layer| SoftmaxCircuit {
                exponential: exponential_polynomial(&layer.softmax),
                inverses: inverse_polynomials(&layer.softmax),
            })
            .collect();
        let calibration = calibration.clone();
        let (rms_norm_eps, head_dim) = (config.rms_norm_eps, config.head_dim);
        let declared = Declared { calibration, circuits, rms_norm_eps, head_dim, padded_columns };
        Self { declared: Arc::new(declared), escapes: BTreeMap::new(), softmax_error: 0.0 }
    }

    pub(super) fn escape_count(&self) -> usize {
        self.escapes.values().flatten().sum()
    }

    /// All escapes and the largest error of attention weights.
    pub(super) fn report(self) -> (Vec<Escape>, f64) {
        let escapes = self.escapes.into_iter();
        let escapes = escapes.map(|((layer, operator), [low, high])| Escape { layer, operator, low, high });
        (escapes.collect(), self.softmax_error)
    }

    fn check(&mut self, layer: usize, operator: &'static str, value: f64, interval: Interval) {
        if !interval.contains(value) {
            // A value that is not a number counts as too large.
            let end = usize::from(value.is_nan() || value > interval.high);
            self.escapes.entry((layer, operator)).or_default()[end] += 1;
        }
    }

    fn check_bound(&mut self, layer: usize, operator: &'static str, magnitude: f64, bound: f64) {
        self.check(layer, operator, magnitude, Interval { low: 0.0, high: bound });
    }

    fn check_squares(&mut self, layer: usize, operator: &'static str, values: &[f32], interval: Interval) {
        for &square in values {
            self.check(layer, operator, f64::from(square) + self.declared.rms_norm_eps, interval);
        }
    }

    fn softmax(&mut self, layer: usize, head: usize, scores: &[f32]) {
        let declared = Arc::clone(&self.declared);
        let softmax = &declared.calibration.layers[layer].softmax;
        let circuit = &declared.circuits[layer];
        let span = softmax.half_span * (softmax.rounds as f64).exp2();
        let shift = softmax.shift[head];
        let u: Vec<f64> = scores.iter().map(|&s| (f64::from(s) - shift) / span + 1.0).collect();
        let unit = Interval { low: -1.0, high: 1.0 };
        for end in [u.iter().copied().fold(1.0, f64::min), u.iter().copied().fold(-1.0, f64::max)] {
            self.check(layer, "score", end, unit);
        }
        let start: Vec<f64> = u.iter().map(|&u| circuit.exponential.eval_unit(u)).collect();
        let masked = circuit.exponential.eval_unit(-1.0);
        for columns in [0.0, declared.padded_columns] {
            let weights = self.rounds(layer, (softmax, circuit), start.clone(), (columns, masked));
            let error = total_variation(scores, &weights);
            // Not a number counts as an error of 1.
            self.softmax_error = self.softmax_error.max(if error.is_finite() { error } else { 1.0 });
        }
    }

    /// The attention weights that the polynomials yield for the visible columns.
    fn rounds(
        &mut self,
        layer: usize,
        (softmax, circuit): (&SoftmaxCalibration, &SoftmaxCircuit),
        mut weights: Vec<f64>,
        (columns, mut masked): (f64, f64),
    ) -> Vec<f64> {
        for (round, (inverse, interval)) in circuit.inverses.iter().zip(&softmax.sums).enumerate() {
            weights.iter_mut().for_each(|y| *y *= *y);
            masked *= masked;
            let sum = weights.iter().sum::<f64>() + columns * masked;
            let operator = if round + 1 == softmax.rounds { "last softmax sum" } else { "early softmax sum" };
            self.check(layer, operator, sum, *interval);
            let mut factor = inverse.eval(sum);
            if round + 1 == softmax.rounds {
                for _ in 0..softmax.newton_steps {
                    factor *= 2.0 - sum * factor;
                }
            }
            weights.iter_mut().for_each(|y| *y *= factor);
            masked *= factor;
        }
        weights
    }
}

impl Observer for Scan {
    fn record(&mut self, layer: usize, site: Site, values: &[f32], shape: SiteShape) {
        let declared = Arc::clone(&self.declared);
        let all = &declared.calibration;
        match site {
            Site::Residual => {
                let bound = all.residual_bound[residual_index(layer, shape.block)];
                self.check_bound(layer, "residual stream", largest(values), bound);
            }
            Site::FinalMeanSquare => self.check_squares(layer, "final norm", values, all.final_norm),
            Site::Logits => self.check_bound(layer, "logit", largest(values), all.logit_bound),
            Site::Scores => self.softmax(layer, shape.head, values),
            _ => {
                // The final norm belongs to no layer.
                let Some(l) = all.layers.get(layer) else { return };
                let head_dim = declared.head_dim;
                match site {
                    Site::MeanSquare if shape.block == Block::Attention => {
                        self.check_squares(layer, "attention norm", values, l.attention_norm.mean_square);
                    }
                    Site::MeanSquare => {
                        self.check_squares(layer, "feed-forward norm", values, l.mlp_norm.mean_square);
                    }
                    Site::QueryRope => {
                        self.check_bound(layer, "query", largest_pair(values, head_dim), l.query_bound);
                    }
                    Site::KeyRope => {
                        self.check_bound(layer, "key", largest_pair(values, head_dim), l.key_bound);
                    }
                    Site::Value => self.check_bound(layer, "value", largest(values), l.value_bound),
                    Site::AttentionOut => {
                        self.check_bound(layer, "attention output", largest(values), l.attention_bound);
                    }
                    Site::Gate => self.check_bound(layer, "gate", largest(values), l.gate_bound),
                    Site::Up => self.check_bound(layer, "up", largest(values), l.up_bound),
                    Site::Product => self.check_bound(layer, "product", largest(values), l.product_bound),
                    _ => {}
                }
            }
        }
    }
}

impl Collector for Scan {
    fn merged(mut self, other: Self) -> Self {
        for (key, [low, high]) in other.escapes {
            let mine = self.escapes.entry(key).or_default();
            mine[0] += low;
            mine[1] += high;
        }
        self.softmax_error = self.softmax_error.max(other.softmax_error);
        self
    }
}

/// Half the sum of differences between softmax(scores) and `weights`.
fn total_variation(scores: &[f32], weights: &[f64]) -> f64 {
    let largest = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let exact: Vec<f64> = scores.iter().map(|&s| f64::from(s - largest).exp()).collect();
    let sum: f64 = exact.iter().sum();
    exact.iter().zip(weights).map(|(e, w)| (e / sum - w).abs()).sum::<f64>() / 2.0
}
