//! The three keys of a product.
//!
//! `Down` leads from the main secret s to S = s'(X^(N/N')), with s' the uniform ternary secret of the small ring, at q0·q_w.
//! `Pack` holds s'_(r-1-t)(X^r) under s' as digit t, with s' = Σ_j X^j s'_j(X^r), and `Up` leads from S back to s, both
//! at q0. In each, digit d is b_d = −a_d·target + e_d + P·source_d; the uniform halves follow from a seed.

use super::ProductParameters;
use crate::Error;
use crate::keys::{KeyMemory, KeySwitchingKey};
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
}

/// A key as it travels.
pub struct SeededProductKey {
    pub(super) id: ProductKeyId,
    pub(super) b: Vec<PackedPoly>,
    pub(super) seed: Seed,
}

impl SeededProductKey {
    /// Builds a key from its computed halves, one per digit.
    pub fn from_parts(id: ProductKeyId, b: Vec<PackedPoly>, seed: Seed) -> Self {
        Self { id, b, seed }
    }

    /// Which key this is.
    pub fn id(&self) -> ProductKeyId {
        self.id
    }

    /// The key as a product uses it, both halves in memory.
    fn expand(self, parameters: &ProductParameters) -> Result<KeySwitchingKey, Error> {
        let (ring, basis) = (parameters.key_ring(self.id), parameters.key_basis(self.id));
        let fits = |b: &PackedPoly| {
            b.basis() == basis && b.degree() == ring.degree() && b.bytes().len() == ring.packed_bytes(basis)
        };
        if self.b.len() != parameters.key_digits(self.id) || !self.b.iter().all(fits) {
            return Err(Error::Decode { what: "product key", cause: "its digits do not fit the parameters" });
        }
        parameters.gate_key(self.id)?;
        Ok(KeySwitchingKey::expand(ring, self.b, self.seed, basis.q - 1, KeyMemory::Expanded))
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
    /// `MissingKey` when one is absent, `Decode` when one is of another shape or comes twice, `Insecure` outside the table.
    pub fn new(
        parameters: &ProductParameters,
        keys: impl IntoIterator<Item = SeededProductKey>,
    ) -> Result<Self, Error> {
        let mut found = [None, None, None];
        for key in keys {
            let place = &mut found[key.id as usize];
            if place.is_some() {
                return Err(Error::Decode { what: "product key", cause: "it comes twice" });
            }
            *place = Some(key.expand(parameters)?);
        }
        let [down, pack, up] = found;
        let need = |key: Option<KeySwitchingKey>, name: &str, need| {
            key.ok_or_else(|| Error::MissingKey { key: format!("matrix product's {name}"), need })
        };
        let pack = parameters.small_ring().pack_key(need(pack, "pack", 0)?.gadget());
        Ok(Self { down: need(down, "down", 1)?, pack, up: need(up, "up", 0)? })
    }

    /// Memory the keys take.
    pub fn size_bytes(&self) -> usize {
        self.down.size_bytes() + self.pack.size_bytes() + self.up.size_bytes()
    }
}
