//! Bytes of product keys and of converted weights.
//!
//! Keys: magic 4 | version 1 | kind 1 | zero 2 | product digest 32 | seed 32, then the packed digits. Weights: magic 4 |
//! version 1 | zero 3 | product digest 32 | outputs u64 | inputs u64 | exponent i32 | zero 4 | checksum 32, then two
//! bytes per entry. Little-endian. The length follows from the parameters and the header and is checked before anything is
//! allocated; the checksum is BLAKE3 over the header before it and the entries.

use super::weights::PaddedShape;
use super::{MAX_WEIGHT, ProductKeyId, ProductParameters, ProductWeights, SeededProductKey};
use crate::Error;
use undertone_ring::{PackedPoly, Seed};

const KEY_MAGIC: [u8; 4] = *b"UNPK";
const WEIGHTS_MAGIC: [u8; 4] = *b"UNPW";
const VERSION: u8 = 1;
/// What precedes the digits of a key.
const KEY_PREFIX_BYTES: usize = 72;
/// What precedes the checksum, and the entries, of weights.
const WEIGHTS_HEADER_BYTES: usize = 64;
const WEIGHTS_PREFIX_BYTES: usize = WEIGHTS_HEADER_BYTES + 32;

/// Eight bytes at `at` of a header whose length was checked.
fn word(bytes: &[u8], at: usize) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(word)
}

impl ProductKeyId {
    fn code(self) -> u8 {
        self as u8 + 1
    }
}

impl SeededProductKey {
    /// Exact length of a key.
    pub fn byte_len(parameters: &ProductParameters, id: ProductKeyId) -> usize {
        let packed = parameters.key_ring(id).packed_bytes(parameters.key_basis(id));
        KEY_PREFIX_BYTES + parameters.key_digits(id) * packed
    }

    /// The canonical encoding.
    pub fn to_bytes(&self, parameters: &ProductParameters) -> Vec<u8> {
        let mut out = Vec::with_capacity(Self::byte_len(parameters, self.id));
        out.extend_from_slice(&KEY_MAGIC);
        out.extend_from_slice(&[VERSION, self.id.code(), 0, 0]);
        out.extend_from_slice(&parameters.digest());
        out.extend_from_slice(&self.seed.0);
        self.b.iter().for_each(|b| out.extend_from_slice(b.bytes()));
        out
    }

    /// Decodes and validates.
    ///
    /// # Errors
    /// `Decode` naming the first thing wrong, `Insecure` outside the security table.
    pub fn from_bytes(parameters: &ProductParameters, bytes: &[u8]) -> Result<Self, Error> {
        let fail = |cause| Error::Decode { what: "product key", cause };
        let (prefix, body) = bytes.split_at_checked(KEY_PREFIX_BYTES).ok_or(fail("it is shorter than its header"))?;
        if prefix[..4] != KEY_MAGIC || prefix[4] != VERSION || prefix[6..8] != [0; 2] {
            return Err(fail("it does not start like a product key of this version"));
        }
        if prefix[8..40] != parameters.digest() {
            return Err(fail("it was made for other parameters"));
        }
        let id = ProductKeyId::ALL.into_iter().find(|id| id.code() == prefix[5]).ok_or(fail("its kind is unknown"))?;
        if bytes.len() != Self::byte_len(parameters, id) {
            return Err(fail("its length does not fit its kind"));
        }
        parameters.gate_key(id)?;
        let (ring, basis) = (parameters.key_ring(id), parameters.key_basis(id));
        let digits = body.chunks_exact(ring.packed_bytes(basis));
        let b = digits.map(|digit| ring.packed_from_bytes(basis, digit)).collect::<Option<Vec<PackedPoly>>>();
        let b = b.ok_or(fail("a residue is not below its modulus"))?;
        let mut seed = [0; 32];
        seed.copy_from_slice(&prefix[40..]);
        Ok(Self { id, b, seed: Seed(seed) })
    }
}

impl ProductWeights {
    /// The canonical encoding, for a cache on disk.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(WEIGHTS_PREFIX_BYTES + self.size_bytes());
        out.extend_from_slice(&WEIGHTS_MAGIC);
        out.extend_from_slice(&[VERSION, 0, 0, 0]);
        out.extend_from_slice(&self.digest);
        out.extend_from_slice(&(self.outputs as u64).to_le_bytes());
        out.extend_from_slice(&(self.inputs as u64).to_le_bytes());
        out.extend_from_slice(&self.exponent.to_le_bytes());
        out.extend_from_slice(&[0; 4]);
        let mut hasher = blake3::Hasher::new();
        hasher.update(&out);
        out.extend_from_slice(&[0; 32]);
        self.entries.iter().for_each(|entry| out.extend_from_slice(&entry.to_le_bytes()));
        hasher.update(&out[WEIGHTS_PREFIX_BYTES..]);
        out[WEIGHTS_HEADER_BYTES..WEIGHTS_PREFIX_BYTES].copy_from_slice(hasher.finalize().as_bytes());
        out
    }

    /// Decodes and validates.
    ///
    /// # Errors
    /// `Decode` naming the first thing wrong; `ProductShape` for impossible numbers of channels.
    pub fn from_bytes(parameters: &ProductParameters, bytes: &[u8]) -> Result<Self, Error> {
        let fail = |cause| Error::Decode { what: "weights", cause };
        let (prefix, body) =
            bytes.split_at_checked(WEIGHTS_PREFIX_BYTES).ok_or(fail("they are shorter than their header"))?;
        let (header, checksum) = prefix.split_at(WEIGHTS_HEADER_BYTES);
        if header[..4] != WEIGHTS_MAGIC || header[4..8] != [VERSION, 0, 0, 0] || header[60..] != [0; 4] {
            return Err(fail("they do not start like weights of this version"));
        }
        if header[8..40] != parameters.digest() {
            return Err(fail("they were converted for other parameters"));
        }
        let side = |at| usize::try_from(word(header, at)).unwrap_or(usize::MAX);
        let (outputs, inputs) = (side(40), side(48));
        let padded = PaddedShape::padded(parameters, outputs, inputs)?;
        if body.len() != 2 * padded.outputs * padded.inputs {
            return Err(fail("their length does not fit their channels"));
        }
        let mut hasher = blake3::Hasher::new();
        if hasher.update(header).update(body).finalize().as_bytes() != checksum {
            return Err(fail("their checksum is wrong"));
        }
        let exponent = i32::from_le_bytes([header[56], header[57], header[58], header[59]]);
        let entries: Vec<i16> = body.as_chunks::<2>().0.iter().map(|&entry| i16::from_le_bytes(entry)).collect();
        if entries.iter().any(|entry| entry.unsigned_abs() > MAX_WEIGHT.unsigned_abs()) {
            return Err(fail("a weight is out of range"));
        }
        let digest = parameters.digest();
        Ok(Self { digest, outputs, inputs, exponent, width: padded.inputs, rank: parameters.rank(), entries })
    }
}

#[cfg(test)]
mod tests {
    use super::super::{ComponentOrder, ProductKeys, WeightShape};
    use super::*;
    use crate::{Parameters, ParametersLiteral};
    use undertone_ring::expand_uniform;

    fn product(tokens: usize) -> ProductParameters {
        let literal = ParametersLiteral { log_n: 7, secret_weight: 64, ..ParametersLiteral::n16_product() };
        ProductParameters::new(&Parameters::build_unchecked(literal), 5, tokens).unwrap()
    }

    fn key(parameters: &ProductParameters, id: ProductKeyId) -> SeededProductKey {
        let (ring, basis) = (parameters.key_ring(id), parameters.key_basis(id));
        let digit = |d| ring.pack(&expand_uniform(ring, &Seed([3; 32]), d as u64, basis));
        SeededProductKey::from_parts(id, (0..parameters.key_digits(id)).map(digit).collect(), Seed([1; 32]))
    }

    #[test]
    fn keys_round_trip_and_every_fault_is_refused() {
        let parameters = product(4);
        for id in ProductKeyId::ALL {
            let bytes = key(&parameters, id).to_bytes(&parameters);
            assert_eq!(bytes.len(), SeededProductKey::byte_len(&parameters, id));
            let read = |bytes: &[u8]| SeededProductKey::from_bytes(&parameters, bytes);
            assert_eq!(read(&bytes).unwrap().to_bytes(&parameters), bytes);
            for bit in 0..40 * 8 {
                let mut damaged = bytes.clone();
                damaged[bit / 8] ^= 1 << (bit % 8);
                assert!(matches!(read(&damaged), Err(Error::Decode { .. })), "bit {bit}");
            }
            for length in (0..100).chain([bytes.len() - 1]) {
                assert!(read(&bytes[..length]).is_err());
            }
            let mut large = bytes.clone();
            large[KEY_PREFIX_BYTES..KEY_PREFIX_BYTES + 8].fill(0xff);
            assert!(matches!(read(&large), Err(Error::Decode { cause: "a residue is not below its modulus", .. })));
            assert!(SeededProductKey::from_bytes(&product(8), &bytes).is_err());
        }
    }

    #[test]
    fn a_key_set_holds_each_kind_once_and_in_its_shape() {
        let parameters = product(4);
        let all = || ProductKeyId::ALL.map(|id| key(&parameters, id));
        assert!(ProductKeys::new(&parameters, all()).is_ok());
        assert!(matches!(ProductKeys::new(&parameters, all().into_iter().skip(1)), Err(Error::MissingKey { .. })));
        let twice = all().into_iter().chain([key(&parameters, ProductKeyId::Up)]);
        assert!(matches!(ProductKeys::new(&parameters, twice), Err(Error::Decode { .. })));
        // Eight tokens want half as many digits in the pack key.
        assert!(matches!(ProductKeys::new(&product(8), all()), Err(Error::Decode { .. })));
    }

    #[test]
    fn weights_round_trip_and_every_fault_is_refused() {
        let parameters = product(4);
        let order = ComponentOrder::natural(parameters.components());
        let shape = WeightShape { outputs: 7, inputs: 40, output_order: order.clone(), input_order: order };
        let weights = ProductWeights::new(&parameters, &shape, -3, |o, i| o as i16 * 100 - i as i16).unwrap();
        let bytes = weights.to_bytes();
        let read = |bytes: &[u8]| ProductWeights::from_bytes(&parameters, bytes);
        let back = read(&bytes).unwrap();
        assert_eq!((back.outputs(), back.inputs(), back.exponent(), back.blocks()), (7, 40, -3, weights.blocks()));
        assert!(back.to_bytes() == bytes);
        for bit in (0..WEIGHTS_PREFIX_BYTES * 8).chain([bytes.len() * 8 - 1]) {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(read(&damaged).is_err(), "bit {bit}");
        }
        for length in (0..WEIGHTS_PREFIX_BYTES + 1).chain([bytes.len() - 1]) {
            assert!(read(&bytes[..length]).is_err());
        }
        assert!(ProductWeights::from_bytes(&product(8), &bytes).is_err());
    }
}
