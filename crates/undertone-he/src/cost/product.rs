//! What a matrix product between bootstraps costs: the first half of a bootstrap for each pair that goes in, the second
//! for each that comes out, and the key switches of the product itself.

use super::{CostEvaluator, CostValue};
use crate::{Counts, Error, MatrixShape};

/// Counters of the product itself, without both halves of the bootstrap: a switch down at level 1 for each ciphertext that
/// goes in; for each that comes out, packing (the same digits as in one switch of the large ring, N/N' times shorter and
/// N/N' times over) and a switch up, both at level 0. Shared with the evaluator that computes.
pub(crate) fn product_counts(input_pairs: usize, output_pairs: usize, components: usize) -> Counts {
    let (inputs, outputs) = (input_pairs as u64, output_pairs as u64);
    let weights = inputs * outputs * (components as u64).pow(2);
    let mut counts = Counts { matrix_weights: weights, ..Counts::default() };
    counts.key_switch(1, inputs);
    counts.key_switch(0, 2 * outputs);
    counts
}

impl CostEvaluator {
    pub(super) fn product(
        &self,
        inputs: &[[CostValue; 2]],
        matrix: &MatrixShape,
    ) -> Result<Vec<[CostValue; 2]>, Error> {
        let chain = self.chain;
        matrix.require_inputs(chain, inputs.len())?;
        if let Some(have) = inputs.iter().flatten().map(CostValue::level).find(|&level| level < chain.boot_level) {
            return Err(Error::LevelTooLow { op: "product_bootstrap", have, need: chain.boot_level });
        }
        let (ins, outs) = (inputs.len(), matrix.output_pairs(chain));
        self.count_halves(chain.slot_count(), true, [ins as u64, outs as u64])?;
        let mut ledger = self.ledger();
        ledger.counts.merge(&product_counts(ins, outs, matrix.components(chain)));
        ledger.keys.product_tokens.insert(matrix.tokens);
        drop(ledger);
        Ok((0..outs).map(|_| [(); 2].map(|()| self.value(chain.top_level))).collect())
    }
}
