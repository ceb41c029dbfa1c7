//! Bundles in memory: a crash loses all of them, and with them the session.

use std::collections::{BTreeMap, BTreeSet};

use zeroize::Zeroizing;

use super::BundleStore;
use crate::error::{Error, Result};

/// Bundles of a process that keeps none.
#[derive(Default)]
pub struct MemoryStore {
    bundles: BTreeMap<u64, Zeroizing<Vec<u8>>>,
    taken: BTreeSet<u64>,
}

impl BundleStore for MemoryStore {
    fn put(&mut self, step: u64, bundle: Zeroizing<Vec<u8>>) -> Result<()> {
        if self.taken.contains(&step) {
            return Err(Error::AlreadyTaken { step });
        }
        if self.bundles.contains_key(&step) {
            return Err(Error::Duplicate { step });
        }
        self.bundles.insert(step, bundle);
        Ok(())
    }

    fn take(&mut self, step: u64) -> Result<Zeroizing<Vec<u8>>> {
        if self.taken.contains(&step) {
            return Err(Error::AlreadyTaken { step });
        }
        let bundle = self.bundles.remove(&step).ok_or(Error::NoBundle { step })?;
        self.taken.insert(step);
        Ok(bundle)
    }

    fn stock(&self) -> usize {
        self.bundles.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_conforms() {
        crate::store::tests::conformance(&mut MemoryStore::default());
    }
}
