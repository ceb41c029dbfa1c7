//! Bytes of evaluation keys.

use super::header::{self, HEADER_BYTES, Kind};
use crate::keys::KeyShape;
use crate::{Error, KeyId, KeyRequest, Parameters, SeededKey};
use undertone_ring::{PackedPoly, Ring, Seed};

const SEED_BYTES: usize = 32;
/// What precedes the packed digits of a key.
pub const KEY_PREFIX_BYTES: usize = HEADER_BYTES + SEED_BYTES;
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
        Ok(KEY_PREFIX_BYTES + Self::digit_bytes(parameters, request)? as usize)
    }

    /// Bytes of all packed digits of the key that a request asks for: what of it cannot be made again from a seed.
    ///
    /// # Errors
    /// `Decode` when no such key exists under these parameters.
    pub fn digit_bytes(parameters: &Parameters, request: KeyRequest) -> Result<u64, Error> {
        let shape = KeyShape::of(parameters, request)?;
        Ok((shape.digits * ring_of(parameters, request.id).packed_bytes(shape.basis)) as u64)
    }

    /// The canonical encoding.
    pub fn to_bytes(&self, parameters: &Parameters) -> Vec<u8> {
        let mut out = Vec::new();
        self.write_bytes(parameters, &mut out);
        out
    }

    /// The canonical encoding in place of what `out` held.
    pub fn write_bytes(&self, parameters: &Parameters, out: &mut Vec<u8>) {
        let digits: usize = self.b.iter().map(|b| b.bytes().len()).sum();
        out.clear();
        out.reserve_exact(KEY_PREFIX_BYTES + digits);
        header::write(parameters, Kind::Key(self.id), self.level, out);
        out.extend_from_slice(&self.seed.0);
        self.b.iter().for_each(|b| out.extend_from_slice(b.bytes()));
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
        let digits = packed.chunks_exact(ring.packed_bytes(shape.basis));
        let b = digits.map(|digit| ring.packed_from_bytes(shape.basis, digit)).collect::<Option<Vec<PackedPoly>>>();
        let b = b.ok_or(Error::Decode { what: WHAT, cause: "a residue is not below its modulus" })?;
        let mut bytes = [0; SEED_BYTES];
        bytes.copy_from_slice(seed);
        Ok(Self { id, level, b, seed: Seed(bytes) })
    }
}
