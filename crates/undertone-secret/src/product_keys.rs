//! Keys of matrix products. The uniform ternary secret of the small ring exists in this generator only: it is drawn
//! anew for each set of keys, never stored, and erased with the generator.

use crate::key_generator::encrypt_digits;
use crate::secret_key::SecretPoly;
use crate::{Error, SecretKey};
use undertone_he::circuits::pc_matmul::{ProductKeyId, ProductParameters, SeededProductKey};
use undertone_ring::{Basis, Ring, SecretRng};
use zeroize::Zeroizing;

/// Makes one set of product keys.
pub struct ProductKeyGenerator<'a> {
    parameters: ProductParameters,
    secret: &'a SecretKey,
    /// Coefficients of s', the secret of the small ring.
    small: Zeroizing<Vec<i64>>,
    /// Public name of the set, independent of the secret.
    set: [u8; 16],
}

impl<'a> ProductKeyGenerator<'a> {
    /// A generator for `secret` with a fresh secret of the small ring; keys of two generators do not fit each
    /// other, and carry different set ids so that whoever receives them can tell.
    pub fn new(parameters: &ProductParameters, secret: &'a SecretKey, rng: &mut SecretRng) -> Self {
        let small = Zeroizing::new(rng.ternary(parameters.small_ring().degree()));
        let mut set = [0; 16];
        set.copy_from_slice(&rng.public_seed().0[..16]);
        Self { parameters: parameters.clone(), secret, small, set }
    }

    /// Generates one key.
    ///
    /// # Errors
    /// `Scheme(Insecure)` when the key's modulus is too large for the secret that hides it.
    pub fn generate(&self, id: ProductKeyId, rng: &mut SecretRng) -> Result<SeededProductKey, Error> {
        self.parameters.gate_key(id)?;
        let (ring, basis) = (self.parameters.key_ring(id), self.parameters.key_basis(id));
        let main = || secret_ntt(ring, self.secret.coefficients(), basis);
        let spread = || spaced(ring, basis, &self.small, self.parameters.parts());
        // The message of every digit is in all of the key's q limbs: they are one gadget digit.
        let limbs = 0..basis.q;
        let seed = rng.public_seed();
        let b = match id {
            ProductKeyId::Down => encrypt_digits(ring, basis, &seed, &spread(), 1, |_| (limbs.clone(), main()), rng),
            ProductKeyId::Up => encrypt_digits(ring, basis, &seed, &main(), 1, |_| (limbs.clone(), spread()), rng),
            ProductKeyId::Pack => {
                let rank = self.parameters.rank();
                let component = |t: usize| {
                    let class = self.small.iter().skip(rank - 1 - t).step_by(rank).copied();
                    let class = Zeroizing::new(class.collect::<Vec<i64>>());
                    (limbs.clone(), spaced(ring, basis, &class, rank))
                };
                encrypt_digits(ring, basis, &seed, &secret_ntt(ring, &self.small, basis), rank, component, rng)
            }
        };
        Ok(SeededProductKey::from_parts(id, self.set, b, seed))
    }

    /// The rings of the keys.
    pub fn parameters(&self) -> &ProductParameters {
        &self.parameters
    }

    /// All keys.
    ///
    /// # Errors
    /// As [`ProductKeyGenerator::generate`].
    pub fn generate_all(&self, rng: &mut SecretRng) -> Result<Vec<SeededProductKey>, Error> {
        ProductKeyId::ALL.into_iter().map(|id| self.generate(id, rng)).collect()
    }
}

/// A secret with these coefficients.
fn secret_ntt(ring: &Ring, coefficients: &[i64], basis: Basis) -> SecretPoly {
    // The transform works in place, in the buffer that `SecretPoly` erases.
    SecretPoly(ring.ntt(ring.from_signed(coefficients, basis)))
}

/// sum_k c_k X^(gap * k).
fn spaced(ring: &Ring, basis: Basis, coefficients: &[i64], gap: usize) -> SecretPoly {
    let mut wide = Zeroizing::new(vec![0; ring.degree()]);
    wide.iter_mut().step_by(gap).zip(coefficients).for_each(|(x, &c)| *x = c);
    secret_ntt(ring, &wide, basis)
}

#[cfg(test)]
mod tests;
