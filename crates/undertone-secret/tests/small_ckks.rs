//! The whole scheme at small insecure degrees: operations, bootstrapping at several periods, conformance, counters.

mod support;

use support::{Client, key_set, sample, worst};
use undertone_he::{CkksEvaluator, Evaluator, Parameters, Slots, bootstrap_model};

const LOG_N: u32 = 11;

#[test]
fn encryption_and_single_operations() {
    let client = Client::new(Parameters::insecure_test(LOG_N));
    let n = client.parameters.chain().slot_count();
    let ev = client.evaluator(&key_set(&client.parameters, &[], &[1, -3, 8]));
    let (x, y) = (sample(n, 1), sample(n, 2));
    let slots = |v: &[f64]| Slots::new(v.to_vec(), n).unwrap();
    let top = client.parameters.chain().top_level;
    let (a, b) = (client.encrypt(&slots(&x), top), client.encrypt(&slots(&y), top - 3));
    assert!(worst(&client.decrypt(&a), &x) < 1e-6);
    let product: Vec<f64> = x.iter().zip(&y).map(|(p, q)| p * q).collect();
    let seen = ev.mul(&a, &b).unwrap();
    assert_eq!(seen.level(), top - 4);
    assert!(worst(&client.decrypt(&seen), &product) < 1e-6);
    let rotated: Vec<f64> = (0..n).map(|i| x[(i + n - 3) % n]).collect();
    assert!(worst(&client.decrypt(&ev.rotate(&a, -3).unwrap()), &rotated) < 1e-6);
    let lowered = ev.drop_level(&a, 2, 0.5).unwrap();
    let halves: Vec<f64> = x.iter().map(|v| v / 2.0).collect();
    assert!(worst(&client.decrypt(&lowered), &halves) < 1e-6);
}

fn bootstrap_error(client: &Client, ev: &CkksEvaluator, period: usize) -> (f64, f64) {
    let n = client.parameters.chain().slot_count();
    let level = client.parameters.chain().boot_level;
    let (x, y) = (sample(period, 3), sample(period, 4));
    let lo = client.encrypt(&Slots::new(x.clone(), n).unwrap(), level);
    let hi = client.encrypt(&Slots::new(y.clone(), n).unwrap(), level);
    let (a, b) = ev.half_bootstrap(&lo, Some(&hi), period).unwrap();
    assert_eq!(a.level(), client.parameters.chain().top_level);
    (worst(&client.decrypt(&a), &x), worst(&client.decrypt(&b.unwrap()), &y))
}

#[test]
fn bootstraps_pairs_and_single_values_at_every_kind_of_period() {
    let client = Client::new(Parameters::insecure_test(LOG_N));
    let n = client.parameters.chain().slot_count();
    let model = bootstrap_model(&client.parameters);
    for period in [2, 8, 32, 64, n / 2, n] {
        let ev = client.evaluator(&key_set(&client.parameters, &[(period, true)], &[]));
        let (low, high) = bootstrap_error(&client, &ev, period);
        assert!(low < 2f64.powi(-14) && high < 2f64.powi(-14), "period {period}: {low:e} {high:e}");
        assert_eq!(ev.counts(), model(period, true).unwrap().counts(), "period {period}");
    }
}

#[test]
fn the_conformance_suite_holds_under_encryption() {
    let client = Client::new(Parameters::insecure_test(LOG_N));
    let n = client.parameters.chain().slot_count();
    let periods: Vec<_> = undertone_he::conformance::bootstrap_periods(n).into_iter().map(|p| (p, true)).collect();
    let ev = client.evaluator(&key_set(&client.parameters, &periods, &undertone_he::conformance::rotations(n)));
    undertone_he::conformance::run(&ev, |s, level| client.encrypt(s, level), |v| client.decrypt(v), 1e-4).unwrap();
}
