//! Polynomial approximations of the nonlinear functions of a Llama layer, each with its measured error.
//!
//! All are Chebyshev series on the interval that calibration declares; layers, the calibration scan and the planner
//! build them from the same calibrated numbers, so they agree to the last bit. Errors are relative where the result is
//! a factor (1/x, 1/√x) and absolute where it is a term (exp, SiLU). Degrees are 2^i − 1, the largest of each depth.

use crate::calibration::{Interval, LayerCalibration, NormCalibration, SoftmaxCalibration};
use undertone_he::circuits::Chebyshev;

/// Degrees that use their depth fully: 3 to 7 levels.
pub const DEGREES: [usize; 5] = [7, 15, 31, 63, 127];

/// Odd coefficients of an even function below this size are rounding errors.
const ROUNDING: f64 = 1e-14;
/// Iterations of Lawson's reweighting; more gain less than a tenth of a bit.
const REWEIGHTINGS: usize = 8;

/// A polynomial and its largest error on its interval.
#[derive(Debug, Clone, PartialEq)]
pub struct Fit {
    /// The polynomial.
    pub polynomial: Chebyshev,
    /// Largest measured error; the function that made the fit says whether absolute or relative.
    pub error: f64,
}

impl Fit {
    /// −log2 of the error.
    pub fn bits(&self) -> f64 {
        -self.error.log2()
    }
}

/// exp(`half_span`·(u − 1)) for u in [−1, 1]; absolute error (the largest value is 1).
pub fn exponential(half_span: f64, degree: usize) -> Fit {
    let f = |u: f64| (half_span * (u - 1.0)).exp();
    let polynomial = Chebyshev::interpolate(f, (-1.0, 1.0), degree);
    Fit { error: polynomial.max_error(f), polynomial }
}

/// 1/x on an interval with positive ends; relative error.
///
/// The best polynomial is known in closed form: x·p(x) − 1 is the multiple of T_(degree+1) that is −1 at x = 0.
pub fn inverse(interval: Interval, degree: usize) -> Fit {
    let order = degree as f64 + 1.0;
    let to_unit = |x: f64| (2.0 * x - interval.low - interval.high) / (interval.high - interval.low);
    let at_zero = (order * to_unit(0.0).abs().acosh()).cosh() * if degree.is_multiple_of(2) { -1.0 } else { 1.0 };
    let f = |x: f64| (1.0 - (order * to_unit(x).clamp(-1.0, 1.0).acos()).cos() / at_zero) / x;
    let polynomial = Chebyshev::interpolate(f, (interval.low, interval.high), degree);
    Fit { error: polynomial.max_relative_error(|x| 1.0 / x), polynomial }
}

/// 1/√x on an interval with positive ends; relative error, within a few per cent of the smallest possible.
pub fn inverse_square_root(interval: Interval, degree: usize) -> Fit {
    let f = |x: f64| 1.0 / x.sqrt();
    let ends = (interval.low, interval.high);
    let count = 6 * (degree + 1);
    let (middle, half) = ((ends.0 + ends.1) / 2.0, (ends.1 - ends.0) / 2.0);
    let points: Vec<f64> =
        (0..count).map(|i| middle + half * (std::f64::consts::PI * (i as f64 + 0.5) / count as f64).cos()).collect();
    let mut emphasis = vec![1.0f64; count];
    let mut best: Option<Fit> = None;
    for _ in 0..REWEIGHTINGS {
        let samples: Vec<_> = points.iter().zip(&emphasis).map(|(&x, e)| (x, f(x), e.sqrt() * x.sqrt())).collect();
        let polynomial = Chebyshev::fit(&samples, ends, degree);
        // Lawson: weights grow with the error of the last fit, which levels its peaks.
        for (x, emphasis) in points.iter().zip(&mut emphasis) {
            *emphasis *= (polynomial.eval(*x) * x.sqrt() - 1.0).abs();
        }
        let largest = emphasis.iter().fold(f64::MIN_POSITIVE, |m, &e| m.max(e));
        emphasis.iter_mut().for_each(|e| *e = (*e / largest).max(1e-9));
        let fit = Fit { error: polynomial.max_relative_error(f), polynomial };
        if best.as_ref().is_none_or(|best| fit.error < best.error) {
            best = Some(fit);
        }
    }
    best.unwrap_or_else(|| {
        let polynomial = Chebyshev::interpolate(f, ends, degree);
        Fit { error: polynomial.max_relative_error(f), polynomial }
    })
}

/// SiLU(x) − x/2 on ±`radius`, an even function; absolute error. The caller adds x/2.
pub fn silu_even(radius: f64, degree: usize) -> Fit {
    // SiLU(x) − x/2 = x·(σ(x) − 1/2) = x/2·tanh(x/2): no cancellation at any x.
    let f = |x: f64| x / 2.0 * (x / 2.0).tanh();
    let polynomial = Chebyshev::interpolate(f, (-radius, radius), degree).truncate(ROUNDING * radius);
    Fit { error: polynomial.max_error(f), polynomial }
}

/// The smallest of [`DEGREES`] whose fit reaches `target_bits`, with that fit.
pub fn degree_for(target_bits: f64, fit: impl Fn(usize) -> Fit) -> Option<(usize, Fit)> {
    DEGREES.into_iter().map(|degree| (degree, fit(degree))).find(|(_, fit)| fit.bits() >= target_bits)
}

/// 1/√x for the norm: x is the mean square plus ε.
pub fn norm_polynomial(norm: &NormCalibration) -> Chebyshev {
    inverse_square_root(norm.mean_square, norm.degree).polynomial
}

/// exp of one softmax, as a polynomial of u = (score − shift)/(2^rounds·half_span) + 1.
pub fn exponential_polynomial(softmax: &SoftmaxCalibration) -> Chebyshev {
    exponential(softmax.half_span, softmax.exp_degree).polynomial
}

/// 1/x for every round of one softmax, first round first.
pub fn inverse_polynomials(softmax: &SoftmaxCalibration) -> Vec<Chebyshev> {
    let rounds = softmax.sums.iter().zip(&softmax.inverse_degree);
    rounds.map(|(&interval, &degree)| inverse(interval, degree).polynomial).collect()
}

/// SiLU(x) − x/2 of one layer, on ± its gate bound.
pub fn silu_polynomial(layer: &LayerCalibration) -> Chebyshev {
    silu_even(layer.gate_bound, layer.silu_degree).polynomial
}

#[cfg(test)]
mod tests;
