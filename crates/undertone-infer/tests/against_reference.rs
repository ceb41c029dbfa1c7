//! The program over the clear evaluator against the reference forward pass: prefill and decoding, many shapes.

mod session;

use session::{FIT_BITS, Session, chain, config, measure, tokens, top};
use undertone_he::{Chain, ClearEvaluator, CostEvaluator, Evaluator};
use undertone_infer::{Error, Plan, Preparation, Program, Shape};
use undertone_model::reference::{ForwardOptions, forward_observed};
use undertone_model::{Accumulation, KvCache, synthetic};

/// Logits of every step agree with the reference, and so do the counters with the plan.
///
/// Every polynomial errs by at most 2^-18 of its output, which a network whose sublayers have gains of order one passes
/// on; a layer has about six polynomials, so logits err by less than 32 · layers · 2^-18 of their bound.
fn agrees(dims: [usize; 7], public: usize, private: usize, new: usize, rounds: usize, log_n: u32) {
    agrees_on(chain(log_n), dims, [public, private, new], rounds, 32.0 * (-FIT_BITS).exp2());
}

/// [`agrees`] with products between bootstraps, where weights of 15 bits err by 2^-12 in each layer beside.
fn agrees_in_turns(dims: [usize; 7], lengths: [usize; 3], rounds: usize, log_n: u32) {
    let chain = Chain { log_n, top_level: 19, boot_level: 4, max_level: 32, product_prime: Some(786_433) };
    agrees_on(chain, dims, lengths, rounds, (-11f64).exp2());
}

/// Errors of logits stay below `layer_error` of their bound for every layer.
fn agrees_on(chain: Chain, dims: [usize; 7], [public, private, new]: [usize; 3], rounds: usize, layer_error: f64) {
    let model = synthetic(config(dims), 7);
    let ids = tokens(public + private + new, dims[6], 3);
    let calibration = measure(&model, &ids, rounds, 1.05);
    let shape = Shape { public_tokens: public, private_tokens: private, max_new_tokens: new };
    let mut session = Session::on(ClearEvaluator::new(chain), &model, &calibration, shape, &ids[..public]);
    let options = ForwardOptions { accumulation: Accumulation::F64, ..ForwardOptions::default() };
    let expected = forward_observed(&model, &mut KvCache::new(&model.config), &ids, options, &mut ()).unwrap();
    let tolerance = dims[2] as f64 * layer_error * calibration.logit_bound;
    for step in 0..new {
        let at = public + private + step;
        let output = if step == 0 { session.prefill(&ids[public..at]) } else { session.decode(ids[at - 1]) };
        let found = session.read(&output).unwrap();
        let expected = &expected[at - 1];
        assert_eq!(found.len(), expected.len());
        let error = found.iter().zip(expected).map(|(a, b)| f64::from((a - b).abs())).fold(0.0, f64::max);
        println!("step {step}: error {error:.2e}, tolerance {tolerance:.2e}");
        assert!(error <= tolerance, "step {step}: {error} exceeds {tolerance}");
        assert_eq!(top(&found), top(expected), "step {step}");
    }
    let cost = CostEvaluator::new(chain);
    let plan = Plan::new(&model.config, Some(&calibration), shape, &cost).unwrap();
    assert!(!plan.estimate && plan.steps.len() == new);
    assert_eq!(cost.counts(), session.ev.counts());
    assert_eq!(plan.keys, session.ev.key_set());
}

#[test]
fn small_model_with_grouped_heads() {
    agrees([24, 40, 2, 4, 2, 8, 50], 5, 11, 4, 2, 12);
}

#[test]
fn a_prompt_in_turns_and_tokens_after_it() {
    agrees_in_turns([40, 72, 3, 4, 4, 16, 50], [21, 13, 5], 2, 9);
    agrees_in_turns([64, 24, 2, 8, 2, 32, 32], [5, 16, 3], 2, 9);
}

#[test]
fn one_layer_one_head_and_one_private_token() {
    agrees([16, 20, 1, 1, 1, 16, 30], 1, 1, 3, 1, 12);
}

#[test]
fn six_heads_of_width_48_cross_ciphertexts() {
    // Six heads pad to eight, 48 coordinates to 64: 512 channels of 16 rows in 2048 slots are four ciphertexts.
    agrees([96, 172, 2, 6, 3, 48, 70], 9, 13, 3, 2, 12);
}

#[test]
fn hidden_width_288_crosses_ciphertexts() {
    agrees([288, 768, 1, 6, 6, 48, 64], 4, 16, 2, 2, 12);
}

#[test]
fn decoding_fills_the_block_and_opens_another() {
    agrees([24, 40, 2, 4, 2, 8, 50], 20, 14, 6, 2, 12);
}

#[test]
fn the_vocabulary_exceeds_the_slots() {
    agrees([24, 40, 1, 4, 4, 8, 2500], 3, 9, 2, 2, 11);
}

#[test]
fn many_public_positions_and_many_rounds() {
    agrees([24, 40, 2, 4, 2, 8, 50], 150, 21, 3, 4, 12);
}

#[test]
fn more_rounds_than_the_chain_has_levels_for() {
    agrees([24, 40, 2, 4, 2, 8, 50], 12, 21, 2, 6, 12);
}

#[test]
fn the_bundled_shape_at_the_full_ring() {
    agrees([64, 176, 2, 4, 2, 16, 1024], 100, 40, 3, 2, 16);
}

#[test]
fn a_rotated_model_behind_a_prefix_agrees_with_the_stored_one() {
    let dims = [24, 40, 2, 4, 2, 8, 50];
    let model = synthetic(config(dims), 7);
    let rotated = model.clone().rotated(3);
    let ids = tokens(18, dims[6], 3);
    let mut calibration = measure(&rotated, &ids, 2, 1.05);
    calibration.preparation = Preparation { prefix: ids[..3].to_vec(), rotation_seed: Some(3) };
    let shape = Shape { public_tokens: 7, private_tokens: 11, max_new_tokens: 1 };
    let mut session = Session::new(&rotated, &calibration, shape, &ids[..7], 12);
    let output = session.prefill(&ids[7..]);
    let found = session.read(&output).unwrap();
    let options = ForwardOptions { accumulation: Accumulation::F64, ..ForwardOptions::default() };
    let expected = forward_observed(&model, &mut KvCache::new(&model.config), &ids, options, &mut ()).unwrap();
    let error = found.iter().zip(&expected[17]).map(|(a, b)| f64::from((a - b).abs())).fold(0.0, f64::max);
    // As in `agrees`; what rotating the weights rounds off is far below.
    assert!(error <= 64.0 * (-FIT_BITS).exp2() * calibration.logit_bound, "{error}");
    let missing = session.program.public_cache(&rotated, &ids[1..8]).unwrap_err();
    assert!(matches!(missing, Error::PrefixMissing { need: 3 }), "{missing}");
    assert_eq!(session.program.public_cache(&rotated, &ids[..7]).unwrap().len(), 7);
    let short = Shape { public_tokens: 2, ..shape };
    assert!(matches!(Program::new(&rotated.config, &calibration, short, chain(12)), Err(Error::Shape { .. })));
}
