//! The special FFT between the n complex coefficients c_j = m_j + i·m_{j+n} and n slots.
//!
//! forward = S_n ··· S_4 · S_2 · bit reversal, with butterflies (u, v) → (u + w·v, u − w·v), w = e^(2πi·(5^j mod 4len)/4len)
//! for offset j in a block of length len. The homomorphic DFT of bootstrapping uses the same stages without the reversal.

use num_complex::Complex64;

/// Twiddles of every stage; one table serves all periods since the stage of length `len` does not depend on n.
pub struct SpecialFft {
    /// `stages[k]` holds the len/2 twiddles of length len = 2^(k+1).
    stages: Vec<Vec<Complex64>>,
}

impl SpecialFft {
    /// Tables up to 2^`log_slots` slots.
    pub fn new(log_slots: u32) -> Self {
        let stages = (1..=log_slots)
            .map(|log_len| {
                let modulus = 4usize << log_len;
                let mut power = 1usize;
                (0..1usize << (log_len - 1))
                    .map(|_| {
                        let angle = 2.0 * std::f64::consts::PI * power as f64 / modulus as f64;
                        power = power * 5 % modulus;
                        Complex64::from_polar(1.0, angle)
                    })
                    .collect()
            })
            .collect();
        Self { stages }
    }

    /// The twiddles of the stage of length 2^`log_len`.
    pub fn twiddles(&self, log_len: u32) -> &[Complex64] {
        &self.stages[log_len as usize - 1]
    }

    /// Coefficients to slots, in place; the length is a power of two within the tables.
    pub fn forward(&self, values: &mut [Complex64]) {
        bit_reverse(values);
        let log_n = values.len().trailing_zeros();
        for log_len in 1..=log_n {
            let half = 1usize << (log_len - 1);
            let twiddles = self.twiddles(log_len);
            for block in values.chunks_exact_mut(2 * half) {
                let (low, high) = block.split_at_mut(half);
                for ((u, v), w) in low.iter_mut().zip(high).zip(twiddles) {
                    let product = *v * w;
                    (*u, *v) = (*u + product, *u - product);
                }
            }
        }
    }

    /// Slots to coefficients, in place; the exact inverse of [`SpecialFft::forward`].
    pub fn inverse(&self, values: &mut [Complex64]) {
        let log_n = values.len().trailing_zeros();
        for log_len in (1..=log_n).rev() {
            let half = 1usize << (log_len - 1);
            let twiddles = self.twiddles(log_len);
            for block in values.chunks_exact_mut(2 * half) {
                let (low, high) = block.split_at_mut(half);
                for ((u, v), w) in low.iter_mut().zip(high).zip(twiddles) {
                    let (sum, difference) = (*u + *v, *u - *v);
                    (*u, *v) = (sum, difference * w.conj());
                }
            }
        }
        bit_reverse(values);
        let factor = 1.0 / values.len() as f64;
        values.iter_mut().for_each(|z| *z *= factor);
    }
}

fn bit_reverse(values: &mut [Complex64]) {
    let log_n = values.len().trailing_zeros();
    if log_n == 0 {
        return;
    }
    for i in 0..values.len() {
        let j = i.reverse_bits() >> (usize::BITS - log_n);
        if i < j {
            values.swap(i, j);
        }
    }
}
