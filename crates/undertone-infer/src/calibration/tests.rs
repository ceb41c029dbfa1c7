use super::*;
use undertone_model::synthetic::small_config;

fn interval(low: f64, high: f64) -> Interval {
    Interval { low, high }
}

fn sample() -> Calibration {
    let norm = NormCalibration { mean_square: interval(0.1, 2.0), degree: 31 };
    let softmax = SoftmaxCalibration {
        rounds: 2,
        shift: vec![3.5, 0.1 + 0.2],
        half_span: 5.5,
        exp_degree: 15,
        sums: vec![interval(0.5, 20.0), interval(0.01, 1.1)],
        inverse_degree: vec![15, 63],
        newton_steps: 0,
    };
    let layer = LayerCalibration {
        attention_norm: norm,
        mlp_norm: norm,
        query_bound: 9.0,
        key_bound: 8.0,
        value_bound: 3.0,
        softmax,
        attention_bound: 2.5,
        gate_bound: 11.0,
        up_bound: 7.0,
        silu_degree: 63,
        product_bound: 30.0,
    };
    Calibration {
        version: VERSION,
        model_fingerprint: hex(&[7; 32]),
        corpus_hash: hex(&[1; 32]),
        prompts: 3,
        tokens: 400,
        held_out_escapes: 0,
        first_scan_escapes: Some(2),
        margin: 1.25,
        preparation: Preparation::default(),
        residual_bound: vec![4.0, 6.0, 8.0],
        layers: vec![layer],
        final_norm: interval(0.5, 40.0),
        logit_bound: 25.0,
    }
}

#[test]
fn json_keeps_every_bit() {
    let calibration = sample();
    assert_eq!(Calibration::from_json(&calibration.to_json(), "test").unwrap(), calibration);
}

#[test]
fn files_are_found_in_directories_and_missing_ones_are_named() {
    let dir = std::env::temp_dir().join(format!("undertone-calibration-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let missing = Calibration::load(&dir).unwrap_err();
    assert!(matches!(&missing, Error::CalibrationMissing { file } if file.ends_with(FILE_NAME)));
    sample().save(&dir).unwrap();
    assert_eq!(Calibration::load(&dir).unwrap(), sample());
    assert_eq!(Calibration::load(&dir.join(FILE_NAME)).unwrap(), sample());
    let mut other = sample();
    other.margin = 1.5;
    other.save(&dir).unwrap();
    assert_eq!(Calibration::load(&dir).unwrap(), other);
    assert_eq!(std::fs::read_dir(&dir).unwrap().count(), 1, "no temporary file stays");
    assert!(matches!(other.save(&dir.join("missing").join(FILE_NAME)), Err(Error::CalibrationFile { .. })));
    std::fs::remove_dir_all(&dir).unwrap();
}

#[test]
fn files_without_the_first_scan_are_read() {
    let text = String::from_utf8(sample().to_json()).unwrap();
    let older = text.replace("\"first_scan_escapes\": 2,", "");
    assert_ne!(older, text);
    let expected = Calibration { first_scan_escapes: None, ..sample() };
    assert_eq!(Calibration::from_json(older.as_bytes(), "test").unwrap(), expected);
}

#[test]
fn a_preparation_is_kept_checked_and_absent_where_there_is_none() {
    let plain = String::from_utf8(sample().to_json()).unwrap();
    assert!(!plain.contains("preparation"), "files without one stay what they were");
    let preparation = Preparation { prefix: vec![1, 2], rotation_seed: Some(u64::MAX) };
    let mut prepared = Calibration { preparation, ..sample() };
    assert_eq!(Calibration::from_json(&prepared.to_json(), "test").unwrap(), prepared);
    let mut config = undertone_model::LlamaConfig { num_hidden_layers: 1, num_attention_heads: 2, ..small_config() };
    assert!(prepared.check_shape(&config).is_ok());
    config.vocab_size = 2;
    assert!(prepared.check_shape(&config).is_err());
    prepared.preparation.prefix = vec![1; MAX_PREFIX + 1];
    assert!(matches!(Calibration::from_json(&prepared.to_json(), "test"), Err(Error::CalibrationRange { .. })));
}

#[test]
fn other_models_are_refused() {
    let calibration = sample();
    assert!(calibration.check_fingerprint(&[7; 32]).is_ok());
    let error = calibration.check_fingerprint(&[8; 32]).unwrap_err();
    assert!(matches!(error, Error::CalibrationForOtherModel { .. }), "{error}");
    let mut config = small_config();
    let error = calibration.check_shape(&config).unwrap_err();
    assert!(matches!(error, Error::Calibration { what: "layers", have: 1, need: 2 }), "{error}");
    config.num_hidden_layers = 1;
    let error = calibration.check_shape(&config).unwrap_err();
    assert!(matches!(error, Error::Calibration { what: "heads", have: 2, need: 4 }), "{error}");
    config.num_attention_heads = 2;
    assert!(calibration.check_shape(&config).is_ok());
}

#[test]
fn nonsense_is_refused() {
    let refused = |change: &dyn Fn(&mut Calibration)| {
        let mut calibration = sample();
        change(&mut calibration);
        let error = Calibration::from_json(&calibration.to_json(), "test").unwrap_err();
        assert!(matches!(error, Error::CalibrationRange { .. } | Error::CalibrationFile { .. }), "{error}");
    };
    refused(&|c| c.version = 2);
    refused(&|c| c.held_out_escapes = 1);
    refused(&|c| c.layers[0].query_bound = 1e200);
    refused(&|c| c.layers[0].softmax.half_span = 1e-200);
    refused(&|c| c.layers[0].softmax.sums[1] = interval(1e-9, 20.0));
    refused(&|c| c.layers[0].attention_norm.mean_square = interval(1.0, 1.0 + 1e-12));
    refused(&|c| c.final_norm = interval(1e-300, 2e-300));
    refused(&|c| c.margin = 0.0);
    refused(&|c| c.logit_bound = f64::NAN);
    refused(&|c| c.residual_bound[1] = -1.0);
    refused(&|c| c.final_norm = interval(2.0, 1.0));
    refused(&|c| c.layers[0].gate_bound = f64::INFINITY);
    refused(&|c| c.layers[0].mlp_norm.mean_square.low = 0.0);
    refused(&|c| c.layers[0].mlp_norm.degree = 100_000);
    refused(&|c| c.layers[0].softmax.rounds = 3);
    refused(&|c| c.layers[0].softmax.rounds = 7);
    refused(&|c| c.layers[0].softmax.inverse_degree = vec![15]);
    refused(&|c| c.layers[0].softmax.sums[0].high = 0.2);
    let mut text = String::from_utf8(sample().to_json()).unwrap();
    text.insert_str(1, "\"surprise\": 1,");
    assert!(matches!(Calibration::from_json(text.as_bytes(), "test"), Err(Error::CalibrationFile { .. })));
    assert!(matches!(Calibration::from_json(b"{", "test"), Err(Error::CalibrationFile { .. })));
    let large = vec![b' '; (MAX_FILE_BYTES + 1) as usize];
    assert!(matches!(Calibration::from_json(&large, "test"), Err(Error::CalibrationFile { .. })));
}
