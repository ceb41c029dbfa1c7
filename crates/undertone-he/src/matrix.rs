//! Matrices between bootstraps: which channels they join, and the integers that stand for their weights.
//!
//! Every evaluator takes its integers from here, so that all multiply by the same ones. A turn holds T tokens of one
//! channel in two real values, T/2 in each: slot t + (T/2)·c of the first is token t of channel c, of the second token
//! T/2 + t. Channels follow each other over the pairs of values, N/T in each.

use crate::circuits::pc_matmul::{MAX_CHANNELS, PARTS_LOG2, Quantization};
use crate::{Chain, Error};
use rayon::prelude::*;

/// Most weights of one matrix: 8 GiB of integers.
const MAX_WEIGHTS: usize = 1 << 32;

/// Writes row `o` of a matrix; called at most twice per row, from several threads at once.
pub type MatrixRow<'a> = dyn Fn(usize, &mut [f32]) + Sync + 'a;

/// The channels that a matrix joins and the tokens of each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MatrixShape {
    /// Channels that come out.
    pub outputs: usize,
    /// Channels that go in.
    pub inputs: usize,
    /// T, the tokens of both values of a pair: a power of two.
    pub tokens: usize,
}

impl MatrixShape {
    /// Pairs of values that hold `channels` channels.
    pub fn pairs(&self, chain: Chain, channels: usize) -> usize {
        channels.div_ceil(self.components(chain))
    }

    /// Pairs that go in.
    pub fn input_pairs(&self, chain: Chain) -> usize {
        self.pairs(chain, self.inputs)
    }

    /// Pairs that come out.
    pub fn output_pairs(&self, chain: Chain) -> usize {
        self.pairs(chain, self.outputs)
    }

    /// N/T: channels that one pair holds.
    pub fn components(&self, chain: Chain) -> usize {
        2 * chain.slot_count() / self.tokens
    }

    /// The prime by which integer weights are divided, if the chain has products of this shape.
    ///
    /// # Errors
    /// `Parameters` without a product prime, `ProductLimit` and `ProductShape` for channels or tokens that do not fit.
    pub(crate) fn product_prime(&self, chain: Chain) -> Result<u64, Error> {
        let prime = chain.product_prime.ok_or_else(|| {
            let cause = "the chain has no product prime, so nothing multiplies by a matrix between bootstraps";
            Error::Parameters { cause: cause.into() }
        })?;
        // Below the least degree of a small ring there is none; the product's own parameters say so.
        let most_tokens = 1usize << chain.log_n.saturating_sub(PARTS_LOG2 + 2);
        for (what, have, least, most) in [
            ("output channels", self.outputs, 1, MAX_CHANNELS),
            ("input channels", self.inputs, 1, MAX_CHANNELS),
            ("weights", self.outputs.saturating_mul(self.inputs), 1, MAX_WEIGHTS),
            ("tokens", self.tokens, 2, most_tokens),
        ] {
            if !(least..=most).contains(&have) {
                return Err(Error::ProductLimit { what, have, least, most });
            }
        }
        if !self.tokens.is_power_of_two() {
            let need = self.tokens.next_power_of_two();
            return Err(Error::ProductShape { what: "tokens, a power of two,", have: self.tokens, need });
        }
        Ok(prime)
    }

    /// Refuses another number of input pairs than the matrix takes.
    pub(crate) fn require_inputs(&self, chain: Chain, have: usize) -> Result<(), Error> {
        let need = self.input_pairs(chain);
        if have != need { Err(Error::Arity { op: "product_bootstrap", have, need }) } else { Ok(()) }
    }
}

/// The rows of a matrix as the integers that a product multiplies by.
pub(crate) struct QuantizedRows<'a> {
    inputs: usize,
    quantization: Quantization,
    row: &'a MatrixRow<'a>,
}

impl<'a> QuantizedRows<'a> {
    /// Reads every row once to find the gain.
    ///
    /// # Errors
    /// `Range` for a weight that is not finite or so large that its gain exceeds what is undone after a bootstrap.
    pub(crate) fn new(shape: &MatrixShape, prime: u64, row: &'a MatrixRow<'a>) -> Result<Self, Error> {
        let magnitude = |values: &mut Vec<f32>, o: usize| {
            row(o, values);
            Quantization::largest(values)
        };
        let rows = (0..shape.outputs).into_par_iter().map_init(|| vec![0f32; shape.inputs], magnitude);
        let largest = rows.try_reduce(|| 0.0, |a: f64, b| Ok(a.max(b)))?;
        Ok(Self { inputs: shape.inputs, quantization: Quantization::of_turn(largest, prime)?, row })
    }

    /// log2 of the factor that the integers over the prime lack.
    pub(crate) fn gain_log2(&self) -> i32 {
        self.quantization.gain_log2()
    }

    /// Room for the real weights of one row.
    pub(crate) fn buffer(&self) -> Vec<f32> {
        vec![0.0; self.inputs]
    }

    /// Writes the integers of row `o`.
    ///
    /// # Errors
    /// `Range` when the row is not what it was at first.
    pub(crate) fn write(&self, o: usize, buffer: &mut [f32], integers: &mut [i16]) -> Result<(), Error> {
        (self.row)(o, buffer);
        for (integer, &weight) in integers.iter_mut().zip(buffer.iter()) {
            *integer = self.quantization.integer(weight)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHAIN: Chain = Chain { log_n: 16, top_level: 19, boot_level: 4, max_level: 32, product_prime: Some(786_433) };

    #[test]
    fn shapes_count_pairs_and_refuse_what_does_not_fit() {
        let shape = MatrixShape { outputs: 1024, inputs: 1025, tokens: 128 };
        assert_eq!((shape.components(CHAIN), shape.output_pairs(CHAIN), shape.input_pairs(CHAIN)), (512, 2, 3));
        assert_eq!(shape.product_prime(CHAIN), Ok(786_433));
        assert_eq!(shape.require_inputs(CHAIN, 2), Err(Error::Arity { op: "product_bootstrap", have: 2, need: 3 }));
        let refused = shape.product_prime(Chain { product_prime: None, ..CHAIN }).unwrap_err().to_string();
        assert!(refused.starts_with("parameters are not usable: the chain has no product prime"), "{refused}");
        for tokens in [0, 1, 4096, usize::MAX] {
            let refused = MatrixShape { tokens, ..shape }.product_prime(CHAIN);
            assert!(matches!(refused, Err(Error::ProductLimit { least: 2, most: 2048, .. })), "{tokens} tokens");
        }
        let refused = MatrixShape { tokens: 96, ..shape }.product_prime(CHAIN);
        assert!(matches!(refused, Err(Error::ProductShape { have: 96, need: 128, .. })));
        for (outputs, inputs) in [(0, 1), (1, 0), (MAX_CHANNELS + 1, 1), (1, usize::MAX), (1 << 17, 1 << 16)] {
            let refused = MatrixShape { outputs, inputs, tokens: 128 }.product_prime(CHAIN);
            assert!(matches!(refused, Err(Error::ProductLimit { least: 1, .. })), "{outputs} × {inputs}");
        }
    }

    #[test]
    fn rows_are_quantised_with_one_gain_and_never_with_one_below_zero() {
        let shape = MatrixShape { outputs: 3, inputs: 2, tokens: 8 };
        let (prime, most) = (786_433u64, f32::from(1i16 << 14) / 786_433.0);
        for (factor, gain_log2, largest) in [(0.9f32, 0, 14746), (0.25, 0, 4096), (1.5, 1, 12288), (1000.0, 10, 16000)]
        {
            let row = |o: usize, out: &mut [f32]| out.copy_from_slice(&[most * factor * (o as f32 - 1.0), 0.0]);
            let rows = QuantizedRows::new(&shape, prime, &row).unwrap();
            assert_eq!(rows.gain_log2(), gain_log2, "{factor}");
            let mut integers = [7; 2];
            for (o, expected) in [(0, -largest), (1, 0), (2, largest)] {
                rows.write(o, &mut rows.buffer(), &mut integers).unwrap();
                assert_eq!(integers, [expected, 0], "row {o} of {factor}");
            }
        }
        for factor in [1100.0, f32::INFINITY, f32::NAN] {
            let row = move |o: usize, out: &mut [f32]| out.fill(if o == 1 { most * factor } else { 0.0 });
            assert!(matches!(QuantizedRows::new(&shape, prime, &row), Err(Error::Range { .. })), "{factor}");
        }
    }

    #[test]
    fn a_row_that_changes_is_refused() {
        let calls = std::sync::atomic::AtomicUsize::new(0);
        let row = |_: usize, out: &mut [f32]| {
            let first = calls.fetch_add(1, std::sync::atomic::Ordering::Relaxed) == 0;
            out.fill(if first { 0.01 } else { 0.03 });
        };
        let rows = QuantizedRows::new(&MatrixShape { outputs: 1, inputs: 2, tokens: 8 }, 786_433, &row).unwrap();
        let refused = rows.write(0, &mut rows.buffer(), &mut [0; 2]);
        assert!(matches!(refused, Err(Error::Range { .. })));
    }
}
