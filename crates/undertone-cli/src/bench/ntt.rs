//! The transform of one limb, in place.

use super::{Figures, Measuring, Times};
use crate::context::Context;
use crate::error::Result;
use undertone_ring::{Modulus, NttTable, detect_backend, ntt_primes_near};

const LOG_N: u32 = 16;
const PRIME_BITS: u32 = 50;

/// Runs the benchmark.
pub fn run(measuring: Measuring, context: &Context) -> Result<()> {
    let target = (1 << PRIME_BITS) - (1 << (LOG_N + 6));
    let prime = ntt_primes_near(LOG_N, target, 1, &[])?[0];
    let table = NttTable::new(Modulus::new(prime)?, LOG_N)?;
    let backend = detect_backend();
    let mut data: Vec<u64> = (0..1u64 << LOG_N).map(|i| i * 0x9e37_79b9 % prime).collect();
    let times = Times::measure(context, "ntt", measuring.run_count(1000), || {
        backend.ntt(&table, std::hint::black_box(&mut data));
        Ok(())
    })?;
    let log_qp = (prime as f64).log2();
    let figures = Figures { name: "ntt", log_n: LOG_N, limbs: 1, log_qp, threads: 1, times: &times };
    let mut object = figures.object();
    object.insert("backend".into(), backend.name().into());
    context.result(&object.into(), || format!("{} ({})", figures.line(), backend.name()));
    Ok(())
}
