//! Ranges of encrypted rows as figures, to see what a prefix and a rotation change, and what that saves.

use super::extremes::{Extremes, LayerExtremes, Range, residual_index};
use super::{CalibrationEvent, Prompt, Run, check_lengths, prepared_prompts};
use crate::Error;
use crate::calibration::{Interval, LayerCalibration};
use crate::preparation::Preparation;
use undertone_model::Llama;
use undertone_model::reference::Block;

/// What encrypted rows of all prompts show, without margins.
#[derive(Debug, Clone, PartialEq)]
pub struct RangeReport {
    /// One entry per layer.
    pub layers: Vec<LayerRanges>,
    /// Mean square before the final norm.
    pub final_mean_square: Interval,
    /// Largest |residual stream| before the final norm.
    pub final_residual: f64,
    /// Largest |logit|.
    pub logits: f64,
}

/// The ranges of one layer; magnitudes are the largest ones.
#[derive(Debug, Clone, PartialEq)]
pub struct LayerRanges {
    /// Mean squares before attention and before the feed-forward network.
    pub mean_square: [Interval; 2],
    /// |Residual stream| at the same places.
    pub residual: [f64; 2],
    /// Scores of all heads.
    pub scores: Interval,
    /// |SiLU input|.
    pub gate: f64,
    /// |Value|, the output of v.
    pub value: f64,
    /// |Output of o|.
    pub attention_projected: f64,
    /// |Output of down|.
    pub mlp_projected: f64,
}

/// Levels that the polynomials of one layer take, one after the other.
///
/// Inverses of bootstrapped sums run beside the main track and are counted here all the same; where levels decide on
/// bootstraps, [`crate::Plan`] says how many there are.
pub fn polynomial_levels(layer: &LayerCalibration) -> usize {
    let depth = |degree: usize| (degree + 1).next_power_of_two().ilog2() as usize;
    let softmax = &layer.softmax;
    let inverses: usize = softmax.inverse_degree.iter().map(|&degree| depth(degree)).sum();
    depth(layer.attention_norm.degree)
        + depth(layer.mlp_norm.degree)
        + depth(layer.silu_degree)
        + depth(softmax.exp_degree)
        + 2 * softmax.rounds
        + inverses
        + 2 * softmax.newton_steps
}

/// Runs all prompts through a prepared model, as [`super::calibrate_prepared`] takes it, and reports what encrypted
/// rows show.
///
/// # Errors
/// `Calibration` for a prefix that does not suit the model, `CalibrationText` for unusable prompts, and model errors.
pub fn ranges(
    model: &Llama,
    prompts: &[Prompt],
    preparation: &Preparation,
    progress: &mut dyn FnMut(CalibrationEvent),
) -> Result<RangeReport, Error> {
    let prompts = prepared_prompts(prompts, preparation, &model.config)?;
    check_lengths(&prompts)?;
    let mut run = Run::new(model, &prompts, progress);
    let all = vec![true; prompts.len()];
    Ok(RangeReport::of(&run.pass("ranges", &all, || Extremes::new(&model.config))?))
}

impl RangeReport {
    fn of(seen: &Extremes) -> Self {
        let count = seen.layers.len();
        Self {
            layers: seen.layers.iter().enumerate().map(|(index, layer)| LayerRanges::of(index, layer, seen)).collect(),
            final_mean_square: interval(seen.final_square),
            final_residual: seen.residual[residual_index(count, Block::Attention)],
            logits: seen.logits,
        }
    }
}

impl LayerRanges {
    fn of(index: usize, layer: &LayerExtremes, seen: &Extremes) -> Self {
        let mut scores = Range::NONE;
        layer.scores.iter().for_each(|head| scores.merge(head.all));
        Self {
            mean_square: [interval(layer.attention_square), interval(layer.mlp_square)],
            residual: [Block::Attention, Block::Mlp].map(|block| seen.residual[residual_index(index, block)]),
            scores: interval(scores),
            gate: layer.gate,
            value: layer.value,
            attention_projected: layer.attention_projected,
            mlp_projected: layer.mlp_projected,
        }
    }
}

fn interval(range: Range) -> Interval {
    Interval { low: range.low, high: range.high }
}
