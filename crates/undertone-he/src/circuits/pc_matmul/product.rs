//! The whole product: inputs are switched down once, and every r output channels are multiplied, rescaled and packed as
//! one task, so that unpacked rows never exist for more than a few blocks at a time.
//!
//! Scales stay: the product with integers over q_w, the prime that the rescale removes, leaves the scale of the input.
//! What else the matrix is, a power of two, is told beside the result and not hidden in its scale, because ModRaise
//! takes coefficients as multiples of q0 and would forget it.

use super::{ComponentOrder, ProductKeys, ProductParameters, ProductWeights};
use crate::{Ciphertext, Error};
use rayon::prelude::*;
use std::sync::Arc;
use undertone_ring::{Basis, Coeff, ModuleOperand, ModuleRows, Poly};

/// Limbs of a value that enters a product: q0 and the product prime.
pub(super) const LIMBS: usize = 2;

/// Output blocks of one task: so many read the packing key together, and their rows exist at one time.
const TASK: usize = 4;

/// A pair (b, a) of the small ring, in coefficient form.
pub type SmallPair = [Poly<Coeff>; 2];

/// Computes products with the keys of one client.
pub struct PcMatmul {
    pub(super) parameters: ProductParameters,
    pub(super) keys: Arc<ProductKeys>,
}

/// Ciphertexts that are ready for any number of products.
pub struct ProductInput {
    digest: [u8; 32],
    order: [u8; 32],
    operand: ModuleOperand,
    scale: f64,
}

/// What [`PcMatmul::multiply`] gives.
pub struct Product {
    /// At level 0 and the scale of the input, as many as the output channels fill, in the order of the weights' output
    /// side; channels beyond the last one are zero.
    pub ciphertexts: Vec<Ciphertext>,
    /// log2 of the weights' gain: the matrix times the input is 2^gain_log2 times the values of `ciphertexts`. Fold it
    /// into a constant of the next step.
    pub gain_log2: i32,
    /// The digest of the order of the channels.
    pub order: [u8; 32],
}

impl ProductInput {
    /// Memory that the prepared operand takes.
    pub fn size_bytes(&self) -> usize {
        self.operand.size_bytes()
    }
}

impl PcMatmul {
    /// Products with `keys`.
    pub fn new(parameters: &ProductParameters, keys: Arc<ProductKeys>) -> Self {
        Self { parameters: parameters.clone(), keys }
    }

    /// The rings and primes in use.
    pub fn parameters(&self) -> &ProductParameters {
        &self.parameters
    }

    /// Switches inputs down and prepares them; channels follow each other over the ciphertexts, and in each of them lie
    /// in `order`.
    ///
    /// # Levels
    /// Every input is at level 1.
    ///
    /// # Errors
    /// `Arity` without inputs, `ScaleMismatch` when scales differ, and as [`PcMatmul::switch_down`] and
    /// [`PcMatmul::prepare_pairs`].
    pub fn prepare(&self, inputs: &[Ciphertext], order: &ComponentOrder) -> Result<ProductInput, Error> {
        let first = inputs.first().ok_or(Error::Arity { op: "pc_matmul", have: 0, need: 1 })?;
        if let Some(other) = inputs.iter().find(|input| input.scale != first.scale) {
            let (have_log2, need_log2) = (other.scale.log2(), first.scale.log2());
            return Err(Error::ScaleMismatch { op: "pc_matmul", have_log2, need_log2 });
        }
        let parts = inputs.par_iter().map(|input| self.switch_down(input)).collect::<Result<Vec<_>, _>>()?;
        let pairs: Vec<SmallPair> = parts.into_iter().flatten().collect();
        self.prepare_pairs(&pairs, first.scale, order)
    }

    /// Prepares pairs that [`PcMatmul::switch_down`] gave.
    ///
    /// # Errors
    /// `Arity` without pairs, `ProductShape` when one is of another ring or basis, they are no whole ciphertexts, or
    /// the order has not N/T components.
    pub fn prepare_pairs(
        &self,
        pairs: &[SmallPair],
        scale: f64,
        order: &ComponentOrder,
    ) -> Result<ProductInput, Error> {
        if pairs.is_empty() {
            return Err(Error::Arity { op: "pc_matmul", have: 0, need: 1 });
        }
        let (degree, basis) = (self.parameters.small_ring().degree(), Basis { q: LIMBS, p: 0 });
        if let Some(other) = pairs.iter().flatten().find(|half| half.degree() != degree || half.basis() != basis) {
            let (have, need) = (other.data().len(), LIMBS * degree);
            return Err(Error::ProductShape { what: "residues in every half of a pair", have, need });
        }
        let whole = pairs.len().next_multiple_of(self.parameters.parts());
        for (what, have, need) in [
            ("pairs, those of whole ciphertexts,", pairs.len(), whole),
            ("components of every ciphertext", order.components(), self.parameters.components()),
        ] {
            if have != need {
                return Err(Error::ProductShape { what, have, need });
            }
        }
        let operand = self.parameters.small_ring().module_operand(pairs, self.parameters.tokens());
        Ok(ProductInput { digest: self.parameters.digest(), order: order.digest(), operand, scale })
    }

    /// Rows of output block `block` at q0: the product with its weights, divided by the product prime.
    ///
    /// # Errors
    /// As [`PcMatmul::multiply`], and `ProductIndex` when there is no such block.
    pub fn rows(&self, input: &ProductInput, weights: &ProductWeights, block: usize) -> Result<ModuleRows, Error> {
        self.check(input, weights)?;
        let missing = Error::ProductIndex { what: "block", index: block, count: weights.blocks() };
        let entries = weights.block(block).ok_or(missing)?;
        let ring = self.parameters.small_ring();
        Ok(ring.rescale_rows(ring.module_product(&input.operand, entries)))
    }

    /// The integer weights over q_w, times the input: [`ProductWeights::gain_log2`] says what is missing to the matrix.
    ///
    /// # Range
    /// With integer weights w, channel o is Σ_i w\[o\]\[i\] / q_w · input\[i\].
    ///
    /// # Errors
    /// `Decode` when weights or input are for other parameters, `ProductShape` when they have different numbers of
    /// channels, `ProductOrder` when these lie in different orders.
    pub fn multiply(&self, input: &ProductInput, weights: &ProductWeights) -> Result<Product, Error> {
        self.check(input, weights)?;
        let tasks = (0..weights.blocks()).into_par_iter().step_by(TASK).map(|first| {
            let blocks = first..weights.blocks().min(first + TASK);
            let sets = blocks.map(|block| self.rows(input, weights, block)).collect::<Result<Vec<_>, _>>()?;
            self.pack(&sets)
        });
        let packed: Vec<SmallPair> = tasks.collect::<Result<Vec<_>, _>>()?.into_iter().flatten().collect();
        let whole = packed.par_chunks_exact(self.parameters.parts());
        let ciphertexts = whole.map(|pairs| self.switch_up(pairs, input.scale)).collect::<Result<_, _>>()?;
        Ok(Product { ciphertexts, gain_log2: weights.gain_log2(), order: weights.output_order() })
    }

    /// [`PcMatmul::prepare`] and [`PcMatmul::multiply`] in one.
    ///
    /// # Errors
    /// As both.
    pub fn apply(
        &self,
        inputs: &[Ciphertext],
        order: &ComponentOrder,
        weights: &ProductWeights,
    ) -> Result<Product, Error> {
        self.multiply(&self.prepare(inputs, order)?, weights)
    }

    fn check(&self, input: &ProductInput, weights: &ProductWeights) -> Result<(), Error> {
        for (digest, what) in [(weights.digest(), "weights"), (input.digest, "product input")] {
            if digest != self.parameters.digest() {
                return Err(Error::Decode { what, cause: "they are for other parameters" });
            }
        }
        if input.order != weights.input_order() {
            return Err(Error::ProductOrder { what: "product input" });
        }
        let (have, need) = (input.operand.width(), weights.width());
        if have != need {
            return Err(Error::ProductShape { what: "input channels, with padding,", have, need });
        }
        Ok(())
    }
}
