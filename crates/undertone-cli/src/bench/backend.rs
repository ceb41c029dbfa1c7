//! The backend that a benchmark runs on, and what its kernels did.

use crate::context::Context;
use crate::error::{Error, Result};
use clap::ValueEnum;
use std::sync::Arc;
use undertone_he::{Parameters, ParametersLiteral};
use undertone_ring::{Backend, KernelTotals, avx2_backend, avx512ifma_backend, detect_backend, scalar_backend};

/// Backends by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum BackendName {
    /// Plain Rust
    Scalar,
    /// AVX2 and FMA
    Avx2,
    /// AVX-512 with 52-bit multiply-add
    Avx512ifma,
}

/// The named backend, or the fastest that this processor supports.
///
/// # Errors
/// `Usage` when the processor lacks the instructions.
pub fn backend(name: Option<BackendName>) -> Result<Arc<dyn Backend>> {
    let found = match name {
        None => Some(detect_backend()),
        Some(BackendName::Scalar) => Some(scalar_backend()),
        Some(BackendName::Avx2) => avx2_backend(),
        Some(BackendName::Avx512ifma) => avx512ifma_backend(),
    };
    found.ok_or_else(|| Error::Usage("this processor lacks the instructions of --backend; leave the flag out".into()))
}

/// The shipped parameters on a backend.
///
/// # Errors
/// None at shipped parameters.
pub fn parameters(backend: Arc<dyn Backend>) -> Result<Parameters> {
    Ok(Parameters::with_backend(ParametersLiteral::n16_l16_d36(), backend)?)
}

/// What the kernels did, the longest first: JSON for the result, lines for people on standard error.
pub fn profile(mut kernels: Vec<KernelTotals>, context: &Context) -> serde_json::Value {
    kernels.sort_by_key(|kernel| std::cmp::Reverse(kernel.nanoseconds));
    let rows = kernels.iter().map(|kernel| {
        let giga = |count: u64| count as f64 / 1e9;
        let (milliseconds, half_products) = (kernel.nanoseconds as f64 / 1e6, giga(kernel.half_products));
        context.progress.note(&format!(
            "{:<20} {:>9} calls {milliseconds:>9.1} ms {:>8.2} GB {half_products:>8.2} G half products",
            kernel.name,
            kernel.calls,
            giga(kernel.bytes)
        ));
        serde_json::json!({
            "kernel": kernel.name, "calls": kernel.calls, "ms": milliseconds, "gigabytes": giga(kernel.bytes),
            "giga_half_products": half_products,
        })
    });
    rows.collect()
}
