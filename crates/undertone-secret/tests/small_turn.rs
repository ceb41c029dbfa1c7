//! Matrix products between bootstraps under encryption, at small insecure degrees.

mod support;

use support::{Client, key_set, sample, worst};
use undertone_he::conformance::{bootstrap_periods, product_tokens, rotations, run};
use undertone_he::{
    Ciphertext, CkksEvaluator, ClearEvaluator, CostEvaluator, Error, Evaluator, KeySet, MatrixShape, Parameters, Slots,
    bootstrap_model,
};

const LOG_N: u32 = 11;

/// Weights of about `size`, different for every entry.
fn weight(o: usize, i: usize, size: f32) -> f32 {
    ((o * 7919 + i * 104_729 + 13) % 2003) as f32 / 1001.0 * size - size
}

fn matrix<E: Evaluator>(ev: &E, shape: &MatrixShape, size: f32) -> Result<E::Matrix, Error> {
    let row = |o: usize, out: &mut [f32]| out.iter_mut().enumerate().for_each(|(i, out)| *out = weight(o, i, size));
    ev.encode_matrix(shape, &row)
}

/// Slots of the pairs that go in, zero past the last channel.
fn inputs(parameters: &Parameters, shape: &MatrixShape) -> Vec<[Slots; 2]> {
    let (chain, half) = (parameters.chain(), shape.tokens / 2);
    let pairs = 0..shape.input_pairs(chain);
    let side = |pair: usize, side: usize| {
        let channels = (shape.inputs - pair * shape.components(chain)).min(shape.components(chain));
        let mut values = sample(chain.slot_count(), (2 * pair + side) as u64 + 5);
        values[channels * half..].fill(0.0);
        Slots::new(values, chain.slot_count()).unwrap()
    };
    pairs.map(|pair| [side(pair, 0), side(pair, 1)]).collect()
}

/// The keys of one turn, and its counters, as the cost evaluator predicts them.
fn plan(parameters: &Parameters, shape: &MatrixShape) -> CostEvaluator {
    let cost = CostEvaluator::new(parameters.chain()).with_bootstrap_model(bootstrap_model(parameters));
    let pair = [(); 2].map(|()| cost.value(parameters.chain().boot_level));
    let matrix = matrix(&cost, shape, 0.0).unwrap();
    cost.product_bootstrap(&vec![pair; shape.input_pairs(parameters.chain())], &matrix).unwrap();
    cost
}

fn encrypted(client: &Client, pairs: &[[Slots; 2]], level: usize) -> Vec<[Ciphertext; 2]> {
    pairs.iter().map(|pair| pair.each_ref().map(|slots| client.encrypt(slots, level))).collect()
}

/// One turn under encryption beside the clear one: the largest error, in units of the matrix's gain.
fn turn_error(client: &Client, ev: &CkksEvaluator, shape: &MatrixShape, size: f32) -> f64 {
    let parameters = &client.parameters;
    let (pairs, level) = (inputs(parameters, shape), parameters.chain().boot_level);
    let clear = ClearEvaluator::new(parameters.chain());
    let plain: Vec<_> = pairs.iter().map(|pair| pair.each_ref().map(|slots| clear.encrypt(slots, level))).collect();
    let clear_matrix = matrix(&clear, shape, size).unwrap();
    let expected = clear.product_bootstrap(&plain, &clear_matrix).unwrap();
    let found = ev.product_bootstrap(&encrypted(client, &pairs, level), &matrix(ev, shape, size).unwrap()).unwrap();
    assert_eq!(found.len(), expected.len());
    let largest = expected.iter().flatten().flat_map(|value| value.slots()).fold(0.0, |most: f64, x| most.max(x.abs()));
    assert!((0.125..1.0).contains(&largest), "{largest}");
    let gain = clear_matrix.unit() * parameters.chain().product_prime.unwrap() as f64;
    let errors = found.iter().flatten().zip(expected.iter().flatten()).map(|(found, expected)| {
        assert_eq!(found.level(), parameters.chain().top_level);
        worst(&client.decrypt(found), expected.slots())
    });
    errors.fold(0.0, f64::max) / gain
}

#[test]
fn the_conformance_suite_holds_under_encryption_with_a_product_prime() {
    let client = Client::new(Parameters::insecure_turn_test(LOG_N));
    let n = client.parameters.chain().slot_count();
    let periods: Vec<_> = bootstrap_periods(n).into_iter().map(|period| (period, true)).collect();
    let mut set = key_set(&client.parameters, &periods, &rotations(n));
    set.product_tokens.insert(product_tokens(n));
    let ev = client.evaluator(&set);
    run(&ev, |slots, level| client.encrypt(slots, level), |value| client.decrypt(value), 1e-4).unwrap();
}

#[test]
fn turns_are_as_precise_as_bootstraps_and_cost_what_is_predicted() {
    let client = Client::new(Parameters::insecure_turn_test(LOG_N));
    let n = client.parameters.chain().slot_count();
    // Gains 1, 2 and 8; channels that fill their pairs and such that do not; few and many tokens.
    for (outputs, inputs, tokens, size) in
        [(40, 64, n / 16, 0.015), (32, 33, n / 16, 0.03), (5, 3, 64, 0.15), (300, 530, 4, 0.01)]
    {
        let shape = MatrixShape { outputs, inputs, tokens };
        let cost = plan(&client.parameters, &shape);
        let ev = client.evaluator(&cost.key_set());
        let error = turn_error(&client, &ev, &shape, size);
        // The arcsine correction leaves 2^-21 at magnitude 1; noise is below that at this degree.
        assert!(error < 2f64.powi(-20), "{shape:?}: 2^{:.1}", error.log2());
        assert_eq!(ev.counts(), cost.counts(), "{shape:?}");
    }
}

/// Integers of the spiked channel in each row of the matrix below: nearly the largest there is, one that takes a spike of 1000,
/// and none.
const SPIKED: [f64; 3] = [16_000.0, 512.0, 0.0];

/// One turn with `spike` in one input slot: what comes out of that token in each row, what should, and the largest error of all
/// other slots.
fn spiked_turn(client: &Client, ev: &CkksEvaluator, shape: &MatrixShape, spike: f64) -> ([(f64, f64); 3], f64) {
    let chain = client.parameters.chain();
    let prime = chain.product_prime.unwrap() as f64;
    let row = |o: usize, out: &mut [f32]| {
        out.fill(if o == 0 { 0.0 } else { 0.01 });
        out[0] = (SPIKED[o] / prime) as f32;
    };
    let mut pairs = inputs(&client.parameters, shape);
    // Token 3 of channel 0.
    let mut values = pairs[0][0].period().to_vec();
    values[3] = spike;
    pairs[0][0] = Slots::new(values, chain.slot_count()).unwrap();
    let clear = ClearEvaluator::new(chain).without_range_check();
    let plain: Vec<_> =
        pairs.iter().map(|pair| pair.each_ref().map(|slots| clear.encrypt(slots, chain.boot_level))).collect();
    let expected = clear.product_bootstrap(&plain, &clear.encode_matrix(shape, &row).unwrap()).unwrap();
    let matrix = ev.encode_matrix(shape, &row).unwrap();
    assert_eq!(matrix.gain_log2(), 0);
    let found = ev.product_bootstrap(&encrypted(client, &pairs, chain.boot_level), &matrix).unwrap();
    let (found, other) = (found[0].each_ref().map(|value| client.decrypt(value)), &expected[0]);
    let place = |o: usize| 3 + shape.tokens / 2 * o;
    let rows = [0, 1, 2].map(|o| (found[0][place(o)], other[0].slots()[place(o)]));
    let mut first = found[0].clone();
    [0, 1, 2].iter().for_each(|&o| first[place(o)] = other[0].slots()[place(o)]);
    (rows, worst(&first, other[0].slots()).max(worst(&found[1], other[1].slots())))
}

/// A lone input beyond its bound scales the results. In units of q0 over its ratio to messages, R = 2^7, an input
/// wraps from q_w·R/2 on, where its smallest weight alone makes an output of R/2 of it, and an output wraps from R/2 = 64 on.
#[test]
fn a_spike_in_an_input_only_scales_until_an_output_is_too_large() {
    let client = Client::new(Parameters::insecure_turn_test(LOG_N));
    let prime = client.parameters.chain().product_prime.unwrap() as f64;
    let wraps = client.parameters.literal().message_ratio_bits.exp2() / 2.0;
    assert_eq!(wraps, 64.0);
    let shape = MatrixShape { outputs: 3, inputs: 3, tokens: 16 };
    let ev = client.evaluator(&plan(&client.parameters, &shape).key_set());
    for spike in [1.0, 2.0, 4.0, 16.0, 1000.0] {
        let (rows, others) = spiked_turn(&client, &ev, &shape, spike);
        println!("{spike}: {rows:?}, others 2^{:.1}", others.log2());
        for (found, expected) in rows {
            if expected.abs() <= 1.0 {
                assert!((found - expected).abs() < 2f64.powi(-19), "{spike}: {found} for {expected}");
            } else {
                // 1000 under the largest weight: not what it should be, and far enough beyond 1 for the guard.
                assert!(spike == 1000.0 && (1.6..expected).contains(&found), "{spike}: {found} for {expected}");
            }
        }
        assert!(rows[1].1.abs() <= 1.0 && rows[2].1.abs() <= 1.0 && others < 2f64.powi(-16), "{spike}");
    }
    // From an output of R/2 on the result looks honest: the spike that takes nearly the largest weight there is 3146.
    let (rows, _) = spiked_turn(&client, &ev, &shape, wraps * prime / SPIKED[0]);
    let (found, expected) = rows[0];
    println!("wrapped: {found} for {expected}");
    assert!((expected - wraps).abs() < 1e-3 && found.abs() < 1.0, "{found} for {expected}");
}

/// Integers in the two rows of the matrix below, the same for all channels.
const ALIKE: [f64; 2] = [12_000.0, 180.0];

/// One turn with all inputs `size`: a result of each row, and what it should be.
fn alike_turn(client: &Client, ev: &CkksEvaluator, shape: &MatrixShape, size: f64) -> [(f64, f64); 2] {
    let chain = client.parameters.chain();
    let prime = chain.product_prime.unwrap() as f64;
    let matrix = ev.encode_matrix(shape, &|o, out: &mut [f32]| out.fill((ALIKE[o] / prime) as f32)).unwrap();
    assert_eq!(matrix.gain_log2(), 0);
    let half = shape.tokens / 2;
    let mut values = vec![0.0; chain.slot_count()];
    values[..shape.inputs * half].fill(size);
    let slots = Slots::new(values, chain.slot_count()).unwrap();
    let found = ev.product_bootstrap(&encrypted(client, &[[slots.clone(), slots]], chain.boot_level), &matrix).unwrap();
    let first = client.decrypt(&found[0][0]);
    [0, 1].map(|o| (first[3 + half * o], shape.inputs as f64 * ALIKE[o] / prime * size))
}

/// A result wraps by the sum of all channels: inputs that grow alike take it there at 64 times what makes a result of 1, far
/// below what a lone spike takes. So what enters a turn has to be guarded where it is made.
#[test]
fn inputs_that_all_grow_alike_wrap_as_soon_as_their_sum_does() {
    let client = Client::new(Parameters::insecure_turn_test(LOG_N));
    let prime = client.parameters.chain().product_prime.unwrap() as f64;
    let shape = MatrixShape { outputs: 2, inputs: 64, tokens: 16 };
    let ev = client.evaluator(&plan(&client.parameters, &shape).key_set());
    let wraps = 64.0 * prime / (ALIKE[0] * shape.inputs as f64);
    assert!((65.0..66.0).contains(&wraps));
    for size in [1.0, 4.0, 32.0, wraps, 1.5 * wraps] {
        let rows = alike_turn(&client, &ev, &shape, size);
        println!("{size}: {rows:?}");
        for (found, expected) in rows {
            let right = (found - expected).abs() < 2f64.powi(-16);
            // The sine bends slowly just above 1.
            assert!(right || expected > 1.0, "{size}: {found} for {expected}");
            assert!(!right || expected < 2.0, "{size}: {found} for {expected}");
        }
        let seen = rows[0].0.abs() > 1.2;
        assert_eq!(seen, size != 1.0 && size != wraps, "{size}: {rows:?}");
    }
    // The wrapped result is small: no guard of results can tell it from an honest one.
    let [(found, expected), _] = alike_turn(&client, &ev, &shape, wraps);
    assert!((expected - 64.0).abs() < 1e-9 && found.abs() < 0.25, "{found} for {expected}");
}

#[test]
fn turns_without_their_keys_are_refused() {
    let client = Client::new(Parameters::insecure_turn_test(LOG_N));
    let shape = MatrixShape { outputs: 3, inputs: 4, tokens: 16 };
    let cost = plan(&client.parameters, &shape);
    let level = client.parameters.chain().boot_level;
    let pairs = encrypted(&client, &inputs(&client.parameters, &shape), level);
    let refused = |set: &KeySet| {
        let ev = client.evaluator(set);
        ev.product_bootstrap(&pairs, &matrix(&ev, &shape, 0.01).unwrap()).err().unwrap().to_string()
    };
    // Keys for another number of tokens do not serve.
    let mut others = cost.key_set();
    others.product_tokens = [32].into();
    let sentence = refused(&others);
    assert!(sentence.starts_with("the matrix product (for 16 tokens) key is missing at level 1;"), "{sentence}");
    let sentence = refused(&KeySet { product_tokens: [16].into(), ..KeySet::default() });
    // Two groups of stages end at level 1.
    assert!(sentence.starts_with("the rotation by 1 key is missing at level 3;"), "{sentence}");
}

#[test]
fn sets_without_a_product_prime_have_no_turns() {
    let client = Client::new(Parameters::insecure_test(LOG_N));
    let ev = client.evaluator(&KeySet::default());
    let refused = matrix(&ev, &MatrixShape { outputs: 3, inputs: 4, tokens: 16 }, 0.01).err().unwrap().to_string();
    assert!(refused.contains("the chain has no product prime"), "{refused}");
}
