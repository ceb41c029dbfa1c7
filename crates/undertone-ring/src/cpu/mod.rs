//! CPU kernels: one file per instruction set with the same list of functions, and the run-time choice among them.
//!
//! This folder is the only place of the crate with `unsafe`: SIMD intrinsics behind checked constructors, and the
//! aligned buffers that they want.

mod aligned;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx2_chacha;
#[cfg(target_arch = "x86_64")]
mod avx2_fourier;
#[cfg(target_arch = "x86_64")]
mod avx2_lane;
#[cfg(target_arch = "x86_64")]
mod avx2_map;
#[cfg(target_arch = "x86_64")]
mod avx2_matrix;
#[cfg(target_arch = "x86_64")]
mod avx2_ntt;
#[cfg(target_arch = "x86_64")]
mod avx2_ntt_forward;
#[cfg(target_arch = "x86_64")]
mod avx2_ntt_inverse;
#[cfg(target_arch = "x86_64")]
mod avx2_packed;
#[cfg(target_arch = "x86_64")]
mod avx2_sums;
#[cfg(target_arch = "x86_64")]
mod avx2_words;
#[cfg(target_arch = "x86_64")]
mod avx512_chacha;
#[cfg(target_arch = "x86_64")]
mod avx512_fourier;
#[cfg(target_arch = "x86_64")]
mod avx512_words;
#[cfg(target_arch = "x86_64")]
mod avx512ifma;
#[cfg(target_arch = "x86_64")]
mod avx512ifma_lane;
#[cfg(target_arch = "x86_64")]
mod avx512ifma_matrix;
#[cfg(target_arch = "x86_64")]
mod avx512ifma_ntt;
#[cfg(target_arch = "x86_64")]
mod avx512ifma_ntt_forward;
#[cfg(target_arch = "x86_64")]
mod avx512ifma_ntt_inverse;
#[cfg(target_arch = "x86_64")]
mod avx512ifma_packed;
#[cfg(target_arch = "x86_64")]
mod avx512ifma_sums;
mod fourier;
mod pages;
mod scalar;
mod scalar_ntt;
mod scalar_words;

use std::sync::Arc;

use crate::{Backend, MATRIX_LANES, WordKernels};

pub(crate) use aligned::{Buffer, BufferPool};

/// The fastest backend that this processor supports.
pub fn detect_backend() -> Arc<dyn Backend> {
    avx512ifma_backend().or_else(avx2_backend).unwrap_or_else(scalar_backend)
}

/// Plain Rust kernels: the reference that the others must equal.
pub fn scalar_backend() -> Arc<dyn Backend> {
    Arc::new(scalar::Scalar)
}

/// Kernels with 52-bit AVX-512 multiply-add; `None` when the processor lacks them.
pub fn avx512ifma_backend() -> Option<Arc<dyn Backend>> {
    #[cfg(target_arch = "x86_64")]
    if let Some(backend) = avx512ifma::Avx512Ifma::detect() {
        return Some(Arc::new(backend));
    }
    None
}

/// Kernels with 256-bit fused multiply-add; `None` when the processor lacks them.
pub fn avx2_backend() -> Option<Arc<dyn Backend>> {
    #[cfg(target_arch = "x86_64")]
    if let Some(backend) = avx2::Avx2::detect() {
        return Some(Arc::new(backend));
    }
    None
}

/// The sizes of one [`Backend::matrix_product`].
#[derive(Clone, Copy)]
struct MatrixShape {
    rows: usize,
    columns: usize,
}

impl MatrixShape {
    /// The sizes that follow from the operands.
    ///
    /// # Panics
    /// When they do not fit each other, or there are more than 2^20 terms.
    fn of(out: &[u64], left: &[u64], right: &[u64], inner: usize, shared: bool) -> Self {
        assert!((1..=1 << 20).contains(&inner), "a matrix product of {inner} terms");
        let entry = if shared { 1 } else { MATRIX_LANES };
        let (rows, columns) = (left.len() / (inner * entry), right.len() / (inner * MATRIX_LANES));
        assert!(left.len() == rows * inner * entry, "{} words are no rows of {inner} entries", left.len());
        assert!(right.len() == columns * inner * MATRIX_LANES, "{} words are no columns of {inner}", right.len());
        assert!(out.len() == rows * columns * MATRIX_LANES, "{} words for {rows} x {columns} entries", out.len());
        Self { rows, columns }
    }
}

/// The fastest kernels over Z_2^64 that this processor supports.
pub fn detect_word_kernels() -> Arc<dyn WordKernels> {
    avx512_word_kernels().or_else(avx2_word_kernels).unwrap_or_else(scalar_word_kernels)
}

/// Plain Rust kernels over Z_2^64: the reference that the others must equal.
pub fn scalar_word_kernels() -> Arc<dyn WordKernels> {
    Arc::new(scalar_words::ScalarWords)
}

/// Kernels over Z_2^64 with 16-bit AVX-512 multiply-add; `None` when the processor lacks it.
pub fn avx512_word_kernels() -> Option<Arc<dyn WordKernels>> {
    #[cfg(target_arch = "x86_64")]
    if let Some(kernels) = avx512_words::Avx512Words::detect() {
        return Some(Arc::new(kernels));
    }
    None
}

/// Kernels over Z_2^64 with 16-bit AVX2 multiply-add; `None` when the processor lacks it.
pub fn avx2_word_kernels() -> Option<Arc<dyn WordKernels>> {
    #[cfg(target_arch = "x86_64")]
    if let Some(kernels) = avx2_words::Avx2Words::detect() {
        return Some(Arc::new(kernels));
    }
    None
}
