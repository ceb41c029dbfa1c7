//! The order of one Chebyshev evaluation: Paterson-Stockmeyer with a depth budget.
//!
//! p = Σ_i q_i·T_(G_i) + leaf, G_i falling powers of two, by 2·T_G·T_j = T_(G+j) + T_(G−j). All products of one sum
//! share a relinearization. T_j is ready at depth ⌈log2 j⌉ and a leaf (one `combine`) adds one, so a part with budget
//! β may be a leaf only up to degree 2^(β−1); quotients have budget β − 1, which forces the leading branch to split
//! down to degree 1 and nothing else. Even polynomials are polynomials of half the degree in T_2; odd ones use odd
//! basis elements only, by construction. The leaf size is found by trying
//! powers of two and their threefold and counting.

use super::{PolynomialCost, depth};
use std::collections::BTreeSet;

/// Coefficients below this fraction of the largest one are rounding errors of a symmetric function.
const NEGLIGIBLE: f64 = 1e-15;
/// A key switch costs about as much as this many tensor products.
const KEY_SWITCH_WEIGHT: usize = 8;

/// Σ c_j·T_j over few j, plus a constant: one `combine`.
#[derive(Debug, Clone, Default)]
pub(super) struct Leaf {
    pub(super) terms: Vec<(usize, f64)>,
    pub(super) constant: f64,
}

/// Σ quotient·T_giant + rest.
#[derive(Debug, Clone, Default)]
pub(super) struct Node {
    pub(super) products: Vec<(Node, usize)>,
    pub(super) rest: Leaf,
}

/// A complete evaluation order.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    pub(super) root: Node,
    /// The basis elements beyond T_1, ascending, closed under [`parents`].
    pub(super) basis: BTreeSet<usize>,
    pub(super) depth: usize,
}

impl Plan {
    pub(super) fn new(coefficients: &[f64]) -> Self {
        let largest = coefficients.iter().fold(0.0, |m: f64, c| m.max(c.abs()));
        let mut kept: Vec<f64> =
            coefficients.iter().map(|&c| if c.abs() <= largest * NEGLIGIBLE { 0.0 } else { c }).collect();
        trim(&mut kept);
        let budget = depth(kept.len().saturating_sub(1));
        // Powers of two first: on a tie they keep the basis at the lowest depth.
        let powers = (1..=budget.max(1)).map(|i| 1 << i);
        let leaf_sizes = powers.chain((0..budget.saturating_sub(1)).map(|i| 3 << i));
        let plans = leaf_sizes.flat_map(|leaf_size| {
            let even = fold_even(&kept).map(|half| Self::in_second_chebyshev(&half, leaf_size, budget));
            [Some(Self::with_leaf_size(&kept, leaf_size, budget)), even].into_iter().flatten()
        });
        plans.min_by_key(Plan::weight).unwrap_or_else(|| Self::with_leaf_size(&kept, 2, budget))
    }

    fn with_leaf_size(coefficients: &[f64], leaf_size: usize, budget: usize) -> Self {
        Self::from_root(build(coefficients.to_vec(), budget, leaf_size), budget)
    }

    /// The plan of Σ c_j T_j(T_2(u)), in terms of T_(2j)(u).
    fn in_second_chebyshev(half: &[f64], leaf_size: usize, budget: usize) -> Self {
        let mut root = build(half.to_vec(), budget - 1, leaf_size);
        root.double_indices();
        Self::from_root(root, budget)
    }

    fn from_root(root: Node, depth: usize) -> Self {
        let mut basis = BTreeSet::new();
        root.collect_basis(&mut basis);
        Self { root, basis, depth }
    }

    pub(super) fn cost(&self) -> PolynomialCost {
        let (products, sums) = self.root.count();
        PolynomialCost {
            // T_a·T_b stands twice in its sum.
            products: products + 2 * self.basis.len(),
            key_switches: sums + self.basis.len(),
            depth: self.depth,
        }
    }

    fn weight(&self) -> usize {
        let cost = self.cost();
        KEY_SWITCH_WEIGHT * cost.key_switches + cost.products
    }
}

impl Node {
    fn count(&self) -> (usize, usize) {
        self.products.iter().fold((self.products.len(), usize::from(!self.products.is_empty())), |sum, (node, _)| {
            let (products, sums) = node.count();
            (sum.0 + products, sum.1 + sums)
        })
    }

    fn double_indices(&mut self) {
        for (j, _) in &mut self.rest.terms {
            *j *= 2;
        }
        for (node, giant) in &mut self.products {
            *giant *= 2;
            node.double_indices();
        }
    }

    fn collect_basis(&self, basis: &mut BTreeSet<usize>) {
        for &(j, _) in &self.rest.terms {
            close(j, basis);
        }
        for (node, giant) in &self.products {
            close(*giant, basis);
            node.collect_basis(basis);
        }
    }
}

/// (a, b) with j = a + b, a the largest power of two below j (half of j when j is one).
pub(super) fn parents(j: usize) -> (usize, usize) {
    let a = j.next_power_of_two() / 2;
    (a, j - a)
}

/// Adds T_j and everything it is computed from.
fn close(j: usize, basis: &mut BTreeSet<usize>) {
    if j >= 2 && basis.insert(j) {
        let (a, b) = parents(j);
        for ancestor in [a, b, a - b] {
            close(ancestor, basis);
        }
    }
}

fn build(mut coefficients: Vec<f64>, budget: usize, leaf_size: usize) -> Node {
    let mut node = Node::default();
    loop {
        trim(&mut coefficients);
        if fits_in_leaf(&coefficients, budget, leaf_size) {
            node.rest.constant = coefficients.first().copied().unwrap_or(0.0);
            let terms = coefficients.iter().copied().enumerate().skip(1).filter(|&(_, c)| c != 0.0);
            node.rest.terms.splice(0..0, terms);
            return node;
        }
        let giant = coefficients.len().next_power_of_two() / 2;
        let quotient = split(&mut coefficients, giant);
        if quotient.len() == 1 {
            node.rest.terms.push((giant, quotient[0]));
        } else {
            node.products.push((build(quotient, budget - 1, leaf_size), giant));
        }
    }
}

/// A leaf may use the small basis elements and the powers of two, as far as the budget lets them be ready.
fn fits_in_leaf(coefficients: &[f64], budget: usize, leaf_size: usize) -> bool {
    coefficients.iter().enumerate().skip(1).filter(|&(_, &c)| c != 0.0).all(|(j, _)| {
        let ready = j.next_power_of_two().trailing_zeros() as usize;
        (j < leaf_size || j.is_power_of_two()) && ready < budget
    })
}

/// Leaves p − q·T_giant in `coefficients` (degree below `giant`) and returns q; needs degree < 2·giant.
fn split(coefficients: &mut Vec<f64>, giant: usize) -> Vec<f64> {
    let mut quotient = coefficients.split_off(giant);
    for (j, c) in quotient.iter_mut().enumerate().skip(1) {
        coefficients[giant - j] -= *c;
        *c *= 2.0;
    }
    quotient
}

/// The coefficients of p as a polynomial in T_2, when only even ones are present.
fn fold_even(coefficients: &[f64]) -> Option<Vec<f64>> {
    let odd_is_zero = coefficients.iter().skip(1).step_by(2).all(|&c| c == 0.0);
    (coefficients.len() > 2 && odd_is_zero).then(|| coefficients.iter().copied().step_by(2).collect())
}

fn trim(coefficients: &mut Vec<f64>) {
    let kept = coefficients.iter().rposition(|&c| c != 0.0).map_or(0, |last| last + 1);
    coefficients.truncate(kept);
}
