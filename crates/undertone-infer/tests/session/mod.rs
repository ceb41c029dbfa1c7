//! Shared by the integration tests: exact ranges of one given text, and runs in the clear.
#![allow(dead_code)]

use std::collections::BTreeMap;
use undertone_he::{Chain, ClearEvaluator, ClearValue, Evaluator};
use undertone_infer::approximation::{degree_for, exponential, inverse, inverse_square_root, silu_even};
use undertone_infer::{
    Calibration, Interval, LayerCalibration, NormCalibration, Preparation, Program, PublicCache, ServerState, Shape,
    SoftmaxCalibration, StepOutput,
};
use undertone_model::reference::{Block, ForwardOptions, Observer, Site, SiteShape, embed, forward_observed};
use undertone_model::{Accumulation, KvCache, Llama, LlamaConfig, RopeKind, RopeScaling};

/// Bits that every polynomial of the test calibration reaches.
pub const FIT_BITS: f64 = 18.0;

pub fn chain(log_n: u32) -> Chain {
    Chain { log_n, top_level: 21, boot_level: 3, max_level: 32, product_prime: None }
}

/// hidden, intermediate, layers, heads, key heads, head width, vocabulary.
pub fn config(dims: [usize; 7]) -> LlamaConfig {
    let [hidden, ffn, layers, heads, kv, head_dim, vocab] = dims;
    LlamaConfig {
        hidden_size: hidden,
        intermediate_size: ffn,
        num_hidden_layers: layers,
        num_attention_heads: heads,
        num_key_value_heads: kv,
        head_dim,
        vocab_size: vocab,
        max_position_embeddings: 1024,
        rms_norm_eps: 1e-5,
        rope: RopeScaling { theta: 10_000.0, kind: RopeKind::Default },
        tie_word_embeddings: false,
        bos_token_id: Some(1),
        eos_token_ids: vec![],
    }
}

pub fn tokens(count: usize, vocab: usize, seed: u64) -> Vec<u32> {
    let mut state = seed;
    (0..count)
        .map(|_| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            ((state >> 33) % vocab as u64) as u32
        })
        .collect()
}

#[derive(Default)]
struct Ranges {
    largest: BTreeMap<(usize, Site, u8), f64>,
    least: BTreeMap<(usize, Site, u8), f64>,
    scores: BTreeMap<(usize, usize), Vec<Vec<f64>>>,
}

fn block_index(block: Block) -> u8 {
    match block {
        Block::Attention => 0,
        Block::Mlp => 1,
        Block::Final => 2,
    }
}

impl Observer for Ranges {
    fn record(&mut self, layer: usize, site: Site, values: &[f32], shape: SiteShape) {
        let key = (layer, site, block_index(shape.block));
        let largest = self.largest.entry(key).or_insert(0.0);
        for &v in values {
            *largest = largest.max(f64::from(v).abs());
        }
        let least = self.least.entry(key).or_insert(f64::INFINITY);
        for &v in values {
            *least = least.min(f64::from(v));
        }
        if site == Site::Scores {
            let scores = values.iter().map(|&v| f64::from(v)).collect();
            self.scores.entry((layer, shape.head)).or_default().push(scores);
        }
    }
}

/// Ranges of exactly this text, `margin` wider, and degrees that reach [`FIT_BITS`].
pub fn measure(model: &Llama, ids: &[u32], rounds: usize, margin: f64) -> Calibration {
    let mut ranges = Ranges::default();
    let options = ForwardOptions { accumulation: Accumulation::F64, ..ForwardOptions::default() };
    forward_observed(model, &mut KvCache::new(&model.config), ids, options, &mut ranges).unwrap();
    let layers = model.config.num_hidden_layers;
    let bound = |layer: usize, site: Site, block: u8| ranges.largest[&(layer, site, block)] * margin;
    let eps = model.config.rms_norm_eps;
    let square = |layer, site, block: u8| Interval {
        low: (ranges.least[&(layer, site, block)] + eps) / margin,
        high: (ranges.largest[&(layer, site, block)] + eps) * margin,
    };
    let norm = |layer, block| {
        let mean_square = square(layer, Site::MeanSquare, block);
        let degree = degree_for(FIT_BITS, |d| inverse_square_root(mean_square, d)).unwrap().0;
        NormCalibration { mean_square, degree }
    };
    let mut residual_bound = Vec::new();
    let mut plans = Vec::new();
    for layer in 0..layers {
        residual_bound.push(bound(layer, Site::Residual, 0));
        residual_bound.push(bound(layer, Site::Residual, 1));
        let gate_bound = bound(layer, Site::Gate, 1);
        plans.push(LayerCalibration {
            attention_norm: norm(layer, 0),
            mlp_norm: norm(layer, 1),
            query_bound: bound(layer, Site::QueryRope, 0),
            key_bound: bound(layer, Site::KeyRope, 0),
            value_bound: bound(layer, Site::Value, 0),
            softmax: softmax(&ranges, layer, model.config.num_attention_heads, rounds, margin),
            attention_bound: bound(layer, Site::AttentionOut, 0),
            gate_bound,
            up_bound: bound(layer, Site::Up, 1),
            silu_degree: degree_for(FIT_BITS, |d| silu_even(gate_bound, d)).unwrap().0,
            product_bound: bound(layer, Site::Product, 1),
        });
    }
    residual_bound.push(bound(layers, Site::Residual, 2));
    Calibration {
        version: 1,
        model_fingerprint: String::new(),
        corpus_hash: String::new(),
        prompts: 1,
        tokens: ids.len(),
        held_out_escapes: 0,
        first_scan_escapes: None,
        margin,
        preparation: Preparation::default(),
        residual_bound,
        layers: plans,
        final_norm: square(layers, Site::FinalMeanSquare, 2),
        logit_bound: bound(layers, Site::Logits, 2),
    }
}

fn softmax(ranges: &Ranges, layer: usize, heads: usize, rounds: usize, margin: f64) -> SoftmaxCalibration {
    let of = |head: usize| &ranges.scores[&(layer, head)];
    let fold = |head: usize, f: fn(f64, f64) -> f64, start: f64| of(head).iter().flatten().copied().fold(start, f);
    let shift: Vec<f64> = (0..heads).map(|h| fold(h, f64::max, f64::NEG_INFINITY) + 0.01).collect();
    let least = (0..heads).map(|h| fold(h, f64::min, f64::INFINITY) - shift[h]).fold(0.0, f64::min);
    let half_span = (-least * margin / 2f64.powi(rounds as i32 + 1)).max(1.0);
    let mut sums = vec![Interval { low: f64::INFINITY, high: 0.0 }; rounds];
    for (head, &shift) in shift.iter().enumerate() {
        for row in of(head) {
            let scale = 2f64.powi(-(rounds as i32));
            let mut y: Vec<f64> = row.iter().map(|s| ((s - shift) * scale).exp()).collect();
            for sum in &mut sums {
                let total: f64 = y.iter().map(|y| y * y).sum();
                y.iter_mut().for_each(|y| *y = *y * *y / total);
                *sum = Interval { low: sum.low.min(total / margin), high: sum.high.max(total * margin) };
            }
        }
    }
    // Errors of early inverses cancel; the last one scales the output.
    let bits = |round: usize| if round + 1 == rounds { FIT_BITS } else { 6.0 };
    let degree = |round: usize, sum| degree_for(bits(round), |d| inverse(sum, d)).map_or(127, |found| found.0);
    let inverse_degree = sums.iter().enumerate().map(|(round, &sum)| degree(round, sum)).collect();
    // What counts is the error relative to the largest weight of a row, which is at least √(Σ y² / columns).
    let faintest = (sums[0].low / 256.0).sqrt().log2();
    let exp_degree = degree_for(FIT_BITS - faintest, |d| exponential(half_span, d)).unwrap().0;
    SoftmaxCalibration { rounds, shift, half_span, exp_degree, sums, inverse_degree, newton_steps: 0 }
}

/// A session in the clear.
pub struct Session<'m> {
    pub ev: ClearEvaluator,
    pub program: Program,
    pub model: &'m Llama,
    pub public: PublicCache,
    pub state: Option<ServerState<ClearEvaluator>>,
}

impl<'m> Session<'m> {
    pub fn new(model: &'m Llama, calibration: &Calibration, shape: Shape, public: &[u32], log_n: u32) -> Self {
        Self::on(ClearEvaluator::new(chain(log_n)), model, calibration, shape, public)
    }

    pub fn on(ev: ClearEvaluator, model: &'m Llama, calibration: &Calibration, shape: Shape, public: &[u32]) -> Self {
        let program = Program::new(&model.config, calibration, shape, ev.chain()).unwrap();
        Self { ev, program, model, public: PublicCache::new(model, public).unwrap(), state: None }
    }

    pub fn rows(&self, ids: &[u32]) -> Vec<Vec<f32>> {
        let flat = embed(&self.model.embed, ids).unwrap();
        flat.chunks(self.model.config.hidden_size).map(<[f32]>::to_vec).collect()
    }

    pub fn prefill(&mut self, ids: &[u32]) -> StepOutput<ClearEvaluator> {
        let packed = self.program.pack_prompt(&self.rows(ids)).unwrap();
        let level = self.program.input_level();
        let input: Vec<ClearValue> = packed.iter().map(|slots| self.ev.encrypt(slots, level)).collect();
        let (output, state) = self.program.prefill(&self.ev, self.model, &self.public, input, &()).unwrap();
        self.state = Some(state);
        output
    }

    pub fn decode(&mut self, id: u32) -> StepOutput<ClearEvaluator> {
        let packed = self.program.pack_token(&self.rows(&[id])[0]).unwrap();
        let level = self.program.input_level();
        let input: Vec<ClearValue> = packed.iter().map(|slots| self.ev.encrypt(slots, level)).collect();
        let state = self.state.as_mut().unwrap();
        self.program.decode(&self.ev, self.model, &self.public, state, input, &()).unwrap()
    }

    pub fn read(&self, output: &StepOutput<ClearEvaluator>) -> Result<Vec<f32>, undertone_infer::Error> {
        assert_eq!(self.ev.level(&output.guard), 1);
        let logits: Vec<Vec<f64>> = output.logits.iter().map(|v| self.ev.decrypt(v)).collect();
        self.program.read_logits(&logits, &self.ev.decrypt(&output.guard))
    }
}

pub fn top(logits: &[f32]) -> usize {
    (0..logits.len()).max_by(|&a, &b| logits[a].total_cmp(&logits[b])).unwrap()
}
