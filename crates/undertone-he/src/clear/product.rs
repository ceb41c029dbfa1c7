//! The matrix product between bootstraps, on the integers that an encrypted one multiplies by.

use super::{ClearEvaluator, ClearValue};
use crate::matrix::QuantizedRows;
use crate::{Chain, Error, Evaluator, MatrixRow, MatrixShape};
use rayon::prelude::*;
use std::sync::Arc;

/// Output channels of one task: their sums stay in the nearest cache while all inputs pass by.
const ROWS_PER_TASK: usize = 8;

/// A matrix of 15-bit integers, row after row, with what one unit of them stands for.
pub struct ClearMatrix {
    shape: MatrixShape,
    /// 2^gain_log2, which multiplies what leaves the bootstrap.
    gain: f64,
    prime: u64,
    integers: Vec<i16>,
}

impl ClearMatrix {
    pub(super) fn new(chain: Chain, shape: &MatrixShape, row: &MatrixRow<'_>) -> Result<Self, Error> {
        let prime = shape.product_prime(chain)?;
        let rows = QuantizedRows::new(shape, prime, row)?;
        // Both sides were bounded.
        let mut integers = vec![0i16; shape.outputs * shape.inputs];
        let write = |buffer: &mut Vec<f32>, (o, out): (usize, &mut [i16])| rows.write(o, buffer, out);
        let chunks = integers.par_chunks_exact_mut(shape.inputs).enumerate();
        chunks.map_init(|| rows.buffer(), write).collect::<Result<(), Error>>()?;
        Ok(Self { shape: *shape, gain: f64::from(rows.gain_log2()).exp2(), prime, integers })
    }

    /// The integers by which row `o` multiplies.
    pub fn integers(&self, o: usize) -> &[i16] {
        &self.integers[o * self.shape.inputs..][..self.shape.inputs]
    }

    /// The factor of an integer: 2^gain_log2 over the product prime.
    pub fn unit(&self) -> f64 {
        self.gain / self.prime as f64
    }

    /// Adds up a few rows; `channels` holds the tokens of one input channel after those of the other.
    fn rows(&self, first: usize, channels: &[f64], out: &mut [f64]) {
        let tokens = self.shape.tokens;
        for (i, channel) in channels.chunks_exact(tokens).enumerate() {
            for (r, sum) in out.chunks_exact_mut(tokens).enumerate() {
                let weight = f64::from(self.integers[(first + r) * self.shape.inputs + i]);
                sum.iter_mut().zip(channel).for_each(|(sum, x)| *sum += weight * x);
            }
        }
        let unit = self.unit();
        out.iter_mut().for_each(|sum| *sum *= unit);
    }
}

impl ClearEvaluator {
    pub(super) fn product(
        &self,
        inputs: &[[ClearValue; 2]],
        matrix: &ClearMatrix,
    ) -> Result<Vec<[ClearValue; 2]>, Error> {
        let (op, shape) = ("product_bootstrap", &matrix.shape);
        let levels: Vec<_> = inputs.iter().map(|pair| pair.each_ref().map(|value| value.cost.clone())).collect();
        let costs = self.cost.product(&levels, shape)?;
        for value in inputs.iter().flatten() {
            self.in_range(op, &value.slots)?;
        }
        let half = shape.tokens / 2;
        let mut channels = Vec::with_capacity(shape.inputs * shape.tokens);
        for c in 0..shape.inputs {
            let (pair, place) = (c / shape.components(self.chain()), c % shape.components(self.chain()));
            inputs[pair].iter().for_each(|value| channels.extend_from_slice(&value.slots[place * half..][..half]));
        }
        let mut products = vec![0.0; shape.outputs * shape.tokens];
        let tasks = products.par_chunks_mut(ROWS_PER_TASK * shape.tokens).enumerate();
        tasks.for_each(|(task, out)| matrix.rows(task * ROWS_PER_TASK, &channels, out));
        self.in_range(op, &products)?;
        let pairs = products.chunks(shape.components(self.chain()) * shape.tokens);
        let fill = |(channels, cost): (&[f64], [crate::CostValue; 2])| {
            [0, 1].map(|side| self.side(channels, side, matrix, cost[side].clone()))
        };
        Ok(pairs.zip(costs).map(fill).collect())
    }

    /// One value of an output pair: the first or the second half of the tokens of every channel.
    fn side(&self, channels: &[f64], side: usize, matrix: &ClearMatrix, cost: crate::CostValue) -> ClearValue {
        let (tokens, half) = (matrix.shape.tokens, matrix.shape.tokens / 2);
        let mut slots = vec![0.0; self.chain().slot_count()];
        for (out, channel) in slots.chunks_exact_mut(half).zip(channels.chunks_exact(tokens)) {
            out.copy_from_slice(&channel[side * half..][..half]);
        }
        self.add_noise(&mut slots, matrix.gain);
        ClearValue { slots: Arc::new(slots), cost }
    }
}
