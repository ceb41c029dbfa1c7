//! Circuits written once against [`Evaluator`](crate::Evaluator), linear transforms and polynomials, and matrix products
//! on coefficients, which are below that seam.

mod linear_transform;
pub mod pc_matmul;
mod polynomial;

pub use linear_transform::{Diagonals, LinearTransform};
pub use polynomial::{Chebyshev, PolynomialCost, depth, evaluate_chebyshev};
