//! Weights of a product, converted offline: 15-bit integers in the order in which the product reads them.
//!
//! Entry [block][row][pair][t] is the weight from component r − 1 − t of input pair `pair` to component `row` of output
//! pair `block`; where either side has no channel it is zero. Both residue primes read the same integers: two bytes per
//! weight. The integers alone, over q_w, are what a product multiplies by; the power of two that the matrix has besides
//! is the weights' gain, which whoever takes the product over folds into the next constant.

use super::{ComponentOrder, ProductParameters, Quantization};
use crate::Error;
use rayon::prelude::*;

/// The largest magnitude of an integer weight: 2^14, which is what single-word products of residues rest on.
pub const MAX_WEIGHT: i16 = 1 << 14;

/// The largest magnitude of log2 of a gain. Quantised 32-bit floats, whose largest lies between 2^-149 and 2^128, need
/// −148 to 139 with product primes of 16 to 25 bits.
pub const MAX_GAIN_LOG2: i32 = 150;

/// Most channels of either side, more than any model has.
pub const MAX_CHANNELS: usize = 1 << 20;

/// Which channels a weight matrix joins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WeightShape {
    /// Channels that come out.
    pub outputs: usize,
    /// Channels that go in.
    pub inputs: usize,
    /// Which channel of an output ciphertext each component holds.
    pub output_order: ComponentOrder,
    /// Which channel of an input ciphertext each component holds.
    pub input_order: ComponentOrder,
}

/// A weight matrix in the order of the product.
pub struct ProductWeights {
    pub(super) digest: [u8; 32],
    /// Digests of the component orders.
    pub(super) input_order: [u8; 32],
    pub(super) output_order: [u8; 32],
    pub(super) outputs: usize,
    pub(super) inputs: usize,
    pub(super) gain_log2: i32,
    /// Weights of one row with padding, and rows of one block.
    pub(super) width: usize,
    pub(super) rank: usize,
    pub(super) entries: Vec<i16>,
}

impl ProductWeights {
    /// Takes over integers of magnitude at most [`MAX_WEIGHT`]; `weight(o, i)` stands for weight · 2^gain_log2 / q_w.
    ///
    /// # Errors
    /// `ProductShape` when an order has not N/T components, `ProductLimit` when a side has no channels or too many,
    /// `Range` for a larger weight or a gain beyond [`MAX_GAIN_LOG2`].
    pub fn new(
        parameters: &ProductParameters,
        shape: &WeightShape,
        gain_log2: i32,
        weight: impl Fn(usize, usize) -> i16 + Sync + Send,
    ) -> Result<Self, Error> {
        let fill = |o: usize, (): &mut (), out: &mut [i16]| {
            out.iter_mut().enumerate().for_each(|(i, out)| *out = weight(o, i));
            Ok(())
        };
        Self::from_rows(parameters, shape, gain_log2, || (), fill)
    }

    /// The same by rows, in parallel: `row(o, buffer, out)` writes the integers of row o with a buffer of its thread.
    ///
    /// # Errors
    /// As [`ProductWeights::new`], and what `row` gives.
    pub fn from_rows<B>(
        parameters: &ProductParameters,
        shape: &WeightShape,
        gain_log2: i32,
        buffer: impl Fn() -> B + Sync + Send,
        row: impl Fn(usize, &mut B, &mut [i16]) -> Result<(), Error> + Sync + Send,
    ) -> Result<Self, Error> {
        let padded = PaddedShape::of(parameters, shape)?;
        if gain_log2.unsigned_abs() > MAX_GAIN_LOG2.unsigned_abs() {
            let (have, need) = (f64::from(gain_log2).abs(), f64::from(MAX_GAIN_LOG2));
            return Err(Error::Range { op: "log2 of the gain of pc_matmul weights", have, need });
        }
        // Where the entry at each place of a row comes from.
        let component = |at: usize| at - at % padded.rank + padded.rank - 1 - at % padded.rank;
        let channel = |at: usize| padded.channel(component(at), shape.inputs, &shape.input_order);
        let sources: Vec<Option<usize>> = (0..padded.inputs).map(channel).collect();
        let mut entries = vec![0i16; padded.entries];
        let fill = |(buffer, integers): &mut (B, Vec<i16>), (at, entries): (usize, &mut [i16])| {
            let Some(o) = padded.channel(at, shape.outputs, &shape.output_order) else { return Ok(()) };
            row(o, buffer, integers)?;
            if let Some(large) = integers.iter().find(|value| value.unsigned_abs() > MAX_WEIGHT.unsigned_abs()) {
                let (have, need) = (f64::from(large.unsigned_abs()), f64::from(MAX_WEIGHT));
                return Err(Error::Range { op: "pc_matmul weights", have, need });
            }
            for (entry, source) in entries.iter_mut().zip(&sources) {
                *entry = source.map_or(0, |i| integers[i]);
            }
            Ok(())
        };
        let rows = entries.par_chunks_exact_mut(padded.inputs).enumerate();
        rows.map_init(|| (buffer(), vec![0; shape.inputs]), fill).collect::<Result<(), Error>>()?;
        let (width, rank) = (padded.inputs, padded.rank);
        let [input_order, output_order] = [&shape.input_order, &shape.output_order].map(ComponentOrder::digest);
        let (digest, outputs, inputs) = (parameters.digest(), shape.outputs, shape.inputs);
        Ok(Self { digest, input_order, output_order, outputs, inputs, gain_log2, width, rank, entries })
    }

    /// Quantises real weights, row after row of `inputs` values, with the gain that uses all 15 bits.
    ///
    /// # Errors
    /// As [`ProductWeights::new`], `ProductShape` for a wrong number of values, `Range` for one that is not finite.
    pub fn quantize(parameters: &ProductParameters, shape: &WeightShape, values: &[f32]) -> Result<Self, Error> {
        let need = shape.outputs.saturating_mul(shape.inputs);
        if values.len() != need {
            return Err(Error::ProductShape { what: "weights", have: values.len(), need });
        }
        let quantization = Quantization::full(Quantization::largest(values)?, parameters.product_prime());
        let integers = values.iter().map(|&value| quantization.integer(value)).collect::<Result<Vec<i16>, Error>>()?;
        Self::new(parameters, shape, quantization.gain_log2(), |o, i| integers[o * shape.inputs + i])
    }

    /// Channels that come out.
    pub fn outputs(&self) -> usize {
        self.outputs
    }

    /// Channels that go in.
    pub fn inputs(&self) -> usize {
        self.inputs
    }

    /// log2 of the gain: an integer weight w stands for w · 2^gain_log2 / q_w, but a product multiplies by w / q_w
    /// only, so its values are 2^-gain_log2 times what the matrix says. Fold 2^gain_log2 into a constant of the next
    /// step.
    pub fn gain_log2(&self) -> i32 {
        self.gain_log2
    }

    /// The digest of the order of the input channels.
    pub fn input_order(&self) -> [u8; 32] {
        self.input_order
    }

    /// The digest of the order of the output channels.
    pub fn output_order(&self) -> [u8; 32] {
        self.output_order
    }

    /// Output pairs of the small ring, with those that pad the last ciphertext.
    pub fn blocks(&self) -> usize {
        self.entries.len() / (self.width * self.rank)
    }

    /// Memory that the entries take.
    pub fn size_bytes(&self) -> usize {
        2 * self.entries.len()
    }

    pub(super) fn digest(&self) -> [u8; 32] {
        self.digest
    }

    pub(super) fn width(&self) -> usize {
        self.width
    }

    pub(super) fn block(&self, index: usize) -> Option<&[i16]> {
        self.entries.chunks_exact(self.width * self.rank).nth(index)
    }
}

/// Sizes with padding to whole ciphertexts; components of one side are counted pair by pair.
pub(super) struct PaddedShape {
    pub(super) inputs: usize,
    /// Outputs times inputs; their bytes fit a machine word.
    pub(super) entries: usize,
    rank: usize,
    parts: usize,
}

impl PaddedShape {
    fn of(parameters: &ProductParameters, shape: &WeightShape) -> Result<Self, Error> {
        for order in [&shape.output_order, &shape.input_order] {
            let (have, need) = (order.components(), parameters.components());
            if have != need {
                return Err(Error::ProductShape { what: "components of every ciphertext", have, need });
            }
        }
        Self::padded(parameters, shape.outputs, shape.inputs)
    }

    pub(super) fn padded(parameters: &ProductParameters, outputs: usize, inputs: usize) -> Result<Self, Error> {
        for (have, what) in [(outputs, "output channels"), (inputs, "input channels")] {
            if !(1..=MAX_CHANNELS).contains(&have) {
                return Err(Error::ProductLimit { what, have, least: 1, most: MAX_CHANNELS });
            }
        }
        let [outputs, inputs] = [outputs, inputs].map(|side| side.next_multiple_of(parameters.components()));
        let most = isize::MAX as usize / size_of::<i16>();
        let entries = outputs.checked_mul(inputs).filter(|&entries| entries <= most);
        let too_many = Error::ProductLimit { what: "weights with padding", have: usize::MAX, least: 1, most };
        let entries = entries.ok_or(too_many)?;
        Ok(Self { inputs, entries, rank: parameters.rank(), parts: parameters.parts() })
    }

    /// The channel of component `at`, counted pair by pair over all ciphertexts; none in the padding.
    fn channel(&self, at: usize, channels: usize, order: &ComponentOrder) -> Option<usize> {
        let (pair, i) = (at / self.rank, at % self.rank);
        let (ciphertext, part) = (pair / self.parts, pair % self.parts);
        let channel = ciphertext * order.components() + order.channel(part + self.parts * i);
        (channel < channels).then_some(channel)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Parameters, ParametersLiteral};

    fn product() -> ProductParameters {
        let literal = ParametersLiteral { log_n: 7, secret_weight: 64, ..ParametersLiteral::n16_product() };
        ProductParameters::new(&Parameters::build_unchecked(literal), 5, 4).unwrap()
    }

    /// A product in the clear that moves coefficients exactly as the ciphertexts' parts do.
    fn clear(parameters: &ProductParameters, weights: &ProductWeights, inputs: &[Vec<i64>]) -> Vec<Vec<i64>> {
        let (rank, tokens) = (parameters.rank(), parameters.tokens());
        let pairs: Vec<Vec<i64>> =
            inputs.iter().flat_map(|input| super::super::split(input, parameters.parts())).collect();
        let mut blocks = Vec::new();
        for block in 0..weights.blocks() {
            let mut out = vec![0; rank * tokens];
            for (o, row) in weights.block(block).unwrap().chunks_exact(weights.width()).enumerate() {
                for (pair, weights) in pairs.iter().zip(row.chunks_exact(rank)) {
                    for (t, &w) in weights.iter().enumerate() {
                        (0..tokens).for_each(|k| out[o + rank * k] += i64::from(w) * pair[rank - 1 - t + rank * k]);
                    }
                }
            }
            blocks.push(out);
        }
        let views: Vec<&[i64]> = blocks.iter().map(Vec::as_slice).collect();
        views.chunks_exact(parameters.parts()).map(super::super::join).collect()
    }

    #[test]
    fn the_order_of_entries_computes_the_matrix_product() {
        let parameters = product();
        let (components, tokens) = (parameters.components(), parameters.tokens());
        let reversed = ComponentOrder::bit_reversed(components).unwrap();
        for (outputs, inputs) in [(32, 32), (5, 70), (33, 31), (64, 1)] {
            for (output_order, input_order) in [
                (ComponentOrder::natural(components), ComponentOrder::natural(components)),
                (reversed.clone(), ComponentOrder::natural(components)),
                (reversed.clone(), reversed.clone()),
            ] {
                let shape = WeightShape { outputs, inputs, output_order, input_order };
                let weight = |o: usize, i: usize| ((o * 37 + i * 11) % 101) as i16 - 50;
                let weights = ProductWeights::new(&parameters, &shape, 0, weight).unwrap();
                let value = |channel: usize, token: usize| (channel * 13 + token * 7) as i64 % 29 - 14;
                // What padding holds must not matter.
                let place = |ciphertext: usize, order: &ComponentOrder, p: usize| {
                    (ciphertext * components + order.channel(p % components), p / components)
                };
                let ciphertexts: Vec<Vec<i64>> = (0..inputs.div_ceil(components))
                    .map(|c| {
                        let at = |p| place(c, &shape.input_order, p);
                        (0..components * tokens).map(|p| value(at(p).0, at(p).1)).collect()
                    })
                    .collect();
                let result = clear(&parameters, &weights, &ciphertexts);
                assert_eq!(result.len(), outputs.div_ceil(components));
                for (c, result) in result.iter().enumerate() {
                    for (p, &have) in result.iter().enumerate() {
                        let (o, t) = place(c, &shape.output_order, p);
                        let term = |i| i64::from(weight(o, i)) * value(i, t);
                        let need: i64 = if o < outputs { (0..inputs).map(term).sum() } else { 0 };
                        assert_eq!(have, need, "{outputs} x {inputs}, ciphertext {c}, coefficient {p}");
                    }
                }
            }
        }
    }

    #[test]
    fn quantised_weights_use_their_bits_and_round() {
        let parameters = product();
        let order = ComponentOrder::natural(parameters.components());
        let shape = WeightShape { outputs: 3, inputs: 5, output_order: order.clone(), input_order: order };
        for scale in [f32::MIN_POSITIVE, 1e-6f32, 0.02, 0.5, 1.0, 37.0, f32::MAX] {
            let values: Vec<f32> = (0..15).map(|k| scale * (k as f32 * 0.7).sin()).collect();
            let weights = ProductWeights::quantize(&parameters, &shape, &values).unwrap();
            let most = weights.entries.iter().map(|w| w.unsigned_abs()).max().unwrap();
            assert!((1 << 13..=1 << 14).contains(&most), "{most} of 2^14 at {scale}");
            let unit = f64::from(weights.gain_log2()).exp2() / parameters.product_prime() as f64;
            let rank = parameters.rank();
            for (k, &value) in values.iter().enumerate() {
                let (o, i) = (k / 5, k % 5);
                // In natural order channel c is component c / parts of pair c mod parts.
                let (block, row) = (o % parameters.parts(), o / parameters.parts());
                let at = (i % parameters.parts()) * rank + rank - 1 - i / parameters.parts();
                let have = f64::from(weights.block(block).unwrap()[row * weights.width() + at]) * unit;
                assert!((have - f64::from(value)).abs() <= unit / 2.0 * (1.0 + 1e-9), "weight {k} at {scale}");
            }
        }
        assert_eq!(ProductWeights::quantize(&parameters, &shape, &[0.0; 15]).unwrap().gain_log2(), 0);
        assert!(ProductWeights::quantize(&parameters, &shape, &[0.0; 14]).is_err());
        let mut values = [0.0; 15];
        values[3] = f32::NAN;
        assert!(matches!(ProductWeights::quantize(&parameters, &shape, &values), Err(Error::Range { .. })));
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let parameters = product();
        let order = ComponentOrder::natural(parameters.components());
        let shape = |outputs, inputs, components| WeightShape {
            outputs,
            inputs,
            output_order: order.clone(),
            input_order: ComponentOrder::natural(components),
        };
        let new = |shape: WeightShape, weight: i16| ProductWeights::new(&parameters, &shape, 0, move |_, _| weight);
        assert!(new(shape(1, 1, 32), MAX_WEIGHT).is_ok() && new(shape(1, 1, 32), -MAX_WEIGHT).is_ok());
        assert!(matches!(new(shape(1, 1, 32), MAX_WEIGHT + 1), Err(Error::Range { .. })));
        assert!(matches!(new(shape(1, 1, 32), i16::MIN), Err(Error::Range { .. })));
        assert!(matches!(new(shape(1, 1, 16), 1), Err(Error::ProductShape { have: 16, need: 32, .. })));
        for (outputs, inputs) in [(0, 1), (1, 0), (usize::MAX, 1), (1, (1 << 20) + 1)] {
            let refused = new(shape(outputs, inputs, 32), 1).err().unwrap();
            assert!(matches!(refused, Error::ProductLimit { .. }));
            assert!(refused.to_string().starts_with("a matrix product takes 1 to 1048576 "), "{refused}");
        }
        for gain_log2 in [MAX_GAIN_LOG2, -MAX_GAIN_LOG2] {
            assert!(ProductWeights::new(&parameters, &shape(1, 1, 32), gain_log2, |_, _| 1).is_ok());
        }
        for gain_log2 in [MAX_GAIN_LOG2 + 1, -MAX_GAIN_LOG2 - 1, i32::MAX, i32::MIN] {
            let refused = ProductWeights::new(&parameters, &shape(1, 1, 32), gain_log2, |_, _| 1);
            assert!(matches!(refused, Err(Error::Range { .. })), "2^{gain_log2}");
        }
    }
}
