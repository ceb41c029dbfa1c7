//! Weights as 16-bit integers, and what of them is public: the scales.
//!
//! Every matrix gets the largest power of two that keeps its weights within 16 bits, at most [`MAX_WEIGHT_BITS`].
//! The gains of a norm are folded into the columns of the matrices after it before rounding, so that no party
//! applies them to shares and the permuted user need not know their order.
//! This is provider material: the user knows [`PublicModel`] only.

use rayon::prelude::*;
use undertone_model::{Llama, LlamaConfig};

use crate::error::{Error, Result};
use crate::fixed::{ACTIVATION_BITS, MAX_WEIGHT_BITS, power};
use crate::shape::{Matrix, Shape};

/// Fractional bits of the weight matrices of one layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LayerScales {
    /// Queries.
    pub q: u32,
    /// Keys.
    pub k: u32,
    /// Values.
    pub v: u32,
    /// Output of attention.
    pub o: u32,
    /// Gate.
    pub gate: u32,
    /// Up.
    pub up: u32,
    /// Down.
    pub down: u32,
}

/// What both parties know of a model: its configuration and the scales of its weights.
#[derive(Debug, Clone, PartialEq)]
pub struct PublicModel {
    /// The configuration.
    pub config: LlamaConfig,
    /// Fractional bits of the embedding.
    pub embed: u32,
    /// Fractional bits of the head.
    pub head: u32,
    /// Fractional bits by layer.
    pub layers: Vec<LayerScales>,
}

impl PublicModel {
    /// Checks scales that came from a peer or a file.
    ///
    /// # Errors
    /// Another number of layers than the configuration has, bits above [`MAX_WEIGHT_BITS`], a bad configuration.
    pub fn check(&self) -> Result<()> {
        self.config.validate()?;
        crate::error::expect_len("the list of layer scales", self.layers.len(), self.config.num_hidden_layers)?;
        let layers = self.layers.iter().flat_map(|l| [l.q, l.k, l.v, l.o, l.gate, l.up, l.down]);
        match layers.chain([self.embed, self.head]).find(|&bits| bits > MAX_WEIGHT_BITS) {
            None => Ok(()),
            Some(bits) => Err(Error::OutOfRange {
                what: "the number of fractional bits of a matrix",
                have: bits.into(),
                need: format!("at most {MAX_WEIGHT_BITS}"),
            }),
        }
    }

    /// The dimensions.
    pub fn shape(&self) -> Shape {
        Shape::new(&self.config)
    }

    /// Fractional bits of the residual stream: those of the finest matrix that feeds it, so that every shift of a
    /// product to it is a multiplication, exact on shares.
    pub fn residual_bits(&self) -> u32 {
        let layers = self.layers.iter().map(|layer| ACTIVATION_BITS + layer.o.max(layer.down));
        layers.fold(self.embed, u32::max)
    }

    /// The left shift from a product that feeds the residual stream to its scale.
    pub(crate) fn shift(&self, matrix: Matrix) -> u32 {
        self.residual_bits()
            - match matrix {
                Matrix::Embed => self.embed,
                Matrix::O(layer) => ACTIVATION_BITS + self.layers[layer].o,
                Matrix::Down(layer) => ACTIVATION_BITS + self.layers[layer].down,
                _ => self.residual_bits(),
            }
    }

    /// Fractional bits that the truncation of queries and of keys drops.
    pub(crate) fn rotated_drop(&self, layer: usize) -> [u32; 2] {
        // Activation times weight times rotary table, down to the bits of an activation.
        [self.layers[layer].q, self.layers[layer].k].map(|bits| bits + crate::fixed::ROTARY_BITS)
    }

    /// Fractional bits that the truncation of mixed values drops.
    pub(crate) fn mix_drop(&self, layer: usize) -> u32 {
        // Probability times value, where a value is activation times weight, down to the bits of an activation.
        crate::fixed::PROBABILITY_BITS + self.layers[layer].v
    }
}

/// A matrix of 16-bit weights.
///
/// # Shapes
/// `values` is `[rows, cols]`, row major.
pub(crate) struct Weights {
    pub(crate) cols: usize,
    pub(crate) values: Vec<i16>,
}

/// A model as the provider and the twin hold it.
pub struct QuantizedModel {
    pub(crate) public: PublicModel,
    matrices: Vec<Weights>,
}

/// Weights are not shown.
impl std::fmt::Debug for QuantizedModel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("QuantizedModel")
    }
}

impl QuantizedModel {
    /// Rounds a model.
    ///
    /// # Errors
    /// Weights that are not finite or not below 32768.
    pub fn new(model: &Llama) -> Result<Self> {
        let config = &model.config;
        config.validate()?;
        let ones = vec![1.0f32; config.query_size().max(config.intermediate_size)];
        // The embedding is applied to one-hot words: its columns are tokens.
        let turned = transposed(&model.embed);
        let (embed, embed_bits) =
            stacked("the embedding", &[&turned], &vec![1.0; config.vocab_size], config.vocab_size)?;
        let (head, head_bits) = stacked("the head", &[&model.head.data], &model.final_norm, config.hidden_size)?;
        let mut matrices = vec![embed, head];
        let mut layers = Vec::with_capacity(config.num_hidden_layers);
        for layer in &model.layers {
            let hidden = config.hidden_size;
            let (qkv, qkv_bits) =
                stacked("a projection", &[&layer.q.data, &layer.k.data, &layer.v.data], &layer.attention_norm, hidden)?;
            let (o, o_bits) = stacked("an output projection", &[&layer.o.data], &ones, layer.o.cols)?;
            let (gate_up, wide_bits) =
                stacked("a gate or up projection", &[&layer.gate.data, &layer.up.data], &layer.mlp_norm, hidden)?;
            let (down, down_bits) = stacked("a down projection", &[&layer.down.data], &ones, layer.down.cols)?;
            matrices.extend([qkv, o, gate_up, down]);
            let [q, k, v] = [qkv_bits[0], qkv_bits[1], qkv_bits[2]];
            let [gate, up] = [wide_bits[0], wide_bits[1]];
            layers.push(LayerScales { q, k, v, o: o_bits[0], gate, up, down: down_bits[0] });
        }
        let public = PublicModel { config: config.clone(), embed: embed_bits[0], head: head_bits[0], layers };
        Ok(Self { public, matrices })
    }

    /// What the user may know.
    pub fn public(&self) -> &PublicModel {
        &self.public
    }

    pub(crate) fn matrix(&self, matrix: Matrix) -> &Weights {
        &self.matrices[matrix.index()]
    }

    /// The matrices in the order of [`Shape::matrices`].
    pub(crate) fn matrices(&self) -> &[Weights] {
        &self.matrices
    }

    /// Bytes of weights that one token reads.
    pub fn size_bytes(&self) -> usize {
        self.matrices.iter().map(|weights| 2 * weights.values.len()).sum()
    }
}

fn transposed(matrix: &undertone_model::Matrix) -> Vec<f32> {
    let mut out = vec![0.0f32; matrix.data.len()];
    out.par_chunks_mut(matrix.rows).enumerate().for_each(|(col, row)| {
        for (r, value) in row.iter_mut().enumerate() {
            *value = matrix.data[r * matrix.cols + col];
        }
    });
    out
}

/// Parts with equal columns, one above the other, each with `gains` on its columns and at its own scale.
fn stacked(what: &'static str, parts: &[&[f32]], gains: &[f32], cols: usize) -> Result<(Weights, Vec<u32>)> {
    let mut values = Vec::with_capacity(parts.iter().map(|part| part.len()).sum());
    let mut scales = Vec::with_capacity(parts.len());
    for part in parts {
        let product = |row: &[f32], c: usize| f64::from(row[c]) * f64::from(gains[c]);
        let row_largest = |row: &[f32]| (0..cols).map(|c| product(row, c).abs()).fold(0.0, worst);
        let largest = part.par_chunks_exact(cols).map(row_largest).reduce(|| 0.0, worst);
        let limit = f64::from(i16::MAX);
        let bits = (0..=MAX_WEIGHT_BITS).rev().find(|&bits| (largest * power(bits as i32)).round_ties_even() <= limit);
        let bits = bits.ok_or(Error::Weights { matrix: what })?;
        values.par_extend(part.par_chunks_exact(cols).flat_map_iter(|row| {
            (0..cols).map(move |c| (product(row, c) * power(bits as i32)).round_ties_even() as i16)
        }));
        scales.push(bits);
    }
    Ok((Weights { cols, values }, scales))
}

/// The larger of two, where anything that is no number wins.
fn worst(a: f64, b: f64) -> f64 {
    if a.is_nan() || b.is_nan() { f64::NAN } else { a.max(b) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use undertone_model::synthetic::{small_config, synthetic};

    #[test]
    fn weights_use_sixteen_bits_and_bad_ones_are_refused() {
        let mut model = synthetic(small_config(), 1);
        let quantized = QuantizedModel::new(&model).unwrap();
        quantized.public.check().unwrap();
        let scales = quantized.public.layers[0];
        let part = &quantized.matrix(Matrix::Qkv(0)).values[..4 * 8 * 24];
        let largest = part.iter().map(|w| w.unsigned_abs()).max().unwrap();
        assert!(largest > 1 << 14 || scales.q == MAX_WEIGHT_BITS);
        // Every weight with its gain, to half a unit of rounding.
        let layer = &model.layers[0];
        for (i, (&have, &weight)) in part.iter().zip(&layer.q.data).enumerate() {
            let need = f64::from(weight) * f64::from(layer.attention_norm[i % 24]) * power(scales.q as i32);
            assert!((f64::from(have) - need).abs() <= 0.5);
        }
        let shapes = quantized.public.shape().matrices();
        assert!(shapes.iter().zip(quantized.matrices()).all(|(s, m)| s.0 * s.1 == m.values.len() && s.1 == m.cols));

        for bad in [f32::NAN, f32::INFINITY, 40_000.0] {
            model.layers[1].up.data[3] = bad;
            assert!(matches!(QuantizedModel::new(&model), Err(Error::Weights { .. })), "{bad}");
        }
    }
}
