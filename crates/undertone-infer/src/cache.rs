//! The encrypted key and value caches: blocks of T positions per layer, in the block frame.
//!
//! Position i of the private and generated tokens lies in row i mod T of block i / T. Rows without a token hold zero,
//! so a new token is added in place.

use crate::program::LayerCache;
use undertone_he::{Error, Evaluator};

impl<E: Evaluator> LayerCache<E> {
    /// A cache with the block that a prefill made.
    pub(crate) fn new(keys: Vec<E::Value>, values: Vec<E::Value>) -> Self {
        Self { keys: vec![keys], values: vec![values] }
    }

    /// Adds a token that is zero outside its row; `position` is its index and `block` the block length.
    pub(crate) fn append(
        &mut self,
        ev: &E,
        position: usize,
        block: usize,
        key: Vec<E::Value>,
        value: Vec<E::Value>,
    ) -> Result<(), Error> {
        for (blocks, new) in [(&mut self.keys, key), (&mut self.values, value)] {
            match blocks.get_mut(position / block) {
                Some(held) => {
                    *held = held.iter().zip(&new).map(|(held, new)| ev.add(held, new)).collect::<Result<_, _>>()?;
                }
                None => blocks.push(new),
            }
        }
        Ok(())
    }
}
