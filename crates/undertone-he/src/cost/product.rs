//! What a matrix product between bootstraps costs: the first half of a bootstrap for each pair that goes in, the second
//! for each that comes out, and the key switches of the product itself; and the memory of all of them.

use super::live::{Live, limbs};
use super::{CostEvaluator, CostValue};
use crate::circuits::pc_matmul::PARTS_LOG2;
use crate::ckks::product::bootstraps_at_a_time;
use crate::{Chain, Counts, Error, MatrixShape};
use std::sync::Arc;

/// Limbs that an input takes switched down: a pair in two primes, cut into parts of the small ring.
const PART_LIMBS: usize = 4;
/// Limbs that an input takes once it is prepared: in two primes the body, and the mask at 4/3 as many points and those of
/// one block more.
const OPERAND_LIMBS: usize = 6;
/// Limbs of a key switch down, in four primes: its digits, both halves, and those divided.
const SWITCH_LIMBS: usize = 4 + 2 * 4 + 2 * 2;
/// Output blocks that a thread packs together.
const TASK_BLOCKS: usize = 4;
/// Sets of r rows that a thread holds for each of these blocks while it packs: the rows in the memory of two primes, which
/// they keep after their rescale, their classes gathered, and those lifted to the prime at hand.
const ROW_SETS: usize = 2 + 1 + 1;

/// Counters of the product itself, without both halves of the bootstrap: a switch down at level 1 for each ciphertext that
/// goes in; for each that comes out, packing (the same digits as in one switch of the large ring, N/N' times shorter and
/// N/N' times over) and a switch up, both at level 0. Shared with the evaluator that computes.
pub(crate) fn product_counts(chain: Chain, shape: &MatrixShape) -> Counts {
    let (inputs, outputs) = (shape.input_pairs(chain) as u64, shape.output_pairs(chain) as u64);
    let weights = inputs * outputs * (shape.components(chain) as u64).pow(2);
    let mut counts = Counts { matrix_products: weights * shape.tokens as u64, ..Counts::default() };
    counts.key_switch(1, inputs);
    counts.key_switch(0, 2 * outputs);
    counts
}

/// A matrix reduced to its shape; while it exists, its integers count as limbs.
#[derive(Debug)]
pub struct CostMatrix {
    shape: MatrixShape,
    limbs: usize,
    live: Arc<Live>,
}

impl CostMatrix {
    pub(super) fn new(shape: &MatrixShape, chain: Chain, live: &Arc<Live>) -> Self {
        let pairs = shape.input_pairs(chain).saturating_mul(shape.output_pairs(chain));
        let entries = pairs.saturating_mul(shape.components(chain).pow(2));
        let words = entries.saturating_mul(size_of::<i16>()).div_ceil(size_of::<u64>());
        let limbs = words.div_ceil(1 << chain.log_n);
        live.add(limbs);
        Self { shape: *shape, limbs, live: live.clone() }
    }

    /// The channels that it joins.
    pub fn shape(&self) -> &MatrixShape {
        &self.shape
    }
}

impl Drop for CostMatrix {
    fn drop(&mut self) {
        self.live.remove(self.limbs);
    }
}

impl CostEvaluator {
    pub(crate) fn product(
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
        let half = self.count_halves(chain.slot_count(), true, [ins as u64, outs as u64])?;
        let mut ledger = self.ledger();
        ledger.counts.merge(&product_counts(chain, matrix));
        ledger.keys.product_tokens.insert(matrix.tokens);
        drop(ledger);
        let working = half.saturating_mul(bootstraps_at_a_time());
        let (coefficients, products) = (ins * limbs(1), outs * limbs(0));
        self.live.working(working.saturating_add(coefficients));
        let product = product_limbs(chain, matrix, rayon::current_num_threads());
        product.into_iter().for_each(|limbs| self.live.working(limbs));
        let fresh = (0..outs).map(|_| [(); 2].map(|()| self.value(chain.top_level))).collect();
        // The last one comes beside all others.
        self.live.working(working.saturating_add(products));
        Ok(fresh)
    }
}

/// Limbs that a product needs while its inputs are prepared, and while it multiplies and packs.
pub(super) fn product_limbs(chain: Chain, matrix: &MatrixShape, threads: usize) -> [usize; 2] {
    let (ins, outs) = (matrix.input_pairs(chain), matrix.output_pairs(chain));
    let operand = ins * OPERAND_LIMBS;
    let prepare = ins * (limbs(1) + PART_LIMBS) + operand.max(threads * SWITCH_LIMBS);
    let small = 1usize << chain.log_n.saturating_sub(PARTS_LOG2);
    // r rows of N' residues; one limb more is for their bodies and for what a part of them needs on its way.
    let set = ((small / matrix.tokens).saturating_mul(small) >> chain.log_n) + 1;
    // All that is packed is there when the first of it is switched up.
    [prepare, operand + 2 * outs * limbs(0) + threads * TASK_BLOCKS * ROW_SETS * set]
}
