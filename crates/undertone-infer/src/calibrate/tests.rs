use super::*;
use crate::approximation;
use crate::calibration::Interval;
use undertone_model::synthetic::{small_config, synthetic};

/// Tokens of a vocabulary of 50, from a linear congruence.
fn text(seed: u64, len: usize) -> Vec<u32> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as u32 % 50
    };
    (0..len).map(|_| next()).collect()
}

fn prompts(count: usize) -> Vec<Prompt> {
    windows(&text(3, 3000), Some(1), WindowOptions { count, public: 24, private: 64, answer: 4 })
}

fn calibrated(options: CalibrationOptions, count: usize) -> (Llama, Calibration, Vec<CalibrationEvent>) {
    let model = synthetic(small_config(), 11);
    let mut events = Vec::new();
    let calibration = calibrate(&model, &prompts(count), options, &mut |e| events.push(e)).unwrap();
    (model, calibration, events)
}

#[test]
fn a_calibration_holds_on_its_prompts_and_reaches_the_target() {
    let options = CalibrationOptions::default();
    let (model, calibration, events) = calibrated(options, 24);
    calibration.check_model(&model).unwrap();
    assert_eq!(Calibration::from_json(&calibration.to_json(), "test").unwrap(), calibration);
    assert_eq!((calibration.held_out_escapes, calibration.prompts), (0, 24));
    let Some(CalibrationEvent::Scanned { escapes, softmax_bits, .. }) = events.last() else {
        panic!("the last event is a scan")
    };
    assert!(escapes.is_empty());
    println!("attention weights are exact to {softmax_bits:.1} bits");
    // The exponential and the last inverse err by 2^-bits each at most.
    assert!(*softmax_bits > options.target_bits - 1.0, "{softmax_bits}");
    for layer in &calibration.layers {
        for norm in [layer.attention_norm, layer.mlp_norm] {
            assert!(approximation::inverse_square_root(norm.mean_square, norm.degree).bits() >= 12.5);
        }
        let softmax = &layer.softmax;
        let (last, degree) = (softmax.sums.last().unwrap(), softmax.inverse_degree.last().unwrap());
        assert!(approximation::inverse(*last, *degree).bits() >= 12.5);
    }
}

#[test]
fn bounds_are_those_of_a_direct_run_times_the_margin() {
    struct Largest(Vec<(usize, Site, f64)>);
    impl Observer for Largest {
        fn record(&mut self, layer: usize, site: Site, values: &[f32], _: SiteShape) {
            self.0.push((layer, site, extremes::largest(values)));
        }
    }
    let options = CalibrationOptions { held_out_fraction: 0.0, margin: 1.5, ..CalibrationOptions::default() };
    let (model, calibration, _) = calibrated(options, 4);
    let mut seen = Largest(Vec::new());
    for prompt in prompts(4) {
        let mut cache = KvCache::new(&model.config);
        reference::forward(&model, &mut cache, &prompt.public).unwrap();
        for part in [&prompt.private, &prompt.answer] {
            let options = ForwardOptions::default();
            reference::forward_observed(&model, &mut cache, part, options, &mut seen).unwrap();
        }
    }
    let largest = |layer, site| {
        let values = seen.0.iter().filter(|s| (s.0, s.1) == (layer, site)).map(|s| s.2);
        values.fold(0.0, f64::max)
    };
    let close = |have: f64, want: f64| assert!((have / want - 1.5).abs() < 1e-5, "{have} {want}");
    for (index, layer) in calibration.layers.iter().enumerate() {
        close(layer.gate_bound, largest(index, Site::Gate));
        close(layer.product_bound, largest(index, Site::Product));
        close(layer.value_bound, largest(index, Site::Value));
        // A rotary pair is at least as long as its longer coordinate and at most √2 times that.
        let ratio = layer.query_bound / largest(index, Site::QueryRope) / 1.5;
        assert!((1.0..1.4143).contains(&ratio), "{ratio}");
    }
}

#[test]
fn escaping_prompts_are_learned() {
    // Without any margin some held-out prompt exceeds what the others show.
    let options = CalibrationOptions { margin: 1.0, held_out_fraction: 0.5, ..CalibrationOptions::default() };
    let (_, calibration, events) = calibrated(options, 12);
    let scans: Vec<usize> = events
        .iter()
        .filter_map(|e| match e {
            CalibrationEvent::Scanned { held_out, .. } => Some(*held_out),
            CalibrationEvent::Prompts { .. } => None,
        })
        .collect();
    assert!(scans[0] > 0, "{scans:?}");
    assert_eq!(calibration.first_scan_escapes, Some(scans[0]));
    assert_eq!((scans.last(), calibration.held_out_escapes), (Some(&0), 0));
}

#[test]
fn a_scan_notices_ranges_that_are_too_narrow() {
    let (model, calibration, _) = calibrated(CalibrationOptions::default(), 8);
    let escapes = |change: &dyn Fn(&mut Calibration)| {
        let mut narrowed = calibration.clone();
        change(&mut narrowed);
        let mut scan = Scan::new(&narrowed, &model.config, 100.0);
        prompts(8).iter().for_each(|prompt| observe(&model, prompt, None, &mut scan).unwrap());
        scan.report().0
    };
    assert!(escapes(&|_| {}).is_empty());
    let found = escapes(&|c| c.layers[1].mlp_norm.mean_square.low *= 10.0);
    assert!(found.len() == 1 && found[0].operator == "feed-forward norm" && found[0].low > 0, "{found:?}");
    let found = escapes(&|c| c.layers[0].gate_bound /= 10.0);
    assert!(found.len() == 1 && found[0].operator == "gate" && found[0].high > 0, "{found:?}");
    let found = escapes(&|c| c.layers[0].softmax.shift[2] -= 5.0);
    assert!(found.iter().any(|e| e.operator == "score" && e.high > 0), "{found:?}");
    let found = escapes(&|c| c.final_norm = Interval { low: 1e-4, high: 2e-4 });
    assert!(found.iter().any(|e| e.operator == "final norm" && e.layer == 2), "{found:?}");
}

#[test]
fn unusable_text_and_options_are_refused() {
    let model = synthetic(small_config(), 11);
    let refused = |prompts: &[Prompt], options| {
        let error = calibrate(&model, prompts, options, &mut |_| {}).unwrap_err();
        assert!(matches!(error, Error::CalibrationText { .. }), "{error}");
    };
    let options = CalibrationOptions::default();
    refused(&[], options);
    refused(&prompts(1), options);
    refused(&prompts(8), CalibrationOptions { margin: 0.5, ..options });
    refused(&prompts(8), CalibrationOptions { held_out_fraction: f64::NAN, ..options });
    let mut bad = prompts(8);
    bad[3].public.clear();
    refused(&bad, options);
    bad[3] = Prompt { private: vec![2; 129], ..prompts(8)[3].clone() };
    refused(&bad, options);
    bad[3].private = vec![50];
    let error = calibrate(&model, &bad, options, &mut |_| {}).unwrap_err();
    assert!(matches!(error, Error::Model(_)), "{error}");
}

#[test]
fn windows_cover_the_text_with_varied_lengths() {
    let tokens: Vec<u32> = (0..1000).collect();
    let options = WindowOptions { count: 10, public: 64, private: 500, answer: 5 };
    let cut = windows(&tokens, Some(7777), options);
    assert_eq!(cut.len(), 10);
    for prompt in &cut {
        assert!(prompt.public[0] == 7777 && prompt.public.len() <= 64);
        assert!((1..=MAX_PRIVATE).contains(&prompt.private.len()) && prompt.answer.len() == 5);
        let joined = [&prompt.public[1..], &prompt.private, &prompt.answer].concat();
        assert!(joined.windows(2).all(|w| w[1] == w[0] + 1), "windows are contiguous");
    }
    assert_eq!(cut[0].public[1], 0);
    assert_eq!(cut[9].answer[4], 999);
    assert!(windows(&tokens[..10], Some(1), options).is_empty());
    assert!(!windows(&tokens, None, options)[0].public.contains(&7777));
}
