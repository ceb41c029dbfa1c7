//! Prefix and rotation on a model that has outliers: what is found, what it saves, and that the scan still holds.

use super::*;
use std::sync::Arc;
use undertone_model::synthetic::small_config;
use undertone_model::{Statistics, Synthetic};

const BOS: u32 = 1;
const DELIMITER: u32 = 7;
/// Two delimiters, because a short head tells some distances from zero only with a second one to look at.
const PREFIX: [u32; 3] = [BOS, DELIMITER, DELIMITER];

fn model() -> Llama {
    let config =
        LlamaConfig { hidden_size: 64, intermediate_size: 96, num_hidden_layers: 3, head_dim: 16, ..small_config() };
    Synthetic::new(config, 3, &Statistics::Outliers { delimiters: vec![DELIMITER] }).unwrap().model()
}

/// Prompts with short public parts, so that the first delimiter is often a private token.
fn prompts() -> Vec<Prompt> {
    let mut state = 17u32;
    let tokens: Vec<u32> = (0..2400)
        .map(|i| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            if i % 29 == 11 { DELIMITER } else { 8 + (state >> 16) % 42 }
        })
        .collect();
    windows(&tokens, Some(BOS), WindowOptions { count: 32, public: 16, private: 48, answer: 4 })
}

fn found() -> Vec<PrefixStep> {
    search_prefix(&model(), &prompts(), &[], PrefixOptions::default(), &mut |_| {}).unwrap()
}

fn prepared(prefix: &[u32], rotation_seed: Option<u64>) -> Preparation {
    Preparation { prefix: prefix.to_vec(), rotation_seed }
}

fn calibrated(preparation: &Preparation) -> Result<Calibration, Error> {
    let stored = Arc::new(model());
    let (fingerprint, options) = (stored.fingerprint(), CalibrationOptions::default());
    calibrate_prepared(&preparation.weights(stored), fingerprint, &prompts(), preparation, options, &mut |_| {})
}

#[test]
fn the_search_finds_the_delimiter_and_stops_when_nothing_is_gained() {
    let steps = found();
    assert!(steps[0].prefix == [BOS] && steps[0].kept);
    let last = steps.iter().rfind(|step| step.kept).unwrap();
    assert!(last.prefix[0] == BOS && last.prefix.contains(&DELIMITER), "{steps:?}");
    // Massive rows no longer reach the two mean squares of the last layer and that of the final norm.
    assert!(last.held_out_bits < steps[0].held_out_bits - 3.0 * 100f64.log2(), "{steps:?}");
    assert!(last.prefix.len() == PrefixOptions::default().max_tokens || !steps.last().unwrap().kept);
    for pair in steps.windows(2).filter(|pair| pair[1].kept) {
        assert!(pair[1].fitted_bits < pair[0].fitted_bits && pair[1].held_out_bits < pair[0].held_out_bits);
    }
}

#[test]
fn a_prefix_makes_ranges_that_no_polynomial_covers_usable() {
    let refused = calibrated(&Preparation::default()).unwrap_err();
    assert!(matches!(refused, Error::RangeTooWide { .. }), "{refused}");
    let calibration = calibrated(&prepared(&PREFIX, Some(5))).unwrap();
    assert_eq!((calibration.held_out_escapes, &calibration.preparation.prefix[..]), (0, &PREFIX[..]));
    // The name is that of the model as it is stored.
    calibration.check_model(&model()).unwrap();
    assert!(calibration.check_model(&model().rotated(5)).is_err());
    let plain = corpus_hash(&prompts());
    assert_eq!(calibration.corpus_hash, plain);
}

#[test]
fn the_scan_sees_what_the_preparation_leaves_out() {
    let calibration = calibrated(&prepared(&PREFIX, Some(5))).unwrap();
    let escapes = |preparation: &Preparation, model: &Llama| {
        let prompts = prepared_prompts(&prompts(), preparation, &model.config).unwrap();
        let mut scan = Scan::new(&calibration, &model.config, 100.0);
        prompts.iter().for_each(|prompt| observe(model, prompt, None, &mut scan).unwrap());
        scan.report().0
    };
    let rotated = model().rotated(5);
    assert!(escapes(&calibration.preparation, &rotated).is_empty());
    let without_prefix = escapes(&Preparation::default(), &rotated);
    assert!(without_prefix.iter().any(|e| e.operator == "attention norm" && e.high > 0), "{without_prefix:?}");
    let without_rotation = escapes(&calibration.preparation, &model());
    assert!(without_rotation.iter().any(|e| e.operator == "residual stream"), "{without_rotation:?}");
}

#[test]
fn a_rotation_shrinks_the_stream_and_leaves_scores_and_gates() {
    let seen = |preparation: &Preparation| {
        ranges(&preparation.weights(Arc::new(model())), &prompts(), preparation, &mut |_| {}).unwrap()
    };
    let (before, after) = (seen(&prepared(&PREFIX, None)), seen(&prepared(&PREFIX, Some(5))));
    assert!(after.final_residual < before.final_residual / 1.5, "{} {}", before.final_residual, after.final_residual);
    for (before, after) in before.layers.iter().zip(&after.layers) {
        let equal = |a: f64, b: f64| (a / b - 1.0).abs() < 1e-3;
        assert!(equal(before.gate, after.gate) && equal(before.scores.high, after.scores.high));
        assert!(equal(before.mean_square[1].low, after.mean_square[1].low));
        assert!(after.residual[1] < before.residual[1] / 1.5, "{:?} {:?}", before.residual, after.residual);
    }
}

#[test]
fn a_search_needs_prompts_of_both_kinds() {
    let few = |count| search_prefix(&model(), &prompts()[..count], &[], PrefixOptions::default(), &mut |_| {});
    assert!(matches!(few(0), Err(Error::CalibrationText { .. })));
    assert!(matches!(few(2), Err(Error::CalibrationText { have: 2, .. })));
    assert!(few(4).is_ok());
}

/// The model of the other tests with a context of `positions`.
fn with_context(positions: usize) -> Llama {
    let mut model = model();
    model.config.max_position_embeddings = positions;
    model
}

/// Why a run was refused, and how many progress events came before.
fn refused(run: impl FnOnce(&mut dyn FnMut(CalibrationEvent)) -> Result<(), Error>) -> (Error, usize) {
    let mut events = 0;
    let error = run(&mut |_| events += 1).unwrap_err();
    (error, events)
}

#[test]
fn prompts_that_exceed_the_context_with_the_prefix_are_refused_before_any_pass() {
    let longest = prompts().iter().map(|p| p.public.len() + p.private.len() + p.answer.len()).max().unwrap();
    let (preparation, options) = (prepared(&PREFIX, None), CalibrationOptions::default());
    // BOS of the prompt gives way to that of the prefix.
    let with_prefix = longest + PREFIX.len() - 1;
    let calibrate = |model: &Llama, progress: &mut dyn FnMut(CalibrationEvent)| {
        calibrate_prepared(model, model.fingerprint(), &prompts(), &preparation, options, progress).map(|_| ())
    };
    assert!(calibrate(&with_context(with_prefix), &mut |_| {}).is_ok());
    let (error, events) = refused(|progress| calibrate(&with_context(with_prefix - 1), progress));
    assert!(matches!(&error, Error::CalibrationText { have, .. } if *have == with_prefix), "{error}");
    assert!(events == 0 && error.to_string().contains(&format!("at most {}", with_prefix - 1)), "{events} {error}");
    let (error, events) =
        refused(|progress| ranges(&with_context(longest), &prompts(), &preparation, progress).map(|_| ()));
    assert!(events == 0 && matches!(error, Error::CalibrationText { .. }), "{events} {error}");

    // The longest prefix of a search counts, even where the search would stop before it.
    let search = |model: &Llama, max_tokens: usize, progress: &mut dyn FnMut(CalibrationEvent)| {
        let options = PrefixOptions { max_tokens, candidates: 1, ..PrefixOptions::default() };
        search_prefix(model, &prompts(), &[], options, progress).map(|_| ())
    };
    assert!(search(&with_context(longest + 1), 2, &mut |_| {}).is_ok());
    let (error, events) = refused(|progress| search(&with_context(longest + 1), 3, progress));
    assert!(matches!(&error, Error::CalibrationText { have, .. } if *have == longest + 2), "{error}");
    assert_eq!(events, 0);
    let (error, events) = refused(|progress| search(&model(), usize::MAX, progress));
    assert!(events == 0 && matches!(error, Error::Calibration { what: "prefix tokens", .. }), "{events} {error}");
}
