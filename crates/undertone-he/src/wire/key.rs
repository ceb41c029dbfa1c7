//! Bytes of evaluation keys.

use super::header::{self, HEADER_BYTES, Kind};
use super::pack::{poly_bytes, read_poly, write_poly};
use crate::keys::KeyShape;
use crate::{Error, KeyId, KeyRequest, Parameters, SeededKey};
use undertone_ring::{Ring, Seed};

const SEED_BYTES: usize = 32;
const WHAT: &str = "evaluation key";

fn ring_of(parameters: &Parameters, id: KeyId) -> &Ring {
    match id {
        KeyId::ToSparse => parameters.sparse_ring(),
        _ => parameters.ring(),
    }
}

impl SeededKey {
    /// Exact length of the key that a request asks for.
    ///
    /// # Errors
    /// `Decode` when no such key exists under these parameters.
    pub fn byte_len(parameters: &Parameters, request: KeyRequest) -> Result<usize, Error> {
        let shape = KeyShape::of(parameters, request)?;
        let digit = poly_bytes(ring_of(parameters, request.id), shape.basis);
        Ok(HEADER_BYTES + SEED_BYTES + shape.digits * digit)
    }

    /// Memory of that key as an evaluator holds it with [`KeyMemory::Seeded`](crate::KeyMemory::Seeded).
    ///
    /// # Errors
    /// As [`SeededKey::byte_len`].
    pub fn held_bytes(parameters: &Parameters, request: KeyRequest) -> Result<usize, Error> {
        let shape = KeyShape::of(parameters, request)?;
        Ok(shape.digits * shape.basis.limb_count() * (size_of::<u64>() << parameters.chain().log_n))
    }

    /// The canonical encoding.
    pub fn to_bytes(&self, parameters: &Parameters) -> Vec<u8> {
        let ring = ring_of(parameters, self.id);
        let digits: usize = self.b.iter().map(|b| poly_bytes(ring, b.basis())).sum();
        let mut out = Vec::with_capacity(HEADER_BYTES + SEED_BYTES + digits);
        header::write(parameters, Kind::Key(self.id), self.level, &mut out);
        out.extend_from_slice(&self.seed.0);
        self.b.iter().for_each(|b| write_poly(ring, b, &mut out));
        out
    }

    /// Decodes and validates.
    ///
    /// # Errors
    /// `Decode` naming the first thing wrong.
    pub fn from_bytes(parameters: &Parameters, bytes: &[u8]) -> Result<Self, Error> {
        let (kind, level, body) = header::read(parameters, bytes, WHAT)?;
        let Kind::Key(id) = kind else {
            return Err(Error::Decode { what: WHAT, cause: "it is another kind of object" });
        };
        let request = KeyRequest { id, level };
        let shape = KeyShape::of(parameters, request)?;
        if bytes.len() != Self::byte_len(parameters, request)? {
            return Err(Error::Decode { what: WHAT, cause: "its length does not fit its level" });
        }
        let ring = ring_of(parameters, id);
        let (seed, packed) = body.split_at(SEED_BYTES);
        let digits = packed.chunks_exact(poly_bytes(ring, shape.basis));
        let b = digits.map(|digit| read_poly(ring, shape.basis, digit, WHAT)).collect::<Result<_, _>>()?;
        let mut bytes = [0; SEED_BYTES];
        bytes.copy_from_slice(seed);
        Ok(Self { id, level, b, seed: Seed(bytes) })
    }
}
