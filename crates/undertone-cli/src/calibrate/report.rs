//! Ranges and degrees before and after a prefix and a rotation, as a table and as JSON.

use crate::error::Error;
use serde_json::{Value, json};
use undertone_he::{CostEvaluator, Parameters, bootstrap_model};
use undertone_infer::calibrate::{LayerRanges, RangeReport, polynomial_levels};
use undertone_infer::{Calibration, Interval, LayerCalibration, Plan, Preparation, Shape};
use undertone_model::LlamaConfig;

/// The session whose bootstraps are counted, where the context has room for it.
const SHAPE: Shape = Shape { public_tokens: 256, private_tokens: 64, max_new_tokens: 1 };

/// One side of the comparison.
pub struct Side {
    ranges: RangeReport,
    /// The reason when no polynomials cover the ranges.
    calibration: Result<Calibration, String>,
    bootstraps: Option<u64>,
}

impl Side {
    /// Takes what was measured, and counts the bootstraps of a prefill of 256 public and 64 private tokens.
    pub fn new(ranges: RangeReport, calibration: Result<&Calibration, &Error>, config: &LlamaConfig) -> Self {
        let calibration = calibration.cloned().map_err(|error| error.to_string());
        let bootstraps = calibration.as_ref().ok().and_then(|calibration| {
            let room = config.max_position_embeddings.saturating_sub(SHAPE.private_tokens + 1);
            let shape = Shape { public_tokens: SHAPE.public_tokens.min(room), ..SHAPE };
            let parameters = Parameters::default_preset();
            let ev = CostEvaluator::new(parameters.chain()).with_bootstrap_model(bootstrap_model(&parameters));
            // A shape that does not fit has no figure; the verb `plan` says why.
            let plan = Plan::new(config, Some(calibration), shape, &ev).ok()?;
            Some(plan.steps.iter().map(|step| step.counts.bootstraps).sum())
        });
        Self { ranges, calibration, bootstraps }
    }

    fn layer(&self, index: usize) -> Option<&LayerCalibration> {
        self.calibration.as_ref().ok().and_then(|calibration| calibration.layers.get(index))
    }

    fn levels(&self) -> Option<usize> {
        self.calibration.as_ref().ok().map(|calibration| calibration.layers.iter().map(polynomial_levels).sum())
    }

    /// Everything as JSON.
    pub fn object(&self) -> Value {
        let layers = self.ranges.layers.iter().enumerate().map(|(index, ranges)| {
            let [attention, mlp] = ranges.mean_square.map(ends);
            json!({
                "attention_mean_square": attention,
                "mlp_mean_square": mlp,
                "residual": ranges.residual,
                "scores": ends(ranges.scores),
                "silu_input": ranges.gate,
                "value": ranges.value,
                "o_out": ranges.attention_projected,
                "down_out": ranges.mlp_projected,
                "degrees": self.layer(index).map(degrees),
                "polynomial_levels": self.layer(index).map(polynomial_levels),
            })
        });
        json!({
            "layers": layers.collect::<Vec<_>>(),
            "final_mean_square": ends(self.ranges.final_mean_square),
            "final_residual": self.ranges.final_residual,
            "logits": self.ranges.logits,
            "polynomial_levels": self.levels(),
            "bootstraps": self.bootstraps,
            "refused": self.calibration.as_ref().err(),
        })
    }
}

fn ends(interval: Interval) -> [f64; 2] {
    [interval.low, interval.high]
}

fn degrees(layer: &LayerCalibration) -> Value {
    json!({
        "attention_norm": layer.attention_norm.degree,
        "mlp_norm": layer.mlp_norm.degree,
        "silu": layer.silu_degree,
        "exponential": layer.softmax.exp_degree,
        "rounds": layer.softmax.rounds,
        "inverses": layer.softmax.inverse_degree,
        "newton_steps": layer.softmax.newton_steps,
    })
}

/// The table: one line per quantity, one column per side.
pub fn table(preparation: &Preparation, sides: &[Side]) -> String {
    let mut lines = vec![heading(preparation, sides.len())];
    let layers = sides.first().map_or(0, |side| side.ranges.layers.len());
    for index in 0..layers {
        for (name, cell) in LAYER_ROWS {
            row(&mut lines, &format!("layer {index} {name}"), sides, |side| cell(&side.ranges.layers[index]));
        }
        row(&mut lines, &format!("layer {index} degrees"), sides, |side| {
            side.layer(index).map_or_else(|| "-".to_owned(), degree_text)
        });
    }
    row(&mut lines, "final mean square", sides, |side| span(side.ranges.final_mean_square));
    row(&mut lines, "final residual", sides, |side| number(side.ranges.final_residual));
    row(&mut lines, "logits", sides, |side| number(side.ranges.logits));
    let count = |value: Option<u64>| value.map_or_else(|| "-".to_owned(), |value| value.to_string());
    row(&mut lines, "levels of all polynomials", sides, |side| count(side.levels().map(|levels| levels as u64)));
    row(&mut lines, "bootstraps of a prefill", sides, |side| count(side.bootstraps));
    for (side, when) in sides.iter().zip(["before", "after"]) {
        lines.extend(side.calibration.as_ref().err().map(|reason| format!("{when}: {reason}")));
    }
    lines.join("\n")
}

type Cell = fn(&LayerRanges) -> String;

const LAYER_ROWS: [(&str, Cell); 9] = [
    ("mean square at attention", |l| span(l.mean_square[0])),
    ("mean square at the FFN", |l| span(l.mean_square[1])),
    ("residual at attention", |l| number(l.residual[0])),
    ("residual at the FFN", |l| number(l.residual[1])),
    ("scores", |l| span(l.scores)),
    ("SiLU input", |l| number(l.gate)),
    ("v out", |l| number(l.value)),
    ("o out", |l| number(l.attention_projected)),
    ("down out", |l| number(l.mlp_projected)),
];

fn heading(preparation: &Preparation, sides: usize) -> String {
    let rotation = preparation.rotation_seed.map_or_else(|| "none".to_owned(), |seed| format!("seed {seed}"));
    let prefix = format!("prefix {:?}, rotation {rotation}", preparation.prefix);
    match sides {
        1 => format!("{:<32} {:>24}", "", "as it is"),
        _ => format!("{:<32} {:>24} {:>24}   ({prefix})", "", "before", "after"),
    }
}

fn row(lines: &mut Vec<String>, name: &str, sides: &[Side], cell: impl Fn(&Side) -> String) {
    let cells: String = sides.iter().map(|side| format!(" {:>24}", cell(side))).collect();
    lines.push(format!("{name:<32}{cells}"));
}

fn degree_text(layer: &LayerCalibration) -> String {
    let softmax = &layer.softmax;
    let inverses: Vec<String> = softmax.inverse_degree.iter().map(usize::to_string).collect();
    format!(
        "{}/{} {} {}^{} {}",
        layer.attention_norm.degree,
        layer.mlp_norm.degree,
        layer.silu_degree,
        softmax.exp_degree,
        softmax.rounds,
        inverses.join(",")
    )
}

fn span(interval: Interval) -> String {
    format!("{}..{}", number(interval.low), number(interval.high))
}

/// Three significant digits.
fn number(value: f64) -> String {
    let places = (2 - value.abs().max(1e-9).log10().floor() as i32).clamp(0, 6);
    format!("{value:.*}", places as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_three_digits() {
        assert_eq!([2243.97, 7.654, 0.01234, -39.24, 0.0].map(number), ["2244", "7.65", "0.0123", "-39.2", "0.000000"]);
    }
}
