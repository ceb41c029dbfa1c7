//! Slots ↔ coefficients: the canonical embedding by a Fourier transform.
//!
//! Slot j is the evaluation at ζ^(5^j), ζ = e^(iπ/N). A vector of period n lives in the sub-ring of polynomials in
//! X^(N/2n), so a short period is encoded in a short transform. Rotating slots left by k is X → X^(5^k), and multiplying
//! every slot by i is multiplying by X^(N/2).
//!
//! With c_j = m_j + i·m_{j+n} the slots are Σ c_j ζ^(j(4k+1)), 5^j = 4k + 1: a transform of c_j ζ^j, put in order. Real
//! slots belong to m(X) = m(1/X), so that m1 + i·m2 takes apart again what one transform makes of two real vectors.

use crate::Error;
use num_complex::Complex64;
use std::sync::Arc;
use undertone_ring::{Backend, FourierTable};
use zeroize::{Zeroize, Zeroizing};

const LARGEST_COEFFICIENT: f64 = (1u64 << 61) as f64;
/// Adding it rounds a number below 2^51 in magnitude to a whole one, ties to even.
const ROUND: f64 = 1.5 * (1u64 << 52) as f64;

/// Encodes slot vectors into integer coefficients and back, for one ring degree.
pub struct Encoder {
    log_n: u32,
    backend: Arc<dyn Backend>,
    /// The transform of every period.
    tables: Vec<FourierTable>,
    /// (5^j − 1)/4 mod 4·slots: where slot j is among the values of the longest transform.
    places: Vec<u32>,
    /// cos and sin of πj/2n for the longest period n.
    twists: [Vec<f64>; 2],
}

/// Complex values in two parts, and the memory that their transform needs.
#[derive(Zeroize)]
struct Parts {
    re: Vec<f64>,
    im: Vec<f64>,
    scratch: Vec<f64>,
}

impl Encoder {
    /// Tables for ring degree 2^log_n, at least 2, and the kernels to transform with.
    pub fn new(log_n: u32, backend: Arc<dyn Backend>) -> Self {
        let slots = 1usize << (log_n - 1);
        let mut power = 1usize;
        let places = (0..slots)
            .map(|_| {
                let place = power / 4;
                power = power * 5 % (4 * slots);
                place as u32
            })
            .collect();
        let twist = |j: usize| (std::f64::consts::FRAC_PI_2 * j as f64 / slots as f64).sin_cos();
        let (sin, cos) = (0..slots).map(twist).unzip();
        Self { log_n, backend, tables: (0..log_n).map(FourierTable::new).collect(), places, twists: [cos, sin] }
    }

    /// log2 of the gap between non-zero coefficients of an encoded vector of `period` slots.
    pub fn log_gap(&self, period: usize) -> u32 {
        self.log_n - 1 - period.trailing_zeros()
    }

    /// Rounds one period of complex slots times `scale` to the 2·period coefficients of the sub-ring polynomial.
    ///
    /// # Errors
    /// `Range` unless every coefficient is a number of magnitude below 2^60.
    ///
    /// # Panics
    /// Unless the period is a power of two and at most N/2.
    pub fn encode(&self, slots: &[Complex64], scale: f64) -> Result<Vec<i64>, Error> {
        let mut parts = self.parts(slots.len());
        self.embed(&mut parts, |j| (slots[j].re, slots[j].im), scale)?;
        let coefficients = [&parts.re, &parts.im].into_iter().flatten();
        Ok(coefficients.map(|x| x.round_ties_even() as i64).collect())
    }

    /// As [`Encoder::encode`] for real slots; wipes what it made on the way, because the client encodes private values.
    ///
    /// # Errors
    /// As [`Encoder::encode`].
    pub fn encode_real(&self, slots: &[f64], scale: f64) -> Result<Vec<i64>, Error> {
        let mut parts = Zeroizing::new(self.parts(slots.len()));
        self.embed(&mut parts, |j| (slots[j], 0.0), scale)?;
        let coefficients = [&parts.re, &parts.im].into_iter().flatten();
        Ok(coefficients.map(|x| x.round_ties_even() as i64).collect())
    }

    /// The coefficients of x + Y^n·y, Y = X^(N/2n), where x and y encode two real vectors of one period n, both rotated
    /// left by `by` slots: [`undertone_ring::CompactCoefficients::Symmetric`]. For public values.
    ///
    /// # Errors
    /// As [`Encoder::encode`].
    ///
    /// # Panics
    /// As [`Encoder::encode`], and when the periods differ.
    pub fn encode_real_pair(&self, slots: [&[f64]; 2], by: i64, scale: f64) -> Result<Vec<i64>, Error> {
        let [x, y] = slots;
        let n = x.len();
        assert!(y.len() == n, "periods {n} and {}", y.len());
        let (shift, mask) = (by.rem_euclid(n as i64) as usize, n - 1);
        let at = |j: usize| (j + shift) & mask;
        // Halves of the transform's values add up to the coefficients.
        let mut parts = self.parts(n);
        self.embed(&mut parts, |j| (x[at(j)], y[at(j)]), scale / 2.0)?;
        let Parts { re, im, .. } = parts;
        let small = |part: &[f64]| part.iter().all(|x| x.abs() < (1u64 << 48) as f64);
        if small(&re) && small(&im) {
            let integer = |x: f64| ((x + ROUND).to_bits() as i64).wrapping_sub(ROUND.to_bits() as i64);
            return Ok(mirrored_sums(&re, &im, |x| (x + ROUND) - ROUND, integer));
        }
        Ok(mirrored_sums(&re, &im, f64::round_ties_even, |x| x as i64))
    }

    /// Slots of a polynomial given by its N centred coefficients divided by the scale.
    pub fn decode(&self, coefficients: &[f64]) -> Vec<Complex64> {
        let half = coefficients.len() / 2;
        let (real, imaginary) = coefficients.split_at(half);
        let mut parts = Zeroizing::new(self.parts(half));
        parts.re.copy_from_slice(real);
        parts.im.copy_from_slice(imaginary);
        self.twist(&mut parts, 1.0, 1.0);
        // The other sign of the exponent is the same transform with both parts exchanged.
        let Parts { re, im, scratch } = &mut *parts;
        self.backend.fourier(self.table(half), im, re, scratch);
        let places = self.places[..half].iter().map(|&place| place as usize & (half - 1));
        places.map(|place| Complex64::new(parts.re[place], parts.im[place])).collect()
    }

    /// Memory for `n` values.
    fn parts(&self, n: usize) -> Parts {
        Parts { re: vec![0.0; n], im: vec![0.0; n], scratch: vec![0.0; self.table(n).scratch_len()] }
    }

    /// c_j times `scale` of as many slots as `parts` takes, not yet rounded.
    fn embed(&self, parts: &mut Parts, slot: impl Fn(usize) -> (f64, f64), scale: f64) -> Result<(), Error> {
        let n = parts.re.len();
        for (j, &place) in self.places[..n].iter().enumerate() {
            let place = place as usize & (n - 1);
            (parts.re[place], parts.im[place]) = slot(j);
        }
        self.backend.fourier(self.table(n), &mut parts.re, &mut parts.im, &mut parts.scratch);
        let factor = scale / n as f64;
        let sizes = parts.re.iter().chain(&parts.im).map(|x| if x.is_nan() { f64::INFINITY } else { x.abs() });
        // A twist moves up to √2 from one part to the other.
        let have = sizes.fold(0.0, f64::max) * std::f64::consts::SQRT_2 * factor;
        if have >= LARGEST_COEFFICIENT {
            return Err(Error::Range { op: "encode", have: have / scale, need: LARGEST_COEFFICIENT / scale });
        }
        self.twist(parts, factor, -1.0);
        Ok(())
    }

    /// Multiplies value j by factor · ζ^(±j).
    fn twist(&self, parts: &mut Parts, factor: f64, sign: f64) {
        let step = self.places.len() / parts.re.len();
        let [cos, sin] = [&self.twists[0], &self.twists[1]].map(|table| table.iter().step_by(step));
        for (((re, im), cos), sin) in parts.re.iter_mut().zip(&mut parts.im).zip(cos).zip(sin) {
            let (cos, sin) = (cos * factor, sin * factor * sign);
            (*re, *im) = (*re * cos - *im * sin, *re * sin + *im * cos);
        }
    }

    fn table(&self, n: usize) -> &FourierTable {
        &self.tables[n.trailing_zeros() as usize]
    }
}

/// The coefficients of x + Y^n·y from halves of the values of both, rounded by `whole` and converted by `integer`.
///
/// With l = n − j: x_j = re_j − im_l, y_j = im_j + re_l, and at 2n − j stand −x_j and −y_j.
fn mirrored_sums(re: &[f64], im: &[f64], whole: impl Fn(f64) -> f64, integer: impl Fn(f64) -> i64) -> Vec<i64> {
    let n = re.len();
    let mut out = vec![0; 2 * n];
    let (low, high) = out.split_at_mut(n);
    (low[0], high[0]) = (integer(whole(2.0 * re[0])), integer(whole(2.0 * im[0])));
    let mirrored = re[1..].iter().rev().zip(im[1..].iter().rev());
    let entries = re[1..].iter().zip(&im[1..]).zip(mirrored);
    for ((low, high), ((re, im), (re_l, im_l))) in low[1..].iter_mut().zip(&mut high[1..]).zip(entries) {
        *low = integer(whole(re - im_l) + whole(im_l + re));
        *high = integer(whole(im + re_l) - whole(re_l - im));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use undertone_ring::{Basis, CompactCoefficients, Ntt, Ring, detect_backend, ntt_primes_near};

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
        let encoder = Encoder::new(log_n, detect_backend());
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

    /// Both members of a pair are what each gives alone, from values that round fast and from larger ones.
    #[test]
    fn pairs_come_apart_as_two_encodings() {
        let log_n = 10;
        let prime = ntt_primes_near(log_n, 1 << 49, 1, &[]).unwrap();
        let ring = Ring::new(log_n, &prime, &[], detect_backend()).unwrap();
        let encoder = Encoder::new(log_n, detect_backend());
        for (log_period, bits, by) in [(9, 36, 0), (9, 36, -37), (9, 55, 5), (4, 36, 3), (1, 30, 1), (0, 20, 0)] {
            let period = 1usize << log_period;
            let values = |phase: f64| -> Vec<f64> { (0..period).map(|k| (k as f64 * 0.7 + phase).sin()).collect() };
            let scale = 2f64.powi(bits);
            let slots = [values(0.1), values(0.9)];
            let pair = encoder.encode_real_pair([&slots[0], &slots[1]], by, scale).unwrap();
            let pair = [CompactCoefficients::Symmetric(pair)];
            for (which, mut slots) in slots.into_iter().enumerate() {
                let seen = member(&ring, &pair, which, 2 * period);
                slots.rotate_left(by.rem_euclid(period as i64) as usize);
                let expected = encoder.encode_real(&slots, scale).unwrap();
                // Longer coefficients are known modulo the prime.
                let q = prime[0] as i64;
                let centred = |d: i64| (d + q / 2).rem_euclid(q) - q / 2;
                let difference: Vec<i64> = seen.iter().zip(&expected).map(|(a, b)| centred(a - b)).collect();
                // The last bits of an f64 count where coefficients are longer than it.
                let most = if bits > 50 { 1 << (bits - 48) } else { 1 };
                assert!(difference.iter().all(|d| d.abs() <= most), "period {period}, 2^{bits}");
                assert!(bits > 50 || difference.iter().filter(|d| **d != 0).count() <= period / 8);
            }
        }
        let huge = vec![1e300; 4];
        assert!(matches!(encoder.encode_real_pair([&huge, &huge], 0, 1e10), Err(Error::Range { .. })));
        assert!(matches!(encoder.encode_real(&[f64::NAN], 1.0), Err(Error::Range { .. })));
    }

    /// The centred coefficients of one member of a pair modulo the only prime.
    fn member(ring: &Ring, pair: &[CompactCoefficients], which: usize, stored: usize) -> Vec<i64> {
        let basis = Basis { q: 1, p: 0 };
        let zero = || ring.zero::<Ntt>(basis);
        let one = ring.ntt(ring.from_signed(&one(ring.degree()), basis));
        let factors = [0, 1].map(|index| if index == which { one.clone() } else { zero() });
        let (mut sum, mut none) = (zero(), zero());
        let factors: Vec<_> = factors.iter().map(|factor| [factor, factor]).collect();
        ring.add_compact_products([&mut sum, &mut none], &factors, pair, stored);
        let q = ring.q_moduli()[0].value();
        let values = ring.intt(sum);
        let centred = values.limb(0).iter().map(|&x| if x > q / 2 { x as i64 - q as i64 } else { x as i64 });
        centred.step_by(ring.degree() / stored).collect()
    }

    /// The coefficients of 1.
    fn one(degree: usize) -> Vec<i64> {
        (0..degree).map(|k| i64::from(k == 0)).collect()
    }
}
