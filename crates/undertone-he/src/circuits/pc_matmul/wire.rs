//! Bytes of product keys and of converted weights.
//!
//! Keys: magic 4 | version 1 | kind 1 | zero 2 | product digest 32 | key set 16 | seed 32, then the packed digits.
//! Weights: magic 4 | version 1 | zero 3 | product digest 32 | digests of input and output order 2·32 | outputs u64 |
//! inputs u64 | log2 of the gain i32 | zero 4 | checksum 32, then two bytes per entry. Little-endian. The length
//! follows from the parameters and the header and is checked before anything is allocated; the checksum is BLAKE3 over
//! the header before it and the entries.

use super::weights::PaddedShape;
use super::{MAX_GAIN_LOG2, MAX_WEIGHT, ProductKeyId, ProductParameters, ProductWeights, SeededProductKey};
use crate::Error;
use undertone_ring::{PackedPoly, Seed};

const KEY_MAGIC: [u8; 4] = *b"UNPK";
const WEIGHTS_MAGIC: [u8; 4] = *b"UNPW";
/// Version 1 had neither the key set nor the orders.
const VERSION: u8 = 2;
/// What precedes the digits of a key.
const KEY_PREFIX_BYTES: usize = 88;
/// What precedes the checksum, and the entries, of weights.
const WEIGHTS_HEADER_BYTES: usize = 128;
const WEIGHTS_PREFIX_BYTES: usize = WEIGHTS_HEADER_BYTES + 32;

/// `COUNT` bytes at `at` of a header whose length was checked.
fn field<const COUNT: usize>(bytes: &[u8], at: usize) -> [u8; COUNT] {
    let mut field = [0; COUNT];
    field.copy_from_slice(&bytes[at..at + COUNT]);
    field
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
        let mut out = Vec::new();
        self.write_bytes(parameters, &mut out);
        out
    }

    /// The canonical encoding in place of what `out` held.
    pub fn write_bytes(&self, parameters: &ProductParameters, out: &mut Vec<u8>) {
        out.clear();
        out.reserve_exact(Self::byte_len(parameters, self.id));
        out.extend_from_slice(&KEY_MAGIC);
        out.extend_from_slice(&[VERSION, self.id.code(), 0, 0]);
        out.extend_from_slice(&parameters.digest());
        out.extend_from_slice(&self.set);
        out.extend_from_slice(&self.seed.0);
        self.b.iter().for_each(|b| out.extend_from_slice(b.bytes()));
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
        Ok(Self { id, set: field(prefix, 40), b, seed: Seed(field(prefix, 56)) })
    }
}

impl ProductWeights {
    /// The canonical encoding, for a cache on disk.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(WEIGHTS_PREFIX_BYTES + self.size_bytes());
        out.extend_from_slice(&WEIGHTS_MAGIC);
        out.extend_from_slice(&[VERSION, 0, 0, 0]);
        out.extend_from_slice(&self.digest);
        out.extend_from_slice(&self.input_order);
        out.extend_from_slice(&self.output_order);
        out.extend_from_slice(&(self.outputs as u64).to_le_bytes());
        out.extend_from_slice(&(self.inputs as u64).to_le_bytes());
        out.extend_from_slice(&self.gain_log2.to_le_bytes());
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
    /// `Decode` naming the first thing wrong; `ProductLimit` for impossible numbers of channels.
    pub fn from_bytes(parameters: &ProductParameters, bytes: &[u8]) -> Result<Self, Error> {
        let fail = |cause| Error::Decode { what: "weights", cause };
        let (prefix, body) =
            bytes.split_at_checked(WEIGHTS_PREFIX_BYTES).ok_or(fail("they are shorter than their header"))?;
        let (header, checksum) = prefix.split_at(WEIGHTS_HEADER_BYTES);
        if header[..4] != WEIGHTS_MAGIC || header[4..8] != [VERSION, 0, 0, 0] || header[124..] != [0; 4] {
            return Err(fail("they do not start like weights of this version"));
        }
        if header[8..40] != parameters.digest() {
            return Err(fail("they were converted for other parameters"));
        }
        let side = |at| usize::try_from(u64::from_le_bytes(field(header, at))).unwrap_or(usize::MAX);
        let (outputs, inputs) = (side(104), side(112));
        let padded = PaddedShape::padded(parameters, outputs, inputs)?;
        if padded.entries.checked_mul(size_of::<i16>()) != Some(body.len()) {
            return Err(fail("their length does not fit their channels"));
        }
        let gain_log2 = i32::from_le_bytes(field(header, 120));
        if gain_log2.unsigned_abs() > MAX_GAIN_LOG2.unsigned_abs() {
            return Err(fail("their gain is out of range"));
        }
        let mut hasher = blake3::Hasher::new();
        if hasher.update(header).update(body).finalize().as_bytes() != checksum {
            return Err(fail("their checksum is wrong"));
        }
        let entries: Vec<i16> = body.as_chunks::<2>().0.iter().map(|&entry| i16::from_le_bytes(entry)).collect();
        if entries.iter().any(|entry| entry.unsigned_abs() > MAX_WEIGHT.unsigned_abs()) {
            return Err(fail("a weight is out of range"));
        }
        let [digest, input_order, output_order] = [8, 40, 72].map(|at| field(header, at));
        let (width, rank) = (padded.inputs, parameters.rank());
        Ok(Self { digest, input_order, output_order, outputs, inputs, gain_log2, width, rank, entries })
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
        let b = (0..parameters.key_digits(id)).map(digit).collect();
        SeededProductKey::from_parts(id, [7; 16], b, Seed([1; 32]))
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
        let held: u64 = ProductKeyId::ALL.map(|id| ProductKeys::held_bytes(&parameters, id)).iter().sum();
        assert_eq!(ProductKeys::new(&parameters, all()).unwrap().size_bytes() as u64, held);
        assert!(matches!(ProductKeys::new(&parameters, all().into_iter().skip(1)), Err(Error::MissingKey { .. })));
        let twice = all().into_iter().chain([key(&parameters, ProductKeyId::Up)]);
        assert!(matches!(ProductKeys::new(&parameters, twice), Err(Error::Decode { .. })));
        let mut mixed = all();
        mixed[1].set[15] ^= 1;
        assert!(matches!(
            ProductKeys::new(&parameters, mixed),
            Err(Error::Decode { cause: "it belongs to another set of keys", .. })
        ));
        // Eight tokens want half as many digits in the pack key.
        assert!(matches!(ProductKeys::new(&product(8), all()), Err(Error::Decode { .. })));
    }

    #[test]
    fn weights_round_trip_and_every_fault_is_refused() {
        let parameters = product(4);
        let order = ComponentOrder::natural(parameters.components());
        let input_order = ComponentOrder::bit_reversed(parameters.components()).unwrap();
        let shape = WeightShape { outputs: 7, inputs: 40, output_order: order, input_order };
        let weights = ProductWeights::new(&parameters, &shape, -3, |o, i| o as i16 * 100 - i as i16).unwrap();
        let bytes = weights.to_bytes();
        let read = |bytes: &[u8]| ProductWeights::from_bytes(&parameters, bytes);
        let back = read(&bytes).unwrap();
        assert_eq!((back.outputs(), back.inputs(), back.gain_log2(), back.blocks()), (7, 40, -3, weights.blocks()));
        assert_eq!(
            (back.input_order(), back.output_order()),
            (shape.input_order.digest(), shape.output_order.digest())
        );
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

    #[test]
    fn weights_with_a_right_checksum_and_a_wrong_header_are_refused() {
        let parameters = product(4);
        let order = ComponentOrder::natural(parameters.components());
        let shape = WeightShape { outputs: 1, inputs: 1, output_order: order.clone(), input_order: order };
        let bytes = ProductWeights::new(&parameters, &shape, 0, |_, _| 1).unwrap().to_bytes();
        let read = |at: usize, field: &[u8]| {
            let mut bytes = bytes.clone();
            bytes[at..at + field.len()].copy_from_slice(field);
            let mut hasher = blake3::Hasher::new();
            hasher.update(&bytes[..WEIGHTS_HEADER_BYTES]).update(&bytes[WEIGHTS_PREFIX_BYTES..]);
            let checksum = *hasher.finalize().as_bytes();
            bytes[WEIGHTS_HEADER_BYTES..WEIGHTS_PREFIX_BYTES].copy_from_slice(&checksum);
            ProductWeights::from_bytes(&parameters, &bytes)
        };
        for gain_log2 in [MAX_GAIN_LOG2, -MAX_GAIN_LOG2] {
            assert_eq!(read(120, &gain_log2.to_le_bytes()).unwrap().gain_log2(), gain_log2);
        }
        for gain_log2 in [MAX_GAIN_LOG2 + 1, -MAX_GAIN_LOG2 - 1, i32::MAX, i32::MIN] {
            let refused = read(120, &gain_log2.to_le_bytes());
            assert!(matches!(refused, Err(Error::Decode { cause: "their gain is out of range", .. })));
        }
        for side in [104, 112] {
            for channels in [0, (1 << 20) + 1, u64::MAX] {
                assert!(matches!(read(side, &channels.to_le_bytes()), Err(Error::ProductLimit { .. })));
            }
            assert!(matches!(read(side, &(1u64 << 20).to_le_bytes()), Err(Error::Decode { .. })));
        }
        let two = (MAX_WEIGHT + 1).to_le_bytes();
        let refused = read(WEIGHTS_PREFIX_BYTES, &two);
        assert!(matches!(refused, Err(Error::Decode { cause: "a weight is out of range", .. })));
    }
}
