//! The suite that every backend must pass: bit-for-bit equality with the scalar backend.
//!
//! Inputs are uniform and extreme (all zero, all q - 1, mixtures), for ring degrees 2^10 to 2^16 and primes of
//! several sizes, the largest just below 2^50 where lazy ranges are tightest.

use std::sync::Arc;

use crate::cpu::scalar_backend;
use crate::packed::{pack_limb, residue_bits};
use crate::{Backend, FourierTable, LiftTarget, MATRIX_LANES, Modulus, NttTable, Packed, Permutation, ntt_primes_near};

/// log2 of the prime sizes that the suite visits.
const PRIME_BITS: [u32; 5] = [24, 36, 45, 47, 50];

struct Suite<'a> {
    backend: &'a dyn Backend,
    scalar: Arc<dyn Backend>,
    state: u64,
}

/// Compares `backend` with the scalar backend.
///
/// # Panics
/// On the first difference, naming the method, the degree and the prime.
pub fn run(backend: &dyn Backend) {
    let mut suite = Suite { backend, scalar: scalar_backend(), state: 1 };
    (0..=16).for_each(|log_n| suite.fourier(log_n));
    for log_n in 10..=17 {
        for bits in PRIME_BITS {
            // The primes on both sides of a power of two, so that both lazy strategies meet their bounds.
            let primes = ntt_primes_near(log_n, 1 << bits, 2, &[]).expect("primes exist at these sizes");
            for &prime in primes.iter().skip(usize::from(log_n % 2 == 0 && bits != 45)) {
                let table = NttTable::new(Modulus::new(prime).expect("a prime"), log_n).expect("an NTT prime");
                suite.transforms(&table);
                if log_n == 17 {
                    continue; // Only transforms do anything else at this size.
                }
                suite.arithmetic(&table);
                suite.sums(&table);
                suite.runs(&table);
                suite.symmetric(&table);
                suite.conversions(&table);
                suite.matrices(&table);
            }
        }
    }
}

/// Residues as packed bytes.
fn packed(residues: &[u64], bits: u32) -> Vec<u8> {
    let mut out = vec![0; (residues.len() * bits as usize).div_ceil(8)];
    pack_limb(residues, bits, &mut out);
    out
}

impl Suite<'_> {
    fn word(&mut self) -> u64 {
        // SplitMix64.
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let x = (self.state ^ (self.state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }

    /// Residues of one pattern: 0 uniform, 1 all q - 1, 2 all zero, 3 a mixture of extremes.
    fn residues(&mut self, q: Modulus, n: usize, pattern: usize) -> Vec<u64> {
        let q = q.value();
        let extremes = [0, 1, q / 2, q / 2 + 1, q - 2, q - 1];
        let mut pick = |_| match pattern {
            0 => self.word() % q,
            1 => q - 1,
            2 => 0,
            _ => extremes[self.word() as usize % extremes.len()],
        };
        (0..n).map(&mut pick).collect()
    }

    /// Runs `work` on both backends from the same start and compares.
    fn check(&self, method: &str, table: &NttTable, start: &[u64], work: impl Fn(&dyn Backend, &mut [u64])) {
        let (mut got, mut expected) = (start.to_vec(), start.to_vec());
        work(self.backend, &mut got);
        work(&*self.scalar, &mut expected);
        if let Some(at) = (0..start.len()).find(|&i| got[i] != expected[i]) {
            panic!(
                "{} differs from scalar in {method} at entry {at} for degree 2^{} and prime {}: {} instead of {}",
                self.backend.name(),
                table.log_n(),
                table.modulus().value(),
                got[at],
                expected[at]
            );
        }
    }

    fn transforms(&mut self, table: &NttTable) {
        let (q, n) = (table.modulus(), 1usize << table.log_n());
        for pattern in 0..4 {
            let a = self.residues(q, n, pattern);
            let scale = self.word() % q.value();
            self.check("ntt", table, &a, |b, x| b.ntt(table, x));
            self.check("intt", table, &a, |b, x| b.intt(table, x, scale));
            let source = self.residues(q, n, pattern);
            self.check("intt_of", table, &a, |b, x| b.intt_of(table, x, &source, scale));
            self.check("intt after ntt", table, &a, |b, x| {
                b.ntt(table, x);
                b.intt(table, x, 1);
                assert!(x == a, "{}: intt does not invert ntt", b.name());
            });
        }
        for log_short in 0..table.log_n() {
            let a = self.residues(q, 1 << log_short, 3);
            self.check("short ntt", table, &a, |b, x| b.ntt(table, x));
            self.check("short intt", table, &a, |b, x| b.intt(table, x, 1));
        }
        let a = self.residues(q, n, 0);
        let acc = self.residues(q, n, 0);
        for galois in [1, 5, 2 * n as u64 - 1, self.word() | 1] {
            let permutation = Permutation::new(galois, table.log_n());
            self.check("permute", table, &acc, |b, x| b.permute(x, &a, &permutation));
            self.check("permute_add", table, &acc, |b, x| b.permute_add(q, x, &a, &permutation));
        }
    }

    /// The complex Fourier transform of 2^log_n values, bit for bit.
    fn fourier(&mut self, log_n: u32) {
        let (table, n) = (FourierTable::new(log_n), 1 << log_n);
        let mut values = || -> Vec<f64> { (0..n).map(|_| self.word() as i64 as f64 * 2f64.powi(-60)).collect() };
        let start = [values(), values()];
        let [got, expected] = [self.backend, &*self.scalar].map(|backend| {
            let ([mut re, mut im], mut scratch) = (start.clone(), vec![0.0; table.scratch_len()]);
            backend.fourier(&table, &mut re, &mut im, &mut scratch);
            [re, im].map(|part| part.into_iter().map(f64::to_bits).collect::<Vec<_>>())
        });
        assert!(got == expected, "{} differs from scalar in fourier for 2^{log_n} values", self.backend.name());
    }

    /// Taking pairs of symmetric polynomials apart, whole and of smaller rings.
    fn symmetric(&mut self, table: &NttTable) {
        let q = table.modulus();
        for len in [1 << table.log_n(), 64, 16, 8, 2] {
            for pattern in [0, 1, 3] {
                let first = self.residues(q, len, pattern);
                let (half, quarter) = (self.word() % q.value(), self.word() % q.value());
                for which in 0..2 {
                    self.check("split_symmetric", table, &first, |k, x| {
                        let mut second = vec![0; len];
                        k.split_symmetric(q, x, &mut second, half, quarter);
                        if which == 1 {
                            x.copy_from_slice(&second);
                        }
                    });
                }
            }
        }
    }

    fn arithmetic(&mut self, table: &NttTable) {
        let (q, n) = (table.modulus(), 1usize << table.log_n());
        for pattern in [0, 1, 3] {
            for len in [n, 12] {
                let x = self.residues(q, len, pattern);
                let (a, b) = (self.residues(q, len, pattern), self.residues(q, len, pattern));
                self.check("add", table, &x, |k, x| k.add(q, x, &a));
                self.check("sub", table, &x, |k, x| k.sub(q, x, &a));
                self.check("neg", table, &x, |k, x| k.neg(q, x));
                self.check("mul", table, &x, |k, x| k.mul(q, x, &a, &b));
                self.check("mul_assign", table, &x, |k, x| k.mul_assign(q, x, &a));
                self.check("mul_add", table, &x, |k, x| k.mul_add(q, x, &a, &b));
                for c in [0, 1, q.value() - 1, self.word() % q.value()] {
                    self.check("mul_scalar", table, &x, |k, x| k.mul_scalar(q, x, c));
                    self.check("add_scalar", table, &x, |k, x| k.add_scalar(q, x, c));
                    self.check("mul_scalar_add", table, &x, |k, x| k.mul_scalar_add(q, x, &a, c));
                    self.check("sub_mul_scalar", table, &x, |k, x| k.sub_mul_scalar(q, x, &a, c));
                }
            }
        }
    }

    fn sums(&mut self, table: &NttTable) {
        let (q, n) = (table.modulus(), 1usize << table.log_n());
        // Counts on both sides of what one pass takes, and lengths that are not whole vectors.
        let small = [(0, 0, 24), (2, 1, 40), (3, 3, 24), (4, 1, 20), (6, 1, 8), (7, 3, 4)];
        let large = [(1, 0, n), (5, 0, n), (40, 1, 64), (1024, 1, 16), (1024, 3, 12)];
        for (terms, pattern, len) in small.into_iter().chain(large) {
            let mut sets = [(); 3].map(|()| Vec::new());
            for set in &mut sets {
                *set = (0..terms).map(|_| self.residues(q, len, pattern)).collect::<Vec<_>>();
            }
            let [a, b, c] = sets.each_ref().map(|set| set.iter().map(Vec::as_slice).collect::<Vec<&[u64]>>());
            let x = self.residues(q, 2 * len, pattern);
            let bits = residue_bits(q);
            let bytes: Vec<Vec<u8>> = b.iter().map(|b| packed(b, bits)).collect();
            let small: Vec<Packed> = bytes.iter().map(|bytes| Packed::new(bytes, bits)).collect();
            let plain: Vec<Packed> = c.iter().map(|c| Packed::plain(c)).collect();
            for halves in [[&small, &plain], [&plain, &small]] {
                self.check("inner_product_pair", table, &x, |k, x| {
                    let (low, high) = x.split_at_mut(len);
                    k.inner_product_pair(q, [low, high], &a, [halves[0], halves[1]]);
                });
            }
            for &view in small.first().into_iter().chain(plain.first()) {
                self.check("unpack", table, &x, |k, x| k.unpack(&mut x[..len], view));
            }
            let (left, right): (Vec<_>, Vec<_>) =
                (0..terms / 2).map(|t| ([a[t], b[t]], [c[t], a[terms - 1 - t]])).unzip();
            let x = self.residues(q, 3 * len, pattern);
            self.check("tensor", table, &x, |k, x| {
                let (low, rest) = x.split_at_mut(len);
                let (middle, high) = rest.split_at_mut(len);
                k.tensor(q, [low, middle, high], &left, &right);
            });
        }
    }

    fn runs(&mut self, table: &NttTable) {
        let (q, n) = (table.modulus(), 1usize << table.log_n());
        for log_gap in [0, 1, 2, 3, 4, table.log_n()] {
            let (x, a) = (self.residues(q, n, 3), self.residues(q, n, 0));
            let c = self.residues(q, n >> log_gap, 0);
            self.check("mul_runs", table, &x, |k, x| k.mul_runs(q, x, &c, log_gap));
            self.check("mul_add_runs", table, &x, |k, x| k.mul_add_runs(q, x, &a, &c, log_gap));
            self.check("add_runs", table, &x, |k, x| k.add_runs(q, x, &c, log_gap, false));
            self.check("sub_runs", table, &x, |k, x| k.add_runs(q, x, &c, log_gap, true));
            let wide = self.residues(q, 2 * n, 3);
            for terms in [0, 1, 2, 3, 8, 33] {
                let sets = [(); 2].map(|()| (0..terms).map(|_| self.residues(q, n, 1)).collect::<Vec<_>>());
                let pairs: Vec<[&[u64]; 2]> = (0..terms).map(|t| [&sets[0][t][..], &sets[1][t][..]]).collect();
                let plains: Vec<Vec<u64>> = (0..terms).map(|_| self.residues(q, n >> log_gap, 1)).collect();
                let plains: Vec<&[u64]> = plains.iter().map(Vec::as_slice).collect();
                self.check("inner_product_runs", table, &wide, |k, x| {
                    let (low, high) = x.split_at_mut(n);
                    k.inner_product_runs(q, [low, high], &pairs, &plains, log_gap);
                });
            }
        }
    }

    /// Base conversions of as many terms as one, two and three groups of products hold, of values up to 2^50 - 1, with
    /// quotients up to the number of terms.
    fn lifts(&mut self, table: &NttTable, others: &[Modulus]) {
        let q = table.modulus();
        for (terms, len) in [(0, 8), (1, 24), (2, 4), (14, 40), (15, 24), (29, 12), (30, 24), (44, 8), (45, 24)] {
            let y: Vec<Vec<u64>> = (0..terms).map(|_| vec![(1 << 50) - 1; len]).collect();
            let y: Vec<&[u64]> = y.iter().map(Vec::as_slice).collect();
            let targets = [q, others[0], others[1]];
            let weights = targets.map(|q| self.residues(q, terms, 1));
            let quotients = vec![terms as u64; len];
            self.check("lift_combine", table, &vec![0; 3 * len], |k, x| {
                let mut targets: Vec<LiftTarget> = targets
                    .iter()
                    .zip(&weights)
                    .zip(x.chunks_exact_mut(len))
                    .map(|((&q, weights), out)| LiftTarget { q, weights, correction: q.value() - 1, out })
                    .collect();
                k.lift_combine(&y, &quotients, &mut targets);
            });
        }
    }

    /// Shapes on both sides of every tile, and more terms than one pass of any backend takes.
    fn matrices(&mut self, table: &NttTable) {
        let q = table.modulus();
        let lanes = MATRIX_LANES;
        let shapes = [(1, 1, 1), (2, 3, 5), (4, 3, 64), (5, 7, 15), (7, 4, 16), (3, 2, 2049), (1, 1, 9000)];
        for (rows, columns, inner) in shapes {
            for pattern in [0, 1, 3] {
                let right = self.residues(q, columns * inner * lanes, pattern);
                let out = self.residues(q, rows * columns * lanes, 0);
                let left = self.residues(q, rows * inner * lanes, pattern);
                self.check("matrix_product", table, &out, |k, x| k.matrix_product(q, x, &left, &right, inner, false));
                let left = &left[..rows * inner];
                self.check("matrix_product, shared", table, &out, |k, x| {
                    k.matrix_product(q, x, left, &right, inner, true);
                });
            }
        }
    }

    fn conversions(&mut self, table: &NttTable) {
        let (q, n) = (table.modulus(), 1usize << table.log_n());
        let sources = ntt_primes_near(table.log_n(), 1 << 50, 18, &[q.value()]).expect("primes exist near 2^50");
        let sources: Vec<Modulus> = sources.iter().map(|&p| Modulus::new(p).expect("a prime")).collect();
        let reciprocals: Vec<f64> = sources.iter().map(|p| 1.0 / p.value() as f64).collect();
        for pattern in [0, 1, 3] {
            let y: Vec<Vec<u64>> = sources.iter().map(|&p| self.residues(p, n, pattern)).collect();
            let y: Vec<&[u64]> = y.iter().map(Vec::as_slice).collect();
            let weights = self.residues(q, y.len(), pattern);
            let quotients: Vec<u64> = (0..n).map(|_| self.word() % (y.len() as u64 + 1)).collect();
            let zero = vec![0; n];
            self.check("lift_quotients", table, &zero, |k, x| k.lift_quotients(x, &y, &reciprocals));
            self.lifts(table, &sources);
            let others: Vec<Vec<u64>> = sources.iter().map(|&p| self.residues(p, y.len(), pattern)).collect();
            let wide = vec![0; 8 * n];
            for count in [1, 7] {
                self.check("lift_combine", table, &wide, |k, x| {
                    let outs = x.chunks_exact_mut(n).take(count);
                    let mut targets: Vec<LiftTarget> = std::iter::once((q, &weights))
                        .chain(sources.iter().copied().zip(&others))
                        .zip(outs)
                        .map(|((q, weights), out)| LiftTarget { q, weights, correction: q.value() - 1, out })
                        .collect();
                    k.lift_combine(&y, &quotients, &mut targets);
                });
            }
            for &from in &sources[..2] {
                let own = self.residues(q, n, pattern);
                self.check("switch_modulus", table, &zero, |k, x| k.switch_modulus(from, q, x, y[0]));
                self.check("switch_modulus up", table, &zero, |k, x| k.switch_modulus(q, from, x, &own));
            }
        }
        let mut signed: Vec<i64> = (0..n).map(|_| self.word() as i64 >> (self.word() % 64)).collect();
        (signed[0], signed[1], signed[2]) = (i64::MIN, i64::MAX, -(q.value() as i64));
        let words: Vec<u64> = (0..n + 5).map(|_| self.word()).collect();
        let zero = vec![0; n];
        self.check("reduce_signed", table, &zero, |k, x| k.reduce_signed(q, x, &signed));
        let (key, nonce) = (std::array::from_fn(|i| i as u8 * 7), std::array::from_fn(|i| 200 - i as u8));
        for (first, len) in [(0, 8), (5, 128), (1 << 20, 256 + 24)] {
            self.check("chacha8", table, &vec![0; len], |k, x| k.chacha8(&key, &nonce, first, x));
        }
        for len in [n, n - 3, 12] {
            // The counts are kept in two extra entries; unused entries are cleared before comparing.
            self.check("sample_uniform", table, &zero, |k, x| {
                let (used, made) = k.sample_uniform(q, &mut x[..len - 2], &words);
                x[made..].fill(0);
                (x[len - 2], x[len - 1]) = (used as u64, made as u64);
            });
        }
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn detected_backend_conforms() {
        super::run(&*crate::detect_backend());
    }
}
