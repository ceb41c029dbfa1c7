//! Evaluation keys: what a client uploads so that a server can compute.
//!
//! A key-switching key from s' to s is one gadget ciphertext: for digit d, b_d = −a_d·s + e_d + P·g_d·s', where P·g_d is
//! P modulo the primes of digit d and 0 modulo all others, so a key made at one level serves every level below it.
//! A Galois key for element g switches s to σ_g^-1(s); the automorphism is applied to the result, so that the digits of
//! a hoisted input never have to be permuted. The uniform halves a_d are regenerated from a public seed.

use crate::{Chain, Error, KeySet, Parameters, SecretKind};
use std::collections::BTreeMap;
use undertone_ring::{GadgetKey, PackedPoly, Permutation, Ring, Seed, Step, UniformHalf, expand_uniform};

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

/// Every key that a planned circuit needs, in upload order, but those of matrix products: `KeySet::product_tokens` says
/// for which numbers of tokens it needs these. They are made apart (`SeededProductKey`), and no mode uploads them yet.
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

    /// The key as the evaluator holds it.
    pub(crate) fn unpack(self, ring: &Ring, memory: KeyMemory) -> KeySwitchingKey {
        KeySwitchingKey::expand(ring, self.b, self.seed, self.level, memory)
    }
}

/// How evaluation keys wait in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyMemory {
    /// Both halves: more memory, and more of it to read.
    Expanded,
    /// The uniform half as a seed, made again at each use: half the memory, more work.
    Seeded,
}

/// One gadget ciphertext.
pub struct KeySwitchingKey {
    b: Vec<PackedPoly>,
    a: Uniform,
    pub(crate) level: usize,
}

enum Uniform {
    Expanded(Vec<PackedPoly>),
    Seeded(Seed),
}

impl KeySwitchingKey {
    /// A key whose digit d has `b[d]` as computed half and stream d of the seed as uniform half.
    pub(crate) fn expand(ring: &Ring, b: Vec<PackedPoly>, seed: Seed, level: usize, memory: KeyMemory) -> Self {
        let a = match memory {
            KeyMemory::Seeded => Uniform::Seeded(seed),
            KeyMemory::Expanded => {
                let expand =
                    |(digit, b): (usize, &PackedPoly)| ring.pack(&expand_uniform(ring, &seed, digit as u64, b.basis()));
                Uniform::Expanded(b.iter().enumerate().map(expand).collect())
            }
        };
        Self { b, a, level }
    }

    /// Both halves, as the ring takes them.
    pub(crate) fn gadget(&self) -> GadgetKey<'_> {
        let a = match &self.a {
            Uniform::Expanded(polys) => UniformHalf::Expanded(polys),
            Uniform::Seeded(seed) => UniformHalf::Seeded(seed),
        };
        GadgetKey { b: &self.b, a }
    }

    pub(crate) fn size_bytes(&self) -> usize {
        let bytes = |polys: &[PackedPoly]| -> usize { polys.iter().map(|poly| poly.bytes().len()).sum() };
        bytes(&self.b) + if let Uniform::Expanded(a) = &self.a { bytes(a) } else { 0 }
    }
}

pub(crate) struct GaloisKey {
    pub(crate) key: KeySwitchingKey,
    pub(crate) permutation: Permutation,
}

impl GaloisKey {
    /// The key switch and the automorphism after it, as the ring takes them.
    pub(crate) fn step(&self) -> Step<'_> {
        Step { key: self.key.gadget(), permutation: &self.permutation }
    }
}

/// All keys of one client, as the evaluator uses them.
pub struct EvaluationKeys {
    parameters: Parameters,
    memory: KeyMemory,
    relinearization: Option<KeySwitchingKey>,
    galois: BTreeMap<u64, GaloisKey>,
    to_sparse: Option<KeySwitchingKey>,
    from_sparse: Option<KeySwitchingKey>,
}

impl EvaluationKeys {
    /// An empty set.
    pub fn new(parameters: &Parameters, memory: KeyMemory) -> Self {
        Self {
            parameters: parameters.clone(),
            memory,
            relinearization: None,
            galois: BTreeMap::new(),
            to_sparse: None,
            from_sparse: None,
        }
    }

    /// Adds a key, replacing an earlier one of the same kind.
    ///
    /// # Errors
    /// `Decode` when the key's shape is not that of its id and level under these parameters.
    pub fn insert(&mut self, key: SeededKey) -> Result<(), Error> {
        let shape = KeyShape::of(&self.parameters, KeyRequest { id: key.id, level: key.level })?;
        if key.b.len() != shape.digits || key.b.iter().any(|b| b.basis() != shape.basis) {
            return Err(Error::Decode { what: "evaluation key", cause: "its digits do not fit its level" });
        }
        let id = key.id;
        self.gate(id, shape.basis)?;
        let ring = match id {
            KeyId::ToSparse => self.parameters.sparse_ring(),
            _ => self.parameters.ring(),
        };
        if key.b.iter().any(|b| b.degree() != ring.degree() || b.bytes().len() != ring.packed_bytes(shape.basis)) {
            return Err(Error::Decode { what: "evaluation key", cause: "it is of another ring" });
        }
        let key = key.unpack(ring, self.memory);
        match id {
            KeyId::Relinearization => self.relinearization = Some(key),
            KeyId::ToSparse => self.to_sparse = Some(key),
            KeyId::FromSparse => self.from_sparse = Some(key),
            KeyId::Galois(element) => {
                let permutation = ring.permutation(element);
                self.galois.insert(element, GaloisKey { key, permutation });
            }
        }
        Ok(())
    }

    /// The server's own check of the table, so that it need not trust the client's.
    fn gate(&self, id: KeyId, basis: undertone_ring::Basis) -> Result<(), Error> {
        let ring = self.parameters.ring();
        let limbs = ring.q_moduli()[..basis.q].iter().chain(&ring.p_moduli()[..basis.p]);
        let log_qp = limbs.map(|m| (m.value() as f64).log2()).sum();
        let kind = match id {
            KeyId::ToSparse => SecretKind::Sparse { weight: self.parameters.literal().sparse_weight },
            _ => self.parameters.secret_kind(),
        };
        self.parameters.gate_key(log_qp, kind)
    }

    /// Memory the keys take.
    pub fn size_bytes(&self) -> usize {
        let single = [&self.relinearization, &self.to_sparse, &self.from_sparse];
        let single: usize = single.into_iter().flatten().map(KeySwitchingKey::size_bytes).sum();
        single + self.galois.values().map(|g| g.key.size_bytes()).sum::<usize>()
    }

    pub(crate) fn relinearization(&self, level: usize) -> Result<&KeySwitchingKey, Error> {
        usable(self.relinearization.as_ref(), level, || "relinearization".into())
    }

    pub(crate) fn main_to_ephemeral(&self) -> Result<&KeySwitchingKey, Error> {
        usable(self.to_sparse.as_ref(), 0, || "main-to-ephemeral".into())
    }

    pub(crate) fn ephemeral_to_main(&self, level: usize) -> Result<&KeySwitchingKey, Error> {
        usable(self.from_sparse.as_ref(), level, || "ephemeral-to-main".into())
    }

    pub(crate) fn galois(&self, element: u64, level: usize) -> Result<&GaloisKey, Error> {
        let found = self.galois.get(&element).filter(|g| g.key.level >= level);
        found.ok_or_else(|| Error::MissingKey { key: format!("Galois {element}"), need: level })
    }
}

fn usable(key: Option<&KeySwitchingKey>, level: usize, name: impl Fn() -> String) -> Result<&KeySwitchingKey, Error> {
    key.filter(|k| k.level >= level).ok_or_else(|| Error::MissingKey { key: name(), need: level })
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
