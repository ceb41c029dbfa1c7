use super::*;
use proptest::prelude::*;
use undertone_he::{Chain, ClearEvaluator};

const CHAIN: Chain = Chain { log_n: 8, top_level: 5, boot_level: 1, max_level: 8, product_prime: None };
const SLOTS: usize = 128;

/// A fixed function of any indices, in [−1, 1].
fn noise(seed: usize) -> f64 {
    (seed as f64 * 12.9898).sin() * 0.999
}

fn entry(low: usize, (o, p): (usize, usize), (i, b): (usize, usize)) -> f64 {
    noise(low + 31 * o + 997 * p + 7919 * i + 104_729 * b + 1)
}

fn agrees(input: Axis, output: Axis) {
    let ev = ClearEvaluator::new(CHAIN);
    let value = |i: usize, slot: usize| noise(7 * i + 13 * slot + 3);
    let inputs: Vec<_> = (0..input.count)
        .map(|i| {
            let slots = (0..input.period()).map(|slot| value(i, slot)).collect();
            ev.encrypt(&Slots::new(slots, SLOTS).unwrap(), 3)
        })
        .collect();
    let outputs = AxisProduct::new(SLOTS, input, output, &entry).apply(&ev, &inputs).unwrap();
    assert_eq!(outputs.len(), output.count);
    for (o, found) in outputs.iter().enumerate() {
        assert_eq!(ev.level(found), 2);
        for (slot, &found) in ev.decrypt(found).iter().enumerate() {
            let (low, p) = (slot % output.stride, slot / output.stride % output.len);
            let need: f64 = (0..input.count)
                .flat_map(|i| (0..input.len).map(move |b| (i, b)))
                .map(|(i, b)| entry(low, (o, p), (i, b)) * value(i, low + input.stride * b))
                .sum();
            assert!((found - need).abs() < 1e-9, "{input:?} {output:?}: slot {slot} is {found}, not {need}");
        }
    }
}

proptest! {
    #[test]
    fn any_axes_agree_with_the_naive_product(
        log_stride in 0u32..5, log_in in 0u32..8, log_out in 0u32..8, inputs in 1usize..4, outputs in 1usize..4,
    ) {
        let longest = 7 - log_stride;
        let axis = |log: u32, count| Axis { stride: 1 << log_stride, count, len: 1 << log.min(longest) };
        agrees(axis(log_in, inputs), axis(log_out, outputs));
    }

    #[test]
    fn baby_steps_divide_the_count(log in 0u32..12, inputs in 1usize..9, outputs in 1usize..9) {
        let steps = baby_steps(1 << log, inputs, outputs);
        prop_assert!(steps.is_power_of_two() && steps <= 1 << log);
    }
}

#[test]
fn masked_sums_add_slot_by_slot() {
    let ev = ClearEvaluator::new(CHAIN);
    let slots = |seed: usize| Slots::new((0..SLOTS).map(|s| noise(s + seed)).collect(), SLOTS).unwrap();
    let inputs = [ev.encrypt(&slots(1), 4), ev.encrypt(&slots(2), 3)];
    let sum = masked_sum(&ev, &inputs, &|i| slots(10 * (i + 1))).unwrap();
    assert_eq!(ev.level(&sum), 2);
    for (slot, found) in ev.decrypt(&sum).into_iter().enumerate() {
        let need = noise(slot + 1) * noise(slot + 10) + noise(slot + 2) * noise(slot + 20);
        assert!((found - need).abs() < 1e-12);
    }
}
