//! Bytes of ciphertexts.

use super::header::{self, HEADER_BYTES, Kind};
use super::pack::{read_poly, write_poly};
use crate::{Ciphertext, Error, Parameters, SeededCiphertext};
use undertone_ring::Seed;

const SEED_BYTES: usize = 32;
/// Relative distance from the canonical scale that rounding of f64 may leave.
const SCALE_TOLERANCE: f64 = 1e-9;

impl Ciphertext {
    /// Exact length of a ciphertext at `level`.
    pub fn byte_len(parameters: &Parameters, level: usize) -> usize {
        HEADER_BYTES + 2 * parameters.ring().packed_bytes(parameters.basis(level))
    }

    /// The canonical encoding. The scale does not travel: a value that leaves a circuit is at its level's canonical one.
    ///
    /// # Errors
    /// `ScaleMismatch` when this value is at another scale, at which the reader would decrypt another message.
    pub fn to_bytes(&self, parameters: &Parameters) -> Result<Vec<u8>, Error> {
        let need = parameters.scale(self.level());
        let canonical = (self.scale / need - 1.0).abs() <= SCALE_TOLERANCE;
        if !canonical {
            let (have_log2, need_log2) = (self.scale.log2(), need.log2());
            return Err(Error::ScaleMismatch { op: "to_bytes", have_log2, need_log2 });
        }
        let mut out = Vec::with_capacity(Self::byte_len(parameters, self.level()));
        header::write(parameters, Kind::Ciphertext, self.level(), &mut out);
        write_poly(parameters.ring(), &self.c0, &mut out);
        write_poly(parameters.ring(), &self.c1, &mut out);
        Ok(out)
    }

    /// Decodes and validates.
    ///
    /// # Errors
    /// `Decode` naming the first thing wrong.
    pub fn from_bytes(parameters: &Parameters, bytes: &[u8]) -> Result<Self, Error> {
        const WHAT: &str = "ciphertext";
        let (kind, level, body) = header::read(parameters, bytes, WHAT)?;
        if kind != Kind::Ciphertext {
            return Err(Error::Decode { what: WHAT, cause: "it is another kind of object" });
        }
        if bytes.len() != Self::byte_len(parameters, level) {
            return Err(Error::Decode { what: WHAT, cause: "its length does not fit its level" });
        }
        let basis = parameters.basis(level);
        let (first, second) = body.split_at(parameters.ring().packed_bytes(basis));
        let c0 = read_poly(parameters.ring(), basis, first, WHAT)?;
        let c1 = read_poly(parameters.ring(), basis, second, WHAT)?;
        Ok(Self { c0, c1, scale: parameters.scale(level) })
    }
}

impl SeededCiphertext {
    /// Exact length of a seeded ciphertext at `level`.
    pub fn byte_len(parameters: &Parameters, level: usize) -> usize {
        HEADER_BYTES + SEED_BYTES + parameters.ring().packed_bytes(parameters.basis(level))
    }

    /// The canonical encoding.
    pub fn to_bytes(&self, parameters: &Parameters) -> Vec<u8> {
        let mut out = Vec::with_capacity(Self::byte_len(parameters, self.level()));
        header::write(parameters, Kind::SeededCiphertext, self.level(), &mut out);
        out.extend_from_slice(&self.seed.0);
        write_poly(parameters.ring(), &self.c0, &mut out);
        out
    }

    /// Decodes and validates.
    ///
    /// # Errors
    /// `Decode` naming the first thing wrong.
    pub fn from_bytes(parameters: &Parameters, bytes: &[u8]) -> Result<Self, Error> {
        const WHAT: &str = "seeded ciphertext";
        let (kind, level, body) = header::read(parameters, bytes, WHAT)?;
        if kind != Kind::SeededCiphertext {
            return Err(Error::Decode { what: WHAT, cause: "it is another kind of object" });
        }
        if bytes.len() != Self::byte_len(parameters, level) {
            return Err(Error::Decode { what: WHAT, cause: "its length does not fit its level" });
        }
        let (seed, packed) = body.split_at(SEED_BYTES);
        let c0 = read_poly(parameters.ring(), parameters.basis(level), packed, WHAT)?;
        let mut bytes = [0; SEED_BYTES];
        bytes.copy_from_slice(seed);
        Ok(Self { c0, seed: Seed(bytes) })
    }
}
