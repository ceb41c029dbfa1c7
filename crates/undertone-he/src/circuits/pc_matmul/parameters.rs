//! Rings and primes of a matrix product, derived from a parameter set whose limb 1 is the product prime.
//!
//! The small ring has the primes q0, the product prime q_w and two special primes of the set. All of them count at its
//! degree N', because the secret of every key but the last lives there: 170 bits of the 211 allowed at N' = 2^13.

use super::keys::ProductKeyId;
use crate::parameters::{PRESET_MARGIN, security_bits};
use crate::{Error, Parameters, SecretKind};
use std::ops::Range;
use std::sync::Arc;
use undertone_ring::{Basis, Ring};

/// log2 of N/N' in products between bootstraps: the least small ring that is secure at N = 2^16.
pub const PARTS_LOG2: u32 = 3;
/// Special primes that key switching uses here.
const SPECIAL_COUNT: usize = 2;
/// P exceeds the digit q0·q_w by this factor at least.
const SPECIAL_MARGIN_LOG2: f64 = 6.0;
/// Bits of the product prime: above the weights, and with single-word products.
const PRODUCT_BITS: Range<u32> = 16..26;

/// The rings of a plaintext × ciphertext product; cloning is cheap.
#[derive(Clone)]
pub struct ProductParameters(Arc<Inner>);

struct Inner {
    parameters: Parameters,
    switch_ring: Ring,
    small_ring: Ring,
    tokens: usize,
    digest: [u8; 32],
}

impl ProductParameters {
    /// Products over a small ring of degree 2^`log_small`, of channels of `tokens` values each.
    ///
    /// # Errors
    /// `Parameters` when limb 1 is no product prime, P is too small or the degrees do not fit; `Insecure` when the
    /// primes are too many bits for the small ring.
    pub fn new(parameters: &Parameters, log_small: u32, tokens: usize) -> Result<Self, Error> {
        let unusable = |cause: String| Err(Error::Parameters { cause });
        let ring = parameters.ring();
        let (q, p) = (ring.q_moduli(), ring.p_moduli());
        if q.len() < 2 || p.len() < SPECIAL_COUNT {
            return unusable(format!("a product needs 2 + {SPECIAL_COUNT} primes, not {} + {}", q.len(), p.len()));
        }
        let (q, p) = ([0, 1].map(|i| q[i].value()), [0, 1].map(|i| p[i].value()));
        let bits = u64::BITS - q[1].leading_zeros();
        if !PRODUCT_BITS.contains(&bits) {
            return unusable(format!("limb 1 has {bits} bits and is no product prime of {PRODUCT_BITS:?} bits"));
        }
        let [log_q, log_p] = [q, p].map(|primes| primes.iter().map(|&x| (x as f64).log2()).sum::<f64>());
        if log_q + SPECIAL_MARGIN_LOG2 > log_p {
            return unusable(format!("P of {log_p:.0} bits is too small for digits of {log_q:.0}"));
        }
        if !(4..ring.log_n()).contains(&log_small) {
            return unusable(format!("a small ring of degree 2^{log_small} does not fit one of 2^{}", ring.log_n()));
        }
        if !tokens.is_power_of_two() || !(2..=1 << (log_small - 2)).contains(&tokens) {
            return unusable(format!("{tokens} tokens do not divide a small ring of degree 2^{log_small}"));
        }
        parameters.gate_at(log_small, (log_q + log_p) / PRESET_MARGIN, SecretKind::Ternary)?;
        let sibling = |log_n| ring.sibling(log_n, &q, &p).map_err(|e| Error::Parameters { cause: e.to_string() });
        let (switch_ring, small_ring) = (sibling(ring.log_n())?, sibling(log_small)?);
        let mut hasher = blake3::Hasher::new_derive_key("undertone product parameters v1");
        hasher.update(&parameters.digest());
        hasher.update(&log_small.to_le_bytes());
        hasher.update(&(tokens as u64).to_le_bytes());
        let digest = *hasher.finalize().as_bytes();
        Ok(Self(Arc::new(Inner { parameters: parameters.clone(), switch_ring, small_ring, tokens, digest })))
    }

    /// Products between bootstraps: over the small ring of degree N / 2^[`PARTS_LOG2`].
    ///
    /// # Errors
    /// As [`ProductParameters::new`].
    pub fn of_turn(parameters: &Parameters, tokens: usize) -> Result<Self, Error> {
        Self::new(parameters, parameters.ring().log_n().saturating_sub(PARTS_LOG2), tokens)
    }

    /// The parameter set that the product belongs to.
    pub fn parameters(&self) -> &Parameters {
        &self.0.parameters
    }

    /// The ring of full degree with the primes of the product.
    pub fn switch_ring(&self) -> &Ring {
        &self.0.switch_ring
    }

    /// The small ring.
    pub fn small_ring(&self) -> &Ring {
        &self.0.small_ring
    }

    /// T, the values of one channel.
    pub fn tokens(&self) -> usize {
        self.0.tokens
    }

    /// N/N': polynomials of the small ring that one of the large ring splits into.
    pub fn parts(&self) -> usize {
        self.0.switch_ring.degree() / self.0.small_ring.degree()
    }

    /// N'/T: components of an element of the small ring.
    pub fn rank(&self) -> usize {
        self.0.small_ring.degree() / self.0.tokens
    }

    /// N/T: channels that one ciphertext holds.
    pub fn components(&self) -> usize {
        self.parts() * self.rank()
    }

    /// The product prime, which is the scale of the weights.
    pub fn product_prime(&self) -> u64 {
        self.0.small_ring.q_moduli()[1].value()
    }

    /// Identifies the value on the wire and in files.
    pub fn digest(&self) -> [u8; 32] {
        self.0.digest
    }

    /// log2(QP) of the small ring.
    pub fn log_qp(&self) -> f64 {
        let ring = &self.0.small_ring;
        ring.q_moduli().iter().chain(ring.p_moduli()).map(|m| (m.value() as f64).log2()).sum()
    }

    /// Security of the small ring by the table of `docs/parameters.md`; 0 for test sets.
    pub fn security_bits(&self) -> u32 {
        match self.0.parameters.security_bits() {
            0 => 0,
            _ => security_bits(self.0.small_ring.log_n(), self.log_qp(), SecretKind::Ternary),
        }
    }

    /// The ring that a key lives in.
    pub fn key_ring(&self, id: ProductKeyId) -> &Ring {
        match id {
            ProductKeyId::Down | ProductKeyId::Up => &self.0.switch_ring,
            ProductKeyId::Pack => &self.0.small_ring,
        }
    }

    /// The basis of a key; its q limbs are one gadget digit.
    pub fn key_basis(&self, id: ProductKeyId) -> Basis {
        Basis { q: id.level() + 1, p: SPECIAL_COUNT }
    }

    /// Gadget ciphertexts of a key.
    pub fn key_digits(&self, id: ProductKeyId) -> usize {
        if id == ProductKeyId::Pack { self.rank() } else { 1 }
    }

    /// Passes a key through the security gate, at the degree and the law of the secret that hides it.
    ///
    /// # Errors
    /// `Insecure` outside the table.
    pub fn gate_key(&self, id: ProductKeyId) -> Result<(), Error> {
        let (ring, basis) = (self.key_ring(id), self.key_basis(id));
        let log_qp = (0..basis.limb_count()).map(|limb| (ring.modulus(basis, limb).value() as f64).log2()).sum();
        let (log_n, secret) = match id {
            ProductKeyId::Up => (ring.log_n(), self.0.parameters.secret_kind()),
            // A pair under s'(X^(N/N')) is N/N' pairs under s'.
            ProductKeyId::Down | ProductKeyId::Pack => (self.0.small_ring.log_n(), SecretKind::Ternary),
        };
        self.0.parameters.gate_at(log_n, log_qp, secret)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ParametersLiteral;

    #[test]
    fn the_small_ring_is_secure_and_says_so() {
        let parameters = Parameters::new(ParametersLiteral::n16_product()).unwrap();
        let product = ProductParameters::new(&parameters, 13, 128).unwrap();
        assert!(product.log_qp() <= 211.0 && product.security_bits() >= 128, "{} bits", product.log_qp());
        assert_eq!((product.parts(), product.rank(), product.components()), (8, 64, 512));
        for id in [ProductKeyId::Down, ProductKeyId::Pack, ProductKeyId::Up] {
            product.gate_key(id).unwrap();
        }
        // There is no room for these primes one degree lower.
        assert!(matches!(ProductParameters::new(&parameters, 12, 128), Err(Error::Insecure { log_n: 12, .. })));
    }

    #[test]
    fn sets_without_a_product_prime_and_degrees_that_do_not_fit_are_refused() {
        let shipped = Parameters::default_preset();
        assert!(matches!(ProductParameters::new(&shipped, 13, 128), Err(Error::Parameters { .. })));
        let parameters = Parameters::new(ParametersLiteral::n16_product()).unwrap();
        for (log_small, tokens) in [(16, 128), (3, 2), (13, 3), (13, 1), (13, 4096)] {
            let refused = ProductParameters::new(&parameters, log_small, tokens);
            assert!(matches!(refused, Err(Error::Parameters { .. })), "2^{log_small}, {tokens} tokens");
        }
        let weak = ParametersLiteral { special_bits: 38, ..ParametersLiteral::n16_product() };
        assert!(ProductParameters::new(&Parameters::new(weak).unwrap(), 13, 128).is_err());
    }
}
