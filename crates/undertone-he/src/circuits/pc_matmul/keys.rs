//! The three keys of a product.
//!
//! `Down` leads from the main secret s to S = s'(X^(N/N')), with s' the uniform ternary secret of the small ring, at
//! q0·q_w. `Pack` holds s'_(r-1-t)(X^r) under s' as digit t, with s' = Σ_j X^j s'_j(X^r), and `Up` leads from S back to
//! s, both at q0. In each, digit d is b_d = −a_d·target + e_d + P·source_d; the uniform halves follow from a seed.
//! Keys of one s' share a public random set id, because keys of two such secrets give noise together.

use super::ProductParameters;
use crate::Error;
use crate::keys::KeySwitchingKey;
use undertone_ring::{PackKey, PackedPoly, Seed};

/// Which key of a product.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ProductKeyId {
    /// From the main secret to that of the small ring.
    Down,
    /// From the components of the small ring's secret to the whole.
    Pack,
    /// Back to the main secret.
    Up,
}

impl ProductKeyId {
    /// All keys, in the order in which they are used and sent.
    pub const ALL: [Self; 3] = [Self::Down, Self::Pack, Self::Up];

    /// The level at which it is used.
    pub fn level(self) -> usize {
        usize::from(self == Self::Down)
    }
}

/// A key as it travels.
pub struct SeededProductKey {
    pub(super) id: ProductKeyId,
    pub(super) set: [u8; 16],
    pub(super) b: Vec<PackedPoly>,
    pub(super) seed: Seed,
}

impl SeededProductKey {
    /// Builds a key from its computed halves, one per digit; keys that fit each other have the same `set`.
    pub fn from_parts(id: ProductKeyId, set: [u8; 16], b: Vec<PackedPoly>, seed: Seed) -> Self {
        Self { id, set, b, seed }
    }

    /// Which key this is.
    pub fn id(&self) -> ProductKeyId {
        self.id
    }

    /// Refuses digits of another number or shape, and what the security gate refuses.
    fn check(&self, parameters: &ProductParameters) -> Result<(), Error> {
        let (ring, basis) = (parameters.key_ring(self.id), parameters.key_basis(self.id));
        let fits = |b: &PackedPoly| {
            b.basis() == basis && b.degree() == ring.degree() && b.bytes().len() == ring.packed_bytes(basis)
        };
        if self.b.len() != parameters.key_digits(self.id) || !self.b.iter().all(fits) {
            return Err(Error::Decode { what: "product key", cause: "its digits do not fit the parameters" });
        }
        parameters.gate_key(self.id)
    }

    /// The key as a key switch uses it, both halves in memory.
    fn expand(self, parameters: &ProductParameters) -> KeySwitchingKey {
        let level = parameters.key_basis(self.id).q - 1;
        KeySwitchingKey::held(parameters.key_ring(self.id), self.b, self.seed, level, true)
    }
}

/// The keys of one client for products.
pub struct ProductKeys {
    pub(super) down: KeySwitchingKey,
    pub(super) pack: PackKey,
    pub(super) up: KeySwitchingKey,
}

impl ProductKeys {
    /// Takes over one key of each kind, in any order.
    ///
    /// # Errors
    /// `MissingKey` when one is absent, `Decode` when one is of another shape or another set or comes twice, `Insecure`
    /// outside the table.
    pub fn new(
        parameters: &ProductParameters,
        keys: impl IntoIterator<Item = SeededProductKey>,
    ) -> Result<Self, Error> {
        let fail = |cause| Err(Error::Decode { what: "product key", cause });
        let mut found = [None, None, None];
        let mut set = None;
        for key in keys {
            key.check(parameters)?;
            if *set.get_or_insert(key.set) != key.set {
                return fail("it belongs to another set of keys");
            }
            let place = &mut found[key.id as usize];
            if place.is_some() {
                return fail("it comes twice");
            }
            *place = Some(key);
        }
        let [down, pack, up] = found;
        let need = |key: Option<SeededProductKey>, name: &str, need| {
            key.ok_or_else(|| Error::MissingKey { key: format!("matrix product's {name}"), need })
        };
        let (down, pack, up) = (need(down, "down", 1)?, need(pack, "pack", 0)?, need(up, "up", 0)?);
        let pack = parameters.small_ring().pack_key(&pack.b, &pack.seed);
        Ok(Self { down: down.expand(parameters), pack, up: up.expand(parameters) })
    }

    /// Memory that one of the keys takes: both halves, packed but for those of the pack key.
    pub fn held_bytes(parameters: &ProductParameters, id: ProductKeyId) -> u64 {
        let (ring, basis) = (parameters.key_ring(id), parameters.key_basis(id));
        let half = match id {
            ProductKeyId::Pack => size_of::<u64>() * ring.degree() * basis.limb_count(),
            ProductKeyId::Down | ProductKeyId::Up => ring.packed_bytes(basis),
        };
        2 * (parameters.key_digits(id) * half) as u64
    }

    /// Memory the keys take.
    pub fn size_bytes(&self) -> usize {
        self.down.size_bytes() + self.pack.size_bytes() + self.up.size_bytes()
    }
}
