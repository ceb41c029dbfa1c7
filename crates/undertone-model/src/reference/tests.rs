//! Properties of the reference forward pass that need no other implementation.

use std::collections::BTreeMap;

use super::*;
use crate::synthetic::{small_config, synthetic};

const TOKENS: [u32; 9] = [1, 7, 7, 3, 49, 0, 12, 30, 2];

fn largest_difference(a: &[Vec<f32>], b: &[Vec<f32>]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().flatten().zip(b.iter().flatten()).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

#[test]
fn a_pass_in_pieces_equals_one_pass() {
    let model = synthetic(small_config(), 1);
    let whole = forward(&model, &mut KvCache::new(&model.config), &TOKENS).unwrap();
    let mut cache = KvCache::new(&model.config);
    let mut pieces = Vec::new();
    for piece in [&TOKENS[..4], &TOKENS[4..5], &TOKENS[5..]] {
        pieces.extend(forward(&model, &mut cache, piece).unwrap());
    }
    // Every product is summed in the same order whatever the number of tokens, so nothing may differ.
    assert_eq!(whole, pieces);
    cache.truncate(5);
    assert_eq!(forward_last(&model, &mut cache, &TOKENS[5..]).unwrap(), whole[8]);
}

#[test]
fn a_cache_is_filled_as_by_a_whole_pass() {
    let model = synthetic(small_config(), 1);
    let (mut whole, mut filled) = (KvCache::new(&model.config), KvCache::new(&model.config));
    forward(&model, &mut whole, &TOKENS).unwrap();
    for piece in [&TOKENS[..4], &TOKENS[4..]] {
        forward_cache(&model, &mut filled, piece, Accumulation::F32).unwrap();
    }
    assert_eq!(filled.len(), TOKENS.len());
    for layer in 0..2 {
        assert_eq!(filled.keys(layer), whole.keys(layer));
        assert_eq!(filled.values(layer), whole.values(layer));
    }
    assert_eq!(KvCache::bytes_of(&model.config, 9), 2 * 8 * whole.keys(0).len());
}

#[test]
fn accumulation_in_f64_agrees_and_earlier_logits_do_not_see_later_tokens() {
    let model = synthetic(small_config(), 2);
    let single = forward(&model, &mut KvCache::new(&model.config), &TOKENS).unwrap();
    let options = ForwardOptions { accumulation: Accumulation::F64, ..ForwardOptions::default() };
    let double = forward_observed(&model, &mut KvCache::new(&model.config), &TOKENS, options, &mut ()).unwrap();
    let difference = largest_difference(&single, &double);
    assert!(difference > 0.0 && difference < 1e-5, "{difference}");
    let prefix = forward(&model, &mut KvCache::new(&model.config), &TOKENS[..4]).unwrap();
    assert_eq!(prefix, single[..4]);
}

#[derive(Default)]
struct Counts(BTreeMap<(usize, Site, Block), (usize, usize)>);

impl Observer for Counts {
    fn record(&mut self, layer: usize, site: Site, values: &[f32], shape: SiteShape) {
        assert_eq!(values.len(), shape.rows * shape.cols);
        assert!(site != Site::Scores || shape.cols == shape.position + 1);
        let entry = self.0.entry((layer, site, shape.block)).or_default();
        entry.0 += 1;
        entry.1 += values.len();
    }
}

#[test]
fn the_observer_sees_every_site_and_changes_nothing() {
    let model = synthetic(small_config(), 4);
    let (tokens, layers) = (TOKENS.len(), 2);
    let plain = forward(&model, &mut KvCache::new(&model.config), &TOKENS).unwrap();
    let mut counts = Counts::default();
    let options = ForwardOptions::default();
    let mut cache = KvCache::new(&model.config);
    let seen = forward_observed(&model, &mut cache, &TOKENS, options, &mut counts).unwrap();
    assert_eq!(plain, seen);
    for layer in 0..layers {
        for (site, block, calls, len) in [
            (Site::Residual, Block::Attention, 1, tokens * 24),
            (Site::MeanSquare, Block::Attention, 1, tokens),
            (Site::NormedInput, Block::Attention, 1, tokens * 24),
            (Site::QueryRope, Block::Attention, 1, tokens * 32),
            (Site::KeyRope, Block::Attention, 1, tokens * 16),
            (Site::Value, Block::Attention, 1, tokens * 16),
            (Site::Scores, Block::Attention, tokens * 4, 4 * tokens * (tokens + 1) / 2),
            (Site::AttentionOut, Block::Attention, 1, tokens * 32),
            (Site::OProjOut, Block::Attention, 1, tokens * 24),
            (Site::Residual, Block::Mlp, 1, tokens * 24),
            (Site::MeanSquare, Block::Mlp, 1, tokens),
            (Site::NormedInput, Block::Mlp, 1, tokens * 24),
            (Site::Gate, Block::Mlp, 1, tokens * 40),
            (Site::Up, Block::Mlp, 1, tokens * 40),
            (Site::Product, Block::Mlp, 1, tokens * 40),
            (Site::DownOut, Block::Mlp, 1, tokens * 24),
        ] {
            assert_eq!(counts.0.remove(&(layer, site, block)), Some((calls, len)), "{site:?}");
        }
    }
    for (site, len) in [
        (Site::Residual, tokens * 24),
        (Site::FinalMeanSquare, tokens),
        (Site::NormedInput, tokens * 24),
        (Site::Logits, tokens * 50),
    ] {
        assert_eq!(counts.0.remove(&(layers, site, Block::Final)), Some((1, len)), "{site:?}");
    }
    assert!(counts.0.is_empty());
}

#[test]
fn scores_depend_on_the_distance_of_positions_only() {
    // The defining property of a rotary embedding: equal shifts of both positions leave q·k unchanged.
    let config = small_config();
    let frequencies = config.inverse_frequencies();
    let vector = |salt: usize| -> Vec<f32> { (0..8).map(|i| ((i * 7 + salt) as f32).sin()).collect() };
    let product = |query_position: usize, key_position: usize| {
        let (mut query, mut key) = (vector(1), vector(2));
        rotate(&mut query, 8, &[cos_sin(&frequencies, query_position)]);
        rotate(&mut key, 8, &[cos_sin(&frequencies, key_position)]);
        dot(&query, &key, Accumulation::F64)
    };
    assert!((product(9, 4) - product(105, 100)).abs() < 1e-5);
    assert!((product(9, 4) - product(9, 5)).abs() > 1e-2);
}

#[test]
fn bad_input_is_an_error_and_leaves_the_cache_alone() {
    let model = synthetic(small_config(), 1);
    let mut cache = KvCache::new(&model.config);
    assert!(matches!(forward(&model, &mut cache, &[]), Err(Error::Length { .. })));
    let outside = forward(&model, &mut cache, &[1, 50]);
    assert!(matches!(outside, Err(Error::TokenOutOfVocabulary { index: 1, need: 50 })));
    assert!(matches!(forward(&model, &mut cache, &[1; 129]), Err(Error::ContextFull { have: 129, need: 128 })));
    let mut other = KvCache::new(&LlamaConfig { num_hidden_layers: 3, ..small_config() });
    assert!(matches!(forward(&model, &mut other, &[1]), Err(Error::Length { .. })));
    assert!(cache.is_empty());
}
