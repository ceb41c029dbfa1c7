//! Packing: r rows of a product become one pair of the small ring, by one gadget sum over the r components of its secret.

use super::{PcMatmul, SmallPair};
use crate::Error;
use undertone_ring::ModuleRows;

impl PcMatmul {
    /// The pair under the small secret whose coefficient o + r·k is position k of row o.
    ///
    /// # Errors
    /// `ProductShape` unless these are r rows of one limb.
    pub fn pack(&self, rows: &ModuleRows) -> Result<SmallPair, Error> {
        let ring = self.parameters.small_ring();
        if rows.rows() != self.parameters.rank() {
            return Err(Error::ProductShape { what: "rows", have: rows.rows(), need: self.parameters.rank() });
        }
        if rows.limb_count() != 1 {
            return Err(Error::ProductShape { what: "limbs of every row", have: rows.limb_count(), need: 1 });
        }
        Ok(ring.pack_rows(rows, self.keys.pack.gadget()).map(|half| ring.intt(half)))
    }
}
