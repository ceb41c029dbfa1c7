//! Bundles between dealing and use: produced ahead, taken once, never again, whatever crashes.
//!
//! [`BundleStore::take`] marks a bundle as taken, durably, and only then returns it. A crash between the two loses the
//! bundle, which costs nothing but the bundle; the order can never lead to a mask that is used twice. The mark stays
//! when the bundle is gone, so that a copy of it is refused as well.

mod directory;
mod folder;
mod lock;
mod memory;

use zeroize::Zeroizing;

use crate::error::Result;

pub use directory::DirectoryStore;
pub use folder::StoreFolder;
pub use lock::FolderLock;
pub use memory::MemoryStore;

/// Encoded bundles of one session and one party, by number of their step.
pub trait BundleStore: Send {
    /// Stores the bundle of a step.
    ///
    /// # Errors
    /// A step that was stored or taken before, a store that fails.
    fn put(&mut self, step: u64, bundle: Zeroizing<Vec<u8>>) -> Result<()>;

    /// Marks the bundle of a step as taken, then returns it.
    ///
    /// # Errors
    /// A step that was taken before or never stored, a store that fails.
    fn take(&mut self, step: u64) -> Result<Zeroizing<Vec<u8>>>;

    /// Number of bundles that can be taken.
    fn stock(&self) -> usize;
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::error::Error;
    use std::path::PathBuf;

    /// A folder of one test: absent at first, and gone afterwards.
    pub(crate) struct Scratch(pub(crate) PathBuf);

    impl Scratch {
        pub(crate) fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("undertone-{name}-{}", std::process::id()));
            let _ = std::fs::remove_dir_all(&path);
            Self(path)
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    /// What every store does.
    pub(crate) fn conformance(store: &mut dyn BundleStore) {
        for step in 0..3 {
            store.put(step, vec![step as u8; 10].into()).unwrap();
        }
        assert_eq!(store.stock(), 3);
        assert!(matches!(store.put(1, vec![7].into()), Err(Error::Duplicate { step: 1 })));
        assert_eq!(store.take(1).unwrap()[..], [1; 10]);
        assert!(matches!(store.take(1), Err(Error::AlreadyTaken { step: 1 })));
        assert!(matches!(store.put(1, vec![7].into()), Err(Error::AlreadyTaken { step: 1 })));
        assert!(matches!(store.take(9), Err(Error::NoBundle { step: 9 })));
        assert_eq!(store.stock(), 2);
        assert_eq!(store.take(0).unwrap()[..], [0; 10]);
        assert_eq!(store.take(2).unwrap()[..], [2; 10]);
        assert_eq!(store.stock(), 0);
    }
}
