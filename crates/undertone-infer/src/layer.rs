//! What one layer computes, in numbers: fitted polynomials, scalings and levels, from calibration and layout.
//!
//! Everything here is public and is the same for the plan, the server and the client. Scalings follow one rule: a
//! value is stored divided by its calibrated bound, so that it may enter a bootstrap; the factors live in plaintext
//! matrices and in polynomials and cost no level.

use crate::Error;
use crate::approximation;
use crate::calibration::{Calibration, Interval, LayerCalibration, NormCalibration, degree_is_usable};
use crate::guard::CONTRIBUTION_LEVEL;
use crate::levels::{AttentionDepths, AttentionLevels, schedule};
use crate::packing::Layout;
use undertone_he::Chain;
use undertone_he::circuits::Chebyshev;
use undertone_model::LlamaConfig;

/// Precision of the final norm, above that of any bootstrap.
const FINAL_NORM_BITS: f64 = 18.0;

/// Levels of a spread with few diagonals, [`crate::program::Pass::spread_rows`].
pub(crate) const SPREAD: usize = 2;

/// Diagonals of all slots from which on a value is dense before it goes to its row: the spread has few, but rotates more.
const DENSE_DIAGONALS: usize = 256;

/// RMSNorm without its gain.
#[derive(Debug, Clone)]
pub(crate) struct NormPlan {
    /// bound / √(mean square + ε), in the affine image of the mean square.
    pub poly: Chebyshev,
    /// Factor on the stored activations whose squares then add up to the affine image, less `constant`.
    pub factor: f64,
    /// The constant of the affine image.
    pub constant: f64,
}

impl NormPlan {
    pub(crate) fn new(config: &LlamaConfig, norm: &NormCalibration, bound: f64, layer: usize) -> Result<Self, Error> {
        let Interval { low, high } = norm.mean_square;
        let usable = norm.mean_square.is_positive() && bound > 0.0 && bound.is_finite();
        if !usable || !degree_is_usable(norm.degree) {
            return Err(Error::CalibrationRange { what: "the mean square", layer });
        }
        let eps = config.rms_norm_eps;
        let poly = scaled(approximation::norm_polynomial(norm), bound);
        let factor = bound * (2.0 / (config.hidden_size as f64 * (high - low))).sqrt();
        // The calibrated interval is that of the mean square plus ε, and the squares do not hold ε.
        Ok(Self { poly, factor, constant: (2.0 * eps - high - low) / (high - low) })
    }

    /// Levels from the activations that enter to the normed ones.
    pub(crate) fn depth(&self) -> usize {
        2 + self.poly.cost().depth
    }
}

/// 1/Σ for one round of a softmax.
#[derive(Debug, Clone)]
pub(crate) struct InversePlan {
    /// The inverse, in the affine image of the sum.
    pub poly: Chebyshev,
    /// The affine image is factor · sum + constant.
    pub factor: f64,
    /// See `factor`.
    pub constant: f64,
}

/// The joint softmax over public and private keys.
#[derive(Debug, Clone)]
pub(crate) struct SoftmaxPlan {
    /// exp(half_span (u − 1)).
    pub exponential: Chebyshev,
    /// The inverse of every round.
    pub inverses: Vec<InversePlan>,
    /// Newton steps that refine the last inverse.
    pub newton_steps: usize,
    /// Per head, u − (scaled product of query and key).
    pub offsets: Vec<f64>,
    /// Takes the product of a stored query and a key to u.
    pub query_scale: f64,
    /// Takes the product of a stored query and a stored key to u.
    pub product_scale: f64,
    /// Parts of the head coordinates inside a block; see [`crate::lanes`].
    pub parts: usize,
    /// Level of the values that a block needs.
    pub block_value_level: usize,
    /// Levels inside a block.
    pub block: AttentionLevels,
    /// Level at which the keys of a block meet the queries: that of `block`, or one below it where a level takes them
    /// from the halves of a turn to the block frame.
    pub block_entry: usize,
    /// Levels for one token.
    pub token: AttentionLevels,
    /// Levels that take the query and the key of one token to the rows of a block: 2, or 1 where the second would cost
    /// a bootstrap.
    pub spread: usize,
}

impl SoftmaxPlan {
    /// Level of the keys that a token meets.
    pub(crate) fn cached_key_level(&self) -> usize {
        self.token.start - self.spread
    }
}

/// The feed-forward network.
#[derive(Debug, Clone)]
pub(crate) struct MlpPlan {
    /// silu(gate) · up bound / product bound, in gate / gate bound.
    pub silu: Chebyshev,
    /// Level of the activations that enter the norm.
    pub start: usize,
    /// Whether gate and up are bootstrapped.
    pub refresh: bool,
    /// Level of gate and up.
    pub gate_level: usize,
}

/// All numbers of one layer.
#[derive(Debug, Clone)]
pub(crate) struct LayerPlan {
    pub attention_norm: NormPlan,
    pub mlp_norm: NormPlan,
    pub softmax: SoftmaxPlan,
    pub mlp: MlpPlan,
    pub query_bound: f64,
    pub key_bound: f64,
    pub value_bound: f64,
    pub gate_bound: f64,
    pub up_bound: f64,
    pub product_bound: f64,
    /// Bounds of the residual stream before attention, before the feed-forward network and after the layer.
    pub residual: [f64; 3],
    /// Level of the activations that enter the attention norm.
    pub attention_start: usize,
    /// Whether values are bootstrapped with queries and keys.
    pub refresh_values: bool,
    /// Whether the value of a token is not bootstrapped and yet dense before it goes to its row.
    pub dense_values: bool,
    /// Level of the values that the caches and the block hold.
    pub value_level: usize,
}

impl LayerPlan {
    /// Derives layer `layer`.
    ///
    /// # Errors
    /// Unusable ranges, and circuits that do not fit between two bootstraps.
    pub(crate) fn new(
        config: &LlamaConfig,
        calibration: &Calibration,
        layout: &Layout,
        chain: Chain,
        layer: usize,
    ) -> Result<Self, Error> {
        let c = &calibration.layers[layer];
        let points = &calibration.residual_bound[2 * layer..2 * layer + 3];
        let residual = [points[0], points[1], points[2]];
        let bounds = [c.query_bound, c.key_bound, c.value_bound, c.gate_bound, c.up_bound, c.product_bound];
        if bounds.iter().chain(&residual).any(|b| !(b.is_finite() && *b > 0.0)) {
            return Err(Error::CalibrationRange { what: "an activation", layer });
        }
        let attention_norm = NormPlan::new(config, &c.attention_norm, residual[0], layer)?;
        let mlp_norm = NormPlan::new(config, &c.mlp_norm, residual[1], layer)?;
        let softmax = softmax_plan(config, c, layout, chain, layer)?;
        let mlp = mlp_plan(c, &mlp_norm, chain, layer)?;

        let value_level = softmax.block_value_level.max(softmax.token.last_square);
        let start = |values| (chain.boot_level + 1).max(values) + attention_norm.depth();
        // Where levels are left and diagonals many, the value of a token is dense first.
        let dense = start((value_level + 1).max(softmax.token.last_square + SPREAD + 1));
        let diagonals = layout.head_count * layout.hidden.next_power_of_two();
        let dense_values = dense < chain.top_level && diagonals >= DENSE_DIAGONALS;
        let full = if dense_values { dense } else { start(value_level + 1) };
        // The norm folds its scaling into a drop of at least one level.
        let refresh_values = full >= chain.top_level;
        let attention_start = if refresh_values { chain.boot_level + 1 + attention_norm.depth() } else { full };
        if attention_start >= chain.top_level {
            let (have, need) = (chain.top_level - 1 - chain.boot_level, attention_start - chain.boot_level);
            return Err(Error::Depth { what: "the attention norm", layer, have, need });
        }
        Ok(Self {
            attention_norm,
            mlp_norm,
            softmax,
            mlp,
            query_bound: c.query_bound,
            key_bound: c.key_bound,
            value_bound: c.value_bound,
            gate_bound: c.gate_bound,
            up_bound: c.up_bound,
            product_bound: c.product_bound,
            residual,
            attention_start,
            refresh_values,
            dense_values,
            value_level,
        })
    }
}

/// The numbers of the final norm and the head.
#[derive(Debug, Clone)]
pub(crate) struct HeadPlan {
    pub norm: NormPlan,
    pub logit_bound: f64,
    /// Level of the logits.
    pub out_level: usize,
}

impl HeadPlan {
    pub(crate) fn new(config: &LlamaConfig, calibration: &Calibration, chain: Chain) -> Result<Self, Error> {
        let layer = config.num_hidden_layers;
        let bound = calibration.residual_bound[2 * layer];
        // Calibration states no degree, because the head has levels to spare.
        let interval = calibration.final_norm;
        let norm = NormCalibration { mean_square: interval, degree: final_norm_degree(interval, layer)? };
        if !(calibration.logit_bound.is_finite() && calibration.logit_bound > 0.0) {
            return Err(Error::CalibrationRange { what: "the logits", layer });
        }
        let norm = NormPlan::new(config, &norm, bound, layer)?;
        let head = Self { norm, logit_bound: calibration.logit_bound, out_level: 1 };
        if head.start() >= chain.top_level {
            let (have, need) = (chain.top_level - 1 - chain.boot_level, head.start() - chain.boot_level);
            return Err(Error::Depth { what: "the final norm", layer, have, need });
        }
        Ok(head)
    }

    /// Level of the activations that enter the norm: enough for the head below it, and for the guard, whose basis
    /// element is at least two levels above the normed activations.
    pub(crate) fn start(&self) -> usize {
        (self.out_level + 1 + self.norm.depth()).max(CONTRIBUTION_LEVEL - 2 + self.norm.depth())
    }
}

/// The degree of the final norm, whose interval is `interval` in a model of `layers` layers.
///
/// # Errors
/// `CalibrationRange` for an unusable interval, `RangeTooWide` when no degree suffices.
pub(crate) fn final_norm_degree(interval: Interval, layers: usize) -> Result<usize, Error> {
    let what = "the final norm";
    if !interval.is_positive() {
        return Err(Error::CalibrationRange { what, layer: layers });
    }
    let fitted = approximation::degree_for(FINAL_NORM_BITS, |d| approximation::inverse_square_root(interval, d));
    let too_wide = Error::RangeTooWide { what, layer: layers, target_bits: FINAL_NORM_BITS };
    Ok(fitted.ok_or(too_wide)?.0)
}

fn softmax_plan(
    config: &LlamaConfig,
    c: &LayerCalibration,
    layout: &Layout,
    chain: Chain,
    layer: usize,
) -> Result<SoftmaxPlan, Error> {
    let s = &c.softmax;
    let need = s.rounds;
    for (what, have) in [("softmax sums", s.sums.len()), ("inverse degrees", s.inverse_degree.len())] {
        if have != need || need == 0 {
            return Err(Error::Calibration { what, have, need: need.max(1) });
        }
    }
    if s.shift.len() != config.num_attention_heads {
        let need = config.num_attention_heads;
        return Err(Error::Calibration { what: "score shifts", have: s.shift.len(), need });
    }
    let sums_usable = s.sums.iter().all(Interval::is_positive);
    let degrees_usable = s.inverse_degree.iter().chain([&s.exp_degree]).all(|&d| degree_is_usable(d));
    let spans_usable = s.half_span > 0.0 && s.half_span.is_finite() && s.shift.iter().all(|x| x.is_finite());
    if !(sums_usable && degrees_usable && spans_usable) {
        return Err(Error::CalibrationRange { what: "the softmax", layer });
    }
    // u = score / (2^rounds half) − shift / (2^rounds half) + 1.
    let span = s.half_span * (s.rounds as f64).exp2();
    let query_scale = c.query_bound / ((config.head_dim as f64).sqrt() * span);
    let exponential = approximation::exponential_polynomial(s);
    let inverses: Vec<InversePlan> = s
        .sums
        .iter()
        .zip(approximation::inverse_polynomials(s))
        .map(|(sum, poly)| InversePlan {
            poly,
            factor: 2.0 / (sum.high - sum.low),
            constant: -(sum.high + sum.low) / (sum.high - sum.low),
        })
        .collect();
    let inverse_depths: Vec<usize> = inverses.iter().map(|i| i.poly.cost().depth).collect();
    let depths = |scores, values, extra| AttentionDepths {
        scores,
        exponential: exponential.cost().depth,
        direct: inverse_depths.iter().map(|d| 1 + d).collect(),
        bootstrapped: inverse_depths.iter().map(|d| d + extra).collect(),
        values,
        newton_steps: s.newton_steps,
        newton_detour: 2 * extra,
    };
    let too_deep = |d: AttentionDepths| Error::Depth {
        what: "attention",
        layer,
        have: chain.top_level - chain.boot_level,
        need: d.scores + d.exponential + 2 * s.rounds + 1 + d.values,
    };
    // A shear takes a level, which must not cost a bootstrap.
    let lanes = usize::from(layout.lanes > 1);
    let exchange = usize::from(chain.product_prime.is_some());
    let scores = 2 + lanes + exchange;
    let plain = schedule(chain, &depths(scores, 2, 0)).ok_or_else(|| too_deep(depths(scores, 2, 0)))?;
    let sheared = (layout.parts > 1).then(|| schedule(chain, &depths(scores + 1, 2, 0))).flatten();
    let (parts, block) = match sheared {
        Some(sheared) if sheared.bootstraps() <= plain.bootstraps() => (layout.parts, sheared),
        _ => (1, plain),
    };
    // One more level spreads the inverse from one slot per head to all slots of the head.
    let token = |spread: usize| schedule(chain, &depths(1 + spread, 1, 1));
    let direct = token(1).ok_or_else(|| too_deep(depths(2, 1, 1)))?;
    let (spread, token) = match token(SPREAD) {
        Some(two) if two.bootstraps() <= direct.bootstraps() => (SPREAD, two),
        _ => (1, direct),
    };
    Ok(SoftmaxPlan {
        parts,
        // Values meet the masked weights one level below the squares.
        block_value_level: block.last_square - 1 + lanes + usize::from(parts > 1),
        block_entry: block.start - exchange,
        block,
        token,
        spread,
        exponential,
        inverses,
        newton_steps: s.newton_steps,
        offsets: s.shift.iter().map(|shift| 1.0 - shift / span).collect(),
        query_scale,
        product_scale: query_scale * c.key_bound,
    })
}

fn mlp_plan(c: &LayerCalibration, norm: &NormPlan, chain: Chain, layer: usize) -> Result<MlpPlan, Error> {
    if !degree_is_usable(c.silu_degree) {
        return Err(Error::CalibrationRange { what: "the activation function", layer });
    }
    // SiLU(x) is x/2 plus an even function.
    let mut silu = approximation::silu_polynomial(c);
    if silu.coefficients.len() < 2 {
        silu.coefficients.resize(2, 0.0);
    }
    silu.coefficients[1] += c.gate_bound / 2.0;
    let silu = scaled(silu, c.up_bound / c.product_bound);
    // Activation, product with up, down projection.
    let gate_level = chain.boot_level + silu.cost().depth + 2;
    let start = gate_level + 1 + norm.depth();
    let refresh = start >= chain.top_level;
    let start = if refresh { chain.boot_level + 1 + norm.depth() } else { start };
    if start >= chain.top_level || gate_level > chain.top_level {
        let (have, need) = (chain.top_level - chain.boot_level, gate_level.max(start + 1) - chain.boot_level);
        return Err(Error::Depth { what: "the feed-forward network", layer, have, need });
    }
    Ok(MlpPlan { silu, start, refresh, gate_level })
}

fn scaled(mut poly: Chebyshev, factor: f64) -> Chebyshev {
    for c in &mut poly.coefficients {
        *c *= factor;
    }
    poly
}
