//! The secret key and polynomials derived from it, erased when dropped.

use crate::Error;
use undertone_he::Parameters;
use undertone_ring::{Basis, Form, Ntt, Poly, SecretRng};
use zeroize::{Zeroize, Zeroizing};

/// A polynomial that must not outlive its use.
pub(crate) struct SecretPoly<F: Form = Ntt>(pub(crate) Poly<F>);

impl<F: Form> Drop for SecretPoly<F> {
    fn drop(&mut self) {
        self.0.data_mut().zeroize();
    }
}

/// The main ternary secret of fixed weight and the much sparser ephemeral secret of bootstrapping.
///
/// Neither printable, nor clonable, nor serializable except through [`SecretKey::to_payload`].
pub struct SecretKey {
    /// Coefficients of the main secret: what a key file holds.
    coefficients: Zeroizing<Vec<i64>>,
    pub(crate) main: SecretPoly,
    /// Both secrets in the two-limb ring.
    pub(crate) small_main: SecretPoly,
    pub(crate) small_ephemeral: SecretPoly,
    pub(crate) ephemeral: SecretPoly,
}

impl SecretKey {
    /// Draws a key.
    pub fn generate(parameters: &Parameters, rng: &mut SecretRng) -> Self {
        let n = parameters.ring().degree();
        let main = Zeroizing::new(rng.sparse_ternary(n, parameters.literal().secret_weight));
        let ephemeral = Zeroizing::new(rng.sparse_ternary(n, parameters.literal().sparse_weight));
        Self::from_coefficients(parameters, main, ephemeral)
    }

    fn from_coefficients(
        parameters: &Parameters,
        coefficients: Zeroizing<Vec<i64>>,
        ephemeral_coefficients: Zeroizing<Vec<i64>>,
    ) -> Self {
        let (ring, small) = (parameters.ring(), parameters.sparse_ring());
        let full = parameters.key_basis(parameters.chain().max_level);
        let two = Basis { q: 1, p: 1 };
        Self {
            main: SecretPoly(ring.ntt(ring.from_signed(&coefficients, full))),
            ephemeral: SecretPoly(ring.ntt(ring.from_signed(&ephemeral_coefficients, full))),
            small_main: SecretPoly(small.ntt(small.from_signed(&coefficients, two))),
            small_ephemeral: SecretPoly(small.ntt(small.from_signed(&ephemeral_coefficients, two))),
            coefficients,
        }
    }

    /// Coefficients of the main secret.
    pub(crate) fn coefficients(&self) -> &[i64] {
        &self.coefficients
    }

    /// The bytes to seal in a key file: one signed byte per coefficient. The ephemeral secret is never stored.
    pub fn to_payload(&self) -> Zeroizing<Vec<u8>> {
        Zeroizing::new(self.coefficients.iter().map(|&c| c as i8 as u8).collect())
    }

    /// Reads what [`SecretKey::to_payload`] wrote and draws a fresh ephemeral secret.
    ///
    /// # Errors
    /// `Key` when the bytes are not a key of these parameters; nothing more is said. `Ring` without randomness.
    pub fn from_payload(parameters: &Parameters, payload: &[u8]) -> Result<Self, Error> {
        let n = parameters.ring().degree();
        let ternary = payload.iter().all(|&b| b == 0 || b == 1 || b == 0xff);
        let weight: usize = payload.iter().map(|&b| usize::from(b & 1)).sum();
        if payload.len() != n || !ternary || weight != parameters.literal().secret_weight {
            return Err(Error::Key);
        }
        let main = Zeroizing::new(payload.iter().map(|&b| i64::from(b as i8)).collect::<Vec<_>>());
        let ephemeral = SecretRng::from_os()?.sparse_ternary(n, parameters.literal().sparse_weight);
        Ok(Self::from_coefficients(parameters, main, Zeroizing::new(ephemeral)))
    }
}

/// The leading limbs of a secret in a smaller basis of the same ring.
pub(crate) fn restrict(poly: &SecretPoly, ring: &undertone_ring::Ring, basis: Basis) -> SecretPoly {
    SecretPoly(ring.restrict(&poly.0, basis))
}
