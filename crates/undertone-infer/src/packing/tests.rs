use super::*;
use proptest::prelude::*;
use std::collections::BTreeMap;
use undertone_model::{RopeKind, RopeScaling};

fn config(hidden: usize, heads: usize, head_dim: usize) -> LlamaConfig {
    LlamaConfig {
        hidden_size: hidden,
        intermediate_size: 3 * hidden,
        num_hidden_layers: 1,
        num_attention_heads: heads,
        num_key_value_heads: 1,
        head_dim,
        vocab_size: 100,
        max_position_embeddings: 4096,
        rms_norm_eps: 1e-5,
        rope: RopeScaling { theta: 1e4, kind: RopeKind::Default },
        tie_word_embeddings: false,
        bos_token_id: None,
        eos_token_ids: vec![],
    }
}

fn layout(hidden: usize, heads: usize, head_dim: usize, public: usize, private: usize, log_n: u32) -> Layout {
    let shape = Shape { public_tokens: public, private_tokens: private, max_new_tokens: 3 };
    Layout::new(&config(hidden, heads, head_dim), shape, 1 << (log_n - 1)).unwrap()
}

proptest! {
    #[test]
    fn packing_and_unpacking_a_block_are_inverse(
        hidden in 1usize..300, private in 1usize..40, log_n in 11u32..14,
    ) {
        let layout = layout(hidden, 2, 4, 5, private, log_n);
        let rows: Vec<Vec<f32>> =
            (0..private).map(|t| (0..hidden).map(|c| (t * 1000 + c) as f32).collect()).collect();
        let packed = layout.pack_block(&rows, 0.5).unwrap();
        prop_assert_eq!(packed.len(), layout.block_axis(hidden).count);
        let slots: Vec<Vec<f64>> =
            packed.iter().map(|s| (0..layout.slot_count).map(|i| s.at(i)).collect()).collect();
        for t in 0..layout.block {
            let found = layout.unpack_block(&slots, hidden, t).unwrap();
            // Rows past the prompt repeat its last token.
            let need: Vec<f64> = rows[t.min(private - 1)].iter().map(|&x| f64::from(x) * 0.5).collect();
            prop_assert_eq!(found, need);
        }
        let live: f64 = rows.iter().chain(std::iter::repeat_n(&rows[private - 1], layout.block - private))
            .flatten().map(|&x| f64::from(x) * 0.5).sum();
        let all: f64 = packed.iter().map(|s| s.period().iter().sum::<f64>()).sum();
        prop_assert!((live - all).abs() < 1e-6, "padding channels are not zero");
    }

    #[test]
    fn every_query_meets_every_visible_key_exactly_once(
        heads in 1usize..7, head_dim in 1usize..40, public in 1usize..70, private in 1usize..40, log_n in 11u32..14,
    ) {
        let layout = layout(24, heads, 2 * head_dim, public, private, log_n);
        let mut seen: BTreeMap<(usize, usize, usize), usize> = BTreeMap::new();
        for count in 0..layout.score_count() {
            for slot in 0..layout.slot_count {
                let at = layout.score_at(count, slot);
                let position = match at.key {
                    Key::None => continue,
                    Key::Public(position) => position,
                    Key::Private { back } => public + at.token - back,
                };
                prop_assert!(at.head < heads);
                *seen.entry((at.token, at.head, position)).or_default() += 1;
            }
        }
        for token in 0..layout.block {
            // Padding rows repeat the last token, so they see every private key.
            let visible = public + (token + 1).min(private);
            for head in 0..heads {
                for position in 0..public + layout.block {
                    let times = seen.get(&(token, head, position)).copied().unwrap_or(0);
                    prop_assert_eq!(times, usize::from(position < visible), "{} {} {}", token, head, position);
                }
            }
        }
    }

    #[test]
    fn head_channels_cover_every_coordinate_once(
        heads in 1usize..17, head_dim in 1usize..65, private in 1usize..40, log_n in 12u32..15,
    ) {
        let head_dim = 2 * head_dim;
        let layout = layout(24, heads, head_dim, 3, private, log_n);
        let axis = layout.head_axis();
        prop_assert!(axis.period() <= layout.slot_count);
        let mut found: Vec<(usize, usize)> = (0..axis.count)
            .flat_map(|o| (0..axis.len).map(move |p| (o, p)))
            .filter_map(|(o, p)| layout.head_channel(o, p))
            .collect();
        found.sort_unstable();
        let need: Vec<_> = (0..heads).flat_map(|h| (0..head_dim).map(move |j| (h, j))).collect();
        prop_assert_eq!(found, need);
        prop_assert_eq!(layout.dense_head_axis().len, axis.count * axis.len);
    }
}

#[test]
fn shapes_out_of_range_are_refused() {
    let refused = |public, private, new| {
        let shape = Shape { public_tokens: public, private_tokens: private, max_new_tokens: new };
        Layout::new(&config(24, 2, 8), shape, 2048).is_err()
    };
    assert!(refused(0, 1, 1) && refused(1, 0, 1) && refused(1, 129, 1) && refused(1, 1, 0));
    assert!(refused(4000, 90, 8));
    assert!(!refused(4000, 90, 7));
    // One row of 16 tokens and 256 heads has 4096 slots.
    let shape = Shape { public_tokens: 1, private_tokens: 1, max_new_tokens: 1 };
    assert!(Layout::new(&config(24, 256, 8), shape, 2048).is_err());
}

#[test]
fn ragged_prompts_are_refused() {
    let layout = layout(24, 2, 8, 1, 3, 12);
    assert!(layout.pack_block(&vec![vec![0.0; 24]; 2], 1.0).is_err());
    assert!(layout.pack_block(&vec![vec![0.0; 23]; 3], 1.0).is_err());
    assert!(layout.pack_dense(&[0.0; 25], 1.0).is_err());
    assert!(layout.unpack_block(&[], 24, 0).is_err());
}
