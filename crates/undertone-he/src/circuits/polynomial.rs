//! Polynomials in the Chebyshev basis: the type, its fits in the clear, and their evaluation under an [`Evaluator`].
//!
//! p(x) = Σ c_j T_j(u) with u the affine image of x in [−1, 1]. The monomial basis loses all precision above degree
//! about 30, so nothing here ever leaves the Chebyshev basis. The evaluation order is a [`plan`] chosen per set of
//! coefficients; approximations of particular functions belong to the crate that knows their ranges.

mod fit;
mod plan;

use crate::{Error, Evaluator};
use plan::{Leaf, Node, Plan};
use std::collections::BTreeMap;

/// A polynomial on an interval, by its Chebyshev coefficients.
#[derive(Debug, Clone, PartialEq)]
pub struct Chebyshev {
    /// c_0, c_1, …: the coefficient of T_j at index j.
    pub coefficients: Vec<f64>,
    /// The interval that is mapped to [−1, 1].
    pub interval: (f64, f64),
}

impl Chebyshev {
    /// The interpolant of `f` at the `degree` + 1 Chebyshev nodes of `interval`.
    pub fn interpolate(f: impl Fn(f64) -> f64, interval: (f64, f64), degree: usize) -> Self {
        let count = degree + 1;
        let angle = |i: usize| std::f64::consts::PI * (i as f64 + 0.5) / count as f64;
        let (middle, half) = middle_and_half(interval);
        let values: Vec<f64> = (0..count).map(|i| f(middle + half * angle(i).cos())).collect();
        let coefficients = (0..count)
            .map(|j| {
                let sum: f64 = values.iter().enumerate().map(|(i, v)| v * (j as f64 * angle(i)).cos()).sum();
                sum * if j == 0 { 1.0 } else { 2.0 } / count as f64
            })
            .collect();
        Self { coefficients, interval }
    }

    /// The polynomial of `degree` that minimises Σ (weight · (p(x) − y))² over samples (x, y, weight).
    ///
    /// With fewer samples than coefficients the undetermined coefficients are zero.
    pub fn fit(samples: &[(f64, f64, f64)], interval: (f64, f64), degree: usize) -> Self {
        let mapped: Vec<_> = samples.iter().map(|&(x, y, w)| (to_unit(x, interval), y, w)).collect();
        Self { coefficients: fit::least_squares(&mapped, degree + 1), interval }
    }

    /// Index of the last non-zero coefficient (0 for a constant).
    pub fn degree(&self) -> usize {
        self.coefficients.iter().rposition(|&c| c != 0.0).unwrap_or(0)
    }

    /// p(x) for x in the interval (Clenshaw's recurrence).
    pub fn eval(&self, x: f64) -> f64 {
        self.eval_unit(to_unit(x, self.interval))
    }

    /// p at the point whose affine image in [−1, 1] is `u`.
    pub fn eval_unit(&self, u: f64) -> f64 {
        let (mut next, mut after) = (0.0, 0.0);
        for &c in self.coefficients.iter().skip(1).rev() {
            (next, after) = (c + 2.0 * u * next - after, next);
        }
        self.coefficients.first().unwrap_or(&0.0) + u * next - after
    }

    /// The largest |p − f| over a dense grid of the interval.
    pub fn max_error(&self, f: impl Fn(f64) -> f64) -> f64 {
        self.grid().map(|x| (self.eval(x) - f(x)).abs()).fold(0.0, f64::max)
    }

    /// The largest |p/f − 1| over a dense grid of the interval, for f without zeros.
    pub fn max_relative_error(&self, f: impl Fn(f64) -> f64) -> f64 {
        self.grid().map(|x| (self.eval(x) / f(x) - 1.0).abs()).fold(0.0, f64::max)
    }

    /// Replaces coefficients of magnitude up to `tolerance` by zero and removes zeros at the end.
    pub fn truncate(mut self, tolerance: f64) -> Self {
        for c in &mut self.coefficients {
            if c.abs() <= tolerance {
                *c = 0.0;
            }
        }
        self.coefficients.truncate(self.degree() + 1);
        self
    }

    /// What [`evaluate_chebyshev`] spends on this polynomial.
    pub fn cost(&self) -> PolynomialCost {
        Plan::new(&self.coefficients).cost()
    }

    /// Both ends and points as dense as Chebyshev nodes, which is where such errors peak.
    fn grid(&self) -> impl Iterator<Item = f64> + use<> {
        let count = (32 * self.coefficients.len()).max(2000);
        let (middle, half) = middle_and_half(self.interval);
        (0..=count).map(move |i| middle + half * (std::f64::consts::PI * i as f64 / count as f64).cos())
    }
}

/// Multiplications of one polynomial evaluation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PolynomialCost {
    /// Tensor products.
    pub products: usize,
    /// Relinearizations; fewer than products because sums of products share one.
    pub key_switches: usize,
    /// Levels.
    pub depth: usize,
}

/// Levels that a polynomial of `degree` consumes: ⌈log2(degree + 1)⌉.
pub fn depth(degree: usize) -> usize {
    (degree + 1).next_power_of_two().trailing_zeros() as usize
}

/// Evaluates `poly` at a value already mapped to [−1, 1]; returns (p(u), T_top).
///
/// T_top is the highest Chebyshev polynomial T_(2^i) that was computed (u itself up to degree 1). |T_top| ≤ 1 exactly
/// where |u| ≤ 1, and it grows without bound outside, so it detects escapes.
///
/// # Levels
/// p(u) is [`depth`] of the degree below `u`, or higher where zero coefficients allow; T_top is higher than p(u).
///
/// # Errors
/// `LevelTooLow` when `u` has fewer levels.
pub fn evaluate_chebyshev<E: Evaluator>(ev: &E, u: &E::Value, poly: &Chebyshev) -> Result<(E::Value, E::Value), Error> {
    let plan = Plan::new(&poly.coefficients);
    if ev.level(u) < plan.depth {
        return Err(Error::LevelTooLow { op: "evaluate_chebyshev", have: ev.level(u), need: plan.depth });
    }
    let mut basis = BTreeMap::from([(1, u.clone())]);
    for &j in &plan.basis {
        let element = next_basis_element(ev, &basis, j)?;
        basis.insert(j, element);
    }
    let value = evaluate_node(ev, &basis, &plan.root)?;
    let top = basis.keys().copied().filter(|j| j.is_power_of_two()).max().unwrap_or(1);
    Ok((value, basis[&top].clone()))
}

/// T_j = 2·T_a·T_b − T_(a−b) with a the largest power of two below j and b = j − a.
fn next_basis_element<E: Evaluator>(ev: &E, basis: &BTreeMap<usize, E::Value>, j: usize) -> Result<E::Value, Error> {
    let (a, b) = plan::parents(j);
    let pair = (&basis[&a], &basis[&b]);
    if a == b {
        ev.multiply_combine(&[pair, pair], &[], -1.0)
    } else {
        ev.multiply_combine(&[pair, pair], &[(-1.0, &basis[&(a - b)])], 0.0)
    }
}

fn evaluate_node<E: Evaluator>(ev: &E, basis: &BTreeMap<usize, E::Value>, node: &Node) -> Result<E::Value, Error> {
    if node.products.is_empty() {
        return evaluate_leaf(ev, basis, &node.rest);
    }
    let quotients =
        node.products.iter().map(|(quotient, _)| evaluate_node(ev, basis, quotient)).collect::<Result<Vec<_>, _>>()?;
    let pairs: Vec<_> = quotients.iter().zip(&node.products).map(|(q, (_, giant))| (q, &basis[giant])).collect();
    let rest: Vec<_> = node.rest.terms.iter().map(|&(j, c)| (c, &basis[&j])).collect();
    ev.multiply_combine(&pairs, &rest, node.rest.constant)
}

fn evaluate_leaf<E: Evaluator>(ev: &E, basis: &BTreeMap<usize, E::Value>, leaf: &Leaf) -> Result<E::Value, Error> {
    if leaf.terms.is_empty() {
        // A constant costs no level: zero times the input carries it.
        return ev.add_constant(&ev.mul_integer(&basis[&1], 0)?, leaf.constant);
    }
    let terms: Vec<_> = leaf.terms.iter().map(|&(j, c)| (c, &basis[&j])).collect();
    ev.combine(&terms, leaf.constant)
}

fn middle_and_half(interval: (f64, f64)) -> (f64, f64) {
    ((interval.0 + interval.1) / 2.0, (interval.1 - interval.0) / 2.0)
}

/// The affine image of `x` in [−1, 1]; a single point maps to 0.
fn to_unit(x: f64, interval: (f64, f64)) -> f64 {
    let (middle, half) = middle_and_half(interval);
    if half == 0.0 { 0.0 } else { (x - middle) / half }
}

#[cfg(test)]
mod tests;
