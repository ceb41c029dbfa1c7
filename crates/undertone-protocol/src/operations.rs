//! What a server counts while it computes, and says in its results.

use crate::Error;
use crate::message::MAX_OPERATIONS;
use serde::{Deserialize, Serialize};

/// What a server counted while it computed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Operations {
    /// Half-bootstraps.
    pub bootstraps: u64,
    /// Key switches, those inside bootstraps included.
    pub key_switches: u64,
}

impl Operations {
    /// The sum of both, bounded by the largest number.
    pub fn plus(self, other: Self) -> Self {
        Self {
            bootstraps: self.bootstraps.saturating_add(other.bootstraps),
            key_switches: self.key_switches.saturating_add(other.key_switches),
        }
    }

    /// What came after `before`.
    pub fn since(self, before: Self) -> Self {
        Self {
            bootstraps: self.bootstraps.saturating_sub(before.bootstraps),
            key_switches: self.key_switches.saturating_sub(before.key_switches),
        }
    }

    pub(crate) fn check(&self) -> Result<(), Error> {
        for (field, have) in [("bootstraps", self.bootstraps), ("key_switches", self.key_switches)] {
            if have > MAX_OPERATIONS {
                return Err(Error::Cap { field, have, need: MAX_OPERATIONS });
            }
        }
        Ok(())
    }
}
