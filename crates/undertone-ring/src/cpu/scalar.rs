//! The scalar backend: plain Rust, the reference for every other backend.

use chacha20::ChaCha8;
use chacha20::cipher::{KeyIvInit, StreamCipher, StreamCipherSeek};

use super::{MatrixShape, fourier, scalar_ntt};
use crate::{Backend, FourierTable, LiftTarget, MATRIX_LANES, Modulus, NttTable, Packed, Permutation};

/// See [`super::scalar_backend`].
pub(super) struct Scalar;

/// A sum of products; at most 2^10 of them, each below 2^100, stay below 2^128.
fn products(a: &[&[u64]], b: &[Packed<'_>], k: usize) -> u128 {
    a.iter().zip(b).map(|(a, b)| a[k] as u128 * b.get(k) as u128).sum()
}

impl Backend for Scalar {
    fn name(&self) -> &'static str {
        "scalar"
    }

    fn ntt(&self, table: &NttTable, data: &mut [u64]) {
        scalar_ntt::forward(table, data);
    }

    fn intt(&self, table: &NttTable, data: &mut [u64], scale: u64) {
        scalar_ntt::inverse(table, data, scale);
    }

    fn add(&self, q: Modulus, acc: &mut [u64], a: &[u64]) {
        acc.iter_mut().zip(a).for_each(|(x, &a)| *x = q.add(*x, a));
    }

    fn sub(&self, q: Modulus, acc: &mut [u64], a: &[u64]) {
        acc.iter_mut().zip(a).for_each(|(x, &a)| *x = q.sub(*x, a));
    }

    fn neg(&self, q: Modulus, acc: &mut [u64]) {
        acc.iter_mut().for_each(|x| *x = q.neg(*x));
    }

    fn mul(&self, q: Modulus, out: &mut [u64], a: &[u64], b: &[u64]) {
        out.iter_mut().zip(a.iter().zip(b)).for_each(|(x, (&a, &b))| *x = q.mul(a, b));
    }

    fn mul_assign(&self, q: Modulus, acc: &mut [u64], a: &[u64]) {
        acc.iter_mut().zip(a).for_each(|(x, &a)| *x = q.mul(*x, a));
    }

    fn mul_add(&self, q: Modulus, acc: &mut [u64], a: &[u64], b: &[u64]) {
        let fused = |x: u64, a: u64, b: u64| q.reduce_u128(a as u128 * b as u128 + x as u128);
        acc.iter_mut().zip(a.iter().zip(b)).for_each(|(x, (&a, &b))| *x = fused(*x, a, b));
    }

    fn mul_scalar(&self, q: Modulus, acc: &mut [u64], c: u64) {
        let shoup = q.shoup(c);
        acc.iter_mut().for_each(|x| *x = q.mul_shoup(*x, c, shoup));
    }

    fn add_scalar(&self, q: Modulus, acc: &mut [u64], c: u64) {
        acc.iter_mut().for_each(|x| *x = q.add(*x, c));
    }

    fn mul_scalar_add(&self, q: Modulus, acc: &mut [u64], a: &[u64], c: u64) {
        let shoup = q.shoup(c);
        acc.iter_mut().zip(a).for_each(|(x, &a)| *x = q.add(*x, q.mul_shoup(a, c, shoup)));
    }

    fn sub_mul_scalar(&self, q: Modulus, acc: &mut [u64], a: &[u64], c: u64) {
        let shoup = q.shoup(c);
        acc.iter_mut().zip(a).for_each(|(x, &a)| *x = q.mul_shoup(q.sub(*x, a), c, shoup));
    }

    fn permute(&self, out: &mut [u64], a: &[u64], permutation: &Permutation) {
        for (index, block) in out.chunks_exact_mut(8).enumerate() {
            let (source, lanes) = permutation.block(index);
            let from = &a[8 * source..][..8];
            block.iter_mut().zip(lanes).for_each(|(x, &lane)| *x = from[lane as usize]);
        }
    }

    fn permute_add(&self, q: Modulus, acc: &mut [u64], a: &[u64], permutation: &Permutation) {
        for (index, block) in acc.chunks_exact_mut(8).enumerate() {
            let (source, lanes) = permutation.block(index);
            let from = &a[8 * source..][..8];
            block.iter_mut().zip(lanes).for_each(|(x, &lane)| *x = q.add(*x, from[lane as usize]));
        }
    }

    fn unpack(&self, out: &mut [u64], packed: Packed<'_>) {
        out.iter_mut().enumerate().for_each(|(k, x)| *x = packed.get(k));
    }

    fn inner_product_pair(&self, q: Modulus, out: [&mut [u64]; 2], a: &[&[u64]], b: [&[Packed<'_>]; 2]) {
        for (out, b) in out.into_iter().zip(b) {
            out.iter_mut().enumerate().for_each(|(k, x)| *x = q.reduce_u128(products(a, b, k)));
        }
    }

    fn inner_product_runs(&self, q: Modulus, out: [&mut [u64]; 2], a: &[[&[u64]; 2]], c: &[&[u64]], log_gap: u32) {
        for (half, out) in out.into_iter().enumerate() {
            for (k, x) in out.iter_mut().enumerate() {
                let term = |(a, c): (&[&[u64]; 2], &&[u64])| u128::from(a[half][k]) * u128::from(c[k >> log_gap]);
                *x = q.reduce_u128(a.iter().zip(c).map(term).sum());
            }
        }
    }

    fn tensor(&self, q: Modulus, out: [&mut [u64]; 3], a: &[[&[u64]; 2]], b: &[[&[u64]; 2]]) {
        let [out_0, out_1, out_2] = out;
        for k in 0..out_0.len() {
            let mut sums = [0u128; 3];
            for (a, b) in a.iter().zip(b) {
                let [a_0, a_1, b_0, b_1] = [a[0][k], a[1][k], b[0][k], b[1][k]].map(u128::from);
                sums[0] += a_0 * b_0;
                sums[1] += a_0 * b_1 + a_1 * b_0;
                sums[2] += a_1 * b_1;
            }
            [out_0[k], out_1[k], out_2[k]] = sums.map(|sum| q.reduce_u128(sum));
        }
    }

    fn lift_quotients(&self, out: &mut [u64], y: &[&[u64]], reciprocals: &[f64]) {
        for (k, x) in out.iter_mut().enumerate() {
            let sum = y.iter().zip(reciprocals).fold(0.0, |sum, (y, r)| sum + y[k] as f64 * r);
            *x = sum.round_ties_even() as u64;
        }
    }

    fn lift_combine(&self, y: &[&[u64]], quotients: &[u64], targets: &mut [LiftTarget<'_>]) {
        for LiftTarget { q, weights, correction, out } in targets {
            for (k, x) in out.iter_mut().enumerate() {
                let start = quotients[k] as u128 * *correction as u128;
                *x = q.reduce_u128(y.iter().zip(*weights).fold(start, |sum, (y, &w)| sum + y[k] as u128 * w as u128));
            }
        }
    }

    fn matrix_product(&self, q: Modulus, out: &mut [u64], left: &[u64], right: &[u64], inner: usize, shared: bool) {
        let shape = MatrixShape::of(out, left, right, inner, shared);
        for (at, x) in out.iter_mut().enumerate() {
            let (lane, j, i) =
                (at % MATRIX_LANES, at / MATRIX_LANES % shape.columns, at / MATRIX_LANES / shape.columns);
            // At most 2^20 products, each below 2^100.
            let term = |k: usize| {
                let a = if shared { left[i * inner + k] } else { left[(i * inner + k) * MATRIX_LANES + lane] };
                u128::from(a) * u128::from(right[(j * inner + k) * MATRIX_LANES + lane])
            };
            *x = q.reduce_u128((0..inner).map(term).sum());
        }
    }

    fn switch_modulus(&self, from: Modulus, to: Modulus, out: &mut [u64], a: &[u64]) {
        out.iter_mut().zip(a).for_each(|(x, &a)| *x = to.reduce_i64(from.center(a)));
    }

    fn mul_runs(&self, q: Modulus, acc: &mut [u64], c: &[u64], log_gap: u32) {
        for (run, &c) in acc.chunks_exact_mut(1 << log_gap).zip(c) {
            run.iter_mut().for_each(|x| *x = q.mul(*x, c));
        }
    }

    fn mul_add_runs(&self, q: Modulus, acc: &mut [u64], a: &[u64], c: &[u64], log_gap: u32) {
        for ((run, a), &c) in acc.chunks_exact_mut(1 << log_gap).zip(a.chunks_exact(1 << log_gap)).zip(c) {
            run.iter_mut().zip(a).for_each(|(x, &a)| *x = q.reduce_u128(a as u128 * c as u128 + *x as u128));
        }
    }

    fn add_runs(&self, q: Modulus, acc: &mut [u64], c: &[u64], log_gap: u32, subtract: bool) {
        for (run, &c) in acc.chunks_exact_mut(1 << log_gap).zip(c) {
            let c = if subtract { q.neg(c) } else { c };
            run.iter_mut().for_each(|x| *x = q.add(*x, c));
        }
    }

    fn reduce_signed(&self, q: Modulus, out: &mut [u64], a: &[i64]) {
        out.iter_mut().zip(a).for_each(|(x, &a)| *x = q.reduce_i64(a));
    }

    fn split_symmetric(&self, q: Modulus, first: &mut [u64], second: &mut [u64], half: u64, quarter: u64) {
        let (half_shoup, quarter_shoup, n) = (q.shoup(half), q.shoup(quarter), first.len());
        for k in 0..n / 2 {
            let (a, b) = (first[k], first[n - 1 - k]);
            let x = q.mul_shoup(q.add(a, b), half, half_shoup);
            let y = q.mul_shoup(q.sub(a, b), quarter, quarter_shoup);
            (first[k], first[n - 1 - k], second[k], second[n - 1 - k]) = (x, x, y, y);
        }
    }

    fn fourier(&self, table: &FourierTable, re: &mut [f64], im: &mut [f64], scratch: &mut [f64]) {
        // SAFETY: arrays need no instructions of their own.
        unsafe { fourier::fourier::<fourier::Lanes>(table, re, im, scratch) }
    }

    fn chacha8(&self, key: &[u8; 32], nonce: &[u8; 12], first: u32, out: &mut [u64]) {
        let mut cipher = ChaCha8::new(key.into(), nonce.into());
        cipher.seek(u64::from(first) * 64);
        let mut block = [0u8; 64];
        for words in out.chunks_exact_mut(8) {
            block.fill(0);
            cipher.apply_keystream(&mut block);
            for (word, bytes) in words.iter_mut().zip(block.as_chunks::<8>().0) {
                *word = u64::from_le_bytes(*bytes);
            }
        }
    }

    fn sample_uniform(&self, q: Modulus, out: &mut [u64], words: &[u64]) -> (usize, usize) {
        const MASK: u64 = (1 << 52) - 1;
        let threshold = (1 << 52) % q.value();
        let (mut used, mut made) = (0, 0);
        while used < words.len() && made < out.len() {
            let product = (words[used] & MASK) as u128 * q.value() as u128;
            used += 1;
            if product as u64 & MASK >= threshold {
                out[made] = (product >> 52) as u64;
                made += 1;
            }
        }
        (used, made)
    }
}
