//! Ciphertexts: an RLWE pair in NTT form with its exact scale.

use crate::Parameters;
use undertone_ring::{Ntt, Poly, Seed, expand_uniform};

/// (c0, c1) with c0 + c1·s ≈ scale · message modulo the q limbs of its level.
#[derive(Clone)]
pub struct Ciphertext {
    pub(crate) c0: Poly<Ntt>,
    pub(crate) c1: Poly<Ntt>,
    pub(crate) scale: f64,
}

impl Ciphertext {
    /// Builds a ciphertext from its halves, which share one basis of q limbs.
    ///
    /// # Panics
    /// When the bases differ or hold special limbs (a defect of the caller).
    pub fn from_parts(c0: Poly<Ntt>, c1: Poly<Ntt>, scale: f64) -> Self {
        assert!(c0.basis() == c1.basis() && c0.basis().p == 0 && c0.basis().q > 0);
        Self { c0, c1, scale }
    }

    /// Rescales left: one less than the number of q limbs.
    pub fn level(&self) -> usize {
        self.c0.basis().q - 1
    }

    /// The factor between message and plaintext polynomial.
    pub fn scale(&self) -> f64 {
        self.scale
    }

    /// The part without the secret, and the part that multiplies it.
    pub fn parts(&self) -> (&Poly<Ntt>, &Poly<Ntt>) {
        (&self.c0, &self.c1)
    }
}

/// A fresh encryption whose uniform half travels as a seed.
#[derive(Clone)]
pub struct SeededCiphertext {
    pub(crate) c0: Poly<Ntt>,
    pub(crate) seed: Seed,
}

impl SeededCiphertext {
    /// Builds one from the computed half and the seed of the other, at the canonical scale of its level.
    pub fn from_parts(c0: Poly<Ntt>, seed: Seed) -> Self {
        Self { c0, seed }
    }

    /// Rescales left.
    pub fn level(&self) -> usize {
        self.c0.basis().q - 1
    }

    /// Regenerates the uniform half.
    pub fn expand(&self, parameters: &Parameters) -> Ciphertext {
        let c1 = expand_uniform(parameters.ring(), &self.seed, CIPHERTEXT_COUNTER, self.c0.basis());
        Ciphertext { c0: self.c0.clone(), c1, scale: parameters.scale(self.level()) }
    }
}

/// The stream counter of a seeded ciphertext's uniform half (keys use the digit index).
pub const CIPHERTEXT_COUNTER: u64 = 0;
