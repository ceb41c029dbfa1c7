//! The AVX2 backend, for processors without AVX-512 IFMA; it also needs the fused multiply-add, which came with AVX2.
//!
//! Residues are whole numbers in f64 inside the kernels (`avx2_lane`) and words in memory. Lengths that are not
//! multiples of 4 go to the scalar kernels, which agree bit for bit.

use super::scalar::Scalar;
use super::{
    avx2_chacha, avx2_fourier, avx2_map, avx2_matrix, avx2_ntt_forward, avx2_ntt_inverse, avx2_packed, avx2_sums,
};
use crate::{Backend, FourierTable, LiftTarget, Modulus, NttTable, Packed, Permutation};

/// Proof that the processor has the instructions: only [`Avx2::detect`] makes one.
pub(super) struct Avx2(());

impl Avx2 {
    /// The backend, when this processor supports it.
    pub(super) fn detect() -> Option<Self> {
        (is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma")).then_some(Self(()))
    }
}

/// Kernels take whole vectors; other lengths are rare and small.
pub(super) fn whole(len: usize) -> bool {
    len.is_multiple_of(4)
}

/// Packed residues come in steps of eight.
fn steps(len: usize) -> bool {
    len.is_multiple_of(8)
}

/// Calls a kernel whose features the existence of `self` proves.
macro_rules! kernel {
    ($call:expr) => {
        // SAFETY: `Avx2` exists only where `detect` found every feature that the kernels enable.
        unsafe { $call }
    };
}

/// Calls the kernel of a module for whole vectors, and the scalar method of the same name otherwise.
macro_rules! kernel_or_scalar {
    ($len:expr, $module:ident :: $name:ident ( $($argument:ident),* )) => {
        if whole($len) { kernel!($module::$name($($argument),*)) } else { Scalar.$name($($argument),*) }
    };
}

impl Backend for Avx2 {
    fn name(&self) -> &'static str {
        "avx2"
    }

    fn ntt(&self, table: &NttTable, data: &mut [u64]) {
        kernel!(avx2_ntt_forward::forward(table, data))
    }

    fn intt(&self, table: &NttTable, data: &mut [u64], scale: u64) {
        kernel!(avx2_ntt_inverse::inverse(table, data, scale))
    }

    fn add(&self, q: Modulus, acc: &mut [u64], a: &[u64]) {
        kernel_or_scalar!(acc.len(), avx2_map::add(q, acc, a))
    }

    fn sub(&self, q: Modulus, acc: &mut [u64], a: &[u64]) {
        kernel_or_scalar!(acc.len(), avx2_map::sub(q, acc, a))
    }

    fn neg(&self, q: Modulus, acc: &mut [u64]) {
        kernel_or_scalar!(acc.len(), avx2_map::neg(q, acc))
    }

    fn mul(&self, q: Modulus, out: &mut [u64], a: &[u64], b: &[u64]) {
        kernel_or_scalar!(out.len(), avx2_map::mul(q, out, a, b))
    }

    fn mul_assign(&self, q: Modulus, acc: &mut [u64], a: &[u64]) {
        kernel_or_scalar!(acc.len(), avx2_map::mul_assign(q, acc, a))
    }

    fn mul_add(&self, q: Modulus, acc: &mut [u64], a: &[u64], b: &[u64]) {
        kernel_or_scalar!(acc.len(), avx2_map::mul_add(q, acc, a, b))
    }

    fn mul_scalar(&self, q: Modulus, acc: &mut [u64], c: u64) {
        kernel_or_scalar!(acc.len(), avx2_map::mul_scalar(q, acc, c))
    }

    fn add_scalar(&self, q: Modulus, acc: &mut [u64], c: u64) {
        kernel_or_scalar!(acc.len(), avx2_map::add_scalar(q, acc, c))
    }

    fn mul_scalar_add(&self, q: Modulus, acc: &mut [u64], a: &[u64], c: u64) {
        kernel_or_scalar!(acc.len(), avx2_map::mul_scalar_add(q, acc, a, c))
    }

    fn sub_mul_scalar(&self, q: Modulus, acc: &mut [u64], a: &[u64], c: u64) {
        kernel_or_scalar!(acc.len(), avx2_map::sub_mul_scalar(q, acc, a, c))
    }

    fn permute(&self, out: &mut [u64], a: &[u64], permutation: &Permutation) {
        kernel!(avx2_map::permute(out, a, permutation))
    }

    fn permute_add(&self, q: Modulus, acc: &mut [u64], a: &[u64], permutation: &Permutation) {
        kernel!(avx2_map::permute_add(q, acc, a, permutation))
    }

    fn unpack(&self, out: &mut [u64], packed: Packed<'_>) {
        if !steps(out.len()) {
            return Scalar.unpack(out, packed);
        }
        kernel!(avx2_packed::unpack(out, packed))
    }

    fn inner_product_pair(&self, q: Modulus, out: [&mut [u64]; 2], a: &[&[u64]], b: [&[Packed<'_>]; 2]) {
        if !steps(out[0].len()) {
            return Scalar.inner_product_pair(q, out, a, b);
        }
        kernel!(avx2_sums::inner_product_pair(q, out, a, b))
    }

    fn inner_product_runs(&self, q: Modulus, out: [&mut [u64]; 2], a: &[[&[u64]; 2]], c: &[&[u64]], log_gap: u32) {
        if !steps(out[0].len()) {
            return Scalar.inner_product_runs(q, out, a, c, log_gap);
        }
        kernel!(avx2_sums::inner_product_runs(q, out, a, c, log_gap))
    }

    fn tensor(&self, q: Modulus, out: [&mut [u64]; 3], a: &[[&[u64]; 2]], b: &[[&[u64]; 2]]) {
        kernel_or_scalar!(out[0].len(), avx2_sums::tensor(q, out, a, b))
    }

    fn lift_quotients(&self, out: &mut [u64], y: &[&[u64]], reciprocals: &[f64]) {
        kernel_or_scalar!(out.len(), avx2_sums::lift_quotients(out, y, reciprocals))
    }

    fn lift_combine(&self, y: &[&[u64]], quotients: &[u64], targets: &mut [LiftTarget<'_>]) {
        kernel_or_scalar!(quotients.len(), avx2_sums::lift_combine(y, quotients, targets))
    }

    fn matrix_product(&self, q: Modulus, out: &mut [u64], left: &[u64], right: &[u64], inner: usize, shared: bool) {
        kernel!(avx2_matrix::matrix_product(q, out, left, right, inner, shared))
    }

    fn switch_modulus(&self, from: Modulus, to: Modulus, out: &mut [u64], a: &[u64]) {
        kernel_or_scalar!(out.len(), avx2_map::switch_modulus(from, to, out, a))
    }

    fn mul_runs(&self, q: Modulus, acc: &mut [u64], c: &[u64], log_gap: u32) {
        kernel_or_scalar!(acc.len(), avx2_map::mul_runs(q, acc, c, log_gap))
    }

    fn mul_add_runs(&self, q: Modulus, acc: &mut [u64], a: &[u64], c: &[u64], log_gap: u32) {
        kernel_or_scalar!(acc.len(), avx2_map::mul_add_runs(q, acc, a, c, log_gap))
    }

    fn add_runs(&self, q: Modulus, acc: &mut [u64], c: &[u64], log_gap: u32, subtract: bool) {
        kernel_or_scalar!(acc.len(), avx2_map::add_runs(q, acc, c, log_gap, subtract))
    }

    fn reduce_signed(&self, q: Modulus, out: &mut [u64], a: &[i64]) {
        kernel_or_scalar!(out.len(), avx2_map::reduce_signed(q, out, a))
    }

    fn split_symmetric(&self, q: Modulus, first: &mut [u64], second: &mut [u64], half: u64, quarter: u64) {
        kernel_or_scalar!(first.len() / 2, avx2_map::split_symmetric(q, first, second, half, quarter))
    }

    fn fourier(&self, table: &FourierTable, re: &mut [f64], im: &mut [f64], scratch: &mut [f64]) {
        kernel!(avx2_fourier::fourier(table, re, im, scratch))
    }

    fn chacha8(&self, key: &[u8; 32], nonce: &[u8; 12], first: u32, out: &mut [u64]) {
        let (whole, rest) = out.split_at_mut(out.len() / avx2_chacha::STRIDE * avx2_chacha::STRIDE);
        let word = |bytes: &[u8]| u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
        let key_words = std::array::from_fn(|i| word(&key[4 * i..]));
        let nonce_words = std::array::from_fn(|i| word(&nonce[4 * i..]));
        kernel!(avx2_chacha::chacha8(&key_words, &nonce_words, first, whole));
        if !rest.is_empty() {
            Scalar.chacha8(key, nonce, first + (whole.len() / 8) as u32, rest);
        }
    }

    fn sample_uniform(&self, q: Modulus, out: &mut [u64], words: &[u64]) -> (usize, usize) {
        // Without a compressing store, vectors of four measure no faster than one wide product per word.
        Scalar.sample_uniform(q, out, words)
    }
}
