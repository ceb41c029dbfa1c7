//! The transform of one limb, in place.

use super::backend::backend;
use super::{Figures, Measuring, Times};
use crate::context::Context;
use crate::error::Result;
use undertone_ring::{Basis, Modulus, NttTable, Ring, Seed, expand_uniform, ntt_primes_near};

const LOG_N: u32 = 16;
const PRIME_BITS: u32 = 50;

/// Runs the benchmark.
pub fn run(measuring: Measuring, context: &Context) -> Result<()> {
    let target = (1 << PRIME_BITS) - (1 << (LOG_N + 6));
    let prime = ntt_primes_near(LOG_N, target, 1, &[])?[0];
    let table = NttTable::new(Modulus::new(prime)?, LOG_N)?;
    let backend = backend(measuring.backend)?;
    // A polynomial of a ring, because its memory is aligned as that of all work is.
    let ring = Ring::new(LOG_N, &[prime], &[], backend.clone())?;
    let mut poly = expand_uniform(&ring, &Seed([1; 32]), 0, Basis { q: 1, p: 0 });
    let times = Times::measure(context, "ntt", measuring.run_count(1000), || {
        backend.ntt(&table, std::hint::black_box(poly.limb_mut(0)));
        Ok(())
    })?;
    let log_qp = (prime as f64).log2();
    let figures = Figures { name: "ntt", log_n: LOG_N, limbs: 1, log_qp, threads: 1, times: &times };
    let mut object = figures.object();
    object.insert("backend".into(), backend.name().into());
    context.result(&object.into(), || format!("{} ({})", figures.line(), backend.name()));
    Ok(())
}
