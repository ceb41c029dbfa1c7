//! Evaluation keys: what a client uploads so that a server can compute.
//!
//! A key-switching key from s' to s is one gadget ciphertext: for digit d, b_d = −a_d·s + e_d + P·g_d·s', where P·g_d is
//! P modulo the primes of digit d and 0 modulo all others, so a key made at one level serves every level below it.
//! A Galois key for element g switches s to σ_g^-1(s); the automorphism is applied to the result, so that the digits of
//! a hoisted input never have to be permuted. The uniform halves a_d are regenerated from a public seed.

mod evaluation_keys;
mod planned;
mod positional;
mod spool;

use crate::{Chain, Error, KeySet, Parameters};
pub use evaluation_keys::{EvaluationKeys, KeyMemory};
pub(crate) use evaluation_keys::{GaloisKey, KeySwitchingKey};
pub use planned::{PlannedKey, UploadKey, planned_keys};
use undertone_ring::{PackedPoly, Seed};

/// Which evaluation key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum KeyId {
    /// s² to s.
    Relinearization,
    /// For the automorphism X → X^g.
    Galois(u64),
    /// From the main secret to the sparse ephemeral one, modulo q0 and one special prime only.
    ToSparse,
    /// From the sparse ephemeral secret back to the main one, at the top of the chain.
    FromSparse,
}

/// A key that a circuit needs, at its highest level of use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct KeyRequest {
    /// Which key.
    pub id: KeyId,
    /// The level up to which it must work.
    pub level: usize,
}

/// The Galois element 5^k mod 2N of a rotation by `by` slots to the left.
pub fn rotation_element(chain: Chain, by: i32) -> u64 {
    let order = chain.slot_count() as i64;
    let mut exponent = i64::from(by).rem_euclid(order);
    let modulus = 2u64 << chain.log_n;
    let (mut result, mut base) = (1u64, 5u64);
    while exponent > 0 {
        if exponent & 1 == 1 {
            result = result * base % modulus;
        }
        base = base * base % modulus;
        exponent >>= 1;
    }
    result
}

/// The Galois element of complex conjugation.
pub fn conjugation_element(chain: Chain) -> u64 {
    (2u64 << chain.log_n) - 1
}

/// Every key of the chain that a planned circuit needs, in upload order. Those of matrix products, which live in rings of
/// their own, come after them: [`planned_keys`] lists all.
pub fn key_requests(parameters: &Parameters, set: &KeySet) -> Vec<KeyRequest> {
    let chain = parameters.chain();
    let mut requests = Vec::new();
    if let Some(level) = set.relinearization_level {
        requests.push(KeyRequest { id: KeyId::Relinearization, level });
    }
    for (&by, &level) in &set.rotations {
        requests.push(KeyRequest { id: KeyId::Galois(rotation_element(chain, by)), level });
    }
    if let Some(level) = set.conjugation_level {
        requests.push(KeyRequest { id: KeyId::Galois(conjugation_element(chain)), level });
        requests.push(KeyRequest { id: KeyId::ToSparse, level: 0 });
        requests.push(KeyRequest { id: KeyId::FromSparse, level: chain.max_level });
    }
    requests
}

/// A key as it travels: computed halves and the seed of the uniform ones.
pub struct SeededKey {
    pub(crate) id: KeyId,
    pub(crate) level: usize,
    pub(crate) b: Vec<PackedPoly>,
    pub(crate) seed: Seed,
}

impl SeededKey {
    /// Builds a key from its computed halves, one per digit.
    pub fn from_parts(request: KeyRequest, b: Vec<PackedPoly>, seed: Seed) -> Self {
        Self { id: request.id, level: request.level, b, seed }
    }

    /// Which key this is.
    pub fn id(&self) -> KeyId {
        self.id
    }

    /// The level up to which it works.
    pub fn level(&self) -> usize {
        self.level
    }

    /// Bytes of all digits, packed.
    fn packed_bytes(&self) -> u64 {
        self.b.iter().map(|digit| digit.bytes().len() as u64).sum()
    }
}

/// Digits and basis that a key of one id and level must have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct KeyShape {
    pub(crate) digits: usize,
    pub(crate) basis: undertone_ring::Basis,
}

impl KeyShape {
    pub(crate) fn of(parameters: &Parameters, request: KeyRequest) -> Result<Self, Error> {
        let chain = parameters.chain();
        let wrong = |cause| Err(Error::Decode { what: "evaluation key", cause });
        if request.level > chain.max_level {
            return wrong("its level is above the chain");
        }
        match request.id {
            KeyId::ToSparse if request.level != 0 => wrong("the sparse key may exist at level 0 only"),
            KeyId::ToSparse => Ok(Self { digits: 1, basis: undertone_ring::Basis { q: 1, p: 1 } }),
            KeyId::Galois(g) if g % 2 == 0 || g >= (2u64 << chain.log_n) => wrong("its Galois element is not a unit"),
            _ => {
                Ok(Self { digits: parameters.digits(request.level).len(), basis: parameters.key_basis(request.level) })
            }
        }
    }
}
