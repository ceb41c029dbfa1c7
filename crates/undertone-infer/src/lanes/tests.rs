use super::*;
use crate::packing::Shape;
use proptest::prelude::*;
use undertone_he::{Chain, ClearEvaluator};
use undertone_model::LlamaConfig;
use undertone_model::synthetic::small_config;

fn layout(heads: usize, head_dim: usize, private: usize, log_n: u32) -> Layout {
    let config = LlamaConfig { num_attention_heads: heads, num_key_value_heads: heads, head_dim, ..small_config() };
    let shape = Shape { public_tokens: 3, private_tokens: private, max_new_tokens: 1 };
    Layout::new(&config, shape, 1 << (log_n - 1)).unwrap()
}

/// Distinct for all indices.
fn value(token: usize, head: usize, j: usize) -> f64 {
    (1 + token + 1000 * (1 + head) + 100_000 * (1 + j)) as f64
}

/// Slots of one head tensor in the block frame, replicated over the ciphertext.
fn tensor(layout: &Layout) -> Slots {
    let values = (0..layout.coordinate_axis().period()).map(|slot| {
        let (token, rest) = (slot % layout.block, slot / layout.block);
        value(token, rest % layout.heads_padded, rest / layout.heads_padded)
    });
    Slots::new(values.collect(), layout.slot_count).unwrap()
}

fn every_key_is_where_its_group_expects_it(layout: &Layout, parts: usize, shear: Shear) {
    let chain =
        Chain { log_n: layout.slot_count.ilog2() + 1, top_level: 5, boot_level: 1, max_level: 8, product_prime: None };
    let ev = ClearEvaluator::new(chain);
    let x = ev.encrypt(&tensor(layout), 4);
    let tensors = sheared(&ev, layout, parts, vec![x], shear).unwrap();
    assert_eq!(tensors.len(), parts);
    for_each_bundle(&ev, layout, parts, tensors, |bundle, moved| {
        for (m, tensor) in moved.iter().enumerate() {
            for (slot, found) in ev.decrypt(&tensor[0]).into_iter().enumerate() {
                let (token, head) = (slot % layout.block, slot / layout.block % layout.heads_padded);
                let lane = slot / (layout.block * layout.heads_padded) % layout.lanes;
                let place = slot / layout.lane_stride();
                let group = bundle * parts + place % parts;
                let back = group * layout.lanes + lane;
                let coordinate = match shear {
                    Shear::Keys => (place + m) % layout.head_len,
                    Shear::Values => (place + layout.lane_positions() - m) % layout.head_len,
                };
                if back <= token {
                    assert_eq!(found, value(token - back, head, coordinate), "{m} {bundle} {slot} {layout:?}");
                }
            }
        }
        Ok(())
    })
    .unwrap();
}

proptest! {
    #[test]
    fn shears_hold_every_group(
        heads in 1usize..6,
        log_dim in 1u32..6,
        private in 1usize..40,
        log_n in 11u32..14,
        log_parts in 0u32..4,
        keys in any::<bool>(),
    ) {
        let layout = layout(heads, 1 << log_dim, private, log_n);
        prop_assume!(layout.head_count == 1);
        let parts = (1 << log_parts).min(layout.head_len).min(layout.private_groups());
        every_key_is_where_its_group_expects_it(&layout, parts, if keys { Shear::Keys } else { Shear::Values });
    }
}

#[test]
fn four_lanes_of_eight_coordinates() {
    let layout = layout(4, 8, 11, 12);
    assert_eq!((layout.lanes, layout.head_len, layout.lane_positions()), (4, 8, 8));
    for parts in [1, 2, 4] {
        every_key_is_where_its_group_expects_it(&layout, parts, Shear::Keys);
        every_key_is_where_its_group_expects_it(&layout, parts, Shear::Values);
    }
}
