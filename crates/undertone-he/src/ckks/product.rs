//! Matrix products between bootstraps, under encryption: the first half of a bootstrap, the product on coefficients in a
//! small ring, the second half, and the gain. One token's channel is one module component (`circuits::pc_matmul`).

use super::CkksEvaluator;
use crate::circuits::pc_matmul::{
    ComponentOrder, PcMatmul, ProductInput, ProductParameters, ProductWeights, WeightShape,
};
use crate::cost::product_counts;
use crate::matrix::QuantizedRows;
use crate::{Ciphertext, Error, Evaluator, MatrixRow, MatrixShape, Parameters};
use rayon::prelude::*;

/// A matrix converted for the small ring of one number of tokens.
pub struct CkksMatrix {
    shape: MatrixShape,
    weights: ProductWeights,
}

impl CkksMatrix {
    pub(super) fn new(parameters: &Parameters, shape: &MatrixShape, row: &MatrixRow<'_>) -> Result<Self, Error> {
        let prime = shape.product_prime(parameters.chain())?;
        let product = ProductParameters::of_turn(parameters, shape.tokens)?;
        let rows = QuantizedRows::new(shape, prime, row)?;
        // Slots-to-coefficients reverses the channels of a ciphertext, and the way back undoes it.
        let order = ComponentOrder::bit_reversed(product.components())?;
        let sides = WeightShape {
            outputs: shape.outputs,
            inputs: shape.inputs,
            output_order: order.clone(),
            input_order: order,
        };
        let write = |o: usize, buffer: &mut Vec<f32>, out: &mut [i16]| rows.write(o, buffer, out);
        let weights = ProductWeights::from_rows(&product, &sides, rows.gain_log2(), || rows.buffer(), write)?;
        Ok(Self { shape: *shape, weights })
    }

    /// log2 of what values are multiplied by after the bootstrap.
    pub fn gain_log2(&self) -> i32 {
        self.weights.gain_log2()
    }

    /// Memory that the integers take.
    pub fn size_bytes(&self) -> usize {
        self.weights.size_bytes()
    }
}

/// Threads that one bootstrap keeps busy: so many more let another one start beside it.
const THREADS_PER_BOOTSTRAP: usize = 8;
/// Most halves of bootstraps at a time; each takes about a gigabyte while it runs.
const MOST_AT_A_TIME: usize = 8;

/// The steps of a turn, one after the other; `product_bootstrap` is all of them.
impl CkksEvaluator {
    pub(super) fn product(
        &self,
        inputs: &[[Ciphertext; 2]],
        matrix: &CkksMatrix,
    ) -> Result<Vec<[Ciphertext; 2]>, Error> {
        matrix.shape.require_inputs(self.parameters.chain(), inputs.len())?;
        self.products(matrix)?;
        let coefficients = self.turn_to_coefficients(inputs)?;
        let operand = self.prepare_product(&coefficients, matrix)?;
        drop(coefficients);
        let products = self.multiply_prepared(&operand, matrix)?;
        drop(operand);
        self.turn_to_slots(&products, matrix)
    }

    /// From pairs of values to coefficients at level 1, the first half of a bootstrap for each pair.
    ///
    /// # Errors
    /// `Parameters` without a product prime, `LevelTooLow` below `boot_level`, `MissingKey` for rotations.
    pub fn turn_to_coefficients(&self, pairs: &[[Ciphertext; 2]]) -> Result<Vec<Ciphertext>, Error> {
        let need = self.parameters.chain().boot_level;
        if let Some(have) = pairs.iter().flatten().map(Ciphertext::level).find(|&level| level < need) {
            return Err(Error::LevelTooLow { op: "product_bootstrap", have, need });
        }
        let circuit = self.bootstrap_circuit(self.parameters.chain().slot_count())?;
        at_a_time(pairs, |[lo, hi]| circuit.to_coefficients(self, lo, Some(hi)))
    }

    /// Switches coefficients down to the small ring, ready for any matrix of so many input channels and tokens.
    ///
    /// # Errors
    /// `MissingKey` without the keys of products of so many tokens, and as [`PcMatmul::prepare`].
    pub fn prepare_product(&self, coefficients: &[Ciphertext], matrix: &CkksMatrix) -> Result<ProductInput, Error> {
        let product = self.products(matrix)?;
        product.prepare(coefficients, &ComponentOrder::bit_reversed(product.parameters().components())?)
    }

    /// Multiplies by the integers and returns to the large ring: coefficients at level 0.
    ///
    /// # Errors
    /// `MissingKey` without the keys of products of so many tokens, and as [`PcMatmul::multiply`].
    pub fn multiply_prepared(&self, operand: &ProductInput, matrix: &CkksMatrix) -> Result<Vec<Ciphertext>, Error> {
        let product = self.products(matrix)?.multiply(operand, &matrix.weights)?;
        let counts = product_counts(self.parameters.chain(), &matrix.shape);
        self.count(|c| c.merge(&counts));
        Ok(product.ciphertexts)
    }

    /// From coefficients at level 0 to pairs of values at the top level, times the gain of the matrix: the second half
    /// of a bootstrap for each.
    ///
    /// # Errors
    /// `MissingKey` for keys of the bootstrap.
    pub fn turn_to_slots(
        &self,
        coefficients: &[Ciphertext],
        matrix: &CkksMatrix,
    ) -> Result<Vec<[Ciphertext; 2]>, Error> {
        let circuit = self.bootstrap_circuit(self.parameters.chain().slot_count())?;
        let gain = 1i64 << matrix.gain_log2();
        at_a_time(coefficients, |coefficients| {
            let (lo, hi) = circuit.to_slots(self, coefficients, true)?;
            // A pair went in.
            let hi = hi.ok_or(Error::Arity { op: "product_bootstrap", have: 1, need: 2 })?;
            if gain == 1 { Ok([lo, hi]) } else { Ok([self.mul_integer(&lo, gain)?, self.mul_integer(&hi, gain)?]) }
        })
    }

    fn products(&self, matrix: &CkksMatrix) -> Result<&PcMatmul, Error> {
        let tokens = matrix.shape.tokens;
        let missing = || Error::MissingKey { key: format!("matrix product (for {tokens} tokens)"), need: 1 };
        self.products.get(&tokens).ok_or_else(missing)
    }
}

/// Halves of bootstraps of one turn that run at a time.
pub(crate) fn bootstraps_at_a_time() -> usize {
    (rayon::current_num_threads() / THREADS_PER_BOOTSTRAP).clamp(1, MOST_AT_A_TIME)
}

/// Maps in order, several items at a time where there are threads for them.
fn at_a_time<T: Sync, R: Send>(items: &[T], f: impl Fn(&T) -> Result<R, Error> + Sync) -> Result<Vec<R>, Error> {
    let width = bootstraps_at_a_time();
    let mut mapped = Vec::with_capacity(items.len());
    for batch in items.chunks(width) {
        match batch {
            // Not a task of its own: another thread need not wake for it.
            [one] => mapped.push(f(one)?),
            _ => mapped.extend(batch.par_iter().map(&f).collect::<Result<Vec<R>, Error>>()?),
        }
    }
    Ok(mapped)
}
