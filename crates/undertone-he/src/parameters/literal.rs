//! The unchecked numbers behind a parameter set.

use crate::{Chain, Error};
use std::ops::Range;
use undertone_ring::ntt_primes_near;

/// Everything a parameter set is derived from.
#[derive(Debug, Clone, PartialEq)]
pub struct ParametersLiteral {
    /// Name of the preset, by its numbers.
    pub name: &'static str,
    /// log2 of the ring degree N.
    pub log_n: u32,
    /// Bits of q0, the modulus that ModRaise starts from.
    pub base_bits: u32,
    /// The prime of limb 1 where integer weights multiply coefficients between slots-to-coefficients and ModRaise: their
    /// scale, 1 modulo 2N; none where nothing does.
    pub product_prime: Option<u64>,
    /// Bits of the slots-to-coefficients and application primes, and of the canonical scale.
    pub scale_bits: u32,
    /// Levels of slots-to-coefficients.
    pub slots_to_coeffs_levels: usize,
    /// Levels left to applications after a bootstrap.
    pub application_levels: usize,
    /// Levels of the arcsine correction that ends EvalMod, at the application scale: 2, or 0 without it.
    pub arcsine_levels: usize,
    /// Bits of the EvalMod and coefficients-to-slots primes.
    pub eval_mod_bits: u32,
    /// Levels of EvalMod.
    pub eval_mod_levels: usize,
    /// Levels of coefficients-to-slots.
    pub coeffs_to_slots_levels: usize,
    /// Bits of each special prime.
    pub special_bits: u32,
    /// Number of special primes.
    pub special_count: usize,
    /// Largest size of one gadget digit in bits.
    pub digit_bits: u32,
    /// Hamming weight of the main secret.
    pub secret_weight: usize,
    /// Hamming weight of the ephemeral secret under which ModRaise happens.
    pub sparse_weight: usize,
    /// K: EvalMod covers overflows of magnitude below this.
    pub eval_mod_range: usize,
    /// Double-angle steps of EvalMod.
    pub double_angles: usize,
    /// log2 of R = q0 / |message| at ModRaise.
    pub message_ratio_bits: f64,
}

impl ParametersLiteral {
    /// N = 2^16, 16 application levels at scale 2^36, dnum 4, log2(QP) about 1695.
    pub fn n16_l16_d36() -> Self {
        Self {
            name: "n16-l16-d36-k4",
            log_n: 16,
            base_bits: 50,
            product_prime: None,
            scale_bits: 36,
            slots_to_coeffs_levels: 3,
            application_levels: 16,
            arcsine_levels: 2,
            eval_mod_bits: 49,
            eval_mod_levels: 8,
            coeffs_to_slots_levels: 3,
            special_bits: 50,
            special_count: 7,
            digit_bits: 344,
            secret_weight: 1024,
            sparse_weight: 32,
            eval_mod_range: 16,
            double_angles: 3,
            message_ratio_bits: 7.0,
        }
    }

    /// N = 2^16, a product prime of 20 bits, 15 application levels at scale 2^36, dnum 4, log2(QP) about 1678.
    pub fn n16_l15_d36_w20() -> Self {
        Self {
            name: "n16-l15-d36-w20-k4",
            // 6·2^17 + 1, the least prime that is 1 modulo 2N: the larger it is, the larger is the gain of a matrix.
            product_prime: Some(786_433),
            application_levels: 15,
            ..Self::n16_l16_d36()
        }
    }

    /// N = 2^16 with q0 and a product prime of about 2^20 as its only level: a plaintext matrix product by itself, as it
    /// stands between slots-to-coefficients and ModRaise, for tests and measurements. Nothing bootstraps here.
    pub fn n16_product() -> Self {
        Self {
            name: "n16-product",
            scale_bits: 20,
            slots_to_coeffs_levels: 1,
            application_levels: 0,
            arcsine_levels: 0,
            eval_mod_levels: 0,
            coeffs_to_slots_levels: 0,
            special_count: 2,
            digit_bits: 72,
            ..Self::n16_l16_d36()
        }
    }

    pub(crate) fn chain(&self) -> Chain {
        let boot_level = self.product_levels() + self.slots_to_coeffs_levels;
        let top_level = boot_level + self.application_levels;
        let max_level = self.eval_mod_input() + self.coeffs_to_slots_levels;
        Chain { log_n: self.log_n, top_level, boot_level, max_level, product_prime: self.product_prime }
    }

    /// The level at which slots-to-coefficients ends.
    pub(crate) fn product_levels(&self) -> usize {
        usize::from(self.product_prime.is_some())
    }

    /// The level at which the sine comes out of EvalMod, before the arcsine correction.
    pub(crate) fn sine_level(&self) -> usize {
        self.product_levels() + self.slots_to_coeffs_levels + self.application_levels + self.arcsine_levels
    }

    /// The level at which EvalMod starts.
    pub(crate) fn eval_mod_input(&self) -> usize {
        self.sine_level() + self.eval_mod_levels
    }

    /// Special primes sit below the 2^50 ceiling, as close to it as the alternating search allows.
    pub(crate) fn special_target(&self) -> u64 {
        below_power_of_two(self.special_bits, self.log_n)
    }

    /// Primes from the bottom of the chain and the canonical scale of every level.
    pub(crate) fn primes_and_scales(&self) -> Result<(Vec<u64>, Vec<f64>), Error> {
        let chain = self.chain();
        let mut q = vec![0u64; chain.max_level + 1];
        let mut scales = vec![0f64; chain.max_level + 1];
        let mut taken = Vec::new();
        let mut pick = |target: u64| -> Result<u64, Error> {
            let found = ntt_primes_near(self.log_n, target, 1, &taken)
                .map_err(|e| Error::Parameters { cause: e.to_string() })?[0];
            taken.push(found);
            Ok(found)
        };
        q[0] = pick(below_power_of_two(self.base_bits, self.log_n))?;
        if let Some(prime) = self.product_prime {
            // The search looks above its target first.
            q[1] = pick(prime.saturating_sub(2 << self.log_n))?;
            if q[1] != prime {
                let cause = format!("the product prime {prime} is no prime that is 1 modulo 2^{}", self.log_n + 1);
                return Err(Error::Parameters { cause });
            }
        }
        // Upper part first: its last scale is the sine's own, which the application scale then replaces.
        for (bits, levels) in [
            (self.eval_mod_bits, self.sine_level() + 1..chain.max_level + 1),
            (self.scale_bits, self.product_levels() + 1..self.sine_level() + 1),
        ] {
            let nominal = 2f64.powi(bits as i32);
            let mut scale = nominal;
            for level in levels.rev() {
                scales[level] = scale;
                q[level] = pick((scale * scale / nominal) as u64)?;
                scale = scale * scale / q[level] as f64;
                scales[level - 1] = scale;
            }
        }
        if self.product_prime.is_some() {
            // Weights are integers over the product prime, so a product's rescale leaves the scale.
            scales[0] = scales[1];
        }
        Ok((q, scales))
    }

    /// Cuts the q limbs into consecutive digits of at most `digit_bits` bits.
    pub(crate) fn digits(&self, q: &[u64], p: &[u64]) -> Result<Vec<Range<usize>>, Error> {
        let log2 = |x: &u64| (*x as f64).log2();
        let special: f64 = p.iter().map(log2).sum();
        if f64::from(self.digit_bits) > special {
            let cause = format!("gadget digits of {} bits exceed P of {special:.0} bits", self.digit_bits);
            return Err(Error::Parameters { cause });
        }
        let mut digits = Vec::new();
        let (mut start, mut bits) = (0, 0.0);
        for (index, prime) in q.iter().enumerate() {
            if bits + log2(prime) > f64::from(self.digit_bits) {
                digits.push(start..index);
                (start, bits) = (index, 0.0);
            }
            bits += log2(prime);
        }
        digits.push(start..q.len());
        Ok(digits)
    }

    pub(crate) fn digest(&self, q: &[u64], p: &[u64], digits: &[Range<usize>]) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new_derive_key("undertone parameters v1");
        let mut number = |value: u64| {
            hasher.update(&value.to_le_bytes());
        };
        number(u64::from(self.log_n));
        for list in [q, p] {
            number(list.len() as u64);
            list.iter().for_each(|&prime| number(prime));
        }
        number(digits.len() as u64);
        digits.iter().for_each(|digit| number(digit.end as u64));
        for value in [
            self.scale_bits as usize,
            self.slots_to_coeffs_levels,
            self.application_levels,
            self.arcsine_levels,
            self.eval_mod_levels,
            self.coeffs_to_slots_levels,
            self.secret_weight,
            self.sparse_weight,
            self.eval_mod_range,
            self.double_angles,
        ] {
            number(value as u64);
        }
        number(self.message_ratio_bits.to_bits());
        self.product_prime.into_iter().for_each(number);
        *hasher.finalize().as_bytes()
    }
}

/// A search centre low enough under 2^bits that the alternating search stays below it.
fn below_power_of_two(bits: u32, log_n: u32) -> u64 {
    (1 << bits) - (1 << (log_n + 1)) * 400
}
