//! Evaluation keys as an evaluator uses them: in memory, both halves or one, or waiting on disk.

use super::spool::{SpoolWriter, SpooledHalf, check_key_folder};
use super::{KeyId, KeyRequest, KeyShape, PlannedKey, SeededKey, UploadKey};
use crate::{Error, Parameters, SecretKind};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use undertone_ring::{
    Basis, ComputedHalf, GadgetKey, PackedPoly, Permutation, Ring, Seed, Step, UniformHalf, expand_uniform,
};

/// How evaluation keys wait for their use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeyMemory {
    /// Both halves: more memory, and more of it to read.
    Expanded,
    /// The uniform half as a seed, made again at each use: half the memory, more work.
    Seeded,
    /// Seeded, and the computed halves in a private file but for the first that fit into so many bytes of memory.
    Spooled {
        /// Where the file is made.
        folder: PathBuf,
        /// Bytes of computed halves that stay in memory.
        held_bytes: u64,
    },
}

impl KeyMemory {
    /// Mebibytes of keys that stay in memory beside those on disk unless a user says otherwise.
    pub const HELD_MIB: u64 = 256;

    /// Keys in a file of `folder` but for the first `held_mib` MiB, or [`KeyMemory::HELD_MIB`].
    ///
    /// # Errors
    /// What the system says of a folder that takes no file.
    pub fn spooled(folder: &Path, held_mib: Option<u64>) -> std::io::Result<Self> {
        check_key_folder(folder)?;
        let held_bytes = held_mib.unwrap_or(Self::HELD_MIB).saturating_mul(1 << 20);
        Ok(Self::Spooled { folder: folder.to_owned(), held_bytes })
    }

    /// Bytes of memory and of disk that keys take, from the bytes of the packed digits of each in the order in which they come.
    pub fn bytes(&self, keys: impl IntoIterator<Item = u64>) -> [u64; 2] {
        let mut bytes = [0u64; 2];
        for key in keys {
            let fits = |held_bytes: &u64| bytes[0].saturating_add(key) <= *held_bytes;
            match self {
                Self::Expanded => bytes[0] = bytes[0].saturating_add(key.saturating_mul(2)),
                Self::Spooled { held_bytes, .. } if !fits(held_bytes) => bytes[1] = bytes[1].saturating_add(key),
                Self::Seeded | Self::Spooled { .. } => bytes[0] = bytes[0].saturating_add(key),
            }
        }
        bytes
    }

    /// Bytes of memory and of disk that the keys of an upload take. Those of products are small and always in memory.
    pub fn planned_bytes(&self, keys: &[PlannedKey]) -> [u64; 2] {
        let (products, evaluation): (Vec<&PlannedKey>, Vec<&PlannedKey>) =
            keys.iter().partition(|planned| matches!(planned.key, UploadKey::Product { .. }));
        let [held, disk] = self.bytes(evaluation.iter().map(|planned| planned.held_bytes));
        let products = products.iter().map(|planned| planned.held_bytes);
        [products.fold(held, u64::saturating_add), disk]
    }
}

/// One gadget ciphertext.
pub struct KeySwitchingKey {
    b: Computed,
    a: Uniform,
    pub(crate) level: usize,
}

enum Computed {
    Held(Vec<PackedPoly>),
    Spooled(SpooledHalf),
}

enum Uniform {
    Expanded(Vec<PackedPoly>),
    Seeded(Seed),
}

impl KeySwitchingKey {
    /// A key in memory whose digit d has `b[d]` as computed half and stream d of the seed as uniform half, which is kept as
    /// the seed or `expanded`.
    pub(crate) fn held(ring: &Ring, b: Vec<PackedPoly>, seed: Seed, level: usize, expanded: bool) -> Self {
        let expand =
            |(digit, b): (usize, &PackedPoly)| ring.pack(&expand_uniform(ring, &seed, digit as u64, b.basis()));
        let a = match expanded {
            true => Uniform::Expanded(b.iter().enumerate().map(expand).collect()),
            false => Uniform::Seeded(seed),
        };
        // Generated keys are packed in memory that the ring would like to have back.
        Self { b: Computed::Held(b.into_iter().map(PackedPoly::settled).collect()), a, level }
    }

    /// Both halves, as the ring takes them.
    pub(crate) fn gadget(&self) -> GadgetKey<'_> {
        let b = match &self.b {
            Computed::Held(polys) => ComputedHalf::Held(polys),
            Computed::Spooled(half) => ComputedHalf::Stored(half),
        };
        let a = match &self.a {
            Uniform::Expanded(polys) => UniformHalf::Expanded(polys),
            Uniform::Seeded(seed) => UniformHalf::Seeded(seed),
        };
        GadgetKey { b, a }
    }

    pub(crate) fn size_bytes(&self) -> usize {
        let bytes = |polys: &[PackedPoly]| -> usize { polys.iter().map(|poly| poly.bytes().len()).sum() };
        let computed = match &self.b {
            Computed::Held(b) => bytes(b),
            Computed::Spooled(half) => half.size_bytes(),
        };
        computed + if let Uniform::Expanded(a) = &self.a { bytes(a) } else { 0 }
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
    place: Place,
    relinearization: Option<KeySwitchingKey>,
    galois: BTreeMap<u64, GaloisKey>,
    to_sparse: Option<KeySwitchingKey>,
    from_sparse: Option<KeySwitchingKey>,
}

/// Where keys go that are inserted.
enum Place {
    Memory { expanded: bool },
    Spool { writer: SpoolWriter, free_bytes: u64 },
}

impl EvaluationKeys {
    /// An empty set.
    ///
    /// # Errors
    /// `KeySpool` when keys are to wait on disk and no file can be made there.
    pub fn new(parameters: &Parameters, memory: &KeyMemory) -> Result<Self, Error> {
        let place = match memory {
            KeyMemory::Expanded => Place::Memory { expanded: true },
            KeyMemory::Seeded => Place::Memory { expanded: false },
            KeyMemory::Spooled { folder, held_bytes } => {
                Place::Spool { writer: SpoolWriter::create(folder)?, free_bytes: *held_bytes }
            }
        };
        Ok(Self {
            parameters: parameters.clone(),
            place,
            relinearization: None,
            galois: BTreeMap::new(),
            to_sparse: None,
            from_sparse: None,
        })
    }

    /// Adds a key, replacing an earlier one of the same kind.
    ///
    /// # Errors
    /// `Decode` when the key's shape is not that of its id and level under these parameters, `KeySpool` when the disk does
    /// not take it.
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
        let key = self.place.put(ring, key, shape)?;
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
    fn gate(&self, id: KeyId, basis: Basis) -> Result<(), Error> {
        let ring = self.parameters.ring();
        let limbs = ring.q_moduli()[..basis.q].iter().chain(&ring.p_moduli()[..basis.p]);
        let log_qp = limbs.map(|m| (m.value() as f64).log2()).sum();
        let kind = match id {
            KeyId::ToSparse => SecretKind::Sparse { weight: self.parameters.literal().sparse_weight },
            _ => self.parameters.secret_kind(),
        };
        self.parameters.gate_key(log_qp, kind)
    }

    /// Whether all keys that were read from disk so far were what had been written there; a result that was made with keys
    /// that were not must not be used.
    ///
    /// # Errors
    /// `KeySpool` with the first failure.
    pub(crate) fn intact(&self) -> Result<(), Error> {
        match &self.place {
            Place::Memory { .. } => Ok(()),
            Place::Spool { writer, .. } => writer.intact(),
        }
    }

    /// Flips a bit of the byte at `offset` of the file.
    #[cfg(test)]
    pub(super) fn damage(&self, offset: u64) {
        if let Place::Spool { writer, .. } = &self.place {
            writer.damage(offset);
        }
    }

    /// Disk the keys take.
    pub fn disk_bytes(&self) -> u64 {
        match &self.place {
            Place::Memory { .. } => 0,
            Place::Spool { writer, .. } => writer.size_bytes(),
        }
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

impl Place {
    fn put(&mut self, ring: &Ring, key: SeededKey, shape: KeyShape) -> Result<KeySwitchingKey, Error> {
        let (size, level) = (key.packed_bytes(), key.level);
        match self {
            Self::Spool { writer, free_bytes } if size > *free_bytes => {
                let b = Computed::Spooled(writer.append(shape, &key.b)?);
                return Ok(KeySwitchingKey { b, a: Uniform::Seeded(key.seed), level });
            }
            Self::Spool { free_bytes, .. } => *free_bytes -= size,
            Self::Memory { .. } => {}
        }
        let expanded = matches!(self, Self::Memory { expanded: true });
        Ok(KeySwitchingKey::held(ring, key.b, key.seed, level, expanded))
    }
}

fn usable(key: Option<&KeySwitchingKey>, level: usize, name: impl Fn() -> String) -> Result<&KeySwitchingKey, Error> {
    key.filter(|k| k.level >= level).ok_or_else(|| Error::MissingKey { key: name(), need: level })
}
