//! Rotary position embedding: its parameters and its angles.
//!
//! Source: Su et al., RoFormer (arXiv 2104.09864), with the interpolation "linear" of Chen et al. (arXiv 2306.15595)
//! and the wavelength-dependent interpolation of Llama 3.1. The pairing of coordinates is "rotate half": coordinate
//! `i` turns with coordinate `i + d/2`.
//!
//! Angles are rounded to f32 in the order in which transformers rounds them (frequency, then product with the
//! position), because at position 10^4 one unit in the last place of an angle is already 10^-3.

use crate::config::LlamaConfig;
use crate::error::{Error, Result};

/// The rotary embedding of a model.
#[derive(Debug, Clone, PartialEq)]
pub struct RopeScaling {
    /// The base θ of the geometric series of frequencies.
    pub theta: f64,
    /// How the frequencies are stretched for long contexts.
    pub kind: RopeKind,
}

/// How the frequencies of a rotary embedding are stretched.
#[derive(Debug, Clone, PartialEq)]
pub enum RopeKind {
    /// θ^(−2i/d), unchanged.
    Default,
    /// Every frequency divided by `factor`.
    Linear {
        /// The stretch, at least 1.
        factor: f64,
    },
    /// Low frequencies divided by `factor`, high ones kept, a linear blend between.
    Llama3 {
        /// The stretch of the low frequencies, at least 1.
        factor: f64,
        /// Wavelengths above `original_max_position_embeddings / low_freq_factor` are stretched fully.
        low_freq_factor: f64,
        /// Wavelengths below `original_max_position_embeddings / high_freq_factor` are kept.
        high_freq_factor: f64,
        /// The context length before stretching, in positions.
        original_max_position_embeddings: usize,
    },
}

impl RopeScaling {
    /// The angular frequencies in radians per position.
    ///
    /// # Shapes
    /// `[head_dim / 2]`
    pub fn inverse_frequencies(&self, head_dim: usize) -> Vec<f64> {
        (0..head_dim / 2)
            .map(|i| {
                let plain = self.theta.powf(-((2 * i) as f64) / head_dim as f64);
                self.kind.stretch(plain)
            })
            .collect()
    }

    pub(crate) fn check(&self) -> Result<()> {
        let positive = |field: &'static str, value: f64, least: f64| {
            if value.is_finite() && value >= least && value <= 1e12 {
                Ok(())
            } else {
                Err(Error::OutOfRange { field, have: value.to_string(), need: format!("from {least} to 1e12") })
            }
        };
        positive("rope_theta", self.theta, 1.0)?;
        match self.kind {
            RopeKind::Default => Ok(()),
            RopeKind::Linear { factor } => positive("rope factor", factor, 1.0),
            RopeKind::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_position_embeddings } => {
                positive("rope factor", factor, 1.0)?;
                positive("low_freq_factor", low_freq_factor, 1e-6)?;
                positive("high_freq_factor", high_freq_factor, 1e-6)?;
                positive("original_max_position_embeddings", original_max_position_embeddings as f64, 1.0)?;
                if high_freq_factor <= low_freq_factor {
                    return Err(Error::OutOfRange {
                        field: "high_freq_factor",
                        have: high_freq_factor.to_string(),
                        need: format!("above low_freq_factor = {low_freq_factor}"),
                    });
                }
                Ok(())
            }
        }
    }
}

impl RopeKind {
    fn stretch(&self, frequency: f64) -> f64 {
        match *self {
            Self::Default => frequency,
            Self::Linear { factor } => frequency / factor,
            Self::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_position_embeddings } => {
                // Turns that the coordinate makes over the original context.
                let turns = original_max_position_embeddings as f64 * frequency / std::f64::consts::TAU;
                // The clamp covers both ends: weight 0 is fully stretched, weight 1 is kept.
                let kept = ((turns - low_freq_factor) / (high_freq_factor - low_freq_factor)).clamp(0.0, 1.0);
                kept * frequency + (1.0 - kept) * frequency / factor
            }
        }
    }
}

/// Cosines and sines of the rotation at `position`.
///
/// # Shapes
/// Two vectors `[head_dim / 2]`; entry `i` serves the coordinates `i` and `i + head_dim / 2`.
pub fn rope_cos_sin(config: &LlamaConfig, position: usize) -> (Vec<f32>, Vec<f32>) {
    cos_sin(&config.inverse_frequencies(), position)
}

/// [`rope_cos_sin`] from frequencies that were computed before.
pub(crate) fn cos_sin(inverse_frequencies: &[f64], position: usize) -> (Vec<f32>, Vec<f32>) {
    inverse_frequencies
        .iter()
        .map(|&frequency| {
            let angle = f64::from(frequency as f32 * position as f32);
            (angle.cos() as f32, angle.sin() as f32)
        })
        .unzip()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn default_frequencies_are_a_geometric_series() {
        let rope = RopeScaling { theta: 10_000.0, kind: RopeKind::Default };
        let found = rope.inverse_frequencies(8);
        for (have, need) in found.iter().zip([1.0, 0.1, 0.01, 0.001]) {
            assert!((have - need).abs() < 1e-15);
        }
    }

    #[test]
    fn llama3_keeps_high_and_stretches_low_frequencies() {
        let kind = RopeKind::Llama3 {
            factor: 8.0,
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_max_position_embeddings: 8192,
        };
        let plain = RopeScaling { theta: 500_000.0, kind: RopeKind::Default }.inverse_frequencies(128);
        let found = RopeScaling { theta: 500_000.0, kind }.inverse_frequencies(128);
        assert_eq!(found[0], plain[0]);
        assert_eq!(found[63], plain[63] / 8.0);
        // A wavelength of 4096 positions is two turns of 8192: one third of the way from 1 to 4.
        let mid = 2.0 * std::f64::consts::TAU / 8192.0;
        let blended = RopeKind::Llama3 {
            factor: 8.0,
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_max_position_embeddings: 8192,
        }
        .stretch(mid);
        assert!((blended - mid * (1.0 / 3.0 + 2.0 / 3.0 / 8.0)).abs() < 1e-15);
    }
}
