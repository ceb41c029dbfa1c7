//! Rotations fused into the weights: the same function with smaller ranges.
//!
//! The gains of all norms move into the matrices behind them, so that a norm commutes with any orthogonal map of the
//! residual stream. One such map is fused into everything that writes the stream (embedding, o, down) and everything
//! that reads it (q, k, v, gate, up, head); one per key head into v and o. What a map spreads over all channels no
//! longer stands out in one: the stream, the outputs of o and down, the values and the attention outputs shrink. What
//! projections of a norm yield, scores and gates, stays what it was.
//!
//! Source: SliceGPT (arXiv 2401.15024) for the gains, QuaRot (arXiv 2404.00456) for both maps, fused parts only. Maps
//! are public, a function of the seed and of the shape; arithmetic is f64, and every weight is rounded to f32 once.

mod orthogonal;

use std::sync::Arc;

use rayon::prelude::*;

use crate::weights::{LayerWeights, Llama, Matrix};
use orthogonal::Orthogonal;

const CONTEXT: &str = "undertone rotation, version 1";

/// Rotates a token embedding, `[V, D]`, as [`Llama::rotated`] does.
///
/// This is all that a client has to know: what it encrypts are rows of the result.
pub fn rotated_embedding(mut embedding: Matrix, seed: u64) -> Matrix {
    let map = residual_map(embedding.cols, seed);
    rotate_rows(&mut embedding, None, &map);
    embedding
}

impl Llama {
    /// The same function with rotated weights, from a public seed; every gain of a norm becomes 1.
    ///
    /// A tied head is untied, because only the head takes the gains of the final norm. Logits differ by rounding.
    pub fn rotated(mut self, seed: u64) -> Self {
        let stream = residual_map(self.config.hidden_size, seed);
        let mut head = Arc::unwrap_or_clone(self.head);
        rotate_rows(&mut head, Some(&self.final_norm), &stream);
        self.head = Arc::new(head);
        self.final_norm.fill(1.0);
        let mut embed = Arc::unwrap_or_clone(self.embed);
        rotate_rows(&mut embed, None, &stream);
        self.embed = Arc::new(embed);
        self.config.tie_word_embeddings = false;
        let (head_dim, key_heads) = (self.config.head_dim, self.config.num_key_value_heads);
        for (number, layer) in self.layers.iter_mut().enumerate() {
            let values: Vec<Orthogonal> =
                (0..key_heads).map(|head| value_map(head_dim, seed, (number, head))).collect();
            rotate_layer(layer, &stream, &values);
        }
        self
    }
}

fn rotate_layer(layer: &mut LayerWeights, stream: &Orthogonal, values: &[Orthogonal]) {
    for matrix in [&mut layer.q, &mut layer.k] {
        rotate_rows(matrix, Some(&layer.attention_norm), stream);
    }
    for matrix in [&mut layer.gate, &mut layer.up] {
        rotate_rows(matrix, Some(&layer.mlp_norm), stream);
    }
    rotate_values(&mut layer.v, &layer.attention_norm, stream, values);
    rotate_attention_output(&mut layer.o, stream, values);
    rotate_columns(&mut layer.down, stream);
    layer.attention_norm.fill(1.0);
    layer.mlp_norm.fill(1.0);
}

/// Multiplies every row by `gain` and maps it.
fn rotate_rows(matrix: &mut Matrix, gain: Option<&[f32]>, map: &Orthogonal) {
    matrix.data.par_chunks_exact_mut(map.len()).for_each_init(Vec::new, |scratch, row| {
        let mut wide = wide(row);
        if let Some(gain) = gain {
            wide.iter_mut().zip(gain).for_each(|(x, &gain)| *x *= f64::from(gain));
        }
        map.apply(&mut wide, scratch);
        narrow(&wide, row);
    });
}

/// Maps every column.
fn rotate_columns(matrix: &mut Matrix, map: &Orthogonal) {
    // Rows of the transposed matrix are what the columns are to the residual stream.
    let mut by_input = Matrix { rows: matrix.cols, cols: matrix.rows, data: transposed(&matrix.data, matrix.cols) };
    rotate_rows(&mut by_input, None, map);
    matrix.data = transposed(&by_input.data, by_input.cols);
}

/// Both maps of v, `[key heads · d, D]`: rows read the stream, columns write the values of each head.
fn rotate_values(matrix: &mut Matrix, gain: &[f32], stream: &Orthogonal, values: &[Orthogonal]) {
    let mut wide = wide(&matrix.data);
    wide.par_chunks_exact_mut(matrix.cols).for_each_init(Vec::new, |scratch, row| {
        row.iter_mut().zip(gain).for_each(|(x, &gain)| *x *= f64::from(gain));
        stream.apply(row, scratch);
    });
    let mut by_input = transposed(&wide, matrix.cols);
    rotate_segments(&mut by_input, matrix.rows, values);
    narrow(&transposed(&by_input, matrix.rows), &mut matrix.data);
}

/// Both maps of o, `[D, heads · d]`: rows read the values of each head, columns write the stream.
fn rotate_attention_output(matrix: &mut Matrix, stream: &Orthogonal, values: &[Orthogonal]) {
    let mut wide = wide(&matrix.data);
    rotate_segments(&mut wide, matrix.cols, values);
    let mut by_input = transposed(&wide, matrix.cols);
    by_input.par_chunks_exact_mut(matrix.rows).for_each_init(Vec::new, |scratch, column| stream.apply(column, scratch));
    narrow(&transposed(&by_input, matrix.rows), &mut matrix.data);
}

/// Maps the part of every row that belongs to a head; several query heads in a row share the map of a key head.
fn rotate_segments(data: &mut [f64], cols: usize, maps: &[Orthogonal]) {
    let heads_per_map = cols / (maps.len() * maps[0].len());
    data.par_chunks_exact_mut(cols).for_each_init(Vec::new, |scratch, row| {
        for (head, segment) in row.chunks_exact_mut(maps[0].len()).enumerate() {
            maps[head / heads_per_map].apply(segment, scratch);
        }
    });
}

fn wide(values: &[f32]) -> Vec<f64> {
    values.iter().map(|&x| f64::from(x)).collect()
}

/// The only place where a weight is rounded.
fn narrow(wide: &[f64], out: &mut [f32]) {
    out.iter_mut().zip(wide).for_each(|(out, &x)| *out = x as f32);
}

/// A matrix of `cols` columns, transposed.
fn transposed<T: Copy + Default + Send + Sync>(data: &[T], cols: usize) -> Vec<T> {
    let rows = data.len() / cols;
    let mut out = vec![T::default(); data.len()];
    out.par_chunks_exact_mut(rows).enumerate().for_each(|(col, out)| {
        out.iter_mut().enumerate().for_each(|(row, out)| *out = data[row * cols + col]);
    });
    out
}

/// The map of the residual stream of `hidden` channels.
fn residual_map(hidden: usize, seed: u64) -> Orthogonal {
    Orthogonal::new(hidden, stream(seed, [0, 0, 0]))
}

/// The map of the values of one key head.
fn value_map(head_dim: usize, seed: u64, (layer, head): (usize, usize)) -> Orthogonal {
    Orthogonal::new(head_dim, stream(seed, [1, layer as u64, head as u64]))
}

fn stream(seed: u64, place: [u64; 3]) -> blake3::OutputReader {
    let mut hasher = blake3::Hasher::new_derive_key(CONTEXT);
    for number in [seed].into_iter().chain(place) {
        hasher.update(&number.to_le_bytes());
    }
    hasher.finalize_xof()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::LlamaConfig;
    use crate::matmul::Accumulation;
    use crate::reference::{ForwardOptions, KvCache, Observer, Site, SiteShape, forward_observed};
    use crate::synthetic::{Statistics, Synthetic, small_config, synthetic};
    use std::collections::BTreeMap;
    use std::path::Path;

    /// Largest magnitudes by site over all layers, except at position 0.
    #[derive(Default)]
    struct Largest(BTreeMap<Site, f32>);

    impl Observer for Largest {
        fn record(&mut self, _: usize, site: Site, values: &[f32], shape: SiteShape) {
            let skipped = if shape.position == 0 { shape.cols } else { 0 };
            let largest = values[skipped.min(values.len())..].iter().fold(0.0f32, |m, x| m.max(x.abs()));
            let entry = self.0.entry(site).or_default();
            *entry = entry.max(largest);
        }
    }

    fn run(model: &Llama, tokens: &[u32]) -> (Vec<Vec<f32>>, Largest) {
        let mut seen = Largest::default();
        let options = ForwardOptions { accumulation: Accumulation::F64, ..ForwardOptions::default() };
        let logits = forward_observed(model, &mut KvCache::new(&model.config), tokens, options, &mut seen).unwrap();
        (logits, seen)
    }

    fn tokens(model: &Llama) -> Vec<u32> {
        let vocab = model.config.vocab_size as u32;
        (0..40).map(|i| if i == 0 { model.config.bos_token_id.unwrap() } else { (i * 97 + 5) % vocab }).collect()
    }

    fn largest_change(model: &Llama, seed: u64) -> f32 {
        let rotated = model.clone().rotated(seed);
        assert!(rotated.layers[0].q != model.layers[0].q && rotated.layers[0].v != model.layers[0].v);
        rotated.config.validate().unwrap();
        assert!(rotated.final_norm.iter().all(|&gain| gain == 1.0));
        let tokens = tokens(model);
        let ((before, _), (after, _)) = (run(model, &tokens), run(&rotated, &tokens));
        before.iter().flatten().zip(after.iter().flatten()).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
    }

    #[test]
    fn logits_stay_for_every_kind_of_shape() {
        let bundled = Llama::load(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/tiny")).unwrap();
        let grouped = synthetic(small_config(), 3);
        let tied = synthetic(LlamaConfig { tie_word_embeddings: true, ..small_config() }, 4);
        let odd = LlamaConfig {
            hidden_size: 288,
            num_attention_heads: 6,
            num_key_value_heads: 6,
            head_dim: 48,
            ..small_config()
        };
        let alone = LlamaConfig { num_key_value_heads: 1, ..small_config() };
        for (name, model) in [
            ("bundled", bundled),
            ("grouped", grouped),
            ("tied", tied),
            ("odd", synthetic(odd, 5)),
            ("one key head", synthetic(alone, 6)),
        ] {
            let change = largest_change(&model, 9);
            println!("{name}: {change:.1e}");
            assert!(change < 1e-4, "{name}: {change}");
        }
    }

    /// A map as a matrix: row i is where coordinate i goes.
    fn dense(map: &Orthogonal) -> Vec<Vec<f64>> {
        let image = |i: usize| {
            let mut x = vec![0.0; map.len()];
            x[i] = 1.0;
            map.apply(&mut x, &mut Vec::new());
            x
        };
        (0..map.len()).map(image).collect()
    }

    #[test]
    fn values_and_attention_outputs_are_rounded_once() {
        let model = synthetic(small_config(), 3);
        let (config, plain) = (&model.config, &model.layers[1]);
        let (hidden, head_dim) = (config.hidden_size, config.head_dim);
        let rotated = &model.clone().rotated(9).layers[1];
        let stream = dense(&residual_map(hidden, 9));
        let group = config.num_attention_heads / config.num_key_value_heads;
        let near = |what: &str, rotated: f32, exact: f64| {
            // Half a unit in the last place, and what two orders of summation in f64 differ by.
            let allowed = exact.abs() * (-24f64).exp2() + 1e-14;
            assert!((f64::from(rotated) - exact).abs() <= allowed, "{what} {rotated} {exact}");
        };
        for head in 0..config.num_attention_heads {
            let values = dense(&value_map(head_dim, 9, (1, head / group)));
            for (coordinate, channel) in (0..head_dim).flat_map(|i| (0..hidden).map(move |j| (i, j))) {
                let sum = |entry: &dyn Fn(usize, usize) -> f64| -> f64 {
                    let places = (0..head_dim).flat_map(|i| (0..hidden).map(move |j| (i, j)));
                    places.map(|(i, j)| entry(i, j) * values[i][coordinate] * stream[j][channel]).sum()
                };
                let width = plain.o.cols;
                let entry = |i: usize, j: usize| f64::from(plain.o.data[j * width + head * head_dim + i]);
                near("o", rotated.o.data[channel * width + head * head_dim + coordinate], sum(&entry));
                if head % group == 0 {
                    let row = |i: usize| (head / group) * head_dim + i;
                    let gained = |i: usize, j: usize| {
                        f64::from(plain.v.data[row(i) * hidden + j]) * f64::from(plain.attention_norm[j])
                    };
                    near("v", rotated.v.data[row(coordinate) * hidden + channel], sum(&gained));
                }
            }
        }
    }

    #[test]
    fn outliers_are_spread_and_scores_and_gates_stay() {
        let config = LlamaConfig {
            hidden_size: 256,
            intermediate_size: 512,
            num_hidden_layers: 4,
            head_dim: 32,
            vocab_size: 300,
            ..small_config()
        };
        let statistics = Statistics::Outliers { delimiters: vec![] };
        let mut model = Synthetic::new(config, 5, &statistics).unwrap().model();
        // Random values have no outliers of their own.
        model.layers.iter_mut().for_each(|layer| layer.v.data[3 * 256..4 * 256].iter_mut().for_each(|x| *x *= 8.0));
        assert!(largest_change(&model, 2) < 1e-4, "{}", largest_change(&model, 2));
        let tokens = tokens(&model);
        let ((_, before), (_, after)) = (run(&model, &tokens), run(&model.clone().rotated(2), &tokens));
        let ratio = |site: Site| before.0[&site] / after.0[&site];
        for site in [Site::Scores, Site::Gate, Site::Up, Site::MeanSquare, Site::Logits] {
            assert!((ratio(site) - 1.0).abs() < 1e-3, "{site:?} {}", ratio(site));
        }
        for (site, least) in [(Site::Residual, 1.5), (Site::OProjOut, 1.5), (Site::Value, 1.5)] {
            println!("{site:?} shrinks by {:.2}", ratio(site));
            assert!(ratio(site) > least, "{site:?} {}", ratio(site));
        }
    }

    #[test]
    fn the_seed_decides_and_the_embedding_alone_is_the_same() {
        let model = synthetic(small_config(), 3);
        let one = model.clone().rotated(1);
        assert!(one.embed == model.clone().rotated(1).embed && one.embed != model.clone().rotated(2).embed);
        assert!(*one.embed == rotated_embedding((*model.embed).clone(), 1));
    }
}
