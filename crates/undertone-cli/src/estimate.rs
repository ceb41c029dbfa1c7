//! Seconds and bytes from counts: how `plan` turns what the cost evaluator counted into what a person waits for.

use crate::error::Result;
use std::time::Instant;
use undertone_he::{Counts, Parameters, work};
use undertone_ring::{Basis, Modulus, NttTable, Ring, Seed, detect_backend, expand_uniform, ntt_primes_near};
use undertone_server::SystemMemory;

/// Time of a step over that of the kernels counted here: sums, copies, lowered values, and waiting for memory.
///
/// Measured on machine A: 4.9 s for a bootstrap of all slots on one thread, keys as seeds, where the kernels take 4.3 s, and
/// 37 s for the prompt and 24.5 s per token of the demo on two threads where they take 27 s and 22 s.
const REST: f64 = 1.2;
/// Speed-up by threads is their number to this power, because key switching streams keys from memory: 4.92 s for the same
/// bootstrap on one thread and 2.77 s on two.
const THREAD_EXPONENT: f64 = 0.83;

/// What matters of the machine that plans.
pub struct Machine {
    /// Median of a short transform benchmark.
    pub ntt_ms: f64,
    /// Cores.
    pub threads: usize,
    /// Memory, where the system says.
    pub memory: Option<SystemMemory>,
}

impl Machine {
    /// Measures a transform for some milliseconds.
    ///
    /// # Errors
    /// None on a supported ring degree.
    pub fn measure() -> Result<Self> {
        const LOG_N: u32 = 16;
        let prime = ntt_primes_near(LOG_N, (1 << 50) - (1 << 22), 1, &[])?[0];
        let table = NttTable::new(Modulus::new(prime)?, LOG_N)?;
        let backend = detect_backend();
        // A polynomial of a ring, because its memory is aligned as that of all work is.
        let ring = Ring::new(LOG_N, &[prime], &[], backend.clone())?;
        let mut poly = expand_uniform(&ring, &Seed([1; 32]), 0, Basis { q: 1, p: 0 });
        let mut times: Vec<f64> = (0..32)
            .map(|_| {
                let start = Instant::now();
                backend.ntt(&table, std::hint::black_box(poly.limb_mut(0)));
                start.elapsed().as_secs_f64() * 1e3
            })
            .collect();
        times.sort_by(f64::total_cmp);
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        Ok(Self { ntt_ms: times[times.len() / 2], threads, memory: SystemMemory::read() })
    }

    /// Whether the job is worth starting here: "fits", "just run it locally" or "use permuted".
    ///
    /// "fits" means that a server started here now, beside a client that also holds the weights, admits a session of
    /// `session_bytes`, and that the job ends within `patience_seconds`.
    pub fn verdict(&self, session_bytes: u64, weight_bytes: u64, seconds: f64, patience_seconds: f64) -> &'static str {
        let both_weights = weight_bytes.saturating_mul(2);
        let admitted = self.memory.is_none_or(|memory| session_bytes <= memory.for_sessions(both_weights));
        if admitted && seconds <= patience_seconds {
            "fits"
        } else if self.memory.is_none_or(|memory| weight_bytes <= memory.total_bytes / 2) {
            // The weights fit this machine, so the model can run here without any server.
            "just run it locally"
        } else {
            "use permuted"
        }
    }
}

/// Seconds of the counted operations on this machine, keys held as seeds.
pub fn step_seconds(parameters: &Parameters, machine: &Machine, counts: &Counts) -> f64 {
    let seconds = work(parameters, counts) * machine.ntt_ms / 1e3;
    REST * seconds / (machine.threads as f64).powf(THREAD_EXPONENT)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;
    use undertone_he::{CostEvaluator, bootstrap_model};
    use undertone_infer::{Calibration, Plan, Shape};
    use undertone_model::LlamaConfig;

    #[test]
    fn verdicts_follow_memory_and_time() {
        let memory = Some(SystemMemory { total_bytes: 16 << 30, available_bytes: 10 << 30 });
        let machine = Machine { ntt_ms: 0.2, threads: 2, memory };
        assert_eq!(machine.verdict(9 << 30, 0, 100.0, 3600.0), "fits");
        assert_eq!(machine.verdict((9 << 30) + 1, 0, 100.0, 3600.0), "just run it locally");
        // Both halves hold the weights before the server looks at what is left.
        assert_eq!(machine.verdict(7 << 30, 1 << 30, 100.0, 3600.0), "fits");
        assert_eq!(machine.verdict(8 << 30, 1 << 30, 100.0, 3600.0), "just run it locally");
        assert_eq!(machine.verdict(8 << 30, 0, 1e6, 3600.0), "just run it locally");
        assert_eq!(machine.verdict(8 << 30, 12 << 30, 1e6, 3600.0), "use permuted");
        let unknown = Machine { memory: None, ..machine };
        assert_eq!(unknown.verdict(1 << 50, 1 << 50, 100.0, 3600.0), "fits");
    }

    /// Times of docs/performance.md on machine A, whose transform takes 0.107 ms.
    #[test]
    fn bootstraps_take_what_was_measured() {
        let parameters = Parameters::default_preset();
        let model = bootstrap_model(&parameters);
        let slots = parameters.chain().slot_count();
        let seconds = |threads, period, pair| {
            let machine = Machine { ntt_ms: 0.107, threads, memory: None };
            step_seconds(&parameters, &machine, &model(period, pair).unwrap().counts())
        };
        let measured = [
            (1, slots, true, 4.921),
            (2, slots, true, 2.767),
            (2, 1024, true, 1.984),
            (2, 64, true, 1.894),
            (2, 64, false, 1.725),
        ];
        for (threads, period, pair, need) in measured {
            let ratio = seconds(threads, period, pair) / need;
            assert!((0.85..1.15).contains(&ratio), "{threads} threads, period {period}: {ratio}");
        }
    }

    #[test]
    fn the_demo_takes_what_was_measured() {
        let parameters = Parameters::default_preset();
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/tiny");
        let (config, calibration) = (LlamaConfig::from_dir(&folder).unwrap(), Calibration::load(&folder).unwrap());
        let shape = Shape { public_tokens: 293, private_tokens: 79, max_new_tokens: 2 };
        let ev = CostEvaluator::new(parameters.chain()).with_bootstrap_model(bootstrap_model(&parameters));
        let plan = Plan::new(&config, Some(&calibration), shape, &ev).unwrap();
        let machine = Machine { ntt_ms: 0.107, threads: 2, memory: None };
        for (step, need) in plan.steps.iter().zip([37.0, 24.5]) {
            let ratio = step_seconds(&parameters, &machine, &step.counts) / need;
            assert!((0.8..1.25).contains(&ratio), "{ratio} of {need} s");
        }
    }
}
