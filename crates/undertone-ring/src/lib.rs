//! Arithmetic in `R_Q = Z_Q[X]/(X^N + 1)` for CKKS, in residue number system form.
//!
//! A [`Ring`] owns the primes (each below 2^50), the NTT tables and one [`Backend`]; a [`Poly`] is plain data.
//! Every residue is fully reduced at every public boundary, so all backends give bit-identical results.
//! The form of a polynomial (coefficients or NTT values) is part of its type.
//!
//! NTT values are in bit-reversed order: entry i is the evaluation at psi^(2*bitrev(i)+1), with psi the smallest
//! primitive 2N-th root of unity modulo the prime.
//!
//! All `unsafe` code is in `cpu/`. Absent on purpose: ciphertexts, scales, keys, and wire types.
#![deny(unsafe_code)]

mod backend;
mod basis;
pub mod conformance;
#[allow(unsafe_code)]
mod cpu;
mod error;
mod fourier;
mod metered;
mod modulus;
mod packed;
mod permutation;
mod poly;
mod primes;
mod ring;
mod sample;
mod table;
pub mod words;

pub use backend::{Backend, LiftTarget, MATRIX_LANES};
pub use basis::{Basis, Coeff, Form, Ntt};
pub use cpu::{avx2_backend, avx512ifma_backend, detect_backend, scalar_backend};
pub use cpu::{avx2_word_kernels, avx512_word_kernels, detect_word_kernels, scalar_word_kernels};
pub use error::Error;
pub use fourier::FourierTable;
pub use metered::{KernelTotals, Metered};
pub use modulus::Modulus;
pub use packed::{Packed, PackedPoly};
pub use permutation::Permutation;
pub use poly::{CompactPoly, Poly};
pub use primes::ntt_primes_near;
pub use ring::{
    CompactCoefficients, ComputedHalf, Digits, GadgetKey, Giant, Halves, ModuleOperand, ModuleRows, PackKey, Ring,
    Step, StoredHalf, UniformHalf,
};
pub use sample::public::{Seed, expand_uniform};
pub use sample::secret::SecretRng;
pub use table::NttTable;
pub use words::WordKernels;
