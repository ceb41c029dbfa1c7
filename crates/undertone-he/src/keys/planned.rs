//! What a client uploads before its prompt: every key that the cost evaluator saw in use, in one order for both sides,
//! with its length on the wire and the memory that it takes.

use super::{KeyRequest, SeededKey, key_requests};
use crate::circuits::pc_matmul::{ProductKeyId, ProductKeys, ProductParameters, SeededProductKey};
use crate::{Error, KeySet, Parameters};

/// A key of an upload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum UploadKey {
    /// A key-switching key of the chain.
    Evaluation(KeyRequest),
    /// A key of the matrix products between bootstraps on channels of `tokens` values each.
    Product {
        /// Which of the three.
        id: ProductKeyId,
        /// T, a power of two.
        tokens: usize,
    },
}

impl UploadKey {
    /// The level up to which it serves.
    pub fn level(&self) -> usize {
        match self {
            Self::Evaluation(request) => request.level,
            Self::Product { id, .. } => id.level(),
        }
    }
}

impl From<KeyRequest> for UploadKey {
    fn from(request: KeyRequest) -> Self {
        Self::Evaluation(request)
    }
}

/// A key of an upload with its sizes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PlannedKey {
    /// Which key.
    pub key: UploadKey,
    /// Its length in bytes on the wire.
    pub len: usize,
    /// Bytes that cannot be made again from a seed; of product keys, which never wait elsewhere, all that they take in
    /// memory.
    pub held_bytes: u64,
}

/// Every key that a planned circuit needs, in upload order: those of the chain as `key_requests` gives them, then the three
/// of each number of tokens with which the circuit multiplies between bootstraps.
///
/// # Errors
/// `Decode` for keys and `Parameters` for products that do not exist under these parameters; none for a key set that the
/// cost evaluator made for their chain.
pub fn planned_keys(parameters: &Parameters, set: &KeySet) -> Result<Vec<PlannedKey>, Error> {
    let evaluation = |request: KeyRequest| {
        let len = SeededKey::byte_len(parameters, request)?;
        Ok(PlannedKey { key: request.into(), len, held_bytes: SeededKey::digit_bytes(parameters, request)? })
    };
    let mut planned = key_requests(parameters, set).into_iter().map(evaluation).collect::<Result<Vec<_>, Error>>()?;
    for &tokens in &set.product_tokens {
        let product = ProductParameters::of_turn(parameters, tokens)?;
        planned.extend(ProductKeyId::ALL.map(|id| PlannedKey {
            key: UploadKey::Product { id, tokens },
            len: SeededProductKey::byte_len(&product, id),
            held_bytes: ProductKeys::held_bytes(&product, id),
        }));
    }
    Ok(planned)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{KeyId, KeyMemory};
    use std::collections::BTreeMap;

    #[test]
    fn product_keys_come_last_and_only_where_products_are() {
        let set = KeySet {
            relinearization_level: Some(9),
            rotations: BTreeMap::from([(1, 4)]),
            product_tokens: [16, 128].into(),
            ..KeySet::default()
        };
        let parameters = Parameters::product_preset();
        let planned = planned_keys(&parameters, &set).unwrap();
        let products: Vec<_> = planned[2..].iter().map(|planned| (planned.key, planned.key.level())).collect();
        let expected = [16, 128].into_iter().flat_map(|tokens| {
            [(ProductKeyId::Down, 1), (ProductKeyId::Pack, 0), (ProductKeyId::Up, 0)]
                .map(|(id, level)| (UploadKey::Product { id, tokens }, level))
        });
        assert_eq!(products, expected.collect::<Vec<_>>());
        assert_eq!(planned[0].key, KeyRequest { id: KeyId::Relinearization, level: 9 }.into());
        // A chain without a product prime has no such keys, and a set that asks for them is refused.
        assert!(planned_keys(&Parameters::default_preset(), &set).is_err());
        let without = KeySet { product_tokens: [].into(), ..set };
        assert_eq!(planned_keys(&Parameters::default_preset(), &without).unwrap().len(), 2);
        assert_eq!(
            KeyMemory::Seeded.planned_bytes(&planned[..2]),
            KeyMemory::Seeded.bytes(planned[..2].iter().map(|key| key.held_bytes))
        );
    }
}
