//! First pass: the extremes of every activation, and of the scores of every head.

use super::Collector;
use undertone_model::LlamaConfig;
use undertone_model::reference::{Block, Observer, Site, SiteShape};

/// The least and the largest value seen; inverted infinities before any.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Range {
    pub(super) low: f64,
    pub(super) high: f64,
}

impl Range {
    pub(super) const NONE: Self = Self { low: f64::INFINITY, high: f64::NEG_INFINITY };

    pub(super) fn include(&mut self, x: f64) {
        self.low = self.low.min(x);
        self.high = self.high.max(x);
    }

    pub(super) fn merge(&mut self, other: Self) {
        self.low = self.low.min(other.low);
        self.high = self.high.max(other.high);
    }

    fn include_all(&mut self, values: &[f32]) {
        values.iter().for_each(|&x| self.include(x.into()));
    }
}

/// The scores of one head over all rows.
#[derive(Debug, Clone, Copy)]
pub(super) struct HeadScores {
    /// All scores.
    pub(super) all: Range,
    /// The largest score of each row.
    pub(super) row_maximum: Range,
}

/// One layer.
#[derive(Debug, Clone)]
pub(super) struct LayerExtremes {
    pub(super) attention_square: Range,
    pub(super) mlp_square: Range,
    pub(super) query: f64,
    pub(super) key: f64,
    pub(super) value: f64,
    pub(super) scores: Vec<HeadScores>,
    pub(super) attention: f64,
    pub(super) gate: f64,
    pub(super) up: f64,
    pub(super) product: f64,
    /// Outputs of o and of down, which decide on no polynomial.
    pub(super) attention_projected: f64,
    pub(super) mlp_projected: f64,
}

/// The whole model.
#[derive(Debug, Clone)]
pub(super) struct Extremes {
    head_dim: usize,
    /// Before the attention norm and the feed-forward norm of every layer, and before the final norm.
    pub(super) residual: Vec<f64>,
    pub(super) layers: Vec<LayerExtremes>,
    pub(super) final_square: Range,
    pub(super) logits: f64,
}

impl Extremes {
    pub(super) fn new(config: &LlamaConfig) -> Self {
        let head = HeadScores { all: Range::NONE, row_maximum: Range::NONE };
        let layer = LayerExtremes {
            attention_square: Range::NONE,
            mlp_square: Range::NONE,
            query: 0.0,
            key: 0.0,
            value: 0.0,
            scores: vec![head; config.num_attention_heads],
            attention: 0.0,
            gate: 0.0,
            up: 0.0,
            product: 0.0,
            attention_projected: 0.0,
            mlp_projected: 0.0,
        };
        Self {
            head_dim: config.head_dim,
            residual: vec![0.0; 2 * config.num_hidden_layers + 1],
            layers: vec![layer; config.num_hidden_layers],
            final_square: Range::NONE,
            logits: 0.0,
        }
    }
}

impl Observer for Extremes {
    fn record(&mut self, layer: usize, site: Site, values: &[f32], shape: SiteShape) {
        match site {
            Site::Residual => raise(&mut self.residual[residual_index(layer, shape.block)], largest(values)),
            Site::FinalMeanSquare => self.final_square.include_all(values),
            Site::Logits => raise(&mut self.logits, largest(values)),
            _ => {
                // The final norm belongs to no layer.
                if let Some(extremes) = self.layers.get_mut(layer) {
                    extremes.record(site, values, shape, self.head_dim);
                }
            }
        }
    }
}

impl LayerExtremes {
    fn record(&mut self, site: Site, values: &[f32], shape: SiteShape, head_dim: usize) {
        match site {
            Site::MeanSquare if shape.block == Block::Attention => self.attention_square.include_all(values),
            Site::MeanSquare => self.mlp_square.include_all(values),
            Site::QueryRope => raise(&mut self.query, largest_pair(values, head_dim)),
            Site::KeyRope => raise(&mut self.key, largest_pair(values, head_dim)),
            Site::Value => raise(&mut self.value, largest(values)),
            Site::Scores => {
                let mut row = Range::NONE;
                row.include_all(values);
                let head = &mut self.scores[shape.head];
                head.all.merge(row);
                head.row_maximum.include(row.high);
            }
            Site::AttentionOut => raise(&mut self.attention, largest(values)),
            Site::Gate => raise(&mut self.gate, largest(values)),
            Site::Up => raise(&mut self.up, largest(values)),
            Site::Product => raise(&mut self.product, largest(values)),
            Site::OProjOut => raise(&mut self.attention_projected, largest(values)),
            Site::DownOut => raise(&mut self.mlp_projected, largest(values)),
            _ => {}
        }
    }

    fn merge(&mut self, other: &Self) {
        self.attention_square.merge(other.attention_square);
        self.mlp_square.merge(other.mlp_square);
        for (mine, theirs) in self.scores.iter_mut().zip(&other.scores) {
            mine.all.merge(theirs.all);
            mine.row_maximum.merge(theirs.row_maximum);
        }
        for (mine, theirs) in [
            (&mut self.query, other.query),
            (&mut self.key, other.key),
            (&mut self.value, other.value),
            (&mut self.attention, other.attention),
            (&mut self.gate, other.gate),
            (&mut self.up, other.up),
            (&mut self.product, other.product),
            (&mut self.attention_projected, other.attention_projected),
            (&mut self.mlp_projected, other.mlp_projected),
        ] {
            raise(mine, theirs);
        }
    }
}

impl Collector for Extremes {
    fn merged(mut self, other: Self) -> Self {
        self.residual.iter_mut().zip(&other.residual).for_each(|(mine, &theirs)| raise(mine, theirs));
        self.layers.iter_mut().zip(&other.layers).for_each(|(mine, theirs)| mine.merge(theirs));
        self.final_square.merge(other.final_square);
        raise(&mut self.logits, other.logits);
        self
    }
}

/// The index into the 2L + 1 bounds of the residual stream.
pub(super) fn residual_index(layer: usize, block: Block) -> usize {
    2 * layer + usize::from(block == Block::Mlp)
}

/// The largest magnitude.
pub(super) fn largest(values: &[f32]) -> f64 {
    values.iter().fold(0.0f32, |m, x| m.max(x.abs())).into()
}

/// The largest length of a rotary pair, coordinates i and i + d/2: it bounds both under every rotation.
pub(super) fn largest_pair(values: &[f32], head_dim: usize) -> f64 {
    let mut square = 0.0f32;
    for head in values.chunks_exact(head_dim) {
        let (low, high) = head.split_at(head_dim / 2);
        square = low.iter().zip(high).fold(square, |m, (a, b)| m.max(a * a + b * b));
    }
    f64::from(square).sqrt()
}

fn raise(bound: &mut f64, value: f64) {
    *bound = bound.max(value);
}
