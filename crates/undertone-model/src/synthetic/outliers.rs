//! What a trained Llama has and random weights lack: outlier channels, massive activations, an attention sink.
//!
//! Six channels of the residual stream are taken out of the noise. BOS and delimiters carry a mark; in one layer a
//! head looks for an earlier delimiter, and where it finds none one neuron writes two massive channels. Later layers
//! attend to such a row (its key meets a direction that every query has, in the slowest rotary pair), and its value is
//! small and the same for all, which feeds a persistent channel. Ordinary rows have that channel and larger writes
//! into the massive ones as outliers. Facts imitated: Sun et al., Massive Activations in Large Language Models (arXiv
//! 2402.17762); Chen et al., PrefixQuant (arXiv 2410.05265): one sink for the first token, one for the first delimiter.
//! Levels are those of Llama-2-7B in order of magnitude; no trained weight was used.

use super::{Part, Tensor};
use crate::config::LlamaConfig;
use crate::error::{Error, Result};

/// Mean gain of the norms before attention, before the feed-forward network and before the head.
const GAINS: [f64; 3] = [0.4, 0.35, 1.8];
/// Value of marks and of the persistent channel in the embedding.
const MARK: f64 = 0.3;
/// What the persistent channel gains per layer behind the sink.
const PERSISTENT_STEP: f64 = 0.25;
/// Root mean square of what a feed-forward network adds to an ordinary channel; attention adds about half of it.
const WRITE: f64 = 0.1;
/// How much more the layers write into the massive channels of ordinary rows.
const OUTLIER_FACTOR: f64 = 4.0;
/// Mean square of a massive row.
const MASSIVE_SQUARE: f64 = 500.0;
/// Score of the sink above the others.
const SINK_SCORE: f64 = 9.0;
/// Score of an earlier delimiter, and how much less a delimiter scores at itself.
const FOUND_SCORE: f64 = 35.0;
const SELF_PENALTY: f64 = 40.0;
/// Rotary pairs at least this fast, in radians per position, tell a position from the others. Frequencies enter the
/// weights by this comparison alone, and no power of a round base lies so near that the last bits of one decide it.
const FAST_PAIR: f64 = 0.049_99;
/// Gate of the massive neuron without an earlier delimiter.
const MASSIVE_GATE: f64 = 16.0;
/// What an earlier delimiter writes, in marks: enough to turn the gate to about −[`MASSIVE_GATE`].
const INHIBITION: f64 = 2.0;

/// Places and strengths of the outliers of one model.
#[derive(Debug, Clone)]
pub(super) struct Outliers {
    persistent: usize,
    /// Marks BOS and delimiters.
    mark: usize,
    /// Marks BOS alone.
    first: usize,
    /// Says that a delimiter came before.
    inhibited: usize,
    massive: [usize; 2],
    marked: Vec<u32>,
    bos: u32,
    /// The layer whose feed-forward network writes the massive channels.
    layer: usize,
    /// Rotary pairs that tell positions apart.
    fast_pairs: usize,
}

impl Outliers {
    pub(super) fn new(config: &LlamaConfig, delimiters: &[u32]) -> Result<Self> {
        let refuse = |field, have: usize, need: String| Err(Error::OutOfRange { field, have: have.to_string(), need });
        let bos = config.bos_token_id.ok_or(Error::MissingBos)?;
        if config.hidden_size < 16 {
            return refuse("hidden_size", config.hidden_size, "at least 16 for outlier channels".to_owned());
        }
        if config.head_dim < 4 {
            return refuse("head_dim", config.head_dim, "at least 4 for an attention sink".to_owned());
        }
        if let Some(index) = delimiters.iter().position(|&id| id as usize >= config.vocab_size) {
            return Err(Error::TokenOutOfVocabulary { index, need: config.vocab_size });
        }
        // Evenly spread, as far from each other as they can be.
        let channel = |i: usize| i * config.hidden_size / 7;
        let slowest = config.head_dim / 2 - 1;
        let frequencies = config.inverse_frequencies();
        let fast_pairs = frequencies[..slowest].iter().take_while(|&&frequency| frequency >= FAST_PAIR).count().max(1);
        Ok(Self {
            persistent: channel(1),
            mark: channel(2),
            first: channel(3),
            inhibited: channel(4),
            massive: [channel(5), channel(6)],
            marked: delimiters.iter().copied().chain([bos]).collect(),
            bos,
            layer: 1.min(config.num_hidden_layers - 1),
            fast_pairs,
        })
    }

    /// Standard deviation of the entries of a matrix before [`Outliers::shape_row`].
    pub(super) fn deviation(&self, config: &LlamaConfig, tensor: Tensor) -> f64 {
        let [attention, mlp, last] = GAINS;
        let root = |n: usize| (n as f64).sqrt();
        let hidden = root(config.hidden_size);
        match tensor {
            Tensor::Embed | Tensor::Head => 2.0 / (last * hidden),
            Tensor::Layer(_, Part::Q | Part::K) => 1.1 / (attention * hidden),
            Tensor::Layer(_, Part::V) => 0.8 / (attention * hidden),
            Tensor::Layer(_, Part::Gate) => 1.5 / (mlp * hidden),
            Tensor::Layer(_, Part::Up) => 1.0 / (mlp * hidden),
            // Attention averages values, so that its output is smaller than they are.
            Tensor::Layer(_, Part::O) => 2.0 * WRITE / root(config.query_size()),
            Tensor::Layer(_, Part::Down) => WRITE / root(config.intermediate_size),
            Tensor::FinalNorm | Tensor::Layer(_, Part::AttentionNorm | Part::MlpNorm) => 0.1,
        }
    }

    /// Replaces what is not noise in row `row` of a tensor.
    pub(super) fn shape_row(&self, config: &LlamaConfig, tensor: Tensor, row: usize, out: &mut [f32]) {
        match tensor {
            Tensor::Embed => self.shape_embedding(row, out),
            Tensor::Head => {}
            Tensor::FinalNorm => self.shape_gains(GAINS[2], out),
            Tensor::Layer(_, Part::AttentionNorm) => self.shape_gains(GAINS[0], out),
            Tensor::Layer(_, Part::MlpNorm) => self.shape_gains(GAINS[1], out),
            Tensor::Layer(layer, part @ (Part::Q | Part::K | Part::V)) => {
                let (head, coordinate) = (row / config.head_dim, row % config.head_dim);
                [self.mark, self.first, self.inhibited].into_iter().for_each(|channel| out[channel] = 0.0);
                if part == Part::V {
                    self.massive.into_iter().for_each(|channel| out[channel] = 0.0);
                }
                match layer.cmp(&self.layer) {
                    std::cmp::Ordering::Less => {}
                    std::cmp::Ordering::Equal if head == 0 => self.shape_search(config, part, coordinate, out),
                    std::cmp::Ordering::Equal => {}
                    std::cmp::Ordering::Greater => self.shape_sink(config, (layer, part), (head, coordinate), out),
                }
            }
            Tensor::Layer(layer, Part::O) => self.shape_output(layer, row, out),
            Tensor::Layer(layer, part @ (Part::Gate | Part::Up)) => {
                [self.mark, self.first, self.inhibited].into_iter().for_each(|channel| out[channel] = 0.0);
                if layer == self.layer && row == 0 {
                    let strength = MASSIVE_GATE / self.normed_mark(config, GAINS[1]);
                    out.fill(0.0);
                    out[self.mark] = strength as f32;
                    if part == Part::Gate {
                        out[self.inhibited] = -strength as f32;
                    }
                }
            }
            Tensor::Layer(layer, Part::Down) => self.shape_down(config, layer, row, out),
        }
    }

    fn shape_embedding(&self, token: usize, out: &mut [f32]) {
        let marked = self.marked.iter().any(|&id| id as usize == token);
        // Alone at its position, BOS attends to itself only and has a larger norm, which a stronger mark makes up for.
        let first = if token == self.bos as usize { (2.0 * MARK) as f32 } else { 0.0 };
        out[self.persistent] = MARK as f32;
        out[self.mark] = if marked { first.max(MARK as f32) } else { 0.0 };
        out[self.first] = first;
        [self.inhibited, self.massive[0], self.massive[1]].into_iter().for_each(|channel| out[channel] = 0.0);
    }

    fn shape_gains(&self, mean: f64, out: &mut [f32]) {
        out.iter_mut().for_each(|gain| *gain *= mean as f32);
        // Known gains make the designed scores and gates come out as designed.
        let [a, b] = self.massive;
        [self.persistent, self.mark, self.first, self.inhibited, a, b]
            .into_iter()
            .for_each(|channel| out[channel] = mean as f32);
    }

    /// The head that looks for a delimiter before the present one; BOS is none.
    fn shape_search(&self, config: &LlamaConfig, part: Part, coordinate: usize, out: &mut [f32]) {
        out.fill(0.0);
        let normed = self.normed_mark(config, GAINS[0]);
        let root = |score: f64| (score * (config.head_dim as f64).sqrt()).sqrt() / normed;
        let slowest = config.head_dim / 2 - 1;
        let strength = match part {
            Part::V if coordinate == 0 => 1.0 / normed,
            Part::V => 0.0,
            _ if coordinate == slowest => root(FOUND_SCORE),
            // Largest at distance zero, where the turn of all pairs is the same: a delimiter does not find itself.
            Part::Q if coordinate < self.fast_pairs => root(SELF_PENALTY / self.fast_pairs as f64),
            Part::K if coordinate < self.fast_pairs => -root(SELF_PENALTY / self.fast_pairs as f64),
            _ => 0.0,
        } as f32;
        out[self.mark] = strength;
        if part != Part::Q {
            out[self.first] = -strength;
        }
    }

    /// Queries have a direction in common that the key of a massive row meets.
    fn shape_sink(
        &self,
        config: &LlamaConfig,
        (layer, part): (usize, Part),
        (head, coordinate): (usize, usize),
        out: &mut [f32],
    ) {
        let normed_massive = GAINS[0] * (config.hidden_size as f64 / 2.0).sqrt();
        let root = (SINK_SCORE * (config.head_dim as f64).sqrt()).sqrt();
        let slowest = config.head_dim / 2 - 1;
        match part {
            Part::Q if coordinate == slowest => {
                let behind = (layer - self.layer - 1) as f64;
                let persistent = MARK + PERSISTENT_STEP * behind;
                let normed = GAINS[0] * persistent / self.usual_rms(config, layer, persistent);
                out[self.persistent] = (root / normed) as f32;
            }
            Part::K if coordinate == slowest => out[self.massive[0]] = (root / normed_massive) as f32,
            Part::V if (head, coordinate) == (0, 0) => {
                out.fill(0.0);
                out[self.massive[0]] = (1.0 / normed_massive) as f32;
            }
            _ => {}
        }
    }

    fn shape_output(&self, layer: usize, channel: usize, out: &mut [f32]) {
        if [self.persistent, self.mark, self.first, self.inhibited].contains(&channel) {
            out.fill(0.0);
        }
        if self.massive.contains(&channel) {
            out.iter_mut().for_each(|weight| *weight *= OUTLIER_FACTOR as f32);
        }
        // Coordinate 0 of head 0 holds the value of what was found, or of the sink.
        if channel == self.inhibited && layer == self.layer {
            out[0] = (INHIBITION * MARK) as f32;
        } else if channel == self.persistent && layer > self.layer {
            out[0] = PERSISTENT_STEP as f32;
        } else if layer >= self.layer {
            out[0] = 0.0;
        }
    }

    fn shape_down(&self, config: &LlamaConfig, layer: usize, channel: usize, out: &mut [f32]) {
        if [self.persistent, self.mark, self.first, self.inhibited].contains(&channel) {
            out.fill(0.0);
        }
        let massive = self.massive.iter().position(|&one| one == channel);
        if massive.is_some() {
            out.iter_mut().for_each(|weight| *weight *= OUTLIER_FACTOR as f32);
        }
        if layer == self.layer {
            let height = (MASSIVE_SQUARE * config.hidden_size as f64 / 2.0).sqrt();
            // SiLU is the identity at such a gate, and the up projection of the neuron equals it.
            let weight = height / (MASSIVE_GATE * MASSIVE_GATE);
            out[0] = match massive {
                Some(0) => weight as f32,
                Some(_) => -weight as f32,
                None => 0.0,
            };
        }
    }

    /// What a mark is after the norm of the massive layer.
    fn normed_mark(&self, config: &LlamaConfig, gain: f64) -> f64 {
        gain * MARK / self.usual_rms(config, self.layer, MARK)
    }

    /// Root mean square of an ordinary row where a layer begins.
    fn usual_rms(&self, config: &LlamaConfig, layer: usize, persistent: f64) -> f64 {
        let embedding = self.deviation(config, Tensor::Embed);
        let marks = (persistent * persistent + MARK * MARK) / config.hidden_size as f64;
        (embedding * embedding + 1.25 * layer as f64 * WRITE * WRITE + marks).sqrt()
    }
}
