//! Slots ↔ coefficients: the canonical embedding as a special FFT.
//!
//! Slot j is the evaluation at ζ^(5^j), ζ = e^(iπ/N). A vector of period n lives in the sub-ring of polynomials in
//! X^(N/2n), so a short period is encoded in a short transform. Rotating slots left by k is X → X^(5^k), and multiplying
//! every slot by i is multiplying by X^(N/2).

mod fft;

pub use fft::SpecialFft;

use crate::Error;
use num_complex::Complex64;

const LARGEST_COEFFICIENT: f64 = (1u64 << 61) as f64;

/// Overwrites slots: the client encodes private values with this type too.
fn wipe(values: &mut [Complex64]) {
    values.fill(Complex64::new(0.0, 0.0));
    std::hint::black_box(values);
}

/// Encodes slot vectors into integer coefficients and back, for one ring degree.
pub struct Encoder {
    log_n: u32,
    fft: SpecialFft,
}

impl Encoder {
    /// Tables for ring degree 2^log_n.
    pub fn new(log_n: u32) -> Self {
        Self { log_n, fft: SpecialFft::new(log_n - 1) }
    }

    /// The transform itself, used to build homomorphic DFT matrices.
    pub fn fft(&self) -> &SpecialFft {
        &self.fft
    }

    /// log2 of the gap between non-zero coefficients of an encoded vector of `period` slots.
    pub fn log_gap(&self, period: usize) -> u32 {
        self.log_n - 1 - period.trailing_zeros()
    }

    /// Rounds one period of complex slots times `scale` to the 2·period coefficients of the sub-ring polynomial.
    ///
    /// # Errors
    /// `Range` unless every coefficient is a number of magnitude below 2^61.
    pub fn encode(&self, slots: &[Complex64], scale: f64) -> Result<Vec<i64>, Error> {
        let mut values = slots.to_vec();
        let coefficients = self.encode_in_place(&mut values, scale);
        wipe(&mut values);
        coefficients
    }

    fn encode_in_place(&self, values: &mut [Complex64], scale: f64) -> Result<Vec<i64>, Error> {
        self.fft.inverse(values);
        let largest = values.iter().map(|z| if z.is_nan() { f64::INFINITY } else { z.re.abs().max(z.im.abs()) });
        let have = largest.fold(0.0, f64::max) * scale;
        if have >= LARGEST_COEFFICIENT {
            return Err(Error::Range { op: "encode", have: have / scale, need: LARGEST_COEFFICIENT / scale });
        }
        let real = values.iter().map(|z| (z.re * scale).round() as i64);
        Ok(real.chain(values.iter().map(|z| (z.im * scale).round() as i64)).collect())
    }

    /// As [`Encoder::encode`] for real slots.
    ///
    /// # Errors
    /// As [`Encoder::encode`].
    pub fn encode_real(&self, slots: &[f64], scale: f64) -> Result<Vec<i64>, Error> {
        let mut values: Vec<Complex64> = slots.iter().map(|&x| Complex64::new(x, 0.0)).collect();
        let coefficients = self.encode_in_place(&mut values, scale);
        wipe(&mut values);
        coefficients
    }

    /// Slots of a polynomial given by its N centred coefficients divided by the scale.
    pub fn decode(&self, coefficients: &[f64]) -> Vec<Complex64> {
        let half = coefficients.len() / 2;
        let (real, imaginary) = coefficients.split_at(half);
        let mut values: Vec<Complex64> = real.iter().zip(imaginary).map(|(&re, &im)| Complex64::new(re, im)).collect();
        self.fft.forward(&mut values);
        values
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(n: usize) -> Vec<Complex64> {
        (0..n).map(|k| Complex64::new((k as f64 * 0.7).sin(), (k as f64 * 1.3).cos())).collect()
    }

    /// Evaluates the encoded polynomial at ζ^(5^j) directly.
    fn evaluate(coefficients: &[f64], log_n: u32, slot: usize) -> Complex64 {
        let m = 2u64 << log_n;
        let mut power = 1u64;
        for _ in 0..slot {
            power = power * 5 % m;
        }
        let term = |(k, &c): (usize, &f64)| {
            let angle = 2.0 * std::f64::consts::PI * ((power * k as u64) % m) as f64 / m as f64;
            Complex64::from_polar(c, angle)
        };
        coefficients.iter().enumerate().map(term).sum()
    }

    #[test]
    fn encode_is_the_canonical_embedding_at_every_period() {
        let log_n = 8;
        let encoder = Encoder::new(log_n);
        for log_period in 0..log_n {
            let period = 1 << log_period;
            let slots = sample(period);
            let scale = 2f64.powi(40);
            let compact = encoder.encode(&slots, scale).unwrap();
            let gap = 1 << encoder.log_gap(period);
            let mut coefficients = vec![0.0; 1 << log_n];
            for (k, &c) in compact.iter().enumerate() {
                coefficients[k * gap] = c as f64 / scale;
            }
            for slot in [0, 1, 5, 100] {
                let seen = evaluate(&coefficients, log_n, slot);
                assert!((seen - slots[slot % period]).norm() < 1e-9, "period {period} slot {slot}");
            }
            let decoded = encoder.decode(&coefficients);
            for (slot, z) in decoded.iter().enumerate() {
                assert!((z - slots[slot % period]).norm() < 1e-9);
            }
        }
    }
}
