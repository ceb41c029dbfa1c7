use super::*;
use crate::ClearEvaluator;
use crate::circuits::Diagonals;

const CHAIN: Chain = Chain { log_n: 8, top_level: 12, boot_level: 3, max_level: 20, product_prime: None };

struct Band;

impl Diagonals for Band {
    fn contains(&self, output: usize, input: usize, index: usize) -> bool {
        output == input && index != 5
    }

    fn diagonal(&self, _: usize, _: usize, index: usize) -> Slots {
        Slots::new(vec![0.01 * index as f64, -0.02], CHAIN.slot_count()).unwrap()
    }
}

fn model() -> BootstrapModel {
    Arc::new(|period, pair| {
        let mut counts = Counts { bootstraps: 1, rotations: 3, ..Counts::default() };
        counts.key_switch(15, if pair { 4 } else { 3 });
        let rotations = vec![(period as i32, 18), (0, 20)];
        let to_coefficients = Counts::default();
        Ok(BootstrapCost {
            to_coefficients,
            to_slots: counts,
            rotations,
            relinearization_level: 14,
            conjugation_level: 16,
            working_limbs: 0,
        })
    })
}

/// A pseudo-random program over a pool of values; returns the levels of everything it computed.
fn program<E: Evaluator>(ev: &E, start: E::Value, seed: u64) -> Result<Vec<usize>, Error> {
    let mut pool = vec![start.clone(), start];
    let mut state = seed;
    let mut levels = Vec::new();
    let slots = Slots::new(vec![0.25, -0.5, 0.125, 0.5], CHAIN.slot_count())?;
    for _ in 0..300 {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let draw = |shift: u32, bound: usize| (state >> shift) as usize % bound;
        let (a, b) = (pool[draw(20, pool.len())].clone(), pool[draw(28, pool.len())].clone());
        let by = draw(36, 300) as i32 - 150;
        let result = match draw(48, 12) {
            0 => ev.add(&a, &b).and_then(|v| ev.drop_level(&v, ev.level(&v).saturating_sub(1), 0.5)),
            1 => ev.sub(&a, &b).and_then(|v| ev.combine(&[(0.5, &v)], 0.0)),
            2 => ev.mul(&a, &b),
            3 => ev.multiply_sum(&[(&a, &b), (&b, &b)]).and_then(|v| ev.combine(&[(0.5, &v)], 0.0)),
            4 => ev.mul_slots(&a, &slots),
            5 => ev.combine(&[(0.3, &a), (-0.6, &b)], 0.05),
            6 => ev.rotate(&a, by),
            7 => ev.rotate_many(&a, &[0, by, 128]).map(|v| v[1].clone()),
            8 => {
                let (inputs, transform) = (
                    [a.clone(), b.clone()],
                    LinearTransform { inputs: 2, outputs: 2, stride: 8, count: 7, baby_steps: 3, diagonals: &Band },
                );
                ev.linear_transform(&inputs, &transform).map(|v| v[0].clone())
            }
            9 => Ok(ev.negate(&a)),
            10 => ev.half_bootstrap(&a, Some(&b), 128).map(|(lo, _)| lo),
            _ => ev.half_bootstrap(&a, None, 128).map(|(lo, _)| lo),
        };
        match result {
            Ok(value) => {
                levels.push(ev.level(&value));
                if pool.len() < 12 { pool.push(value) } else { pool[draw(44, 12)] = value }
            }
            Err(Error::LevelTooLow { need, .. }) => levels.push(1000 + need),
            Err(other) => return Err(other),
        }
    }
    Ok(levels)
}

#[test]
fn clear_and_cost_agree_on_random_programs() {
    for seed in 1..20 {
        let cost = CostEvaluator::new(CHAIN).with_bootstrap_model(model());
        let clear = ClearEvaluator::new(CHAIN).with_bootstrap_model(model());
        let start = clear.encrypt(&Slots::new(vec![0.5, -0.25], 128).unwrap(), 12);
        let levels = program(&cost, cost.value(12), seed).unwrap();
        assert_eq!(program(&clear, start, seed).unwrap(), levels);
        assert_eq!(clear.counts(), cost.counts());
        assert_eq!(clear.key_set(), cost.key_set());
        assert!(levels.iter().any(|&l| l < 12) && cost.counts().key_switches > 50);
    }
}

#[test]
fn key_switches_are_counted_at_the_level_of_the_operand() {
    let ev = CostEvaluator::new(CHAIN);
    let (a, b) = (ev.value(9), ev.value(7));
    ev.multiply_sum(&[(&a, &b), (&a, &a)]).unwrap();
    ev.rotate_many(&a, &[-1, 0, 128, 5]).unwrap();
    let transform = LinearTransform { inputs: 2, outputs: 2, stride: 8, count: 7, baby_steps: 3, diagonals: &Band };
    ev.linear_transform(&[a.clone(), b.clone()], &transform).unwrap();
    let counts = ev.counts();
    assert_eq!((counts.products, counts.relinearizations, counts.plaintext_products), (2, 1, 12));
    // Two of the three rotations of a, then per input babies 8 and 16 and per output giants 24 and 48, at level 7.
    assert_eq!((counts.rotations, counts.key_switches), (2 + 8, 11));
    let (upper, lower) = (counts.by_level[9], counts.by_level[7]);
    assert_eq!((upper.key_switches, lower.key_switches), (2, 9));
    // The rotations of a share one, the babies of each input another, and four giants have their own.
    assert_eq!((upper.decompositions, lower.decompositions), (1, 2 + 4 + 1));
    assert_eq!((upper.divisions, lower.divisions), (2 * 2, 2 * 9));
    assert_eq!((lower.products, lower.encodings, upper.encodings), (2, 12, 0));
    let keys = ev.key_set();
    assert_eq!(keys.relinearization_level, Some(7));
    assert_eq!(keys.rotations, BTreeMap::from([(5, 9), (8, 7), (16, 7), (24, 7), (48, 7), (127, 9)]));
}

#[test]
fn bootstraps_add_what_the_model_predicts() {
    let ev = CostEvaluator::new(CHAIN).with_bootstrap_model(model());
    let a = ev.value(4);
    assert_eq!(ev.half_bootstrap(&a, Some(&a), 16).unwrap().0.level(), 12);
    ev.half_bootstrap(&a, None, 16).unwrap();
    ev.half_bootstrap(&a, None, 64).unwrap();
    assert_eq!(ev.counts().bootstraps, 3);
    assert_eq!(ev.counts().key_switches, 4 + 3 + 3);
    let keys = ev.key_set();
    assert_eq!(keys.bootstrap_periods, BTreeMap::from([(16, true), (64, false)]));
    assert_eq!(keys.rotations, BTreeMap::from([(16, 18), (64, 18)]));
    assert_eq!((keys.relinearization_level, keys.conjugation_level), (Some(14), Some(16)));
    let mut merged = KeySet::default();
    merged.merge(&keys);
    merged.merge(&keys);
    assert_eq!(merged, keys);
}

#[test]
fn products_count_the_first_half_by_input_and_the_second_by_output() {
    let chain = Chain { boot_level: 4, product_prime: Some(786_433), ..CHAIN };
    let model: BootstrapModel = Arc::new(|period, pair| {
        assert!(period == 128 && pair);
        let mut to_coefficients = Counts { rotations: 5, ..Counts::default() };
        to_coefficients.key_switch(4, 5);
        let mut to_slots = Counts { bootstraps: 1, relinearizations: 2, ..Counts::default() };
        to_slots.key_switch(15, 2);
        let rotations = vec![(3, 18)];
        Ok(BootstrapCost {
            to_coefficients,
            to_slots,
            rotations,
            relinearization_level: 14,
            conjugation_level: 16,
            working_limbs: 0,
        })
    });
    let ev = CostEvaluator::new(chain).with_bootstrap_model(model);
    // 32 channels fit a pair: three pairs come in, two go out.
    let shape = MatrixShape { outputs: 33, inputs: 96, tokens: 8 };
    let matrix = ev.encode_matrix(&shape, &|_, _| panic!("rows are not read")).unwrap();
    let outputs = ev.product_bootstrap(&vec![[ev.value(4), ev.value(7)]; 3], &matrix).unwrap();
    assert_eq!(outputs, vec![[ev.value(12), ev.value(12)]; 2]);
    let counts = ev.counts();
    assert_eq!((counts.bootstraps, counts.rotations, counts.relinearizations), (2, 15, 4));
    assert_eq!(counts.matrix_products, (2 * 32) * (3 * 32) * 8);
    assert_eq!(counts.key_switches, 15 + 4 + 3 + 2 * 2);
    let by_level: Vec<u64> = [0, 1, 4, 15].map(|level: usize| counts.by_level[level].key_switches).to_vec();
    assert_eq!(by_level, [4, 3, 15, 4]);
    let mut keys = ev.key_set();
    assert_eq!((&keys.product_tokens, &keys.bootstrap_periods), (&BTreeSet::from([8]), &BTreeMap::from([(128, true)])));
    assert_eq!(keys.rotations, BTreeMap::from([(3, 18)]));
    keys.merge(&KeySet { product_tokens: BTreeSet::from([4]), ..KeySet::default() });
    assert_eq!(keys.product_tokens, BTreeSet::from([4, 8]));
    let low = ev.product_bootstrap(&vec![[ev.value(4), ev.value(3)]; 3], &matrix);
    assert!(matches!(low, Err(Error::LevelTooLow { have: 3, need: 4, .. })));
}

#[test]
fn a_turn_counts_its_matrix_and_its_results_as_memory() {
    let chain = Chain { product_prime: Some(786_433), ..CHAIN };
    let cost = BootstrapCost { working_limbs: 1000, ..BootstrapCost::default() };
    let ev = CostEvaluator::new(chain).with_bootstrap_model(Arc::new(move |_, _| Ok(cost.clone())));
    // Two pairs come in and three go out: as many integers of two bytes as fit six times as many components squared.
    let components = 2 * chain.slot_count() / 8;
    let shape = MatrixShape { outputs: 3 * components, inputs: 2 * components, tokens: 8 };
    let matrix = ev.encode_matrix(&shape, &|_, _| {}).unwrap();
    let integers = (2 * 6 * components * components).div_ceil(8 << chain.log_n);
    assert_eq!(ev.peak_limbs(), integers);
    let inputs = vec![[(); 2].map(|()| ev.value(4)); 2];
    let before = ev.peak_limbs();
    let outputs = ev.product_bootstrap(&inputs, &matrix).unwrap();
    let results = 3 * 2 * 2 * (chain.top_level + 1);
    assert!(ev.peak_limbs() >= before + results + 1000, "{}", ev.peak_limbs());
    drop((matrix, inputs, outputs));
    ev.half_bootstrap(&ev.value(4), None, 16).unwrap();
    assert!(ev.peak_limbs() < before + results + 2000);
}

#[test]
fn a_product_counts_its_parts_its_operand_and_the_rows_that_wait_for_packing() {
    let chain = Chain { log_n: 16, product_prime: Some(786_433), ..CHAIN };
    // 512 channels a pair: eight pairs come in, two go out.
    let shape = MatrixShape { outputs: 1024, inputs: 4096, tokens: 128 };
    for threads in [1, 2, 16] {
        // Beside eight pairs of coefficients in two primes as many in parts, and the operand or the switches.
        let prepare = 8 * (4 + 4) + (8 * 6).max(threads * 16);
        // 64 rows of 2^13 residues are eight limbs and their bodies; four blocks of them in two primes, gathered and lifted.
        let rows = threads * (4 * 2 + 4 + 4) * (8 + 1);
        assert_eq!(product::product_limbs(chain, &shape, threads), [prepare, 8 * 6 + 2 * 2 * 2 + rows]);
    }
    // A bootstrap that needs nothing, a single pair out: the product is the peak, above what comes back.
    let ev = CostEvaluator::new(chain).with_bootstrap_model(Arc::new(|_, _| Ok(BootstrapCost::default())));
    let shape = MatrixShape { outputs: 512, inputs: 16 * 512, tokens: 128 };
    let matrix = ev.encode_matrix(&shape, &|_, _| {}).unwrap();
    let inputs = vec![[(); 2].map(|()| ev.value(chain.boot_level)); 16];
    let before = ev.peak_limbs();
    ev.product_bootstrap(&inputs, &matrix).unwrap();
    let peak = product::product_limbs(chain, &shape, rayon::current_num_threads()).into_iter().max().unwrap();
    assert!(peak > 16 * (4 + 4 + 6) - 1 && peak > 2 * 2 * (chain.top_level + 1));
    assert_eq!(ev.peak_limbs(), before + peak);
}

#[test]
fn memory_is_that_of_the_values_that_live_at_one_time() {
    let ev = CostEvaluator::new(CHAIN);
    let a = ev.value(9);
    assert_eq!(ev.peak_limbs(), 20);
    let many = vec![a.clone(); 3];
    drop(many);
    assert_eq!(ev.peak_limbs(), 80);
    // Once they are gone, as many again need nothing more.
    let again = vec![ev.value(9); 2];
    assert_eq!(ev.peak_limbs(), 80);
    ev.rotate_many(&a, &[1, 2]).unwrap();
    let rotated = ev.peak_limbs();
    assert!(rotated >= 20 * (1 + 2 + 2 + 1), "{rotated}");
    drop((a, again));
    // A transform keeps every baby step of every input until its last output is made.
    let inputs = [ev.value(7), ev.value(7)];
    let transform = LinearTransform { inputs: 2, outputs: 2, stride: 8, count: 7, baby_steps: 3, diagonals: &Band };
    let kept: usize = (0..2).map(|input| transform.babies(input).len()).sum();
    let lonely = CostEvaluator::new(CHAIN);
    let alone: Vec<_> = inputs.iter().map(|value| lonely.value(value.level())).collect();
    lonely.linear_transform(&alone, &transform).unwrap();
    assert!(lonely.peak_limbs() >= 16 * (2 + kept + 4), "{} for {kept}", lonely.peak_limbs());
    let cost = BootstrapCost { working_limbs: 1000, ..BootstrapCost::default() };
    let ev = CostEvaluator::new(CHAIN).with_bootstrap_model(Arc::new(move |_, _| Ok(cost.clone())));
    ev.half_bootstrap(&ev.value(4), None, 16).unwrap();
    assert_eq!(ev.peak_limbs(), 1000 + 10);
}
