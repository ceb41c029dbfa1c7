//! Seconds and bytes from counts: how `plan` turns what the cost evaluator counted into what a person waits for.

use crate::error::Result;
use std::time::Instant;
use undertone_he::{Counts, Parameters};
use undertone_ring::{Basis, Modulus, NttTable, Ring, Seed, detect_backend, expand_uniform, ntt_primes_near};
use undertone_server::SystemMemory;

/// Time of a whole run over that of its key switches' transforms alone: base conversion, inner products, products
/// between key switches and memory traffic.
///
/// Measured with `undertone demo` (293 public, 79 private tokens) on two idle threads: 40 s for the prompt and 28 s for
/// each further token where the transforms, of 0.10 ms each, account for 12 s and 9.2 s.
const KEY_SWITCH_RATIO: f64 = 3.1;
/// Transforms that one encoded diagonal costs: its FFT, a few limbs, and the product.
const PLAINTEXT_TRANSFORMS: f64 = 8.0;
/// Speed-up by threads is their number to this power, because key switching streams keys from memory.
const THREAD_EXPONENT: f64 = 0.8;

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

/// Seconds of the counted operations on this machine.
pub fn step_seconds(parameters: &Parameters, machine: &Machine, counts: &Counts) -> f64 {
    let mut transforms = counts.plaintext_products as f64 * PLAINTEXT_TRANSFORMS;
    for (level, &count) in counts.key_switches_by_level.iter().enumerate() {
        transforms += count as f64 * key_switch_transforms(parameters, level) * KEY_SWITCH_RATIO;
    }
    transforms * machine.ntt_ms / 1e3 / (machine.threads as f64).powf(THREAD_EXPONENT)
}

/// Transforms of one key switch: limbs down, digits up into the extended basis, both halves back.
fn key_switch_transforms(parameters: &Parameters, level: usize) -> f64 {
    let basis = parameters.key_basis(level);
    let extended = basis.q + basis.p;
    (basis.q + parameters.digits(level).len() * extended + 2 * extended) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

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

    #[test]
    fn more_key_switches_take_longer_and_higher_ones_more_so() {
        let parameters = Parameters::default_preset();
        let machine = Machine { ntt_ms: 0.2, threads: 1, memory: None };
        let seconds = |level, count| {
            let mut counts = Counts::default();
            counts.key_switch(level, count);
            step_seconds(&parameters, &machine, &counts)
        };
        assert!(seconds(20, 10) > 9.9 * seconds(20, 1));
        assert!(seconds(20, 1) > seconds(4, 1));
    }
}
