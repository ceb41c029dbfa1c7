//! Parameters as data: an unchecked literal, a checked immutable set, presets named by their numbers.
//!
//! The chain from the bottom: q0 | product prime, in some sets | slots-to-coefficients primes | application primes | EvalMod primes |
//! coefficients-to-slots primes, then the special primes P. Each application prime is chosen next to the square of the
//! running scale divided by the nominal one, so that the canonical scale of every level stays within 2^-12 of nominal
//! and a product of two canonical values is canonical again after one rescale.

mod failure;
mod literal;
mod security;

pub use failure::failure_log2;
pub use literal::ParametersLiteral;
pub(crate) use security::PRESET_MARGIN;
pub use security::{SecretKind, gate, max_log_qp, security_bits};

use crate::encoder::Encoder;
use crate::{Chain, Error};
use std::ops::Range;
use std::sync::Arc;
use undertone_ring::{Backend, Basis, Ring, detect_backend, ntt_primes_near};

/// A checked parameter set; cloning is cheap.
#[derive(Clone)]
pub struct Parameters(Arc<Inner>);

struct Inner {
    literal: ParametersLiteral,
    ring: Ring,
    /// The ring of the sparse ephemeral secret: q0 and one special prime only.
    sparse_ring: Ring,
    scales: Vec<f64>,
    digits: Vec<Range<usize>>,
    encoder: Encoder,
    digest: [u8; 32],
    log_qp: f64,
    secure: bool,
}

impl Parameters {
    /// The set `undertone` uses: N = 2^16, 16 application levels of 36 bits, 128-bit security.
    pub fn default_preset() -> Self {
        // The literal is constant and checked by the tests of this module.
        Self::new(ParametersLiteral::n16_l16_d36()).expect("the shipped preset passes its own gate")
    }

    /// The set for matrix products between bootstraps: N = 2^16, a product prime, 15 application levels of 36 bits,
    /// 128-bit security.
    pub fn product_preset() -> Self {
        // The literal is constant and checked by the tests of this module.
        Self::new(ParametersLiteral::n16_l15_d36_w20()).expect("the shipped preset passes its own gate")
    }

    /// All shipped presets, [`Parameters::default_preset`] first.
    pub fn presets() -> Vec<Self> {
        vec![Self::default_preset(), Self::product_preset()]
    }

    /// Finds a shipped preset by name.
    ///
    /// # Errors
    /// `Parameters` for an unknown name.
    pub fn preset(name: &str) -> Result<Self, Error> {
        let shipped = [ParametersLiteral::n16_l16_d36(), ParametersLiteral::n16_l15_d36_w20()];
        match shipped.into_iter().find(|literal| literal.name == name) {
            Some(literal) => Self::new(literal),
            None => Err(Error::Parameters { cause: format!("there is no preset named {name:?}") }),
        }
    }

    /// Checks a literal and derives primes, scales and tables from it.
    ///
    /// # Errors
    /// `Insecure` outside the security table, `Parameters` when the primes do not exist or the digits exceed P.
    pub fn new(literal: ParametersLiteral) -> Result<Self, Error> {
        Self::build(literal, true, detect_backend())
    }

    /// As [`Parameters::new`], on a backend of the caller's choice, for measurements; all give the same results.
    ///
    /// # Errors
    /// As [`Parameters::new`].
    pub fn with_backend(literal: ParametersLiteral, backend: Arc<dyn Backend>) -> Result<Self, Error> {
        Self::build(literal, true, backend)
    }

    /// A small set with the levels of the shipped one, for fast tests. It protects nothing.
    #[cfg(feature = "insecure-test-parameters")]
    pub fn insecure_test(log_n: u32) -> Self {
        Self::insecure("INSECURE_TEST", log_n, ParametersLiteral::n16_l16_d36())
    }

    /// A small set with the levels and the product prime of the shipped one that has one, for fast tests of matrix
    /// products between bootstraps. It protects nothing.
    #[cfg(feature = "insecure-test-parameters")]
    pub fn insecure_turn_test(log_n: u32) -> Self {
        Self::insecure("INSECURE_TURN_TEST", log_n, ParametersLiteral::n16_l15_d36_w20())
    }

    /// A small set with q0 and a product prime only, for fast tests of matrix products. It protects nothing.
    #[cfg(feature = "insecure-test-parameters")]
    pub fn insecure_product_test(log_n: u32) -> Self {
        Self::insecure("INSECURE_PRODUCT_TEST", log_n, ParametersLiteral::n16_product())
    }

    #[cfg(feature = "insecure-test-parameters")]
    fn insecure(name: &'static str, log_n: u32, literal: ParametersLiteral) -> Self {
        let secret_weight = literal.secret_weight.min(1 << (log_n - 1));
        let literal = ParametersLiteral { name, log_n, secret_weight, ..literal };
        Self::build(literal, false, detect_backend()).expect("the test literal differs from another in the degree only")
    }

    /// A set for tests of formats, which need no security.
    #[cfg(test)]
    pub(crate) fn build_unchecked(literal: ParametersLiteral) -> Self {
        Self::build(literal, false, detect_backend()).expect("the test's literal has primes")
    }

    fn build(literal: ParametersLiteral, secure: bool, backend: Arc<dyn Backend>) -> Result<Self, Error> {
        let (q, scales) = literal.primes_and_scales()?;
        let p = ntt_primes_near(literal.log_n, literal.special_target(), literal.special_count, &q)
            .map_err(|e| Error::Parameters { cause: e.to_string() })?;
        let log_qp: f64 = q.iter().chain(&p).map(|&x| (x as f64).log2()).sum();
        if secure {
            gate(literal.log_n, log_qp / PRESET_MARGIN, SecretKind::Sparse { weight: literal.secret_weight })?;
            let sparse = (q[0] as f64).log2() + (p[0] as f64).log2();
            gate(literal.log_n, sparse, SecretKind::Sparse { weight: literal.sparse_weight })?;
            require_rare_failure(&literal)?;
        }
        let digits = literal.digits(&q, &p)?;
        let ring_error = |e: undertone_ring::Error| Error::Parameters { cause: e.to_string() };
        let encoder = Encoder::new(literal.log_n, backend.clone());
        let ring = Ring::new(literal.log_n, &q, &p, backend.clone()).map_err(ring_error)?;
        let sparse_ring = Ring::new(literal.log_n, &q[..1], &p[..1], backend).map_err(ring_error)?;
        let digest = literal.digest(&q, &p, &digits);
        Ok(Self(Arc::new(Inner { literal, ring, sparse_ring, scales, digits, encoder, digest, log_qp, secure })))
    }

    /// The preset's name.
    pub fn name(&self) -> &str {
        self.0.literal.name
    }

    /// The numbers the set was made from.
    pub fn literal(&self) -> &ParametersLiteral {
        &self.0.literal
    }

    /// The level structure that circuits see.
    pub fn chain(&self) -> Chain {
        self.0.literal.chain()
    }

    /// The ring of ciphertexts and keys.
    pub fn ring(&self) -> &Ring {
        &self.0.ring
    }

    /// The two-limb ring in which the sparse ephemeral secret lives.
    pub fn sparse_ring(&self) -> &Ring {
        &self.0.sparse_ring
    }

    /// The slot encoder.
    pub fn encoder(&self) -> &Encoder {
        &self.0.encoder
    }

    /// The canonical scale of `level`; above the arcsine levels that of EvalMod.
    pub fn scale(&self, level: usize) -> f64 {
        self.0.scales[level]
    }

    /// The q-limb ranges of the gadget digits of a value at `level`.
    pub fn digits(&self, level: usize) -> Vec<Range<usize>> {
        let digits = self.0.digits.iter().filter(|d| d.start <= level);
        digits.map(|d| d.start..d.end.min(level + 1)).collect()
    }

    /// Number of special primes.
    pub fn special_count(&self) -> usize {
        self.0.literal.special_count
    }

    /// The basis of a ciphertext at `level`.
    pub fn basis(&self, level: usize) -> Basis {
        Basis { q: level + 1, p: 0 }
    }

    /// The basis of a key-switching key at `level`.
    pub fn key_basis(&self, level: usize) -> Basis {
        Basis { q: level + 1, p: self.special_count() }
    }

    /// Identifies the set on the wire and in files: a hash of degree, primes, digits and secret laws.
    pub fn digest(&self) -> [u8; 32] {
        self.0.digest
    }

    /// The law of the main secret.
    pub fn secret_kind(&self) -> SecretKind {
        SecretKind::Sparse { weight: self.0.literal.secret_weight }
    }

    /// log2(QP) of the largest key.
    pub fn log_qp(&self) -> f64 {
        self.0.log_qp
    }

    /// Security by the table of `docs/parameters.md`; 0 for test sets.
    pub fn security_bits(&self) -> u32 {
        let literal = &self.0.literal;
        if !self.0.secure {
            return 0;
        }
        let main = security_bits(literal.log_n, self.0.log_qp, self.secret_kind());
        let modulus = self.0.sparse_ring.q_moduli()[0].value() as f64;
        let special = self.0.sparse_ring.p_moduli()[0].value() as f64;
        let kind = SecretKind::Sparse { weight: literal.sparse_weight };
        main.min(security_bits(literal.log_n, modulus.log2() + special.log2(), kind))
    }

    /// Passes one key's own modulus through the security gate.
    ///
    /// # Errors
    /// `Insecure` outside the table. Test sets pass; they exist only with the feature named for them.
    pub fn gate_key(&self, log_qp: f64, secret: SecretKind) -> Result<(), Error> {
        self.gate_at(self.0.literal.log_n, log_qp, secret)
    }

    /// As [`Parameters::gate_key`] for a key that lives in a ring of another degree.
    ///
    /// # Errors
    /// As [`Parameters::gate_key`].
    pub fn gate_at(&self, log_n: u32, log_qp: f64, secret: SecretKind) -> Result<(), Error> {
        if self.0.secure { gate(log_n, log_qp, secret) } else { Ok(()) }
    }

    /// log2 of the failure probability of one bootstrap.
    pub fn failure_log2(&self) -> f64 {
        failure_log2(1 << self.0.literal.log_n, self.0.literal.sparse_weight, self.0.literal.eval_mod_range)
    }
}

/// Bootstraps of a usable set fail with probability at most 2^-128.
fn require_rare_failure(literal: &ParametersLiteral) -> Result<(), Error> {
    let failure = failure_log2(1 << literal.log_n, literal.sparse_weight, literal.eval_mod_range);
    if failure > -128.0 {
        return Err(Error::Parameters { cause: format!("a bootstrap fails with probability 2^{failure:.1}") });
    }
    Ok(())
}

impl std::fmt::Debug for Parameters {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Parameters({}, N = 2^{}, log QP = {:.1})", self.name(), self.0.literal.log_n, self.0.log_qp)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_preset_is_secure_and_prints_its_numbers() {
        let parameters = Parameters::default_preset();
        assert!(parameters.security_bits() >= 128);
        assert!(parameters.log_qp() <= 1697.0);
        assert!(parameters.failure_log2() <= -128.0);
        assert_eq!(parameters.chain().top_level - parameters.chain().boot_level, 16);
    }

    #[test]
    fn the_preset_with_a_product_prime_is_secure_and_has_fifteen_levels() {
        let parameters = Parameters::product_preset();
        assert!(parameters.security_bits() >= 128 && parameters.failure_log2() <= -128.0);
        assert!(parameters.log_qp() <= 1696.0, "{}", parameters.log_qp());
        let chain = parameters.chain();
        assert_eq!((chain.boot_level, chain.top_level - chain.boot_level), (4, 15));
        assert_eq!(chain.product_prime, Some(parameters.ring().q_moduli()[1].value()));
        assert_eq!(parameters.digits(chain.max_level).len(), 4);
        // The rescale after a product removes the scale of the weights and nothing else.
        assert_eq!(parameters.scale(0), parameters.scale(1));
        assert_eq!(Parameters::preset(parameters.name()).unwrap().digest(), parameters.digest());
        assert!(Parameters::preset("n16").is_err());
    }

    /// Keys and ciphertexts made under the shipped set stay readable.
    #[test]
    fn the_digest_of_the_shipped_set_does_not_change() {
        let digest: String = Parameters::default_preset().digest().iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(digest, "1f0592d90b1159557e8c8723a2562ab3440ff0e406b8543290b73975fd5385b2");
    }

    #[test]
    fn canonical_scales_stay_near_nominal() {
        for parameters in [Parameters::default_preset(), Parameters::product_preset()] {
            for level in 0..=parameters.chain().top_level {
                let drift = (parameters.scale(level).log2() - f64::from(parameters.literal().scale_bits)).abs();
                assert!(drift < 2f64.powi(-9), "level {level} drifts by {drift} bits");
            }
        }
    }

    #[test]
    fn digits_leave_room_under_the_special_modulus() {
        for parameters in [Parameters::default_preset(), Parameters::product_preset()] {
            let p: f64 = parameters.ring().p_moduli().iter().map(|m| (m.value() as f64).log2()).sum();
            for digit in parameters.digits(parameters.chain().max_level) {
                let bits: f64 = parameters.ring().q_moduli()[digit].iter().map(|m| (m.value() as f64).log2()).sum();
                assert!(bits + 6.0 <= p, "digit of {bits} bits under P of {p}");
            }
        }
    }

    #[test]
    fn a_larger_chain_is_refused() {
        let literal = ParametersLiteral { application_levels: 20, ..ParametersLiteral::n16_l16_d36() };
        assert!(matches!(Parameters::new(literal), Err(Error::Insecure { .. })));
        let literal = ParametersLiteral { application_levels: 16, ..ParametersLiteral::n16_l15_d36_w20() };
        assert!(matches!(Parameters::new(literal), Err(Error::Insecure { .. })));
        for prime in [786_435, 786_431, 7] {
            let literal = ParametersLiteral { product_prime: Some(prime), ..ParametersLiteral::n16_l15_d36_w20() };
            assert!(matches!(Parameters::new(literal), Err(Error::Parameters { .. })), "{prime}");
        }
        let literal = ParametersLiteral { eval_mod_range: 12, ..ParametersLiteral::n16_l16_d36() };
        assert!(matches!(Parameters::new(literal), Err(Error::Parameters { .. })));
    }
}
