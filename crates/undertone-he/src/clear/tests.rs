use super::*;
use crate::conformance;

fn chain() -> Chain {
    Chain { log_n: 8, top_level: 12, boot_level: 3, max_level: 20 }
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
