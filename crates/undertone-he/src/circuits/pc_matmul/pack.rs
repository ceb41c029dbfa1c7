//! Packing: r rows of a product become one pair of the small ring, by one gadget sum over the r components of its
//! secret.

use super::{PcMatmul, SmallPair};
use crate::Error;
use undertone_ring::ModuleRows;

impl PcMatmul {
    /// For each set of r rows the pair under the small secret whose coefficient o + r·k is position k of row o; sets
    /// share one reading of the key.
    ///
    /// # Errors
    /// `ProductShape` unless every set is r rows of one limb.
    pub fn pack(&self, sets: &[ModuleRows]) -> Result<Vec<SmallPair>, Error> {
        let (ring, need) = (self.parameters.small_ring(), self.parameters.rank());
        if let Some(rows) = sets.iter().find(|rows| rows.rows() != need) {
            return Err(Error::ProductShape { what: "rows", have: rows.rows(), need });
        }
        if let Some(rows) = sets.iter().find(|rows| rows.limb_count() != 1) {
            return Err(Error::ProductShape { what: "limbs of every row", have: rows.limb_count(), need: 1 });
        }
        let packed = ring.pack_rows(sets, &self.keys.pack).into_iter();
        Ok(packed.map(|pair| pair.map(|half| ring.intt(half))).collect())
    }
}
