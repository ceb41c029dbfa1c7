//! AVX2 kernels that go once over their operands, entry by entry.

use std::arch::x86_64::*;

use super::avx2::whole;
use super::avx2_lane::{Lanes, V, load, numbers, raised, splat, splat_words, store};
use crate::{Modulus, Permutation};

/// acc[k] = f(acc[k], a[k], b[k]) over whole vectors of words; operands not needed are left out.
macro_rules! map {
    ($acc:ident $(, $a:ident)*; $f:expr) => {{
        $(assert!($a.len() == $acc.len());)*
        assert!(whole($acc.len()));
        for k in (0..$acc.len()).step_by(4) {
            // SAFETY: k + 4 is at most the common length, a multiple of 4.
            unsafe {
                let value = $f(load($acc.as_ptr().add(k)) $(, load($a.as_ptr().add(k)))*);
                store($acc.as_mut_ptr().add(k), value);
            }
        }
    }};
}

#[target_feature(enable = "avx2,fma")]
pub(super) fn add(q: Modulus, acc: &mut [u64], a: &[u64]) {
    let m = Lanes::new(q);
    map!(acc, a; |x, a| m.add(x, a));
}

#[target_feature(enable = "avx2,fma")]
pub(super) fn sub(q: Modulus, acc: &mut [u64], a: &[u64]) {
    let m = Lanes::new(q);
    map!(acc, a; |x, a| m.sub(x, a));
}

#[target_feature(enable = "avx2,fma")]
pub(super) fn neg(q: Modulus, acc: &mut [u64]) {
    let m = Lanes::new(q);
    map!(acc; |x| m.sub(_mm256_setzero_si256(), x));
}

#[target_feature(enable = "avx2,fma")]
pub(super) fn mul(q: Modulus, out: &mut [u64], a: &[u64], b: &[u64]) {
    let m = Lanes::new(q);
    map!(out, a, b; |_, a, b| m.mul(numbers(a), numbers(b)));
}

#[target_feature(enable = "avx2,fma")]
pub(super) fn mul_assign(q: Modulus, acc: &mut [u64], a: &[u64]) {
    let m = Lanes::new(q);
    map!(acc, a; |x, a| m.mul(numbers(x), numbers(a)));
}

#[target_feature(enable = "avx2,fma")]
pub(super) fn mul_add(q: Modulus, acc: &mut [u64], a: &[u64], b: &[u64]) {
    let m = Lanes::new(q);
    map!(acc, a, b; |x, a, b| m.reduce_raised(_mm256_add_pd(raised(x), m.mul_lazy(numbers(a), numbers(b)))));
}

#[target_feature(enable = "avx2,fma")]
pub(super) fn mul_scalar(q: Modulus, acc: &mut [u64], c: u64) {
    let (m, c) = (Lanes::new(q), splat(c as f64));
    map!(acc; |x| m.mul(numbers(x), c));
}

#[target_feature(enable = "avx2,fma")]
pub(super) fn add_scalar(q: Modulus, acc: &mut [u64], c: u64) {
    let (m, c) = (Lanes::new(q), splat_words(c));
    map!(acc; |x| m.add(x, c));
}

#[target_feature(enable = "avx2,fma")]
pub(super) fn mul_scalar_add(q: Modulus, acc: &mut [u64], a: &[u64], c: u64) {
    let (m, c) = (Lanes::new(q), splat(c as f64));
    map!(acc, a; |x, a| m.reduce_raised(_mm256_add_pd(raised(x), m.mul_lazy(numbers(a), c))));
}

#[target_feature(enable = "avx2,fma")]
pub(super) fn sub_mul_scalar(q: Modulus, acc: &mut [u64], a: &[u64], c: u64) {
    let (m, c) = (Lanes::new(q), splat(c as f64));
    map!(acc, a; |x, a| m.mul(_mm256_sub_pd(raised(x), raised(a)), c));
}

/// acc[k] = f(acc[k], a[source of k]) over whole vectors.
///
/// The sources of half a block of eight lie in half a block (their upper lane bit is the lowest bit of an offset that
/// [`Permutation`] multiplies by an odd number), so every output vector is a shuffle of one input vector.
macro_rules! permuted {
    ($out:ident, $a:ident, $permutation:ident; $f:expr) => {{
        assert!($out.len() == $permutation.degree() && $a.len() == $permutation.degree());
        let rows = $permutation.lanes().map(|row| halves(&row));
        for (block, &packed) in $permutation.blocks().iter().enumerate() {
            let from = (packed >> 3) as usize * 8;
            for (half, (start, order)) in rows[(packed & 7) as usize].iter().enumerate() {
                // SAFETY: a permutation of degree N holds N/8 source blocks, each below N/8, and `start` is 0 or 4.
                unsafe {
                    let source = load($a.as_ptr().add(from + start));
                    let to = $out.as_mut_ptr().add(8 * block + 4 * half);
                    store(to, $f(load(to), _mm256_permutevar8x32_epi32(source, *order)));
                }
            }
        }
    }};
}

/// For each half of a row of eight sources: the half that it reads, and its order in units of 32 bits.
#[target_feature(enable = "avx2,fma")]
fn halves(row: &[u64; 8]) -> [(usize, V); 2] {
    [0, 4].map(|half| {
        let start = row[half] as usize & 4;
        assert!((0..4).all(|i| row[half + i] as usize & 4 == start));
        let lane = |i: usize| ((row[half + i] as i64 & 3) * 2) * 0x1_0000_0001 + 0x1_0000_0000;
        (start, _mm256_setr_epi64x(lane(0), lane(1), lane(2), lane(3)))
    })
}

#[target_feature(enable = "avx2,fma")]
pub(super) fn permute(out: &mut [u64], a: &[u64], permutation: &Permutation) {
    permuted!(out, a, permutation; |_, a| a);
}

#[target_feature(enable = "avx2,fma")]
pub(super) fn permute_add(q: Modulus, acc: &mut [u64], a: &[u64], permutation: &Permutation) {
    let m = Lanes::new(q);
    permuted!(acc, a, permutation; |x, a| m.add(x, a));
}

/// The values of runs of 2^log_gap entries at entry k: a vector of c, two of its values twice, or one value.
///
/// # Safety
/// `c` covers entry k + 3; k is a multiple of 4.
#[inline]
#[target_feature(enable = "avx2,fma")]
pub(super) unsafe fn runs(c: &[u64], k: usize, log_gap: u32) -> V {
    // SAFETY: by the contract of this function.
    unsafe {
        let p = c.as_ptr().add(k >> log_gap);
        match log_gap {
            0 => load(p),
            1 => _mm256_permute4x64_epi64::<0x50>(_mm256_castsi128_si256(_mm_loadu_si128(p.cast()))),
            _ => splat_words(*p),
        }
    }
}

/// acc[k] = f(acc[k], c[k >> log_gap], a[k]) over whole vectors.
macro_rules! map_runs {
    ($acc:ident $(, $a:ident)*; $c:ident, $log_gap:ident; $f:expr) => {{
        $(assert!($a.len() == $acc.len());)*
        assert!(whole($acc.len()) && $c.len() << $log_gap == $acc.len());
        for k in (0..$acc.len()).step_by(4) {
            // SAFETY: k + 4 is at most the length, and c covers the same entries.
            unsafe {
                let to = $acc.as_mut_ptr().add(k);
                store(to, $f(load(to), runs($c, k, $log_gap) $(, load($a.as_ptr().add(k)))*));
            }
        }
    }};
}

#[target_feature(enable = "avx2,fma")]
pub(super) fn mul_runs(q: Modulus, acc: &mut [u64], c: &[u64], log_gap: u32) {
    let m = Lanes::new(q);
    map_runs!(acc; c, log_gap; |x, c| m.mul(numbers(x), numbers(c)));
}

#[target_feature(enable = "avx2,fma")]
pub(super) fn mul_add_runs(q: Modulus, acc: &mut [u64], a: &[u64], c: &[u64], log_gap: u32) {
    let m = Lanes::new(q);
    map_runs!(acc, a; c, log_gap; |x, c, a| {
        m.reduce_raised(_mm256_add_pd(raised(x), m.mul_lazy(numbers(a), numbers(c))))
    });
}

#[target_feature(enable = "avx2,fma")]
pub(super) fn add_runs(q: Modulus, acc: &mut [u64], c: &[u64], log_gap: u32, subtract: bool) {
    let m = Lanes::new(q);
    if subtract {
        map_runs!(acc; c, log_gap; |x, c| m.sub(x, c));
    } else {
        map_runs!(acc; c, log_gap; |x, c| m.add(x, c));
    }
}

#[target_feature(enable = "avx2,fma")]
pub(super) fn switch_modulus(from: Modulus, to: Modulus, out: &mut [u64], a: &[u64]) {
    let (from, to) = (Lanes::new(from), Lanes::new(to));
    map!(out, a; |_, a| to.reduce(from.centre(numbers(a))));
}

#[target_feature(enable = "avx2,fma")]
pub(super) fn reduce_signed(q: Modulus, out: &mut [u64], a: &[i64]) {
    const SIGN: u64 = 1 << 31;
    assert!(whole(out.len()) && a.len() == out.len());
    let m = Lanes::new(q);
    let upper = splat(q.reduce(1 << 32) as f64);
    for k in (0..out.len()).step_by(4) {
        // SAFETY: k + 4 is at most the common length.
        unsafe {
            let a = load(a.as_ptr().add(k).cast());
            // The upper half is signed: 2^31 makes it a word, and goes away with 2^52.
            let high = raised(_mm256_xor_si256(_mm256_srli_epi64::<32>(a), splat_words(SIGN)));
            let high = _mm256_sub_pd(high, splat(((1u64 << 52) + SIGN) as f64));
            let low = raised(_mm256_and_si256(a, splat_words(u64::from(u32::MAX))));
            store(out.as_mut_ptr().add(k), m.reduce_raised(_mm256_add_pd(low, m.mul_lazy(high, upper))));
        }
    }
}

#[target_feature(enable = "avx2,fma")]
pub(super) fn split_symmetric(q: Modulus, first: &mut [u64], second: &mut [u64], half: u64, quarter: u64) {
    const REVERSE: i32 = 0b00_01_10_11;
    let (m, n) = (Lanes::new(q), first.len());
    let (half, quarter) = (splat(half as f64), splat(quarter as f64));
    assert!(whole(n / 2) && second.len() == n);
    for k in (0..n / 2).step_by(4) {
        // SAFETY: k + 4 is at most n/2, so both blocks of four lie in both slices.
        unsafe {
            let (low, high) = (first.as_mut_ptr().add(k), first.as_mut_ptr().add(n - 4 - k));
            let (a, b) = (load(low), _mm256_permute4x64_epi64::<REVERSE>(load(high)));
            let x = m.mul(numbers(m.add(a, b)), half);
            let y = m.mul(_mm256_sub_pd(raised(a), raised(b)), quarter);
            store(low, x);
            store(high, _mm256_permute4x64_epi64::<REVERSE>(x));
            store(second.as_mut_ptr().add(k), y);
            store(second.as_mut_ptr().add(n - 4 - k), _mm256_permute4x64_epi64::<REVERSE>(y));
        }
    }
}
