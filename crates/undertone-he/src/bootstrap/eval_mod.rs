//! `eval_mod`: removes the multiples of q0 by a scaled sine.
//!
//! The slot holds u = x/K with x = z/R + I, |I| < K. A polynomial of degree 2K − 2 interpolates
//! a·cos(2π(x − 1/4)/2^r) at the integers, which is where x lies up to 1/R (nodes clustered at the integers as in
//! Han–Ki, eprint 2019/688; the error after r double angles is below 2^-34 of z for |I| ≤ 8 and 2^-13 at the edge,
//! which a weight-32 secret reaches with probability 2^-82). Then y ← 2y² − a² doubles the angle r times while a is
//! squared, which leaves a^(2^r)·sin(2πx); a is chosen so that this is v = R/(2π)·sin(2πz/R) at the
//! application scale. The cubic term of the arcsine, z ≈ v + (2π/R)²/6·v³, then allows a small R, at which the noise of
//! the circuit matters less; what it leaves is (3/40)·(2π/R)^4, or 2^-19 at R = 2^6.5.

use crate::circuits::{Chebyshev, evaluate_chebyshev};
use crate::{Ciphertext, CkksEvaluator, Error, Evaluator, Parameters, Slots};
use std::f64::consts::PI;

pub(super) struct EvalMod {
    polynomial: Chebyshev,
    /// a² for each double angle.
    squares: Vec<f64>,
    output_scale: f64,
    /// (2π/R)²/6, or `None` without the correction.
    cubic: Option<f64>,
}

impl EvalMod {
    pub(super) fn new(parameters: &Parameters) -> Self {
        let literal = parameters.literal();
        let ratio = literal.message_ratio_bits.exp2();
        let level = literal.sine_level();
        // The scale of the sine itself, before it is read as the application scale.
        let above = parameters.scale(level + 1);
        let produced = above * above / parameters.ring().q_moduli()[level + 1].value() as f64;
        let output_scale = parameters.scale(level);
        let amplitude = output_scale * ratio / (2.0 * PI * produced);
        let doublings = literal.double_angles as i32;
        let first = amplitude.powf(0.5f64.powi(doublings));
        let squares = (0..doublings).map(|i| first.powi(1 << (i + 1))).collect();
        let polynomial = cosine(literal.eval_mod_range, doublings, first);
        let cubic = (literal.arcsine_levels > 0).then(|| (2.0 * PI / ratio).powi(2) / 6.0);
        Self { polynomial, squares, output_scale, cubic }
    }

    pub(super) fn apply(&self, ev: &CkksEvaluator, a: &Ciphertext) -> Result<Ciphertext, Error> {
        let sine = self.sine(ev, a)?;
        match self.cubic {
            Some(factor) => arcsine(ev, &sine, factor),
            None => Ok(sine),
        }
    }

    /// Of two values of `period` slots that take turns, each with `period` slots of its own; they are told apart in the
    /// correction, so parameters without it have no such pairs.
    pub(super) fn apply_to_pair(
        &self,
        ev: &CkksEvaluator,
        a: &Ciphertext,
        period: usize,
    ) -> Result<[Ciphertext; 2], Error> {
        arcsine_of_pair(ev, &self.sine(ev, a)?, self.cubic.unwrap_or_default(), period)
    }

    fn sine(&self, ev: &CkksEvaluator, a: &Ciphertext) -> Result<Ciphertext, Error> {
        let mut value = evaluate(ev, a, &self.polynomial, &self.squares)?;
        value.scale = self.output_scale;
        Ok(value)
    }
}

/// Levels of the arcsine correction.
pub(super) const ARCSINE_LEVELS: usize = 2;

/// v + factor·v³: two levels, two products.
pub(super) fn arcsine<E: Evaluator>(ev: &E, v: &E::Value, factor: f64) -> Result<E::Value, Error> {
    let squared = ev.square(v)?;
    let scaled = ev.drop_level(v, ev.level(&squared), factor)?;
    ev.multiply_combine(&[(&scaled, &squared)], &[(1.0, v)], 0.0)
}

/// [`arcsine`] of two values whose slots take turns, which are told apart where v waits for v²: no level, and one
/// product and two low rotations more, where EvalMod of a second ciphertext would take all its products again.
pub(super) fn arcsine_of_pair<E: Evaluator>(
    ev: &E,
    v: &E::Value,
    factor: f64,
    period: usize,
) -> Result<[E::Value; 2], Error> {
    let squared = ev.square(v)?;
    let level = ev.level(&squared);
    let first = |height: f64| {
        let slots = [vec![height; period], vec![0.0; period]].concat();
        ev.mul_slots(v, &Slots::new(slots, ev.chain().slot_count())?)
    };
    let (low, low_scaled) = (first(1.0)?, first(factor)?);
    let high = ev.sub(&ev.drop_level(v, level, 1.0)?, &low)?;
    let high_scaled = ev.sub(&ev.drop_level(v, level, factor)?, &low_scaled)?;
    let finish = |v: &E::Value, scaled: &E::Value| {
        let half = ev.multiply_combine(&[(scaled, &squared)], &[(1.0, v)], 0.0)?;
        ev.add(&half, &ev.rotate(&half, period as i32)?)
    };
    Ok([finish(&low, &low_scaled)?, finish(&high, &high_scaled)?])
}

/// The polynomial and the double angles; shared with the cost prediction.
pub(super) fn evaluate<E: Evaluator>(
    ev: &E,
    a: &E::Value,
    polynomial: &Chebyshev,
    squares: &[f64],
) -> Result<E::Value, Error> {
    let (mut value, _) = evaluate_chebyshev(ev, a, polynomial)?;
    for square in squares {
        value = ev.multiply_combine(&[(&value, &value), (&value, &value)], &[], -square)?;
    }
    Ok(value)
}

/// Interpolates amplitude·cos(2π(K·u − 1/4)/2^doublings) at u = I/K for every integer |I| < K.
pub(super) fn cosine(range: usize, doublings: i32, amplitude: f64) -> Chebyshev {
    let k = range as i64;
    let nodes: Vec<f64> = (1 - k..k).map(|i| i as f64 / k as f64).collect();
    let angle = |u: f64| 2.0 * PI * (u * k as f64 - 0.25) / 2f64.powi(doublings);
    let mut system: Vec<Vec<f64>> = nodes
        .iter()
        .map(|&u| {
            let mut row: Vec<f64> = (0..nodes.len()).map(|j| (j as f64 * u.acos()).cos()).collect();
            row.push(amplitude * angle(u).cos());
            row
        })
        .collect();
    Chebyshev { coefficients: solve(&mut system), interval: (-1.0, 1.0) }
}

/// Gaussian elimination with partial pivoting; backward stable, so the residual at the nodes is at rounding level.
fn solve(system: &mut [Vec<f64>]) -> Vec<f64> {
    let n = system.len();
    for column in 0..n {
        let pivot =
            (column..n).max_by(|&a, &b| system[a][column].abs().total_cmp(&system[b][column].abs())).unwrap_or(column);
        system.swap(column, pivot);
        let (head, tail) = system.split_at_mut(column + 1);
        let row = &head[column];
        for other in tail {
            let factor = other[column] / row[column];
            for (x, y) in other.iter_mut().zip(row).skip(column) {
                *x -= factor * y;
            }
        }
    }
    let mut solution = vec![0.0; n];
    for i in (0..n).rev() {
        let known: f64 = (i + 1..n).map(|j| system[i][j] * solution[j]).sum();
        solution[i] = (system[i][n] - known) / system[i][i];
    }
    solution
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sine_is_exact_around_the_integers_that_occur() {
        let literal = crate::ParametersLiteral::n16_l16_d36();
        let (ratio, doublings) = (literal.message_ratio_bits.exp2(), literal.double_angles as i32);
        let polynomial = cosine(literal.eval_mod_range, doublings, 1.0);
        let worst = |integer: i32| {
            (-20..=20)
                .map(|step| {
                    let z = f64::from(step) / 20.0;
                    let x = f64::from(integer) + z / ratio;
                    let mut y = polynomial.eval(x / 16.0);
                    for _ in 0..doublings {
                        y = 2.0 * y * y - 1.0;
                    }
                    let sine = (2.0 * PI * z / ratio).sin();
                    ((y - sine) * ratio / (2.0 * PI)).abs()
                })
                .fold(0.0, f64::max)
        };
        for integer in -8..=8 {
            assert!(worst(integer).log2() < -34.0, "I = {integer}: {}", worst(integer).log2());
        }
        assert!(worst(15).log2() < -17.0 && worst(-15).log2() < -13.0, "edge {} {}", worst(15), worst(-15));
    }
}
