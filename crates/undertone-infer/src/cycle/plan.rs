//! Scales of a layer in turns: the residual stream never meets a bootstrap, so it keeps one unit from layer to layer.
//!
//! What attention and the feed-forward network add to it does: each change is divided by a bound of its own, a power
//! of two times the unit, and multiplied back after its bootstrap, which costs no level. The bound follows from those
//! of the stream before and after, as calibration knows nothing nearer: a change far smaller than the stream loses
//! as many bits to the noise of its bootstrap.

use super::halves::Halves;
use crate::Error;
use crate::calibration::{Calibration, NormCalibration};
use crate::layer::{LayerPlan, NormPlan};
use crate::packing::Layout;
use undertone_he::Chain;
use undertone_model::LlamaConfig;

/// log2 of the largest change over the unit: what one multiplication by an integer may undo.
const MAX_CHANGE_LOG2: u32 = 10;

/// RMSNorm whose result enters a turn.
#[derive(Debug, Clone)]
pub(crate) struct TurnNorm {
    pub norm: NormPlan,
    /// The largest normed activation: the result is divided by it.
    pub bound: f64,
    /// Level at which the squares are taken.
    pub start: usize,
}

/// What one layer adds to the stream: the change is divided by unit · 2^log2.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct ChangePlan {
    pub log2: u32,
    /// unit · 2^log2.
    pub bound: f64,
}

/// All scales of one layer in turns that the layer's own plan does not hold.
#[derive(Debug, Clone)]
pub(crate) struct TurnPlan {
    pub attention_norm: TurnNorm,
    pub mlp_norm: TurnNorm,
    pub attention: ChangePlan,
    pub mlp: ChangePlan,
    /// Level of gate and up.
    pub gate_level: usize,
}

/// The scales of all layers.
#[derive(Debug, Clone)]
pub(crate) struct CyclePlan {
    /// Activations of the residual stream are divided by this.
    pub unit: f64,
    pub layers: Vec<TurnPlan>,
}

impl CyclePlan {
    /// Derives all scales.
    ///
    /// # Errors
    /// `Shape` when the heads do not fill values, `CalibrationRange` for unusable ranges, `Depth` when a turn is deeper
    /// than the chain.
    pub(crate) fn new(
        config: &LlamaConfig,
        calibration: &Calibration,
        layout: &Layout,
        layers: &[LayerPlan],
        chain: Chain,
    ) -> Result<Self, Error> {
        Halves::require(layout)?;
        let residual = &calibration.residual_bound;
        // What takes the stream from within one bound to within the next.
        let changes: Vec<f64> = residual.windows(2).map(|pair| pair[0] + pair[1]).collect();
        let unit = changes.iter().fold(f64::INFINITY, |least, &change| least.min(change));
        let change = |index: usize| {
            let log2 = (changes[index] / unit).log2().ceil().max(0.0) as u32;
            if log2 > MAX_CHANGE_LOG2 {
                return Err(Error::CalibrationRange { what: "the residual stream", layer: index / 2 });
            }
            Ok(ChangePlan { log2, bound: unit * f64::from(log2).exp2() })
        };
        let turn = |(layer, plan): (usize, &LayerPlan)| {
            let c = &calibration.layers[layer];
            let norm = |calibrated, index| TurnNorm::new(config, calibrated, unit, residual[index], layer, chain);
            // Activation and product with up; the projection is in the turn.
            let gate_level = chain.boot_level + plan.mlp.silu.cost().depth + 1;
            require("the feed-forward network", layer, gate_level, chain)?;
            Ok(TurnPlan {
                attention_norm: norm(&c.attention_norm, 2 * layer)?,
                mlp_norm: norm(&c.mlp_norm, 2 * layer + 1)?,
                attention: change(2 * layer)?,
                mlp: change(2 * layer + 1)?,
                gate_level,
            })
        };
        Ok(Self { unit, layers: layers.iter().enumerate().map(turn).collect::<Result<_, Error>>()? })
    }
}

impl TurnNorm {
    fn new(
        config: &LlamaConfig,
        calibrated: &NormCalibration,
        unit: f64,
        largest: f64,
        layer: usize,
        chain: Chain,
    ) -> Result<Self, Error> {
        let mut norm = NormPlan::new(config, calibrated, unit, layer)?;
        // No activation exceeds √D times the root of the mean square.
        let bound = (largest / calibrated.mean_square.low.sqrt()).min((config.hidden_size as f64).sqrt());
        norm.poly.coefficients.iter_mut().for_each(|c| *c /= bound);
        let start = chain.boot_level + norm.depth();
        require("a norm", layer, start + 1, chain)?;
        Ok(Self { norm, bound, start })
    }
}

fn require(what: &'static str, layer: usize, level: usize, chain: Chain) -> Result<(), Error> {
    if level <= chain.top_level {
        return Ok(());
    }
    let (have, need) = (chain.top_level - chain.boot_level, level - chain.boot_level);
    Err(Error::Depth { what, layer, have, need })
}
