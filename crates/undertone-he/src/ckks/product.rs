//! Matrix products between bootstraps, under encryption.

use super::CkksEvaluator;
use crate::circuits::pc_matmul::{ComponentOrder, ProductParameters, ProductWeights, WeightShape};
use crate::matrix::QuantizedRows;
use crate::{Ciphertext, Error, MatrixRow, MatrixShape, Parameters};

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

    /// Memory that the integers take.
    pub fn size_bytes(&self) -> usize {
        self.weights.size_bytes()
    }
}

impl CkksEvaluator {
    pub(super) fn product(
        &self,
        inputs: &[[Ciphertext; 2]],
        matrix: &CkksMatrix,
    ) -> Result<Vec<[Ciphertext; 2]>, Error> {
        matrix.shape.require_inputs(self.parameters.chain(), inputs.len())?;
        let key = format!("matrix product (channels of {} tokens)", matrix.shape.tokens);
        Err(Error::MissingKey { key, need: 1 })
    }
}
