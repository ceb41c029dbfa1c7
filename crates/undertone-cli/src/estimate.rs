//! Seconds and bytes from counts: how `plan` turns what the cost evaluator counted into what a person waits for.

use crate::error::Result;
use std::time::Instant;
use undertone_he::{Counts, LevelCounts, Parameters};
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

/// Times of kernels, in forward transforms of a limb: the profile of a bootstrap on machine A (docs/performance.md).
mod kernels {
    /// Inverse transform with the scaling of a conversion.
    pub const INVERSE: f64 = 1.7;
    /// Conversion of one digit to one limb.
    pub const LIFT: f64 = 1.4;
    /// One digit times both halves of a key, one of them made from its seed.
    pub const KEY_DIGIT: f64 = 0.84;
    /// Moving one limb by an automorphism.
    pub const PERMUTE: f64 = 0.35;
    /// One pass of multiplying a limb by a constant, with or without a sum.
    pub const PASS: f64 = 0.5;
    /// One limb of a tensor product.
    pub const TENSOR: f64 = 2.1;
    /// A product with a diagonal of a bootstrap, which is encoded beforehand, in all limbs.
    pub const ENCODED_PRODUCT: f64 = 8.4;
    /// One weight of a product between bootstraps with 128 tokens, ring switches and packing included: 2.8 s of one core for
    /// 4096 × 4096 of them.
    pub const MATRIX_WEIGHT: f64 = 1.5e-3;
    /// One slot of a diagonal: making it, and its share of the Fourier transform that encodes two diagonals.
    pub const ENCODE_SLOT: f64 = 2e-4;
    /// One slot of a diagonal in one prime: its share of reductions and of a transform for two.
    pub const ENCODE_RESIDUE: f64 = 0.6;
}

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
    let levels = counts.by_level.iter().enumerate();
    let encodings: u64 = counts.by_level.iter().map(|level| level.encodings).sum();
    let beforehand = counts.plaintext_products.saturating_sub(encodings);
    let transforms = levels.map(|(level, counts)| transforms(parameters, level, counts)).sum::<f64>()
        + beforehand as f64 * kernels::ENCODED_PRODUCT
        + counts.matrix_weights as f64 * kernels::MATRIX_WEIGHT;
    REST * transforms * machine.ntt_ms / 1e3 / (machine.threads as f64).powf(THREAD_EXPONENT)
}

/// The time of what happened at one level, in transforms of a limb.
fn transforms(parameters: &Parameters, level: usize, counts: &LevelCounts) -> f64 {
    use kernels::{ENCODE_RESIDUE, ENCODE_SLOT, INVERSE, KEY_DIGIT, LIFT, PASS, PERMUTE, TENSOR};
    let (basis, digits) = (parameters.key_basis(level), parameters.digits(level).len() as f64);
    let (q, p) = (basis.q as f64, basis.p as f64);
    let (extended, slots) = (q + p, (1u64 << parameters.chain().log_n) as f64 / 2.0);
    // Every digit is converted to all limbs but its own and transformed there.
    let decomposition = q * INVERSE + (digits * extended - q) * (1.0 + LIFT);
    let key_switch = extended * (digits * KEY_DIGIT + 2.0 * PERMUTE) + q * PASS;
    // The special limbs are one digit more, somewhat larger than the others.
    let division = p * INVERSE + q * (1.0 + 1.2 * LIFT + PASS);
    let rescale = 2.0 * (INVERSE + q * (1.0 + PASS));
    let times = |count: u64, each: f64| count as f64 * each;
    times(counts.decompositions, decomposition)
        + times(counts.key_switches, key_switch)
        + times(counts.divisions, division)
        + times(counts.products, q * TENSOR)
        + times(counts.rescales, rescale)
        + times(counts.encodings, 2.0 * q * PASS)
        + times(counts.encoded_slots, ENCODE_SLOT + ENCODE_RESIDUE * q / slots)
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
