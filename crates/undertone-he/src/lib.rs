//! CKKS over RNS rings, public side: parameters, ciphertexts, evaluation keys, the [`Evaluator`] seam and the circuits
//! built on it (linear transforms, polynomials, bootstrapping).
//!
//! Nothing here can hold or create a secret key; that is the job of `undertone-secret`.
#![forbid(unsafe_code)]

mod bootstrap;
mod chain;
mod ciphertext;
pub mod circuits;
mod ckks;
mod clear;
pub mod conformance;
mod cost;
mod counts;
mod encoder;
mod error;
mod evaluator;
mod keys;
mod matrix;
mod parameters;
mod slots;
mod wire;

pub use bootstrap::{bootstrap_matrix_bytes, bootstrap_model};
pub use chain::Chain;
pub use ciphertext::{CIPHERTEXT_COUNTER, Ciphertext, SeededCiphertext};
pub use ckks::{CkksEvaluator, CkksMatrix};
pub use clear::{ClearEvaluator, ClearMatrix, ClearValue};
pub use cost::{BootstrapCost, BootstrapModel, CostEvaluator, CostMatrix, CostValue, KeySet, work};
pub use counts::{Counts, LevelCounts};
pub use encoder::Encoder;
pub use error::Error;
pub use evaluator::Evaluator;
pub use keys::{
    EvaluationKeys, KeyId, KeyMemory, KeyRequest, PlannedKey, SeededKey, UploadKey, conjugation_element, key_requests,
    planned_keys, rotation_element,
};
pub use matrix::{MatrixRow, MatrixShape};
pub use parameters::{Parameters, ParametersLiteral, SecretKind, failure_log2, gate, max_log_qp, security_bits};
pub use slots::Slots;
pub use wire::KEY_PREFIX_BYTES;
