use super::*;
use crate::conformance;

fn chain() -> Chain {
    Chain { log_n: 8, top_level: 12, boot_level: 3, max_level: 20, product_prime: None }
}

fn encrypt(ev: &ClearEvaluator, values: Vec<f64>) -> ClearValue {
    ev.encrypt(&Slots::new(values, 128).unwrap(), 5)
}

#[test]
fn conforms() {
    let ev = ClearEvaluator::new(chain());
    conformance::run(&ev, |slots, level| ev.encrypt(slots, level), |v| ev.decrypt(v), 1e-12).unwrap();
    let used: Vec<i32> = ev.key_set().rotations.keys().copied().collect();
    assert_eq!(used, conformance::rotations(128));
    let periods: Vec<usize> = ev.key_set().bootstrap_periods.keys().copied().collect();
    assert_eq!(periods, conformance::bootstrap_periods(128));
    assert!(ev.key_set().product_tokens.is_empty());
}

#[test]
fn conforms_with_a_product_prime() {
    let ev = ClearEvaluator::new(product_chain());
    conformance::run(&ev, |slots, level| ev.encrypt(slots, level), |v| ev.decrypt(v), 1e-12).unwrap();
    let tokens: Vec<usize> = ev.key_set().product_tokens.into_iter().collect();
    assert_eq!(tokens, [conformance::product_tokens(128)]);
}

fn product_chain() -> Chain {
    Chain { boot_level: 4, product_prime: Some(786_433), ..chain() }
}

#[test]
fn products_refuse_values_out_of_range_on_either_side() {
    let ev = ClearEvaluator::new(product_chain());
    let shape = MatrixShape { outputs: 3, inputs: 2, tokens: 8 };
    let twice = ev.encode_matrix(&shape, &|o, out| out.fill(o as f32)).unwrap();
    let pair = |value: f64| [encrypt(&ev, vec![value, 0.0]), encrypt(&ev, vec![0.0])];
    assert!(ev.product_bootstrap(&[pair(0.24)], &twice).is_ok());
    let large = |value: f64| ev.product_bootstrap(&[pair(value)], &twice).err();
    assert!(matches!(large(1.01), Some(Error::Range { op: "product_bootstrap", have: 1.01, .. })));
    assert!(matches!(large(-0.26), Some(Error::Range { have, .. }) if (have - 1.04).abs() < 1e-3));
    assert!(matches!(large(f64::NAN), Some(Error::Range { .. })));
    let unchecked = ClearEvaluator::new(product_chain()).without_range_check();
    assert!(unchecked.product_bootstrap(&[pair(0.26)], &twice).is_ok());
}

#[test]
fn the_noise_of_a_product_grows_with_its_gain() {
    let ev = ClearEvaluator::new(Chain { log_n: 13, ..product_chain() }).with_noise(20.0, 7);
    let shape = MatrixShape { outputs: 256, inputs: 256, tokens: 32 };
    let zero = ev.encrypt(&Slots::new(vec![0.0], 4096).unwrap(), 4);
    for (weight, gain) in [(0.02, 1.0), (0.15, 8.0)] {
        let matrix = ev.encode_matrix(&shape, &|_, out| out.fill(weight)).unwrap();
        assert!((matrix.unit() * 786_433.0 - gain).abs() < 1e-12);
        let [low, high] = &ev.product_bootstrap(&[[zero.clone(), zero.clone()]], &matrix).unwrap()[0];
        assert_ne!(low.slots(), high.slots());
        let deviation = (low.slots().iter().map(|v| v * v).sum::<f64>() / 4096.0).sqrt();
        assert!((deviation * 20f64.exp2() / gain - 1.0).abs() < 0.1, "{deviation} at gain {gain}");
    }
}

#[test]
fn bootstraps_refuse_values_out_of_range_or_out_of_period() {
    let ev = ClearEvaluator::new(chain());
    let large = encrypt(&ev, vec![0.0, -1.01]);
    let error = Error::Range { op: "half_bootstrap", have: 1.01, need: 1.0 };
    assert_eq!(ev.half_bootstrap(&large, None, 2).err(), Some(error));
    let broken = encrypt(&ev, vec![f64::NAN, 0.0]);
    assert!(matches!(ev.half_bootstrap(&broken, None, 2), Err(Error::Range { .. })));
    let uneven = encrypt(&ev, vec![0.1, 0.2, 0.1, 0.3]);
    let error = Error::NotPeriodic { op: "half_bootstrap", period: 2 };
    assert_eq!(ev.half_bootstrap(&uneven, None, 2).err(), Some(error));
    assert!(ev.half_bootstrap(&uneven, None, 4).is_ok());
    assert!(matches!(ev.half_bootstrap(&uneven, None, 3), Err(Error::SlotLength { .. })));
}

#[test]
fn the_range_check_can_be_left_out() {
    let ev = ClearEvaluator::new(chain()).without_range_check();
    let (fresh, _) = ev.half_bootstrap(&encrypt(&ev, vec![0.0, -1.5e9]), None, 2).unwrap();
    assert_eq!(ev.decrypt(&fresh)[..2], [0.0, -1.5e9]);
    let uneven = encrypt(&ev, vec![3.0, 2.0, 3.0, 2.1]);
    assert!(matches!(ev.half_bootstrap(&uneven, None, 2), Err(Error::NotPeriodic { .. })));
}

#[test]
fn noise_has_the_size_asked_for_and_keeps_the_period() {
    let ev = ClearEvaluator::new(Chain { log_n: 13, ..chain() }).with_noise(10.0, 7);
    let zero = ev.encrypt(&Slots::new(vec![0.0], 4096).unwrap(), 4);
    let (first, second) = ev.half_bootstrap(&zero, Some(&zero), 2048).unwrap();
    let (first, second) = (first.slots(), second.unwrap().decrypted(&ev));
    assert_eq!(first[..2048], first[2048..]);
    assert_ne!(first, second);
    let deviation = (first.iter().map(|v| v * v).sum::<f64>() / 4096.0).sqrt();
    assert!((deviation * 1024.0 - 1.0).abs() < 0.1, "{deviation}");
    let again = ClearEvaluator::new(Chain { log_n: 13, ..chain() }).with_noise(10.0, 7);
    assert_eq!(again.half_bootstrap(&zero, Some(&zero), 2048).unwrap().1.unwrap().slots(), second);
}

impl ClearValue {
    fn decrypted(&self, ev: &ClearEvaluator) -> Vec<f64> {
        ev.decrypt(self)
    }
}
