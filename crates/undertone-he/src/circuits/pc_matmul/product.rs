//! The whole product: inputs are switched down once, and every r output channels are multiplied, rescaled and packed as
//! one task, so that unpacked rows never exist for more than a few blocks at a time.

use super::{ProductKeys, ProductParameters, ProductWeights};
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
    operand: ModuleOperand,
    scale: f64,
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

    /// Switches inputs down and prepares them; their channels follow each other in the order of the ciphertexts.
    ///
    /// # Levels
    /// Every input is at level 1.
    ///
    /// # Errors
    /// `Arity` without inputs, `ScaleMismatch` when scales differ, and as [`PcMatmul::switch_down`].
    pub fn prepare(&self, inputs: &[Ciphertext]) -> Result<ProductInput, Error> {
        let first = inputs.first().ok_or(Error::Arity { op: "pc_matmul", have: 0, need: 1 })?;
        if let Some(other) = inputs.iter().find(|input| input.scale != first.scale) {
            let (have_log2, need_log2) = (other.scale.log2(), first.scale.log2());
            return Err(Error::ScaleMismatch { op: "pc_matmul", have_log2, need_log2 });
        }
        let parts = inputs.par_iter().map(|input| self.switch_down(input)).collect::<Result<Vec<_>, _>>()?;
        let pairs: Vec<SmallPair> = parts.into_iter().flatten().collect();
        self.prepare_pairs(&pairs, first.scale)
    }

    /// Prepares pairs that [`PcMatmul::switch_down`] gave.
    ///
    /// # Errors
    /// `Arity` without pairs, `ProductShape` when one is of another ring or basis.
    pub fn prepare_pairs(&self, pairs: &[SmallPair], scale: f64) -> Result<ProductInput, Error> {
        if pairs.is_empty() {
            return Err(Error::Arity { op: "pc_matmul", have: 0, need: 1 });
        }
        let (degree, basis) = (self.parameters.small_ring().degree(), Basis { q: LIMBS, p: 0 });
        if let Some(other) = pairs.iter().flatten().find(|half| half.degree() != degree || half.basis() != basis) {
            let (have, need) = (other.data().len(), LIMBS * degree);
            return Err(Error::ProductShape { what: "residues in every half of a pair", have, need });
        }
        let operand = self.parameters.small_ring().module_operand(pairs, self.parameters.tokens());
        Ok(ProductInput { digest: self.parameters.digest(), operand, scale })
    }

    /// Rows of output block `block` at q0: the product with its weights, divided by the product prime.
    ///
    /// # Errors
    /// `ProductShape` when weights and input do not fit, or there is no such block.
    pub fn rows(&self, input: &ProductInput, weights: &ProductWeights, block: usize) -> Result<ModuleRows, Error> {
        self.check(input, weights)?;
        let blocks = weights.blocks();
        let entries = weights.block(block).ok_or(Error::ProductShape { what: "blocks", have: block, need: blocks })?;
        let ring = self.parameters.small_ring();
        Ok(ring.rescale_rows(ring.module_product(&input.operand, entries)))
    }

    /// weights · input: as many ciphertexts at level 0 as the output channels fill, in the order of the weights' output
    /// side; channels beyond the last one are zero.
    ///
    /// # Range
    /// With integer weights w, channel o is 2^exponent / q_w · Σ_i w[o][i] · input[i].
    ///
    /// # Errors
    /// `ProductShape` when weights and input do not fit.
    pub fn multiply(&self, input: &ProductInput, weights: &ProductWeights) -> Result<Vec<Ciphertext>, Error> {
        self.check(input, weights)?;
        let tasks = (0..weights.blocks()).into_par_iter().step_by(TASK).map(|first| {
            let blocks = first..weights.blocks().min(first + TASK);
            let sets = blocks.map(|block| self.rows(input, weights, block)).collect::<Result<Vec<_>, _>>()?;
            self.pack(&sets)
        });
        let packed: Vec<SmallPair> = tasks.collect::<Result<Vec<_>, _>>()?.into_iter().flatten().collect();
        let scale = input.scale * (-f64::from(weights.exponent())).exp2();
        packed.par_chunks_exact(self.parameters.parts()).map(|pairs| self.switch_up(pairs, scale)).collect()
    }

    /// [`PcMatmul::prepare`] and [`PcMatmul::multiply`] in one.
    ///
    /// # Errors
    /// As both.
    pub fn apply(&self, inputs: &[Ciphertext], weights: &ProductWeights) -> Result<Vec<Ciphertext>, Error> {
        self.multiply(&self.prepare(inputs)?, weights)
    }

    fn check(&self, input: &ProductInput, weights: &ProductWeights) -> Result<(), Error> {
        for (digest, what) in [(weights.digest(), "weights"), (input.digest, "product input")] {
            if digest != self.parameters.digest() {
                return Err(Error::Decode { what, cause: "they are for other parameters" });
            }
        }
        let (have, need) = (input.operand.width(), weights.width());
        if have != need {
            return Err(Error::ProductShape { what: "input channels, with padding", have, need });
        }
        Ok(())
    }
}
