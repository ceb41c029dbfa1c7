//! A public orthogonal map that spreads every channel over all others, from a seed.
//!
//! With n = 2^a · m and m odd: random signs, then the Hadamard matrix of 2^a over each of m blocks, then a dense
//! orthogonal matrix of m across the blocks. Only exact operations, sums, products, quotients and square roots enter,
//! so that every machine derives the same map to the last bit.

use blake3::OutputReader;

/// Largest odd part that is mixed by a dense matrix; the blocks of a larger one stay apart.
const LARGEST_DENSE: usize = 1024;
/// A row this close to those before it is drawn again; entries are of order one.
const LEAST_NORM: f64 = 1e-3;

/// An orthogonal map of n coordinates.
pub(super) struct Orthogonal {
    /// ±1 over √(2^a), `[n]`.
    signs: Vec<f64>,
    /// Length 2^a of a block.
    block: usize,
    /// `[m, m]`, row major; empty for the identity.
    dense: Vec<f64>,
}

impl Orthogonal {
    /// The map of `len` coordinates that `stream` determines.
    pub(super) fn new(len: usize, mut stream: OutputReader) -> Self {
        let block = 1usize << len.trailing_zeros();
        let scale = 1.0 / (block as f64).sqrt();
        let mut bytes = vec![0u8; len];
        stream.fill(&mut bytes);
        let signs = bytes.iter().map(|byte| if byte & 1 == 0 { scale } else { -scale }).collect();
        let odd = len / block;
        let dense = if odd > 1 && odd <= LARGEST_DENSE { orthonormal(odd, &mut stream) } else { Vec::new() };
        Self { signs, block, dense }
    }

    /// Number n of coordinates.
    pub(super) fn len(&self) -> usize {
        self.signs.len()
    }

    /// Maps `x`, `[n]`, in place; `scratch` is reused between calls.
    pub(super) fn apply(&self, x: &mut [f64], scratch: &mut Vec<f64>) {
        x.iter_mut().zip(&self.signs).for_each(|(x, sign)| *x *= sign);
        for block in x.chunks_exact_mut(self.block) {
            let mut half = 1;
            while half < block.len() {
                for pair in block.chunks_exact_mut(2 * half) {
                    let (low, high) = pair.split_at_mut(half);
                    for (a, b) in low.iter_mut().zip(high) {
                        (*a, *b) = (*a + *b, *a - *b);
                    }
                }
                half *= 2;
            }
        }
        if self.dense.is_empty() {
            return;
        }
        scratch.clear();
        scratch.extend_from_slice(x);
        let odd = x.len() / self.block;
        for (out, row) in x.chunks_exact_mut(self.block).zip(self.dense.chunks_exact(odd)) {
            out.fill(0.0);
            for (input, factor) in scratch.chunks_exact(self.block).zip(row) {
                out.iter_mut().zip(input).for_each(|(out, input)| *out += factor * input);
            }
        }
    }
}

/// Random rows made orthonormal by Gram and Schmidt, twice for accuracy.
fn orthonormal(len: usize, stream: &mut OutputReader) -> Vec<f64> {
    let mut rows: Vec<f64> = Vec::with_capacity(len * len);
    while rows.len() < len * len {
        let mut row: Vec<f64> = (0..len)
            .map(|_| {
                let mut bytes = [0u8; 4];
                stream.fill(&mut bytes);
                f64::from(i32::from_le_bytes(bytes)) / f64::from(1u32 << 31)
            })
            .collect();
        for _ in 0..2 {
            for earlier in rows.chunks_exact(len) {
                let along: f64 = earlier.iter().zip(&row).map(|(a, b)| a * b).sum();
                row.iter_mut().zip(earlier).for_each(|(x, e)| *x -= along * e);
            }
        }
        let norm = row.iter().map(|x| x * x).sum::<f64>().sqrt();
        if norm > LEAST_NORM {
            rows.extend(row.iter().map(|x| x / norm));
        }
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(len: usize) -> Orthogonal {
        Orthogonal::new(len, blake3::Hasher::new().update(&[3]).finalize_xof())
    }

    #[test]
    fn lengths_and_angles_stay() {
        for len in [1, 2, 3, 24, 64, 288, 770] {
            let map = map(len);
            assert_eq!(map.len(), len);
            let unit = |i: usize| {
                let mut x = vec![0.0; len];
                x[i] = 1.0;
                map.apply(&mut x, &mut Vec::new());
                x
            };
            for (i, j) in [(0, 0), (0, len - 1), (len / 2, len / 3)] {
                let product: f64 = unit(i).iter().zip(unit(j)).map(|(a, b)| a * b).sum();
                let need = if i == j { 1.0 } else { 0.0 };
                assert!((product - need).abs() < 1e-13, "{len} {i} {j} {product}");
            }
        }
    }

    #[test]
    fn one_channel_is_spread_over_all() {
        for len in [64, 4096] {
            let mut x = vec![0.0; len];
            x[5] = 1.0;
            map(len).apply(&mut x, &mut Vec::new());
            assert!(x.iter().all(|x| (x.abs() - 1.0 / (len as f64).sqrt()).abs() < 1e-12));
        }
        let mut x = vec![0.0; 288];
        x[5] = 1.0;
        map(288).apply(&mut x, &mut Vec::new());
        assert!(x.iter().all(|x| x.abs() < 0.3), "a dense row of 9 entries over 32 places");
    }
}
