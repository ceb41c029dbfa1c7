//! The exchange against its definition.

use super::exchange::{Rows, UNROTATED, rotary as rotated, to_block, to_halves};
use super::halves::Halves;
use crate::packing::{Layout, Shape};
use crate::rope::Angles;
use undertone_he::{Chain, ClearEvaluator, ClearValue, Evaluator, Slots};
use undertone_model::{LlamaConfig, RopeKind, RopeScaling};

const CHAIN: Chain = Chain { log_n: 9, top_level: 8, boot_level: 4, max_level: 12, product_prime: Some(786_433) };

/// A model of one layer of which only the heads matter.
pub(super) fn config(heads: usize, head_dim: usize) -> LlamaConfig {
    LlamaConfig {
        hidden_size: 24,
        intermediate_size: 40,
        num_hidden_layers: 1,
        num_attention_heads: heads,
        num_key_value_heads: heads,
        head_dim,
        vocab_size: 16,
        max_position_embeddings: 128,
        rms_norm_eps: 1e-5,
        rope: RopeScaling { theta: 1e4, kind: RopeKind::Default },
        tie_word_embeddings: false,
        bos_token_id: None,
        eos_token_ids: vec![],
    }
}

/// A value for every token, head and coordinate.
fn entry(token: usize, head: usize, j: usize) -> f64 {
    ((token * 131 + head * 17 + j * 7) % 199) as f64 / 100.0 - 1.0
}

/// The pairs of a per-head tensor as a turn gives them, with nonsense where no channel is.
fn pairs(ev: &ClearEvaluator, layout: &Layout) -> Vec<[ClearValue; 2]> {
    let halves = Halves::new(layout);
    let half = |pair: usize, first: usize| {
        let value = |slot: usize| {
            let c = pair * halves.channels() + slot / halves.tokens();
            halves.head_channel(c).map_or(9.0, |(head, j)| entry(first + slot % halves.tokens(), head, j))
        };
        ev.encrypt(&Slots::new((0..layout.slot_count).map(value).collect(), layout.slot_count).unwrap(), 8)
    };
    (0..halves.head_pairs()).map(|pair| [half(pair, 0), half(pair, halves.tokens())]).collect()
}

#[test]
fn halves_become_a_rotated_block_and_a_block_becomes_halves() {
    for (heads, head_dim) in [(4, 4), (4, 8), (3, 16), (2, 32)] {
        let config = config(heads, head_dim);
        let shape = Shape { public_tokens: 4, private_tokens: 13, max_new_tokens: 1 };
        let layout = Layout::new(&config, shape, CHAIN.slot_count()).unwrap();
        Halves::require(&layout).unwrap();
        let ev = ClearEvaluator::new(CHAIN);
        let pairs = pairs(&ev, &layout);
        let angles: Vec<Angles> = (0..layout.block).map(|t| Angles::new(&config, layout.position(t))).collect();
        for (rows, live, rotary) in
            [(Rows::Live, true, false), (Rows::Rotary(&angles), false, true), (Rows::LiveRotary(&angles), true, true)]
        {
            let block = to_block(&ev, &layout, &pairs, 1, rows).unwrap();
            assert_eq!(block.len(), layout.head_count);
            for (count, value) in block.iter().enumerate() {
                assert_eq!(ev.level(value), 7);
                for (slot, &found) in value.slots().iter().enumerate() {
                    let token = slot % layout.block;
                    let expected = layout.head_channel(count, slot / layout.block).map_or(0.0, |(head, j)| {
                        let partner = (j + head_dim / 2) % head_dim;
                        let [own, other] = if rotary { rotated(&angles[token], j, head_dim) } else { [1.0, 0.0] };
                        let kept = !live || token < shape.private_tokens;
                        f64::from(kept) * (own * entry(token, head, j) + other * entry(token, head, partner))
                    });
                    assert!((found - expected).abs() < 1e-12, "{heads} × {head_dim}, value {count}, slot {slot}");
                }
            }
        }
        let block = to_block(&ev, &layout, &pairs, 1, Rows::Rotary(&vec![still(&config); layout.block])).unwrap();
        let back = to_halves(&ev, &layout, &block).unwrap();
        for (pair, (found, expected)) in back.iter().zip(&pairs).enumerate() {
            for (half, (found, expected)) in found.iter().zip(expected).enumerate() {
                for (slot, (a, b)) in found.slots().iter().zip(expected.slots()).enumerate() {
                    let b = if *b == 9.0 { 0.0 } else { UNROTATED * b };
                    assert!((a - b).abs() < 1e-12, "{heads} × {head_dim}, pair {pair}, half {half}, slot {slot}");
                }
            }
        }
    }
}

/// The angles of position 0, which rotate nothing.
fn still(config: &LlamaConfig) -> Angles {
    Angles::new(config, 0)
}

#[test]
fn shared_keys_are_copied_to_every_query_head() {
    for (heads, key_heads, head_dim) in [(4, 2, 32), (8, 2, 32), (8, 4, 16)] {
        let config = LlamaConfig { num_key_value_heads: key_heads, ..config(heads, head_dim) };
        let shape = Shape { public_tokens: 4, private_tokens: 13, max_new_tokens: 1 };
        let layout = Layout::new(&config, shape, CHAIN.slot_count()).unwrap();
        let halves = Halves::new(&layout);
        let group = heads / key_heads;
        assert_eq!(halves.shared(), group, "{heads} heads on {key_heads} of {head_dim}");
        let ev = ClearEvaluator::new(CHAIN);
        let half = |pair: usize, first: usize| {
            let value = |slot: usize| {
                let channel = halves.key_channel(pair * halves.channels() + slot / halves.tokens());
                channel.map_or(9.0, |(head, j)| entry(first + slot % halves.tokens(), head / group, j))
            };
            ev.encrypt(&Slots::new((0..layout.slot_count).map(value).collect(), layout.slot_count).unwrap(), 8)
        };
        let pairs: Vec<_> = (0..halves.key_pairs()).map(|pair| [half(pair, 0), half(pair, halves.tokens())]).collect();
        let angles: Vec<Angles> = (0..layout.block).map(|t| Angles::new(&config, layout.position(t))).collect();
        let block = to_block(&ev, &layout, &pairs, group, Rows::LiveRotary(&angles)).unwrap();
        for (count, value) in block.iter().enumerate() {
            for (slot, &found) in value.slots().iter().enumerate() {
                let token = slot % layout.block;
                let expected = layout.head_channel(count, slot / layout.block).map_or(0.0, |(head, j)| {
                    let partner = (j + head_dim / 2) % head_dim;
                    let [own, other] = rotated(&angles[token], j, head_dim);
                    let key = head / group;
                    let kept = f64::from(token < shape.private_tokens);
                    kept * (own * entry(token, key, j) + other * entry(token, key, partner))
                });
                assert!((found - expected).abs() < 1e-12, "{heads} on {key_heads}, value {count}, slot {slot}");
            }
        }
    }
}
