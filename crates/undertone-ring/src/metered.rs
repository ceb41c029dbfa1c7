//! A backend that counts what another one does: calls, time, memory and multiplications per kernel.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Instant;

use crate::{Backend, FourierTable, LiftTarget, Modulus, NttTable, Packed, Permutation};

/// Half products (the low or the high 52 bits of one) that a reduction of a double-length sum takes.
const REDUCTION: u64 = 5;
/// Half products of a multiplication by a constant whose quotient is known.
const BY_CONSTANT: u64 = 3;

/// What one kernel has done so far, over all threads.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct KernelTotals {
    /// The method of [`Backend`].
    pub name: &'static str,
    /// Calls.
    pub calls: u64,
    /// Time inside them, in nanoseconds; the sum over threads.
    pub nanoseconds: u64,
    /// Bytes of operands read and results written, wherever they lie; of a transform also its twiddles.
    pub bytes: u64,
    /// Half products: what IFMA instructions compute, one per lane.
    pub half_products: u64,
}

#[derive(Default)]
struct Counters {
    calls: AtomicU64,
    nanoseconds: AtomicU64,
    bytes: AtomicU64,
    half_products: AtomicU64,
}

macro_rules! metered {
    ($($(#[$doc:meta])* fn $name:ident(&$self:ident, $($argument:ident: $type:ty),*) $(-> $result:ty)?
        { words $words:expr, products $products:expr })*) => {
        #[derive(Default)]
        struct Kernels { $($name: Counters),* }

        impl Kernels {
            fn all(&self) -> Vec<(&'static str, &Counters)> {
                vec![$((stringify!($name), &self.$name)),*]
            }
        }

        impl Backend for Metered {
            fn name(&self) -> &'static str {
                self.inner.name()
            }

            $(fn $name(&$self, $($argument: $type),*) $(-> $result)? {
                let (words, products) = ($words as u64, $products as u64);
                let start = Instant::now();
                let result = $self.inner.$name($($argument),*);
                $self.kernels.$name.add(start, 8 * words, products);
                result
            })*
        }
    };
}

/// A backend with counters; results are those of the backend inside.
pub struct Metered {
    inner: Arc<dyn Backend>,
    kernels: Kernels,
}

impl Metered {
    /// Counters at zero.
    pub fn new(inner: Arc<dyn Backend>) -> Self {
        Self { inner, kernels: Kernels::default() }
    }

    /// What each kernel that was called has done since the last reset.
    pub fn totals(&self) -> Vec<KernelTotals> {
        let totals = self.kernels.all().into_iter().map(|(name, counters)| counters.totals(name));
        totals.filter(|totals| totals.calls > 0).collect()
    }

    /// Starts again from zero.
    pub fn reset(&self) {
        for (_, counters) in self.kernels.all() {
            let all = [&counters.calls, &counters.nanoseconds, &counters.bytes, &counters.half_products];
            all.into_iter().for_each(|counter| counter.store(0, Relaxed));
        }
    }
}

impl Counters {
    fn add(&self, start: Instant, bytes: u64, half_products: u64) {
        self.calls.fetch_add(1, Relaxed);
        self.nanoseconds.fetch_add(start.elapsed().as_nanos() as u64, Relaxed);
        self.bytes.fetch_add(bytes, Relaxed);
        self.half_products.fetch_add(half_products, Relaxed);
    }

    fn totals(&self, name: &'static str) -> KernelTotals {
        let [calls, nanoseconds, bytes, half_products] =
            [&self.calls, &self.nanoseconds, &self.bytes, &self.half_products].map(|counter| counter.load(Relaxed));
        KernelTotals { name, calls, nanoseconds, bytes, half_products }
    }
}

/// Half products of a transform of n values: one multiplication by a constant per butterfly.
fn butterflies(n: usize) -> u64 {
    BY_CONSTANT * (n as u64 / 2) * u64::from(n.trailing_zeros())
}

/// Half products of `outputs` sums of `terms` products each.
fn sums(outputs: usize, terms: usize) -> u64 {
    outputs as u64 * (2 * terms as u64 + REDUCTION)
}

/// Words that packed operands fill.
fn packed_words(operands: &[Packed<'_>]) -> usize {
    operands.iter().map(|operand| operand.bytes().len() / 8).sum()
}

metered! {
    fn ntt(&self, table: &NttTable, data: &mut [u64]) {
        words 4 * data.len(), products butterflies(data.len())
    }
    fn intt(&self, table: &NttTable, data: &mut [u64], scale: u64) {
        words 4 * data.len(), products butterflies(data.len())
    }
    fn intt_of(&self, table: &NttTable, out: &mut [u64], a: &[u64], scale: u64) {
        words 4 * out.len(), products butterflies(out.len())
    }
    fn add(&self, q: Modulus, acc: &mut [u64], a: &[u64]) { words 3 * a.len(), products 0 }
    fn sub(&self, q: Modulus, acc: &mut [u64], a: &[u64]) { words 3 * a.len(), products 0 }
    fn neg(&self, q: Modulus, acc: &mut [u64]) { words 2 * acc.len(), products 0 }
    fn mul(&self, q: Modulus, out: &mut [u64], a: &[u64], b: &[u64]) {
        words 3 * a.len(), products sums(a.len(), 1)
    }
    fn mul_assign(&self, q: Modulus, acc: &mut [u64], a: &[u64]) { words 3 * a.len(), products sums(a.len(), 1) }
    fn mul_add(&self, q: Modulus, acc: &mut [u64], a: &[u64], b: &[u64]) {
        words 4 * a.len(), products sums(a.len(), 1)
    }
    fn mul_scalar(&self, q: Modulus, acc: &mut [u64], c: u64) {
        words 2 * acc.len(), products BY_CONSTANT * acc.len() as u64
    }
    fn add_scalar(&self, q: Modulus, acc: &mut [u64], c: u64) { words 2 * acc.len(), products 0 }
    fn mul_scalar_add(&self, q: Modulus, acc: &mut [u64], a: &[u64], c: u64) {
        words 3 * a.len(), products BY_CONSTANT * a.len() as u64
    }
    fn sub_mul_scalar(&self, q: Modulus, acc: &mut [u64], a: &[u64], c: u64) {
        words 3 * a.len(), products BY_CONSTANT * a.len() as u64
    }
    fn permute(&self, out: &mut [u64], a: &[u64], permutation: &Permutation) { words 2 * a.len(), products 0 }
    fn permute_add(&self, q: Modulus, acc: &mut [u64], a: &[u64], permutation: &Permutation) {
        words 3 * a.len(), products 0
    }
    fn unpack(&self, out: &mut [u64], packed: Packed<'_>) {
        words out.len() + packed_words(&[packed]), products 0
    }
    fn inner_product_pair(&self, q: Modulus, out: [&mut [u64]; 2], a: &[&[u64]], b: [&[Packed<'_>]; 2]) {
        words out[0].len() * (a.len() + 2) + packed_words(b[0]) + packed_words(b[1]),
        products 2 * sums(out[0].len(), a.len())
    }
    fn inner_product_runs(&self, q: Modulus, out: [&mut [u64]; 2], a: &[[&[u64]; 2]], c: &[&[u64]], log_gap: u32) {
        words out[0].len() * (2 * a.len() + 2) + c.iter().map(|c| c.len()).sum::<usize>(),
        products 2 * sums(out[0].len(), a.len())
    }
    fn tensor(&self, q: Modulus, out: [&mut [u64]; 3], a: &[[&[u64]; 2]], b: &[[&[u64]; 2]]) {
        words out[0].len() * (4 * a.len() + 3),
        products 2 * sums(out[0].len(), a.len()) + sums(out[0].len(), 2 * a.len())
    }
    fn lift_quotients(&self, out: &mut [u64], y: &[&[u64]], reciprocals: &[f64]) {
        words out.len() * (y.len() + 1), products 0
    }
    fn lift_combine(&self, y: &[&[u64]], quotients: &[u64], targets: &mut [LiftTarget<'_>]) {
        words quotients.len() * (y.len() + 1 + targets.len()),
        products targets.len() as u64 * sums(quotients.len(), y.len() + 1)
    }
    fn matrix_product(&self, q: Modulus, out: &mut [u64], left: &[u64], right: &[u64], inner: usize, shared: bool) {
        words out.len() + left.len() + right.len(), products sums(out.len(), inner)
    }
    fn switch_modulus(&self, from: Modulus, to: Modulus, out: &mut [u64], a: &[u64]) {
        words 2 * a.len(), products 2 * a.len() as u64
    }
    fn mul_runs(&self, q: Modulus, acc: &mut [u64], c: &[u64], log_gap: u32) {
        words 2 * acc.len() + c.len(), products sums(acc.len(), 1)
    }
    fn mul_add_runs(&self, q: Modulus, acc: &mut [u64], a: &[u64], c: &[u64], log_gap: u32) {
        words 3 * acc.len() + c.len(), products sums(acc.len(), 1)
    }
    fn add_runs(&self, q: Modulus, acc: &mut [u64], c: &[u64], log_gap: u32, subtract: bool) {
        words 2 * acc.len() + c.len(), products 0
    }
    fn reduce_signed(&self, q: Modulus, out: &mut [u64], a: &[i64]) { words 2 * a.len(), products 2 * a.len() as u64 }
    fn split_symmetric(&self, q: Modulus, first: &mut [u64], second: &mut [u64], half: u64, quarter: u64) {
        words 3 * first.len(), products BY_CONSTANT * first.len() as u64
    }
    fn fourier(&self, table: &FourierTable, re: &mut [f64], im: &mut [f64], scratch: &mut [f64]) {
        words 6 * scratch.len(), products 0
    }
    fn chacha8(&self, key: &[u8; 32], nonce: &[u8; 12], first: u32, out: &mut [u64]) {
        words out.len(), products 0
    }
    fn sample_uniform(&self, q: Modulus, out: &mut [u64], words: &[u64]) -> (usize, usize) {
        words 2 * words.len(), products 2 * words.len() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scalar_backend;

    #[test]
    fn counts_calls_and_keeps_results() {
        let metered = Metered::new(scalar_backend());
        let q = Modulus::new(65537).unwrap();
        let mut acc = vec![5; 16];
        metered.add(q, &mut acc, &[65535; 16]);
        metered.mul_scalar(q, &mut acc, 7);
        assert_eq!(acc, [21; 16]);
        let totals = metered.totals();
        assert_eq!(
            totals.iter().map(|t| (t.name, t.calls, t.bytes, t.half_products)).collect::<Vec<_>>(),
            [("add", 1, 3 * 16 * 8, 0), ("mul_scalar", 1, 2 * 16 * 8, 3 * 16)]
        );
        metered.reset();
        assert!(metered.totals().is_empty());
    }
}
