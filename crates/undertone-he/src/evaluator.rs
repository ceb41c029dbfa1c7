//! The seam between cryptography and layers: one trait, three evaluators.
//!
//! `ClearEvaluator` computes on f64 slots with the same level rules, `CostEvaluator` only counts, `CkksEvaluator`
//! computes under encryption. Every value is at the canonical scale of its level (the scale is a function of the
//! level alone), so circuits never see scales. Rotations move slots to the left: slot i receives slot i + k, cyclically
//! over all slots; a value whose slots repeat with a period keeps that period.

use crate::circuits::LinearTransform;
use crate::{Chain, Counts, Error, MatrixRow, MatrixShape, Slots};

/// Homomorphic operations on vectors of real slots.
///
/// # Levels
/// Binary operations first drop the operand at the higher level to the lower one (no depth beyond that level).
/// `mul`, `multiply_combine`, `mul_slots`, `combine` and `linear_transform` return one level below their (lowest) input.
/// Nothing may go below level 0; `LevelTooLow` says so.
pub trait Evaluator: Sync {
    /// An encrypted (or simulated) vector of slots.
    type Value: Clone + Send + Sync;
    /// A matrix as this evaluator multiplies by it.
    type Matrix: Send + Sync;

    /// The level structure.
    fn chain(&self) -> Chain;
    /// The counters since the evaluator was made.
    fn counts(&self) -> Counts;
    /// The level of a value.
    fn level(&self, a: &Self::Value) -> usize;

    /// a + b. Depth 0.
    fn add(&self, a: &Self::Value, b: &Self::Value) -> Result<Self::Value, Error>;
    /// a − b. Depth 0.
    fn sub(&self, a: &Self::Value, b: &Self::Value) -> Result<Self::Value, Error>;
    /// −a. Depth 0.
    fn negate(&self, a: &Self::Value) -> Self::Value;
    /// a + plaintext slots. Depth 0.
    fn add_slots(&self, a: &Self::Value, b: &Slots) -> Result<Self::Value, Error>;
    /// a + the same constant in every slot. Depth 0.
    fn add_constant(&self, a: &Self::Value, constant: f64) -> Result<Self::Value, Error>;
    /// a · b for a small integer b (|b| ≤ 1024). Depth 0.
    fn mul_integer(&self, a: &Self::Value, b: i64) -> Result<Self::Value, Error>;
    /// a ⊙ b, relinearized and rescaled. Depth 1, one key switch.
    fn mul(&self, a: &Self::Value, b: &Self::Value) -> Result<Self::Value, Error>;
    /// Σ a_i ⊙ b_i + Σ c_j · t_j + constant with one relinearization and one rescale; at least one pair. Depth 1 below the
    /// lowest of all operands, one key switch. A pair that stands twice doubles its product for next to nothing.
    fn multiply_combine(
        &self,
        pairs: &[(&Self::Value, &Self::Value)],
        terms: &[(f64, &Self::Value)],
        constant: f64,
    ) -> Result<Self::Value, Error>;
    /// a ⊙ plaintext slots. Depth 1.
    fn mul_slots(&self, a: &Self::Value, b: &Slots) -> Result<Self::Value, Error>;
    /// Σ c_i · a_i + constant for real scalars, operands at any levels. Depth 1 below the lowest of them.
    fn combine(&self, terms: &[(f64, &Self::Value)], constant: f64) -> Result<Self::Value, Error>;
    /// The same value at a lower `level`, times `factor`. Free of depth beyond the levels given up; a factor other
    /// than 1 needs `level` < the current level.
    fn drop_level(&self, a: &Self::Value, level: usize, factor: f64) -> Result<Self::Value, Error>;
    /// Rotation by `by` slots. Depth 0, one key switch (none when `by` is 0 modulo the slot count).
    fn rotate(&self, a: &Self::Value, by: i32) -> Result<Self::Value, Error>;
    /// Several rotations of one value, hoisted. Depth 0, one key switch each.
    fn rotate_many(&self, a: &Self::Value, by: &[i32]) -> Result<Vec<Self::Value>, Error>;
    /// Baby-step giant-step sum of plaintext diagonals times rotations; see [`LinearTransform`]. Depth 1.
    /// All inputs are first dropped to the lowest of their levels. `visit` takes the outputs in order, each as soon as it
    /// is made, so that many need not exist at one time; its error ends the transform.
    fn linear_transform_each<F: From<Error>>(
        &self,
        inputs: &[Self::Value],
        transform: &LinearTransform<'_>,
        visit: &mut dyn FnMut(Self::Value) -> Result<(), F>,
    ) -> Result<(), F>;

    /// All outputs of [`Evaluator::linear_transform_each`].
    fn linear_transform(
        &self,
        inputs: &[Self::Value],
        transform: &LinearTransform<'_>,
    ) -> Result<Vec<Self::Value>, Error> {
        let mut outputs = Vec::with_capacity(transform.outputs);
        self.linear_transform_each::<Error>(inputs, transform, &mut |output| {
            outputs.push(output);
            Ok(())
        })?;
        Ok(outputs)
    }

    /// Refreshes one or two real values to `top_level` through one ModRaise.
    ///
    /// Inputs are at `boot_level` or above (they are dropped to it), real, |slot| ≤ 1, and repeat with `period` slots
    /// (a power of two). With `hi`, both travel as lo + i·hi through the same bootstrap.
    fn half_bootstrap(
        &self,
        lo: &Self::Value,
        hi: Option<&Self::Value>,
        period: usize,
    ) -> Result<(Self::Value, Option<Self::Value>), Error>;

    /// Prepares a matrix for [`Evaluator::product_bootstrap`]; `row(o, out)` writes row o of `shape.inputs` values.
    ///
    /// Weights become integers of 15 bits over the chain's product prime. The largest weight decides on the power of two
    /// they share, the gain, which the product undoes after its bootstrap and which multiplies the bootstrap's noise;
    /// where it would be below 1, it is 1 and the integers are shorter. All evaluators multiply by the same integers.
    ///
    /// # Errors
    /// `Parameters` where the chain has no product prime, `ProductLimit` and `ProductShape` for a shape that does not
    /// fit, `Range` for a weight that is not finite or needs a gain above 2^10.
    fn encode_matrix(&self, shape: &MatrixShape, row: &MatrixRow<'_>) -> Result<Self::Matrix, Error>;

    /// One turn: the matrix times the input, through coefficients and a bootstrap to `top_level`.
    ///
    /// # Shapes
    /// Pairs hold the channels of `MatrixShape`: ⌈inputs·T/N⌉ of them come in, ⌈outputs·T/N⌉ out. In a pair, slot
    /// t + (T/2)·c of the first value is token t of channel c, and of the second token T/2 + t. Channels past the last
    /// are zero going in and come out as zero.
    ///
    /// # Levels
    /// Inputs at `boot_level` or above (they are dropped to it), outputs at `top_level`.
    ///
    /// # Range
    /// Real, |slot| ≤ 1, of inputs and of outputs. Under encryption only outputs are bound to it, before their gain: a product
    /// is exact modulo q0·q_w, so that an input beyond 1 scales, and wraps no sooner than an output of the smallest weight
    /// would, at q_w·R/2 with R = q0 over a message of 1 (2^7). Outputs are sums over all
    /// channels: beyond 1 they bend with the sine of EvalMod, up to R/4 = 32 in order; those about multiples of R/2 = 64 come
    /// back as small values, which inputs that all grow alike reach at 64 times what makes an output of 1.
    ///
    /// # Errors
    /// `Arity` for another number of pairs, `LevelTooLow` below `boot_level`, `MissingKey` without the keys of products
    /// of T tokens, `Range` where an evaluator sees a slot beyond 1.
    fn product_bootstrap(
        &self,
        inputs: &[[Self::Value; 2]],
        matrix: &Self::Matrix,
    ) -> Result<Vec<[Self::Value; 2]>, Error>;

    /// Σ a_i ⊙ b_i with one relinearization and one rescale. Depth 1, one key switch.
    fn multiply_sum(&self, pairs: &[(&Self::Value, &Self::Value)]) -> Result<Self::Value, Error> {
        self.multiply_combine(pairs, &[], 0.0)
    }

    /// a ⊙ a. Depth 1, one key switch.
    fn square(&self, a: &Self::Value) -> Result<Self::Value, Error> {
        self.mul(a, a)
    }

    /// Adds the rotations by `stride`, 2·`stride`, 4·`stride`, … (`count` a power of two terms in all):
    /// slot i receives Σ_{j<count} slot i + j·stride. log2(count) key switches.
    fn rotate_sum(&self, a: &Self::Value, stride: i32, count: usize) -> Result<Self::Value, Error> {
        let mut sum = a.clone();
        let mut step = 1;
        while step < count {
            let moved = self.rotate(&sum, stride * step as i32)?;
            sum = self.add(&sum, &moved)?;
            step *= 2;
        }
        Ok(sum)
    }
}
