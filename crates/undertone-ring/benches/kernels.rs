//! Kernels of every backend that this processor supports, side by side, on limbs of 2^16 residues and one thread.
//!
//! `cargo bench -p undertone-ring --bench kernels -- ntt` runs those whose name contains `ntt`.

use std::hint::black_box;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion};
use undertone_ring::*;

const LOG_N: u32 = 16;
const N: usize = 1 << LOG_N;
/// Terms of an inner product: digits of a key switch.
const DIGITS: usize = 4;
/// Bits of a packed residue of a key.
const KEY_BITS: u32 = 50;
/// Limbs of one digit of a key switch, and limbs that it is lifted to.
const LIFT_FROM: usize = 10;
const LIFT_TO: usize = 20;

/// The backends to compare; a new one is one more line.
fn backends() -> Vec<Arc<dyn Backend>> {
    let mut all = vec![scalar_backend()];
    all.extend(avx2_backend());
    all.extend(avx512ifma_backend());
    all
}

/// Residues that start at a cache line, as those of a ring's polynomials do.
struct Limb {
    words: Vec<u64>,
    start: usize,
    len: usize,
}

impl Limb {
    /// `len` residues modulo `q`, different for every `seed`.
    fn new(q: Modulus, len: usize, seed: u64) -> Self {
        let words: Vec<u64> = (0..len as u64 + 8).map(|i| q.reduce(mix(seed << 32 | i))).collect();
        let start = words.as_ptr().align_offset(64);
        Self { words, start, len }
    }
}

impl Deref for Limb {
    type Target = [u64];

    fn deref(&self) -> &[u64] {
        &self.words[self.start..self.start + self.len]
    }
}

impl DerefMut for Limb {
    fn deref_mut(&mut self) -> &mut [u64] {
        &mut self.words[self.start..self.start + self.len]
    }
}

/// The finaliser of SplitMix64.
fn mix(state: u64) -> u64 {
    let x = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

fn limbs(q: Modulus, count: usize, seed: u64) -> Vec<Limb> {
    (0..count as u64).map(|i| Limb::new(q, N, seed + i)).collect()
}

fn slices(limbs: &[Limb]) -> Vec<&[u64]> {
    limbs.iter().map(Deref::deref).collect()
}

/// As many packed residues as each slice has words; its bits will do, because any are a residue as far as time goes.
fn packed<'a>(words: &[&'a [u64]]) -> Vec<Packed<'a>> {
    let bytes = |words: &'a [u64]| &bytemuck::cast_slice(words)[..words.len() / 8 * KEY_BITS as usize];
    words.iter().map(|words| Packed::new(bytes(words), KEY_BITS)).collect()
}

/// Primes next to 2^bits for degree 2^16.
fn moduli(bits: u32, count: usize) -> Vec<Modulus> {
    let target = (1 << bits) - (1 << (LOG_N + 6));
    let primes = ntt_primes_near(LOG_N, target, count, &[]).expect("primes exist at these sizes");
    primes.into_iter().map(|prime| Modulus::new(prime).expect("a prime below 2^50")).collect()
}

fn modulus(bits: u32) -> Modulus {
    moduli(bits, 1)[0]
}

/// One kernel under every backend.
fn compare(criterion: &mut Criterion, name: &str, mut work: impl FnMut(&dyn Backend)) {
    let mut group = criterion.benchmark_group(name);
    for backend in backends() {
        group.bench_function(BenchmarkId::from_parameter(backend.name()), |bencher| bencher.iter(|| work(&*backend)));
    }
    group.finish();
}

fn transforms(criterion: &mut Criterion) {
    for bits in [50, 36] {
        let q = modulus(bits);
        let table = NttTable::new(q, LOG_N).expect("an NTT prime");
        let mut data = Limb::new(q, N, 1);
        compare(criterion, &format!("ntt/{bits}-bit/2^16"), |b| b.ntt(&table, black_box(&mut data)));
        compare(criterion, &format!("intt/{bits}-bit/2^16"), |b| b.intt(&table, black_box(&mut data), 1));
    }
    let q = modulus(50);
    for log_n in [15, 14, 13, 12, 7] {
        let table = NttTable::new(q, log_n).expect("an NTT prime");
        let mut data = Limb::new(q, 1 << log_n, 1);
        compare(criterion, &format!("ntt/50-bit/2^{log_n}"), |b| b.ntt(&table, black_box(&mut data)));
    }
}

fn products(criterion: &mut Criterion) {
    let q = modulus(50);
    let (a, b, mut out) = (Limb::new(q, N, 1), Limb::new(q, N, 2), Limb::new(q, N, 3));
    let c = q.reduce(mix(4));
    compare(criterion, "mul", |k| k.mul(q, black_box(&mut out), &a, &b));
    compare(criterion, "mul_add", |k| k.mul_add(q, black_box(&mut out), &a, &b));
    compare(criterion, "mul_scalar_add", |k| k.mul_scalar_add(q, black_box(&mut out), &a, c));
}

fn sums(criterion: &mut Criterion) {
    let q = modulus(50);
    let (a, b0, b1) = (limbs(q, DIGITS, 10), limbs(q, DIGITS, 20), limbs(q, DIGITS, 30));
    let (a, b0, b1) = (slices(&a), slices(&b0), slices(&b1));
    let (keys_0, keys_1) = (packed(&b0), packed(&b1));
    let (mut low, mut mid, mut high) = (Limb::new(q, N, 1), Limb::new(q, N, 2), Limb::new(q, N, 3));
    compare(criterion, "inner_product_pair/4 terms", |k| {
        k.inner_product_pair(q, [black_box(&mut low), &mut mid], &a, [&keys_0, &keys_1]);
    });
    let (left, right) = ([[a[0], a[1]]], [[b0[0], b0[1]]]);
    compare(criterion, "tensor/1 pair", |k| {
        k.tensor(q, [black_box(&mut low), &mut mid, &mut high], &left, &right);
    });
}

fn base_conversion(criterion: &mut Criterion) {
    let all = moduli(50, LIFT_FROM + LIFT_TO);
    let (from, to) = all.split_at(LIFT_FROM);
    let sources: Vec<Limb> = from.iter().zip(100..).map(|(&q, seed)| Limb::new(q, N, seed)).collect();
    let y = slices(&sources);
    let quotients: Vec<u64> = (0..N as u64).map(|i| mix(i) % (LIFT_FROM as u64 + 1)).collect();
    let weights: Vec<Limb> = to.iter().zip(200..).map(|(&q, seed)| Limb::new(q, LIFT_FROM, seed)).collect();
    let mut outputs: Vec<Limb> = to.iter().map(|&q| Limb::new(q, N, 0)).collect();
    let mut targets = Vec::with_capacity(LIFT_TO);
    for ((&q, weights), out) in to.iter().zip(&weights).zip(&mut outputs) {
        targets.push(LiftTarget { q, weights, correction: q.reduce(mix(q.value())), out });
    }
    compare(criterion, "lift_combine/10 terms, 20 targets", |k| {
        k.lift_combine(&y, &quotients, black_box(&mut targets));
    });
}

/// The two shapes of a plaintext matrix product: short polynomials point by point, and one row of weights for all tokens.
fn matrices(criterion: &mut Criterion) {
    for bits in [50, 20] {
        let q = ntt_primes_near(LOG_N, 1 << bits, 2, &[]).expect("primes exist at these sizes")[1];
        let q = Modulus::new(q).expect("a prime below 2^50");
        for (shared, rows, columns, inner) in [(false, 16, 128, 64), (true, 64, 16, 4096)] {
            let lanes = if shared { 1 } else { MATRIX_LANES };
            let (left, right) =
                (Limb::new(q, rows * inner * lanes, 1), Limb::new(q, columns * inner * MATRIX_LANES, 2));
            let mut out = Limb::new(q, rows * columns * MATRIX_LANES, 3);
            let kind = if shared { "shared" } else { "lanes" };
            let mega = rows * columns * inner * MATRIX_LANES / 1_000_000;
            compare(criterion, &format!("matrix_product/{kind}, {bits}-bit, {mega} M terms"), |k| {
                k.matrix_product(q, black_box(&mut out), &left, &right, inner, shared);
            });
        }
    }
}

fn permutation(criterion: &mut Criterion) {
    let q = modulus(50);
    let ring = Ring::new(LOG_N, &[q.value()], &[], scalar_backend()).expect("an NTT prime");
    // The Galois element of a rotation by one slot.
    let permutation = ring.permutation(5);
    let (a, mut out) = (Limb::new(q, N, 1), Limb::new(q, N, 2));
    compare(criterion, "permute", |k| k.permute(black_box(&mut out), &a, &permutation));
}

/// What encodes slots, besides transforms of residues.
fn encoding(criterion: &mut Criterion) {
    let table = FourierTable::new(LOG_N - 1);
    let source: Vec<f64> = (0..N as u64 / 2).map(|i| mix(i) as f64).collect();
    let (mut re, mut im, mut scratch) = (source.clone(), source.clone(), vec![0.0; table.scratch_len()]);
    compare(criterion, "fourier/2^15 and two copies", |k| {
        // Without them the values would grow without bound.
        re.copy_from_slice(&source);
        im.copy_from_slice(&source);
        k.fourier(&table, black_box(&mut re), &mut im, &mut scratch);
    });
    let q = modulus(50);
    let (mut first, mut second) = (Limb::new(q, N, 1), Limb::new(q, N, 2));
    compare(criterion, "split_symmetric", |k| k.split_symmetric(q, black_box(&mut first), &mut second, 3, 5));
    let signed: Vec<i64> = (0..N as u64).map(|i| mix(i) as i64 >> 20).collect();
    compare(criterion, "reduce_signed", |k| k.reduce_signed(q, black_box(&mut first), &signed));
}

fn keystream(criterion: &mut Criterion) {
    let mut out = Limb::new(modulus(50), N, 1);
    compare(criterion, "chacha8/512 KiB", |k| k.chacha8(&[7; 32], &[1; 12], 0, black_box(&mut out)));
}

fn main() {
    let short = Criterion::default().sample_size(15).measurement_time(Duration::from_secs(2));
    let mut criterion = short.warm_up_time(Duration::from_millis(500)).without_plots().configure_from_args();
    transforms(&mut criterion);
    products(&mut criterion);
    sums(&mut criterion);
    base_conversion(&mut criterion);
    matrices(&mut criterion);
    permutation(&mut criterion);
    encoding(&mut criterion);
    keystream(&mut criterion);
    criterion.final_summary();
}
