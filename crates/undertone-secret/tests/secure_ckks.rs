//! Secure parameters: one bootstrap at N = 2^16 with its precision, in one serialised binary that shares one key set.

mod support;

use std::time::Instant;

/// User CPU seconds of this process.
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let field = stat.rsplit(") ").next().and_then(|rest| rest.split(' ').nth(11)).and_then(|t| t.parse::<f64>().ok());
    field.unwrap_or(0.0) / 100.0
}
use support::{Client, key_set, sample, worst};
use undertone_he::{Evaluator, Parameters, Slots};

#[test]
#[ignore = "minutes; see docs/performance.md"]
fn full_slot_bootstrap_precision() {
    let client = Client::new(Parameters::default_preset());
    println!(
        "{:?} security {} failure {}",
        client.parameters,
        client.parameters.security_bits(),
        client.parameters.failure_log2()
    );
    let n = client.parameters.chain().slot_count();
    let start = Instant::now();
    let ev = client.evaluator(&key_set(&client.parameters, &[(n, true)], &[]));
    println!("keys {:.1} s", start.elapsed().as_secs_f64());
    let level = client.parameters.chain().boot_level;
    for run in 0..3 {
        let (x, y) = (sample(n, 3 + run), sample(n, 40 + run));
        let lo = client.encrypt(&Slots::new(x.clone(), n).unwrap(), level);
        let hi = client.encrypt(&Slots::new(y.clone(), n).unwrap(), level);
        let (start, cpu) = (Instant::now(), cpu_seconds());
        let (a, b) = ev.half_bootstrap(&lo, Some(&hi), n).unwrap();
        let (seconds, cpu) = (start.elapsed().as_secs_f64(), cpu_seconds() - cpu);
        let error = worst(&client.decrypt(&a), &x).max(worst(&client.decrypt(&b.unwrap()), &y));
        println!("run {run}: {seconds:.2} s, cpu {:.2} s, worst slot 2^{:.2}", cpu, error.log2());
    }
}
