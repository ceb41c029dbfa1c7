//! Circuits written once against [`Evaluator`](crate::Evaluator): linear transforms and polynomials.

mod linear_transform;
mod polynomial;

pub use linear_transform::{Diagonals, LinearTransform};
pub use polynomial::{Chebyshev, PolynomialCost, depth, evaluate_chebyshev};
